/* shape.c - see shape.h. */
#include "common/llm/shape.h"

#include <string.h>

enum { SHAPE_TEXT_MAX = 4096 };

void shape_free(struct shape *s) { buf_free(&s->text); }

void shape_learn(struct shape *s, const struct json *doc, const uint32_t *holes, unsigned n, unsigned text_hole)
{
	s->n_holes = 0;
	if (doc->len > SHAPE_TEXT_MAX || n == 0 || n > SHAPE_HOLES)
		return;
	buf_clear(&s->text);
	buf_add(&s->text, doc->text, doc->len);
	for (unsigned i = 0; i < n; i++) {
		struct str raw = json_raw(doc, holes[i]);
		uint32_t at = (uint32_t)(raw.p - doc->text);

		s->lit_end[i] = at + 1;
		s->lit_at[i + 1] = at + (uint32_t)raw.n - 1;
	}
	s->lit_at[0] = 0;
	s->lit_end[n] = (uint32_t)doc->len;
	s->n_holes = n;
	s->text_hole = text_hole;
}

/* The quote that ends the string whose inside begins at p; NULL when there is none. */
static const char *string_end(const char *p, const char *end)
{
	const char *quote = p;

	while ((quote = memchr(quote, '"', (size_t)(end - quote)))) {
		const char *slash = quote;

		while (slash > p && slash[-1] == '\\')
			slash--;
		if ((quote - slash) % 2 == 0)
			return quote;
		quote++;
	}
	return NULL;
}

bool shape_match(const struct shape *s, struct str event, struct str *ret_text)
{
	const char *p = event.p, *end = event.p + event.n, *quote;

	if (!s->n_holes)
		return false;
	for (unsigned i = 0;; i++) {
		size_t n = s->lit_end[i] - s->lit_at[i];

		if (i == s->n_holes)
			return (size_t)(end - p) == n && memcmp(p, s->text.p + s->lit_at[i], n) == 0;
		if ((size_t)(end - p) < n || memcmp(p, s->text.p + s->lit_at[i], n) != 0)
			return false;
		p += n;
		quote = string_end(p, end);
		if (!quote)
			return false;
		if (i == s->text_hole)
			*ret_text = str_n(p, (size_t)(quote - p));
		p = quote;
	}
}
