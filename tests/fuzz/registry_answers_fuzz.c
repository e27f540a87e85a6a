/* registry_answers_fuzz.c - model servers that answer anything: the registry's kinds are given answers instead of asking for them.
 *
 * Input: kind, task of a second visit, then answers: a letter for the status, the body, a zero byte. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "services/model-registry/visit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct json_limits limits = { .max_depth = 64, .max_nodes = 4000000 };
static struct str input;
static uint64_t touched;

static struct { size_t about; void (*then)(struct visit *, const struct answer *); } asked[VISIT_AT_ONCE];
static unsigned n_asked;

/* The registry's visit.c is not linked here. */
void visit_ask_beside(struct visit *visit, size_t about, const char *method, struct str path, struct str body, int64_t timeout_ms,
		      void (*then)(struct visit *, const struct answer *))
{
	if (timeout_ms <= 0 || path.n == 0 || path.p[0] != '/' || str_find(path, STR(" ")) || str_find(path, STR("\n")))
		abort();
	for (size_t i = 0; i < body.n; i++)
		touched += (uint8_t)body.p[i];
	if (n_asked == VISIT_AT_ONCE)
		abort();
	asked[n_asked].about = about;
	asked[n_asked++].then = then;
}

void visit_ask(struct visit *visit, const char *method, struct str path, struct str body, int64_t timeout_ms,
	       void (*then)(struct visit *, const struct answer *))
{
	if (n_asked)
		abort();      /* one after another */
	visit_ask_beside(visit, 0, method, path, body, timeout_ms, then);
}

static void on_end(struct visit *visit, void *arg)
{
	if (*(bool *)arg)
		abort();      /* ends once */
	*(bool *)arg = true;
	if ((visit->end == VISIT_FAILED) != (visit->reason != NULL))
		abort();
}

static int next_status(void)
{
	static const int statuses[] = { 200, 200, 404, 503, 401, 0 };
	int status = input.n ? statuses[(uint8_t)input.p[0] % 6] : 0;

	input = str_from(input, 1);
	return status;
}

static struct str next_body(void)
{
	struct str body = input;
	const char *zero = input.n ? memchr(input.p, 0, input.n) : NULL;

	if (zero)
		body.n = (size_t)(zero - input.p);
	input = str_from(input, body.n + 1);
	return body;
}

static void give_answer(struct visit *visit)
{
	struct arena *mem = arena_new(0);
	struct answer answer = { .status = next_status(), .error = "nothing came", .mem = mem };
	struct str body = next_body();
	struct json json;
	struct why why;

	void (*then)(struct visit *, const struct answer *);
	unsigned at;

	if (!n_asked)
		abort();      /* has not ended, and asks nothing */
	/* Any of them may be answered first. */
	at = (unsigned)body.n % n_asked;
	then = asked[at].then;
	answer.about = asked[at].about;
	asked[at] = asked[--n_asked];
	if (answer.status && body.n && json_parse(&json, mem, body, &limits, &why) == ERR_OK)
		answer.json = &json;
	then(visit, &answer);
	arena_free(mem);
}

static void touch(const struct listing *listing)
{
	for (size_t i = 0; i < listing->n; i++) {
		const struct found *f = &listing->models[i];

		touched += strlen(f->name) + strlen(f->remote_name) + strlen(f->family) + strlen(f->parameters) + strlen(f->quantization) +
			   strlen(f->digest) + strlen(f->modified_at) + strlen(f->format) + strlen(f->template_text) + strlen(f->architecture);
		if (!listing_wants(NULL, str_of(f->remote_name)) || !listing_wants(NULL, str_of(f->name)))
			abort();
	}
}

static struct listing *visit_once(const struct kind *kind, enum visit_task task, struct listing *held)
{
	bool ended = false;
	struct visit visit = { .kind = kind, .task = task, .timeout_ms = 5, .held = held, .on_end = on_end, .arg = &ended };

	visit.found = task == VISIT_LIST ? listing_new() : NULL;
	visit.kind->start(&visit);
	for (int i = 0; !ended; i++) {
		if (i > 100000)
			abort();      /* asks for ever */
		give_answer(&visit);
	}
	if (n_asked)
		abort();      /* ended with questions under way */
	if (visit.end == VISIT_GOOD && visit.found) {
		touch(visit.found);
		return visit.found;
	}
	listing_free(visit.found);
	return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct kind *const kinds[] = { &kind_ollama, &kind_llamacpp, &kind_openai, &kind_probe };
	struct listing *held, *again;

	if (size < 2)
		return 0;
	input = str_n((const char *)data + 2, size - 2);
	held = visit_once(kinds[data[0] % 4], VISIT_LIST, NULL);
	again = visit_once(kinds[data[0] % 4], data[1] % 2 ? VISIT_LOOK : VISIT_LIST, held);
	if (held)
		touch(held);
	listing_free(held);
	listing_free(again);
	return 0;
}
