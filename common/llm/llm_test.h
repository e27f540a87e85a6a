/* llm_test.h - what the tests of common/llm share: a request, a backend's bytes, and what reached the client. */
#ifndef CORRAL_LLM_TEST_H
#define CORRAL_LLM_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/llm/exchange.h"

struct exchange {
	struct arena *mem;
	struct llm_in in;
	struct llm_target target;
	struct llm_plan plan;
	struct llm_relay *relay;
	struct why why;
	struct buf out;
	enum llm_step step;
	bool priced;                  /* the relay is told a price */
};

static inline struct str file_text(struct arena *mem, const char *name)
{
	char *path = arena_printf(mem, "tests/golden/llm/%s", name), *text;
	FILE *f = fopen(path, "rb");
	long n;

	if (!f)
		fail_msg("%s is missing; run from the root of the tree", path);
	fseek(f, 0, SEEK_END);
	n = ftell(f);
	rewind(f);
	text = arena_alloc(mem, (size_t)n + 1);
	if (fread(text, 1, (size_t)n, f) != (size_t)n)
		fail_msg("%s cannot be read", path);
	fclose(f);
	return str_n(text, (size_t)n);
}

static inline void exchange_init(struct exchange *x, enum llm_backend kind)
{
	memset(x, 0, sizeof(*x));
	x->mem = arena_new(0);
	x->target = (struct llm_target){ .kind = kind, .remote_model = STR("remote:1b"), .shown_model = STR("shown"), .context_length = 4096,
	                                 .request_id = STR("01936f3e-0000-7000-8000-000000000001"), .created_us = 1795227654123456 };
}

static inline void exchange_free(struct exchange *x)
{
	buf_free(&x->out);
	arena_free(x->mem);
}

static inline enum err read_request(struct exchange *x, enum llm_dialect d, enum llm_op op, struct str body, const char *accept)
{
	return llm_read(&x->in, d, op, body, str_of(accept), x->mem, &x->why);
}

static inline enum err plan_request(struct exchange *x) { return llm_plan(&x->plan, &x->in, &x->target, x->mem, &x->why); }

static inline struct str plan_body(struct exchange *x)
{
	struct buf b = { 0 };
	struct str s;

	for (unsigned i = 0; i < x->plan.n_parts; i++)
		buf_str(&b, x->plan.parts[i]);
	assert_int_equal(b.n, x->plan.length);
	s = arena_str(x->mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static inline int64_t seven(void *arg, const struct llm_usage *u) { return arg && u->reported ? 7 : -1; }

/* The backend's answer, in pieces of at most 'piece' bytes (0 = one), then its end. */
static inline void answer(struct exchange *x, int status, const char *type, struct str body, size_t first, size_t piece)
{
	struct llm_extra extra = { .backend = STR("gpu1"), .reason = STR("asked"), .task_type = STR("CHAT"), .complexity = STR("SIMPLE"),
	                           .language = STR("en"), .alternatives_json = STR("[]"), .context_size = 9, .confidence = 0.5,
	                           .latency_us = 12345, .ttft_us = 2345, .cost_microusd = 7 };
	struct http_head head = { .status = status };

	head.headers[0] = (struct http_header){ STR("Content-Type"), str_of(type) };
	head.n_headers = 1;
	x->relay = llm_relay_new(x->mem, &x->in, &x->plan, &x->target);
	if (x->priced)
		llm_relay_price(x->relay, seven, x);
	buf_clear(&x->out);
	x->step = llm_relay_head(x->relay, &head, &x->why);
	for (size_t at = 0; at < body.n && x->step == LLM_MORE;) {
		size_t n = at < first ? first - at : piece ? piece : body.n - at;
		char *copy;

		if (n > body.n - at)
			n = body.n - at;
		copy = malloc(n ? n : 1);              /* of its own, so that reading past it is noticed */
		memcpy(copy, body.p + at, n);
		x->step = llm_relay_data(x->relay, str_n(copy, n), &x->out, &x->why);
		free(copy);
		at += n;
	}
	if (x->step != LLM_FAILED)
		x->step = llm_relay_end(x->relay, &extra, &x->out, &x->why);
}

#define assert_text(got, want) \
	do { \
		struct str g_ = (got), w_ = (want); \
		if (!str_eq(g_, w_)) \
			fail_msg("got:  " STR_FMT "\nwant: " STR_FMT, STR_ARG(g_), STR_ARG(w_)); \
	} while (0)
#endif
