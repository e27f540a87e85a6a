/* ndjson.c - see ndjson.h. */
#include "common/io/ndjson.h"

#include <string.h>

void ndjson_init(struct ndjson_reader *r, size_t max_line)
{
	*r = (struct ndjson_reader){ .max_line = max_line };
}

void ndjson_free(struct ndjson_reader *r)
{
	buf_free(&r->line);
	ndjson_init(r, r->max_line);
}

static enum err too_large(struct ndjson_reader *r, size_t max, struct why *why)
{
	r->broken = true;
	return err_set(why, ERR_TOO_LARGE, "a line of the stream is longer than %zu bytes", max);
}

static struct str without_cr(struct str line)
{
	return line.n && line.p[line.n - 1] == '\r' ? str_n(line.p, line.n - 1) : line;
}

enum err ndjson_feed(struct ndjson_reader *r, struct str in, void (*on_line)(void *arg, struct str line), void *arg, struct why *why)
{
	size_t max = r->max_line ? r->max_line : NDJSON_MAX_LINE;
	const char *p = in.p, *end = in.n ? p + in.n : p, *lf;

	if (r->broken)
		return too_large(r, max, why);
	for (; p < end; p = lf + 1) {
		struct str line;

		lf = memchr(p, '\n', (size_t)(end - p));
		line = str_n(p, (size_t)((lf ? lf : end) - p));
		if (line.n > max - r->line.n)
			return too_large(r, max, why);
		if (r->line.n || !lf) {
			buf_str(&r->line, line);
			line = buf_as_str(&r->line);
		}
		if (!lf)
			break;
		line = without_cr(line);
		if (line.n)
			on_line(arg, line);
		buf_clear(&r->line);
	}
	return ERR_OK;
}

bool ndjson_finish(struct ndjson_reader *r, struct str *ret_rest)
{
	struct str rest = without_cr(buf_as_str(&r->line));

	buf_clear(&r->line);
	if (r->broken || rest.n == 0)
		return false;
	*ret_rest = rest;
	return true;
}
