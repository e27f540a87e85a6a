/* http1_path.c - the small parts of HTTP around the codec: values to be sent, reasons, paths, queries. See http1.h. */
#include "common/base/arena.h"
#include "common/io/http1.h"
#include "common/io/http1_scan.h"

bool http_value_ok(struct str value)
{
	return value.n == 0 || http_skip_value(value.p, value.p + value.n, true) == value.p + value.n;
}

bool http_name_ok(struct str name)
{
	return name.n > 0 && http_all(name, C_TOKEN) && !http_lookalike(name);
}

const char *http_reason(int status)
{
	static const struct { int status; const char *reason; } known[] = {
		{ 100, "Continue" }, { 101, "Switching Protocols" }, { 103, "Early Hints" },
		{ 200, "OK" }, { 201, "Created" }, { 202, "Accepted" }, { 204, "No Content" }, { 206, "Partial Content" },
		{ 301, "Moved Permanently" }, { 302, "Found" }, { 303, "See Other" }, { 304, "Not Modified" },
		{ 307, "Temporary Redirect" }, { 308, "Permanent Redirect" },
		{ 400, "Bad Request" }, { 401, "Unauthorized" }, { 402, "Payment Required" }, { 403, "Forbidden" }, { 404, "Not Found" },
		{ 405, "Method Not Allowed" }, { 406, "Not Acceptable" }, { 408, "Request Timeout" }, { 409, "Conflict" }, { 410, "Gone" },
		{ 411, "Length Required" }, { 412, "Precondition Failed" }, { 413, "Content Too Large" }, { 414, "URI Too Long" },
		{ 415, "Unsupported Media Type" }, { 417, "Expectation Failed" }, { 421, "Misdirected Request" },
		{ 422, "Unprocessable Content" }, { 425, "Too Early" }, { 426, "Upgrade Required" }, { 428, "Precondition Required" },
		{ 429, "Too Many Requests" }, { 431, "Request Header Fields Too Large" }, { 499, "Client Closed Request" },
		{ 500, "Internal Server Error" }, { 501, "Not Implemented" }, { 502, "Bad Gateway" }, { 503, "Service Unavailable" },
		{ 504, "Gateway Timeout" }, { 505, "HTTP Version Not Supported" }, { 507, "Insufficient Storage" }, { 529, "Overloaded" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].status == status)
			return known[i].reason;
	return "";
}

/* The byte at *p, which may be an escape, and past it; -1 for a broken escape. */
static int unescape(const char **p, const char *end)
{
	const char *at = *p;

	if (*at != '%') {
		*p = at + 1;
		return (unsigned char)*at;
	}
	if (end - at < 3 || !http_is(at[1], C_HEX) || !http_is(at[2], C_HEX))
		return -1;
	*p = at + 3;
	return (int)(http_unhex(at[1]) << 4 | http_unhex(at[2]));
}

/* ".", "..", and both with parameters or an encoded slash behind, which some servers strip or decode first. */
static bool dot_segment(const char *p, const char *end)
{
	const char *q = p;

	while (q < end && q - p < 2 && *q == '.')
		q++;
	return q > p && (q == end || *q == ';' || *q == '%');
}

/* One byte of a segment, or an encoded slash, which stays what it is: it parts nothing. NULL for what no path may hold. */
static char *add_byte(const char **p, const char *end, char *to, const char *limit)
{
	bool plain = **p != '%';
	int c = unescape(p, end);

	if (c < 0x20 || c == 0x7f || c == '\\' || to == limit)
		return NULL;
	if (c != '/' || plain) {
		*to = (char)c;
		return to + 1;
	}
	if (limit - to < 3)
		return NULL;
	memcpy(to, "%2F", 3);
	return to + 3;
}

/* Nothing of it changes: no escapes, dots or doubled slashes, ASCII throughout. Nearly every path that is asked for. */
static bool is_plain(struct str path)
{
	unsigned in_all = C_PLAIN;
	bool doubled = false;
	char before = 0;
	size_t i = 0;

#ifdef __SSE2__
	for (; path.n - i >= 16; i += 16) {
		if (!http_plain_16(path.p + i) || (before == '/' && path.p[i] == '/'))
			return false;
		before = path.p[i + 15];
	}
#endif
	for (; i < path.n; i++) {
		in_all &= http_class[(unsigned char)path.p[i]];
		doubled |= path.p[i] == '/' && before == '/';
		before = path.p[i];
	}
	return in_all && !doubled && (path.n == 1 || before != '/');
}

bool http_path_normalise(struct str path, char *out, size_t cap, struct str *ret)
{
	const char *p = path.p, *end;
	char *to = out, *segment;

	if (path.n == 0 || *p != '/' || cap == 0)
		return false;
	if (path.n <= cap && is_plain(path)) {
		memcpy(out, path.p, path.n);
		*ret = str_n(out, path.n);
		return true;
	}
	end = p + path.n;
	for (;;) {
		while (p < end && *p == '/')
			p++;
		if (p == end)
			break;
		if (to == out + cap)
			return false;
		*to++ = '/';
		for (segment = to; p < end && *p != '/';)
			if (!(to = add_byte(&p, end, to, out + cap)))
				return false;
		if (dot_segment(segment, to))
			return false;
	}
	if (to == out)
		*to++ = '/';
	if (!str_utf8_valid(str_n(out, (size_t)(to - out))))
		return false;
	*ret = str_n(out, (size_t)(to - out));
	return true;
}

/* Decodes into 'out', which has room for all of 's'. False for a broken escape or an escaped NUL. */
static bool decode_form(struct str s, char *out, size_t *ret_n)
{
	const char *p = s.p, *end = s.n ? s.p + s.n : p;
	char *to = out;

	while (p < end) {
		int c = *p == '+' ? (p++, ' ') : unescape(&p, end);

		if (c <= 0)
			return false;
		*to++ = (char)c;
	}
	*ret_n = (size_t)(to - out);
	return true;
}

/* Is 'escaped' the plain 'name'? */
static bool same_name(struct str escaped, struct str name)
{
	const char *p = escaped.p, *end = escaped.p + escaped.n;
	size_t i = 0;

	while (p < end && i < name.n) {
		int c = *p == '+' ? (p++, ' ') : unescape(&p, end);

		if (c != (unsigned char)name.p[i++])
			return false;
	}
	return p == end && i == name.n;
}

bool http_query_get(struct str query, const char *name, struct arena *mem, struct str *ret)
{
	struct str pair, key, want = str_of(name);

	while (str_split(&query, '&', &pair)) {
		struct str value = pair;
		char *out;
		size_t n;

		if (!str_split(&value, '=', &key) || !same_name(key, want))
			continue;
		out = arena_alloc(mem, value.n + 1);
		if (!decode_form(value, out, &n))
			return false;
		out[n] = '\0';
		*ret = str_n(out, n);
		return true;
	}
	return false;
}
