/* pattern.c - see pattern.h.
 *
 * Parsed into a small tree, written out as steps (Thompson's construction), run as Pike's machine: a list of steps that are reached, each with
 * the earliest place in the text from which it is. Lists are in the order of those places, so who reaches a step first has the earliest. */
#include "common/base/pattern.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 32, REPEAT_MAX = 1000, NO_LIMIT = -1 };

struct byte_set { uint64_t w[4]; };

static void set_add(struct byte_set *s, unsigned char c) { s->w[c >> 6] |= UINT64_C(1) << (c & 63); }
static bool set_has(const struct byte_set *s, unsigned char c) { return s->w[c >> 6] >> (c & 63) & 1; }

enum op { OP_SET, OP_SPLIT, OP_JUMP, OP_BEGIN, OP_END, OP_EDGE, OP_MATCH };
struct step { uint8_t op; uint16_t x, y; };      /* OP_SET: x = index of the set; OP_SPLIT, OP_JUMP: where to */

struct pattern {
	struct step *steps;
	struct byte_set *sets;
	unsigned n_steps, n_sets;
	struct byte_set first;        /* bytes that a match can begin with */
};

/* ---- the tree ---- */

enum node_kind { N_EMPTY, N_SET, N_CAT, N_ALT, N_REPEAT, N_BEGIN, N_END, N_EDGE };
struct node {
	enum node_kind kind;
	struct node *a, *b;
	int min, max;
	struct byte_set set;
};

struct reader {
	struct str text;
	size_t at;
	struct arena *mem;
	struct why *why;
	unsigned depth;
	bool any_case;
};

static struct node *alternatives(struct reader *r);

static struct node *bad(struct reader *r, const char *what)
{
	err_set(r->why, ERR_INVALID, "the pattern is wrong at character %zu: %s", r->at + 1, what);
	return NULL;
}

static bool more(const struct reader *r) { return r->at < r->text.n; }
static unsigned char peek(const struct reader *r) { return more(r) ? (unsigned char)r->text.p[r->at] : 0; }

static struct node *node(struct reader *r, enum node_kind kind, struct node *a, struct node *b)
{
	struct node *n = arena_new_of(r->mem, struct node);

	n->kind = kind;
	n->a = a;
	n->b = b;
	return n;
}

static bool is_word(unsigned char c) { return c < 128 && (isalnum(c) || c == '_'); }

static bool in_class(char class, unsigned char c)
{
	switch (class) {
	case 'd': return c >= '0' && c <= '9';
	case 'w': return is_word(c);
	case 's': return c == ' ' || (c >= '\t' && c <= '\r');
	default: return false;
	}
}

static void add_class(struct byte_set *s, char class)
{
	bool not = class >= 'A' && class <= 'Z';

	for (unsigned c = 0; c < 256; c++)
		if (in_class((char)(class | 32), (unsigned char)c) != not)
			set_add(s, (unsigned char)c);
}

