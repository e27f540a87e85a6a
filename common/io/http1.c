/* http1.c - request and response heads, read in one pass. The contract is in http1.h.
 *
 * A cursor walks from line to line. Each line has a window, [p, stop), which ends where the input, the limit of
 * the line or the limit of the head ends: nothing looks beyond it, so the first fault in reading order decides,
 * however the bytes arrived. Headers that mean something here (note_header) are judged as they pass; what needs
 * the whole head (both framings at once, no Host) is judged at its end.
 * Chunked bodies are in http1_chunked.c, paths and values in http1_path.c. */
#include "common/io/http1.h"

#include <string.h>

#include "common/io/http1_scan.h"

const struct http_limits http_limits_default = { 8192, 8192, 32768, HTTP_MAX_HEADERS };

enum { MAX_METHOD = 24 };

struct cursor {
	const char *p, *stop;         /* the rest of the line's window */
	const char *end;              /* of the input or of what the head may take */
	bool line_cut, head_cut;      /* the window ends at the line's limit; the input fills the head's limit */
	bool response, in_headers;
	struct http_limits limits;
	struct http_head *h;
	struct why *why;
	uint32_t n_length, n_coding, n_host, n_upgrade;
	bool asks_close, asks_keep, asks_upgrade;
	struct str authority;         /* of an absolute-form target */
};

static enum http_parse parse_head(struct cursor *, struct str in, size_t seen, const struct http_limits *);
static bool worth_reading(struct str in, size_t seen, const struct http_limits *);
static enum http_parse request_line(struct cursor *);
static enum http_parse status_line(struct cursor *);
static enum http_parse headers(struct cursor *);
static enum http_parse judge(struct cursor *);
static enum http_parse judge_request(struct cursor *);
static void frame_response(struct cursor *, bool request_was_head);

enum http_parse http_parse_request(struct http_head *h, struct str in, size_t seen, const struct http_limits *limits, struct why *why)
{
	struct cursor c = { .h = h, .why = why };
	enum http_parse r = parse_head(&c, in, seen, limits);

	return r == HTTP_DONE ? judge_request(&c) : r;
}

enum http_parse http_parse_response(struct http_head *h, struct str in, size_t seen, bool request_was_head,
				    const struct http_limits *limits, struct why *why)
{
	struct cursor c = { .h = h, .why = why, .response = true };
	enum http_parse r = parse_head(&c, in, seen, limits);

	if (r == HTTP_DONE)
		frame_response(&c, request_was_head);
	return r;
}

const struct http_header *http_find_named(const struct http_head *h, struct str name)
{
	for (uint32_t i = 0; i < h->n_headers; i++)
		if (str_ieq(h->headers[i].name, name))
			return &h->headers[i];
	return NULL;
}

static enum http_parse bad(struct cursor *c, enum err code, const char *text)
{
	err_set(c->why, code, "%s", text);
	return HTTP_BAD;
}

/* The window ran out before the line did. */
static enum http_parse ran_out(struct cursor *c)
{
	if (c->line_cut && !c->in_headers)
		return bad(c, ERR_URI_TOO_LONG, "the first line is longer than allowed");
	if (c->line_cut)
		return bad(c, ERR_HEADERS_TOO_LARGE, "a header line is longer than allowed");
	if (c->head_cut)
		return bad(c, ERR_HEADERS_TOO_LARGE, "the head is longer than allowed");
	return HTTP_MORE;
}

static void open_line(struct cursor *c, uint32_t max)
{
	size_t left = (size_t)(c->end - c->p), window = (size_t)max + 2;     /* 2: the line end */

	c->line_cut = left >= window;
	c->stop = c->line_cut ? c->p + window : c->end;
}

/* CR LF at the cursor, and past them. */
static enum http_parse line_end(struct cursor *c)
{
	if (c->p == c->stop)
		return ran_out(c);
	if (*c->p == '\n')
		return bad(c, ERR_MALFORMED, "a line ends with LF alone; lines end with CR LF");
	if (*c->p != '\r')
		return bad(c, ERR_MALFORMED, "a byte that may not stand there");
	if (c->p + 1 == c->stop)
		return ran_out(c);
	if (c->p[1] != '\n')
		return bad(c, ERR_MALFORMED, "a CR without its LF");
	c->p += 2;
	return HTTP_DONE;
}

