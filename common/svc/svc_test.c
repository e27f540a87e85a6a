/* svc_test.c - whole programs, run in a child: command line, admin port, signals, drain, services in one process.
 *
 * Time is moved by CORRAL_TEST_CLOCK; what a program printed is read from a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/data/log.h"
#include "common/svc/svc.h"
#include "snapshot.pb-c.h"

enum { PORT = 8301, SECOND_PORT = 8302 };

static char dir[] = "/tmp/svc_test.XXXXXX", out_path[64], clock_path[64];
static int64_t *shifts;                   /* the test clock */
static pid_t child;

/* --- services to be run --- */

struct config { int64_t work; const char *listen, *color; bool fail, hang, unmet, ask, mute, stick; };

static const struct opt options[] = {
	OPT(struct config, DURATION, work, "0", "How long the drain has work."),
	OPT(struct config, BOOL, fail, "no", "Fail at the start."),
	OPT(struct config, BOOL, hang, "no", "Never be drained."),
	OPT(struct config, BOOL, unmet, "no", "Have a need that is not met."),
	OPT(struct config, BOOL, ask, "no", "The first asks the second."),
	OPT(struct config, BOOL, mute, "no", "The second does not answer."),
	OPT(struct config, BOOL, stick, "no", "Keep the loop from turning for two seconds."),
	OPT(struct config, ENUM, color, "red", "A word.", .words = "red green", .live = true),
	OPT_END
};
enum { STARTS, WORK_SECONDS };
static const struct metric_def metrics[] = {
	[STARTS] = { METRIC_COUNTER, "test_starts_total", "Starts.", "", NULL },
	[WORK_SECONDS] = { METRIC_HISTOGRAM, "test_work_seconds", "Work.", "kind", NULL },
};
static const struct svc_route routes[] = { { "GET", "/v1/things", "things.read", "Lists things." }, { 0 } };

struct state { struct loop_timer timer; bool hurried; struct svc *svc; Corral__Snapshots_Service rpc; void *kept; };

static void answer_get(Corral__Snapshots_Service *rpc, const Corral__SnapshotRequest *request, Corral__SnapshotEnvelope_Closure closure, void *arg)
{
	struct state *st = (struct state *)(void *)((char *)rpc - offsetof(struct state, rpc));
	const struct config *c = svc_config(st->svc);
	Corral__SnapshotEnvelope reply = CORRAL__SNAPSHOT_ENVELOPE__INIT;

	LOG_INFO("was asked", LOG_S("name", request->name));
	if (c->mute) {
		st->kept = arg;
		return;
	}
	reply.version = 42;
	closure(&reply, arg);
}

static void on_answer(const Corral__SnapshotEnvelope *reply, void *arg)
{
	struct state *st = arg;

	if (reply)
		LOG_INFO("was answered", LOG_I("version", reply->version));
	else
		LOG_INFO("was not answered", LOG_S("why", rpc_error(svc_peer(st->svc, "second"))->text));
}

static void ask_second(struct svc *s, struct state *st)
{
	Corral__SnapshotRequest request = CORRAL__SNAPSHOT_REQUEST__INIT;
	struct rpc_client *peer = svc_peer(s, "second");

	assert(peer == svc_peer(s, "second"));
	request.name = "things";
	corral__snapshots__get(rpc_stub(peer, &corral__snapshots__descriptor), &request, on_answer, st);
}

static enum err check(const void *config, struct why *why)
{
	const struct config *c = config;

	return c->hang && c->work ? err_field(why, ERR_INVALID, "hang", "hang and work exclude each other") : ERR_OK;
}

static void stick(void *arg);

static bool start(struct svc *s, struct why *why)
{
	const struct config *c = svc_config(s);
	struct state *st;

	if (c->fail && strcmp(svc_name(s), "second") != 0) {
		err_set(why, ERR_INVALID, "the thing at '%s' is broken", svc_state_dir(s) + strlen(dir));
		return false;
	}
	st = x_calloc(1, sizeof(*st));
	svc_set_state(s, st);
	st->svc = s;
	corral__snapshots__init(&st->rpc, NULL);
	st->rpc.get = answer_get;
	if (svc_rpc_server(s))
		rpc_server_add(svc_rpc_server(s), &st->rpc.base);
	else if (c->ask)
		ask_second(s, st);
	series_inc(metrics_series(svc_metrics(s), STARTS));
	series_observe(metrics_series(svc_metrics(s), WORK_SECONDS, "\"odd\""), 0.2);
	svc_need(s, "a thing", !c->unmet, c->unmet ? "the thing is away" : "it is there");
	if (c->stick)
		loop_post(svc_loop(s), stick, NULL);
	LOG_INFO("service starts", LOG_S("listen", svc_listen(s)), LOG_S("pub", svc_pub_url(s, "first")), LOG_S("peer_pub", svc_pub_url(s, "selector")));
	return true;
}

