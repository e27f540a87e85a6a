/* http1_chunked.c - the chunked coding, byte by byte for its lines and run by run for its data. See http1.h.
 *
 *   SIZE --[ext]--> SIZE_LF --> DATA --> DATA_CR --> DATA_LF --> SIZE ...
 *                      '-(size 0)-> TRAILER --> NAME --> VALUE --> VALUE_LF --> TRAILER ... END_LF --> OVER */
#include "common/io/http1.h"
#include "common/io/http1_scan.h"

enum { MAX_DIGITS = 16, SHORT_DIGITS = 7, MAX_EXTENSION = 256, MAX_TRAILERS = 8192 };

enum state {
	SIZE, EXT_SEMICOLON, EXT_NAME_FIRST, EXT_NAME, EXT_EQUALS, EXT_VALUE_FIRST, EXT_VALUE, EXT_QUOTED, EXT_QUOTED_PAIR, EXT_QUOTED_END,
	SIZE_LF, DATA, DATA_CR, DATA_LF,
	TRAILER, NAME, VALUE, VALUE_LF, END_LF,
	OVER, BROKEN
};

static const char *step(struct http_chunked *, char c);
static const char *step_size(struct http_chunked *, char c);
static const char *step_extension(struct http_chunked *, char c);
static const char *step_trailer(struct http_chunked *, char c);

void http_chunked_init(struct http_chunked *k)
{
	*k = (struct http_chunked){ .state = SIZE };
}

static void take_data(struct http_chunked *k, struct str *in, struct str *data)
{
	size_t n = in->n < k->left ? in->n : (size_t)k->left;

	*data = str_n(in->p, n);
	*in = str_n(in->p + n, in->n - n);
	k->total += n;
	k->left -= n;
	if (k->left == 0)
		k->state = DATA_CR;
}

/* What nearly every chunk looks like: a short size without an extension, its whole line and some data here. Anything else is for step(). */
static bool plain_size(struct http_chunked *k, struct str *in)
{
	uint64_t left = 0;
	size_t n = 0;

	while (n < SHORT_DIGITS && n < in->n && http_is(in->p[n], C_HEX))
		left = left << 4 | http_unhex(in->p[n++]);
	if (k->digits || left == 0 || in->n < n + 3 || in->p[n] != '\r' || in->p[n + 1] != '\n' || k->total > INT64_MAX - left)
		return false;
	k->left = left;
	k->state = DATA;
	*in = str_from(*in, n + 2);
	return true;
}

static bool plain_end(struct http_chunked *k, struct str *in)
{
	if (in->n < 2 || in->p[0] != '\r' || in->p[1] != '\n')
		return false;
	k->state = SIZE;
	*in = str_from(*in, 2);
	return true;
}

enum http_parse http_chunked_next(struct http_chunked *k, struct str *in, struct str *data, struct why *why)
{
	const char *fault;

	*data = (struct str){ NULL, 0 };
	while (k->state != OVER && in->n) {
		if (k->state == DATA) {
			take_data(k, in, data);
			return HTTP_MORE;
		}
		if (k->state == DATA_CR ? plain_end(k, in) : k->state == SIZE && plain_size(k, in))
			continue;
		fault = step(k, *in->p);
		if (fault) {
			k->state = BROKEN;
			err_set(why, ERR_MALFORMED, "%s", fault);
			return HTTP_BAD;
		}
		*in = str_n(in->p + 1, in->n - 1);
	}
	return k->state == OVER ? HTTP_DONE : k->state == BROKEN ? HTTP_BAD : HTTP_MORE;
}

/* One byte that is not data: NULL, or what is wrong with it. */
static const char *step(struct http_chunked *k, char c)
{
	switch (k->state) {
	case SIZE:
		return step_size(k, c);
	case SIZE_LF:
		k->state = k->left ? DATA : TRAILER;
		k->line = k->digits = 0;
		return c == '\n' ? NULL : "a chunk's size line does not end with CR LF";
	case DATA_CR:
		k->state = DATA_LF;
		return c == '\r' ? NULL : "a chunk is longer than its size says";
	case DATA_LF:
		k->state = SIZE;
		return c == '\n' ? NULL : "a chunk does not end with CR LF";
	case BROKEN:
		return "the body broke before";
	default:
		return k->state < SIZE_LF ? step_extension(k, c) : step_trailer(k, c);
	}
}

