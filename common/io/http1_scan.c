/* http1_scan.c - see http1_scan.h. */
#include "common/io/http1_scan.h"

#define LETTER (C_TOKEN | C_TARGET | C_HOST | C_VALUE | C_PLAIN)
#define HEX    (LETTER | C_HEX)
#define MARK   (C_TOKEN | C_TARGET | C_VALUE | C_PLAIN)  /* ! $ & ' * + ^ ` | ~ */
#define DELIM  (C_TARGET | C_VALUE | C_PLAIN)            /* ( ) , / : ; = ? @ [ ] { } */

const uint8_t http_class[256] = {
	['0' ... '9'] = HEX,
	['A' ... 'F'] = HEX,  ['G' ... 'Z'] = LETTER,
	['a' ... 'f'] = HEX,  ['g' ... 'z'] = LETTER,
	['-'] = LETTER,       ['.'] = LETTER ^ C_PLAIN, ['_'] = LETTER,
	['!'] = MARK,         ['$'] = MARK,          ['%'] = MARK ^ C_PLAIN, ['&'] = MARK, ['\''] = MARK, ['*'] = MARK, ['+'] = MARK,
	['^'] = MARK,         ['`'] = MARK,          ['|'] = MARK, ['~'] = MARK,
	['('] = DELIM,        [')'] = DELIM,         [','] = DELIM, ['/'] = DELIM, [':'] = DELIM, [';'] = DELIM, ['='] = DELIM,
	['?'] = DELIM,        ['@'] = DELIM,         ['['] = DELIM, [']'] = DELIM, ['{'] = DELIM, ['}'] = DELIM,
	['#'] = C_TOKEN | C_VALUE | C_PLAIN,
	['"'] = C_VALUE | C_PLAIN, ['<'] = C_VALUE | C_PLAIN, ['>'] = C_VALUE | C_PLAIN, ['\\'] = C_VALUE,
	[' '] = C_VALUE,      ['\t'] = C_VALUE,
	[0x80 ... 0xff] = C_OBS,
};

bool http_all(struct str s, unsigned classes)
{
	for (size_t i = 0; i < s.n; i++)
		if (!http_is(s.p[i], classes))
			return false;
	return true;
}

/* Equal to 'real' but for the sign between the words. */
static bool like(struct str name, const char *real)
{
	bool same = true;

	for (size_t i = 0; i < name.n; i++) {
		char c = http_lower(name.p[i]);
		bool sign = !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9');

		if (real[i] == '-' ? !sign : c != real[i])
			return false;
		same = same && c == real[i];
	}
	return !same;
}

bool http_lookalike(struct str name)
{
	if (name.n == 14)
		return like(name, "content-length");
	return name.n == 17 && like(name, "transfer-encoding");
}

unsigned http_unhex(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);
}

bool http_list_next(struct str *rest, struct str *ret_item)
{
	while (str_split(rest, ',', ret_item)) {
		*ret_item = str_trim(*ret_item);
		if (ret_item->n)
			return true;
	}
	return false;
}
