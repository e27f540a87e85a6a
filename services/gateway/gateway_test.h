/* gateway_test.h - a gateway in one thread, for the tests beside its sources: real worker, spool and HTTP on both sides, no other service.
 *
 * The house has one loop. Behind it stands one server that plays every backend; what it does with a request is said by house.does (for
 * the backend "a") and house.does_b (for "b"), which are two names for it. Model "m" is on both, "only" on a alone; each has one slot. */
#ifndef CORRAL_GATEWAY_TEST_H
#define CORRAL_GATEWAY_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/svc/runtime.h"
#include "events.pb-c.h"
#include "services/gateway/account.h"
#include "services/gateway/ask.h"
#include "services/gateway/door.h"
#include "services/gateway/service.h"
#include "services/gateway/sticky.h"

#define CHUNK(text) "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" \
	text "\"},\"finish_reason\":null}]}\n\n"
#define LAST_CHUNKS "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{}," \
	"\"finish_reason\":\"stop\"}]}\n\ndata: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[]," \
	"\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}\n\ndata: [DONE]\n\n"
#define WHOLE_ANSWER "{\"id\":\"c\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\"," \
	"\"content\":\"w0 w1\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}"

enum does { ANSWERS, HANGS, CUTS /* the connection, before a byte */, FAILS /* 500 */, IS_BUSY /* 429, Retry-After 7 */, REFUSES /* 400 */,
	    STREAMS_AND_CUTS /* one piece, then nothing any more */, STREAMS_AND_HANGS, CUTS_HALF /* an unstreamed answer */,
	    ANSWERS_AT_LENGTH /* LONG_BYTES, unstreamed */, IS_AWAY /* nobody listens */ };
enum { LONG_BYTES = 700000 };

struct reply {
	bool done;
	int status;
	const char *error;            /* of the connection; NULL = none */
	struct buf body;
	struct http_call *call;
	struct str headers;           /* complete lines, as received */
	struct str sent;              /* the request's body */
	struct arena *mem;
};

struct house {
	char dir[64];
	struct arena *mem;
	struct loop *loop;
	struct svc svc;
	struct runtime rt;
	struct gateway gw;
	struct gateway_config cfg;
	struct worker *workers[1], *w;
	struct door keyless;          /* who comes is the owner */
	struct http_server *backend;
	struct http_pool *door;
	enum does does, does_b;
	int calls, calls_b, left;     /* requests at a and b; connections that were closed under the backend */
	struct http_xchg *hanging;    /* the request that a backend left without an answer last; NULL when its peer left */
	const char *kind;             /* of the backends; NULL = "openai". For set_world(), as the next */
	bool unloaded;                /* no backend has its model in memory */
	char last_body[4096], last_traceparent[64], last_path[64];
	uint16_t closed_port;         /* where nobody listens */
	struct loop_timer tick;
	bool (*until)(void);
	int64_t give_up_us;
	unsigned turns;
};

static struct house h;
static struct reply reply;

/* --- the loop --- */

static inline void house_tick(struct loop_timer *t)
{
	if ((h.until && h.until()) || mono_us() > h.give_up_us)
		loop_stop(h.loop);
	else
		loop_timer_set(h.loop, t, 500, house_tick);
}

/* Fails the test after 20 s. */
static inline void run_until(bool (*done)(void))
{
	h.until = done;
	h.give_up_us = mono_us() + 20000000;
	loop_timer_set(h.loop, &h.tick, 0, house_tick);
	loop_run(h.loop);
	loop_timer_del(&h.tick);
	assert_true(done());
}

/* What is posted and due is done. Fails the test that takes too many, instead of waiting for ever. */
static inline void turn(void)
{
	assert_true(h.turns++ < 10000);
	h.until = NULL;
	h.give_up_us = mono_us() + 3000;
	loop_timer_set(h.loop, &h.tick, 0, house_tick);
	loop_run(h.loop);
	loop_timer_del(&h.tick);
}

/* --- the backend --- */

static inline void backend_left(struct http_xchg *x, const char *why)
{
	h.left++;
	if (h.hanging == x)
		h.hanging = NULL;
}

static inline void backend_streams(struct http_xchg *x, enum does does)
{
	http_reply_start(x, 200, STR("Content-Type: text/event-stream\r\n"), -1);
	http_reply_data(x, STR(CHUNK("w0 ")));
	if (does == STREAMS_AND_CUTS) {
		http_reply_abort(x);
	} else if (does == ANSWERS) {
		http_reply_data(x, STR(CHUNK("w1") LAST_CHUNKS));
		http_reply_end(x);
	}
}