static int hex(unsigned char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* After a backslash: a class is added to the set and -1 returned; else the byte that is meant; -2 for what means nothing. */
static int escaped(struct reader *r, struct byte_set *s)
{
	unsigned char c = peek(r);

	r->at++;
	if (c && strchr("dwsDWS", c)) {
		add_class(s, (char)c);
		return -1;
	}
	if (c == 'x' && r->at + 1 < r->text.n) {
		int high = hex((unsigned char)r->text.p[r->at]), low = hex((unsigned char)r->text.p[r->at + 1]);

		r->at += 2;
		return high < 0 || low < 0 ? -2 : high * 16 + low;
	}
	if (c == 'n' || c == 't' || c == 'r')
		return c == 'n' ? '\n' : c == 't' ? '\t' : '\r';
	return c && !isalnum(c) ? c : -2;
}

static void both_cases(const struct reader *r, struct byte_set *s)
{
	for (unsigned c = 'a'; r->any_case && c <= 'z'; c++)
		if (set_has(s, (unsigned char)c) || set_has(s, (unsigned char)(c - 32))) {
			set_add(s, (unsigned char)c);
			set_add(s, (unsigned char)(c - 32));
		}
}

/* [:name:] */
static bool named_class(struct reader *r, struct byte_set *s)
{
	static const struct { const char *name; int (*is)(int); } classes[] = {
		{ "alpha", isalpha }, { "digit", isdigit }, { "alnum", isalnum }, { "upper", isupper }, { "lower", islower },
		{ "space", isspace }, { "punct", ispunct }, { "xdigit", isxdigit },
	};

	for (size_t i = 0; i < sizeof(classes) / sizeof(*classes); i++) {
		char text[16];
		int n = snprintf(text, sizeof(text), "[:%s:]", classes[i].name);

		if (!str_starts(str_from(r->text, r->at), str_n(text, (size_t)n)))
			continue;
		r->at += (size_t)n;
		for (int c = 0; c < 128; c++)
			if (classes[i].is(c))
				set_add(s, (unsigned char)c);
		return true;
	}
	return false;
}

/* One member of [ ]: its byte; -1 for a class, -2 for an error that was told. */
static int member(struct reader *r, struct byte_set *s)
{
	int c = peek(r);

	if (c == '[' && r->at + 1 < r->text.n && r->text.p[r->at + 1] == ':')
		return named_class(r, s) ? -1 : (bad(r, "this class has no such name"), -2);
	r->at++;
	if (c == '\\')
		c = escaped(r, s);
	if (c == -2 || c > 127)
		return bad(r, c > 127 ? "only ASCII may stand between [ and ]" : "this escape means nothing"), -2;
	return c;
}

static bool range(struct reader *r, struct byte_set *s, int from)
{
	int to = from;

	if (peek(r) == '-' && r->at + 1 < r->text.n && r->text.p[r->at + 1] != ']') {
		r->at++;
		to = member(r, s);
		if (to == -2 || to < from)
			return to == -2 ? false : bad(r, "the range ends before it begins");
	}
	for (int c = from; c <= to; c++)
		set_add(s, (unsigned char)c);
	return true;
}

static struct node *brackets(struct reader *r)
{
	struct node *n = node(r, N_SET, NULL, NULL);
	bool not = peek(r) == '^', first = true;

	r->at += not;
	for (; more(r) && (first || peek(r) != ']'); first = false) {
		int c = member(r, &n->set);

		if (c == -2 || (c >= 0 && !range(r, &n->set, c)))
			return NULL;
	}
	if (!more(r))
		return bad(r, "']' is missing");
	r->at++;
	both_cases(r, &n->set);
	for (unsigned i = 0; not && i < 4; i++)
		n->set.w[i] = ~n->set.w[i];
	return n;
}

static struct node *one_byte(struct reader *r, int c)
{
	struct node *n = node(r, N_SET, NULL, NULL);

	set_add(&n->set, (unsigned char)c);
	both_cases(r, &n->set);
	return n;
}

static struct node *dot(struct reader *r)
{
	struct node *n = node(r, N_SET, NULL, NULL);

	for (unsigned c = 0; c < 256; c++)
		if (c != '\n')
			set_add(&n->set, (unsigned char)c);
	return n;
}

static struct node *backslash(struct reader *r)
{
	struct node *n;
	int c;

	if (peek(r) == 'b') {
		r->at++;
		return node(r, N_EDGE, NULL, NULL);
	}
	n = node(r, N_SET, NULL, NULL);
	c = escaped(r, &n->set);
	if (c == -2)
		return bad(r, "this escape means nothing; there are no back-references");
	return c == -1 ? n : one_byte(r, c);
}

static struct node *group(struct reader *r)
{
	struct node *n;

	if (++r->depth > DEPTH_MAX)
		return bad(r, "groups are too deep in each other");
	if (peek(r) == '?')
		return bad(r, "'(?' has a meaning at the start of the pattern only, as (?i)");
	n = alternatives(r);
	if (!n)
		return NULL;
	if (peek(r) != ')')
		return bad(r, "')' is missing");
	r->at++;
	r->depth--;
	return n;
}

static struct node *atom(struct reader *r)
{
	unsigned char c = peek(r);

	if (c && strchr("*+?{", c))
		return bad(r, "there is nothing to repeat");
	r->at++;
	switch (c) {
	case '(': return group(r);
	case '[': return brackets(r);
	case '.': return dot(r);
	case '^': return node(r, N_BEGIN, NULL, NULL);
	case '$': return node(r, N_END, NULL, NULL);
	case '\\': return backslash(r);
	default: return one_byte(r, c);
	}
}

static bool count(struct reader *r, int *ret)
{
	int n = 0;
	size_t from = r->at;

	for (; isdigit(peek(r)) && n <= REPEAT_MAX; r->at++)
		n = n * 10 + (peek(r) - '0');
	*ret = n;
	return r->at > from && n <= REPEAT_MAX;
}

/* {n} {n,} {n,m} */
static bool braces(struct reader *r, struct node *n)
{
	bool ok = count(r, &n->min);

	n->max = n->min;
	if (ok && peek(r) == ',') {
		r->at++;
		n->max = NO_LIMIT;
		if (peek(r) != '}')
			ok = count(r, &n->max) && n->max >= n->min;
	}
	if (!ok || peek(r) != '}')
		return bad(r, "a repetition is {n}, {n,} or {n,m}, of at most 1000");
	r->at++;
	return true;
}

static struct node *repeated(struct reader *r)
{
	struct node *n = atom(r);
	unsigned times = 0;

	while (n && more(r) && strchr("*+?{", peek(r))) {
		unsigned char c = peek(r);

		if (++times > 2)
			return bad(r, "too many repetitions of one thing");
		r->at++;
		n = node(r, N_REPEAT, n, NULL);
		n->min = c == '+';
		n->max = c == '?' ? 1 : NO_LIMIT;
		if (c == '{' && !braces(r, n))
			return NULL;
	}
	return n;
}

static struct node *sequence(struct reader *r)
{
	struct node *all = node(r, N_EMPTY, NULL, NULL);

	while (more(r) && peek(r) != '|' && peek(r) != ')') {
		struct node *n = repeated(r);

		if (!n)
			return NULL;
		all = all->kind == N_EMPTY ? n : node(r, N_CAT, all, n);
	}
	return all;
}

static struct node *alternatives(struct reader *r)
{
	struct node *all = sequence(r);

	while (all && peek(r) == '|') {
		struct node *n;

		r->at++;
		n = sequence(r);
		all = n ? node(r, N_ALT, all, n) : NULL;
	}
	return all;
}

/* ---- the steps ---- */

struct writer { struct pattern *p; bool full; };

static unsigned emit(struct writer *w, enum op op, unsigned x, unsigned y)
{
	if (w->p->n_steps == PATTERN_STEPS_MAX) {
		w->full = true;
		return 0;
	}
	w->p->steps[w->p->n_steps] = (struct step){ (uint8_t)op, (uint16_t)x, (uint16_t)y };
	return w->p->n_steps++;
}

static void write_node(struct writer *w, const struct node *n);

static void write_set(struct writer *w, const struct byte_set *s)
{
	unsigned i = 0;

	while (i < w->p->n_sets && memcmp(&w->p->sets[i], s, sizeof(*s)) != 0)
		i++;
	if (i == w->p->n_sets && w->p->n_sets < PATTERN_STEPS_MAX)
		w->p->sets[w->p->n_sets++] = *s;
	emit(w, OP_SET, i, 0);
}

static void write_alt(struct writer *w, const struct node *n)
{
	unsigned split = emit(w, OP_SPLIT, w->p->n_steps + 1, 0), jump;

	write_node(w, n->a);
	jump = emit(w, OP_JUMP, 0, 0);
	w->p->steps[split].y = (uint16_t)w->p->n_steps;
	write_node(w, n->b);
	w->p->steps[jump].x = (uint16_t)w->p->n_steps;
}

static void write_repeat(struct writer *w, const struct node *n)
{
	unsigned before = w->p->n_steps;

	for (int i = 0; i < n->min && !w->full; i++) {
		write_node(w, n->a);
		if (w->p->n_steps == before)      /* nothing, however often */
			return;
	}
	for (int i = n->min; i < n->max && !w->full; i++) {
		unsigned split = emit(w, OP_SPLIT, w->p->n_steps + 1, 0);

		write_node(w, n->a);
		w->p->steps[split].y = (uint16_t)w->p->n_steps;
	}
	if (n->max == NO_LIMIT) {
		unsigned split = emit(w, OP_SPLIT, w->p->n_steps + 1, 0);

		write_node(w, n->a);
		emit(w, OP_JUMP, split, 0);
		w->p->steps[split].y = (uint16_t)w->p->n_steps;
	}
}

static void write_node(struct writer *w, const struct node *n)
{
	switch (n->kind) {
	case N_EMPTY: break;
	case N_SET: write_set(w, &n->set); break;
	case N_CAT: write_node(w, n->a), write_node(w, n->b); break;
	case N_ALT: write_alt(w, n); break;
	case N_REPEAT: write_repeat(w, n); break;
	case N_BEGIN: emit(w, OP_BEGIN, 0, 0); break;
	case N_END: emit(w, OP_END, 0, 0); break;
	case N_EDGE: emit(w, OP_EDGE, 0, 0); break;
	}
}

/* What can be reached before a byte is read, whatever is around: fills 'first'; true when that is the end. */
static bool look_ahead(struct pattern *p, struct arena *mem)
{
	bool *seen = arena_array(mem, bool, p->n_steps), empty = false;
	uint16_t *todo = arena_array(mem, uint16_t, 2 * p->n_steps + 1);
	unsigned n = 0;

	for (todo[n++] = 0; n;) {
		unsigned at = todo[--n];
		const struct step *s = &p->steps[at];

		if (seen[at])
			continue;
		seen[at] = true;
		if (s->op == OP_SET) {
			for (unsigned i = 0; i < 4; i++)
				p->first.w[i] |= p->sets[s->x].w[i];
			continue;
		}
		empty |= s->op == OP_MATCH;
		if (s->op != OP_MATCH)
			todo[n++] = (uint16_t)(s->op == OP_SPLIT || s->op == OP_JUMP ? s->x : at + 1);
		if (s->op == OP_SPLIT)
			todo[n++] = s->y;
	}
	return empty;
}

static struct pattern *finish(struct arena *mem, const struct pattern *draft, struct why *why)
{
	struct pattern *p = arena_new_of(mem, struct pattern);

	*p = *draft;
	p->steps = (struct step *)(void *)arena_dup(mem, draft->steps, sizeof(*p->steps) * p->n_steps);
	p->sets = (struct byte_set *)(void *)arena_dup(mem, draft->sets, sizeof(*p->sets) * p->n_sets);
	if (!look_ahead(p, mem))
		return p;
	err_set(why, ERR_INVALID, "the pattern matches the empty text");
	return NULL;
}

static struct pattern *compile(struct arena *mem, const struct node *root, struct why *why)
{
	struct pattern draft = { .steps = x_malloc(sizeof(*draft.steps) * PATTERN_STEPS_MAX), .sets = x_malloc(sizeof(*draft.sets) * PATTERN_STEPS_MAX) };
	struct writer w = { .p = &draft };
	struct pattern *p = NULL;

	write_node(&w, root);
	emit(&w, OP_MATCH, 0, 0);
	if (w.full)
		err_set(why, ERR_INVALID, "the pattern has more than %d places once its repetitions are written out", PATTERN_STEPS_MAX);
	else
		p = finish(mem, &draft, why);
	free(draft.steps);
	free(draft.sets);
	return p;
}

static bool sized(struct str text, struct why *why)
{
	if (text.n && text.n <= PATTERN_TEXT_MAX)
		return true;
	err_set(why, ERR_INVALID, "a pattern has 1 to %d bytes", PATTERN_TEXT_MAX);
	return false;
}

struct pattern *pattern_new(struct arena *mem, struct str text, struct why *why)
{
	struct reader r = { .text = text, .mem = mem, .why = why };
	struct node *root;

	if (!sized(text, why))
		return NULL;
	r.any_case = str_starts(text, STR("(?i)"));
	r.at = r.any_case ? 4 : 0;
	root = alternatives(&r);
	if (root && more(&r))
		root = bad(&r, "')' without '('");
	return root ? compile(mem, root, why) : NULL;
}

struct pattern *pattern_literal(struct arena *mem, struct str text, struct why *why)
{
	struct reader r = { .mem = mem };
	struct node *root = NULL;

	if (!sized(text, why))
		return NULL;
	for (size_t i = 0; i < text.n; i++) {
		struct node *n = one_byte(&r, (unsigned char)text.p[i]);

		root = root ? node(&r, N_CAT, root, n) : n;
	}
	return compile(mem, root, why);
}

/* ---- the run ---- */

struct place { uint16_t step; size_t from; };

struct run {
	const struct pattern *p;
	struct str text;
	struct place *now, *next;     /* OP_SET steps only */
	unsigned n_now, n_next;
	size_t *seen;                 /* by step: 1 + the place in the text at which it was reached last */
	uint16_t *todo;
	int64_t work;
	struct span *found;
	size_t n_found, cap;
	struct arena *mem;
};

/* Later matches end later; one that begins before the end of the last ones swallows them. */
static void note(struct run *r, size_t from, size_t to)
{
	while (r->n_found && r->found[r->n_found - 1].to > from) {
		if (r->found[r->n_found - 1].from < from)
			from = r->found[r->n_found - 1].from;
		r->n_found--;
	}
	if (r->n_found == r->cap) {
		struct span *more_spans = arena_alloc(r->mem, sizeof(*more_spans) * (r->cap = r->cap * 2 + 16));

		if (r->n_found)
			memcpy(more_spans, r->found, sizeof(*more_spans) * r->n_found);
		r->found = more_spans;
	}
	r->found[r->n_found++] = (struct span){ from, to };
}

static bool at_edge(struct str t, size_t at)
{
	return (at > 0 && is_word((unsigned char)t.p[at - 1])) != (at < t.n && is_word((unsigned char)t.p[at]));
}

static bool holds(const struct run *r, enum op op, size_t at)
{
	return op == OP_BEGIN ? at == 0 : op == OP_END ? at == r->text.n : at_edge(r->text, at);
}

/* A step is reached before the byte at 'at', and all that follows from it without reading one. */
static void reach(struct run *r, unsigned step, size_t from, size_t at)
{
	unsigned n = 0;

	for (r->todo[n++] = (uint16_t)step; n;) {
		unsigned i = r->todo[--n];
		const struct step *s = &r->p->steps[i];

		if (r->seen[i] == at + 1)
			continue;
		r->seen[i] = at + 1;
		r->work--;
		switch ((enum op)s->op) {
		case OP_SET: r->next[r->n_next++] = (struct place){ (uint16_t)i, from }; break;
		case OP_SPLIT: r->todo[n++] = s->y; r->todo[n++] = s->x; break;
		case OP_JUMP: r->todo[n++] = s->x; break;
		case OP_MATCH: note(r, from, at); break;
		case OP_BEGIN: case OP_END: case OP_EDGE:
			if (holds(r, s->op, at))
				r->todo[n++] = (uint16_t)(i + 1);
		}
	}
}

static void advance(struct run *r, size_t at)
{
	unsigned char c = (unsigned char)r->text.p[at];

	r->n_next = 0;
	for (unsigned i = 0; i < r->n_now; i++) {
		const struct place *pl = &r->now[i];

		r->work--;
		if (set_has(&r->p->sets[r->p->steps[pl->step].x], c))
			reach(r, pl->step + 1u, pl->from, at + 1);
	}
}

static void swap(struct run *r)
{
	struct place *was = r->now;

	r->now = r->next;
	r->n_now = r->n_next;
	r->next = was;
}

static size_t next_start(const struct run *r, size_t at)
{
	while (at < r->text.n && !set_has(&r->p->first, (unsigned char)r->text.p[at]))
		at++;
	return at;
}

bool pattern_find(const struct pattern *p, struct str text, struct arena *mem, int64_t *work, struct span **ret, size_t *ret_n)
{
	struct run r = { .p = p, .text = text, .work = *work - (int64_t)(text.n / 8), .mem = mem };

	r.now = arena_array(mem, struct place, p->n_steps);
	r.next = arena_array(mem, struct place, p->n_steps);
	r.seen = arena_array(mem, size_t, p->n_steps);
	r.todo = arena_array(mem, uint16_t, 2 * p->n_steps + 2);
	for (size_t at = next_start(&r, 0); at < text.n && r.work > 0; at = r.n_now ? at + 1 : next_start(&r, at + 1)) {
		/* 'now' holds what earlier bytes reached; a match may begin here too, and is the latest */
		if (set_has(&p->first, (unsigned char)text.p[at])) {
			struct place *keep = r.next;

			r.next = r.now, r.n_next = r.n_now;
			reach(&r, 0, at, at);
			r.now = r.next, r.n_now = r.n_next;
			r.next = keep;
		}
		advance(&r, at);
		swap(&r);
	}
	*work = r.work;
	*ret = r.found;
	*ret_n = r.n_found;
	return r.work > 0;
}