static void stick(void *arg)
{
	LOG_INFO("sticks");
	sleep(2);
}

static struct svc *draining;              /* one at a time in these tests */

static void look(struct loop_timer *t)
{
	struct svc *s = draining;
	const struct config *c = svc_config(s);
	struct state *st = svc_state(s);

	if (svc_drain_hurried(s) && !st->hurried) {
		st->hurried = true;
		LOG_INFO("was hurried", LOG_I("left_s", (svc_drain_ms(s) + 999) / 1000));
	}
	if (c->hang) {
		loop_timer_set(svc_loop(s), t, 10000, look);
		return;
	}
	LOG_INFO("work is done");
	svc_drained(s);
}

static void drain(struct svc *s)
{
	const struct config *c = svc_config(s);
	struct state *st = svc_state(s);

	LOG_INFO("service drains", LOG_I("left_s", (svc_drain_ms(s) + 999) / 1000));
	draining = s;
	loop_timer_set(svc_loop(s), &st->timer, c->hang ? 10000 : c->work * 1000, look);
}

static bool reload(struct svc *s, struct why *why)
{
	const struct config *c = svc_config(s);

	LOG_INFO("new color", LOG_S("color", c->color), LOG_I("work", c->work));
	svc_reloaded(s);
	return true;
}

static void stop(struct svc *s)
{
	struct state *st = svc_state(s);

	LOG_INFO("service stops");
	loop_timer_del(&st->timer);
	if (st->kept)
		rpc_fail(st->kept, ERR_UNAVAILABLE, "it stops");
	free(st);
}

static const struct svc_def first = {
	.name = "first", .summary = "The first of the tests.", .options = options, .config_size = sizeof(struct config), .metrics = metrics, .n_metrics = 2,
	.routes = routes, .public_port = 8303, .admin_port = PORT, .check = check, .start = start, .reload = reload, .drain = drain, .stop = stop,
};
static const struct svc_def second = {
	.name = "second", .summary = "The second.", .options = options, .config_size = sizeof(struct config), .metrics = metrics, .n_metrics = 2,
	.admin_port = SECOND_PORT, .rpc_port = 8304, .start = start, .drain = drain, .stop = stop,
};
static const struct svc_def *const both[] = { &first, &second };

/* --- running them --- */

static void launch(bool two, const char *a, const char *b, const char *c)
{
	char state[80];
	char *argv[8] = { "prog", state };
	int argc = 2, fd;

	snprintf(state, sizeof(state), "--state-dir=%s/state", dir);
	for (const char *const *p = (const char *const[]){ a, b, c, NULL }; *p; p++)
		argv[argc++] = (char *)(uintptr_t)*p;
	memset(shifts, 0, 16);
	unlink(out_path);
	child = fork();
	if (child != 0)
		return;
	fd = open(out_path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
	dup2(fd, 1);
	dup2(fd, 2);
	close(fd);
	setenv("CORRAL_TEST_CLOCK", clock_path, 1);
	exit(two ? svc_main_all("pair", "Both of the tests.", both, 2, argc, argv) : svc_main(&first, argc, argv));
}

static const char *printed(void)
{
	static char text[65536];
	int fd = open(out_path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	close(fd);
	return text;
}

static int waited(void)
{
	int status;

	for (int i = 0; i < 2000; i++) {
		if (waitpid(child, &status, WNOHANG) == child) {
			child = 0;
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
		}
		usleep(10000);
	}
	print_message("%s", printed());
	fail_msg("the program did not end");
	return -1;
}

static void await(const char *text)
{
	for (int i = 0; i < 1000; i++) {
		if (strstr(printed(), text))
			return;
		usleep(10000);
	}
	print_message("%s", printed());
	fail_msg("'%s' did not come", text);
}

static void advance_s(int seconds) { shifts[0] += seconds * 1000000ll; }

/* Status and body of one request; status 0: no connection. */
static int ask(const char *method, const char *path, char *body, size_t cap)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), status = 0;
	static char answer[262144];
	size_t n = 0;
	ssize_t got;
	char *end;

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0) {
		n = (size_t)snprintf(answer, sizeof(answer), "%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", method, path);
		assert_int_equal(write(fd, answer, n), n);
		for (n = 0; (got = read(fd, answer + n, sizeof(answer) - 1 - n)) > 0;)
			n += (size_t)got;
		answer[n] = '\0';
		status = n > 12 ? (int)strtol(answer + 9, NULL, 10) : 0;
		end = strstr(answer, "\r\n\r\n");
		assert_true(str_copy(body, cap, str_of(end ? end + 4 : "")));
	}
	close(fd);
	return status;
}