static void reset(struct http_head *h)
{
	memset(h, 0, offsetof(struct http_head, headers));
}

static enum http_parse parse_head(struct cursor *c, struct str in, size_t seen, const struct http_limits *limits)
{
	enum http_parse r;

	c->limits = limits ? *limits : http_limits_default;
	if (c->limits.max_headers > HTTP_MAX_HEADERS)
		c->limits.max_headers = HTTP_MAX_HEADERS;
	if (!worth_reading(in, seen, &c->limits))
		return HTTP_MORE;
	reset(c->h);
	c->head_cut = in.n >= c->limits.max_head;
	c->p = in.p;
	c->end = in.p + (c->head_cut ? c->limits.max_head : in.n);
	r = c->response ? status_line(c) : request_line(c);
	if (r == HTTP_DONE)
		r = headers(c);
	if (r != HTTP_DONE)
		return r;
	c->h->head_len = (uint32_t)(c->p - in.p);
	return judge(c);
}

/* A fault shows at the latest when its line has ended, so only a new line end or a full head is worth a pass from the
 * start: a slow sender costs a memchr over what it sent, and one pass for each line, of which there are few. */
static bool worth_reading(struct str in, size_t seen, const struct http_limits *limits)
{
	if (in.n == 0)
		return false;
	if (seen == 0 || seen > in.n || in.n >= limits->max_head)
		return true;
	return in.n > seen && memchr(in.p + seen, '\n', in.n - seen) != NULL;
}

/* The first line */

static enum http_parse read_target(struct cursor *);
static enum http_parse split_target(struct cursor *);
static enum http_parse read_version(struct cursor *);

static enum http_parse blank(struct cursor *c, const char *complaint)
{
	if (c->p == c->stop)
		return ran_out(c);
	if (*c->p != ' ')
		return bad(c, ERR_MALFORMED, complaint);
	c->p++;
	return HTTP_DONE;
}

/* One empty line before a request line, which some clients send after a body. */
static enum http_parse skip_empty_line(struct cursor *c)
{
	if (c->p == c->stop)
		return ran_out(c);
	if (*c->p != '\r')
		return HTTP_DONE;
	return line_end(c);
}

static enum http_parse request_line(struct cursor *c)
{
	const char *from;
	enum http_parse r;

	open_line(c, c->limits.max_line);
	if ((r = skip_empty_line(c)) != HTTP_DONE)
		return r;
	open_line(c, c->limits.max_line);
	from = c->p;
	c->p = http_skip_token(c->p, c->stop);
	c->h->method = str_n(from, (size_t)(c->p - from));
	if (c->h->method.n > MAX_METHOD)
		return bad(c, ERR_MALFORMED, "the method is longer than 24 letters");
	if (c->p < c->stop && c->p == from)
		return bad(c, ERR_MALFORMED, *from == 0x16 ? "this is TLS; the port speaks plain HTTP" : "a request line starts with a method");
	if ((r = blank(c, "the method is not a token followed by one space")) != HTTP_DONE)
		return r;
	if ((r = read_target(c)) != HTTP_DONE || (r = read_version(c)) != HTTP_DONE)
		return r;
	if ((r = line_end(c)) != HTTP_DONE)
		return r;
	return split_target(c);
}

static enum http_parse read_target(struct cursor *c)
{
	const char *from = c->p;

	c->p = http_skip(c->p, c->stop, C_TARGET);
	if (c->p == c->stop)
		return ran_out(c);
	c->h->target = str_n(from, (size_t)(c->p - from));
	if (*c->p == '\r' && c->h->target.n)
		return bad(c, ERR_MALFORMED, "the request line has no version; HTTP/0.9 is not spoken");
	if (*c->p == '#')
		return bad(c, ERR_MALFORMED, "a request target has no fragment");
	if (*c->p != ' ' || c->h->target.n == 0)
		return bad(c, ERR_MALFORMED, "the request target is empty or has a byte that must be percent-encoded");
	c->p++;
	return HTTP_DONE;
}

/* Exactly HTTP/1.0 or HTTP/1.1. */
static enum http_parse read_version(struct cursor *c)
{
	static const char want[] = "HTTP/1.";
	const char *p = c->p;
	size_t i = 0;

