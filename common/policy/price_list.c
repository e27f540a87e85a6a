/* price_list.c - see price_list.h. */
#include "common/policy/price_list.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"

enum { MEMO = 512, WORD = 96 };

/* What was found before. */
struct memo {
	char provider[WORD], backend[WORD], model[WORD];
	int64_t from_us, until_us;    /* the time it holds for; empty at first */
	struct price_pair found;
};

struct price_list {
	struct arena *mem;            /* the words */
	struct price *list;
	size_t n, cap;
	uint64_t version;
	struct memo memo[MEMO];
	bool found;                   /* something is kept in 'memo' */
};

struct price_list *price_list_new(void)
{
	struct price_list *l = x_calloc(1, sizeof(*l));

	l->mem = arena_new(0);
	return l;
}

void price_list_free(struct price_list *l)
{
	if (!l)
		return;
	arena_free(l->mem);
	free(l->list);
	free(l);
}

static void forget(struct price_list *l)
{
	if (l->found)
		memset(l->memo, 0, sizeof(l->memo));
	l->found = false;
}

void price_list_clear(struct price_list *l)
{
	arena_reset(l->mem);
	l->n = 0;
	l->version = 0;
	forget(l);
}

static uint64_t version_with(uint64_t version, const struct price *p)
{
	const int64_t numbers[] = { p->id, p->valid_from_us, p->kind, p->input, p->cached_input, p->output, p->gpu_hour, p->kwh };
	uint64_t v = str_hash(str_n((const char *)numbers, sizeof(numbers)), version);

	v = str_hash(p->model, str_hash(p->backend, str_hash(p->provider, v)));
	return v ? v : 1;
}

void price_list_add(struct price_list *l, const struct price *p)
{
	struct price *to;

	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 32;
		l->list = x_realloc(l->list, l->cap * sizeof(*l->list));
	}
	to = &l->list[l->n++];
	*to = *p;
	to->provider = arena_str(l->mem, p->provider);
	to->backend = arena_str(l->mem, p->backend);
	to->model = arena_str(l->mem, p->model);
	l->version = version_with(l->version, p);
	forget(l);
}

const struct price *price_list_all(const struct price_list *l, size_t *ret_n)
{
	*ret_n = l->n;
	return l->list;
}

uint64_t price_list_version(const struct price_list *l) { return l->version; }

static bool is_of(const struct memo *m, const char *provider, const char *backend, const char *model, int64_t at_us)
{
	return at_us >= m->from_us && at_us < m->until_us && strcmp(m->model, model) == 0 && strcmp(m->backend, backend) == 0 &&
	       strcmp(m->provider, provider) == 0;
}

static void look_up(const struct price_list *l, const char *provider, const char *backend, const char *model, int64_t at_us, struct memo *ret)
{
	struct str p = str_of(provider), b = str_of(backend), m = str_of(model);

	ret->found = (struct price_pair){ price_find(l->list, l->n, PRICE_TOKENS, p, b, m, at_us), price_find(l->list, l->n, PRICE_MACHINE, p, b, m, at_us) };
	price_span(l->list, l->n, at_us, &ret->from_us, &ret->until_us);
	if (!str_copy(ret->provider, WORD, p) || !str_copy(ret->backend, WORD, b) || !str_copy(ret->model, WORD, m))
		ret->until_us = ret->from_us;     /* too long to be known again */
}

struct price_pair price_list_find(struct price_list *l, const char *provider, const char *backend, const char *model, int64_t at_us)
{
	struct memo *m;

	if (!l || !l->n)
		return (struct price_pair){ NULL, NULL };
	m = &l->memo[(str_hash(str_of(model), 0) ^ str_hash(str_of(backend), 1)) % MEMO];
	if (!is_of(m, provider, backend, model, at_us))
		look_up(l, provider, backend, model, at_us, m);
	l->found = true;
	return m->found;
}