static int get(const char *path, char *body, size_t cap) { return ask("GET", path, body, cap); }

/* --- tests --- */

static int run_to_end(bool two, const char *a, const char *b, const char *c)
{
	launch(two, a, b, c);
	return waited();
}

static void tells_about_itself(void **state)
{
	assert_int_equal(run_to_end(false, "--version", NULL, NULL), 0);
	assert_string_equal(printed(), "first " CORRAL_VERSION "\n");
	assert_int_equal(run_to_end(false, "--help", NULL, NULL), 0);
	assert_memory_equal(printed(), "The first of the tests.\n\nUsage: first prog [--option=value ...]\n\nfirst:\n  --work=TIME", 76);
	assert_non_null(strstr(printed(), "\nevery program:\n"));
	assert_non_null(strstr(printed(), "--admin-listen=TEXT"));
	assert_true(strstr(printed(), "(default 127.0.0.1:8301; restart)") || strstr(printed(), "(default 127.0.0.1:8301;\n"));
	assert_null(strstr(printed(), "--rpc-listen"));
	assert_int_equal(run_to_end(true, "--dump=config", NULL, NULL), 0);
	assert_non_null(strstr(printed(), "# Options of pair\n"));
	assert_non_null(strstr(printed(), "| `state_dir` | `CORRAL_STATE_DIR` | `${XDG_STATE_HOME:-~/.local/state}/corral` | text |"));
	assert_int_equal(run_to_end(false, "--dump", "metrics", NULL), 0);
	assert_non_null(strstr(printed(), "| `corral_test_work_seconds` | histogram | `kind` | Work. |\n"));
	assert_int_equal(run_to_end(false, "--dump=routes", NULL, NULL), 0);
	assert_non_null(strstr(printed(), "| GET | `/v1/things` | things.read | Lists things. |\n"));
	assert_int_equal(run_to_end(false, "--dump=errors", NULL, NULL), 0);
	assert_non_null(strstr(printed(), "| `QUEUE_FULL` | 429 | The queue for this model is full; see Retry-After. |\n"));
	assert_int_equal(run_to_end(false, "--dump=all", NULL, NULL), 1);
	assert_string_equal(printed(), "first: --dump: 'all' is not one of: config metrics routes errors fields roles\n");
}

static void checks_its_configuration(void **state)
{
	assert_int_equal(run_to_end(false, "--check-config", "--color=green", NULL), 0);
	assert_non_null(strstr(printed(), "color: green                                      # --color\n"));
	assert_non_null(strstr(printed(), "listen: \"127.0.0.1:8303\"                          # default\n"));
	assert_int_equal(run_to_end(false, "--check-config", "--colour=green", NULL), 1);
	assert_string_equal(printed(), "first: unknown option '--colour'; did you mean '--color'?\n");
	assert_int_equal(run_to_end(false, "--check-config", "--hang", "--work=1s"), 1);
	assert_string_equal(printed(), "first: hang and work exclude each other\n");
	assert_int_equal(run_to_end(false, "--probe=health", NULL, NULL), 2);
	assert_string_equal(printed(), "first: --probe is livez, readyz or startupz, not 'health'\n");
	assert_int_equal(run_to_end(false, "--probe=readyz", "--admin-listen=127.0.0.1:1", NULL), 1);
	assert_non_null(strstr(printed(), "first: nothing answers at 127.0.0.1:1 (admin_listen): Connection refused"));
	assert_int_equal(run_to_end(false, "--wait=1ms", NULL, NULL), 0);
	assert_int_equal(run_to_end(false, "--wait=long", NULL, NULL), 2);
	assert_non_null(strstr(printed(), "first: --wait: 'long' is not a duration"));
	assert_int_equal(run_to_end(false, "--peer=here", NULL, NULL), 1);
	assert_string_equal(printed(), "first: peer: 'here' is not of the form name=tcp://HOST:PORT or name=ipc:///path\n");
	assert_int_equal(run_to_end(false, "now", NULL, NULL), 1);
	assert_string_equal(printed(), "first: 'now' is not an option; --help lists them\n");
}

