/* json.c - see json.h.
 *
 * While a container is open, its token's 'next' holds the index of the container around it: the tape is its own stack.
 * Keys are compared when their object closes: a few short ones with each other behind a 64-bit filter, the rest
 * by a hash set under a key drawn at start, so that nobody can choose keys that collide. */
#include "common/data/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "common/data/json_scan.h"

const struct json_limits json_limits_default = { .max_depth = 64, .max_nodes = 100000, .refuse_case_variants = true };

enum {
	NONE = UINT32_MAX, COUNT_MAX = UINT16_MAX,
	SMALL = 24,               /* keys that are compared with each other */
	SMALL_LEN = 64,           /* and how long they may be as written, so that it stays cheap */
};

struct parser {
	const char *text, *end;
	struct json_tok *tok;
	uint32_t n, cap;
	uint32_t open;            /* the innermost open container, NONE at the root */
	uint32_t depth, nodes;
	bool in_object;           /* 'open' is an object */
	struct json_limits limits;
	struct arena *mem;
	enum err err;
	struct why *why;
	struct str *keys;         /* for large objects, reused */
	uint32_t *set;
	uint32_t keys_cap;
};

static const char *document(struct parser *ps);
static const char *fail(struct parser *ps, const char *at, const char *fmt, ...) __attribute__((format(printf, 3, 4), cold, noinline));

enum err json_parse(struct json *ret, struct arena *mem, struct str text, const struct json_limits *limits, struct why *why)
{
	size_t guess = 32 + text.n / 16;
	const char *from = text.n ? text.p : "";
	struct parser ps = {
		.text = from, .end = from + text.n, .mem = mem, .why = why, .open = NONE,
		.cap = guess < 4096 ? (uint32_t)guess : 4096, .limits = limits ? *limits : json_limits_default,
	};

	if (text.n >= UINT32_MAX)
		return err_set(why, ERR_TOO_LARGE, "a JSON text of %zu bytes is larger than can be read", text.n);
	ps.tok = arena_alloc(mem, ps.cap * sizeof(*ps.tok));
	if (!document(&ps))
		return ps.err;
	*ret = (struct json){ from, text.n, ps.tok, ps.n };
	return ERR_OK;
}

/* ---- failures ---- */

struct place { size_t line, column, at; };

static struct place place_of(const struct parser *ps, const char *at)
{
	struct place p = { 1, 1, (size_t)(at - ps->text) };

	for (const char *c = ps->text; c < at; c++) {
		if (*c == '\n')
			p.line++, p.column = 1;
		else if ((*c & 0xc0) != 0x80)
			p.column++;
	}
	return p;
}

__attribute__((format(printf, 5, 0))) static const char *fail_v(struct parser *ps, enum err code, const char *at, const char *field, const char *fmt, va_list ap)
{
	struct place p = place_of(ps, at);
	char text[240];

	vsnprintf(text, sizeof(text), fmt, ap);
	ps->err = err_field(ps->why, code, field, "JSON, line %zu, column %zu (byte %zu): %s", p.line, p.column, p.at, text);
	return NULL;
}

static const char *fail(struct parser *ps, const char *at, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fail_v(ps, ERR_MALFORMED, at, "", fmt, ap);
	va_end(ap);
	return NULL;
}

__attribute__((format(printf, 5, 6), cold, noinline)) static const char *fail_as(struct parser *ps, enum err code, const char *at,
	const char *field, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fail_v(ps, code, at, field, fmt, ap);
	va_end(ap);
	return NULL;
}

/* "'x'", "byte 0x0b" or "the end of the text". */
static const char *found(const struct parser *ps, const char *at, char out[32])
{
	if (at >= ps->end)
		return "the end of the text";
	if (*at > ' ' && *at < 0x7f)
		snprintf(out, 32, "'%c'", *at);
	else
		snprintf(out, 32, "byte 0x%02x", (unsigned char)*at);
	return out;
}

__attribute__((cold, noinline)) static const char *expected(struct parser *ps, const char *at, const char *what)
{
	char out[32];

	return fail(ps, at, "expected %s, found %s", what, found(ps, at, out));
}

/* ---- the grammar ---- */

