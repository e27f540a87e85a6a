/* load_only.c - Ollama's empty prompt loads a model (keep_alive 0 unloads it). Servers of the other kinds hold their model always:
 * there the answer is Ollama's own for a loaded model; for an Ollama backend the request goes on as it is. */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/gateway/stages/stages.h"

static bool is_ollama(const struct req *r)
{
	const struct cat_replica *c = &r->world->cat.replicas[r->pick.ranked[0].replica];

	return r->world->backends[c->backend].kind == LLM_BACKEND_OLLAMA;
}

static void no_vectors(struct req *r, struct json_out *jo)
{
	if (r->in.op == LLM_EMBED)
		jw_kv_str(jo, "model", r->in.model);
	jw_key(jo, r->in.op == LLM_EMBED ? "embeddings" : "embedding"), jw_arr(jo), jw_end(jo);
	jw_end(jo);
}

static enum step enter(struct req *r)
{
	struct buf b = { 0 };
	struct json_out jo;
	char now[40];
	enum step s;

	if (!r->in.load_only || is_ollama(r))
		return STEP_NEXT;
	clock_rfc3339(r->start_wall_us, 6, now, sizeof(now));
	json_begin(&jo, &b);
	jw_obj(&jo);
	if (llm_embeds(r->in.op)) {
		no_vectors(r, &jo);
		s = req_reply_json(r, 200, &b);
		buf_free(&b);
		return s;
	}
	jw_kv_str(&jo, "model", r->in.model);
	jw_kv_strz(&jo, "created_at", now);
	if (r->in.op == LLM_CHAT) {
		jw_key(&jo, "message");
		jw_obj(&jo);
		jw_kv_strz(&jo, "role", "assistant");
		jw_kv_strz(&jo, "content", "");
		jw_end(&jo);
	} else {
		jw_kv_strz(&jo, "response", "");
	}
	jw_kv_bool(&jo, "done", true);
	jw_kv_strz(&jo, "done_reason", "load");
	jw_end(&jo);
	s = req_reply_json(r, 200, &b);
	buf_free(&b);
	return s;
}

const struct stage stage_load_only = { "load_only", enter };
