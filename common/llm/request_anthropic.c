/* request_anthropic.c - requests of Anthropic's shape, read for backends of every kind: blocks become messages.
 *
 *   user       [tool_result, tool_result, text, image]  ──▶  tool, tool, user
 *   assistant  [thinking, text, tool_use]               ──▶  assistant with reasoning and calls
 *
 * Turns of one role that follow each other are one, as in Anthropic's API: many templates know no two in a row. */
#include <stdio.h>

#include "common/llm/canon.h"
#include "common/llm/text.h"

/* One block's members: tokens, 0 = absent. */
struct block { uint32_t type, text, thinking, source, id, name, input, tool_use_id, content, is_error; };

/* The turn that is being put together. */
struct walk {
	struct planning *p;
	struct canon *c;
	struct message *turn;     /* NULL: none is open */
	struct buf text, thinking;        /* insides of JSON strings */
};

static const struct json *doc_of(const struct walk *w) { return &w->p->in->doc; }

/* Turns. */

static struct str quoted(struct walk *w, struct buf *inside)
{
	struct str s = inside->n ? arena_join(w->p->mem, (struct str[]){ STR("\""), buf_as_str(inside), STR("\"") }, 3) : str_n("", 0);

	buf_clear(inside);
	return s;
}

static void end_turn(struct walk *w)
{
	if (!w->turn)
		return;
	w->turn->text = quoted(w, &w->text);
	w->turn->thinking = quoted(w, &w->thinking);
	w->turn = NULL;
}

static struct message *new_message(struct walk *w, struct str role)
{
	struct message *m = &w->c->messages[w->c->n_messages++];

	m->role = role;
	return m;
}

static struct message *turn_of(struct walk *w, struct str role)
{
	if (w->turn && str_eq(w->turn->role, role))
		return w->turn;
	end_turn(w);
	return w->turn = new_message(w, role);
}

/* A line end between pieces. */
static void add_inside(struct buf *b, struct str json_string)
{
	if (text_is_empty(json_string))
		return;
	if (b->n)
		buf_addz(b, "\\n");
	buf_add(b, json_string.p + 1, json_string.n - 2);
}

/* Room doubles when the number is a power of two. */
static void *grown(struct arena *mem, const void *all, uint32_t n, size_t size)
{
	void *more;

	if (n && (n & (n - 1)))
		return NULL;
	more = arena_zero(mem, size * (n ? 2u * n : 1u));
	if (n)
		memcpy(more, all, size * n);
	return more;
}

static void add_image(struct walk *w, struct message *m, struct str image)
{
	void *more = grown(w->p->mem, m->images, m->n_images, sizeof(*m->images));

	if (more)
		m->images = more;
	m->images[m->n_images++] = image;
}

static void add_call(struct walk *w, struct message *m, const struct call *call)
{
	void *more = grown(w->p->mem, m->calls, m->n_calls, sizeof(*m->calls));

	if (more)
		m->calls = more;
	m->calls[m->n_calls] = *call;
	m->calls[m->n_calls].index = m->n_calls;
	m->n_calls++;
}

/* Blocks. */

static uint32_t *slot_of(struct block *b, enum field_id id)
{
	switch (id) {
	case F_TYPE: return &b->type;
	case F_TEXT: return &b->text;
	case F_THINKING: return &b->thinking;
	case F_SOURCE: return &b->source;
	case F_ID: return &b->id;
	case F_NAME: return &b->name;
	case F_INPUT: return &b->input;
	case F_CALL_ID: return &b->tool_use_id;
	case F_CONTENT: return &b->content;
	case F_IS_ERROR: return &b->is_error;
	default: return NULL;
	}
}

static enum err read_block(struct walk *w, uint32_t object, const char *path, const char *parent, struct block *b)
{
	const struct json *doc = doc_of(w);
	const struct field *f;
	char where[80];
	enum err e;