	if (c->stop - p >= 7 && memcmp(p, want, 7) == 0)
		i = 7, p += 7;
	for (; i < 7; i++, p++) {
		if (p == c->stop)
			return ran_out(c);
		if (*p == want[i])
			continue;
		if (i == 5 && *p == '2')
			return bad(c, ERR_MALFORMED, "HTTP/2 is not spoken on this port; use HTTP/1.1");
		return bad(c, ERR_MALFORMED, i < 5 ? "the version is not written HTTP/1.1" : "only HTTP/1.1 and HTTP/1.0 are spoken");
	}
	if (p == c->stop)
		return ran_out(c);
	if (*p != '0' && *p != '1')
		return bad(c, ERR_MALFORMED, "only HTTP/1.1 and HTTP/1.0 are spoken");
	c->h->minor = *p - '0';
	c->p = p + 1;
	return HTTP_DONE;
}

/* http://authority/path?query, whose authority must be what Host says (judge_request). */
static enum http_parse split_absolute(struct cursor *c, struct str *path)
{
	struct str t = c->h->target;
	size_t skip = t.n >= 7 && str_ieq(str_n(t.p, 7), STR("http://")) ? 7 : t.n >= 8 && str_ieq(str_n(t.p, 8), STR("https://")) ? 8 : 0;
	const char *p, *end = t.p + t.n;

	if (!skip)
		return bad(c, ERR_MALFORMED, "the request target is neither a path nor an http URL");
	for (p = t.p + skip; p < end && *p != '/' && *p != '?'; p++)
		;
	c->authority = str_n(t.p + skip, (size_t)(p - t.p) - skip);
	*path = str_n(p, (size_t)(end - p));
	return c->authority.n ? HTTP_DONE : bad(c, ERR_MALFORMED, "the request target has no authority");
}

static enum http_parse split_target(struct cursor *c)
{
	struct str path = c->h->target;
	const char *mark;

	if (str_eqz(c->h->method, "CONNECT"))
		return bad(c, ERR_METHOD_NOT_ALLOWED, "CONNECT is not served: this is not a tunnel");
	if (str_eqz(path, "*")) {
		c->h->path = path;
		return str_eqz(c->h->method, "OPTIONS") ? HTTP_DONE : bad(c, ERR_MALFORMED, "the target * belongs to OPTIONS alone");
	}
	if (path.p[0] != '/' && split_absolute(c, &path) != HTTP_DONE)
		return HTTP_BAD;
	mark = path.n ? memchr(path.p, '?', path.n) : NULL;
	c->h->path = mark ? str_n(path.p, (size_t)(mark - path.p)) : path;
	if (mark)
		c->h->query = str_n(mark + 1, path.n - c->h->path.n - 1);
	if (c->h->path.n == 0)
		c->h->path = STR("/");
	return HTTP_DONE;
}

static enum http_parse read_status(struct cursor *c)
{
	int status = 0;

	for (int i = 0; i < 3; i++, c->p++) {
		if (c->p == c->stop)
			return ran_out(c);
		if (*c->p < '0' || *c->p > '9')
			return bad(c, ERR_MALFORMED, "the status is not three digits");
		status = status * 10 + (*c->p - '0');
	}
	if (status < 100 || status > 599)
		return bad(c, ERR_MALFORMED, "the status is not between 100 and 599");
	c->h->status = status;
	return HTTP_DONE;
}

static enum http_parse status_line(struct cursor *c)
{
	enum http_parse r;

	open_line(c, c->limits.max_line);
	if ((r = read_version(c)) != HTTP_DONE || (r = blank(c, "no space after the version")) != HTTP_DONE)
		return r;
	if ((r = read_status(c)) != HTTP_DONE)
		return r;
	if (c->p < c->stop && *c->p == ' ') {
		const char *from = ++c->p;

		c->p = http_skip_value(c->p, c->stop, true);
		c->h->reason = str_n(from, (size_t)(c->p - from));
	}
	return line_end(c);
}

/* Headers */

static enum http_parse header_line(struct cursor *);
static enum http_parse bad_name(struct cursor *, const char *from);
static enum http_parse note_header(struct cursor *, const struct http_header *);

static enum http_parse headers(struct cursor *c)
{
	enum http_parse r;

