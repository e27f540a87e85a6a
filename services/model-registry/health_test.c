/* health_test.c - a scripted Ollama that hangs, dies and comes back; restart and standby commands that are real processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/http_server.h"
#include "services/model-registry/child.h"
#include "services/model-registry/health.h"
#include "services/model-registry/jobs.h"

struct world {
	struct loop *loop;
	struct http_server *server;
	uint16_t port;
	bool hangs, loaded;
	unsigned context;             /* in force */
	bool slow_ps;                 /* /api/ps is answered when told to, with what was so when it was asked */
	struct http_xchg *ps;
	char ps_said[200];
	unsigned ps_asked;
	int ps_status;                /* 0 = 200 */
	int status;                   /* of the token; 0 = 200 */
	unsigned asked;
	char said[300];
	struct http_xchg *held[64];
	unsigned n_held;
	struct registry_config config;
	struct metrics *metrics;
	struct registry *registry;
	struct health *health;
	Corral__ModelSnapshot *now;
	struct loop_timer gateway;    /* a gateway's reports */
	bool silent;                  /* it makes none */
	char dir[64], listen[64], backend[80], restart[200], standby[200];
	const char *backends[1], *restarts[1], *standbys[1];
};

static void gone(struct http_xchg *x, const char *why)
{
	struct world *w = x->user;

	for (unsigned i = 0; i < w->n_held; i++)
		if (w->held[i] == x)
			w->held[i] = NULL;
	if (w->ps == x)
		w->ps = NULL;
}

static void json_reply(struct http_xchg *x, int status, const char *body) { http_reply(x, status, STR("Content-Type: application/json\r\n"), str_of(body)); }

static void release_ps(struct world *w)
{
	w->slow_ps = false;
	assert_non_null(w->ps);
	json_reply(w->ps, 200, w->ps_said);
	w->ps = NULL;
}

static void on_ps(struct world *w, struct http_xchg *x)
{
	w->ps_asked++;
	(void)snprintf(w->ps_said, sizeof(w->ps_said), w->loaded ? "{\"models\":[{\"name\":\"tiny:latest\",\"size\":10,\"context_length\":%u,\"expires_at\":"
		       "\"2318-01-01T00:00:00Z\"}]}" : "{\"models\":[]}", w->context);
	if (w->slow_ps)
		w->ps = x;
	else
		json_reply(x, w->ps_status ? w->ps_status : 200, w->ps_said);
}

static void on_request(struct http_xchg *x, void *arg)
{
	struct world *w = arg;

	x->user = w;
	x->on_gone = gone;
	if (str_eqz(x->path, "/api/version")) {
		json_reply(x, 200, "{\"version\":\"0.34.2\"}");
	} else if (str_eqz(x->path, "/api/tags")) {
		json_reply(x, 200, "{\"models\":[{\"name\":\"tiny:latest\",\"digest\":\"d1\",\"size\":10}]}");
	} else if (str_eqz(x->path, "/api/ps")) {
		on_ps(w, x);
	} else if (str_eqz(x->path, "/api/show")) {
		json_reply(x, 200, "{\"capabilities\":[\"completion\"]}");
	} else {
		assert_true(str_eqz(x->path, "/api/generate"));
		w->asked++;
		(void)str_copy(w->said, sizeof(w->said), x->body);
		if (w->hangs)
			w->held[w->n_held++ % 64] = x;
		else
			json_reply(x, w->status ? w->status : 200, "{\"done\":true}");
	}
}

static void on_snapshot(void *arg, struct str packed)
{
	struct world *w = arg;

	if (w->now)
		corral__model_snapshot__free_unpacked(w->now, NULL);
	w->now = corral__model_snapshot__unpack(NULL, packed.n, (const uint8_t *)packed.p);
}

static void server_up(struct world *w)
{
	struct http_handler handler = { .on_request = on_request, .arg = w };
	struct why why = { 0 };

	(void)snprintf(w->listen, sizeof(w->listen), "127.0.0.1:%u", w->port);
	w->server = http_server_new(w->loop, w->listen, &handler, NULL, &why);
	if (!w->server)
		fail_msg("%s", why.text);
	w->port = http_server_port(w->server);
}

