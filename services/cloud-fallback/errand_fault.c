/* errand_fault.c - what a failed attempt means: the provider's own words are read (common/llm/provider_error.h), and act on its key, its breaker or
 * the request alone. See errand.h.
 *
 *   it says                                  then
 *   the key is not taken, no credit          the key rests for cloud_recheck; another one is tried
 *   too many now                             the key rests as long as it was told; another one is tried
 *   too many of this model today (Gemini)    the key rests for that model until its day ends; another one is tried
 *   overloaded                               counted by the breaker; with a time to wait nothing is sent until then
 *   broken, nothing, no answer               counted by the breaker
 *   too long, no such model, refused         the request's own fault: nothing is held against anybody */
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/cloud-fallback/errand.h"

#define LONGEST_PAUSE_US INT64_C(300000000)

struct provider_key *errand_key(const struct errand *e)
{
	return e->n_tried ? keyring_find(&e->provider->keys, e->tried[e->n_tried - 1]) : NULL;
}

void errand_keep_head(struct errand *e, const struct http_head *h)
{
	size_t size = offsetof(struct http_head, headers) + h->n_headers * sizeof(h->headers[0]);
	struct http_head *kept = arena_alloc(e->mem, size);

	memcpy(kept, h, size);
	for (uint32_t i = 0; i < h->n_headers; i++)
		kept->headers[i] = (struct http_header){ arena_str(e->mem, h->headers[i].name), arena_str(e->mem, h->headers[i].value) };
	e->head = kept;
}

/* An error's body, the error inside an answer, or nothing: then it broke. */
static bool provider_says(const struct errand *e, struct provider_error *ret)
{
	struct str said = e->status ? llm_relay_upstream_body(e->relay) : STR("");

	if (!e->status || (e->status < 400 && !str_starts(said, STR("\"")) && !str_find(said, STR("error")) && !str_find(said, STR("message")) && !str_find(said, STR("promptFeedback"))))
		return false;
	provider_error_read(ret, e->status < 400 ? 200 : e->status, e->head, said, wall_us());
	return true;
}

/* "the provider is overloaded": it has a name. */
static void name_it(const struct errand *e, const char *words, enum err code, struct why *why)
{
	static const char *const us[] = { "the provider", "the backend" };
	char text[sizeof(why->text)];

	for (size_t i = 0; i < sizeof(us) / sizeof(*us); i++) {
		const char *at = strstr(words, us[i]);

		if (!at || at > words + 40)
			continue;
		snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - words), words, e->provider->set->name, at + strlen(us[i]));
		err_set(why, code, "%s", text);
		return;
	}
	if (words != why->text)
		err_set(why, code, "%s: %s", e->provider->set->name, words);
}

static void rest_key(struct errand *e, const struct provider_error *pe)
{
	struct provider_key *k = errand_key(e);
	int64_t now_us = mono_us(), wait_us = pe->wait_ms > 0 ? pe->wait_ms * 1000 : 0;

	if (k && pe->until_tomorrow && pe->wait_ms > 0) {
		key_rest_for(k, e->model, now_us + wait_us);
		e->retry_ms = pe->wait_ms;
		LOG_WARN("a model of a provider rests until the limit of its day begins anew", LOG_S("provider", e->provider->set->name), LOG_S("model", e->model),
			 LOG_S("key", k->id), LOG_I("retry_after_ms", e->retry_ms));
		return;
	}
	if (k && pe->fault == FAULT_RATE_LIMITED)
		key_rest(k, KEY_RESTS, now_us, wait_us);
	else if (k)
		key_rest(k, pe->fault == FAULT_AUTH ? KEY_REFUSED : KEY_NO_CREDIT, now_us, e->cloud->cfg->cloud_recheck * 1000);
	if (k)
		e->retry_ms = (k->until_us - now_us) / 1000;
	LOG_WARN("a key of a provider rests", LOG_S("provider", e->provider->set->name), LOG_S("key", k ? k->id : "gone"),
		 LOG_S("fault", provider_fault_name(pe->fault)), LOG_I("status", e->status), LOG_I("retry_after_ms", e->retry_ms));
}

/* It said for how long: nobody asks before. */
static void pause_provider(struct errand *e, const struct provider_error *pe)
{
	int64_t wait_us = pe->wait_ms * 1000;

	if (wait_us <= 0)
		return;
	e->retry_ms = pe->wait_ms;
	breaker_pause(&e->provider->breaker, mono_us() + (wait_us < LONGEST_PAUSE_US ? wait_us : LONGEST_PAUSE_US));
}

static enum blame blame_of(struct errand *e, const struct provider_error *pe)
{
	switch (pe->fault) {
	case FAULT_AUTH:
	case FAULT_NO_CREDIT:
	case FAULT_RATE_LIMITED:
		rest_key(e, pe);
		return BLAME_KEY;
	case FAULT_OVERLOADED:
		pause_provider(e, pe);
		return BLAME_PROVIDER;
	default:
		return provider_fault_counts(pe->fault) ? BLAME_PROVIDER : BLAME_REQUEST;
	}
}

enum blame errand_judge(struct errand *e, struct why *why)
{
	struct provider_error pe;
	const char *fault;
	enum blame b;

	e->retry_ms = e->refused_status = 0;
	if (provider_says(e, &pe)) {
		b = blame_of(e, &pe);
		fault = provider_fault_name(pe.fault);
		name_it(e, pe.words, pe.code, why);
		e->refused_status = pe.code == ERR_BACKEND_REFUSED ? pe.status : 0;
	} else {
		b = why->code == ERR_BACKEND_FAILED || why->code == ERR_UNAVAILABLE || why->code == ERR_DEADLINE ? BLAME_PROVIDER : BLAME_REQUEST;
		fault = e->status ? "broken" : why->code == ERR_DEADLINE ? "silent" : why->code == ERR_UNAVAILABLE ? "unreachable" : "broken";
		name_it(e, why->text, why->code, why);
	}
	series_inc(metrics_series(svc_metrics(e->cloud->svc), M_FAULTS, e->provider->set->name, fault));
	return b;
}