static const char *value(struct parser *ps, const char *p, bool *ret_opened);
static const char *key(struct parser *ps, const char *p);
static const char *close_container(struct parser *ps, const char *p);
static const char *string(struct parser *ps, const char *p, uint8_t flags);
static const char *number(struct parser *ps, const char *p);

/* NUL stands for the end too: it begins and ends nothing in JSON. */
static inline char peek(const struct parser *ps, const char *p) { return p < ps->end ? *p : '\0'; }
static inline bool digit(char c) { return c >= '0' && c <= '9'; }
static inline char closer(const struct parser *ps) { return ps->in_object ? '}' : ']'; }

static inline const char *blanks(const struct parser *ps, const char *p)
{
	while (p < ps->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

/* After a value: closes what is closed here, up to the next value's first byte, or NULL with *done at the end of the root. */
static const char *after_value(struct parser *ps, const char *p, bool *done)
{
	while (ps->open != NONE) {
		char c;

		p = blanks(ps, p);
		c = peek(ps, p);
		if (c == ',') {
			p = blanks(ps, p + 1);
			return ps->in_object ? key(ps, p) : p;
		}
		if (c != closer(ps))
			return expected(ps, p, ps->in_object ? "',' or '}' after a member" : "',' or ']' after an element");
		p = close_container(ps, p + 1);
		if (!p)
			return NULL;
	}
	*done = true;
	return p;
}

static const char *document(struct parser *ps)
{
	const char *p = blanks(ps, ps->text);
	bool done = false, opened;

	if (ps->end - ps->text >= 3 && memcmp(ps->text, "\xef\xbb\xbf", 3) == 0)
		return fail(ps, ps->text, "the text begins with a byte order mark");
	while (!done) {
		opened = false;
		p = value(ps, p, &opened);
		if (p && opened) {
			p = blanks(ps, p);
			if (peek(ps, p) != closer(ps)) {
				p = ps->in_object ? key(ps, p) : p;
				if (!p)
					return NULL;
				continue;
			}
			p = close_container(ps, p + 1);
		}
		p = p ? after_value(ps, p, &done) : NULL;
		if (!p)
			return NULL;
	}
	p = blanks(ps, p);
	return p == ps->end ? p : expected(ps, p, "nothing after the value");
}

__attribute__((noinline, cold)) static void grow(struct parser *ps)
{
	uint32_t cap = ps->cap > UINT32_MAX / 2 ? UINT32_MAX : ps->cap * 2;      /* no text has more tokens */
	struct json_tok *more = arena_alloc(ps->mem, (size_t)cap * sizeof(*more));

	memcpy(more, ps->tok, ps->n * sizeof(*more));
	ps->tok = more;
	ps->cap = cap;
}

static inline struct json_tok *add(struct parser *ps, const char *at, const char *end, uint8_t kind, uint8_t flags)
{
	uint32_t i = ps->n;
	struct json_tok *t;

	if (i == ps->cap)
		grow(ps);
	ps->n = i + 1;
	t = &ps->tok[i];
	*t = (struct json_tok){ (uint32_t)(at - ps->text), (uint32_t)(end - at), i + 1, kind, flags, 0 };
	return t;
}

static const char *open_container(struct parser *ps, const char *p, enum json_kind kind)
{
	if (ps->depth == ps->limits.max_depth)
		return fail_as(ps, ERR_TOO_LARGE, p, "", "more than %u arrays and objects inside each other", ps->limits.max_depth);
	ps->depth++;
	add(ps, p, p + 1, (uint8_t)kind, 0)->next = ps->open;
	ps->open = ps->n - 1;
	ps->in_object = kind == JSON_OBJECT;
	return p + 1;
}

static const char *word(struct parser *ps, const char *p, const char *name, size_t n, enum json_kind kind)
{
	if ((size_t)(ps->end - p) < n || memcmp(p, name, n) != 0)
		return expected(ps, p, "a value (null, true and false are written so)");
	add(ps, p, p + n, (uint8_t)kind, 0);
	return p + n;
}

static inline const char *value(struct parser *ps, const char *p, bool *ret_opened)
{
	if (ps->nodes++ == ps->limits.max_nodes)
		return fail_as(ps, ERR_TOO_LARGE, p, "", "more than %u values", ps->limits.max_nodes);
	if (ps->open != NONE && ps->tok[ps->open].count < COUNT_MAX)
		ps->tok[ps->open].count++;
	switch (peek(ps, p)) {
	case '"': return string(ps, p, 0);
	case '{': *ret_opened = true; return open_container(ps, p, JSON_OBJECT);
	case '[': *ret_opened = true; return open_container(ps, p, JSON_ARRAY);
	case 't': return word(ps, p, "true", 4, JSON_TRUE);
	case 'f': return word(ps, p, "false", 5, JSON_FALSE);
	case 'n': return word(ps, p, "null", 4, JSON_NULL);
	case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
		return number(ps, p);
	default: return expected(ps, p, "a value");
	}
}

static const char *key(struct parser *ps, const char *p)
{
	if (peek(ps, p) != '"')
		return expected(ps, p, "a key in quotes");
	p = string(ps, p, JSON_KEY);
	if (!p)
		return NULL;
	p = blanks(ps, p);
	return peek(ps, p) == ':' ? blanks(ps, p + 1) : expected(ps, p, "':' after a key");
}

static const char *digits(const struct parser *ps, const char *p)
{
	while (p < ps->end && digit(*p))
		p++;
	return p;
}

static const char *number(struct parser *ps, const char *p)
{
	uint8_t flags = JSON_INT;
	const char *s = p + (*p == '-');

	if (!digit(peek(ps, s)))
		return expected(ps, s, "a digit after '-'");
	if (*s == '0' && digit(peek(ps, s + 1)))
		return fail(ps, s, "a number may not begin with a superfluous 0");
	s = digits(ps, s);
	if (peek(ps, s) == '.') {
		flags = 0;
		if (!digit(peek(ps, ++s)))
			return expected(ps, s, "a digit after '.'");
		s = digits(ps, s);
	}
	if (peek(ps, s) == 'e' || peek(ps, s) == 'E') {
		flags = 0;
		s++;
		s += peek(ps, s) == '+' || peek(ps, s) == '-';
		if (!digit(peek(ps, s)))
			return expected(ps, s, "a digit in the exponent");
		s = digits(ps, s);
	}
	add(ps, p, s, JSON_NUMBER, flags);
	return s;
}

/* ---- strings ---- */

static int hex4(const char *p, const char *end)
{
	int v = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		int d = digit(c) ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;

		if (d < 0)
			return -1;
		v = v << 4 | d;
	}
	return v;
}

/* What may follow a backslash and stands for one character by itself. */
static const bool simple_escape[256] = {
	['"'] = true, ['\\'] = true, ['/'] = true, ['b'] = true, ['f'] = true, ['n'] = true, ['r'] = true, ['t'] = true,
};

/* p is at the backslash; gives the byte after the escape, or after the pair of escapes that make one character. */
static inline const char *escape(struct parser *ps, const char *p)
{
	int u, low;

	if (simple_escape[(unsigned char)peek(ps, p + 1)])
		return p + 2;
	if (peek(ps, p + 1) != 'u')
		return expected(ps, p + 1, "one of \"\\/bfnrtu after a backslash");
	u = hex4(p + 2, ps->end);
	if (u < 0)
		return fail(ps, p, "\\u wants four hexadecimal digits");
	if (u < 0xd800 || u > 0xdfff)
		return p + 6;
	low = u < 0xdc00 && peek(ps, p + 6) == '\\' && peek(ps, p + 7) == 'u' ? hex4(p + 8, ps->end) : -1;
	if (low < 0xdc00 || low > 0xdfff)
		return fail(ps, p, "\\u%.4s is half of a surrogate pair and no character", p + 2);
	return p + 12;
}

__attribute__((cold, noinline)) static const char *not_closed(struct parser *ps, const char *p, const char *s)
{
	if (s >= ps->end)
		return fail(ps, p, "the string that begins here does not end");
	return fail(ps, s, "control character 0x%02x in a string; it must be escaped", (unsigned char)*s);
}

/* p is at the opening quote. */
static inline const char *string(struct parser *ps, const char *p, uint8_t flags)
{
	const char *s = p + 1;
	bool wide = false;

	for (;;) {
		s = json_scan(s, ps->end, &wide);
		if (s >= ps->end || (*s != '"' && *s != '\\'))
			return not_closed(ps, p, s);
		if (*s == '"')
			break;
		flags |= JSON_ESCAPED;
		s = escape(ps, s);
		if (!s)
			return NULL;
	}
	if (wide) {
		const char *bad = json_scan_utf8(p + 1, s);

		flags |= JSON_WIDE;
		if (bad != s)
			return fail(ps, bad, "byte 0x%02x is not valid UTF-8 here", (unsigned char)*bad);
	}
	add(ps, p, s + 1, JSON_STRING, flags);
	return s + 1;
}

/* Decodes one character of a valid string at *p into out; how many bytes that gave. */
static unsigned decode_one(const char **p, char out[4])
{
	static const char letters[] = "b\bf\fn\nr\rt\t";
	const char *s = *p, *l;
	unsigned u;

	*p = s + 1;
	out[0] = s[0];
	if (s[0] != '\\')
		return 1;
	*p = s + 2;
	out[0] = s[1];
	if (s[1] != 'u') {
		for (l = letters; *l; l += 2)
			if (*l == s[1])
				out[0] = l[1];
		return 1;
	}
	u = (unsigned)hex4(s + 2, s + 6);
	*p = s + 6;
	if (u >= 0xd800 && u <= 0xdfff) {
		u = 0x10000 + ((u - 0xd800) << 10) + ((unsigned)hex4(s + 8, s + 12) - 0xdc00);
		*p = s + 12;
	}
	if (u < 0x80)
		return out[0] = (char)u, 1;
	if (u < 0x800)
		return out[0] = (char)(0xc0 | u >> 6), out[1] = (char)(0x80 | (u & 0x3f)), 2;
	if (u < 0x10000)
		return out[0] = (char)(0xe0 | u >> 12), out[1] = (char)(0x80 | (u >> 6 & 0x3f)), out[2] = (char)(0x80 | (u & 0x3f)), 3;
	out[0] = (char)(0xf0 | u >> 18), out[1] = (char)(0x80 | (u >> 12 & 0x3f));
	out[2] = (char)(0x80 | (u >> 6 & 0x3f)), out[3] = (char)(0x80 | (u & 0x3f));
	return 4;
}

static inline struct str between_quotes(const char *text, const struct json_tok *t) { return str_n(text + t->at + 1, t->len - 2); }

/* A decoded string is never longer than it was written. */
static size_t decode(struct str raw, char *out)
{
	char *o = out;
	const char *p = raw.p, *end = raw.p + raw.n;

	while (p < end) {
		const char *slash = memchr(p, '\\', (size_t)(end - p));
		size_t run = (size_t)((slash ? slash : end) - p);

		memcpy(o, p, run);
		o += run;
		p += run;
		if (slash)
			o += decode_one(&p, o);
	}
	return (size_t)(o - out);
}

static struct str decoded(const char *text, const struct json_tok *t, struct arena *mem)
{
	struct str raw = between_quotes(text, t);
	char *out;

	if (!(t->flags & JSON_ESCAPED))
		return raw;
	out = arena_alloc(mem, raw.n);
	return str_n(out, decode(raw, out));
}

static bool escaped_eq(struct str raw, struct str s)
{
	const char *p = raw.p, *end = raw.p + raw.n;
	size_t at = 0;
	char out[4];

	while (p < end) {
		unsigned n = decode_one(&p, out);

		if (s.n - at < n || memcmp(s.p + at, out, n) != 0)
			return false;
		at += n;
	}
	return at == s.n;
}

static inline bool string_is(const struct json *j, const struct json_tok *t, struct str s)
{
	if (t->flags & JSON_ESCAPED)
		return escaped_eq(between_quotes(j->text, t), s);
	return t->len == s.n + 2 && memcmp(j->text + t->at + 1, s.p, s.n) == 0;
}

/* ---- no key twice ---- */

static const char *unique_small(struct parser *ps, uint32_t object, bool any_case);
static const char *unique_large(struct parser *ps, uint32_t object, bool any_case);

/* p is behind the bracket. */
static const char *close_container(struct parser *ps, const char *p)
{
	uint32_t c = ps->open;
	struct json_tok *t = &ps->tok[c];

	ps->open = t->next;
	ps->depth--;
	t->next = ps->n;
	t->len = (uint32_t)(p - ps->text) - t->at;
	if (t->kind == JSON_OBJECT && t->count > 1 && !ps->limits.may_repeat_keys) {
		bool any_case = c == 0 && ps->limits.refuse_case_variants;

		if (!(t->count <= SMALL ? unique_small(ps, c, any_case) : unique_large(ps, c, any_case)))
			return NULL;
	}
	ps->in_object = ps->open != NONE && ps->tok[ps->open].kind == JSON_OBJECT;
	return p;
}

/* Lowers ASCII letters, and the two characters beyond ASCII whose other case is an ASCII letter: U+017F (long s),
 * U+212A (kelvin). Never longer than s; out may be s.p. */
static size_t fold(struct str s, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (s.n - i >= 2 && memcmp(s.p + i, "\xc5\xbf", 2) == 0)
			c = 's', i += 1;
		else if (s.n - i >= 3 && memcmp(s.p + i, "\xe2\x84\xaa", 3) == 0)
			c = 'k', i += 2;
		out[n++] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
	}
	return n;
}

