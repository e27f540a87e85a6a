/* job_pull.c - a pull: Ollama's own, over a request of ours that no client can end; its lines of progress become the job's.
 *
 * Ollama keeps what it has of a file that is not complete and goes on there, so a pull that breaks (backend away, network, a restart of
 * ours) is simply asked again. */
#include "common/data/json_write.h"
#include "services/model-registry/acts.h"

enum { FIRST_BYTE_MS = 120000, SILENCE_MS = 30 * 60000, TRIES_MOST = 10 };

static void go(struct job *);

const struct job_work job_pull_work = { "pull", go };

static void on_head(struct http_call *call, const struct http_head *head, void *arg)
{
	struct job *j = arg;

	(void)call;
	j->answer_status = head->status;
}

static struct job_layer *layer_of(struct job *j, struct str digest)
{
	for (unsigned i = 0; i < j->n_layers; i++)
		if (str_eqz(digest, j->layers[i].digest))
			return &j->layers[i];
	if (j->n_layers == JOB_LAYERS || digest.n == 0 || digest.n >= sizeof(j->layers[0].digest))
		return NULL;
	j->layers[j->n_layers] = (struct job_layer){ 0 };
	(void)str_copy(j->layers[j->n_layers].digest, sizeof(j->layers[0].digest), digest);
	return &j->layers[j->n_layers++];
}

static void sum_layers(struct job *j)
{
	j->bytes_done = j->bytes_total = 0;
	for (unsigned i = 0; i < j->n_layers; i++) {
		j->bytes_done += j->layers[i].completed;
		j->bytes_total += j->layers[i].total;
	}
	job_progress(j);
}

static const char *phase_of(struct str status)
{
	if (str_starts(status, STR("pulling manifest")))
		return "reading the manifest";
	if (str_starts(status, STR("pulling ")))
		return "downloading";
	if (str_starts(status, STR("verifying")))
		return "verifying";
	return str_starts(status, STR("writing")) ? "writing the manifest" : "finishing";
}

static void on_line(void *arg, struct str line)
{
	struct job *j = arg;
	struct arena *mem = arena_new(2048);
	struct json doc;
	struct job_layer *layer;
	struct str status, error;
	uint64_t done;

	if (json_parse(&doc, mem, line, NULL, NULL) == ERR_OK) {
		status = str_of(read_str(&doc, 0, "status", mem));
		error = str_of(read_str(&doc, 0, "error", mem));
		if (error.n)
			(void)str_copy(j->error, sizeof(j->error), error);
		j->succeeded |= str_eqz(status, "success");
		if (status.n) {
			(void)str_copy(j->status_text, sizeof(j->status_text), status);
			job_phase(j, phase_of(status));
		}
		layer = layer_of(j, str_of(read_str(&doc, 0, "digest", mem)));
		if (layer) {
			layer->total = read_u64(&doc, 0, "total");
			done = read_u64(&doc, 0, "completed");
			layer->completed = done > layer->completed ? done : layer->completed;
			sum_layers(j);
		}
	}
	arena_free(mem);
}

static void on_data(struct http_call *call, struct str data, void *arg)
{
	struct job *j = arg;
	struct why why;

	(void)call;
	if (j->answer_status != 200) {
		if (j->answer.n < sizeof(j->error))
			buf_str(&j->answer, data);
		return;
	}
	if (ndjson_feed(&j->lines, data, on_line, j, &why))
		job_wait(j, "backend '%s' sent a line of progress that is too long", j->backend);
}

/* What trying again will not change. */
static bool is_final(const char *error)
{
	static const char *const words[] = { "does not exist", "not found", "invalid", "unauthorized", "denied", "insecure", "newer version", "unsupported" };

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (str_ifind(str_of(error), str_of(words[i])))
			return true;
	return false;
}

static void broke(struct job *j)
{
	char said[300];

	(void)str_copy(said, sizeof(said), str_of(j->error));
	if (is_final(said))
		job_failed(j, ERR_BACKEND_REFUSED, "backend '%s' could not pull '%s': %s", j->backend, j->model, said);
	else if (j->tries >= TRIES_MOST)
		job_failed(j, ERR_BACKEND_FAILED, "backend '%s' could not pull '%s' in %u tries: %s", j->backend, j->model, j->tries + 1, said);
	else
		job_wait(j, "backend '%s' broke the pull off: %s", j->backend, said);
}

static void settle(struct job *j)
{
	struct backend *b = jobs_backend(j->jobs, j->backend);
	struct str rest;

	j->call = NULL;
	if (ndjson_finish(&j->lines, &rest))
		on_line(j, rest);
	if (j->answer_status >= 400)
		(void)str_copy(j->error, sizeof(j->error), j->answer.n ? buf_as_str(&j->answer) : STR("it answered with an error"));
	if (!j->succeeded) {
		if (!j->error[0])
			(void)str_copy(j->error, sizeof(j->error), STR("the stream ended before 'success'"));
		broke(j);
		return;
	}
	for (unsigned i = 0; i < j->n_layers; i++)        /* its last line may stay below the total */
		j->layers[i].completed = j->layers[i].total;
	j->bytes_done = j->bytes_total;
	job_done(j);
	if (b)
		registry_list_again(j->jobs->registry, b);
}

static void on_end(struct http_call *call, void *arg)
{
	(void)call;
	settle(arg);
}

static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	struct job *j = arg;

	(void)call;
	j->call = NULL;
	if (e == HTTP_CALL_CANCELLED)
		return;
	if (j->succeeded) {
		settle(j);
		return;
	}
	job_wait(j, "backend '%s' does not answer (%s): %s", j->backend, http_call_error_name(e), text);
}

static void write_request(struct job *j, bool insecure)
{
	struct json_out out;

	buf_clear(&j->request);
	json_begin(&out, &j->request);
	jw_obj(&out);
	jw_kv_str(&out, "model", str_of(j->model));
	jw_kv_bool(&out, "stream", true);
	if (insecure)
		jw_kv_bool(&out, "insecure", true);
	jw_end(&out);
}

static void go(struct job *j)
{
	static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };
	static const struct http_call_opts opts = { .first_byte_ms = FIRST_BYTE_MS, .idle_ms = SILENCE_MS };
	struct backend *b = jobs_backend(j->jobs, j->backend);
	struct str body, head;
	bool insecure;
	struct why why;

	if (!b) {
		job_failed(j, ERR_NOT_FOUND, "there is no backend '%s' any more", j->backend);
		return;
	}
	if (registry_allowed(j->jobs->registry->config, str_of(j->model), &insecure, &why)) {
		job_failed(j, why.code, "%s", why.text);
		return;
	}
	write_request(j, insecure);
	arena_free(j->mem);
	j->mem = arena_new(1024);
	j->error[0] = '\0';
	job_phase(j, "asking the backend");
	body = buf_as_str(&j->request);
	head = http_call_head(j->mem, b->pool, "POST", STR("/api/pull"), STR("Content-Type: application/json\r\n"), true, body.n);
	j->call = http_call_start(b->pool, head, &body, 1, &opts, &ops, j);
}
