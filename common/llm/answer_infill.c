/* answer_infill.c - answers of llama.cpp's own kind, which /infill gives: {"content":…,"stop":false}, the last with stop true
 * and figures, no [DONE]. */
#include "common/llm/relay.h"
#include "common/llm/text.h"

void infill_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t error = json_get(doc, 0, "error"), content = json_get(doc, 0, "content"), stop = json_get(doc, 0, "stop");

	chunk_clear(c);
	if (error && json_kind(doc, error) != JSON_NULL)
		c->error = json_raw(doc, error);
	c->is_answer = content && json_is_string(doc, content);
	c->n_choices = 1;
	if (c->is_answer) {
		c->text = json_raw(doc, content);
		c->text_tok = content;
	}
	c->end = stop && json_kind(doc, stop) == JSON_TRUE;
	if (!c->end)
		return;
	c->finish = json_string_eq(doc, json_get(doc, 0, "stop_type"), "limit") ? STR("length") : STR("stop");
	llamacpp_read_timings(doc, json_get(doc, 0, "timings"), u);
	c->has_usage = true;
}
