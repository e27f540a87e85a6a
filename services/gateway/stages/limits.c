/* limits.c - see limits.h: so many requests and tokens a minute, so many requests at once, for the key and for its tenant.
 *
 * Tokens are reserved by estimate (the prompt's, and what it may answer) and settled when the request ends. Where several gateways share
 * the limits (limit_share.h) a request may have to wait a moment until this one has been given more. */
#include "services/gateway/limits.h"

#include "common/base/clock.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

enum { WAIT_US = 4000000, ANSWER_TOKENS = 512 };

/* --- what is said --- */

static const char *const kind_names[LIMIT_KINDS] = { "requests", "tokens", "concurrency" };

/* "6m0s", "12s", "350ms", as OpenAI writes it; up to the next second, so that who waits that long has waited long enough. */
static struct str duration(struct arena *mem, int64_t us)
{
	long long s = (us + 999999) / 1000000;

	if (us < 1000000)
		return arena_fmt(mem, "%lldms", (long long)((us + 999) / 1000));
	return s < 60 ? arena_fmt(mem, "%llds", s) : arena_fmt(mem, "%lldm%llds", s / 60, s % 60);
}

static struct str lines_of(struct req *r, enum limit_kind k, struct limit_state s)
{
	unsigned long long limit = s.limit, left = s.left;
	const char *name = kind_names[k];
	char at[40];

	if (!s.limit)
		return STR("");
	if (req_dialect(r) != LLM_ANTHROPIC)
		return arena_fmt(r->mem, "x-ratelimit-limit-%s: %llu\r\nx-ratelimit-remaining-%s: %llu\r\nx-ratelimit-reset-%s: " STR_FMT "\r\n", name, limit,
				 name, left, name, STR_ARG(duration(r->mem, s.reset_us)));
	clock_rfc3339(wall_us() + s.reset_us, 0, at, sizeof(at));
	return arena_fmt(r->mem, "anthropic-ratelimit-%s-limit: %llu\r\nanthropic-ratelimit-%s-remaining: %llu\r\nanthropic-ratelimit-%s-reset: %s\r\n", name, limit,
			 name, left, name, at);
}

static void tell(struct req *r, int64_t now)
{
	struct str requests = lines_of(r, LIMIT_REQUESTS, scopes_state(&r->limits, LIMIT_REQUESTS, now));
	struct str tokens = lines_of(r, LIMIT_TOKENS, scopes_state(&r->limits, LIMIT_TOKENS, now));

	r->limit_headers = arena_fmt(r->mem, STR_FMT STR_FMT, STR_ARG(requests), STR_ARG(tokens));
}

/* "key 01ab…", "tenant 'acme'": the scope's name for people. */
static struct str whose(struct req *r, const struct scope *s)
{
	return s == r->limits.scopes[0] ? arena_fmt(r->mem, "key %s", s->name + 4) : arena_fmt(r->mem, "tenant '%s'", s->name + 7);
}

static enum step refuse(struct req *r, const struct limit_refusal *why, int64_t now)
{
	struct str who = whose(r, why->scope);
	unsigned long long limit = why->limit;

	series_inc(metrics_series(r->worker->gw->metrics, M_LIMITED, kind_names[why->kind], why->scope == r->limits.scopes[0] ? "key" : "tenant"));
	r->retry_after_s = why->wait_us > 1000000 ? (why->wait_us + 999999) / 1000000 : 1;
	tell(r, now);
	if (why->share)
		return req_fail(r, ERR_RATE_LIMITED, "the part that this gateway has of the limit of " STR_FMT " (%llu %s) is used up, and the access service gave no more; "
				"try again in %lld s", STR_ARG(who), limit, why->kind == LIMIT_CONCURRENCY ? "requests at once" : kind_names[why->kind], (long long)r->retry_after_s);
	if (why->kind == LIMIT_CONCURRENCY)
		return req_fail(r, ERR_RATE_LIMITED, STR_FMT " may have %llu requests under way at once, and has; try again when one has ended", STR_ARG(who), limit);
	if (why->kind == LIMIT_REQUESTS)
		return req_fail(r, ERR_RATE_LIMITED, STR_FMT " may make %llu requests a minute, and has; the next is possible in %lld s", STR_ARG(who), limit,
				(long long)r->retry_after_s);
	return req_fail(r, ERR_RATE_LIMITED, STR_FMT " may use %llu tokens a minute; this request may need %llu, and %llu are left; there may be enough in %lld s",
			STR_ARG(who), limit, (unsigned long long)why->need, (unsigned long long)why->left, (long long)r->retry_after_s);
}

/* --- taking --- */

static uint64_t estimate(const struct req *r)
{
	if (r->in.op == LLM_COUNT)
		return 0;                 /* it makes none */
	return r->in.prompt_tokens_est + (r->in.max_tokens > 0 ? (uint64_t)r->in.max_tokens : ANSWER_TOKENS);
}

static void stop_waiting(struct req *r)
{
	if (!r->limit_until_us)
		return;
	r->limit_until_us = 0;
	list_del(&r->limit_node);
	atomic_fetch_sub(&r->worker->n_limit_waiters, 1);
}

static enum step try_now(struct req *r, bool last)
{
	struct limit_refusal why;
	int64_t now = mono_us();

	if (scopes_take(&r->limits, estimate(r), now, &why)) {
		tell(r, now);
		return STEP_NEXT;
	}
	return why.share && !last ? STEP_WAIT : refuse(r, &why, now);
}

static enum step enter(struct req *r)
{
	enum step step;

	if (!r->limits.scopes[0] && !r->limits.scopes[1])
		return STEP_NEXT;
	step = try_now(r, false);
	if (step != STEP_WAIT)
		return step;
	series_inc(metrics_series(r->worker->gw->metrics, M_LIMIT_WAITS));
	r->limit_until_us = req_now(r) + WAIT_US;
	list_push(&r->worker->limit_waiters, &r->limit_node);
	atomic_fetch_add(&r->worker->n_limit_waiters, 1);
	return STEP_WAIT;
}

void limits_news(struct worker *w)
{
	struct list waiting;

	if (list_empty(&w->limit_waiters))
		return;
	list_push(&w->limit_waiters, &waiting);   /* the head changes, the members stay */
	list_del(&w->limit_waiters);
	while (!list_empty(&waiting)) {
		struct req *r = list_entry(waiting.next, struct req, limit_node);
		enum step step;

		list_del(&r->limit_node);
		list_push(&w->limit_waiters, &r->limit_node);
		step = try_now(r, req_now(r) >= r->limit_until_us);
		if (step == STEP_WAIT)
			continue;
		stop_waiting(r);
		req_resume(r, step);
	}
}

void limits_end(struct req *r)
{
	stop_waiting(r);
	scopes_end(&r->limits, r->spent_tokens, mono_us());
}

const struct stage stage_limits = { "limits", enter };
