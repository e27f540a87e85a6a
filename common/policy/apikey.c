/* apikey.c - see apikey.h. */
#include "common/policy/apikey.h"

#include "common/store/crc32c.h"

enum { BASE = 62, SECRET = 43, CHECK = 6, PREFIX = 10, CHECK_AT = APIKEY_TEXT - CHECK };

static const char digits[BASE + 1] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* Each of the 62 characters is equally likely: bytes above the last whole multiple are thrown away. */
static void random_digits(char *to, size_t n)
{
	uint8_t pool[64];
	size_t at = sizeof(pool);

	while (n) {
		if (at == sizeof(pool))
			secret_random(pool, sizeof(pool)), at = 0;
		if (pool[at] < 256 / BASE * BASE)
			*to++ = digits[pool[at] % BASE], n--;
		at++;
	}
	secret_wipe(pool, sizeof(pool));
}

static void checksum(const char text[CHECK_AT], char ret[CHECK])
{
	uint32_t crc = crc32c(text, CHECK_AT);

	for (int i = CHECK - 1; i >= 0; i--, crc /= BASE)
		ret[i] = digits[crc % BASE];
}

void apikey_make(char ret_text[APIKEY_TEXT + 1], char ret_id[APIKEY_ID + 1], uint8_t ret_hash[SHA256_BYTES])
{
	memcpy(ret_text, "corral_sk_", PREFIX);
	random_digits(ret_text + PREFIX, APIKEY_ID);
	ret_text[PREFIX + APIKEY_ID] = '_';
	random_digits(ret_text + PREFIX + APIKEY_ID + 1, SECRET);
	checksum(ret_text, ret_text + CHECK_AT);
	ret_text[APIKEY_TEXT] = '\0';
	memcpy(ret_id, ret_text + PREFIX, APIKEY_ID);
	ret_id[APIKEY_ID] = '\0';
	sha256(str_n(ret_text, APIKEY_TEXT), ret_hash);
}

static bool all_digits(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'A' && p[i] <= 'Z') || (p[i] >= 'a' && p[i] <= 'z')))
			return false;
	return true;
}

bool apikey_parse(struct str text, struct str *ret_id)
{
	char check[CHECK];

	if (text.n != APIKEY_TEXT || memcmp(text.p, "corral_sk_", PREFIX) != 0 || text.p[PREFIX + APIKEY_ID] != '_')
		return false;
	if (!all_digits(text.p + PREFIX, APIKEY_ID) || !all_digits(text.p + PREFIX + APIKEY_ID + 1, SECRET + CHECK))
		return false;
	checksum(text.p, check);
	if (memcmp(check, text.p + CHECK_AT, CHECK) != 0)
		return false;
	*ret_id = str_n(text.p + PREFIX, APIKEY_ID);
	return true;
}
