/* canon.c - what all converters do alike: ask the table of fields, collect plain values, name what is ignored or refused. */
#include "common/llm/canon.h"

#include <stdio.h>

#include "common/llm/text.h"

static bool names(struct str list, struct str name)
{
	struct str part;

	while (str_split(&list, ',', &part))
		if (str_eq(str_trim(part), name))
			return true;
	return false;
}

void plan_ignore(struct planning *p, const char *parent, const char *name)
{
	char path[96];
	int n = snprintf(path, sizeof(path), "%s%s", parent, name);
	size_t sep = p->ignored_len ? 2 : 0;

	if (n < 0 || (size_t)n >= sizeof(path) || p->ignored_len + sep + (size_t)n > sizeof(p->ignored))
		return;
	if (names(str_n(p->ignored, p->ignored_len), str_n(path, (size_t)n)))
		return;
	memcpy(p->ignored + p->ignored_len, ", ", sep);
	memcpy(p->ignored + p->ignored_len + sep, path, (size_t)n);
	p->ignored_len += sep + (size_t)n;
}

enum err plan_refuse(struct planning *p, const char *path, const char *because)
{
	return err_field(p->why, ERR_UNSUPPORTED_FIELD, path, "'%s' cannot be carried to the backend of model '" STR_FMT "' (%s)%s%s", path,
	                 STR_ARG(p->in->model), backend_kind_name(p->target->kind), because ? ": " : "; leave it out or choose another model",
	                 because ? because : "");
}

static enum err unknown(struct planning *p, enum llm_form form, struct str key, const char *path)
{
	const char *near = field_nearest(form, key);

	if (near)
		return err_field(p->why, ERR_UNSUPPORTED_FIELD, path, "'%s' is no known field and cannot be carried to %s; did you mean '%s'?",
		                 path, backend_kind_name(p->target->kind), near);
	return err_field(p->why, ERR_UNSUPPORTED_FIELD, path, "'%s' is no known field and cannot be carried to %s; leave it out", path,
	                 backend_kind_name(p->target->kind));
}

static enum err check_num_ctx(struct planning *p, uint32_t value)
{
	if (p->target->context_length && p->in->num_ctx > (int64_t)p->target->context_length)
		return err_field(p->why, ERR_UNSUPPORTED_FIELD, "options.num_ctx",
		                 "options.num_ctx is %lld, but the context of model '" STR_FMT "' is %u tokens and cannot be changed by a request (%s)",
		                 (long long)p->in->num_ctx, STR_ARG(p->in->model), p->target->context_length, backend_kind_name(p->target->kind));
	plan_ignore(p, "options.", "num_ctx");
	return ERR_OK;
}

enum err canon_field(struct planning *p, enum llm_form form, uint32_t value, const char *where, const char *parent, const struct field **ret)
{
	const struct json *doc = &p->in->doc;
	struct str key = json_string(doc, json_key(doc, value), p->mem);
	const struct field *f = field_find(form, key);
	char path[96];
	enum err e;

	*ret = NULL;
	snprintf(path, sizeof(path), "%s" STR_FMT, where, STR_ARG(key));
	if (!f)
		return unknown(p, form, key, path);
	if (json_kind(doc, value) == JSON_NULL || field_is_for_gateway(f))
		return ERR_OK;
	if (!f->as[p->target->kind])
		return field_harmless(f, doc, value) ? ERR_OK : plan_refuse(p, path, NULL);
	if (strcmp(f->as[p->target->kind], IGNORED) == 0) {
		if (f->id == F_NUM_CTX)
			return check_num_ctx(p, value);
		plan_ignore(p, parent, f->name);
		return ERR_OK;
	}
	if ((e = field_check_kind(f, path, doc, value, p->why)))
		return e;
	*ret = f;
	return ERR_OK;
}

void canon_name_tool(const struct canon *c, struct message *m)
{
	for (uint32_t i = c->n_messages; i > 0; i--)
		for (uint32_t k = 0; k < c->messages[i - 1].n_calls; k++)
			if (str_eq(c->messages[i - 1].calls[k].id, m->tool_call_id)) {
				m->tool_name = c->messages[i - 1].calls[k].name;
				return;
			}
}

bool canon_is_true(const struct planning *p, uint32_t value) { return json_kind(&p->in->doc, value) == JSON_TRUE; }

/* Of two that end under the same name the one outside 'options' wins. */
enum err canon_plain(struct planning *p, struct canon *c, const struct field *f, uint32_t value)
{
	struct str raw = json_raw(&p->in->doc, value);
	unsigned kind = p->target->kind;

	for (uint32_t i = 0; i < c->n_plain; i++) {
		if (strcmp(c->plain[i].field->as[kind], f->as[kind]) != 0)
			continue;
		c->plain[i].field = f, c->plain[i].value = raw;
		return ERR_OK;
	}
	if (c->n_plain == CANON_PLAIN_MAX)
		return plan_refuse(p, f->name, "too many options");
	c->plain[c->n_plain].field = f;
	c->plain[c->n_plain++].value = raw;
	return ERR_OK;
}

