/* parse.c - reads the body in the route's dialect, and the hints that other dialects carry in headers. */
#include "common/llm/squeeze.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

/* Inline, so that what is not there is found missing by one test, see http_find(). */
static inline __attribute__((always_inline)) struct str header(const struct req *r, const char *name)
{
	const struct http_header *h = http_find(&r->x->head, name);

	return h ? h->value : STR("");
}

static void hint(const struct req *r, struct str *field, const char *name, const char *other)
{
	if (!field->n)
		*field = header(r, name);
	if (!field->n && other)
		*field = header(r, other);
}

static bool has_own_headers(const struct http_head *h)
{
	for (uint32_t i = 0; i < h->n_headers; i++) {
		struct str name = h->headers[i].name;

		if (name.n > 2 && (name.p[0] | 0x20) == 'x' && name.p[1] == '-')
			return true;
	}
	return false;
}

/* Whatever stands there keeps a request at home, but for a clear no. */
static bool says_yes(struct str s) { return s.n && !str_ieq(s, STR("false")) && !str_ieq(s, STR("no")) && !str_eq(s, STR("0")); }

/* Any client can say what it knows; Open WebUI's headers name user and chat. */
static void read_hints(struct req *r)
{
	struct llm_in *in = &r->in;

	if (!has_own_headers(&r->x->head))
		return;
	in->local_only |= says_yes(header(r, "x-corral-local-only"));
	hint(r, &in->task_type, "x-corral-task-type", NULL);
	hint(r, &in->complexity, "x-corral-complexity", NULL);
	hint(r, &in->language, "x-corral-language", NULL);
	hint(r, &in->policy, "x-corral-policy", NULL);
	hint(r, &in->user, "x-corral-user", "x-openwebui-user-id");
	hint(r, &in->session, "x-corral-session", NULL);
	hint(r, &in->conversation, "x-corral-conversation", "x-openwebui-chat-id");
}

/* The body's was looked at when it was read. */
static enum err check_policy(const struct req *r, struct why *why)
{
	return r->in.policy.n ? llm_policy_check(r->in.policy, why) : ERR_OK;
}

/* The ledger tells users apart without knowing them. */
static void hash_user(struct req *r)
{
	struct str user = r->who.user.n ? r->who.user : r->in.user;      /* a key of one user speaks for no other */

	if (user.n)
		snprintf(r->user_hash, sizeof(r->user_hash), "%016llx", (unsigned long long)str_hash(user, str_hash(r->tenant, 7)));
}

static bool is_json(struct str type)
{
	return type.n == 0 || str_ifind(type, STR("json")) || str_ieq(type, STR("application/x-www-form-urlencoded")) ||
	       str_ifind(type, STR("text/plain"));        /* curl -d says urlencoded; Ollama reads any type as JSON */
}

/* The caller's word, else his tenant's. */
static bool wants_squeezing(const struct req *r)
{
	bool wanted = r->who.home && r->who.home->optimize_context;

	if (r->in.dialect != LLM_NATIVE)
		return false;
	(void)json_bool(&r->in.doc, json_get(&r->in.doc, 0, "optimize_context"), &wanted);
	return wanted && r->in.context_tok;
}

/* The shorter body is read in the place of the one that came. */
static enum err squeeze(struct req *r, struct why *why)
{
	struct str body = llm_squeeze_body(r->in.body, r->mem);
	uint32_t before = r->in.prompt_tokens_est;

	r->squeezed = true;
	if (body.p == r->in.body.p)
		return ERR_OK;
	if (llm_read(&r->in, r->route->dialect, r->route->op, body, header(r, "accept"), r->mem, why) != ERR_OK)
		return why->code;
	r->tokens_saved = before - r->in.prompt_tokens_est;
	series_add(metrics_series(r->worker->gw->metrics, M_CONTEXT_SAVED), r->tokens_saved);
	return ERR_OK;
}

static enum step enter(struct req *r)
{
	struct why why = { 0 };

	if (header(r, "content-encoding").n && !str_ieq(header(r, "content-encoding"), STR("identity")))
		return req_fail(r, ERR_BAD_MEDIA_TYPE, "content-encoding '" STR_FMT "' is not understood; send the body as it is",
				STR_ARG(header(r, "content-encoding")));
	if (!is_json(header(r, "content-type")))
		return req_fail(r, ERR_BAD_MEDIA_TYPE, "content-type '" STR_FMT "' is not understood; send application/json",
				STR_ARG(header(r, "content-type")));
	if (llm_read(&r->in, r->route->dialect, r->route->op, r->x->body, header(r, "accept"), r->mem, &why) != ERR_OK)
		return req_fail_why(r, &why);
	if (wants_squeezing(r) && squeeze(r, &why) != ERR_OK)
		return req_fail_why(r, &why);
	read_hints(r);
	if (check_policy(r, &why) != ERR_OK)
		return req_fail_why(r, &why);
	hash_user(r);
	r->parsed = true;
	return STEP_NEXT;
}

const struct stage stage_parse = { "parse", enter };
