/* message.c - see message.h. */
#include "services/runpod-worker/message.h"

#include "common/data/json.h"
#include "common/data/json_write.h"
#include "common/io/http1.h"
#include "common/llm/job_input.h"

static const struct json_limits wide = { .max_depth = 128, .max_nodes = 10000000 };

/* --- addresses --- */

struct str url_host(struct str url)
{
	const char *scheme = str_find(url, STR("://"));
	size_t n = scheme ? (size_t)(scheme - url.p) + 3 : 0;

	while (n < url.n && !strchr("/?#", url.p[n]))
		n++;
	return str_n(url.p, n);
}

enum err url_check(const char *url, const char *variable, struct why *why)
{
	struct str s = str_of(url), host = url_host(s);
	size_t scheme = str_starts(s, STR("https://")) ? 8 : str_starts(s, STR("http://")) ? 7 : 0;
	bool plain = http_value_ok(s);

	for (size_t i = 0; i < s.n; i++)
		plain &= s.p[i] != ' ' && s.p[i] != '\t' && s.p[i] != '"';
	if (!s.n)
		return err_field(why, ERR_INVALID, variable, "%s is not set: RunPod sets it for its workers", variable);
	if (!scheme || host.n <= scheme || !plain || memchr(host.p, '@', host.n))
		return err_field(why, ERR_INVALID, variable, "%s is no address; it has to be https://host/path", variable);
	return ERR_OK;
}

/* The ids of others in addresses of ours. */
static void add_percent(struct buf *b, struct str s)
{
	static const char kept[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] && strchr(kept, s.p[i]))
			buf_char(b, s.p[i]);
		else
			buf_printf(b, "%%%02X", (unsigned char)s.p[i]);
}

static bool takes(struct str *rest, struct str word)
{
	if (!str_starts(*rest, word))
		return false;
	*rest = str_from(*rest, word.n);
	return true;
}

void url_of_worker(struct buf *b, const char *template, const char *worker_id, bool is_take)
{
	struct str rest = str_of(template);

	while (rest.n) {
		if (takes(&rest, STR("$RUNPOD_POD_ID")) || (is_take && takes(&rest, STR("$ID")))) {
			add_percent(b, str_of(worker_id));
			continue;
		}
		buf_char(b, *rest.p);
		rest = str_from(rest, 1);
	}
}

/* 'url' with one of its parts replaced; false when it has no such part, and then it is added as it is. */
static bool add_replaced(struct buf *b, struct str url, struct str part, struct str with)
{
	const char *at = str_find(url, part);

	if (!at) {
		buf_str(b, url);
		return false;
	}
	buf_add(b, url.p, (size_t)(at - url.p));
	buf_str(b, with);
	buf_str(b, str_from(url, (size_t)(at - url.p) + part.n));
	return true;
}

static void add_parameter(struct buf *b, const char *name, struct str value)
{
	buf_printf(b, "%c%s=", memchr(b->p, '?', b->n) ? '&' : '?', name);
	buf_str(b, value);
}

void url_take(struct buf *b, struct str url, unsigned wanted, bool busy)
{
	char digits[20];

	if (wanted <= 1)
		buf_str(b, url);
	else if (add_replaced(b, url, STR("/job-take/"), STR("/job-take-batch/")))
		add_parameter(b, "batch_size", str_from_u64(wanted, digits));
	add_parameter(b, "job_in_progress", busy ? STR("1") : STR("0"));
}

bool url_stop(struct buf *b, struct str take_url) { return add_replaced(b, take_url, STR("/job-take/"), STR("/job-stop/")); }

void url_post(struct buf *b, struct str url, struct str job_id, bool is_stream)
{
	struct str rest = url;

	while (rest.n) {
		if (takes(&rest, STR("$ID"))) {
			add_percent(b, job_id);
			continue;
		}
		buf_char(b, *rest.p);
		rest = str_from(rest, 1);
	}
	add_parameter(b, "isStream", is_stream ? STR("true") : STR("false"));
}

void url_ping(struct buf *b, struct str url, struct str jobs, const char *version)
{
	buf_str(b, url);
	if (jobs.n) {
		add_parameter(b, "job_id", STR(""));
		add_percent(b, jobs);
	}
	add_parameter(b, "runpod_version", str_of(version));
}

/* --- jobs --- */

static void read_job(struct taken *t, const struct json *j, uint32_t job, struct arena *mem)
{
	uint32_t id = json_get(j, job, "id"), input = json_get(j, job, "input");

	t->id = id ? json_string(j, id, mem) : STR("");
	if (!http_value_ok(t->id))            /* it goes into a header */
		t->id = STR("");
	t->input = input ? json_raw(j, input) : STR("");
}

enum err taken_read(struct str body, struct arena *mem, struct taken **ret, unsigned *ret_n, struct why *why)
{
	uint32_t n = 1, at = 0;
	struct json j;

