/* opt_value.c - see opt_value.h. */
#include "common/data/opt_value.h"

#include <inttypes.h>
#include <strings.h>

struct unit { const char *name; double factor; };

static const struct unit durations[] = { { "ms", 1 }, { "s", 1e3 }, { "m", 60e3 }, { "h", 3600e3 }, { "d", 86400e3 }, { "", 1e3 }, { 0 } };
static const struct unit sizes[] = {
	{ "", 1 }, { "b", 1 }, { "k", 1024.0 }, { "kib", 1024.0 }, { "m", 1048576.0 }, { "mib", 1048576.0 },
	{ "g", 1073741824.0 }, { "gib", 1073741824.0 }, { "t", 1099511627776.0 }, { "tib", 1099511627776.0 }, { 0 }
};

struct given {
	const struct opt *opt;
	const char *text, *where;
	struct why *why;
};

static enum err bad(const struct given *g, const char *what)
{
	return err_field(g->why, ERR_INVALID, g->opt->name, "%s: '%s' is not %s", g->where, g->text, what);
}

/* --- numbers --- */

static bool with_unit(struct str s, const struct unit *units, int64_t *ret)
{
	size_t digits = 0;
	double v;

	while (digits < s.n && ((s.p[digits] >= '0' && s.p[digits] <= '9') || s.p[digits] == '.'))
		digits++;
	if (digits == 0 || s.p[0] == '.' || s.p[digits - 1] == '.' || !str_double(str_n(s.p, digits), &v))
		return false;
	for (const struct unit *u = units; u->name; u++)
		if (str_ieq(str_trim(str_from(s, digits)), str_of(u->name)) && v * u->factor < 9e15) {
			*ret = (int64_t)(v * u->factor + 0.5);
			return true;
		}
	return false;
}

static void print_unit(struct buf *b, int64_t v, const struct unit *units, const char *fallback)
{
	const struct unit *best = NULL;

	for (const struct unit *u = units; u->name; u++)
		if (u->name[0] && u->factor > 1 && v % (int64_t)u->factor == 0 && (!best || u->factor > best->factor))
			best = u;
	if (v == 0 || !best)
		buf_printf(b, "%" PRId64 "%s", v, v == 0 && fallback[0] ? "s" : fallback);
	else
		buf_printf(b, "%" PRId64 "%s", v / (int64_t)best->factor, best->name);
}

void opt_number_print(struct buf *b, enum opt_type type, int64_t v)
{
	if (type == OPT_T_DURATION)
		print_unit(b, v, durations, "ms");
	else if (type == OPT_T_BYTES)
		print_unit(b, v, sizes, "");
	else
		buf_printf(b, "%" PRId64, v);
}

static enum err check_range(const struct given *g, double v)
{
	const struct opt *o = g->opt;
	struct buf min = { 0 }, max = { 0 };

	if ((o->min == 0 && o->max == 0) || (v >= (double)o->min && v <= (double)o->max))
		return ERR_OK;
	opt_number_print(&min, o->type, o->min);
	opt_number_print(&max, o->type, o->max);
	err_field(g->why, ERR_INVALID, o->name, "%s: '%s' is not between %s and %s", g->where, g->text, buf_z(&min), buf_z(&max));
	buf_free(&min);
	buf_free(&max);
	return ERR_INVALID;
}

static enum err parse_integer(const struct given *g, int64_t *ret)
{
	struct str s = str_trim(str_of(g->text));
	int64_t v = 0;
	enum err err;

	if (s.n == 0 && !g->opt->dflt)
		return ERR_OK;
	if (g->opt->type == OPT_T_DURATION ? !with_unit(s, durations, &v) : g->opt->type == OPT_T_BYTES ? !with_unit(s, sizes, &v) : !str_i64(s, &v))
		return bad(g, g->opt->type == OPT_T_DURATION ? "a duration (like 500ms, 30s, 5m, 24h or 7d)" :
			   g->opt->type == OPT_T_BYTES ? "a size (like 4096, 64k, 8m or 1g)" : "a whole number");
	err = check_range(g, (double)v);
	if (err == ERR_OK)
		*ret = v;
	return err;
}

static enum err parse_number(const struct given *g, double *ret)
{
	struct str s = str_trim(str_of(g->text));
	double v = 0;
	enum err err;

	if (s.n == 0 && !g->opt->dflt)
		return ERR_OK;
	if (!str_double(s, &v) || !(v - v == 0))
		return bad(g, "a number");
	err = check_range(g, v);
	if (err == ERR_OK)
		*ret = v;
	return err;
}

/* --- words --- */

static enum err parse_bool(const struct given *g, bool *ret)
{
	static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };

	if (!g->text[0] && !g->opt->dflt)
		return ERR_OK;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcasecmp(g->text, words[i]) == 0) {
			*ret = i & 1;
			return ERR_OK;
		}
	return bad(g, "true or false");
}

