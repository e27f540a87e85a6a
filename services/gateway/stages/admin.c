/* admin.c - Ollama's administration: pull and delete are jobs of the registry, told in Ollama's words; create, copy, push and blobs go
 * to the Ollama that the registry names, after names, digests and protection have been looked at. Who may do this is the route's action. */
#include "services/gateway/jobs_json.h"
#include "services/gateway/passage.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/trail.h"
#include "services/gateway/upload.h"

struct admin {
	Corral__ModelAction action;
	Corral__AdminCheck check;
	struct str (*body)(struct req *, const Corral__AdminTarget *);
	const char *method;
	struct str path;              /* in the request's arena */
	bool makes, stream;
	/* what came back, in the ask's memory */
	Corral__AdminTarget target;
	const char *job_id, *backend, *model;
};

static char *z(struct ask *a, struct str s) { return arena_dup(a->mem, s.p ? s.p : "", s.n); }

static struct admin *admin_of(struct ask *a)
{
	struct admin *q = arena_new_of(a->mem, struct admin);
	struct str backend = STR("");

	corral__model_action__init(&q->action);
	corral__admin_check__init(&q->check);
	http_query_get(a->req->x->head.query, "backend", a->mem, &backend);
	q->action.backend = q->check.backend = z(a, backend);
	q->action.grace_ms = -1;
	a->query = q;
	return q;
}

/* --- reading: what is written has to be what Ollama reads, which takes keys in any case and ignores those it does not know --- */

static bool read_body(struct req *r, struct json *doc, const char *const *keys)
{
	struct why why = { 0 };
	uint32_t v;

	if (json_parse(doc, r->mem, r->x->body, &json_limits_default, &why) != ERR_OK) {
		req_fail_why(r, &why);
		return false;
	}
	if (json_kind(doc, 0) != JSON_OBJECT) {
		req_fail(r, ERR_MALFORMED, "the body has to be a JSON object");
		return false;
	}
	for (v = json_first(doc, 0); v; v = json_next(doc, 0, v)) {
		const char *const *key = keys;

		while (*key && !json_key_is(doc, v, *key))
			key++;
		if (*key)
			continue;
		err_field(&why, ERR_UNSUPPORTED_FIELD, "", "the field '" STR_FMT "' is not one that is passed on here", STR_ARG(json_key_raw(doc, v)));
		req_fail_why(r, &why);
		return false;
	}
	return true;
}

/* "model", or "name" as older clients write it; both only when they are the same. */
static bool read_name(struct req *r, const struct json *doc, struct str *ret)
{
	struct str model = STR(""), name = STR("");
	struct why why = { 0 };

	if (!json_opt_str(doc, 0, "model", &model, r->mem, &why) || !json_opt_str(doc, 0, "name", &name, r->mem, &why)) {
		req_fail_why(r, &why);
		return false;
	}
	if (model.n && name.n && !str_eq(model, name)) {
		req_fail(r, ERR_MALFORMED, "model and name are two words for one thing, and differ");
		return false;
	}
	*ret = model.n ? model : name;
	if (!ret->n)
		req_fail(r, ERR_MALFORMED, "model is required");
	return ret->n > 0;
}

static bool read_flag(struct req *r, const struct json *doc, const char *key, bool *ret)
{
	struct why why = { 0 };

	if (json_opt_bool(doc, 0, key, ret, &why))
		return true;
	req_fail_why(r, &why);
	return false;
}

/* --- pull and delete: jobs --- */

static void act_reply(const Corral__ActionReply *reply, void *arg)
{
	struct ask *a = arg;
	struct admin *q = a->query;

	if (!reply) {
		jobs_ask_failed(a);
		return;
	}
	q->job_id = z(a, str_of(reply->job->id));
	q->backend = z(a, str_of(reply->job->backend));
	q->model = z(a, str_of(reply->job->model));
	ask_done(a);
}

static void act_call(struct ask *a)
{
	corral__model_jobs__act(rpc_stub(a->gw->registry, &corral__model_jobs__descriptor), &((struct admin *)a->query)->action, act_reply, a);
}

static enum step watch(struct req *r, struct ask *a)
{
	struct admin *q = a->query;

	return passage_watch(r, q->job_id, q->backend, q->model, q->stream);
}

static enum step pull(struct req *r)
{
	static const char *const keys[] = { "model", "name", "insecure", "stream", "username", "password", NULL };    /* the last two say nothing to Ollama either */
	struct json doc;
	struct str name;
	bool stream = true, insecure = false;
	struct ask *a;
	struct admin *q;

