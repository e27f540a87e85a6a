/* outcome.c - see outcome.h. Its author is "task:ID", so that a task that is reported again replaces what was said before. */
#include "services/usage-tracker/outcome.h"

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/json.h"
#include "services/usage-tracker/feedback.h"

static void *arena_of(void *mem, size_t n) { return arena_alloc(mem, n); }
static void keep_in_arena(void *mem, void *p) { (void)mem, (void)p; }

static bool count_of(const struct json *j, const char *name, uint32_t *ret)
{
	uint32_t at = json_get(j, 0, name);
	int64_t n = 0;

	if (at && json_kind(j, at) != JSON_NULL && (!json_i64(j, at, &n) || n < 0 || n > INT32_MAX))
		return false;
	*ret = (uint32_t)n;
	return true;
}

static bool success_of(const struct json *j, Corral__Verdict *ret)
{
	uint32_t at = json_get(j, 0, "success");
	bool good = false;

	if (!at || json_kind(j, at) == JSON_NULL)
		return true;
	if (!json_bool(j, at, &good))
		return false;
	*ret = good ? CORRAL__VERDICT__VERDICT_GOOD : CORRAL__VERDICT__VERDICT_BAD;
	return true;
}

static const char *from_json(Corral__TaskCompletedEvent *e, struct str bytes, struct arena *mem)
{
	struct str task = { 0 }, request = { 0 };
	struct json j;
	struct why why;

	if (json_parse(&j, mem, bytes, NULL, &why) != ERR_OK || json_kind(&j, 0) != JSON_OBJECT)
		return "it is neither a TaskCompletedEvent nor a JSON object";
	if (!json_opt_str(&j, 0, "task_id", &task, mem, &why) || !json_opt_str(&j, 0, "request_id", &request, mem, &why) ||
	    !json_opt_i64(&j, 0, "occurred_at_us", &e->occurred_at_us, &why))
		return arena_printf(mem, "%s", why.text);
	if (!count_of(&j, "tests_passed", &e->tests_passed) || !count_of(&j, "tests_total", &e->tests_total) || !count_of(&j, "rating", &e->rating) ||
	    !success_of(&j, &e->success))
		return "tests_passed, tests_total and rating must be numbers that are not negative, success true or false";
	e->task_id = arena_dup(mem, task.p ? task.p : "", task.n);
	e->request_id = (ProtobufCBinaryData){ request.n, (uint8_t *)(uintptr_t)request.p };
	return "";
}

static const char *read_event(Corral__TaskCompletedEvent **ret, struct str bytes, struct arena *mem)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, mem };

	*ret = bytes.n && bytes.p[0] == '{' ? NULL :                  /* no message of ours begins so */
	       corral__task_completed_event__unpack(&alloc, bytes.n, (const uint8_t *)bytes.p);
	if (*ret)
		return "";
	*ret = arena_new_of(mem, Corral__TaskCompletedEvent);
	corral__task_completed_event__init(*ret);
	return from_json(*ret, bytes, mem);
}

static bool request_of(const Corral__TaskCompletedEvent *e, struct uuid *ret)
{
	if (e->request_id.len == sizeof(ret->b))
		memcpy(ret->b, e->request_id.data, sizeof(ret->b));
	return e->request_id.len == sizeof(ret->b) || uuid_parse(str_n((char *)e->request_id.data, e->request_id.len), ret);
}

const char *outcome_keep(struct db *db, struct str bytes, struct arena *mem, struct why *why)
{
	Corral__FeedbackEvent f = CORRAL__FEEDBACK_EVENT__INIT;
	enum feedback_outcome kept;
	Corral__TaskCompletedEvent *e;
	struct uuid request;
	const char *flaw = read_event(&e, bytes, mem);

	if (*flaw)
		return flaw;
	if (!request_of(e, &request))
		return "its request_id is not the id of a request";
	if (!e->task_id[0] || e->rating > 5 || e->tests_passed > e->tests_total || e->success > CORRAL__VERDICT__VERDICT_BAD)
		return "it needs a task_id, a rating of 1 to 5 or none, and no more tests that passed than there were";
	f.request_id = (ProtobufCBinaryData){ sizeof(request.b), request.b };
	f.occurred_at_us = e->occurred_at_us > 0 ? e->occurred_at_us : wall_us();
	f.author = arena_printf(mem, "task:%s", e->task_id);
	f.success = e->success;
	f.tests_passed = e->tests_passed;
	f.tests_total = e->tests_total;
	f.rating = e->rating;
	f.sees_all = true;
	if (!feedback_keep(db, &f, &kept, why))
		return NULL;
	return kept == FEEDBACK_UNSOUND ? "it says nothing that can be kept" : "";
}