static enum err parse_enum(const struct given *g, const char **ret, struct arena *a)
{
	struct str rest = str_of(g->opt->words), word, near = { 0 };
	unsigned best = 3, d;

	while (str_split(&rest, ' ', &word)) {
		d = str_distance(word, str_of(g->text));
		if (d == 0 && str_ieq(word, str_of(g->text))) {
			*ret = arena_dup(a, word.p, word.n);
			return ERR_OK;
		}
		if (d < best) {
			best = d;
			near = word;
		}
	}
	if (near.n > 0)
		return err_field(g->why, ERR_INVALID, g->opt->name, "%s: '%s' is not one of: %s; did you mean '" STR_FMT "'?", g->where, g->text,
				 g->opt->words, STR_ARG(near));
	return err_field(g->why, ERR_INVALID, g->opt->name, "%s: '%s' is not one of: %s", g->where, g->text, g->opt->words);
}

/* --- values as a whole --- */

static const void *const_at(const void *config, const struct opt *o) { return (const char *)config + o->offset; }

static bool same_list(const struct opt_list *a, const struct opt_list *b)
{
	for (size_t i = 0; a->n == b->n && i < a->n; i++)
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	return a->n == b->n;
}

bool opt_same(const struct opt *o, const void *config, const void *other)
{
	const void *a = const_at(config, o), *b = const_at(other, o);
	double x, y;

	switch (o->type) {
	case OPT_T_BOOL: return *(const bool *)a == *(const bool *)b;
	case OPT_T_INT:
	case OPT_T_DURATION:
	case OPT_T_BYTES: return *(const int64_t *)a == *(const int64_t *)b;
	case OPT_T_NUMBER:
		x = *(const double *)a;
		y = *(const double *)b;
		return !(x < y) && !(x > y);
	case OPT_T_LIST: return same_list(a, b);
	case OPT_T_STRING:
	case OPT_T_SECRET:
	case OPT_T_ENUM: return strcmp(*(const char *const *)a, *(const char *const *)b) == 0;
	}
	return false;
}

static void copy_list(const struct opt_list *from, struct opt_list *to, struct arena *a)
{
	*to = (struct opt_list){ 0 };
	for (size_t i = 0; i < from->n; i++)
		opt_list_add(a, to, arena_dup(a, from->items[i], strlen(from->items[i])));
}

void opt_copy(const struct opt *o, const void *from, void *to, struct arena *a)
{
	const void *f = const_at(from, o);
	void *t = opt_at(to, o);

	switch (o->type) {
	case OPT_T_BOOL: *(bool *)t = *(const bool *)f; return;
	case OPT_T_INT:
	case OPT_T_DURATION:
	case OPT_T_BYTES: *(int64_t *)t = *(const int64_t *)f; return;
	case OPT_T_NUMBER: *(double *)t = *(const double *)f; return;
	case OPT_T_LIST: copy_list(f, t, a); return;
	case OPT_T_STRING:
	case OPT_T_SECRET:
	case OPT_T_ENUM: *(const char **)t = arena_dup(a, *(const char *const *)f, strlen(*(const char *const *)f)); return;
	}
}

/* --- lists --- */

void opt_list_add(struct arena *a, struct opt_list *l, const char *item)
{
	if ((l->n & (l->n - 1)) == 0) {           /* 0, 1, 2, 4, 8 …: full */
		const char **items = arena_array(a, const char *, l->n ? l->n * 2 : 1);

		if (l->n)
			memcpy(items, l->items, l->n * sizeof(*items));
		l->items = items;
	}
	l->items[l->n++] = item;
}

void opt_list_join(struct arena *a, const struct opt_list *front, struct opt_list *ret_back)
{
	struct opt_list all = { 0 };

	for (size_t i = 0; i < front->n; i++)
		opt_list_add(a, &all, front->items[i]);
	for (size_t i = 0; i < ret_back->n; i++)
		opt_list_add(a, &all, ret_back->items[i]);
	*ret_back = all;
}

static void parse_list(struct str rest, struct arena *a, struct opt_list *ret)
{
	struct str part;

	*ret = (struct opt_list){ 0 };
	while (rest.n > 0 && str_split(&rest, ',', &part)) {
		part = str_trim(part);
		if (part.n > 0)
			opt_list_add(a, ret, arena_dup(a, part.p, part.n));
	}
}

struct shaper {
	const struct opt *opt;
	const char *file;
	const struct config_node *map;
	const char *first;            /* value of the first word, when the mapping's key gave it */
	struct why *why;
};

static const char *value_of(const struct shaper *s, struct str key)
{
	for (const struct config_node *n = s->map->first; n; n = n->next)
		if (str_eqz(key, n->key) && n->kind == CONFIG_SCALAR && !n->null)
			return n->text;
	return NULL;
}

static struct str next_word(struct str *rest)
{
	size_t n = 0;
	struct str word;