	c->in_headers = true;
	for (;;) {
		open_line(c, c->limits.max_header);
		if (c->p == c->stop)
			return ran_out(c);
		if (*c->p == '\r')
			return line_end(c);
		if (c->h->n_headers == c->limits.max_headers)
			return bad(c, ERR_HEADERS_TOO_LARGE, "more header lines than allowed");
		if ((r = header_line(c)) != HTTP_DONE)
			return r;
	}
}

static enum http_parse header_line(struct cursor *c)
{
	struct http_header *f = &c->h->headers[c->h->n_headers];
	const char *from = c->p, *to;
	enum http_parse r;

	c->p = http_skip_token(c->p, c->stop);
	if (c->p == c->stop)
		return ran_out(c);
	if (*c->p != ':' || c->p == from)
		return bad_name(c, from);
	f->name = str_n(from, (size_t)(c->p - from));
	for (c->p++; c->p < c->stop && (*c->p == ' ' || *c->p == '\t'); c->p++)
		;
	from = c->p;
	c->p = to = http_skip_value(c->p, c->stop, true);     /* obs-text is opaque and legal: RFC 9110 5.5 */
	if ((r = line_end(c)) != HTTP_DONE)
		return r;
	while (to > from && (to[-1] == ' ' || to[-1] == '\t'))
		to--;
	f->value = str_n(from, (size_t)(to - from));
	c->h->names |= http_name_bit(f->name);
	c->h->n_headers++;
	return note_header(c, f);
}

static enum http_parse bad_name(struct cursor *c, const char *from)
{
	if (c->p == from && (*from == ' ' || *from == '\t'))
		return bad(c, ERR_MALFORMED, "a header line starts with a blank; folded lines are not accepted");
	if (c->p == from)
		return bad(c, ERR_MALFORMED, *from == ':' ? "a header has no name" : "a header name starts with a byte that may not stand there");
	if (*c->p == ' ' || *c->p == '\t')
		return bad(c, ERR_MALFORMED, "a blank between a header's name and its colon");
	if (*c->p == '\r' || *c->p == '\n')
		return bad(c, ERR_MALFORMED, "a header line has no colon");
	return bad(c, ERR_MALFORMED, "a header name has a byte that may not stand there");
}

static enum http_parse note_length(struct cursor *, struct str value);
static enum http_parse note_coding(struct cursor *, struct str value);
static enum http_parse note_host(struct cursor *, struct str value);
static enum http_parse note_connection(struct cursor *, struct str value);
static enum http_parse note_expect(struct cursor *, struct str value);

/* The length of a name tells nearly all of them apart. */
static enum http_parse note_header(struct cursor *c, const struct http_header *f)
{
	switch (f->name.n) {
	case 4:
		return str_ieq(f->name, STR("host")) && !c->response ? note_host(c, f->value) : HTTP_DONE;
	case 6:
		return str_ieq(f->name, STR("expect")) && !c->response ? note_expect(c, f->value) : HTTP_DONE;
	case 7:
		c->n_upgrade += str_ieq(f->name, STR("upgrade")) && f->value.n;
		return HTTP_DONE;
	case 10:
		return str_ieq(f->name, STR("connection")) ? note_connection(c, f->value) : HTTP_DONE;
	case 14:
		if (str_ieq(f->name, STR("content-length")))
			return note_length(c, f->value);
		break;
	case 17:
		if (str_ieq(f->name, STR("transfer-encoding")))
			return note_coding(c, f->value);
		break;
	default:
		return HTTP_DONE;
	}
	return http_lookalike(f->name) ? bad(c, ERR_MALFORMED, "a header name that others may read as Content-Length or Transfer-Encoding")
	                               : HTTP_DONE;
}

static enum http_parse note_length(struct cursor *c, struct str value)
{
	uint64_t n;

	if (c->n_length++)
		return bad(c, ERR_MALFORMED, "more than one Content-Length");
	if (!str_u64(value, &n) || n > INT64_MAX || (value.n > 1 && value.p[0] == '0'))
		return bad(c, ERR_MALFORMED, "Content-Length is not a plain decimal number");
	c->h->content_length = n;
	return HTTP_DONE;
}

static enum http_parse note_coding(struct cursor *c, struct str value)
{
	struct str item, rest = value;

