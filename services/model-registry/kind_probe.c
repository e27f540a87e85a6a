/* kind_probe.c - finds out what a server is by questions that only one kind answers, then visits it as that kind. */
#include "services/model-registry/visit.h"

static void start(struct visit *);
static void on_version(struct visit *, const struct answer *);
static void on_props(struct visit *, const struct answer *);
static void go_on_as(struct visit *, const struct kind *);

const struct kind kind_probe = { .name = "unknown", .start = start };

static void start(struct visit *visit)
{
	visit_ask(visit, "GET", STR("/api/version"), STR(""), visit->timeout_ms, on_version);
}

/* True when nothing can be concluded now: nobody there, or still loading. */
static bool undecided(struct visit *visit, const struct answer *answer)
{
	if (answer->status == 0) {
		visit_fail(visit, "unreachable", "%s", answer->error);
		return true;
	}
	if (answer->status == 503) {
		(void)snprintf(visit->text, sizeof visit->text, "it answers, and is not ready yet");
		visit_done(visit, VISIT_LOADING);
		return true;
	}
	return false;
}

static void on_version(struct visit *visit, const struct answer *answer)
{
	if (undecided(visit, answer))
		return;
	if (answer->status == 200 && answer->json && json_get(answer->json, 0, "version"))
		go_on_as(visit, &kind_ollama);
	else
		visit_ask(visit, "GET", STR("/props"), STR(""), visit->timeout_ms, on_props);
}

static void on_props(struct visit *visit, const struct answer *answer)
{
	const struct json *json = answer->json;

	if (undecided(visit, answer))
		return;
	if (answer->status == 200 && json && (json_get(json, 0, "total_slots") || json_get(json, 0, "role")))
		go_on_as(visit, &kind_llamacpp);
	else
		go_on_as(visit, &kind_openai);
}

static void go_on_as(struct visit *visit, const struct kind *kind)
{
	visit->kind = kind;
	visit->kind->start(visit);
}