	while (n < rest->n && ((rest->p[n] >= 'a' && rest->p[n] <= 'z') || rest->p[n] == '_'))
		n++;
	word = str_n(rest->p, n);
	*rest = str_from(*rest, n);
	return word;
}

static bool shape_has(const char *shape, struct str key)
{
	struct str rest = str_of(shape);

	while (rest.n > 0) {
		struct str word = next_word(&rest);

		if (word.n > 0 && str_eq(word, key))
			return true;
		if (word.n == 0)
			rest = str_from(rest, 1);
	}
	return false;
}

static enum err check_keys(const struct shaper *s)
{
	for (const struct config_node *n = s->map->first; n; n = n->next) {
		if (!shape_has(s->opt->shape, str_of(n->key)))
			return err_field(s->why, ERR_INVALID, s->opt->name, "%s:%u:%u: %s: unknown key '%s' (an item has: %s)", s->file, n->key_line,
					 n->key_column, s->opt->name, n->key, s->opt->shape);
		if (n->kind != CONFIG_SCALAR)
			return err_field(s->why, ERR_INVALID, s->opt->name, "%s:%u:%u: %s: '%s' must be one value", s->file, n->line, n->column,
					 s->opt->name, n->key);
	}
	return ERR_OK;
}

/* The item that the mapping stands for, or NULL with *why. */
static const char *shaped(const struct shaper *s, struct arena *a)
{
	struct str rest = str_of(s->opt->shape);
	struct buf out = { 0 };
	bool optional = false, first = true;
	const char *item;

	while (rest.n > 0) {
		struct str word = next_word(&rest);
		const char *v = word.n == 0 ? NULL : first && s->first ? s->first : value_of(s, word);

		if (word.n == 0) {
			optional |= rest.p[0] == ';';
			if (!optional)
				buf_char(&out, rest.p[0]);
			rest = str_from(rest, 1);
		} else if (v && optional) {
			buf_printf(&out, ";" STR_FMT "=%s", STR_ARG(word), v);
		} else if (v) {
			buf_addz(&out, v);
		} else if (!optional) {
			buf_free(&out);
			err_field(s->why, ERR_INVALID, s->opt->name, "%s:%u:%u: %s: '" STR_FMT "' is missing (an item has: %s)", s->file, s->map->line,
				  s->map->column, s->opt->name, STR_ARG(word), s->opt->shape);
			return NULL;
		}
		first &= word.n == 0;
	}
	item = arena_dup(a, out.p, out.n);
	buf_free(&out);
	return item;
}

static enum err item_from_map(struct shaper *s, struct arena *a, struct opt_list *ret)
{
	enum err err = s->opt->shape ? check_keys(s) : err_field(s->why, ERR_INVALID, s->opt->name,
		"%s:%u:%u: %s: expected texts, not mappings", s->file, s->map->line, s->map->column, s->opt->name);
	const char *item = err == ERR_OK ? shaped(s, a) : NULL;

	if (!item)
		return ERR_INVALID;
	opt_list_add(a, ret, item);
	return ERR_OK;
}

enum err opt_list_from_yaml(const struct opt *o, const struct config_node *list, const char *file, struct arena *a, struct opt_list *ret, struct why *why)
{
	struct opt_list items = { 0 };
	enum err err = ERR_OK;

	for (const struct config_node *n = list->first; n && err == ERR_OK; n = n->next) {
		struct shaper s = { o, file, n, n->key, why };

		if (n->kind == CONFIG_MAP)
			err = item_from_map(&s, a, &items);
		else if (n->kind == CONFIG_LIST)
			err = err_field(why, ERR_INVALID, o->name, "%s:%u:%u: %s: a list in a list", file, n->line, n->column, o->name);
		else if (n->key)
			opt_list_add(a, &items, arena_printf(a, "%s=%s", n->key, n->text));
		else if (n->text[0])
			opt_list_add(a, &items, n->text);
	}
	if (err == ERR_OK)
		*ret = items;
	return err;
}

enum err opt_value_parse(const struct opt *o, const char *text, void *config, struct arena *a, const char *where, struct why *why)
{
	struct given g = { o, text, where, why };
	void *at = opt_at(config, o);

	switch (o->type) {
	case OPT_T_STRING:
	case OPT_T_SECRET:
		*(const char **)at = arena_dup(a, text, strlen(text));
		return ERR_OK;
	case OPT_T_BOOL: return parse_bool(&g, at);
	case OPT_T_INT:
	case OPT_T_DURATION:
	case OPT_T_BYTES: return parse_integer(&g, at);
	case OPT_T_NUMBER: return parse_number(&g, at);
	case OPT_T_ENUM: return parse_enum(&g, at, a);
	case OPT_T_LIST:
		parse_list(str_of(text), a, at);
		return ERR_OK;
	}
	return err_set(why, ERR_INTERNAL, "%s: option '%s' has no type", where, o->name);
}