	if (json_kind(doc, object) != JSON_OBJECT)
		return err_field(w->p->why, ERR_MALFORMED, path, "%s must be a block, not %s", path, json_kind_name(json_kind(doc, object)));
	snprintf(where, sizeof(where), "%s.", path);
	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(w->p, FORM_ANTHROPIC_BLOCK, v, where, parent, &f)))
			return e;
		if (f && slot_of(b, f->id))
			*slot_of(b, f->id) = v;
	}
	if (b->type)
		return ERR_OK;
	return err_field(w->p->why, ERR_MALFORMED, path, "%s.type is missing", path);
}

static enum err missing(struct walk *w, const char *path, const char *member)
{
	return err_field(w->p->why, ERR_MALFORMED, path, "%s.%s is missing", path, member);
}

/* Ollama wants bare base64, the others a data URI. */
static enum err read_image(struct walk *w, uint32_t source, const char *path, struct str *ret)
{
	const struct json *doc = doc_of(w);
	uint32_t data = source ? json_get(doc, source, "data") : 0, type = source ? json_get(doc, source, "media_type") : 0;
	struct str base64;

	if (!source || !json_string_eq(doc, json_get(doc, source, "type"), "base64"))
		return plan_refuse(w->p, path, "images must be base64; addresses and files are not fetched");
	if (!data || !json_is_string(doc, data))
		return missing(w, path, "source.data");
	base64 = json_string(doc, data, w->p->mem);
	if (w->p->target->kind != LLM_BACKEND_OLLAMA && type && json_is_string(doc, type))
		base64 = arena_join(w->p->mem, (struct str[]){ STR("data:"), json_string(doc, type, w->p->mem), STR(";base64,"), base64 }, 4);
	*ret = base64;
	return ERR_OK;
}

static enum err read_document(struct walk *w, uint32_t source, const char *path, struct buf *text)
{
	const struct json *doc = doc_of(w);
	uint32_t data = source ? json_get(doc, source, "data") : 0;

	if (!source || !json_string_eq(doc, json_get(doc, source, "type"), "text") || !data || !json_is_string(doc, data))
		return plan_refuse(w->p, path, "of documents only plain text can be converted");
	add_inside(text, json_raw(doc, data));
	return ERR_OK;
}

static enum err read_use(struct walk *w, struct message *m, const struct block *b, const char *path)
{
	const struct json *doc = doc_of(w);
	struct call call = { .is_object = true };

	if (!b->id || !b->name)
		return missing(w, path, b->id ? "name" : "id");
	call.id = json_raw(doc, b->id);
	call.name = json_raw(doc, b->name);
	call.arguments = b->input ? json_raw(doc, b->input) : STR("{}");
	add_call(w, m, &call);
	return ERR_OK;
}

/* A block that is part of a turn. */
static enum err add_block(struct walk *w, struct message *m, const struct block *b, const char *path)
{
	const struct json *doc = doc_of(w);
	struct str image;
	enum err e;

	if (json_string_eq(doc, b->type, "text")) {
		if (!b->text)
			return missing(w, path, "text");
		add_inside(&w->text, json_raw(doc, b->text));
	} else if (json_string_eq(doc, b->type, "thinking")) {
		if (b->thinking)
			add_inside(&w->thinking, json_raw(doc, b->thinking));
	} else if (json_string_eq(doc, b->type, "redacted_thinking")) {
		plan_ignore(w->p, "messages.content.", "redacted_thinking");
	} else if (json_string_eq(doc, b->type, "image")) {
		if ((e = read_image(w, b->source, path, &image)))
			return e;
		add_image(w, m, image);
	} else if (json_string_eq(doc, b->type, "document")) {
		return read_document(w, b->source, path, &w->text);
	} else if (json_string_eq(doc, b->type, "tool_use")) {
		return read_use(w, m, b, path);
	} else {
		return plan_refuse(w->p, path, "only blocks of type text, image, document, thinking, tool_use and tool_result can be converted");
	}
	return ERR_OK;
}

