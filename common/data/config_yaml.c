/* config_yaml.c - see config.h; the one file that knows libyaml. Events become nodes by recursive descent. */
#include "common/data/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <yaml.h>

#include "common/base/buf.h"

struct reader {
	yaml_parser_t parser;
	struct arena *mem;
	const char *name;
	unsigned depth;
	struct why *why;
};

static enum err read_node(struct reader *, yaml_event_t *, struct config_node **ret);

static enum err refuse(struct reader *r, yaml_mark_t at, const char *text)
{
	return err_set(r->why, ERR_INVALID, "%s:%zu:%zu: %s", r->name, at.line + 1, at.column + 1, text);
}

static enum err syntax(struct reader *r)
{
	yaml_mark_t at = r->parser.problem_mark;

	if (r->parser.error == YAML_READER_ERROR) {       /* it has an offset only */
		err_set(r->why, ERR_INVALID, "%s: %s at byte %zu", r->name, r->parser.problem, r->parser.problem_offset);
		return ERR_INVALID;
	}
	if (!r->parser.problem)
		return refuse(r, r->parser.mark, "not readable as YAML");
	return refuse(r, at, arena_printf(r->mem, "%s%s%s", r->parser.problem, r->parser.context ? " " : "",
					  r->parser.context ? r->parser.context : ""));
}

static enum err next_event(struct reader *r, yaml_event_t *ret)
{
	return yaml_parser_parse(&r->parser, ret) ? ERR_OK : syntax(r);
}

/* --- environment in scalars --- */

static const char *env_or(struct arena *a, struct str name, struct str dflt, bool has_dflt)
{
	const char *v = getenv(arena_dup(a, name.p, name.n));

	if (has_dflt && (!v || !v[0]))
		return arena_dup(a, dflt.p, dflt.n);
	return v;
}

static struct str until_brace(struct str s)
{
	const char *end = memchr(s.p, '}', s.n);

	return end ? str_n(s.p, (size_t)(end - s.p)) : str_n(NULL, 0);
}

bool config_expand(struct arena *a, struct str s, struct str *ret, const char **ret_missing)
{
	struct buf out = { 0 };
	bool ok = true;

	while (ok && s.n > 0) {
		const char *dollar = memchr(s.p, '$', s.n), *colon, *v;
		struct str in, name;

		buf_add(&out, s.p, dollar ? (size_t)(dollar - s.p) : s.n);
		s = dollar ? str_from(s, (size_t)(dollar - s.p)) : str_n(NULL, 0);
		if (str_starts(s, STR("$${"))) {
			buf_addz(&out, "${");
			s = str_from(s, 3);
		} else if (str_starts(s, STR("${"))) {
			in = until_brace(str_from(s, 2));
			colon = in.p ? str_find(in, STR(":-")) : NULL;
			name = colon ? str_n(in.p, (size_t)(colon - in.p)) : in;
			v = in.p ? env_or(a, name, colon ? str_from(in, name.n + 2) : in, colon != NULL) : NULL;
			ok = v != NULL;
			if (!ok) {
				*ret_missing = in.p ? arena_dup(a, name.p, name.n) : "";
				break;
			}
			buf_addz(&out, v);
			s = str_from(s, in.n + 3);
		} else if (s.n > 0) {
			buf_char(&out, '$');
			s = str_from(s, 1);
		}
	}
	if (ok)
		*ret = arena_str(a, buf_as_str(&out));
	buf_free(&out);
	return ok;
}

static enum err expand(struct reader *r, yaml_mark_t at, struct str text, const char **ret)
{
	const char *missing;
	struct str out;

	if (config_expand(r->mem, text, &out, &missing)) {
		*ret = out.p;
		return ERR_OK;
	}
	if (!missing[0])
		return refuse(r, at, "'${' without '}' (write '$${' for a literal '${')");
	return refuse(r, at, arena_printf(r->mem, "the environment has no %s (write ${%s:-default} to do without)", missing, missing));
}

/* --- nodes --- */

static struct config_node *node_new(struct reader *r, enum config_kind kind, yaml_mark_t at)
{
	struct config_node *n = arena_new_of(r->mem, struct config_node);

