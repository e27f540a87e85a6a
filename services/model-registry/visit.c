/* visit.c - see visit.h: asking. What is answered is judged in answer.c and by the kinds. */
#include "services/model-registry/visit.h"

enum { ANSWER_MAX_BYTES = 32 << 20 };     /* a tokenizer's merges may come along */

static const struct json_limits limits = { .max_depth = 64, .max_nodes = 4000000 };

void visit_start(struct visit *visit)
{
	visit->found = visit->task == VISIT_LIST ? listing_new() : NULL;
	visit->kind->start(visit);
}

void visit_cancel(struct visit *visit)
{
	for (unsigned i = 0; i < VISIT_AT_ONCE; i++) {
		http_fetch_cancel(visit->questions[i].fetch);
		visit->questions[i].fetch = NULL;
	}
	listing_free(visit->found);
	visit->found = NULL;
}

static void on_answer(void *arg, int status, struct str body, const char *error)
{
	struct question *question = arg;
	struct arena *mem = arena_new(0);
	struct answer answer = { .status = status, .error = error, .mem = mem, .about = question->about };
	struct json json;
	struct why why;

	question->fetch = NULL;
	if (status && body.n && json_parse(&json, mem, body, &limits, &why) == ERR_OK)
		answer.json = &json;
	/* The visit may end and be gone in here, and the question with it. */
	question->then(question->visit, &answer);
	arena_free(mem);
}

void visit_ask_beside(struct visit *visit, size_t about, const char *method, struct str path, struct str body, int64_t timeout_ms,
		      void (*then)(struct visit *, const struct answer *))
{
	struct str headers = body.n ? STR("Accept: application/json\r\nContent-Type: application/json\r\n") : STR("Accept: application/json\r\n");
	struct question *question = visit->questions;

	while (question->fetch)
		question++;
	question->visit = visit;
	question->about = about;
	question->then = then;
	question->fetch = http_fetch(visit->pool, method, path, headers, body, timeout_ms, ANSWER_MAX_BYTES, on_answer, question);
}

void visit_ask(struct visit *visit, const char *method, struct str path, struct str body, int64_t timeout_ms,
	       void (*then)(struct visit *, const struct answer *))
{
	visit_ask_beside(visit, 0, method, path, body, timeout_ms, then);
}
