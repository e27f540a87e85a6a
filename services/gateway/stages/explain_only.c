/* explain_only.c - POST /explain: the decision as the answer; nothing is sent, nothing is accounted. */
#include "common/data/json_write.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/stages.h"

static enum step enter(struct req *r)
{
	Corral__DecisionOutcome outcome;
	struct buf b = { 0 };
	struct json_out jo;
	enum step s;

	decision_explain(&r->pick, &r->features, &r->world->cat, r->mem, &outcome);
	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "request_id", r->id_text);
	decider_json(&jo, r->not_asked && !*r->not_asked ? "selector" : "", r->not_asked);
	explain_json(&jo, &r->features, &outcome);
	jw_end(&jo);
	s = req_reply_json(r, 200, &b);
	buf_free(&b);
	return s;
}

const struct stage stage_explain_only = { "explain_only", enter };