	if (!read_body(r, &doc, keys) || !read_name(r, &doc, &name) || !read_flag(r, &doc, "stream", &stream) || !read_flag(r, &doc, "insecure", &insecure))
		return STEP_FAIL;
	a = ask_new(r, act_call);
	q = admin_of(a);
	q->action.action = (char *)(uintptr_t)"pull";     /* over plain HTTP only from where the registry's option says so */
	q->action.model = z(a, name);
	trail_act(r, "pull", name);
	q->stream = stream;
	a->then = watch;
	return ask_send(a);
}

static enum step deleted(struct req *r, struct ask *a)
{
	const struct admin *q = a->query;

	return passage_hidden(r, *q->action.backend ? "" : q->model);
}

static enum step delete(struct req *r)
{
	static const char *const keys[] = { "model", "name", NULL };
	struct json doc;
	struct str name;
	struct ask *a;
	struct admin *q;

	if (!read_body(r, &doc, keys) || !read_name(r, &doc, &name))
		return STEP_FAIL;
	a = ask_new(r, act_call);
	q = admin_of(a);
	q->action.action = (char *)(uintptr_t)"delete";
	q->action.model = z(a, name);
	trail_act(r, "delete", name);
	a->then = deleted;
	return ask_send(a);
}

/* --- the rest: passed on --- */

static void check_reply(const Corral__AdminTarget *reply, void *arg)
{
	struct ask *a = arg;
	struct admin *q = a->query;

	if (!reply) {
		jobs_ask_failed(a);
		return;
	}
	corral__admin_target__init(&q->target);
	q->target.backend = z(a, str_of(reply->backend));
	q->target.url = z(a, str_of(reply->url));
	q->target.model = z(a, str_of(reply->model));
	q->target.source = z(a, str_of(reply->source));
	ask_done(a);
}

static void check_call(struct ask *a)
{
	corral__model_jobs__check(rpc_stub(a->gw->registry, &corral__model_jobs__descriptor), &((struct admin *)a->query)->check, check_reply, a);
}

static enum step pass(struct req *r, struct ask *a)
{
	struct admin *q = a->query;
	bool is_json = q->body != NULL;
	struct str body = is_json ? q->body(r, &q->target) : r->upload_bytes;

	return passage_start(r, q->target.url, q->target.backend, q->method, q->path, body, is_json, q->makes ? q->target.model : NULL);
}

static struct ask *passing(struct req *r, const char *action, const char *method, struct str path, struct str model, struct str source)
{
	struct ask *a = ask_new(r, check_call);
	struct admin *q = admin_of(a);

	trail_act(r, action, model.n ? model : r->param);
	q->check.action = z(a, str_of(action));
	q->check.model = z(a, model);
	q->check.source = z(a, source);
	q->method = method;
	q->path = path;
	a->then = pass;
	return a;
}

static struct str body_as_it_is(struct req *r, const Corral__AdminTarget *t)
{
	(void)t;
	return r->x->body;                /* stays as long as the exchange */
}

static struct str copy_body(struct req *r, const Corral__AdminTarget *t)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str body;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "source", t->source);
	jw_kv_strz(&jo, "destination", t->model);
	jw_end(&jo);
	body = arena_str(r->mem, buf_as_str(&b));
	buf_free(&b);
	return body;
}

static enum step copy(struct req *r)
{
	static const char *const keys[] = { "source", "destination", NULL };
	struct json doc;
	struct str source = STR(""), destination = STR("");
	struct why why = { 0 };
	struct ask *a;
	struct admin *q;

	if (!read_body(r, &doc, keys))
		return STEP_FAIL;
	if (!json_opt_str(&doc, 0, "source", &source, r->mem, &why) || !json_opt_str(&doc, 0, "destination", &destination, r->mem, &why))
		return req_fail_why(r, &why);
	if (!source.n || !destination.n)
		return req_fail(r, ERR_MALFORMED, "source and destination are required");
	a = passing(r, "copy", "POST", STR("/api/copy"), destination, source);
	q = a->query;
	q->body = copy_body;
	q->makes = true;
	return ask_send(a);
}