/* Results. */

/* Images that tools gave wait for the user's turn. */
struct late { struct str *images; uint32_t n; };

static enum err read_result_block(struct walk *w, uint32_t object, const char *path, struct buf *text, struct late *late)
{
	const struct json *doc = doc_of(w);
	struct block b = { 0 };
	enum err e = read_block(w, object, path, "messages.content.content.", &b);

	if (e)
		return e;
	if (json_string_eq(doc, b.type, "text") && b.text) {
		add_inside(text, json_raw(doc, b.text));
		return ERR_OK;
	}
	if (json_string_eq(doc, b.type, "document"))
		return read_document(w, b.source, path, text);
	if (json_string_eq(doc, b.type, "image"))
		return read_image(w, b.source, path, &late->images[late->n++]);
	return plan_refuse(w->p, path, "results of tools can hold text, documents of text, and images");
}

static enum err read_result_content(struct walk *w, uint32_t content, const char *path, struct buf *text, struct late *late)
{
	const struct json *doc = doc_of(w);
	uint32_t n = json_count(doc, content), i = 0;
	struct str *images;
	char inner[96];
	enum err e;

	if (json_is_string(doc, content)) {
		add_inside(text, json_raw(doc, content));
		return ERR_OK;
	}
	images = arena_array(w->p->mem, struct str, late->n + n + 1);
	if (late->n)
		memcpy(images, late->images, late->n * sizeof(*images));
	late->images = images;
	for (uint32_t v = json_first(doc, content); v; v = json_next(doc, content, v), i++) {
		snprintf(inner, sizeof(inner), "%s.content[%u]", path, i);
		if ((e = read_result_block(w, v, inner, text, late)))
			return e;
	}
	return ERR_OK;
}

static enum err read_result(struct walk *w, const struct block *b, const char *path, struct late *late)
{
	struct buf text = { 0 };
	struct message *m;
	enum err e = ERR_OK;

	if (!b->tool_use_id)
		return missing(w, path, "tool_use_id");
	end_turn(w);
	if (b->is_error && canon_is_true(w->p, b->is_error))
		buf_addz(&text, "Error:");
	if (b->content)
		e = read_result_content(w, b->content, path, &text, late);
	m = new_message(w, STR("tool"));
	m->text = quoted(w, &text);
	m->tool_call_id = json_raw(doc_of(w), b->tool_use_id);
	canon_name_tool(w->c, m);
	buf_free(&text);
	return e;
}

/* Messages. */

static enum err read_blocks(struct walk *w, struct str role, uint32_t content, uint32_t at)
{
	const struct json *doc = doc_of(w);
	uint32_t n = json_count(doc, content), i = 0;
	struct block *all = arena_array(w->p->mem, struct block, n + 1);
	struct late late = { 0 };
	char path[64];
	enum err e;

	for (uint32_t v = json_first(doc, content); v; v = json_next(doc, content, v), i++) {
		snprintf(path, sizeof(path), "messages[%u].content[%u]", at, i);
		if ((e = read_block(w, v, path, "messages.content.", &all[i])))
			return e;
		if (json_string_eq(doc, all[i].type, "tool_result") && (e = read_result(w, &all[i], path, &late)))
			return e;
	}
	for (i = 0; i < late.n; i++)
		add_image(w, turn_of(w, STR("user")), late.images[i]);
	for (i = 0; i < n; i++) {
		if (json_string_eq(doc, all[i].type, "tool_result"))
			continue;
		snprintf(path, sizeof(path), "messages[%u].content[%u]", at, i);
		if ((e = add_block(w, turn_of(w, role), &all[i], path)))
			return e;
	}
	return ERR_OK;
}

static enum err read_message(struct walk *w, uint32_t object, uint32_t at)
{
	const struct json *doc = doc_of(w);
	uint32_t content = 0, role = 0;
	const struct field *f;
	char path[48];
	struct str who;
	enum err e;