static void says_why_it_does_not_start(void **state)
{
	char text[200];

	snprintf(text, sizeof(text), "--state-dir=%s/below", out_path);
	assert_int_equal(run_to_end(false, text, NULL, NULL), 1);
	snprintf(text, sizeof(text), "first: directory '%s/below' cannot be made: Not a directory; give another with --state-dir\n", out_path);
	assert_string_equal(printed(), text);

	launch(false, "--hang", NULL, NULL);
	await("\"started\"");
	pid_t running = child;
	assert_int_equal(run_to_end(false, NULL, NULL, NULL), 1);
	assert_non_null(strstr(printed(), "127.0.0.1:8301"));
	kill(running, SIGKILL);
	waitpid(running, NULL, 0);
}

static void answers_on_the_admin_port(void **state)
{
	static char body[262144];

	launch(false, "--color=red", NULL, NULL);
	await("\"started\"");
	assert_int_equal(get("/livez", body, sizeof(body)), 200);
	assert_string_equal(body, "{\"status\":\"alive\"}");
	assert_int_equal(get("/readyz", body, sizeof(body)), 200);
	assert_non_null(strstr(body, "{\"status\":\"ready\",\"needs\":[{\"service\":\"first\",\"need\":\"a thing\",\"ok\":true,\"required\":true,\"since\":\"2"));
	assert_non_null(strstr(body, "Z\",\"text\":\"it is there\"}]}"));
	assert_int_equal(get("/startupz", body, sizeof(body)), 200);
	assert_int_equal(get("/version", body, sizeof(body)), 200);
	assert_non_null(strstr(body, "{\"name\":\"first\",\"version\":\"" CORRAL_VERSION "\",\"build\":\""));
	assert_int_equal(get("/other", body, sizeof(body)), 404);
	assert_non_null(strstr(body, "\"error_code\":\"NOT_FOUND\""));
	assert_int_equal(ask("POST", "/livez", body, sizeof(body)), 405);
	assert_non_null(strstr(body, "\"error_code\":\"METHOD_NOT_ALLOWED\""));
	assert_int_equal(ask("HEAD", "/livez", body, sizeof(body)), 200);
	assert_string_equal(body, "");
	assert_int_equal(get("/metrics", body, sizeof(body)), 200);
	assert_non_null(strstr(body, "\ncorral_test_starts_total{service=\"first\"} 1\n"));
	assert_non_null(strstr(body, "\ncorral_build_info{version=\"" CORRAL_VERSION "\"} 1\n"));
	assert_non_null(strstr(body, "\nprocess_resident_memory_bytes "));
	assert_non_null(strstr(body, "\nprocess_open_fds "));
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
}

static void metrics_please_promtool(void **state)
{
	static char body[262144];
	FILE *tool;

	if (system("command -v promtool >/dev/null 2>&1") != 0)
		skip();
	launch(true, NULL, NULL, NULL);
	await("\"started\"");
	assert_int_equal(get("/metrics", body, sizeof(body)), 200);
	assert_non_null(strstr(body, "corral_test_starts_total{service=\"first\"} 1\ncorral_test_starts_total{service=\"second\"} 1\n"));
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
	tool = popen("promtool check metrics", "w");
	fputs(body, tool);
	assert_int_equal(pclose(tool), 0);
}