enum err canon_stop(struct planning *p, struct canon *c, const char *path, uint32_t value)
{
	const struct json *doc = &p->in->doc;

	if (json_kind(doc, value) == JSON_ARRAY)
		for (uint32_t i = json_first(doc, value); i; i = json_next(doc, value, i))
			if (!json_is_string(doc, i))
				return err_field(p->why, ERR_MALFORMED, path, "%s must be a string or a list of strings", path);
	c->stop = json_raw(doc, value);
	return ERR_OK;
}

enum err canon_options(struct planning *p, struct canon *c, uint32_t object)
{
	const struct json *doc = &p->in->doc;
	const struct field *f;
	enum err e;

	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(p, FORM_OPTIONS, v, "options.", "options.", &f)))
			return e;
		if (!f)
			continue;
		if (f->id == F_STOP)
			e = canon_stop(p, c, "options.stop", v);
		else if (f->id == F_PLAIN || f->id == F_NUM_CTX)
			e = canon_plain(p, c, f, v);
		if (e)
			return e;
	}
	return ERR_OK;
}

enum err canon_read_format(struct planning *p, struct canon *c, uint32_t value)
{
	const struct json *doc = &p->in->doc;

	if (json_kind(doc, value) == JSON_OBJECT) {
		c->format = FORMAT_SCHEMA;
		c->schema = json_raw(doc, value);
		return ERR_OK;
	}
	if (json_raw(doc, value).n == 2)
		return ERR_OK;
	if (!json_string_eq(doc, value, "json"))
		return err_field(p->why, ERR_INVALID, "format", "format must be \"json\" or a JSON schema");
	c->format = FORMAT_JSON;
	return ERR_OK;
}

static struct str string_or_none(const struct json *doc, uint32_t object, const char *key)
{
	uint32_t v = json_get(doc, object, key);

	return v && json_is_string(doc, v) ? json_raw(doc, v) : str_n(NULL, 0);
}

static enum err read_call(struct planning *p, struct call *call, uint32_t value, const char *path)
{
	const struct json *doc = &p->in->doc;
	uint32_t function = json_get(doc, value, "function"), arguments;

	if (!function || json_kind(doc, function) != JSON_OBJECT)
		return err_field(p->why, ERR_UNSUPPORTED_FIELD, path, "%s is no call of a function; other tools cannot be carried to %s", path,
		                 backend_kind_name(p->target->kind));
	call->id = string_or_none(doc, value, "id");
	call->name = string_or_none(doc, function, "name");
	if (!has(call->name))
		return err_field(p->why, ERR_MALFORMED, path, "%s.function.name is missing", path);
	arguments = json_get(doc, function, "arguments");
	if (!arguments || json_kind(doc, arguments) == JSON_NULL)
		return ERR_OK;
	call->arguments = json_raw(doc, arguments);
	call->is_object = json_kind(doc, arguments) == JSON_OBJECT;
	if (!call->is_object && !json_is_string(doc, arguments))
		return err_field(p->why, ERR_MALFORMED, path, "%s.function.arguments must be %s", path,
		                 p->in->dialect == LLM_OPENAI ? "a string of JSON" : "an object");
	return ERR_OK;
}

/* A string of JSON becomes the object it is. */
static enum err open_arguments(struct planning *p, struct call *call, const char *path)
{
	struct json text, inner;
	struct str decoded;

	if (call->is_object || !has(call->arguments) || p->target->kind != LLM_BACKEND_OLLAMA)
		return ERR_OK;
	if (json_parse(&text, p->mem, call->arguments, NULL, NULL))
		return err_field(p->why, ERR_INVALID, path, "%s.function.arguments cannot be read", path);
	decoded = str_trim(json_string(&text, 0, p->mem));
	if (!decoded.n)
		decoded = STR("{}");
	if (json_parse(&inner, p->mem, decoded, NULL, NULL) || json_kind(&inner, 0) != JSON_OBJECT)
		return err_field(p->why, ERR_INVALID, path, "%s.function.arguments is not a JSON object, which Ollama needs", path);
	call->arguments = decoded;
	call->is_object = true;
	return ERR_OK;
}

enum err canon_calls(struct planning *p, struct message *m, uint32_t list, uint32_t at)
{
	const struct json *doc = &p->in->doc;
	uint32_t n = json_count(doc, list), i = 0;
	char path[64];
	enum err e;

	if (n == 0)
		return ERR_OK;
	m->calls = arena_array(p->mem, struct call, n);
	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v), i++) {
		struct call *call = &m->calls[i];

		snprintf(path, sizeof(path), "messages[%u].tool_calls[%u]", at, i);
		if ((e = read_call(p, call, v, path)) || (e = open_arguments(p, call, path)))
			return e;
		call->index = i;
		if (!has(call->id))
			call->id = text_quote(arena_fmt(p->mem, "call_%u_%u", at, i), p->mem);
	}
	m->n_calls = n;
	return ERR_OK;
}