/* What two equal keys have in common: the decoded bytes, or those folded. */
static struct str key_text(struct parser *ps, uint32_t k, bool folded)
{
	struct str s = decoded(ps->text, &ps->tok[k], ps->mem);
	char *out;

	if (!folded)
		return s;
	out = arena_alloc(ps->mem, s.n);
	return str_n(out, fold(s, out));
}

static const char *twice(struct parser *ps, uint32_t first, uint32_t second)
{
	struct str a = between_quotes(ps->text, &ps->tok[first]), b = between_quotes(ps->text, &ps->tok[second]);
	bool same = str_eq(key_text(ps, first, false), key_text(ps, second, false));
	char field[64];

	for (struct str *s = &a; s; s = s == &a ? &b : NULL)      /* cut long ones between characters */
		if (s->n > 60)
			for (s->n = 60; s->n && (s->p[s->n] & 0xc0) == 0x80; )
				s->n--;
	str_copy(field, sizeof(field), b);
	if (same)
		return fail_as(ps, ERR_MALFORMED, ps->text + ps->tok[second].at, field, "the key \"%s\" is there twice in one object", field);
	return fail_as(ps, ERR_MALFORMED, ps->text + ps->tok[second].at, field,
		"the keys \"" STR_FMT "\" and \"%s\" differ only in upper and lower case", STR_ARG(a), field);
}

