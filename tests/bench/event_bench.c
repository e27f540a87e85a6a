/* event_bench.c - what usage events cost a gateway: CPU of the worker that writes a START and a FINAL for each attempt, and of the whole process,
 * which syncs them and ships them to a ledger in another process; at a set rate. The best and the median of five rounds: what else the machine
 * does counts in all of them. What the process takes while it idles as long, at the least, is taken off its figure.
 *
 *   event_bench [EVENTS_PER_SECOND [SECONDS]]        default 10000 2, in /tmp */
#include "services/gateway/gateway_test.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "common/policy/price_list.h"
#include "facts.pb-c.h"
#include "services/gateway/outbox.h"

enum { TICK_US = 1000, ROUNDS = 5 };

static struct bench {
	struct loop_timer timer;
	struct req *req;
	double per_us;
	int64_t began_us, seconds;
	uint64_t events;
	double worker_us;
	struct outbox *out;
} now;

static double cpu_us(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* --- the ledger, as far as a shipper can see: a process of its own --- */

static uint64_t position;

static void cursor(Corral__Facts_Service *service, const Corral__FactCursor *q, Corral__FactAck_Closure closure, void *data)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	ack.position = position;
	closure(&ack, data);
}

static void ingest(Corral__Facts_Service *service, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	ack.position = position = b->next;
	closure(&ack, data);
}

static void serve(const char *url)
{
	static Corral__Facts_Service facts = { .base = { .descriptor = &corral__facts__descriptor, .invoke = protobuf_c_service_invoke_internal } };
	struct loop *loop = loop_new();
	struct why why;
	struct rpc_server *server = rpc_server_new(loop, url, &why);

	facts.cursor = cursor;
	facts.ingest = ingest;
	if (!server)
		_exit(1);
	rpc_server_add(server, &facts.base);
	loop_run(loop);
	_exit(0);
}

/* --- a worker that writes --- */

static void pair(struct req *r)
{
	struct why why;

	if (!account_start(r, &why)) {
		fprintf(stderr, "event_bench: %s\n", why.text);
		exit(1);
	}
	r->try.sent = true;
	account_final(r, "ok", ERR_OK);
}

/* As many as are due. */
static void on_tick(struct loop_timer *t)
{
	int64_t passed = mono_us() - now.began_us;
	uint64_t due = (uint64_t)((double)passed * now.per_us);
	double from = cpu_us(CLOCK_THREAD_CPUTIME_ID);

	while (now.events < due) {
		pair(now.req);
		now.events += 2;
	}
	now.worker_us += cpu_us(CLOCK_THREAD_CPUTIME_ID) - from;
	if (passed < now.seconds * 1000000)
		loop_timer_set(h.loop, t, TICK_US, on_tick);
}

static bool is_over(void) { return mono_us() - now.began_us >= now.seconds * 1000000; }

static double run(double per_us, int64_t seconds)
{
	double from = cpu_us(CLOCK_PROCESS_CPUTIME_ID);

	now.per_us = per_us;
	now.seconds = seconds;
	now.events = 0;
	now.worker_us = 0;
	now.began_us = mono_us();
	loop_timer_set(h.loop, &now.timer, TICK_US, on_tick);
	h.until = is_over;
	h.give_up_us = now.began_us + (seconds + 60) * 1000000;
	loop_timer_set(h.loop, &h.tick, 0, house_tick);
	loop_run(h.loop);
	loop_timer_del(&h.tick);
	loop_timer_del(&now.timer);
	return cpu_us(CLOCK_PROCESS_CPUTIME_ID) - from;
}

/* A real request with its attempt: one that hangs in its backend. Its START is closed, and from then on it is written again and again. */
static struct req *begin(void)
{
	struct req *r;

	h.does = h.does_b = HANGS;
	send_chat(CHAT("auto", ",\"stream\":true"));
	run_until(in_backend);
	r = list_entry(h.w->requests.prev, struct req, node);
	r->try.sent = true;
	account_final(r, "ok", ERR_OK);
	return r;
}

static void prices(void)
{
	struct price_list *l = price_list_new();

	for (int i = 0; i < 100; i++) {
		char model[32];

		snprintf(model, sizeof(model), "other-%d", i);
		price_list_add(l, &(struct price){ .id = i, .model = str_of(model), .input = 1000000 });
	}
	price_list_add(l, &(struct price){ .id = 101, .model = STR("*"), .input = 1000000, .output = 3000000 });
	price_list_add(l, &(struct price){ .id = 102, .kind = PRICE_MACHINE, .gpu_hour = 1800000 });
	worker_set_prices(h.w, l);
}

/* As a gateway has it: the house's is small, for tests of a full disk. */
static void open_spool(void)
{
	struct why why;

	spool_close(h.w->usage);
	h.w->usage = spool_open(h.w->usage_dir, NULL, &why);
	if (!h.w->usage) {
		fprintf(stderr, "event_bench: %s\n", why.text);
		exit(1);
	}
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void rounds(double per_us, int64_t seconds)
{
	double worker[ROUNDS], process[ROUNDS], idle_us = 1e12;
	uint64_t events = 0;

	for (int i = 0; i < ROUNDS; i++) {
		double idle = run(0, seconds), us = run(per_us, seconds);

		idle_us = idle < idle_us ? idle : idle_us;
		worker[i] = now.worker_us / (double)now.events;
		process[i] = us;
		events += now.events;
	}
	for (int i = 0; i < ROUNDS; i++)
		process[i] = (process[i] - idle_us) * ROUNDS / (double)events;
	qsort(worker, ROUNDS, sizeof(*worker), by_size);
	qsort(process, ROUNDS, sizeof(*process), by_size);
	printf("%.0f events/s (a START and a FINAL for each attempt, 102 prices known), CPU an event, best and median of %d rounds: worker %.2f and %.2f us, "
	       "whole process %.2f and %.2f us\n", (double)events / (double)(seconds * ROUNDS), ROUNDS, worker[0], worker[ROUNDS / 2], process[0], process[ROUNDS / 2]);
}

int main(int argc, char **argv)
{
	uint64_t per_second = 10000, n = 2;
	char url[120];
	pid_t ledger;

	if ((argc > 1 && !str_u64(str_of(argv[1]), &per_second)) || (argc > 2 && (!str_u64(str_of(argv[2]), &n) || n > 600))) {
		fprintf(stderr, "usage: event_bench [EVENTS_PER_SECOND [SECONDS]]\n");
		return 2;
	}
	snprintf(url, sizeof(url), "ipc:///tmp/event-bench-%d", getpid());
	ledger = fork();
	if (ledger == 0)
		serve(url);
	log_threshold = LOG_LEVEL_ERROR + 1;
	house_open(NULL);
	h.cfg.idle_timeout = h.cfg.first_byte_timeout = 3600 * 1000;
	rpc_client_close(h.gw.ledger);
	rpc_client_free(h.gw.ledger);
	h.gw.ledger = rpc_client_new(h.loop, url);
	open_spool();
	prices();
	now.out = outbox_new(&h.gw, NULL);
	now.req = begin();
	(void)run((double)per_second / 1e6, 1);   /* warm */
	rounds((double)per_second / 1e6, (int64_t)n);
	(void)kill(ledger, SIGKILL);
	(void)waitpid(ledger, NULL, 0);
	(void)unlink(url + strlen("ipc://"));
	outbox_free(now.out);
	house_close(NULL);
	return 0;
}