/* Whole answers that are none. */
static inline void backend_answers_badly(struct http_xchg *x, enum does does)
{
	static char filling[LONG_BYTES + 1];

	http_reply_start(x, 200, STR("Content-Type: application/json\r\n"), -1);
	if (does == CUTS_HALF) {
		http_reply_data(x, str_n(WHOLE_ANSWER, sizeof(WHOLE_ANSWER) / 2));
		http_reply_abort(x);
		return;
	}
	memset(filling, 'x', LONG_BYTES);
	http_reply_data(x, STR("{\"id\":\"c\",\"object\":\"chat.completion\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":"
			       "{\"role\":\"assistant\",\"content\":\""));
	http_reply_data(x, str_n(filling, LONG_BYTES));
	http_reply_data(x, STR("\"}}]}"));
	http_reply_end(x);
}

static inline void note_request(const struct http_xchg *x)
{
	const struct http_header *trace = http_find(&x->head, "traceparent");

	str_copy(h.last_body, sizeof(h.last_body), x->body);
	str_copy(h.last_path, sizeof(h.last_path), x->path);
	str_copy(h.last_traceparent, sizeof(h.last_traceparent), trace ? trace->value : STR(""));
}

static inline void backend_request(struct http_xchg *x, void *arg)
{
	bool b = str_starts(x->path, STR("/b/"));
	enum does does = b ? h.does_b : h.does;

	x->on_gone = backend_left;
	++*(b ? &h.calls_b : &h.calls);
	note_request(x);
	if (does == HANGS) {
		h.hanging = x;
		return;
	}
	if (does == CUTS)
		http_reply_abort(x);
	else if (does == FAILS)
		http_reply(x, 500, STR("Content-Type: application/json\r\n"), STR("{\"error\":{\"message\":\"it broke\"}}"));
	else if (does == REFUSES)
		http_reply(x, 400, STR("Content-Type: application/json\r\n"), STR("{\"error\":{\"message\":\"not like this\"}}"));
	else if (does == IS_BUSY)
		http_reply(x, 429, STR("Retry-After: 7\r\nContent-Type: application/json\r\n"), STR("{\"error\":{\"message\":\"busy\"}}"));
	else if (does == CUTS_HALF || does == ANSWERS_AT_LENGTH)
		backend_answers_badly(x, does);
	else if (str_find(x->body, STR("\"stream\":true")))
		backend_streams(x, does);
	else
		http_reply(x, 200, STR("Content-Type: application/json\r\n"), STR(WHOLE_ANSWER));
}

/* --- the world --- */

static inline void add_model(Corral__ModelSnapshot *s, const char *name, const char *const *backends, size_t n)
{
	static const char *const caps[] = { "completion", "tools" };
	Corral__Model *m = s->models[s->n_models++] = arena_new_of(h.mem, Corral__Model);

	corral__model__init(m);
	m->first_seen_us = 1000000;       /* long ago */
	m->name = (char *)name;
	m->family = (char *)"f";
	m->context_length = 4096;
	m->capabilities = (char **)(uintptr_t)caps;
	m->n_capabilities = 2;
	for (size_t i = 0; i < n; i++) {
		Corral__Replica *r = s->replicas[s->n_replicas++] = arena_new_of(h.mem, Corral__Replica);

		corral__replica__init(r);
		r->model = r->remote_name = (char *)name;
		r->backend = (char *)backends[i];
		r->slots = 1;
		r->loaded = !h.unloaded;
	}
}

static inline void add_backend(Corral__ModelSnapshot *s, const char *name, const char *base, bool away)
{
	Corral__Backend *b = s->backends[s->n_backends++] = arena_new_of(h.mem, Corral__Backend);

	corral__backend__init(b);
	b->name = (char *)name;
	b->kind = (char *)(h.kind ? h.kind : "openai");
	b->url = (char *)arena_fmt(h.mem, "http://127.0.0.1:%u%s", away ? h.closed_port : http_server_port(h.backend), base).p;
	b->state = CORRAL__BACKEND_STATE__BACKEND_UP;
}