	snprintf(path, sizeof(path), "messages[%u].", at);
	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(w->p, FORM_ANTHROPIC_MESSAGE, v, path, "messages.", &f)))
			return e;
		if (f)
			*(f->id == F_ROLE ? &role : &content) = v;
	}
	who = role ? json_string(doc, role, w->p->mem) : STR("");
	snprintf(path, sizeof(path), "messages[%u].role", at);
	if (!str_eqz(who, "user") && !str_eqz(who, "assistant") && !str_eqz(who, "system"))
		return plan_refuse(w->p, path, "roles are user, assistant and system");
	if (content && json_kind(doc, content) == JSON_ARRAY)
		return read_blocks(w, who, content, at);
	(void)turn_of(w, who);
	if (content)
		add_inside(&w->text, json_raw(doc, content));
	return ERR_OK;
}

static enum err read_system(struct walk *w, uint32_t system)
{
	const struct json *doc = doc_of(w);
	uint32_t i = 0;
	char path[32];
	enum err e;

	if (json_is_string(doc, system)) {
		add_inside(&w->text, json_raw(doc, system));
	} else {
		for (uint32_t v = json_first(doc, system); v; v = json_next(doc, system, v), i++) {
			struct block b = { 0 };

			snprintf(path, sizeof(path), "system[%u]", i);
			if ((e = read_block(w, v, path, "system.", &b)))
				return e;
			if (!json_string_eq(doc, b.type, "text") || !b.text)
				return plan_refuse(w->p, path, "the system prompt is text");
			add_inside(&w->text, json_raw(doc, b.text));
		}
	}
	if (w->text.n)
		(void)turn_of(w, STR("system"));
	end_turn(w);
	return ERR_OK;
}

static enum err read_messages(struct walk *w, uint32_t list)
{
	const struct json *doc = doc_of(w);
	uint32_t room = 2, at = 0, system = json_get(doc, 0, "system");
	enum err e;

	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v))
		room += 1 + json_count(doc, json_get(doc, v, "content"));
	w->c->messages = arena_array(w->p->mem, struct message, room);
	if (system && json_kind(doc, system) != JSON_NULL && (e = read_system(w, system)))
		return e;
	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v), at++)
		if ((e = read_message(w, v, at)))
			return e;
	end_turn(w);
	return ERR_OK;
}

/* Tools. */

struct tool { uint32_t type, name, description, schema, strict; };

static enum err read_tool(struct planning *p, uint32_t object, const char *path, struct tool *t)
{
	const struct json *doc = &p->in->doc;
	uint32_t type = json_get(doc, object, "type");
	const struct field *f;
	char where[48];
	enum err e;

	if (type && json_kind(doc, type) != JSON_NULL && !json_string_eq(doc, type, "custom"))
		return plan_refuse(p, path, "only tools that the client runs can be converted");
	snprintf(where, sizeof(where), "%s.", path);
	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(p, FORM_ANTHROPIC_TOOL, v, where, "tools.", &f)))
			return e;
		if (!f)
			continue;
		switch (f->id) {
		case F_NAME: t->name = v; break;
		case F_DESCRIPTION: t->description = v; break;
		case F_SCHEMA: t->schema = v; break;
		case F_STRICT: t->strict = v; break;
		default: break;
		}
	}
	if (t->name)
		return ERR_OK;
	return err_field(p->why, ERR_MALFORMED, path, "%s.name is missing", path);
}

static void write_tool(const struct json *doc, const struct tool *t, struct json_out *jo)
{
	jw_obj(jo), jw_kv_strz(jo, "type", "function"), jw_key(jo, "function"), jw_obj(jo);
	jw_kv_raw(jo, "name", json_raw(doc, t->name));
	if (t->description)
		jw_kv_raw(jo, "description", json_raw(doc, t->description));
	jw_kv_raw(jo, "parameters", t->schema ? json_raw(doc, t->schema) : STR("{\"type\":\"object\"}"));
	if (t->strict)
		jw_kv_raw(jo, "strict", json_raw(doc, t->strict));
	jw_end(jo), jw_end(jo);
}

