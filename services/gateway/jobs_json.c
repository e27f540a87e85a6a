/* jobs_json.c - see jobs_json.h. */
#include "services/gateway/jobs_json.h"

static const char *state_name(Corral__JobState s)
{
	static const char *const names[] = { "waiting", "running", "done", "failed", "cancelled" };

	return (unsigned)s < sizeof(names) / sizeof(*names) ? names[s] : "unknown";
}

static void or_null(struct json_out *jo, const char *key, double v)
{
	jw_key(jo, key);
	if (v < 0)
		jw_null(jo);
	else
		jw_double(jo, v);
}

void job_json(struct json_out *jo, const Corral__Job *j)
{
	jw_obj(jo);
	jw_kv_strz(jo, "id", j->id);
	jw_kv_strz(jo, "kind", j->kind);
	jw_kv_strz(jo, "model", j->model);
	jw_kv_strz(jo, "backend", *j->backend ? j->backend : NULL);
	jw_kv_strz(jo, "state", state_name(j->state));
	jw_kv_strz(jo, "phase", j->phase);
	or_null(jo, "percent", j->percent < 0 ? -1 : (double)(int64_t)(j->percent * 10) / 10);
	jw_kv_u64(jo, "bytes", j->bytes_done);
	jw_kv_u64(jo, "bytes_total", j->bytes_total);
	jw_kv_u64(jo, "rate", (uint64_t)j->bytes_per_s);
	or_null(jo, "eta_s", (double)j->eta_s);
	time_json(jo, "created_at", j->created_at_us);
	time_json(jo, "started_at", j->started_at_us);
	time_json(jo, "ended_at", j->ended_at_us);
	if (j->removes_at_us)
		time_json(jo, "removes_at", j->removes_at_us);
	jw_kv_strz(jo, "error", *j->error ? j->error : NULL);
	jw_kv_strz(jo, "error_code", *j->error_code ? j->error_code : NULL);
	jw_kv_u64(jo, "asked", j->asked);
	jw_kv_u64(jo, "tries", j->tries);
	jw_end(jo);
}