static inline void set_world(void)
{
	static const char *const both[] = { "a", "b" };
	Corral__ModelSnapshot s = CORRAL__MODEL_SNAPSHOT__INIT;
	struct why why = { 0 };
	struct world *world;

	s.backends = arena_array(h.mem, Corral__Backend *, 2);
	s.models = arena_array(h.mem, Corral__Model *, 2);
	s.replicas = arena_array(h.mem, Corral__Replica *, 3);
	add_backend(&s, "a", "/a", h.does == IS_AWAY);
	add_backend(&s, "b", "/b", h.does_b == IS_AWAY);
	add_model(&s, "m", both, 2);
	add_model(&s, "only", both, 1);
	buf_clear(&h.gw.models_bytes);
	buf_reserve(&h.gw.models_bytes, corral__model_snapshot__get_packed_size(&s));
	h.gw.models_bytes.n = corral__model_snapshot__pack(&s, (uint8_t *)h.gw.models_bytes.p);
	h.gw.models_id = (struct snapshot_id){ 1, h.gw.models_id.version + 1 };
	world = world_new(&h.gw, &why);
	if (!world)
		fail_msg("%s", why.text);
	worker_set_world(h.w, world);
}

static inline void house_config(void)
{
	char *argv[] = { (char *)"test", NULL };
	struct opt_set set = { .table = gateway_service.options, .config = &h.cfg, .owner = "gateway" };
	struct opt_list args;
	struct why why = { 0 };

	if (opt_load(&set, 1, 1, argv, h.mem, &args, &why) != ERR_OK)
		fail_msg("%s", why.text);
	h.cfg.access_log = "off";
	h.cfg.decision_sample = 0;    /* nothing by chance */
	h.cfg.spool_segment = 64 << 10;
	h.cfg.spool_max = 1 << 20;
}

static inline void open_worker(void)
{
	struct why why = { 0 };
	struct http_url url;

	str_copy(h.gw.addresses[DOOR_PLAIN], sizeof(h.gw.addresses[0]), STR("127.0.0.1:0"));
	h.w = h.workers[0] = worker_new(&h.gw, 0, &why);
	if (!h.w)
		fail_msg("%s", why.text);
	h.loop = h.gw.loop = h.w->loop;
	assert_true(http_url_parse(&url, arena_fmt(h.mem, "http://127.0.0.1:%u", http_server_port(h.w->server)), &why));
	h.door = http_pool_new(h.loop, &url, NULL);
}

static inline void find_closed_port(void)
{
	static const struct http_handler nobody;
	struct why why;
	struct http_server *s = http_server_new(h.loop, ":0", &nobody, NULL, &why);

	assert_non_null(s);
	h.closed_port = http_server_port(s);
	http_server_free(s);
}

static inline int house_open(void **state)
{
	static const struct http_handler plays = { NULL, backend_request, NULL, NULL };
	struct why why = { 0 };

	h = (struct house){ .dir = "/tmp/gateway-test-XXXXXX", .mem = arena_new(0) };
	reply = (struct reply){ 0 };
	assert_non_null(mkdtemp(h.dir));
	house_config();
	h.svc.state_dir = h.dir;
	h.svc.rt = &h.rt;
	h.svc.def = &gateway_service;
	h.gw.svc = &h.svc;
	h.gw.cfg = &h.cfg;
	h.gw.metrics = metrics_new(gateway_metrics, M_COUNT);
	h.gw.replicas = replica_table_new(h.gw.metrics);
	h.gw.sticky = sticky_new();
	h.gw.n_workers = 1;
	h.gw.workers = h.workers;
	h.gw.held.max = 1 << 20;
	h.keyless = (struct door){ .gw = &h.gw, .scopes = scope_table_new(), .keyless_owner = { true, true } };
	h.gw.door = &h.keyless;
	pthread_mutex_init(&h.gw.asks_lock, NULL);
	list_init(&h.gw.asks);
	open_worker();
	h.gw.registry = rpc_client_new(h.loop, "inproc://gateway-test-registry");
	h.gw.selector = rpc_client_new(h.loop, "inproc://gateway-test-selector");
	h.gw.ledger = rpc_client_new(h.loop, "inproc://gateway-test-ledger");
	h.gw.hardware = rpc_client_new(h.loop, "inproc://gateway-test-hardware");
	h.gw.cloud = rpc_client_new(h.loop, "inproc://gateway-test-cloud");
	h.keyless.access = rpc_client_new(h.loop, "inproc://gateway-test-access");
	h.backend = http_server_new(h.loop, ":0", &plays, NULL, &why);
	assert_non_null(h.backend);
	find_closed_port();
	set_world();
	return 0;
}

