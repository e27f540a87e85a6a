/* money.c - see money.h. */
#include "services/corral/money.h"

#include <stdio.h>
#include <string.h>

#include "common/base/str.h"

bool money_parse(const char *dollars, int64_t *ret)
{
	struct str rest = str_of(dollars), whole;
	uint64_t units, parts = 0;

	if (!str_split(&rest, '.', &whole) || !str_u64(whole, &units) || units > 1000000000)
		return false;
	if (strchr(dollars, '.')) {
		if (rest.n == 0 || rest.n > 6 || !str_u64(rest, &parts))
			return false;
		for (size_t digits = rest.n; digits < 6; digits++)
			parts *= 10;
	}
	*ret = (int64_t)(units * 1000000 + parts);
	return true;
}

const char *money(struct arena *mem, int64_t microusd)
{
	uint64_t v = microusd < 0 ? 0 - (uint64_t)microusd : (uint64_t)microusd;
	char text[40];
	size_t n = (size_t)snprintf(text, sizeof(text), "%s%llu.%06llu", microusd < 0 ? "-" : "", (unsigned long long)(v / 1000000),
				    (unsigned long long)(v % 1000000));

	for (unsigned spare = 4; spare && text[n - 1] == '0'; spare--)
		n--;
	return arena_dup(mem, text, n);
}