/* A script whose name is a word of the option. */
static void script(struct world *w, char *out, size_t cap, const char *name, const char *text, const char *words)
{
	char path[100];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "#!/bin/sh\ncd %s\n%s\n", w->dir, text);
	fclose(f);
	chmod(path, 0700);
	(void)snprintf(out, cap, "o=%s %s", path, words);
}

/* As a gateway that sends nothing anywhere does. */
static void report(struct loop_timer *t)
{
	static uint8_t id[16] = "a gateway";
	struct world *w = list_entry(t, struct world, gateway);
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;

	loop_timer_set(w->loop, t, 50 * 1000, report);
	r.gateway = (ProtobufCBinaryData){ sizeof(id), id };
	if (w->health && !w->silent)
		health_hear(w->health, &r);
}

static struct world *up(void **state)
{
	struct world *w = *state;
	struct why why = { 0 };

	report(&w->gateway);
	server_up(w);
	(void)snprintf(w->backend, sizeof(w->backend), "o=ollama+http://127.0.0.1:%u", w->port);
	w->backends[0] = w->backend;
	w->config.backends = (struct opt_list){ w->backends, 1 };
	if (settings_check(&w->config, &why))
		fail_msg("%s", why.text);
	w->registry = registry_new(w->loop, &w->config, w->metrics, STR(""), on_snapshot, NULL, w, &why);
	if (!w->registry)
		fail_msg("%s", why.text);
	w->health = health_new(w->registry, w->dir);
	return w;
}