	n->kind = kind;
	n->line = (unsigned)at.line + 1;
	n->column = (unsigned)at.column + 1;
	n->text = "";
	return n;
}

static bool says_null(const yaml_event_t *e, struct str s)
{
	return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && (s.n == 0 || str_eqz(s, "~") || str_eqz(s, "null"));
}

static enum err read_scalar(struct reader *r, const yaml_event_t *e, struct config_node **ret)
{
	struct str s = str_n((const char *)e->data.scalar.value, e->data.scalar.length);
	struct config_node *n = node_new(r, CONFIG_SCALAR, e->start_mark);
	enum err err;

	if (memchr(s.p, 0, s.n))
		return refuse(r, e->start_mark, "a NUL character in a value");
	n->null = says_null(e, s);
	err = expand(r, e->start_mark, n->null ? str_n(NULL, 0) : s, &n->text);
	if (err == ERR_OK)
		*ret = n;
	return err;
}

static bool same_key(const char *a, const char *b)
{
	for (; *a || *b; a++, b++)
		if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b))
			return false;
	return true;
}

static enum err check_key(struct reader *r, const yaml_event_t *e, const struct config_node *map, const char **ret)
{
	struct str s;

	if (e->type != YAML_SCALAR_EVENT)
		return refuse(r, e->start_mark, "a key must be a word");
	s = str_n((const char *)e->data.scalar.value, e->data.scalar.length);
	if (s.n == 0 || s.n > 200 || memchr(s.p, 0, s.n))
		return refuse(r, e->start_mark, s.n ? "a key that is no word" : "a key is missing before ':'");
	if (str_eqz(s, "<<") || e->data.scalar.anchor || e->data.scalar.tag)
		return refuse(r, e->start_mark, "anchors, aliases, tags and '<<' are not supported; write the value out");
	*ret = arena_dup(r->mem, s.p, s.n);
	for (const struct config_node *n = map->first; n; n = n->next)
		if (same_key(n->key, *ret))
			return refuse(r, e->start_mark, arena_printf(r->mem, "'%s' was already given in line %u", *ret, n->key_line));
	return ERR_OK;
}

static enum err read_entry(struct reader *r, yaml_event_t *key_event, const struct config_node *map, struct config_node **ret)
{
	yaml_mark_t at = key_event->start_mark;
	const char *key = NULL;
	yaml_event_t e;
	enum err err = check_key(r, key_event, map, &key);

	if (err != ERR_OK)
		return err;
	err = next_event(r, &e);
	if (err != ERR_OK)
		return err;
	err = read_node(r, &e, ret);
	yaml_event_delete(&e);
	if (err != ERR_OK)
		return err;
	(*ret)->key = key;
	(*ret)->key_line = (unsigned)at.line + 1;
	(*ret)->key_column = (unsigned)at.column + 1;
	return ERR_OK;
}

static enum err read_children(struct reader *r, struct config_node *parent, yaml_event_type_t end)
{
	struct config_node **tail = &parent->first, *child;
	yaml_event_t e;
	enum err err;

	for (;;) {
		bool done;

		err = next_event(r, &e);
		if (err != ERR_OK)
			return err;
		done = e.type == end;
		if (!done)
			err = parent->kind == CONFIG_MAP ? read_entry(r, &e, parent, &child) : read_node(r, &e, &child);
		yaml_event_delete(&e);
		if (done || err != ERR_OK)
			return err;
		*tail = child;
		tail = &child->next;
	}
}

static enum err read_nested(struct reader *r, const yaml_event_t *e, struct config_node **ret)
{
	bool map = e->type == YAML_MAPPING_START_EVENT;
	struct config_node *n = node_new(r, map ? CONFIG_MAP : CONFIG_LIST, e->start_mark);
	enum err err;

	if (r->depth >= CONFIG_MAX_DEPTH)
		return refuse(r, e->start_mark, "nested deeper than 16 levels");
	r->depth++;
	err = read_children(r, n, map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT);
	r->depth--;
	if (err == ERR_OK)
		*ret = n;
	return err;
}

