/* request_native.c - our own inference requests, which always become one user message. */
#include "common/llm/canon.h"
#include "common/llm/text.h"

static struct str inside(struct str json_string) { return str_n(json_string.p + 1, json_string.n - 2); }

static void write_prompt(struct planning *p, struct canon *c, uint32_t prompt, uint32_t context)
{
	const struct json *doc = &p->in->doc;
	struct message *m = c->messages = arena_array(p->mem, struct message, 1);

	c->n_messages = 1;
	m->role = STR("user");
	m->text = json_raw(doc, prompt);
	if (!context || text_is_empty(json_raw(doc, context)))
		return;
	m->text = arena_fmt(p->mem, "\"" STR_FMT "\\n\\n" STR_FMT "\"", STR_ARG(inside(json_raw(doc, context))), STR_ARG(inside(json_raw(doc, prompt))));
}

enum err canon_read_native(struct planning *p, struct canon *c)
{
	const struct json *doc = &p->in->doc;
	uint32_t prompt = 0, context = 0, options = json_get(doc, 0, "options");
	const struct field *f;
	enum err e;

	c->op = LLM_CHAT;
	c->max_tokens = p->in->max_tokens;
	if (options && (e = canon_options(p, c, options)))       /* first: what stands outside wins */
		return e;
	for (uint32_t v = json_first(doc, 0); v; v = json_next(doc, 0, v)) {
		if ((e = canon_field(p, FORM_NATIVE, v, "", "", &f)))
			return e;
		if (!f)
			continue;
		switch (f->id) {
		case F_PROMPT: prompt = v; break;
		case F_CONTEXT_TEXT: context = v; break;
		case F_FORMAT: e = canon_read_format(p, c, v); break;
		case F_STOP: e = canon_stop(p, c, "stop", v); break;
		case F_PLAIN: e = canon_plain(p, c, f, v); break;
		default: break;
		}
		if (e)
			return e;
	}
	write_prompt(p, c, prompt, context);
	return ERR_OK;
}
