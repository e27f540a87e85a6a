/* turns.c - see turns.h. */
#include "common/llm/turns.h"

#include "common/llm/text.h"

void turns_part(struct turns *t, const char *role)
{
	if (!t->role || strcmp(t->role, role) != 0) {
		turns_end(t);
		jw_obj(t->jo), jw_kv_strz(t->jo, "role", role), jw_key(t->jo, t->parts), jw_arr(t->jo);
		t->role = role;
	}
	jw_obj(t->jo);
}

void turns_end(struct turns *t)
{
	if (t->role)
		jw_end(t->jo), jw_end(t->jo);
	t->role = NULL;
}

static void text_members(struct turns *t, struct str text)
{
	if (t->typed)
		jw_kv_strz(t->jo, "type", "text");
	jw_kv_raw(t->jo, "text", text);
	jw_end(t->jo);
}

static void write_text(struct turns *t, const char *role, struct str text)
{
	if (text_is_empty(text))
		return;
	turns_part(t, role);
	text_members(t, text);
}

void turns_content(struct turns *t, const char *role, const struct message *m)
{
	const struct json *doc = &t->p->in->doc;
	uint32_t image = 0;

	if (!m->content || json_kind(doc, m->content) != JSON_ARRAY) {
		write_text(t, role, m->text);
		return;
	}
	for (uint32_t part = json_first(doc, m->content); part; part = json_next(doc, m->content, part)) {
		uint32_t text = json_is_string(doc, part) ? part : json_get(doc, part, "text");

		if (!json_string_eq(doc, json_get(doc, part, "type"), "image_url")) {
			write_text(t, role, text_raw(doc, text ? text : json_get(doc, part, "refusal"), t->p->mem));
			continue;
		}
		turns_part(t, role);
		t->image(t, m->images[image++]);
		jw_end(t->jo);
	}
}

void turns_system(struct turns *t, const struct canon *c, const char *key)
{
	bool begun = false;

	for (uint32_t i = 0; i < c->n_messages; i++) {
		if (!str_eqz(c->messages[i].role, "system") || text_is_empty(c->messages[i].text))
			continue;
		if (!begun)
			jw_key(t->jo, key), jw_arr(t->jo);
		begun = true;
		jw_obj(t->jo);
		text_members(t, c->messages[i].text);
	}
	if (begun)
		jw_end(t->jo);
}