static bool has_extras(const yaml_event_t *e)
{
	switch (e->type) {
	case YAML_SCALAR_EVENT: return e->data.scalar.anchor || e->data.scalar.tag;
	case YAML_SEQUENCE_START_EVENT: return e->data.sequence_start.anchor || e->data.sequence_start.tag;
	case YAML_MAPPING_START_EVENT: return e->data.mapping_start.anchor || e->data.mapping_start.tag;
	default: return e->type == YAML_ALIAS_EVENT;
	}
}

static enum err read_node(struct reader *r, yaml_event_t *e, struct config_node **ret)
{
	if (has_extras(e))
		return refuse(r, e->start_mark, "anchors, aliases, tags and '<<' are not supported; write the value out");
	if (e->type == YAML_SCALAR_EVENT)
		return read_scalar(r, e, ret);
	return read_nested(r, e, ret);
}

/* --- the document --- */

static enum err expect(struct reader *r, yaml_event_type_t type, const char *otherwise)
{
	yaml_event_t e;
	enum err err = next_event(r, &e);

	if (err != ERR_OK)
		return err;
	if (e.type != type)
		err = refuse(r, e.start_mark, otherwise);
	yaml_event_delete(&e);
	return err;
}

static enum err read_top(struct reader *r, struct config_node **ret)
{
	yaml_event_t e;
	enum err err = next_event(r, &e);

	if (err != ERR_OK)
		return err;
	err = read_node(r, &e, ret);
	yaml_event_delete(&e);
	if (err != ERR_OK)
		return err;
	if ((*ret)->kind == CONFIG_SCALAR && (*ret)->null)
		(*ret)->kind = CONFIG_MAP;
	if ((*ret)->kind != CONFIG_MAP)
		return err_set(r->why, ERR_INVALID, "%s:%u:%u: expected lines of the form 'option: value'", r->name, (*ret)->line, (*ret)->column);
	return expect(r, YAML_DOCUMENT_END_EVENT, "more than one value");
}

static enum err read_stream(struct reader *r, struct config_node **ret)
{
	yaml_event_t e;
	enum err err = expect(r, YAML_STREAM_START_EVENT, "not YAML");
	bool empty;

	if (err == ERR_OK)
		err = next_event(r, &e);
	if (err != ERR_OK)
		return err;
	empty = e.type == YAML_STREAM_END_EVENT;
	if (empty)
		*ret = node_new(r, CONFIG_MAP, e.start_mark);
	yaml_event_delete(&e);
	if (empty)
		return ERR_OK;
	err = read_top(r, ret);
	return err == ERR_OK ? expect(r, YAML_STREAM_END_EVENT, "a second document; one file is one document") : err;
}

enum err config_parse(struct arena *a, const char *name, struct str text, struct config_node **ret, struct why *why)
{
	struct reader r = { .mem = a, .name = name, .why = why };
	struct config_node *top = NULL;
	enum err err;

	if (text.n > CONFIG_MAX_BYTES)
		return err_set(why, ERR_INVALID, "%s: larger than 1 MiB", name);
	if (!yaml_parser_initialize(&r.parser))
		return err_set(why, ERR_INTERNAL, "%s: no memory for the YAML parser", name);
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)(text.p ? text.p : ""), text.n);
	err = read_stream(&r, &top);
	yaml_parser_delete(&r.parser);
	if (err == ERR_OK)
		*ret = top;
	return err;
}

static bool read_all(int fd, struct buf *b)
{
	ssize_t got;

	do {
		buf_reserve(b, 65536);
		got = read(fd, b->p + b->n, 65536);
		if (got > 0)
			b->n += (size_t)got;
	} while ((got > 0 && b->n <= CONFIG_MAX_BYTES) || (got < 0 && errno == EINTR));
	return got >= 0;
}

enum err config_load(struct arena *a, const char *path, struct config_node **ret, struct why *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct buf b = { 0 };
	enum err err;

	if (fd < 0)
		return err_set(why, ERR_INVALID, "%s: cannot be read: %s", path, strerror(errno));
	if (!read_all(fd, &b))
		err = err_set(why, ERR_INVALID, "%s: cannot be read: %s", path, strerror(errno));
	else
		err = config_parse(a, path, buf_as_str(&b), ret, why);
	close(fd);
	buf_free(&b);
	return err;
}