static inline unsigned filter_bit(struct str s)
{
	unsigned first = s.n ? (unsigned char)s.p[0] | 0x20u : 0, last = s.n ? (unsigned char)s.p[s.n - 1] | 0x20u : 0;

	return ((unsigned)s.n * 5 + first * 3 + last) & 63;
}

static const char *unique_small(struct parser *ps, uint32_t object, bool any_case)
{
	struct str keys[SMALL];
	uint32_t at[SMALL], n = 0, end = ps->tok[object].next;
	uint64_t seen = 0;

	for (uint32_t k = object + 1; k < end; k = ps->tok[k + 1].next) {
		struct str s = between_quotes(ps->text, &ps->tok[k]);
		uint64_t bit;

		if (s.n > SMALL_LEN)
			return unique_large(ps, object, any_case);
		if (ps->tok[k].flags & (JSON_WIDE | JSON_ESCAPED))
			s = key_text(ps, k, any_case);      /* of the rest the case is ignored while comparing */
		bit = 1ULL << filter_bit(s);
		for (uint32_t i = 0; (seen & bit) && i < n; i++)
			if (any_case ? str_ieq(keys[i], s) : str_eq(keys[i], s))
				return twice(ps, at[i], k);
		seen |= bit;
		keys[n] = s;
		at[n++] = k;
	}
	return ps->end;
}