static inline int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

/* A client that leaves, when its call is under way. */
static inline void reply_free(struct reply *to)
{
	if (to->call)
		http_call_cancel(to->call);
	buf_free(&to->body);
	if (to->mem)
		arena_free(to->mem);
	*to = (struct reply){ 0 };
}

static inline int house_close(void **state)
{
	struct rpc_client *peers[] = { h.gw.registry, h.gw.selector, h.gw.ledger, h.gw.hardware, h.gw.cloud, h.keyless.access };

	reply_free(&reply);
	http_pool_free(h.door);
	http_server_free(h.backend);
	turn();
	for (size_t i = 0; i < sizeof(peers) / sizeof(*peers); i++)       /* in the order of the runtime */
		rpc_client_close(peers[i]);
	worker_stop(h.w);
	ask_forget_all(&h.gw);
	assert_true(list_empty(&h.gw.asks));
	for (size_t i = 0; i < sizeof(peers) / sizeof(*peers); i++)
		rpc_client_free(peers[i]);
	worker_free(h.w);
	scope_table_free(h.keyless.scopes);
	replica_table_free(h.gw.replicas);
	sticky_free(h.gw.sticky);
	metrics_free(h.gw.metrics);
	buf_free(&h.gw.models_bytes);
	buf_free(&h.gw.policy_bytes);
	buf_free(&h.gw.providers.view);
	pthread_mutex_destroy(&h.gw.asks_lock);
	nftw(h.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	arena_free(h.mem);
	return 0;
}

/* --- the client: one request at a time, else send_as() --- */

static inline void on_reply_head(struct http_call *call, const struct http_head *head, void *arg)
{
	struct reply *to = arg;

	to->status = head->status;
	for (uint32_t i = 0; i < head->n_headers; i++)
		to->headers = arena_fmt(to->mem, STR_FMT STR_FMT ": " STR_FMT "\n", STR_ARG(to->headers), STR_ARG(head->headers[i].name),
					STR_ARG(head->headers[i].value));
}

static inline void on_reply_data(struct http_call *call, struct str data, void *arg) { buf_str(&((struct reply *)arg)->body, data); }

static inline void on_reply_end(struct http_call *call, void *arg)
{
	struct reply *to = arg;

	to->call = NULL;
	to->done = true;
}

static inline void on_reply_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	((struct reply *)arg)->error = http_call_error_name(e);
	on_reply_end(call, arg);
}

/* A head as it is, the empty line too, in memory of the reply. */
static inline void send_raw(struct reply *to, struct str head, const char *body)
{
	static const struct http_call_ops ops = { on_reply_head, on_reply_data, on_reply_end, on_reply_error };
	struct http_call_opts opts = { .head_request = str_starts(head, STR("HEAD ")) };

	to->sent = arena_str(to->mem, str_of(body));
	to->call = http_call_start(h.door, head, &to->sent, to->sent.n > 0, &opts, &ops, to);
}

static inline void reply_begin(struct reply *to)
{
	reply_free(to);
	to->mem = arena_new(0);
	to->headers = STR("");
}

static inline void send_as(struct reply *to, const char *method, const char *path, const char *headers, const char *body)
{
	reply_begin(to);
	send_raw(to, http_call_head(to->mem, h.door, method, str_of(path), str_of(headers), *body, strlen(body)), body);
}

static inline void send_to(const char *method, const char *path, const char *headers, const char *body)
{
	send_as(&reply, method, path, headers, body);
}

static inline bool replied(void) { return reply.done; }
static inline bool has_body(const char *z) { return str_find(buf_as_str(&reply.body), str_of(z)) != NULL; }
static inline bool has_header(const char *z) { return str_ifind(reply.headers, str_of(z)) != NULL; }
static inline bool in_backend(void) { return h.calls + h.calls_b > 0; }
static inline bool backend_was_left(void) { return h.left > 0; }
static inline bool no_requests(void) { return h.w->n_requests == 0; }

static inline void ask_for(const char *method, const char *path, const char *body)
{
	send_to(method, path, "", body);
	run_until(replied);
	run_until(no_requests);
}