static void a_need_that_is_not_met_is_told(void **state)
{
	char body[1000];

	launch(false, "--unmet", NULL, NULL);
	await("\"started\"");
	assert_int_equal(get("/readyz", body, sizeof(body)), 503);
	assert_non_null(strstr(body, "{\"status\":\"not ready\",\"needs\":[{\"service\":\"first\",\"need\":\"a thing\",\"ok\":false,\"required\":true,"));
	assert_non_null(strstr(body, "\"text\":\"the thing is away\"}]}"));
	assert_int_equal(get("/startupz", body, sizeof(body)), 200);
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
	assert_non_null(strstr(printed(), "\"level\":\"info\",\"service\":\"first\",\"msg\":\"waits for a need\",\"need\":\"a thing\",\"text\":\"the thing is away\""));
}

/* "second" is asked for at a place where nobody is: named, and ready all the same. */
static void a_peer_that_is_missing_is_named(void **state)
{
	char body[1000], peer[200];

	snprintf(peer, sizeof(peer), "--peer.second=ipc://%s/nobody", dir);
	launch(false, "--ask", peer, NULL);
	await("\"started\"");
	assert_int_equal(get("/readyz", body, sizeof(body)), 200);
	assert_non_null(strstr(body, "\"need\":\"peer second\",\"ok\":false,\"required\":false,\"since\":\"2"));
	assert_non_null(strstr(body, "/nobody\"}"));
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
	assert_int_equal(run_to_end(false, "--peer.second=http://here:1", NULL, NULL), 1);
	assert_string_equal(printed(), "first: peer second: 'http://here:1' is not of the form tcp://HOST:PORT, tls+tcp://HOST:PORT, ipc:///path or inproc://name\n");
	assert_int_equal(run_to_end(false, "--peer.second=tls+tcp://here:1", NULL, NULL), 1);
	assert_string_equal(printed(), "first: peer second: 'tls+tcp://here:1' needs tls_ca, tls_cert and tls_key\n");
	assert_int_equal(run_to_end(false, "--tls-cert=/nowhere", NULL, NULL), 1);
	assert_string_equal(printed(), "first: tls_ca is not given; TLS between services needs tls_ca, tls_cert and tls_key\n");
}

static void a_loop_that_stands_still_is_told(void **state)
{
	char body[1000];

	launch(false, "--stick", NULL, NULL);
	await("\"sticks\"");
	await("\"started\"");
	assert_int_equal(get("/livez", body, sizeof(body)), 200);
	advance_s(31);
	assert_int_equal(get("/livez", body, sizeof(body)), 503);
	assert_string_equal(body, "{\"status\":\"a service has not turned its loop for more than 30 s\",\"service\":\"first\"}");
	for (int i = 0; i < 500 && get("/livez", body, sizeof(body)) != 200; i++)
		usleep(10000);
	assert_int_equal(get("/livez", body, sizeof(body)), 200);
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
}

static void sigterm_drains(void **state)
{
	char body[1000];

	launch(false, "--work=100s", "--drain=200s", NULL);
	await("\"started\"");
	kill(child, SIGHUP);
	await("the configuration was read again");
	kill(child, SIGTERM);
	await("\"service drains\",\"left_s\":200");
	assert_int_equal(get("/readyz", body, sizeof(body)), 503);
	assert_memory_equal(body, "{\"status\":\"draining\"", 20);
	assert_int_equal(get("/livez", body, sizeof(body)), 200);
	assert_null(strstr(printed(), "work is done"));
	advance_s(101);
	assert_int_equal(waited(), 0);
	assert_non_null(strstr(printed(), "work is done"));
	assert_non_null(strstr(printed(), "\"stopped\""));
}

static void write_config(const char *text)
{
	char path[100];
	FILE *f;

	snprintf(path, sizeof(path), "%s/reload.yaml", dir);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0 && fclose(f) == 0);
}