static const char *step_size(struct http_chunked *k, char c)
{
	if (http_is(c, C_HEX)) {
		if (++k->digits > MAX_DIGITS)
			return "a chunk size has more than 16 digits";
		k->left = k->left << 4 | http_unhex(c);
		return NULL;
	}
	if (k->digits == 0)
		return "a chunk starts without a size in hex digits";
	if (k->left > INT64_MAX || k->total > INT64_MAX - k->left)
		return "a chunk size is beyond all bounds";
	if (c == '\r') {
		k->state = SIZE_LF;
		return NULL;
	}
	if (c != ';' && c != ' ' && c != '\t')
		return "a chunk size has a byte that is not a hex digit";
	if (k->no_extensions)
		return "chunk extensions are not accepted";
	k->state = EXT_SEMICOLON;
	return step_extension(k, c);
}

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* The states between the size and its CR; blanks are legal around ';' and '=', not before the line's end. */
static const char *step_extension(struct http_chunked *k, char c)
{
	static const char odd[] = "a chunk extension is not well-formed";
	bool blank = is_blank(c), token = http_is(c, C_TOKEN);
	uint8_t was = k->state;

	if (++k->line > MAX_EXTENSION && c != '\r')
		return "a chunk extension is longer than 256 bytes";
	if (c == '\r' && (was == EXT_NAME || was == EXT_VALUE || was == EXT_QUOTED_END)) {
		k->state = SIZE_LF;
		return NULL;
	}
	switch (was) {
	case EXT_SEMICOLON:
		k->state = blank ? EXT_SEMICOLON : EXT_NAME_FIRST;
		return blank || c == ';' ? NULL : odd;
	case EXT_NAME_FIRST:
		k->state = blank ? EXT_NAME_FIRST : EXT_NAME;
		return blank || token ? NULL : odd;
	case EXT_NAME:
		if (token)
			return NULL;
		k->state = EXT_EQUALS;
		/* fall through */
	case EXT_EQUALS:
		k->state = blank ? EXT_EQUALS : c == '=' ? EXT_VALUE_FIRST : EXT_NAME_FIRST;
		return blank || c == '=' || c == ';' ? NULL : odd;
	case EXT_VALUE_FIRST:
		k->state = blank ? EXT_VALUE_FIRST : c == '"' ? EXT_QUOTED : EXT_VALUE;
		return blank || c == '"' || token ? NULL : odd;
	case EXT_VALUE:
		k->state = token ? EXT_VALUE : blank ? EXT_SEMICOLON : EXT_NAME_FIRST;
		return token || blank || c == ';' ? NULL : odd;
	case EXT_QUOTED:
		k->state = c == '\\' ? EXT_QUOTED_PAIR : c == '"' ? EXT_QUOTED_END : EXT_QUOTED;
		return http_is(c, C_VALUE | C_OBS) ? NULL : odd;
	case EXT_QUOTED_PAIR:
		k->state = EXT_QUOTED;
		return http_is(c, C_VALUE | C_OBS) ? NULL : odd;
	default:
		k->state = blank ? EXT_SEMICOLON : EXT_NAME_FIRST;
		return blank || c == ';' ? NULL : odd;
	}
}

/* Trailers may not say again what the head has decided. */
static bool trailer_forbidden(struct str name)
{
	return str_ieq(name, STR("content-length")) || str_ieq(name, STR("transfer-encoding")) || str_ieq(name, STR("host")) ||
	       str_ieq(name, STR("connection")) || str_ieq(name, STR("authorization")) || http_lookalike(name);
}

static const char *step_name(struct http_chunked *k, char c)
{
	if (http_is(c, C_TOKEN)) {
		if (k->name_n < sizeof(k->name))
			k->name[k->name_n] = c;
		k->name_n += k->name_n <= sizeof(k->name);
		k->state = NAME;
		return NULL;
	}
	if (c != ':' || k->name_n == 0)
		return "a trailer line is not a header";
	if (k->name_n <= sizeof(k->name) && trailer_forbidden(str_n(k->name, k->name_n)))
		return "a trailer may not carry framing, routing or authorization";
	k->state = VALUE;
	return NULL;
}

static const char *step_trailer(struct http_chunked *k, char c)
{
	if (++k->line > MAX_TRAILERS)
		return "the trailers are longer than 8192 bytes";
	switch (k->state) {
	case TRAILER:
		k->name_n = 0;
		if (c == '\r') {
			k->state = END_LF;
			return NULL;
		}
		/* fall through */
	case NAME:
		return step_name(k, c);
	case VALUE:
		if (c == '\r')
			k->state = VALUE_LF;
		return c == '\r' || http_is(c, C_VALUE | C_OBS) ? NULL : "a trailer has a byte that may not stand there";
	default:
		k->state = k->state == VALUE_LF ? TRAILER : OVER;
		return c == '\n' ? NULL : "a trailer line does not end with CR LF";
	}
}
