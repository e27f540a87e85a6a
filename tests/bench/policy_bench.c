/* policy_bench.c - what a decision and its bookkeeping cost: features of prompts, decide() over few and many replicas, an append to the
 * spool, a START and FINAL into the ledger. The best of several runs each; PATH (default /tmp) is where spool and ledger are made.
 *
 *   policy_bench [PATH] */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/policy/decide.h"
#include "common/policy/features.h"
#include "common/store/spool.h"
#include "events.pb-c.h"
#include "services/gateway/keyring.h"
#include "services/usage-tracker/ledger.h"

enum { RUNS = 9, PAIRS = 1000, MANY = 200, SAMPLES = 20001 };

static struct bench {
	struct arena *mem, *scratch, *request;
	struct feature_text text;
	struct catalogue cat;
	struct policy pol;
	struct load load[MANY];
	Corral__DecisionFeatures asks;
	enum err decided;
	struct spool *spool;
	struct ledger *ledger;
	struct str start, final;      /* packed, all but their ids */
	uint64_t position;
} now;

static void must(bool ok, const struct why *why)
{
	if (!ok) {
		fprintf(stderr, "policy_bench: %s\n", why->text);
		exit(1);
	}
}

static double measure(void (*run)(void), int rounds, int units)
{
	double best = 1e12;

	for (int i = 0; i < RUNS; i++) {
		int64_t from = mono_us();
		double ns;

		for (int k = 0; k < rounds; k++)
			run();
		ns = (double)(mono_us() - from) * 1000 / rounds / units;
		best = ns < best ? ns : best;
	}
	return best;
}

/* --- features and decisions --- */

static void one_features(void)
{
	struct features f;

	features_extract(&f, &now.text);
	__asm__ volatile("" : : "g"(&f) : "memory");
}