static void a_hangup_reads_the_configuration_again(void **state)
{
	char config[100], body[8000];

	snprintf(config, sizeof(config), "--config=%s/reload.yaml", dir);
	write_config("color: red\nwork: 0\n");
	launch(true, config, NULL, NULL);
	await("\"started\"");
	write_config("color: green\nwork: 3s\nlog_level: debug\n");
	kill(child, SIGHUP);
	await("\"new color\",\"color\":\"green\",\"work\":0");       /* work needs a restart */
	await("the configuration in force is the one read last");
	assert_non_null(strstr(printed(), "keeps its value until a restart\",\"option\":\"work\",\"of\":\"first\""));
	assert_non_null(strstr(printed(), "keeps its value until a restart\",\"option\":\"color\",\"of\":\"second\""));
	assert_non_null(strstr(printed(), "\"option changed\",\"option\":\"log_level\""));
	write_config("color: red\nwork: soon\n");
	kill(child, SIGHUP);
	await("\"the configuration was not read; the one in force stays\",\"field\":\"work\",\"error\":\"");
	assert_non_null(strstr(printed(), "reload.yaml:2:7: work: 'soon' is not a duration"));
	assert_null(strstr(printed(), "\"color\":\"red\""));
	write_config("work: 1s\nhang: yes\n");           /* what check() says gets its line too */
	kill(child, SIGHUP);
	await("reload.yaml:2: hang and work exclude each other");
	assert_int_equal(get("/metrics", body, sizeof(body)), 200);
	assert_non_null(strstr(body, "corral_config_reloads_total{result=\"ok\"} 1\n"));
	assert_non_null(strstr(body, "corral_config_reloads_total{result=\"failed\"} 2\n"));
	write_config("color: red\nwork: 1s\n");
	kill(child, SIGHUP);
	await("\"new color\",\"color\":\"red\",\"work\":0");
	for (int i = 0; i < 20; i++)
		kill(child, SIGHUP);
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
}

static void drain_has_an_end(void **state)
{
	launch(false, "--hang", "--drain=200s", NULL);
	await("\"started\"");
	kill(child, SIGTERM);
	await("service drains");
	advance_s(199);
	usleep(100000);
	assert_null(strstr(printed(), "is over"));
	advance_s(3);
	assert_int_equal(waited(), 0);
	assert_non_null(strstr(printed(), "the time for draining is over"));
	assert_non_null(strstr(printed(), "service stops"));
}

static void sigint_drains_for_five_seconds(void **state)
{
	launch(false, "--hang", NULL, NULL);
	await("\"started\"");
	kill(child, SIGINT);
	await("\"draining\",\"signal\":\"SIGINT\",\"at_most_ms\":5000");
	await("\"service drains\",\"left_s\":5");
	advance_s(7);
	assert_int_equal(waited(), 0);
}

static void a_second_signal_hurries(void **state)
{
	launch(false, "--hang", NULL, NULL);
	await("\"started\"");
	kill(child, SIGTERM);
	await("\"service drains\",\"left_s\":300");
	kill(child, SIGTERM);
	await("\"was hurried\",\"left_s\":5");
	advance_s(7);
	assert_int_equal(waited(), 0);
}

static void a_third_signal_ends_at_once(void **state)
{
	launch(false, "--hang", NULL, NULL);
	await("\"started\"");
	kill(child, SIGTERM);
	await("service drains");
	kill(child, SIGTERM);
	await("was hurried");
	kill(child, SIGTERM);
	assert_int_equal(waited(), 143);
	launch(false, "--hang", NULL, NULL);
	await("\"started\"");
	kill(child, SIGINT);
	await("service drains");
	kill(child, SIGINT);
	await("was hurried");
	kill(child, SIGINT);
	assert_int_equal(waited(), 130);
}

static void two_drain_in_order(void **state)
{
	const char *p, *drain1, *done1, *drain2, *stop1, *stop2;

	launch(true, "--work=50s", NULL, NULL);
	await("\"started\"");
	kill(child, SIGTERM);
	await("service drains");
	usleep(50000);
	p = printed();
	drain1 = strstr(p, "\"service\":\"first\",\"msg\":\"service drains\"");
	assert_non_null(drain1);
	assert_null(strstr(p, "\"service\":\"second\",\"msg\":\"service drains\""));
	advance_s(51);
	await("\"service\":\"second\",\"msg\":\"service drains\"");
	advance_s(51);
	assert_int_equal(waited(), 0);
	p = printed();
	drain1 = strstr(p, "\"service\":\"first\",\"msg\":\"service drains\"");
	done1 = strstr(p, "\"service\":\"first\",\"msg\":\"work is done\"");
	drain2 = strstr(p, "\"service\":\"second\",\"msg\":\"service drains\"");
	stop1 = strstr(p, "\"service\":\"first\",\"msg\":\"service stops\"");
	stop2 = strstr(p, "\"service\":\"second\",\"msg\":\"service stops\"");
	assert_true(drain1 < done1 && done1 < drain2 && drain2 < stop1 && stop1 < stop2);
	assert_non_null(strstr(p, "\"listen\":\"127.0.0.1:8303\",\"pub\":\"inproc://first.pub\",\"peer_pub\":\"tcp://127.0.0.1:7212\""));
}

