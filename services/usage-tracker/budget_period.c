/* budget_period.c - see budget_period.h. */
#include "services/usage-tracker/budget_period.h"

#define MINUTE_US 60000000LL
#define SECOND_US 1000000LL
#define MOST_US (366 * 1440 * MINUTE_US)

enum { SLICES = 120 };

static int64_t unit_us(char c)
{
	return c == 'd' ? 1440 * MINUTE_US : c == 'h' ? 60 * MINUTE_US : c == 'm' ? MINUTE_US : 0;
}

static bool parse_rolling(struct str s, struct budget_period *ret)
{
	uint64_t n;
	int64_t unit = s.n ? unit_us(s.p[s.n - 1]) : 0;

	if (!unit || !str_u64(str_n(s.p, s.n - 1), &n) || !n || n > (uint64_t)(MOST_US / unit))
		return false;
	ret->every = EVERY_ROLLING;
	ret->window_us = (int64_t)n * unit;
	ret->slice_us = ret->window_us / SLICES < SECOND_US ? SECOND_US : ret->window_us / SLICES;
	return true;
}

bool budget_period_parse(struct str s, struct budget_period *ret, struct why *why)
{
	static const struct { const char *word; enum budget_every every; } words[] = {
		{ "month", EVERY_MONTH }, { "day", EVERY_DAY }, { "minute", EVERY_MINUTE },
	};

	*ret = (struct budget_period){ 0 };
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (str_eqz(s, words[i].word)) {
			ret->every = words[i].every;
			return true;
		}
	if (str_starts(s, STR("rolling:")) && parse_rolling(str_from(s, 8), ret))
		return true;
	return err_field(why, ERR_INVALID, "period", "'" STR_FMT "' is no period; write month, day, minute, or rolling: with 1m to 366d behind it, as in rolling:30d",
			 STR_ARG(s)) == ERR_OK;
}

void budget_period_at(const struct budget_period *p, const struct zone *z, int64_t us, int64_t *ret_key_us, int64_t *ret_ends_us)
{
	switch (p->every) {
	case EVERY_MONTH:
		zone_month(z, us, ret_key_us, ret_ends_us);
		return;
	case EVERY_DAY:
		zone_day(z, us, ret_key_us, ret_ends_us);
		return;
	case EVERY_MINUTE:
		*ret_key_us = us - us % MINUTE_US;
		*ret_ends_us = *ret_key_us + MINUTE_US;
		return;
	case EVERY_ROLLING:
		*ret_key_us = 0;
		*ret_ends_us = INT64_MAX;
	}
}