	if (c->n_coding++)
		return bad(c, ERR_MALFORMED, "more than one Transfer-Encoding");
	if (str_ieq(value, STR("chunked")))
		return HTTP_DONE;
	while (http_list_next(&rest, &item))
		if (!str_ieq(item, STR("chunked")) && http_all(item, C_TOKEN))
			return bad(c, ERR_NOT_IMPLEMENTED, "the only transfer coding understood is chunked");
	return bad(c, ERR_MALFORMED, "Transfer-Encoding is not exactly 'chunked'");
}

static bool host_ok(struct str host);

static enum http_parse note_host(struct cursor *c, struct str value)
{
	if (c->n_host++)
		return bad(c, ERR_MALFORMED, "more than one Host");
	if (!host_ok(value))
		return bad(c, ERR_MALFORMED, "Host is not a host name or address with an optional port");
	c->h->host = value;
	return HTTP_DONE;
}

static enum http_parse note_connection(struct cursor *c, struct str value)
{
	struct str item;

	while (http_list_next(&value, &item)) {
		if (!http_all(item, C_TOKEN))
			return bad(c, ERR_MALFORMED, "Connection is not a list of tokens");
		if (str_ieq(item, STR("close")))
			c->asks_close = true;
		else if (str_ieq(item, STR("keep-alive")))
			c->asks_keep = true;
		else if (str_ieq(item, STR("upgrade")))
			c->asks_upgrade = true;
		else if (str_ieq(item, STR("content-length")) || str_ieq(item, STR("transfer-encoding")) || str_ieq(item, STR("host")))
			return bad(c, ERR_MALFORMED, "Connection names a header that every hop needs");
	}
	return HTTP_DONE;
}

static enum http_parse note_expect(struct cursor *c, struct str value)
{
	if (!str_ieq(value, STR("100-continue")))
		return bad(c, ERR_EXPECTATION_FAILED, "the only expectation that can be met is 100-continue");
	c->h->expect_continue = c->h->minor == 1;
	return HTTP_DONE;
}

/* Letters, digits, - . _, or an address in brackets; then an optional port. */
static bool host_ok(struct str host)
{
	const char *p = host.p, *end = host.p + host.n, *from;
	uint64_t port;

	if (host.n && *p == '[') {
		for (from = ++p; p < end && (http_is(*p, C_HEX) || *p == ':' || *p == '.'); p++)
			;
		if (p == from || p == end || *p++ != ']')
			return false;
	} else {
		p = http_skip(p, end, C_HOST);
		if (p == host.p)
			return false;
	}
	if (p == end)
		return true;
	return *p == ':' && end - p <= 6 && str_u64(str_n(p + 1, (size_t)(end - p) - 1), &port) && port <= 65535;
}

/* The whole head */

static enum http_parse judge(struct cursor *c)
{
	struct http_head *h = c->h;

	if (c->n_length && c->n_coding)
		return bad(c, ERR_MALFORMED, "both Content-Length and Transfer-Encoding");
	if (c->n_coding && h->minor == 0)
		return bad(c, ERR_MALFORMED, "Transfer-Encoding in a message of HTTP/1.0");
	h->framing = c->n_coding ? HTTP_CHUNKED : c->n_length ? HTTP_LENGTH : HTTP_NO_BODY;
	h->keep_alive = !c->asks_close && (h->minor == 1 || c->asks_keep);
	h->upgrade = h->minor == 1 && c->asks_upgrade && c->n_upgrade;
	return HTTP_DONE;
}

static enum http_parse judge_request(struct cursor *c)
{
	struct http_head *h = c->h;

	if (h->minor == 1 && c->n_host == 0)
		return bad(c, ERR_MALFORMED, "a request of HTTP/1.1 has a Host");
	if (c->authority.n == 0)
		return HTTP_DONE;
	if (!host_ok(c->authority))
		return bad(c, ERR_MALFORMED, "the authority of the request target is not a host with an optional port");
	if (c->n_host && !str_ieq(c->authority, h->host))
		return bad(c, ERR_MALFORMED, "the request target and Host name different hosts");
	h->host = c->authority;
	return HTTP_DONE;
}

static void frame_response(struct cursor *c, bool request_was_head)
{
	struct http_head *h = c->h;

	if (request_was_head || h->status < 200 || h->status == 204 || h->status == 304)
		h->framing = HTTP_NO_BODY;
	else if (h->framing == HTTP_NO_BODY)
		h->framing = HTTP_UNTIL_CLOSE;
	if (h->framing == HTTP_UNTIL_CLOSE)
		h->keep_alive = false;
}