/* Names of files become names on the backend's disk; what they hold is named by its digest. */
static bool files_ok(struct req *r, const struct json *doc, const char *key)
{
	uint32_t files = json_get(doc, 0, key);

	if (!files || json_kind(doc, files) == JSON_NULL)
		return true;
	for (uint32_t v = json_first(doc, files); v; v = json_next(doc, files, v)) {
		struct str name = json_string(doc, json_key(doc, v), r->mem), digest = json_string(doc, v, r->mem);

		if (!is_digest(digest) || !name.n || name.n > 255 || name.p[0] == '.' || memchr(name.p, '/', name.n) || memchr(name.p, '\\', name.n) ||
		    memchr(name.p, '\0', name.n)) {
			req_fail(r, ERR_MALFORMED, "%s: each file is a plain name with a digest, sha256: and 64 hexadecimal digits", key);
			return false;
		}
	}
	return true;
}

static enum step create(struct req *r)
{
	static const char *const keys[] = { "model", "name", "from", "files", "adapters", "draft_files", "template", "system", "license", "parameters", "messages",
					    "quantize", "draft_quantize", "renderer", "parser", "requires", "info", "stream", NULL };
	struct json doc;
	struct str name, from = STR("");
	struct why why = { 0 };
	struct ask *a;
	struct admin *q;

	if (!read_body(r, &doc, keys) || !read_name(r, &doc, &name) || !files_ok(r, &doc, "files") || !files_ok(r, &doc, "adapters") ||
	    !files_ok(r, &doc, "draft_files"))
		return STEP_FAIL;
	if (!json_opt_str(&doc, 0, "from", &from, r->mem, &why))
		return req_fail_why(r, &why);
	a = passing(r, "create", "POST", STR("/api/create"), name, from);
	q = a->query;
	q->body = body_as_it_is;
	q->makes = true;
	return ask_send(a);
}

static struct str push_body(struct req *r, const Corral__AdminTarget *t)
{
	struct json doc;
	struct buf b = { 0 };
	struct json_out jo;
	struct str body;
	bool stream = true, insecure = false;

	(void)json_parse(&doc, r->mem, r->x->body, &json_limits_default, NULL);       /* it was read before */
	(void)read_flag(r, &doc, "stream", &stream);
	(void)read_flag(r, &doc, "insecure", &insecure);
	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", t->source);
	jw_kv_bool(&jo, "stream", stream);
	if (insecure)
		jw_kv_bool(&jo, "insecure", true);
	jw_end(&jo);
	body = arena_str(r->mem, buf_as_str(&b));
	buf_free(&b);
	return body;
}

static enum step push(struct req *r)
{
	static const char *const keys[] = { "model", "name", "insecure", "stream", "username", "password", NULL };
	struct json doc;
	struct str name;
	bool unused = false;
	struct ask *a;

	if (!read_body(r, &doc, keys) || !read_name(r, &doc, &name) || !read_flag(r, &doc, "stream", &unused) || !read_flag(r, &doc, "insecure", &unused))
		return STEP_FAIL;
	a = passing(r, "push", "POST", STR("/api/push"), name, STR(""));
	((struct admin *)a->query)->body = push_body;
	return ask_send(a);
}

static bool digest_ok(struct req *r)
{
	if (is_digest(r->param))
		return true;
	req_fail(r, ERR_MALFORMED, "invalid digest: write sha256: and 64 hexadecimal digits");
	return false;
}

static struct str blob_path(struct req *r) { return arena_fmt(r->mem, "/api/blobs/" STR_FMT, STR_ARG(r->param)); }

static enum step blob_head(struct req *r)
{
	return digest_ok(r) ? ask_send(passing(r, "blob", "HEAD", blob_path(r), STR(""), STR(""))) : STEP_FAIL;
}

static enum step blob_put(struct req *r)
{
	struct why why = { 0 };

	if (!digest_ok(r))
		return STEP_FAIL;
	if (!r->upload)
		return req_fail(r, ERR_MALFORMED, "the blob has no body");
	if (upload_bytes(r->upload, r->param, &r->upload_bytes, &why) != ERR_OK)
		return req_fail_why(r, &why);
	return ask_send(passing(r, "blob", "POST", blob_path(r), STR(""), STR("")));
}

const struct stage stage_ollama_pull = { "ollama_pull", pull }, stage_ollama_delete = { "ollama_delete", delete }, stage_ollama_copy = { "ollama_copy", copy },
	stage_ollama_create = { "ollama_create", create }, stage_ollama_push = { "ollama_push", push }, stage_blob_head = { "blob_head", blob_head },
	stage_blob_put = { "blob_put", blob_put };