static uint64_t secret[2];

__attribute__((constructor)) static void draw_secret(void)
{
	if (getrandom(secret, sizeof(secret), GRND_NONBLOCK) != (ssize_t)sizeof(secret)) {
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC, &now);      /* before the kernel has entropy: at boot only */
		secret[0] = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15ULL;
		secret[1] = (uint64_t)(uintptr_t)&now ^ (uint64_t)now.tv_sec << 32;
	}
}

static inline uint64_t rotl(uint64_t v, unsigned n) { return v << n | v >> (64 - n); }

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1], v[1] = rotl(v[1], 13) ^ v[0], v[0] = rotl(v[0], 32);
	v[2] += v[3], v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3], v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1], v[1] = rotl(v[1], 17) ^ v[2], v[2] = rotl(v[2], 32);
}

/* SipHash-1-3. */
static uint64_t sip(struct str s)
{
	uint64_t v[4] = { secret[0] ^ 0x736f6d6570736575ULL, secret[1] ^ 0x646f72616e646f6dULL,
		secret[0] ^ 0x6c7967656e657261ULL, secret[1] ^ 0x7465646279746573ULL };
	uint64_t m, last = (uint64_t)s.n << 56;
	size_t i;

	for (i = 0; i + 8 <= s.n; i += 8) {
		memcpy(&m, s.p + i, 8);
		v[3] ^= m;
		sip_round(v);
		v[0] ^= m;
	}
	for (unsigned shift = 0; i < s.n; i++, shift += 8)
		last |= (uint64_t)(unsigned char)s.p[i] << shift;
	v[3] ^= last;
	sip_round(v);
	v[0] ^= last;
	v[2] ^= 0xff;
	for (int round = 0; round < 3; round++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Room for n keys and a set of at least 2n places, both kept for the next large object. */
static uint32_t large_room(struct parser *ps, uint32_t n)
{
	uint32_t places = 64;

	while (places < n * 2)
		places *= 2;
	if (ps->keys_cap < places) {
		ps->keys = arena_alloc(ps->mem, places / 2 * sizeof(*ps->keys));
		ps->set = arena_alloc(ps->mem, places * sizeof(*ps->set));
		ps->keys_cap = places;
	}
	memset(ps->set, 0, places * sizeof(*ps->set));
	return places;
}

static uint32_t key_at(const struct parser *ps, uint32_t object, uint32_t nth)
{
	uint32_t k = object + 1;

	while (nth--)
		k = ps->tok[k + 1].next;
	return k;
}

static const char *unique_large(struct parser *ps, uint32_t object, bool any_case)
{
	uint32_t n = 0, end = ps->tok[object].next, mask, k;

	for (k = object + 1; k < end; k = ps->tok[k + 1].next)
		n++;
	mask = large_room(ps, n) - 1;
	n = 0;
	for (k = object + 1; k < end; k = ps->tok[k + 1].next) {
		struct str s = key_text(ps, k, any_case);
		uint32_t place = (uint32_t)sip(s) & mask;

		for (; ps->set[place]; place = (place + 1) & mask)      /* holds the number of a key, from 1 */
			if (str_eq(ps->keys[ps->set[place] - 1], s))
				return twice(ps, key_at(ps, object, ps->set[place] - 1), k);
		ps->keys[n++] = s;
		ps->set[place] = n;
	}
	return ps->end;
}

/* ---- readers ---- */

static inline bool is_container(const struct json_tok *t) { return t->kind == JSON_OBJECT || t->kind == JSON_ARRAY; }

void json_get_many(const struct json *j, uint32_t object, const struct str *names, unsigned n, uint32_t *ret)
{
	uint32_t end = j->tok[object].kind == JSON_OBJECT ? j->tok[object].next : 0;

	memset(ret, 0, n * sizeof(*ret));
	for (uint32_t k = object + 1; k < end; k = j->tok[k + 1].next)
		for (unsigned i = 0; i < n; i++)
			if (string_is(j, &j->tok[k], names[i])) {
				ret[i] = k + 1;
				break;
			}
}

static bool any_case_is(const struct json *j, const struct json_tok *t, struct str s)
{
	struct str raw = between_quotes(j->text, t);
	char key[6 * 64];         /* an escape of one character is six bytes */

	if (s.n > sizeof(key) / 6 || raw.n > s.n * 6)
		return str_ieq(raw, s);
	raw = str_n(key, decode(raw, key));
	return str_ieq(str_n(key, fold(raw, key)), s);
}

static inline uint32_t get(const struct json *j, uint32_t object, const char *name, bool any_case)
{
	uint32_t end = j->tok[object].next;
	struct str s = str_of(name);

	if (j->tok[object].kind != JSON_OBJECT)
		return 0;
	for (uint32_t k = object + 1; k < end; k = j->tok[k + 1].next)
		if (string_is(j, &j->tok[k], s) || (any_case && any_case_is(j, &j->tok[k], s)))
			return k + 1;
	return 0;
}

uint32_t json_get(const struct json *j, uint32_t object, const char *name) { return get(j, object, name, false); }
uint32_t json_get_any_case(const struct json *j, uint32_t object, const char *name) { return get(j, object, name, true); }

static inline uint32_t value_at(const struct json *j, uint32_t container, uint32_t i)
{
	if (i >= j->tok[container].next)
		return 0;
	return i + (j->tok[container].kind == JSON_OBJECT);
}

uint32_t json_first(const struct json *j, uint32_t container)
{
	return is_container(&j->tok[container]) ? value_at(j, container, container + 1) : 0;
}

uint32_t json_next(const struct json *j, uint32_t container, uint32_t v) { return value_at(j, container, j->tok[v].next); }

uint32_t json_count(const struct json *j, uint32_t container)
{
	uint32_t n = 0;

	if (!is_container(&j->tok[container]))
		return 0;
	if (j->tok[container].count < COUNT_MAX)
		return j->tok[container].count;
	for (uint32_t i = json_first(j, container); i; i = json_next(j, container, i))
		n++;
	return n;
}

uint32_t json_key(const struct json *j, uint32_t v) { return v && j->tok[v - 1].flags & JSON_KEY ? v - 1 : 0; }

struct str json_key_raw(const struct json *j, uint32_t v)
{
	uint32_t k = json_key(j, v);

	return k ? between_quotes(j->text, &j->tok[k]) : (struct str){ NULL, 0 };
}

bool json_key_is(const struct json *j, uint32_t v, const char *name)
{
	uint32_t k = json_key(j, v);

	return k && string_is(j, &j->tok[k], str_of(name));
}

enum json_kind json_kind(const struct json *j, uint32_t v) { return (enum json_kind)j->tok[v].kind; }

const char *json_kind_name(enum json_kind kind)
{
	static const char *const names[] = { "null", "false", "true", "a number", "a string", "an array", "an object" };

	return names[kind];
}

struct str json_raw(const struct json *j, uint32_t v) { return str_n(j->text + j->tok[v].at, j->tok[v].len); }
bool json_is_string(const struct json *j, uint32_t v) { return j->tok[v].kind == JSON_STRING; }

struct str json_string(const struct json *j, uint32_t v, struct arena *mem)
{
	return json_is_string(j, v) ? decoded(j->text, &j->tok[v], mem) : (struct str){ NULL, 0 };
}

bool json_string_eq(const struct json *j, uint32_t v, const char *z)
{
	return json_is_string(j, v) && string_is(j, &j->tok[v], str_of(z));
}

bool json_bool(const struct json *j, uint32_t v, bool *ret)
{
	enum json_kind kind = json_kind(j, v);

	if (kind != JSON_TRUE && kind != JSON_FALSE)
		return false;
	*ret = kind == JSON_TRUE;
	return true;
}

/* ---- numbers ---- */

/* digits x 10^exponent; the digits without zeros at either end. */
struct decimal {
	uint64_t digits;
	int64_t exponent;
	bool negative, exact;     /* not exact: there are more digits than fit */
};

static int64_t exponent_of(const char *p, const char *end)
{
	bool negative = *p == '-';
	int64_t e = 0;

	for (p += *p == '-' || *p == '+'; p < end; p++)
		e = e < 1000000000000 ? e * 10 + (*p - '0') : e;      /* far beyond any length of digits */
	return negative ? -e : e;
}

static struct decimal decimal_of(struct str s)
{
	struct decimal d = { .negative = s.p[0] == '-', .exact = true };
	const char *p = s.p + d.negative, *end = s.p + s.n;
	int64_t zeros = 0;        /* seen since the last other digit, not yet in d.digits */
	bool fraction = false;

	for (; p < end && (*p | 0x20) != 'e'; p++) {
		if (*p == '.') {
			fraction = true;
			continue;
		}
		d.exponent -= fraction;
		if (*p == '0') {
			zeros += d.digits != 0;
			continue;
		}
		for (zeros++; zeros > 0 && d.exact; zeros--)
			d.exact = !__builtin_mul_overflow(d.digits, 10, &d.digits);
		zeros = 0;
		d.exact = d.exact && !__builtin_add_overflow(d.digits, (uint64_t)(*p - '0'), &d.digits);
	}
	d.exponent += zeros + (p < end ? exponent_of(p + 1, end) : 0);
	return d;
}

bool json_i64(const struct json *j, uint32_t v, int64_t *ret)
{
	struct decimal d;

	if (j->tok[v].kind != JSON_NUMBER)
		return false;
	if (j->tok[v].flags & JSON_INT)
		return str_i64(json_raw(j, v), ret);
	d = decimal_of(json_raw(j, v));
	if (!d.exact)
		return false;
	if (d.digits == 0)
		return *ret = 0, true;
	if (d.exponent < 0)
		return false;
	for (; d.exponent > 0; d.exponent--)
		if (__builtin_mul_overflow(d.digits, 10, &d.digits))
			return false;
	if (d.digits > (uint64_t)INT64_MAX + d.negative)
		return false;
	*ret = d.negative ? (int64_t)(0 - d.digits) : (int64_t)d.digits;
	return true;
}

/* Digits and power are both exact doubles: one rounding, as IEEE 754 wants it. */
static bool double_quickly(struct decimal d, double *ret)
{
	static const double power[] = { 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
		1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
	double v;

	if (!d.exact || d.digits > 1ULL << 53 || d.exponent < -22 || d.exponent > 22)
		return false;
	v = (double)d.digits;
	v = d.exponent < 0 ? v / power[-d.exponent] : v * power[d.exponent];
	*ret = d.negative ? -v : v;
	return true;
}

bool json_double(const struct json *j, uint32_t v, double *ret)
{
	struct str s = json_raw(j, v);
	char z[128], *copy = s.n < sizeof(z) ? z : NULL;
	double d;

	if (j->tok[v].kind != JSON_NUMBER)
		return false;
	if (double_quickly(decimal_of(s), ret))
		return true;
	if (!copy)
		copy = x_malloc(s.n + 1);
	str_copy(copy, s.n + 1, s);
	d = strtod(copy, NULL);
	if (copy != z)
		free(copy);
	if (d - d != 0)           /* infinite */
		return false;
	*ret = d;
	return true;
}

/* ---- optional members ---- */

/* The member's index; 0 when absent or null. */
static uint32_t given(const struct json *j, uint32_t object, const char *name)
{
	uint32_t v = json_get(j, object, name);

	return v && json_kind(j, v) != JSON_NULL ? v : 0;
}

static bool wrong_kind(const struct json *j, uint32_t v, const char *name, const char *wanted, struct why *why)
{
	enum json_kind kind = json_kind(j, v);
	const char *is = kind == JSON_TRUE || kind == JSON_FALSE ? "a boolean" : json_kind_name(kind);

	err_field(why, ERR_MALFORMED, name, "%s must be %s, not %s", name, wanted, is);
	return false;
}

bool json_opt_str(const struct json *j, uint32_t object, const char *name, struct str *ret, struct arena *mem, struct why *why)
{
	uint32_t v = given(j, object, name);

	if (!v)
		return true;
	if (!json_is_string(j, v))
		return wrong_kind(j, v, name, "a string", why);
	*ret = json_string(j, v, mem);
	return true;
}

static bool bad_number(const struct json *j, uint32_t v, const char *name, const char *wanted, struct why *why)
{
	struct str s = json_raw(j, v);
	bool cut = s.n > 40;

	if (json_kind(j, v) != JSON_NUMBER)
		return wrong_kind(j, v, name, wanted, why);
	err_field(why, ERR_MALFORMED, name, "%s must be %s, not %.*s%s", name, wanted, cut ? 40 : (int)s.n, s.p, cut ? "..." : "");
	return false;
}

bool json_opt_i64(const struct json *j, uint32_t object, const char *name, int64_t *ret, struct why *why)
{
	uint32_t v = given(j, object, name);

	if (!v || json_i64(j, v, ret))
		return true;
	return bad_number(j, v, name, json_kind(j, v) == JSON_NUMBER ? "a whole number of 64 bits" : "a whole number", why);
}

bool json_opt_double(const struct json *j, uint32_t object, const char *name, double *ret, struct why *why)
{
	uint32_t v = given(j, object, name);

	return !v || json_double(j, v, ret) || bad_number(j, v, name, "a number", why);
}

bool json_opt_bool(const struct json *j, uint32_t object, const char *name, bool *ret, struct why *why)
{
	uint32_t v = given(j, object, name);

	return !v || json_bool(j, v, ret) || wrong_kind(j, v, name, "true or false", why);
}
