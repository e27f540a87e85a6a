/* feedback.c - POST /feedback: what somebody says of an answer, on this gateway's disk before it is answered with 202; the usage-tracker
 * gets it from there, and looks then whether the request is the tenant's own. */
#include "common/base/clock.h"
#include "services/gateway/ask.h"
#include "services/gateway/feedback_box.h"
#include "services/gateway/stages/stages.h"

enum { TEXT_MAX = 64 << 10, TESTS_MAX = 1000000 };

static void call(struct ask *a) { feedback_box_put(a->gw->feedback, a, a->query); }

/* --- reading --- */

static bool invalid(struct why *why, const char *field, const char *text) { return err_field(why, ERR_INVALID, field, "%s %s", field, text) == ERR_OK; }

static bool known_fields(const struct json *j, struct why *why)
{
	static const char *const names[] = { "request_id", "rating", "thumbs", "success", "tests_passed", "tests_total", "corrected_output", "comment" };

	for (uint32_t i = json_first(j, 0); i; i = json_next(j, 0, i)) {
		struct str key = json_key_raw(j, i);
		bool known = false;

		for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++)
			known |= json_key_is(j, i, names[k]);
		if (!known) {
			char field[64];

			(void)str_copy(field, sizeof(field), key);
			return err_field(why, ERR_UNSUPPORTED_FIELD, field, "feedback has no field '%s'", field) == ERR_OK;
		}
	}
	return true;
}

static bool read_numbers(const struct json *j, Corral__FeedbackEvent *e, struct why *why)
{
	int64_t rating = 0, passed = -1, total = -1;

	if (!json_opt_i64(j, 0, "rating", &rating, why) || !json_opt_i64(j, 0, "tests_passed", &passed, why) || !json_opt_i64(j, 0, "tests_total", &total, why))
		return false;
	if ((rating < 1 || rating > 5) && json_get(j, 0, "rating") && json_kind(j, json_get(j, 0, "rating")) != JSON_NULL)
		return invalid(why, "rating", "is a whole number from 1 to 5");
	if ((passed < 0) != (total < 0) || total == 0 || total > TESTS_MAX || passed > total)
		return invalid(why, "tests_passed", "and tests_total belong together: from 0 to tests_total, which is at least 1");
	e->rating = (uint32_t)rating;
	e->tests_passed = passed > 0 ? (uint32_t)passed : 0;
	e->tests_total = total > 0 ? (uint32_t)total : 0;
	return true;
}

static bool read_verdicts(struct req *r, const struct json *j, Corral__FeedbackEvent *e, struct why *why)
{
	struct str thumbs = STR("");
	uint32_t success = json_get(j, 0, "success");
	bool good = false;

	if (!json_opt_str(j, 0, "thumbs", &thumbs, r->mem, why) || !json_opt_bool(j, 0, "success", &good, why))
		return false;
	if (thumbs.n && !str_eqz(thumbs, "up") && !str_eqz(thumbs, "down"))
		return invalid(why, "thumbs", "is \"up\" or \"down\"");
	if (thumbs.n)
		e->thumbs = str_eqz(thumbs, "up") ? CORRAL__VERDICT__VERDICT_GOOD : CORRAL__VERDICT__VERDICT_BAD;
	if (success && json_kind(j, success) != JSON_NULL)
		e->success = good ? CORRAL__VERDICT__VERDICT_GOOD : CORRAL__VERDICT__VERDICT_BAD;
	return true;
}

static bool read_text(const struct json *j, const char *name, struct arena *mem, char **ret, struct why *why)
{
	struct str s = STR("");

	if (!json_opt_str(j, 0, name, &s, mem, why))
		return false;
	if (s.n > TEXT_MAX || memchr(s.p ? s.p : "", 0, s.n))
		return invalid(why, name, "is a text of at most 64 KiB without zero bytes");
	*ret = arena_dup(mem, s.p ? s.p : "", s.n);
	return true;
}

static bool read_id(struct req *r, const struct json *j, struct arena *mem, Corral__FeedbackEvent *e, struct why *why)
{
	struct str text = STR("");
	struct uuid *id = arena_new_of(mem, struct uuid);

	if (!json_opt_str(j, 0, "request_id", &text, r->mem, why))
		return false;
	if (!text.n)
		return err_field(why, ERR_MALFORMED, "request_id", "request_id is missing: it is the X-Request-Id of the answer that this is about") == ERR_OK;
	if (!uuid_parse(text, id))
		return invalid(why, "request_id", "is no request id; X-Request-Id of an answer is one");
	e->request_id = (ProtobufCBinaryData){ sizeof(id->b), id->b };
	return true;
}

static bool says_nothing(const Corral__FeedbackEvent *e)
{
	return !e->rating && !e->thumbs && !e->success && !e->tests_total && !*e->comment && !*e->corrected_output;
}

static bool read_feedback(struct req *r, struct arena *mem, Corral__FeedbackEvent *e, struct why *why)
{
	struct json j;

	if (json_parse(&j, r->mem, r->x->body, NULL, why) != ERR_OK)
		return false;
	if (json_kind(&j, 0) != JSON_OBJECT)
		return err_set(why, ERR_MALFORMED, "the body must be an object, not %s", json_kind_name(json_kind(&j, 0))) == ERR_OK;
	if (!known_fields(&j, why) || !read_id(r, &j, mem, e, why) || !read_numbers(&j, e, why) || !read_verdicts(r, &j, e, why) ||
	    !read_text(&j, "corrected_output", mem, &e->corrected_output, why) || !read_text(&j, "comment", mem, &e->comment, why))
		return false;
	if (says_nothing(e))
		return err_set(why, ERR_MALFORMED, "feedback says at least one of rating, thumbs, success, tests_passed with tests_total, corrected_output, comment") == ERR_OK;
	return true;
}

static enum step enter(struct req *r)
{
	struct ask *a = ask_new(r, call);
	Corral__FeedbackEvent *e = arena_new_of(a->mem, Corral__FeedbackEvent);
	struct uuid *event = arena_new_of(a->mem, struct uuid);
	struct why why = { 0 };

	corral__feedback_event__init(e);
	if (!read_feedback(r, a->mem, e, &why)) {
		ask_drop(a);
		return req_fail_why(r, &why);
	}
	*event = uuid_v7(wall_us());
	e->event_id = (ProtobufCBinaryData){ sizeof(event->b), event->b };
	e->occurred_at_us = wall_us();
	e->tenant = arena_dup(a->mem, r->tenant.p, r->tenant.n);
	e->author = arena_dup(a->mem, r->key_id.p ? r->key_id.p : "", r->key_id.n);
	e->sees_all = role_reaches(r->who.role, STR("feedback"));
	a->query = e;
	return ask_send(a);
}

const struct stage stage_feedback = { "feedback", enter };
