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

/* Absent values lead nowhere: token 0 would lead to the whole. */
struct str canon_signature(const struct json *doc, uint32_t call)
{
	uint32_t extra = json_get(doc, call, "extra_content"), google = extra ? json_get(doc, extra, "google") : 0;

	return google ? string_or_none(doc, google, "thought_signature") : str_n(NULL, 0);
}

static enum err read_call(struct planning *p, struct call *call, uint32_t value, const char *path)
{
	const struct json *doc = &p->in->doc;
	uint32_t function = json_get(doc, value, "function"), arguments;

	if (!function || json_kind(doc, function) != JSON_OBJECT)
		return err_field(p->why, ERR_UNSUPPORTED_FIELD, path, "%s is no call of a function; other tools cannot be carried to %s", path,
		                 backend_kind_name(p->target->kind));
	call->id = string_or_none(doc, value, "id");
	call->signature = canon_signature(doc, value);
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

	if (call->is_object || !has(call->arguments) || (p->target->kind != LLM_BACKEND_OLLAMA && !kind_is_cloud(p->target->kind)))
		return ERR_OK;
	if (json_parse(&text, p->mem, call->arguments, NULL, NULL))
		return err_field(p->why, ERR_INVALID, path, "%s.function.arguments cannot be read", path);
	decoded = str_trim(json_string(&text, 0, p->mem));
	if (!decoded.n)
		decoded = STR("{}");
	if (json_parse(&inner, p->mem, decoded, NULL, NULL) || json_kind(&inner, 0) != JSON_OBJECT)
		return err_field(p->why, ERR_INVALID, path, "%s.function.arguments is not a JSON object, which %s needs", path,
		                 backend_kind_name(p->target->kind));
	call->arguments = decoded;
	call->is_object = true;
	return ERR_OK;
}

int64_t canon_thinking_tokens(const struct canon *c)
{
	static const struct { const char *think; int64_t tokens; } map[] = {
		{ "", -2 }, { "true", -1 }, { "false", 0 }, { "low", 1024 }, { "medium", 8192 },
	};

	for (unsigned i = 0; i < sizeof(map) / sizeof(*map); i++)
		if (str_eqz(c->think, map[i].think))
			return map[i].tokens;
	return 24576;
}

/* The first bytes of the usual formats, in base64. */
static struct str image_type(struct str base64)
{
	return str_starts(base64, STR("/9j/")) ? STR("image/jpeg") : str_starts(base64, STR("R0lGOD")) ? STR("image/gif") :
	       str_starts(base64, STR("UklGR")) ? STR("image/webp") : STR("image/png");
}

struct image canon_image(struct str image)
{
	struct str type;
	const char *comma, *end;

	if (image.n < 5 || !str_ieq(str_n(image.p, 5), STR("data:")))
		return str_find(image, STR("://")) ? (struct image){ .address = image } : (struct image){ .type = image_type(image), .base64 = image };
	comma = memchr(image.p, ',', image.n);
	if (!comma)
		return (struct image){ .type = image_type(image), .base64 = image };
	type = str_n(image.p + 5, (size_t)(comma - image.p) - 5);
	end = memchr(type.p, ';', type.n);
	type.n = end ? (size_t)(end - type.p) : type.n;
	image = str_from(image, (size_t)(comma - image.p) + 1);
	return (struct image){ .type = type.n ? type : image_type(image), .base64 = image };
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