/* Every allocation of the program comes through here. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
static uint64_t allocations, counted;

void *malloc(size_t n) { return allocations++, __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return allocations++, __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return allocations++, __libc_realloc(p, n); }

static void one_decide(void)
{
	struct decision d;

	arena_reset(now.request);
	decide(&d, now.request, &now.asks, -1, false, &now.cat, &now.pol, now.load, NULL);
	now.decided = d.err;
}

static void features_of(size_t size)
{
	static const char words[] = "Why does this function crash when the list is empty? Please explain and fix the bug in main.c. ";
	char *text = arena_alloc(now.mem, size);

	for (size_t i = 0; i < size; i++)
		text[i] = words[i % (sizeof(words) - 1)];
	now.text = (struct feature_text){ .user = str_n(text, size), .prompt_tokens = (uint32_t)size / 3, .n_messages = 1 };
	printf("features of %4zu bytes        %10.0f ns\n", size, measure(one_features, 2000, 1));
}

enum { STRENGTHS = 6 };

static Corral__Strength **some_strengths(unsigned i)
{
	static const char *const tasks[STRENGTHS] = { "CODE_GENERATION", "CHAT", "BUG_FIX", "SUMMARIZATION", "TRANSLATION", "" };
	Corral__Strength **all = arena_array(now.mem, Corral__Strength *, STRENGTHS);

	for (unsigned k = 0; k < STRENGTHS; k++) {
		all[k] = arena_new_of(now.mem, Corral__Strength);
		corral__strength__init(all[k]);
		all[k]->task_type = (char *)(uintptr_t)tasks[k];
		all[k]->score = (i * 7919 % 1000 + k) / 1010.0;
	}
	return all;
}

static struct str snapshot(unsigned n)
{
	Corral__ModelSnapshot s = CORRAL__MODEL_SNAPSHOT__INIT;
	Corral__Backend b = CORRAL__BACKEND__INIT, *backends[] = { &b };
	static char *completion[] = { (char *)"completion" };
	uint8_t *out;

	b.name = b.kind = (char *)"llamacpp";
	b.url = (char *)"http://127.0.0.1:1";
	b.state = CORRAL__BACKEND_STATE__BACKEND_UP;
	s.backends = backends, s.n_backends = 1;
	s.models = arena_array(now.mem, Corral__Model *, n);
	s.replicas = arena_array(now.mem, Corral__Replica *, n);
	for (unsigned i = 0; i < n; i++) {
		Corral__Model *m = s.models[s.n_models++] = arena_new_of(now.mem, Corral__Model);
		Corral__Replica *r = s.replicas[s.n_replicas++] = arena_new_of(now.mem, Corral__Replica);

		corral__model__init(m);
		corral__replica__init(r);
		m->name = r->model = r->remote_name = arena_printf(now.mem, "model-%03u", i);
		m->parameter_count = (uint64_t)(i + 1) * 1000000000;
		m->context_length = 32768;
		m->capabilities = completion, m->n_capabilities = 1;
		m->strengths = some_strengths(i), m->n_strengths = STRENGTHS;
		r->backend = b.name;
		r->slots = 2;
		r->loaded = true;
	}
	out = arena_alloc(now.mem, corral__model_snapshot__get_packed_size(&s));
	return str_n((char *)out, corral__model_snapshot__pack(&s, out));
}

static int by_time(const void *a, const void *b) { return *(const int32_t *)a - *(const int32_t *)b; }

/* Each with a text of another length and other queues, so that it is not the same one over and over. */
static double median_decide(void)
{
	static int32_t ns[SAMPLES];
	struct timespec from, to;

	allocations = 0;
	for (int i = 0; i < SAMPLES; i++) {
		now.asks.prompt_tokens = 100 + (uint32_t)(rand_u64() % 1000);
		for (unsigned k = 0; k < 8; k++)
			now.load[rand_u64() % MANY].queued = (uint32_t)(rand_u64() % 4), now.load[rand_u64() % MANY].in_use = (uint32_t)(rand_u64() % 3);
		clock_gettime(CLOCK_MONOTONIC, &from);
		one_decide();
		clock_gettime(CLOCK_MONOTONIC, &to);
		ns[i] = (int32_t)((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec);
	}
	counted = allocations;
	qsort(ns, SAMPLES, sizeof(*ns), by_time);
	return ns[SAMPLES / 2];
}

static void decide_over(unsigned n)
{
	struct why why;
	double median;

	must(catalogue_build(&now.cat, now.mem, 1, n, snapshot(n), &why) == ERR_OK, &why);
	must(policy_build(&now.pol, now.mem, &now.cat, 0, 0, STR(""), &why) == ERR_OK, &why);
	for (unsigned i = 0; i < n; i++)
		now.load[i] = (struct load){ .slots = 2 };
	corral__decision_features__init(&now.asks);
	now.asks.task_type = (char *)"BUG_FIX";
	now.asks.complexity = (char *)"SIMPLE";
	now.asks.policy = (char *)"balanced";
	now.asks.is_auto = true;
	now.asks.prompt_tokens = 300;
	one_decide();
	must(now.decided == ERR_OK, &(struct why){ .text = "nothing was decided" });
	median = median_decide();
	printf("decide over %3u replicas      %10.0f ns in the median of %d, %llu heap allocations\n", n, median, SAMPLES,
	       (unsigned long long)counted);
}

/* --- keys --- */

enum { KEYS = 10000 };

static struct { char text[KEYS][APIKEY_TEXT + 1], id[KEYS][APIKEY_ID + 1]; uint8_t hash[KEYS][SHA256_BYTES]; struct keyring *ring; unsigned at; } keys;

/* What a request pays for the key that it shows; each time another one. */
static void one_key(void)
{
	struct str text = str_n(keys.text[keys.at], APIKEY_TEXT), id;

	keys.at = (keys.at + 7919) % KEYS;
	must(apikey_parse(text, &id) && keyring_verify(keys.ring, id, text), &(struct why){ .text = "a key is not found" });
}

static void key_check(void)
{
	Corral__AccessSnapshot s = CORRAL__ACCESS_SNAPSHOT__INIT;
	Corral__Key *all = arena_array(now.mem, Corral__Key, KEYS);
	struct scope_table *scopes = scope_table_new();
	struct why why;
	uint8_t *out;

	s.keys = arena_array(now.mem, Corral__Key *, KEYS);
	for (s.n_keys = 0; s.n_keys < KEYS; s.n_keys++) {
		Corral__Key *k = s.keys[s.n_keys] = &all[s.n_keys];

		corral__key__init(k);
		apikey_make(keys.text[s.n_keys], keys.id[s.n_keys], keys.hash[s.n_keys]);
		k->id = keys.id[s.n_keys];
		k->hash = (ProtobufCBinaryData){ SHA256_BYTES, keys.hash[s.n_keys] };
		k->tenant = (char *)"default";
	}
	out = arena_alloc(now.mem, corral__access_snapshot__get_packed_size(&s));
	keys.ring = keyring_new(str_n((char *)out, corral__access_snapshot__pack(&s, out)), (struct snapshot_id){ 1, 1 }, scopes, &why);
	must(keys.ring, &why);
	{
		int64_t from = mono_us();

		for (int i = 0; i < KEYS; i++)
			one_key();
		printf("check of a key, the first time %9.0f ns\n", (double)(mono_us() - from) * 1000 / KEYS);
	}
	printf("check of a key, later         %10.0f ns\n", measure(one_key, KEYS, 1));
	keyring_unref(keys.ring);
	scope_table_free(scopes);
}

/* --- books --- */

static struct str event_of(Corral__UsageKind kind, struct uuid *request)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct uuid id = uuid_v7(wall_us());
	uint8_t *out;

	e.event_id = (ProtobufCBinaryData){ sizeof(id.b), id.b };
	e.request_id = (ProtobufCBinaryData){ sizeof(request->b), request->b };
	e.kind = kind;
	e.attempt = 1;
	e.occurred_at_us = wall_us();
	e.tenant = (char *)"default", e.model = (char *)"qwen:7b", e.backend = e.provider = (char *)"llamacpp", e.dialect = (char *)"openai";
	if (kind == CORRAL__USAGE_KIND__USAGE_START) {
		e.requested_model = (char *)"qwen:7b", e.reason = (char *)"asked", e.policy_version = (char *)"1795227654.1";
		e.context_size = 300;
	} else {
		e.status = (char *)"ok", e.tokens_source = CORRAL__TOKENS_SOURCE__TOKENS_REPORTED;
		e.prompt_tokens = 300, e.completion_tokens = 20, e.latency_us = 123456, e.ttft_us = 2345, e.http_status = 200;
		e.response_bytes = 600;
	}
	out = arena_alloc(now.scratch, corral__usage_event__get_packed_size(&e));
	return str_n((char *)out, corral__usage_event__pack(&e, out));
}