	*ret_n = 0;
	if (!str_trim(body).n)
		return ERR_OK;
	if (json_parse(&j, mem, body, &wide, why) != ERR_OK)
		return why->code;
	if (json_kind(&j, 0) != JSON_OBJECT && json_kind(&j, 0) != JSON_ARRAY && json_kind(&j, 0) != JSON_NULL)
		return err_set(why, ERR_MALFORMED, "a job is an object, not %s", json_kind_name(json_kind(&j, 0)));
	if (json_kind(&j, 0) == JSON_ARRAY)
		n = json_count(&j, 0), at = n ? json_first(&j, 0) : 0;
	else if (json_kind(&j, 0) == JSON_NULL)
		n = 0;
	*ret = arena_array(mem, struct taken, n + 1);
	for (uint32_t i = 0; i < n; i++, at = json_next(&j, 0, at))
		read_job(&(*ret)[i], &j, at, mem);
	*ret_n = n;
	return ERR_OK;
}

unsigned stops_read(struct str body, struct arena *mem, struct str **ret)
{
	unsigned n = 0;
	uint32_t list;
	struct json j;

	if (json_parse(&j, mem, body, &wide, NULL) != ERR_OK)
		return 0;
	list = json_get(&j, 0, "jobsToStop");
	if (!list || json_kind(&j, list) != JSON_ARRAY)
		return 0;
	*ret = arena_array(mem, struct str, json_count(&j, list) + 1);
	for (uint32_t i = json_first(&j, list); i; i = json_next(&j, list, i))
		if (json_is_string(&j, i))
			(*ret)[n++] = json_string(&j, i, mem);
	return n;
}

/* --- what is asked of the gateway --- */

/* The worker's key may be allowed more than whoever fills the queue. */
static bool asks_a_model(struct str path)
{
	static const char *const ours[] = { "/inference", "/code-generation", "/api/ollama/inference", "/api/chat", "/api/generate", "/generate", "/api/embed",
					    "/api/embeddings" };
	static const char *const vendors[] = { "/chat/completions", "/completions", "/embeddings", "/messages", "/messages/count_tokens" };
	struct str rest = path;

	for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
		if (str_eqz(path, ours[i]))
			return true;
	if (!takes(&rest, STR("/v1")) && !takes(&rest, STR("/openai/v1")))
		(void)takes(&rest, STR("/anthropic/v1"));
	for (size_t i = 0; i < sizeof(vendors) / sizeof(*vendors); i++)
		if (str_eqz(rest, vendors[i]))
			return true;
	return false;
}

/* {"openai_route":"/v1/models"} has no request with it. */
static bool wants_models(struct str input, bool *ret_as_worker, struct arena *mem)
{
	struct json j;
	uint32_t route;

	if (json_parse(&j, mem, input, NULL, NULL) != ERR_OK || json_kind(&j, 0) != JSON_OBJECT)
		return false;
	route = json_get(&j, 0, "openai_route");
	*ret_as_worker = route && json_kind(&j, route) != JSON_NULL;
	return route && json_string_eq(&j, route, "/v1/models");
}

enum err plan_read(struct plan *ret, struct str input, struct arena *mem, struct why *why)
{
	struct str job = arena_fmt(mem, "{\"input\":" STR_FMT "}", STR_ARG(input.n ? input : STR("null")));
	bool as_worker = false;
	struct job_input in = { 0 };
	struct json j;

	if (input.n && wants_models(input, &as_worker, mem)) {
		*ret = (struct plan){ .method = "GET", .path = STR("/v1/models"), .as_worker = true };
		return ERR_OK;
	}
	if (json_parse(&j, mem, job, NULL, why) != ERR_OK || job_input_read(&in, &j, json_get(&j, 0, "input"), mem, why) != ERR_OK)
		return why->code;
	if (!asks_a_model(in.path))
		return err_field(why, ERR_INVALID, "input", "'" STR_FMT "' is no route that asks a model", STR_ARG(in.path));
	*ret = (struct plan){ .method = "POST", .path = in.path, .body = in.body, .as_worker = as_worker };
	return ERR_OK;
}

/* --- answers --- */

void add_output(struct buf *b, struct str json)
{
	buf_addz(b, "{\"output\":");
	buf_str(b, json);
	buf_char(b, '}');
}

void add_error(struct buf *b, struct str text)
{
	buf_addz(b, "{\"error\":\"");
	json_escape(b, text);
	buf_addz(b, "\"}");
}

struct str error_in(struct str text, struct arena *mem)
{
	struct str found;
	uint32_t error;
	struct json j;

	if (json_parse(&j, mem, text, &wide, NULL) != ERR_OK || json_kind(&j, 0) != JSON_OBJECT)
		return STR("");
	error = json_get(&j, 0, "error");
	if (!error || json_kind(&j, error) == JSON_NULL || json_kind(&j, error) == JSON_FALSE)
		return STR("");
	if (json_kind(&j, error) == JSON_OBJECT && json_get(&j, error, "message"))
		error = json_get(&j, error, "message");
	found = json_is_string(&j, error) ? json_string(&j, error, mem) : json_raw(&j, error);
	return arena_str(mem, found.n ? found : STR("an error without words"));
}