static enum err read_tools(struct planning *p, struct canon *c, uint32_t list)
{
	const struct json *doc = &p->in->doc;
	struct buf b = { 0 };
	struct json_out jo;
	uint32_t i = 0;
	char path[32];
	enum err e = ERR_OK;

	if (!json_count(doc, list))
		return ERR_OK;
	json_begin(&jo, &b);
	jw_arr(&jo);
	for (uint32_t v = json_first(doc, list); v && !e; v = json_next(doc, list, v), i++) {
		struct tool t = { 0 };

		snprintf(path, sizeof(path), "tools[%u]", i);
		if ((e = read_tool(p, v, path, &t)) == ERR_OK)
			write_tool(doc, &t, &jo);
	}
	json_done(&jo);
	if (!e)
		c->tools_json = arena_str(p->mem, buf_as_str(&b));
	buf_free(&b);
	return e;
}

static enum err read_tool_choice(struct planning *p, struct canon *c, uint32_t v, bool *no_tools)
{
	const struct json *doc = &p->in->doc;
	uint32_t type = json_get(doc, v, "type"), name = json_get(doc, v, "name");
	bool ollama = p->target->kind == LLM_BACKEND_OLLAMA, any = json_string_eq(doc, type, "any");

	c->one_call = canon_is_true(p, json_get(doc, v, "disable_parallel_tool_use"));
	if (ollama && c->one_call)
		return plan_refuse(p, "tool_choice.disable_parallel_tool_use", "Ollama lets the model choose");
	*no_tools = json_string_eq(doc, type, "none");
	if (*no_tools || json_string_eq(doc, type, "auto"))
		return ERR_OK;
	if (!any && (!json_string_eq(doc, type, "tool") || !name || !json_is_string(doc, name)))
		return err_field(p->why, ERR_INVALID, "tool_choice", "tool_choice.type must be auto, any, none, or tool with a name");
	if (ollama)
		return plan_refuse(p, "tool_choice", "Ollama lets the model choose; only auto and none are possible");
	c->tool_choice = any ? STR("\"required\"") : arena_join(p->mem, (struct str[]){
		STR("{\"type\":\"function\",\"function\":{\"name\":"), json_raw(doc, name), STR("}}") }, 3);
	return ERR_OK;
}

/* Thinking and output. */

struct wish { struct str effort; bool on, off; int64_t budget; };

static enum err read_thinking(struct planning *p, struct wish *w, uint32_t object)
{
	const struct json *doc = &p->in->doc;
	const struct field *f;
	enum err e;

	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(p, FORM_ANTHROPIC_THINKING, v, "thinking.", "thinking.", &f)))
			return e;
		if (f && f->id == F_BUDGET && !json_i64(doc, v, &w->budget))
			return err_field(p->why, ERR_MALFORMED, "thinking.budget_tokens", "thinking.budget_tokens must be a whole number");
		if (!f || f->id != F_TYPE)
			continue;
		w->on = json_string_eq(doc, v, "enabled"), w->off = json_string_eq(doc, v, "disabled");
		if (!w->on && !w->off && !json_string_eq(doc, v, "adaptive"))
			return err_field(p->why, ERR_INVALID, "thinking.type", "thinking.type must be enabled, adaptive or disabled");
	}
	return ERR_OK;
}

static enum err read_effort(struct planning *p, struct wish *w, uint32_t v)
{
	static const struct { const char *word, *think; } map[] = {
		{ "low", "low" }, { "medium", "medium" }, { "high", "high" }, { "xhigh", "max" }, { "max", "max" },
	};

	for (unsigned i = 0; i < sizeof(map) / sizeof(*map); i++)
		if (json_string_eq(&p->in->doc, v, map[i].word)) {
			w->effort = str_of(map[i].think);
			return ERR_OK;
		}
	return err_field(p->why, ERR_INVALID, "output_config.effort", "output_config.effort must be low, medium, high, xhigh or max");
}

