/* tone.c - colours and harmless text: what goes to a terminal (declared in cli.h). */
#include "services/corral/cli.h"

static const char *const codes[] = {
	[TONE_PLAIN] = "", [TONE_GOOD] = "\033[32m", [TONE_WARN] = "\033[33m", [TONE_BAD] = "\033[31m", [TONE_FAINT] = "\033[2m",
	[TONE_STRONG] = "\033[1m",
};

const char *tone_on(bool colour, enum tone t) { return colour ? codes[t] : ""; }
const char *tone_off(bool colour, enum tone t) { return colour && t != TONE_PLAIN ? "\033[0m" : ""; }

static bool among(struct str word, const char *words)
{
	struct str rest = str_of(words), one;

	while (str_split(&rest, ' ', &one))
		if (str_eq(word, one))
			return true;
	return false;
}

enum tone tone_of_state(struct str word)
{
	if (among(word, "up ok ready closed yes"))
		return TONE_GOOD;
	if (among(word, "down unavailable FAIL open no failed"))
		return TONE_BAD;
	return TONE_WARN;
}

/* The bytes of a C1 control character in UTF-8 are C2 80 … C2 9F; terminals obey those as well. */
static size_t control_at(struct str s, size_t i)
{
	unsigned char c = (unsigned char)s.p[i];

	if (c < 0x20 || c == 0x7f)
		return 1;
	return c == 0xc2 && i + 1 < s.n && (unsigned char)s.p[i + 1] < 0xa0 ? 2 : 0;
}

void add_shown(struct buf *b, struct str s, bool lines)
{
	for (size_t i = 0; i < s.n;) {
		size_t n = control_at(s, i);

		if (n == 0 || (lines && (s.p[i] == '\n' || s.p[i] == '\t')))
			buf_char(b, s.p[i]);
		else if (!lines)
			buf_char(b, ' ');
		i += n ? n : 1;
	}
}
