/* arena.c - see arena.h. Blocks double up to 64 KiB; a larger allocation gets a block of its own. */
#include "common/base/arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct block {
	struct block *next;
	size_t cap, used;
	_Alignas(16) char data[];
};

struct cleanup {
	struct cleanup *next;
	void (*fn)(void *);
	void *arg;
};

struct arena {
	struct block *head;       /* allocates from here; older ones follow */
	struct block *first;      /* kept by arena_reset() */
	struct cleanup *cleanups;
	size_t used;
};

enum { BLOCK_MAX = 64 * 1024 };

static void *must(void *p, size_t n)
{
	if (!p) {
		fprintf(stderr, "out of memory: %zu bytes\n", n);
		abort();
	}
	return p;
}

void *x_malloc(size_t n) { return must(malloc(n ? n : 1), n); }
void *x_calloc(size_t n, size_t size) { return must(calloc(n ? n : 1, size ? size : 1), n * size); }
void *x_realloc(void *p, size_t n) { return must(realloc(p, n ? n : 1), n); }
char *x_strdup(const char *s) { return must(strdup(s), strlen(s)); }

static struct block *block_new(size_t cap)
{
	struct block *b = x_malloc(sizeof(*b) + cap);

	b->next = NULL;
	b->cap = cap;
	b->used = 0;
	return b;
}

struct arena *arena_new(size_t first_block)
{
	struct arena *a = x_calloc(1, sizeof(*a));

	a->head = a->first = block_new(first_block ? first_block : 4096);
	return a;
}

static void drop(struct arena *a, const struct block *keep)
{
	struct block *b, *next;

	while (a->cleanups) {          /* a cleanup may register another */
		struct cleanup *c = a->cleanups;

		a->cleanups = c->next;
		c->fn(c->arg);
	}
	for (b = a->head; b; b = next) {
		next = b->next;
		if (b != keep)
			free(b);
	}
}

void arena_free(struct arena *a)
{
	if (!a)
		return;
	drop(a, NULL);
	free(a);
}

/* What one use needed the next one will need: then it finds it in one piece. */
static struct block *to_keep(const struct arena *a)
{
	struct block *keep = a->first;

	for (struct block *b = a->head; b; b = b->next)
		if (b->cap <= BLOCK_MAX && b->cap > keep->cap)
			keep = b;
	return keep;
}

void arena_reset(struct arena *a)
{
	struct block *keep = to_keep(a);

	drop(a, keep);
	keep->next = NULL;
	keep->used = 0;
	a->head = a->first = keep;
	a->used = 0;
}

size_t arena_used(const struct arena *a) { return a->used; }

void *arena_alloc(struct arena *a, size_t n)
{
	struct block *b = a->head;
	size_t need = (n + 15) & ~(size_t)15;
	void *p;

	if (need < n)
		must(NULL, n);
	if (b->cap - b->used < need) {
		size_t cap = b->cap * 2 > BLOCK_MAX ? BLOCK_MAX : b->cap * 2;

		b = block_new(need > cap ? need : cap);
		if (need > cap && a->head->cap - a->head->used > 256) {
			b->next = a->head->next;      /* keep filling the current block */
			a->head->next = b;
		} else {
			b->next = a->head;
			a->head = b;
		}
	}
	p = b->data + b->used;
	b->used += need;
	a->used += need;
	return p;
}

void *arena_zero(struct arena *a, size_t n) { return memset(arena_alloc(a, n), 0, n); }

char *arena_dup(struct arena *a, const void *p, size_t n)
{
	char *d = arena_alloc(a, n + 1);

	if (n)
		memcpy(d, p, n);
	d[n] = '\0';
	return d;
}

struct str arena_str(struct arena *a, struct str s) { return str_n(arena_dup(a, s.p, s.n), s.n); }

static struct str vfmt(struct arena *a, const char *fmt, va_list ap)
{
	va_list again;
	char *p;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	if (n < 0)
		n = 0;
	p = arena_alloc(a, (size_t)n + 1);
	vsnprintf(p, (size_t)n + 1, fmt, again);
	va_end(again);
	return str_n(p, (size_t)n);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	struct str s;

	va_start(ap, fmt);
	s = vfmt(a, fmt, ap);
	va_end(ap);
	return (char *)s.p;
}

struct str arena_fmt(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	struct str s;

	va_start(ap, fmt);
	s = vfmt(a, fmt, ap);
	va_end(ap);
	return s;
}

struct str arena_join(struct arena *a, const struct str *parts, size_t n)
{
	size_t total = 0;
	char *p, *at;

	for (size_t i = 0; i < n; i++)
		total += parts[i].n;
	p = at = arena_alloc(a, total + 1);
	for (size_t i = 0; i < n; i++) {
		if (parts[i].n)
			memcpy(at, parts[i].p, parts[i].n);
		at += parts[i].n;
	}
	*at = '\0';
	return str_n(p, total);
}

void arena_defer(struct arena *a, void (*fn)(void *), void *arg)
{
	struct cleanup *c = arena_alloc(a, sizeof(*c));

	*c = (struct cleanup){ a->cleanups, fn, arg };
	a->cleanups = c;
}
