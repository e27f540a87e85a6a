/* apikey_fuzz.c - what is read as a key is one: the right length, an id inside it, and no longer a key after one changed character. */
#include <stdlib.h>

#include "common/policy/apikey.h"

#define MUST(holds) do { if (!(holds)) { fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #holds); abort(); } } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = malloc(n + 1);
	struct str id;

	memcpy(text, data, n);
	if (apikey_parse(str_n(text, n), &id)) {
		MUST(n == APIKEY_TEXT && id.p == text + 10 && id.n == APIKEY_ID);
		text[n - 1] = text[n - 1] == 'a' ? 'b' : 'a';
		MUST(!apikey_parse(str_n(text, n), &id));
	}
	free(text);
	return 0;
}