#define CHAT(model, more) "{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]" more "}"

static inline void send_chat(const char *body) { send_to("POST", "/v1/chat/completions", "", body); }

static inline void chat(const char *body)
{
	send_chat(body);
	run_until(replied);
	run_until(no_requests);
}

static inline struct replica_state *replica(const char *model, const char *backend)
{
	return replica_state_get(h.gw.replicas, str_of(backend), str_of(model), 1);
}

/* --- the books --- */

struct booked {
	unsigned begun, started, checkpoints, finals, closed; /* closed: FINALs of attempts, not of requests that had none */
	/* of the last FINAL */
	char status[16], code[32], model[32], backend[16], provider[16], task[24];
	uint64_t prompt, completion, bytes;
	uint32_t attempt, http_status;
	int tokens, prompt_source, cost_source;
	int64_t cost, costs, gpu_us, energy_mj, began_us;        /* costs: of all FINALs; began_us: as the ledger takes it to have begun */
	char story[64];               /* each FINAL's attempt, status and backend: "1error@a 2ok@b " */
};

static inline void book(void *arg, uint8_t type, const Corral__UsageEvent *e)
{
	struct booked *b = arg;

	b->begun += type == REC_BEGUN;
	b->started += type == REC_START;
	b->checkpoints += type == REC_CHECKPOINT;
	if (type != REC_FINAL)
		return;
	b->finals++;
	b->closed += e->attempt != 0;
	snprintf(b->story + strlen(b->story), sizeof(b->story) - strlen(b->story), "%u%s%s%s ", e->attempt, e->status, *e->backend ? "@" : "", e->backend);
	b->bytes = e->response_bytes;
	b->http_status = e->http_status;
	str_copy(b->backend, sizeof(b->backend), str_of(e->backend));
	str_copy(b->provider, sizeof(b->provider), str_of(e->provider));
	str_copy(b->task, sizeof(b->task), str_of(e->task_type));
	b->attempt = e->attempt;
	b->prompt = e->prompt_tokens;
	b->completion = e->completion_tokens;
	b->tokens = (int)e->tokens_source;
	b->prompt_source = (int)e->prompt_tokens_source;
	b->cost_source = (int)e->cost_source;
	b->cost = e->cost_microusd;
	b->costs += e->cost_microusd;
	b->gpu_us = e->gpu_us;
	b->energy_mj = e->energy_mj;
	b->began_us = e->occurred_at_us - e->latency_us;
	str_copy(b->status, sizeof(b->status), str_of(e->status));
	str_copy(b->code, sizeof(b->code), str_of(e->error_code));
	str_copy(b->model, sizeof(b->model), str_of(e->model));
}

enum { FILLING = 9 };                 /* a record type of nobody */

/* No record fits into the usage spool any more, until disk_free(). */
static inline void disk_fill(void)
{
	static char filling[8000];
	struct why why;

	while (spool_append(h.w->usage, FILLING, str_n(filling, sizeof(filling)), &why) >= 0)
		;
	while (spool_append(h.w->usage, FILLING, str_n(filling, 8), &why) >= 0)
		;
}

static inline void disk_free(void)
{
	spool_release(h.w->usage, spool_end(h.w->usage));
	usleep(120000);               /* a full spool asks for room every 100 ms */
}

/* Each event in the worker's usage spool, in order. */
static inline void each_usage(void (*each)(void *arg, uint8_t type, const Corral__UsageEvent *), void *arg)
{
	struct why why;
	struct spool_reader *r = spool_reader_open(h.w->usage_dir, 0, &why);
	struct str payload;
	uint64_t position, next;
	uint8_t type;

	assert_non_null(r);
	while (spool_read(r, &type, &payload, &position, &next, &why) > 0) {
		Corral__UsageEvent *e = type == FILLING ? NULL : corral__usage_event__unpack(NULL, payload.n, (const uint8_t *)payload.p);

		if (type == FILLING)
			continue;
		assert_non_null(e);
		each(arg, type, e);
		corral__usage_event__free_unpacked(e, NULL);
	}
	spool_reader_close(r);
}

/* What the worker's usage spool holds; of the FINALs the last one's words. */
static inline struct booked books(void)
{
	struct booked b = { 0 };

	each_usage(book, &b);
	return b;
}

#define HOUSE(f) cmocka_unit_test_setup_teardown(f, house_open, house_close)
#endif