static int setup(void **state)
{
	struct world *w = x_calloc(1, sizeof(*w));

	w->loop = loop_new();
	w->metrics = metrics_new(registry_metrics, M_COUNT);
	w->config = (struct registry_config){ .ollama_host = "", .default_model = "", .families = "", .jobs_db = "", .sync_every = 3600000, .residency_every = 50,
					      .list_timeout = 5000, .load_timeout = 5000, .check_every = 100, .check_timeout = 200, .check_busy = 3000,
					      .check_failures = 1, .restart_wait = 300, .restart_timeout = 10000, .standby_after = 1 };
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/corral-health-test-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->loaded = true;
	w->context = 1234;
	*state = w;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static int teardown(void **state)
{
	struct world *w = *state;

	loop_timer_del(&w->gateway);
	health_free(w->health);
	registry_free(w->registry);
	http_server_free(w->server);
	metrics_free(w->metrics);
	if (w->now)
		corral__model_snapshot__free_unpacked(w->now, NULL);
	loop_free(w->loop);
	nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

static void on_alarm(struct loop_timer *timer) { loop_stop(timer->loop); }

static void turn_ms(struct world *w, int64_t ms)
{
	struct loop_timer alarm = { 0 };

	loop_timer_set(w->loop, &alarm, ms * 1000, on_alarm);
	loop_run(w->loop);
	loop_timer_del(&alarm);
}

#define until(w, condition) \
	do { \
		int64_t end_ms_ = mono_ms() + 30000; \
		while (!(condition)) { \
			if (mono_ms() > end_ms_) \
				fail_msg("never: %s", #condition); \
			turn_ms(w, 5); \
		} \
	} while (0)

static bool state_is(const struct world *w, Corral__BackendState state) { return w->now && w->now->n_backends == 1 && w->now->backends[0]->state == state; }
static bool is_up(const struct world *w) { return state_is(w, CORRAL__BACKEND_STATE__BACKEND_UP); }
static bool is_down(const struct world *w) { return state_is(w, CORRAL__BACKEND_STATE__BACKEND_DOWN); }

static unsigned lines(const struct world *w, const char *name)
{
	char path[100];
	unsigned n = 0;
	FILE *f;
	int c;

	(void)snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	f = fopen(path, "r");
	while (f && (c = getc(f)) != EOF)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

static void hear(struct world *w, unsigned in_use, uint64_t quiet_ms)
{
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	Corral__SlotActivity a = CORRAL__SLOT_ACTIVITY__INIT, *list[1] = { &a };

	a.backend = (char *)(uintptr_t)"o";
	a.model = (char *)(uintptr_t)"tiny:latest";
	a.in_use = in_use;
	a.quiet_ms = quiet_ms;
	r.active = list;
	r.n_active = 1;
	health_hear(w->health, &r);
}

static void once_after_each_use(void **state)
{
	struct world *w = up(state);

	until(w, w->asked == 1);
	assert_non_null(strstr(w->said, "\"num_predict\":1"));
	assert_non_null(strstr(w->said, "\"num_ctx\":1234"));       /* another would load it anew */
	assert_null(strstr(w->said, "keep_alive"));
	turn_ms(w, 1000);
	assert_int_equal(w->asked, 1);
	hear(w, 0, 0);
	until(w, w->asked == 2);
	assert_true(is_up(w));
}

/* What is not in memory is not loaded to see whether it could. */
static void nothing_in_memory_nothing_to_ask(void **state)
{
	struct world *w = *state;

	w->loaded = false;
	up(state);
	until(w, is_up(w));
	turn_ms(w, 1000);
	assert_int_equal(w->asked, 0);
}

static bool said_context(const struct world *w, unsigned context)
{
	char text[40];

	(void)snprintf(text, sizeof(text), "\"num_ctx\":%u", context);
	return strstr(w->said, text) != NULL;
}

/* What was asked before the last use says nothing about after it, however late it is told. */
static void what_is_in_memory_is_asked_after_the_last_use(void **state)
{
	struct world *w = *state;

	w->config.residency_every = 3600000;      /* nobody looks but who needs it */
	up(state);
	until(w, w->asked == 1);
	w->slow_ps = true;
	registry_look(w->registry, &w->registry->backends[0]);
	until(w, w->ps);
	w->context = 777;                 /* by a request that has come and gone */
	hear(w, 0, 0);
	release_ps(w);
	until(w, w->asked == 2);
	assert_true(said_context(w, 777));
}

static void who_does_not_say_what_is_in_memory_is_asked_when_it_keeps_silent(void **state)
{
	struct world *w = *state;

	int64_t from_ms;

	w->config.check_timeout = 1000;
	up(state);
	until(w, w->asked == 1);
	turn_ms(w, 1000);                 /* no check is made sooner after one */
	w->ps_status = 500;
	w->context = 777;
	hear(w, 0, 0);
	from_ms = mono_ms();
	turn_ms(w, 600);
	if (mono_ms() - from_ms < 900)    /* else the machine stood still */
		assert_int_equal(w->asked, 1);
	w->ps_status = 0;
	until(w, w->asked == 2);
	assert_true(said_context(w, 777));
	w->ps_status = 500;
	hear(w, 0, 0);
	until(w, w->asked == 3);
}

/* A request may have gone there that is not told yet. */
static void every_gateway_is_heard_before_a_check(void **state)
{
	struct world *w = up(state);
	unsigned looks;

	until(w, w->asked == 1);
	hear(w, 0, 0);
	w->silent = true;
	looks = w->ps_asked;
	until(w, w->ps_asked > looks + 20);
	assert_int_equal(w->asked, 1);
	w->context = 777;
	hear(w, 1, 0);                    /* there it is */
	w->silent = false;
	turn_ms(w, 300);
	assert_int_equal(w->asked, 1);
	hear(w, 0, 0);
	until(w, w->asked == 2);
	assert_true(said_context(w, 777));
}

/* While it fails its model may have left memory, and the check brings it back: as it was. */
static void what_fails_comes_back_with_its_context(void **state)
{
	struct world *w = *state;

	w->status = 500;
	up(state);
	until(w, is_down(w));
	assert_string_equal(w->now->backends[0]->reason, "asked for one token of 'tiny:latest' it answers 500");      /* not what it said: the reason goes to other systems */
	w->loaded = false;
	w->asked = 0;
	until(w, w->asked >= 2);
	assert_true(said_context(w, 1234));
	w->status = 0;
	until(w, is_up(w));
}

static void while_answers_flow_nobody_asks(void **state)
{
	struct world *w = up(state);

	hear(w, 1, 0);
	for (int i = 0; i < 40; i++) {
		hear(w, 1, 10);
		turn_ms(w, 50);
	}
	assert_int_equal(w->asked, 0);
	for (int i = 0; i < 100 && !w->asked; i++) {      /* in use, and silent for longer than check_busy */
		hear(w, 1, 100000);
		turn_ms(w, 50);
	}
	assert_int_equal(w->asked, 1);
}

static void one_that_hangs_is_down_restarted_and_up_again(void **state)
{
	struct world *w = *state;

	script(w, w->restart, sizeof(w->restart), "restart", "for word; do echo \"$word\" >> words; done; echo again >> runs; exit 3", "$(touch stolen) ; a&b");
	w->restarts[0] = w->restart;
	w->config.restart = (struct opt_list){ w->restarts, 1 };
	w->hangs = true;
	w->config.check_failures = 2;
	up(state);
	until(w, is_down(w));
	assert_int_equal(w->asked, 2);
	assert_non_null(strstr(w->now->backends[0]->reason, "one token of 'tiny:latest'"));
	until(w, lines(w, "runs") >= 2);  /* the first did not help */
	assert_int_equal(lines(w, "words") % 4, 0);       /* "$(touch", "stolen)", ";", "a&b": as they were written */
	assert_int_equal(lines(w, "stolen"), 0);
	assert_int_not_equal(access("stolen", F_OK), 0);
	w->hangs = false;
	until(w, is_up(w));
}

static void an_engine_that_answers_500_is_down(void **state)
{
	struct world *w = *state;

	w->status = 500;
	up(state);
	until(w, is_down(w));
	assert_string_equal(w->now->backends[0]->reason, "asked for one token of 'tiny:latest' it answers 500");      /* not what it said: the reason goes to other systems */
	w->status = 404;                  /* it answers: the model is gone, and it is well */
	until(w, is_up(w));
}

static void pauses_between_restarts_grow(void **state)
{
	struct world *w = *state;
	long long at[4] = { 0 };
	char path[100];
	FILE *f;

	script(w, w->restart, sizeof(w->restart), "restart", "date +%s%3N >> runs", "");
	w->restarts[0] = w->restart;
	w->config.restart = (struct opt_list){ w->restarts, 1 };
	w->hangs = true;
	w->config.restart_wait = 500;
	up(state);
	until(w, lines(w, "runs") > 3);
	(void)snprintf(path, sizeof(path), "%s/runs", w->dir);
	f = fopen(path, "r");
	assert_true(f && fscanf(f, "%lld %lld %lld %lld", &at[0], &at[1], &at[2], &at[3]) == 4);
	fclose(f);
	assert_true(at[1] - at[0] >= 300);        /* 500, 1000, 2000, less what a busy machine starts a program late */
	assert_true(at[2] - at[1] >= 700);
	assert_true(at[3] - at[2] >= 1500);
}

static pid_t pid_in(const struct world *w, const char *name)
{
	char path[100];
	FILE *f;
	int pid = 0;

	(void)snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	f = fopen(path, "r");
	if (f && fscanf(f, "%d", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return pid;
}

static void one_that_cannot_be_reached_gets_a_standby_until_it_is_back(void **state)
{
	struct world *w = *state;
	pid_t pid;

	script(w, w->standby, sizeof(w->standby), "standby", "echo $$ > pid; exec sleep 1000", "");
	w->standbys[0] = w->standby;
	w->config.standby = (struct opt_list){ w->standbys, 1 };
	up(state);
	until(w, is_up(w));
	http_server_free(w->server);
	w->server = NULL;
	until(w, lines(w, "pid") == 1);
	pid = pid_in(w, "pid");
	assert_true(is_down(w));
	assert_int_equal(kill(pid, 0), 0);
	kill(pid, SIGKILL);               /* it falls, and is started again */
	until(w, pid_in(w, "pid") && pid_in(w, "pid") != pid);
	pid = pid_in(w, "pid");
	server_up(w);
	until(w, is_up(w));
	until(w, kill(pid, 0) != 0);
}

/* The backend hangs, and its standby runs; the process whose number that wrote into "pid". */
static pid_t standby_of_what_hangs(void **state, const char *text)
{
	struct world *w = *state;

	script(w, w->standby, sizeof(w->standby), "standby", text, "");
	w->standbys[0] = w->standby;
	w->config.standby = (struct opt_list){ w->standbys, 1 };
	w->hangs = true;
	up(state);
	until(w, pid_in(w, "pid"));
	return pid_in(w, "pid");
}

static void what_was_started_ends_with_us(void **state)
{
	struct world *w = *state;
	pid_t pid;

	pid = standby_of_what_hangs(state, "sleep 1000 & echo $! > pid; wait");      /* a child of the child */
	health_free(w->health);
	w->health = NULL;
	until(w, kill(pid, 0) != 0);
}

static void a_standby_that_was_needed_is_there_again_at_once(void **state)
{
	struct world *w = *state;
	pid_t pid;

	pid = standby_of_what_hangs(state, "echo $$ > pid; exec sleep 1000");
	health_free(w->health);
	until(w, kill(pid, 0) != 0);
	w->config.check_failures = 1000;          /* nothing that is heard now would be reason enough */
	w->health = health_new(w->registry, w->dir);
	until(w, pid_in(w, "pid") && pid_in(w, "pid") != pid);
	pid = pid_in(w, "pid");
	assert_true(is_down(w));
	w->hangs = false;
	until(w, is_up(w));
	until(w, kill(pid, 0) != 0);
	health_free(w->health);           /* it is well: the next one starts none */
	w->health = health_new(w->registry, w->dir);
	turn_ms(w, 300);
	assert_int_equal(pid_in(w, "pid"), pid);
	assert_true(is_up(w));
}

static void commands_are_checked(void **state)
{
	static const struct { const char *restart, *standby; bool good; } cases[] = {
		{ "o=unit:ollama.service", NULL, true }, { "o=user-unit:engine@1", NULL, true }, { "o=/usr/bin/x a b", NULL, true },
		{ "o=x a b", NULL, false }, { "o=unit:--now", NULL, false }, { "o=unit:a b", NULL, false }, { "p=unit:a", NULL, false }, { "nothing", NULL, false },
		{ NULL, "o=/usr/bin/llama-server --port 9", true }, { NULL, "o=unit:a", false }, { NULL, "o=llama-server", false },
	};
	struct world *w = *state;
	const char *const *argv;
	struct arena *mem = arena_new(0);
	struct why why;

	w->backends[0] = "o=http://127.0.0.1:1";
	w->config.backends = (struct opt_list){ w->backends, 1 };
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		w->restarts[0] = cases[i].restart;
		w->standbys[0] = cases[i].standby;
		w->config.restart = (struct opt_list){ w->restarts, cases[i].restart != NULL };
		w->config.standby = (struct opt_list){ w->standbys, cases[i].standby != NULL };
		if ((settings_check(&w->config, &why) == ERR_OK) != cases[i].good)
			fail_msg("case %zu", i);
	}
	w->restarts[0] = "o=user-unit:a.service";
	argv = settings_command(&(struct opt_list){ w->restarts, 1 }, "o", mem);
	assert_string_equal(argv[0], "systemctl");
	assert_string_equal(argv[1], "--user");
	assert_string_equal(argv[4], "a.service");
	assert_null(argv[5]);
	assert_null(settings_command(&(struct opt_list){ w->restarts, 1 }, "p", mem));
	arena_free(mem);
}

static void a_program_that_is_not_there(void **state)
{
	struct world *w = *state;
	const char *argv[] = { "/nowhere/at/all", NULL };
	char log[100];
	struct why why = { 0 };

	(void)snprintf(log, sizeof(log), "%s/log", w->dir);
	assert_int_equal(child_start(argv, log, &why), -1);
	assert_non_null(strstr(why.text, "/nowhere/at/all: No such file"));
	assert_int_equal(child_start(argv, "/nowhere/log", &why), -1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(once_after_each_use), T(nothing_in_memory_nothing_to_ask),
		T(what_is_in_memory_is_asked_after_the_last_use),
		T(who_does_not_say_what_is_in_memory_is_asked_when_it_keeps_silent),
		T(every_gateway_is_heard_before_a_check), T(what_fails_comes_back_with_its_context), T(while_answers_flow_nobody_asks),
		T(one_that_hangs_is_down_restarted_and_up_again),
		T(an_engine_that_answers_500_is_down), T(pauses_between_restarts_grow), T(one_that_cannot_be_reached_gets_a_standby_until_it_is_back),
		T(a_standby_that_was_needed_is_there_again_at_once),
		T(what_was_started_ends_with_us), T(commands_are_checked), T(a_program_that_is_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