static void one_append(void)
{
	struct why why;

	must(spool_append(now.spool, 1, now.start, &why) >= 0, &why);
	spool_release(now.spool, spool_end(now.spool));
}

static struct str *facts_of_pairs(void)
{
	struct str *records = arena_alloc(now.scratch, 2 * PAIRS * sizeof(*records));

	for (int i = 0; i < PAIRS; i++) {
		struct uuid request = uuid_v7(wall_us());

		records[2 * i] = event_of(CORRAL__USAGE_KIND__USAGE_START, &request);
		records[2 * i + 1] = event_of(CORRAL__USAGE_KIND__USAGE_FINAL, &request);
	}
	return records;
}

/* What a gateway ships of short attempts; with 64 under way at a time they end in another order than they began. */
static struct str *finals(void)
{
	enum { UNDER_WAY = 64 };
	struct str *records = arena_alloc(now.scratch, 2 * PAIRS * sizeof(*records)), t;

	for (int i = 0; i < 2 * PAIRS; i++) {
		struct uuid request = uuid_v7(wall_us());
		int k = i < UNDER_WAY ? i : i - (int)(rand_u64() % UNDER_WAY);

		records[i] = event_of(CORRAL__USAGE_KIND__USAGE_FINAL, &request);
		t = records[k], records[k] = records[i], records[i] = t;
	}
	return records;
}

static double ingest_once(struct str *records, int units)
{
	struct ledger_batch b = { .topic = STR("usage.v1"), .source = STR("bench"), .epoch = 1, .first = now.position, .n = 2 * PAIRS, .records = records };
	struct why why = { 0 };
	int64_t from;

	b.next = now.position + 1;
	from = mono_us();
	must(ledger_ingest(now.ledger, &b, &now.position, NULL, &why) == LEDGER_APPLIED, &why);
	return (double)(mono_us() - from) / units;
}

static double ingest(struct str *(*records)(void), int units)
{
	double best = 1e12, us;

	for (int i = 0; i < 3 * RUNS; i++) {
		arena_reset(now.scratch);
		us = ingest_once(records(), units);
		best = us < best ? us : best;
	}
	return best;
}

static void books(const char *path)
{
	struct uuid request = uuid_v7(wall_us());
	struct why why;

	now.start = event_of(CORRAL__USAGE_KIND__USAGE_START, &request);
	now.spool = spool_open(arena_printf(now.mem, "%s/spool", path), NULL, &why);
	must(now.spool, &why);
	printf("append %zu bytes to the spool %10.0f ns\n", now.start.n, measure(one_append, 20000, 1));
	spool_close(now.spool);
	now.ledger = ledger_open(arena_printf(now.mem, "sqlite:%s/ledger.db?sync=full", path), &why);
	must(now.ledger, &why);
	printf("START and FINAL to the ledger %10.2f us, in batches of %d pairs\n", ingest(facts_of_pairs, PAIRS), PAIRS);
	printf("FINAL to the ledger           %10.2f us, in batches of %d\n", ingest(finals, 2 * PAIRS), 2 * PAIRS);
	ledger_close(now.ledger);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) { return remove(path); }

int main(int argc, char **argv)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/policy-bench-XXXXXX", argc > 1 ? argv[1] : "/tmp");
	if (!mkdtemp(path)) {
		perror(path);
		return 1;
	}
	now.mem = arena_new(65536);
	now.scratch = arena_new(1 << 20);
	now.request = arena_new(8192);            /* as a request of the gateway has it */
	features_of(1024);
	features_of(8192);
	decide_over(3);
	decide_over(64);
	decide_over(MANY);
	key_check();
	books(path);
	arena_free(now.mem);
	arena_free(now.scratch);
	arena_free(now.request);
	(void)nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	return 0;
}
