/* catalogue.c - see catalogue.h. The built-in table is catalogue.tsv, linked in as it is. */
#include "services/cloud-fallback/catalogue.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

__asm__(".pushsection .rodata\n"
	".global cloud_catalogue_begin\n.global cloud_catalogue_end\n"
	"cloud_catalogue_begin: .incbin \"services/cloud-fallback/catalogue.tsv\"\n"
	"cloud_catalogue_end: .byte 0\n"
	".popsection\n");
extern const char cloud_catalogue_begin[] __attribute__((visibility("hidden")));
extern const char cloud_catalogue_end[] __attribute__((visibility("hidden")));

enum { FILE_MAX = 1 << 20, COLUMNS = 10, ROWS_MAX = 20000 };

struct catalogue {
	struct catalogue_row *rows;
	size_t n, cap;
};

static enum err bad(const char *file, unsigned line, const char *text, struct why *why)
{
	return err_field(why, ERR_INVALID, "cloud_catalogue", "%.200s:%u: %s", file, line, text);
}

static bool read_number(struct str s, int64_t *ret, bool *ret_given)
{
	*ret_given = s.n && !str_eqz(s, "-");
	*ret = 0;
	return !*ret_given || (str_i64(s, ret) && *ret >= 0);
}

static bool date_ok(struct str s) { return s.n == 10 && s.p[4] == '-' && s.p[7] == '-'; }

static enum err read_row(const char *file, unsigned line, struct str text, struct catalogue_row *r, struct why *why)
{
	struct str c[COLUMNS], rest = text;
	int64_t context, output, n[3];
	bool given, in, cached, out;
	unsigned k = 0;

	while (k < COLUMNS && str_split(&rest, '\t', &c[k]))
		k++;
	if (k != COLUMNS || rest.p)
		return bad(file, line, "a row has ten columns with tabs between them: kind, model, context, most output, capabilities, input, cached input, "
			   "output, date, source", why);
	if (!read_number(c[2], &context, &given) || !read_number(c[3], &output, &given) || context > UINT32_MAX || output > UINT32_MAX)
		return bad(file, line, "the context and the most output are numbers of tokens, or '-'", why);
	if (!read_number(c[5], &n[0], &in) || !read_number(c[6], &n[1], &cached) || !read_number(c[7], &n[2], &out) || in != out || (cached && !in))
		return bad(file, line, "prices are micro-dollars for a million tokens: input and output, or '-' for both", why);
	if (!c[0].n || !c[1].n || !date_ok(c[8]) || !c[9].n)
		return bad(file, line, "a row needs a kind, a model, a date such as 2026-11-20, and where it was read", why);
	*r = (struct catalogue_row){ c[0], c[1], (uint32_t)context, (uint32_t)output, str_eqz(c[4], "-") ? STR("") : c[4], in,
				     n[0], cached ? n[1] : n[0], n[2], c[8], c[9] };
	return ERR_OK;
}

static enum err read_rows(const char *file, struct str text, struct catalogue *c, struct why *why)
{
	struct str line;
	unsigned n = 0;

	while (str_split(&text, '\n', &line)) {
		enum err e;

		n++;
		if (!line.n || line.p[0] == '#')
			continue;
		if (c->n == c->cap)
			return bad(file, n, "too many rows", why);
		e = read_row(file, n, line, &c->rows[c->n], why);
		if (e)
			return e;
		c->n++;
	}
	return ERR_OK;
}

static bool read_file(const char *path, struct arena *mem, struct str *ret, struct why *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = arena_alloc(mem, FILE_MAX + 1);
	ssize_t n = fd >= 0 ? read(fd, text, FILE_MAX + 1) : -1;

	if (fd >= 0)
		close(fd);
	if (n < 0 || n > FILE_MAX) {
		err_field(why, ERR_INVALID, "cloud_catalogue", "the file %.200s cannot be read: %s", path, n < 0 ? strerror(errno) : "it is larger than 1 MiB");
		return false;
	}
	*ret = str_n(text, (size_t)n);
	return true;
}

const struct catalogue *cloud_catalogue_load(struct arena *mem, const char *path, struct why *why)
{
	struct catalogue *c = arena_new_of(mem, struct catalogue);
	struct str text, built_in = str_n(cloud_catalogue_begin, (size_t)(cloud_catalogue_end - cloud_catalogue_begin));

	c->cap = ROWS_MAX;
	c->rows = arena_array(mem, struct catalogue_row, ROWS_MAX);
	if (path[0] && (!read_file(path, mem, &text, why) || read_rows(path, text, c, why)))
		return NULL;
	return read_rows("catalogue.tsv", built_in, c, why) ? NULL : c;
}

static bool fits(struct str pattern, struct str model)
{
	if (pattern.n && pattern.p[pattern.n - 1] == '*')
		return str_starts(model, str_n(pattern.p, pattern.n - 1));
	return str_eq(pattern, model);
}

const struct catalogue_row *cloud_catalogue_find(const struct catalogue *c, struct str kind, struct str provider, struct str model)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct catalogue_row *r = &c->rows[i];

		if ((str_eqz(r->kind, "*") || str_eq(r->kind, kind) || str_eq(r->kind, provider)) && fits(r->model, model))
			return r;
	}
	return NULL;
}