static void services_ask_each_other(void **state)
{
	launch(true, "--ask", NULL, NULL);
	await("\"service\":\"second\",\"msg\":\"was asked\",\"name\":\"things\"");
	await("\"service\":\"first\",\"msg\":\"was answered\",\"version\":42");
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
}

/* The closure hears NULL while the service still has its state. */
static void calls_end_before_the_service(void **state)
{
	const char *ended, *stopped;

	launch(true, "--ask", "--mute", NULL);
	await("was asked");
	await("\"started\"");
	kill(child, SIGTERM);
	assert_int_equal(waited(), 0);
	ended = strstr(printed(), "\"msg\":\"was not answered\",\"why\":\"the client of inproc://second was closed\"");
	stopped = strstr(printed(), "\"service\":\"first\",\"msg\":\"service stops\"");
	assert_true(ended && stopped && ended < stopped);
}

static void one_that_fails_stops_the_others(void **state)
{
	assert_int_equal(run_to_end(true, "--fail", NULL, NULL), 1);
	assert_non_null(strstr(printed(), "\npair: first: the thing at '/state/first' is broken\n"));
	assert_non_null(strstr(printed(), "\"service\":\"second\",\"msg\":\"service stops\""));
	assert_null(strstr(printed(), "\"started\""));
}

/* --- */

static int setup(void **state)
{
	int fd;

	setenv("CORRAL_ADMIN_LISTEN", "127.0.0.1:8301", 1);
	if (!mkdtemp(dir))
		return -1;
	snprintf(out_path, sizeof(out_path), "%s/out", dir);
	snprintf(clock_path, sizeof(clock_path), "%s/clock", dir);
	fd = open(clock_path, O_RDWR | O_CREAT, 0600);
	if (ftruncate(fd, 16) != 0)
		return -1;
	shifts = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return shifts == MAP_FAILED ? -1 : 0;
}

static int end_child(void **state)
{
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	child = 0;
	return 0;
}

static int teardown(void **state)
{
	char cmd[100];

	munmap(shifts, 16);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

#define RUN(f) cmocka_unit_test_teardown(f, end_child)

/* --- a command that looks at a service's settings --- */

static enum err see(void *arg, const void *config, const char *place, struct why *why)
{
	snprintf(arg, 256, "%s", place);
	return config ? ERR_OK : err_set(why, ERR_INTERNAL, "no configuration");
}

/* Its files can be worked on although the service would refuse to run with these settings. */
static void settings_are_seen_without_running(void **state)
{
	const struct svc_def *defs[] = { &first };
	char where[256] = "", option[300], want[300];
	char *argv[] = { (char *)"x", option };
	struct why why = { 0 };
	struct stat st;

	snprintf(option, sizeof(option), "--state-dir=%s/looked/at", dir);
	snprintf(want, sizeof(want), "%s/looked/at/first", dir);
	assert_int_equal(svc_look(defs, 1, "first", 2, argv, see, where, &why), ERR_OK);
	assert_string_equal(where, want);
	assert_int_equal(stat(want, &st), 0);
	assert_int_equal(svc_look(defs, 1, "second", 2, argv, see, where, &why), ERR_NOT_FOUND);
	snprintf(option, sizeof(option), "--no-such-option=1");
	assert_int_not_equal(svc_look(defs, 1, "first", 2, argv, see, where, &why), ERR_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RUN(tells_about_itself), RUN(checks_its_configuration), RUN(says_why_it_does_not_start),
		RUN(answers_on_the_admin_port), RUN(metrics_please_promtool), RUN(a_need_that_is_not_met_is_told), RUN(a_peer_that_is_missing_is_named),
		RUN(a_loop_that_stands_still_is_told),
		RUN(sigterm_drains), RUN(a_hangup_reads_the_configuration_again), RUN(drain_has_an_end), RUN(sigint_drains_for_five_seconds),
		RUN(a_second_signal_hurries), RUN(a_third_signal_ends_at_once), RUN(two_drain_in_order), RUN(services_ask_each_other), RUN(calls_end_before_the_service),
		RUN(one_that_fails_stops_the_others), cmocka_unit_test(settings_are_seen_without_running),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