static enum err read_schema(struct planning *p, struct canon *c, uint32_t format)
{
	const struct json *doc = &p->in->doc;
	uint32_t schema = json_get(doc, format, "schema");

	if (!json_string_eq(doc, json_get(doc, format, "type"), "json_schema") || !schema || json_kind(doc, schema) != JSON_OBJECT)
		return err_field(p->why, ERR_INVALID, "output_config.format", "output_config.format must be {\"type\":\"json_schema\",\"schema\":{...}}");
	c->format = FORMAT_SCHEMA;
	c->schema = json_raw(doc, schema);
	return ERR_OK;
}

static enum err read_output(struct planning *p, struct canon *c, struct wish *w, uint32_t object)
{
	const struct json *doc = &p->in->doc;
	const struct field *f;
	enum err e;

	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(p, FORM_ANTHROPIC_OUTPUT, v, "output_config.", "output_config.", &f)))
			return e;
		if (f && (e = f->id == F_EFFORT ? read_effort(p, w, v) : read_schema(p, c, v)))
			return e;
	}
	return ERR_OK;
}

/* llama.cpp's templates make nothing of it where a model cannot think; the others refuse. */
static void settle_thinking(struct planning *p, struct canon *c, const struct wish *w)
{
	bool cannot = p->target->kind != LLM_BACKEND_LLAMACPP && p->target->caps && !(p->target->caps & LLM_CAP_THINKING);

	if (w->off && !cannot)
		c->think = STR("false");
	if (has(w->effort) && (w->off || cannot))
		plan_ignore(p, "output_config.", "effort");
	if (w->on && cannot)
		plan_ignore(p, "", "thinking");
	if (w->off || cannot)
		return;
	if (has(w->effort))
		c->think = w->effort;
	else if (w->on && p->target->kind == LLM_BACKEND_OPENAI && w->budget)
		c->think = w->budget <= 4096 ? STR("low") : w->budget <= 16384 ? STR("medium") : STR("high");
	else if (w->on)
		c->think = STR("true");
}

static enum err read_member(struct walk *w, const struct field *f, uint32_t v, struct wish *wish, bool *no_tools)
{
	switch (f->id) {
	case F_MESSAGES: return read_messages(w, v);
	case F_TOOLS: return read_tools(w->p, w->c, v);
	case F_TOOL_CHOICE: return read_tool_choice(w->p, w->c, v, no_tools);
	case F_STOP: return json_count(doc_of(w), v) ? canon_stop(w->p, w->c, "stop_sequences", v) : ERR_OK;
	case F_THINKING_CONFIG: return read_thinking(w->p, wish, v);
	case F_OUTPUT_CONFIG: return read_output(w->p, w->c, wish, v);
	case F_PLAIN: return canon_plain(w->p, w->c, f, v);
	default: return ERR_OK;
	}
}

enum err canon_read_anthropic(struct planning *p, struct canon *c)
{
	const struct json *doc = &p->in->doc;
	struct walk w = { .p = p, .c = c };
	struct wish wish = { 0 };
	const struct field *f;
	bool no_tools = false;
	enum err e = ERR_OK;

	c->op = LLM_CHAT;
	c->max_tokens = p->in->max_tokens;
	for (uint32_t v = json_first(doc, 0); v && !e; v = json_next(doc, 0, v))
		if ((e = canon_field(p, FORM_ANTHROPIC, v, "", "", &f)) == ERR_OK && f)
			e = read_member(&w, f, v, &wish, &no_tools);
	buf_free(&w.text);
	buf_free(&w.thinking);
	if (e)
		return e;
	if (no_tools)
		c->tools_json = str_n("", 0);
	if (!has(c->tools_json))
		c->tool_choice = str_n("", 0), c->one_call = false;
	settle_thinking(p, c, &wish);
	return ERR_OK;
}
