/* cli_test.c - whole command lines against a gateway that a test scripts: words, tables, streams, ends. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/io/http_server.h"
#include "common/policy/apikey.h"
#include "services/corral/doctor.h"
#include "services/corral/table.h"
#include "services/corral/turn.h"

/* --- a gateway in a thread: what it answers is set by the test, what it was asked is kept --- */

static struct {
	pthread_t thread;
	struct loop *loop;
	struct http_server *server;
	char url[64];
	int status;
	const char *headers, *answer; /* of every request, unless 'pieces' */
	const char *const *pieces;    /* a stream, sent piece by piece */
	bool cut, hang;               /* after the pieces: break off; or send Ctrl-C to this program and wait */
	char asked[256], key[128], conversation[64];
	struct buf body;
	pthread_mutex_t lock;
	struct loop_timer pause;
	struct http_xchg *x;
	unsigned piece;
} gw;

static void keep_header(struct http_xchg *x, const char *name, char *out, size_t cap)
{
	const struct http_header *h = http_find(&x->head, name);

	str_copy(out, cap, h ? h->value : STR(""));
}

static void gone(struct http_xchg *x, const char *why)
{
	loop_timer_del(&gw.pause);
	gw.x = NULL;
}

static void next_piece(struct loop_timer *t)
{
	const char *piece = gw.pieces[gw.piece++];

	if (piece) {
		http_reply_data(gw.x, str_of(piece));
		loop_timer_set(gw.loop, t, 2000, next_piece);
	} else if (gw.hang) {
		kill(getpid(), SIGINT);
	} else if (gw.cut) {
		http_reply_abort(gw.x);
	} else {
		http_reply_end(gw.x);
	}
}

static void on_request(struct http_xchg *x, void *arg)
{
	pthread_mutex_lock(&gw.lock);
	snprintf(gw.asked, sizeof(gw.asked), STR_FMT " " STR_FMT, STR_ARG(x->head.method), STR_ARG(x->head.target));
	keep_header(x, "Authorization", gw.key, sizeof(gw.key));
	keep_header(x, "X-Corral-Conversation", gw.conversation, sizeof(gw.conversation));
	buf_clear(&gw.body);
	buf_str(&gw.body, x->body);
	pthread_mutex_unlock(&gw.lock);
	if (!gw.pieces) {
		http_reply(x, gw.status, str_of(gw.headers), str_of(gw.answer));
		return;
	}
	x->on_gone = gone;
	gw.x = x;
	gw.piece = 0;
	http_reply_start(x, 200, str_of(gw.headers), -1);
	next_piece(&gw.pause);
}

static void *serve(void *arg)
{
	loop_run(gw.loop);
	return NULL;
}

static int start_gateway(void **state)
{
	static const struct http_handler handler = { .on_request = on_request };
	static const struct http_server_opts opts = { 0 };
	struct why why;

	unsetenv("CORRAL_URL");
	unsetenv("CORRAL_API_KEY");
	gw.loop = loop_new();
	gw.server = http_server_new(gw.loop, "127.0.0.1:0", &handler, &opts, &why);
	assert_non_null(gw.server);
	snprintf(gw.url, sizeof(gw.url), "http://127.0.0.1:%u", http_server_port(gw.server));
	pthread_mutex_init(&gw.lock, NULL);
	return pthread_create(&gw.thread, NULL, serve, NULL);
}

static void stop(void *arg) { loop_stop(gw.loop); }

static int stop_gateway(void **state)
{
	loop_post(gw.loop, stop, NULL);
	pthread_join(gw.thread, NULL);
	http_server_free(gw.server);
	loop_free(gw.loop);
	buf_free(&gw.body);
	return 0;
}

static void will_answer(int status, const char *body)
{
	gw.status = status;
	gw.headers = "Content-Type: application/json\r\n";
	gw.answer = body;
	gw.pieces = NULL;
	gw.cut = gw.hang = false;
}

static const char stream_headers[] =
	"Content-Type: text/event-stream\r\nX-Request-Id: id-1\r\nX-Corral-Model: m1\r\nX-Corral-Backend: b1\r\nX-Corral-Reason: rules\r\n";

static void will_stream(const char *const *pieces)
{
	will_answer(200, "");
	gw.headers = stream_headers;
	gw.pieces = pieces;
}

/* --- running a command line --- */

static char *said, *complained;       /* what the last one wrote */

static int input_of(const char *text)
{
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], text, strlen(text)), strlen(text));
	close(fds[1]);
	return fds[0];
}

static struct cli usual;

static int corral_in(const char *input, bool tty, const char *words)
{
	struct cli c = usual;
	char *copy = x_strdup(words), *argv[32], *save = NULL;
	size_t n_out, n_err;
	int argc = 0, status;

	free(said);
	free(complained);
	c.out = open_memstream(&said, &n_out);
	c.err = open_memstream(&complained, &n_err);
	c.in_fd = input_of(input);
	c.in_tty = tty;
	argv[argc++] = "corral";
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		for (char *p = w; *p; p++)
			*p = *p == '_' ? ' ' : *p == '^' ? '_' : *p;
		argv[argc++] = w;
	}
	argv[argc] = NULL;
	status = cli_run(&c, argc, argv);
	close(c.in_fd);
	fclose(c.out);
	fclose(c.err);
	free(copy);
	return status;
}

/* A command line, blanks between words; '_' is a blank inside one, '^' a '_'. The gateway's address is in the environment. */
static int corral(const char *words)
{
	setenv("CORRAL_URL", gw.url, 1);
	return corral_in("", false, words);
}

#define assert_says(text) do { if (!strstr(said, text)) fail_msg("missing: %s\nin: %s", text, said); } while (0)
#define assert_complains(text) do { if (!strstr(complained, text)) fail_msg("missing: %s\nin: %s", text, complained); } while (0)

/* --- words --- */

static void unknown_words_get_the_nearest(void **state)
{
	static const struct { const char *words, *text; } cases[] = {
		{ "mdels", "did you mean 'models'?" }, { "stat", "did you mean 'status'?" }, { "Chat", "did you mean 'chat'?" },
		{ "zzzzz", "there is no command 'zzzzz'; see corral help" }, { "models --familly=x", "models has no option '--familly'; did you mean --family?" },
		{ "usage --formxx", "usage has no option '--formxx'; see corral usage --help" }, { "models -z", "models has no option '-z'" },
		{ "models sink", "models knows list, unused, sync, init, pull" }, { "status now", "status takes no arguments, but got 'now'" },
		{ "models sync again", "'again' is one word too many" }, { "models rm a b", "'b' is one word too many" }, { "models --backend", "--backend needs a value: NAME" },
		{ "models --available=yes", "--available takes no value" }, { "explain", "explain needs the id" },
		{ "explain x --prompt y", "explain needs the id" }, { "explain x --model y", "go with --prompt only" }, { "usage --csv --json", "exclude each other" },
		{ "chat -m a b", "exclude each other" }, { "chat --max-tokens=0 x", "--max-tokens is a number above 0" }, { "chat", "there is nothing to ask" },
		{ "--jsn status", "there is no option '--jsn' before a command" }, { "status --url=https://x", "plain http only" },
		{ "status --url=http://", "is not http://host:port/path" }, { "help nothing", "there is no command 'nothing'" },
		{ "models sync --family=x", "sync takes --backend" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(corral(cases[i].words), EXIT_USAGE);
		assert_complains(cases[i].text);
		assert_string_equal(said, "");
	}
}

static void options_stand_anywhere(void **state)
{
	static const char *const lines[] = {
		"models --backend=b_1 --available", "models -b b_1 -a", "models -bb_1 --available --json", "--json models --backend b_1 -a",
	};

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		will_answer(200, "{\"models\":[]}");
		assert_int_equal(corral(lines[i]), EXIT_OK);
		assert_string_equal(gw.asked, "GET /models?backend=b%201&available=true");
	}
	assert_string_equal(said, "{\"models\":[]}\n");
}

static void models_are_changed_by_jobs(void **state)
{
	static const char done[] = "{\"success\":true,\"job_id\":\"j1\",\"joined\":false,\"model\":\"m\",\"job\":{\"id\":\"j1\",\"kind\":\"protect\",\"state\":\"done\"}}";
	static const char removal[] = "{\"success\":true,\"job_id\":\"j1\",\"model\":\"m\",\"removes_at\":\"2026-11-21T12:10:00Z\","
				      "\"job\":{\"id\":\"j1\",\"kind\":\"delete\",\"state\":\"waiting\",\"eta_s\":600}}";

	will_answer(200, done);
	assert_int_equal(corral("models protect org/m:1"), EXIT_OK);
	assert_string_equal(gw.asked, "POST /models/org%2Fm%3A1/protect");
	assert_says("m: protect");
	will_answer(202, removal);
	assert_int_equal(corral("models rm m --grace=600"), EXIT_OK);
	assert_string_equal(gw.asked, "DELETE /models/m?grace_s=600");
	assert_says("2026-11-21T12:10:00Z (in 10 min 0 s)");
	assert_says("corral models undelete m");
	assert_int_equal(corral("models pull m --detach -b gpu"), EXIT_OK);
	assert_string_equal(gw.asked, "POST /models/pull");
	assert_non_null(str_find(buf_as_str(&gw.body), STR("{\"name\":\"m\",\"backend\":\"gpu\"}")));
	assert_says("corral jobs watch j1");
	will_answer(403, "{\"success\":false,\"error\":\"model 'm' is protected\"}");
	assert_int_equal(corral("models rm m"), EXIT_FAILED);
	assert_complains("is protected");
	assert_int_equal(corral("models rm"), EXIT_USAGE);
	assert_int_equal(corral("models preload m --grace=1"), EXIT_USAGE);
}

/* One answer serves all three questions: of the hardware, of the models, and the pull. */
static void the_first_models_are_pulled_after_a_yes(void **state)
{
	static const char all[] =
		"{\"recommended_models\":[{\"name\":\"chatter:8b\",\"role\":\"chat\",\"first\":true,\"fits\":\"gpu\",\"why\":\"needs 6 GB\",\"download_bytes\":5000000000},"
		"{\"name\":\"coder\",\"role\":\"code\",\"first\":true,\"fits\":\"gpu\",\"why\":\"needs 5 GB\",\"download_bytes\":4000000000},"
		"{\"name\":\"second\",\"role\":\"code\",\"first\":false,\"fits\":\"gpu\",\"download_bytes\":1000000000},"
		"{\"name\":\"huge\",\"role\":\"vision\",\"first\":true,\"fits\":\"no\",\"download_bytes\":90000000000}],"
		"\"disks\":[{\"free_bytes\":8000000000}],\"models\":[{\"name\":\"Coder:latest\",\"backends\":[]}],"
		"\"job_id\":\"j1\",\"state\":\"done\",\"kind\":\"pull\",\"model\":\"chatter:8b\"}";

	will_answer(200, all);
	setenv("CORRAL_URL", gw.url, 1);
	assert_int_equal(corral_in("n\n", true, "models init"), EXIT_OK);
	assert_says("needs 6 GB");
	assert_says("is here");
	assert_says("Pull 1 model, 5.0 GB? [y/N] Nothing was pulled.");
	assert_null(strstr(said, "huge"));
	assert_string_equal(gw.asked, "GET /models");
	assert_int_equal(corral_in("", true, "models init"), EXIT_OK);       /* no answer is a no */
	assert_string_equal(gw.asked, "GET /models");
	assert_int_equal(corral_in("", false, "models init"), EXIT_USAGE);
	assert_complains("say --yes");
	assert_int_equal(corral_in("Yes\n", true, "models init"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /jobs/j1");
	assert_says("pull of chatter:8b is done");
	assert_int_equal(corral("models init --yes --detach"), EXIT_OK);
	assert_string_equal(gw.asked, "POST /models/pull");
	assert_non_null(str_find(buf_as_str(&gw.body), STR("{\"name\":\"chatter:8b\"}")));
	assert_int_equal(corral("models init --json"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /models");
	assert_says("{\"download_bytes\":5000000000,\"models\":[{\"name\":\"chatter:8b\",\"is_here\":false,\"role\":\"chat\"");
	assert_int_equal(corral("models init --json --yes"), EXIT_OK);
	assert_says("\"job_id\":\"j1\"");
	assert_int_equal(corral("models init huge --yes"), EXIT_FAILED);
	assert_complains("they need 90 GB on the disk, and 8.0 GB are free");
	assert_int_equal(corral("models init unheard second --yes"), EXIT_OK);        /* what nobody knows the size of */
	assert_says("the catalogue does not have it");
	will_answer(200, "{\"recommended_models\":[],\"models\":[]}");
	assert_int_equal(corral("models init"), EXIT_FAILED);
	assert_complains("no model of the catalogue fits");
}

static void jobs_are_listed_watched_and_cancelled(void **state)
{
	static const char job[] = "{\"id\":\"j1\",\"kind\":\"pull\",\"model\":\"m\",\"state\":\"%s\",\"phase\":\"downloading\",\"percent\":45.5,\"bytes\":2400000000,"
				  "\"bytes_total\":5200000000,\"rate\":3100000,\"eta_s\":903,\"error\":%s}";
	char one[400], list[500];

	snprintf(one, sizeof(one), job, "running", "null");
	snprintf(list, sizeof(list), "{\"jobs\":[%s]}", one);
	will_answer(200, list);
	assert_int_equal(corral("jobs --active"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /jobs?active=true");
	assert_says("downloading 46 %, 2.4 GB of 5.2 GB, 3.1 MB/s, 15 min 3 s left");
	will_answer(200, one);
	assert_int_equal(corral("jobs cancel j1"), EXIT_OK);
	assert_string_equal(gw.asked, "DELETE /jobs/j1");
	snprintf(one, sizeof(one), job, "done", "null");
	will_answer(200, one);
	assert_int_equal(corral("jobs watch j1"), EXIT_OK);
	assert_says("pull of m is done.");
	snprintf(one, sizeof(one), job, "failed", "\"the disk is full\"");
	will_answer(200, one);
	assert_int_equal(corral("jobs watch j1"), EXIT_FAILED);
	assert_complains("the disk is full");
	assert_int_equal(corral("jobs show j1"), EXIT_OK);
	assert_says("error       the disk is full");
	assert_int_equal(corral("jobs stop j1"), EXIT_USAGE);
	assert_int_equal(corral("jobs watch"), EXIT_USAGE);
}

static void help_and_version(void **state)
{
	assert_int_equal(corral("help"), EXIT_OK);
	for (const struct command *const *p = commands; *p; p++)
		assert_says((*p)->name);
	assert_int_equal(corral("--help"), EXIT_OK);
	assert_int_equal(corral(""), EXIT_USAGE);
	assert_complains("Usage: corral COMMAND");
	assert_int_equal(corral("chat --help"), EXIT_OK);
	assert_says("--max-tokens=N");
	assert_says("Examples:");
	assert_int_equal(corral("help --markdown"), EXIT_OK);
	assert_says("## corral doctor");
	assert_int_equal(corral("--version"), EXIT_OK);
	assert_string_equal(said, "corral " CORRAL_VERSION "\n");
}

static void no_line_of_help_is_wider_than_100(void **state)
{
	struct str rest, line;

	assert_int_equal(corral("help --markdown"), EXIT_OK);
	rest = str_of(said);
	while (str_split(&rest, '\n', &line))
		if (text_width(line) > 100)
			fail_msg("%u: " STR_FMT, text_width(line), STR_ARG(line));
}

/* --- the key, the address, answers of no use --- */

static void the_key_is_sent_as_bearer(void **state)
{
	will_answer(200, "{\"models\":[]}");
	assert_int_equal(corral("models"), EXIT_OK);
	assert_string_equal(gw.key, "");
	setenv("CORRAL_API_KEY", "secret", 1);
	assert_int_equal(corral("models"), EXIT_OK);
	assert_string_equal(gw.key, "Bearer secret");
	assert_int_equal(corral("models --api-key=other"), EXIT_OK);
	assert_string_equal(gw.key, "Bearer other");
	setenv("CORRAL_API_KEY", "a\r\nb", 1);
	assert_int_equal(corral("models"), EXIT_USAGE);
	assert_complains("API key holds characters");
	unsetenv("CORRAL_API_KEY");
}

static void the_address_is_read_kindly(void **state)
{
	char line[1024];

	will_answer(200, "{\"models\":[]}");
	for (const char *const *end = (const char *const[]){ "", "/", "/v1", "/v1/", NULL }; *end; end++) {
		snprintf(line, sizeof(line), "models --url=%s%s", gw.url + 7, *end);
		assert_int_equal(corral(line), EXIT_OK);
		assert_string_equal(gw.asked, "GET /models");
	}
	snprintf(line, sizeof(line), "models --url=%s/prefix", gw.url);
	assert_int_equal(corral(line), EXIT_OK);
	assert_string_equal(gw.asked, "GET /prefix/models");
}

static void nobody_there_is_status_3(void **state)
{
	static const char *const lines[] = { "status", "models", "models sync", "usage", "explain x", "explain -p x", "chat hello" };
	char line[1024];

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		snprintf(line, sizeof(line), "%s --url=http://127.0.0.1:1", lines[i]);
		assert_int_equal(corral(line), EXIT_UNREACHABLE);
		assert_complains("the gateway at http://127.0.0.1:1 does not answer: connection refused");
		assert_complains("corral serve");
	}
}

static void other_answers_are_said(void **state)
{
	will_answer(400, "{\"success\":false,\"error\":\"from is not\\u001b[31m a time\"}");
	assert_int_equal(corral("usage --from x"), EXIT_FAILED);
	assert_string_equal(complained, "corral: from is not [31m a time\n");
	will_answer(404, "{\"success\":false,\"error\":\"no such model\"}");
	assert_int_equal(corral("models"), EXIT_FAILED);
	assert_string_equal(complained, "corral: no such model\n");
	will_answer(404, "{\"error\":{\"message\":\"File Not Found\"}}");    /* an engine, not a gateway */
	assert_int_equal(corral("models"), EXIT_FAILED);
	assert_complains("is not Corral: 'File Not Found' (404); is --url right?");
	will_answer(401, "{\"error\":\"no key\"}");
	assert_int_equal(corral("models"), EXIT_FAILED);
	assert_complains("set CORRAL_API_KEY");
	will_answer(500, "<html>");
	assert_int_equal(corral("models"), EXIT_FAILED);
	assert_complains("status 500");
	for (const char *const *body = (const char *const[]){ "<html>", "[]", "{}", "", NULL }; *body; body++) {
		static const char *const lines[] = { "status", "models", "usage", "explain x" };

		will_answer(200, *body);
		for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
			assert_int_equal(corral(lines[i]), EXIT_FAILED);
			assert_complains("is not Corral");
		}
	}
}

/* --- tables --- */

static void columns_are_as_wide_as_their_cells(void **state)
{
	struct arena *a = arena_new(0);
	struct buf b = { 0 };
	struct table t;

	table_init(&t, a, "NAME|>N|~WHY");
	table_cell(&t, TONE_PLAIN, STR("größe"));
	table_fmt(&t, TONE_BAD, "%d", 7);
	table_cell(&t, TONE_PLAIN, STR("a\033[2Jb\nc\xc2\x9b"));
	table_cell(&t, TONE_PLAIN, STR("x"));
	table_fmt(&t, TONE_PLAIN, "%d", 12345);
	table_cell(&t, TONE_PLAIN, STR(""));
	table_print(&t, &b, 0, false);
	assert_string_equal(buf_z(&b), "NAME       N  WHY\ngröße      7  a [2Jb c\nx      12345\n");
	buf_clear(&b);
	table_print(&t, &b, 0, true);
	assert_non_null(strstr(buf_z(&b), "\033[31m7\033[0m"));
	buf_free(&b);
	arena_free(a);
}

static void only_columns_that_may_are_cut(void **state)
{
	struct arena *a = arena_new(0);
	struct buf b = { 0 };
	struct table t;

	table_init(&t, a, "NAME|~WHY");
	table_cell(&t, TONE_PLAIN, STR("a name that is long"));
	table_cell(&t, TONE_PLAIN, STR("äöü a sentence that is longer still"));
	table_print(&t, &b, 35, false);
	assert_non_null(strstr(buf_z(&b), "a name that is long  äöü a sentenc…\n"));
	buf_clear(&b);
	table_print(&t, &b, 5, false);
	assert_non_null(strstr(buf_z(&b), "a name that is long  äöü a s…\n"));
	buf_free(&b);
	arena_free(a);
}

static void models_as_a_table(void **state)
{
	will_answer(200, "{\"models\":[{\"name\":\"m1\",\"family\":\"f\",\"parameters\":\"7B\",\"quantization\":\"Q4\",\"context_length\":8192,"
			 "\"capabilities\":[\"completion\",\"tools\"],\"is_available\":true,\"loaded_on\":[],\"backends\":[\"b1\",\"b2\"]},"
			 "{\"name\":\"m2\",\"family\":\"\",\"context_length\":0,\"is_available\":false,\"backends\":[\"b3\"]}]}");
	assert_int_equal(corral("models"), EXIT_OK);
	assert_string_equal(said, "NAME  FAMILY  PARAMS  QUANT  CONTEXT  CAPABILITIES       BACKENDS   LOADED\n"
				  "m1    f           7B  Q4          8k  completion, tools  b1, b2     -\n"
				  "m2    -            -  -            -  -                  b3 (down)  -\n");
}

static void status_at_a_glance(void **state)
{
	static const char body[] = "{\"status\":\"degraded\",\"version\":\"1\",\"models\":2,\"backends\":[{\"name\":\"b1\",\"kind\":\"k\",\"url\":\"u\","
		"\"state\":\"up\",\"reason\":null,\"in_use\":1,\"slots\":4,\"models\":[{\"queued\":2,\"loaded\":true,\"breaker\":\"open\"},{\"queued\":1}]},"
		"{\"name\":\"b2\",\"state\":\"down\",\"reason\":\"it\\u001bhangs\"}]}";
	char want[512];

	will_answer(200, body);
	assert_int_equal(corral("status --admin-url=http://127.0.0.1:1"), EXIT_OK);
	snprintf(want, sizeof(want), "Corral 1 at %.40s is degraded: 2 models, 1 of 2 backends up.\n\n", gw.url);
	assert_says(want);
	assert_says("BACKEND  KIND  STATE  SLOTS  QUEUE  MODELS  LOADED  URL\n"
		    "b1       k     up       1/4      3       2       1  u\n"
		    "b2             down     0/0      0       0       0\n\n"
		    "b1: 1 model is not asked for now, after failures in a row.\nb2 is down: ithangs.\n");
	will_answer(503, "{\"status\":\"unavailable\",\"backends\":[]}");
	assert_int_equal(corral("status"), EXIT_FAILED);
	will_answer(200, "{\"status\":\"ok\",\"backends\":[]}");
	assert_int_equal(corral("status"), EXIT_OK);
	assert_says("There is no backend. Name one: corral serve --backends");
}

static void usage_as_a_table(void **state)
{
	static const char body[] = "{\"rows\":[{\"model\":\"m\",\"day\":\"2026-11-21\",\"requests\":2,\"attempts\":3,\"errors\":1,\"prompt_tokens\":10,"
		"\"completion_tokens\":20,\"latency_p50_ms\":1.6,\"latency_p95_ms\":9,\"success_rate\":0.9999,\"cost_microusd\":1500}],\"totals\":null}";

	will_answer(200, body);
	assert_int_equal(corral("usage --by day,model --from 2026-11-01"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /usage?group_by=day%2Cmodel&from=2026-11-01");
	assert_string_equal(said, "DAY         MODEL  REQUESTS  ATTEMPTS  ERRORS  IN  OUT   P50   P95  SUCCESS     COST\n"
				  "2026-11-21  m             2         3       1  10   20  2 ms  9 ms   99.9 %  $0.0015\n");
	will_answer(200, "a,b\r\n1,2\r\n");
	assert_int_equal(corral("usage --csv"), EXIT_OK);
	assert_string_equal(said, "a,b\r\n1,2\r\n");
	will_answer(200, "{\"rows\":[]}");
	assert_int_equal(corral("usage"), EXIT_OK);
	assert_string_equal(said, "The ledger has no requests yet.\n");
	assert_int_equal(corral("usage --tenant red"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /usage?group_by=model&tenant=red");
	assert_string_equal(said, "The ledger has no requests of the tenant red yet.\n");
}

static void explanations_as_tables(void **state)
{
	static const char body[] = "{\"request_id\":\"r\",\"decided_at\":\"t\",\"features\":{\"requested_model\":\"auto\",\"task_type\":\"SQL\",\"complexity\":\"SIMPLE\","
		"\"prompt_tokens\":7,\"needs\":[\"tools\"]},\"chosen\":{\"model\":\"m\",\"backend\":\"b\"},\"reason\":\"rules\",\"confidence\":0.5,"
		"\"candidates\":[{\"model\":\"m\",\"backend\":\"b\",\"score\":0.5,\"terms\":{\"quality\":1,\"latency\":0.25,\"cost\":1},\"expected_s\":1.5,"
		"\"warm\":true,\"context_length\":4096}],\"rejected\":[{\"model\":\"n\",\"backend\":\"b\",\"rule\":\"context\",\"text\":\"its window is 4\"}],"
		"\"replayed\":false,\"replay_text\":\"the policy is gone\"}";

	will_answer(200, body);
	assert_int_equal(corral("explain a_b"), EXIT_OK);
	assert_string_equal(complained, "");
	assert_string_equal(gw.asked, "GET /explain/a%20b");
	assert_says("Request r, t: sent to m on b (rules, confidence 0.50).\n");
	assert_says("It asks for 'auto': task SQL, complexity SIMPLE, 7 prompt tokens, needs tools.\n");
	assert_says("n           b        context  its window is 4\n");
	assert_says("Not replayed: the policy is gone.\n");
	assert_int_equal(corral("explain --prompt=say_\"hi\" --policy fast"), EXIT_OK);
	assert_string_equal(buf_z(&gw.body), "{\"model\":\"auto\",\"prompt\":\"say \\\"hi\\\"\",\"policy\":\"fast\"}");
	assert_says("Now this would go to m on b");
}

/* --- streams --- */

#define CHUNK(text) "data: {\"choices\":[{\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define LAST "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n" \
	"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n"
#define DONE "data: [DONE]\n\n"

static void an_answer_is_shown_and_summed_up(void **state)
{
	will_stream((const char *const[]){ "data: {\"choices\":[{\"delta\":{\"con", "tent\":\"Hel\"}}]}\n\n" CHUNK("lo\\n"), CHUNK("there"), LAST, DONE, NULL });
	assert_int_equal(corral("chat --system=be_kind --max-tokens 9 say hello"), EXIT_OK);
	assert_string_equal(said, "Hello\nthere\n");
	assert_complains("m1 on b1, chosen by rules; 3 tokens in, 4 out; ");
	assert_complains("request id-1\n");
	assert_string_equal(gw.asked, "POST /v1/chat/completions");
	assert_string_equal(buf_z(&gw.body), "{\"model\":\"auto\",\"messages\":[{\"role\":\"system\",\"content\":\"be kind\"},{\"role\":\"user\",\"content\":\"say hello\"}],"
					     "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_tokens\":9}");
	assert_int_equal(strlen(gw.conversation), 36);
	assert_int_equal(corral("chat -q -m hello"), EXIT_OK);
	assert_string_equal(complained, "");
}

static void input_is_a_question_too(void **state)
{
	will_stream((const char *const[]){ CHUNK("ok"), DONE, NULL });
	assert_int_equal(corral_in("from a pipe\n", false, "chat"), EXIT_OK);
	assert_non_null(strstr(buf_z(&gw.body), "\"content\":\"from a pipe\\n\""));
	assert_int_equal(corral_in("the text", false, "chat look: - please"), EXIT_OK);
	assert_non_null(strstr(buf_z(&gw.body), "\"content\":\"look: the text please\""));
	assert_int_equal(corral_in("\xff\xfe", false, "chat"), EXIT_FAILED);
	assert_complains("not UTF-8");
}

static void json_is_one_object(void **state)
{
	will_stream((const char *const[]){ CHUNK("a\\\"b"), LAST, DONE, NULL });
	assert_int_equal(corral("chat --json hello"), EXIT_OK);
	assert_says("{\"end\":\"done\",\"error\":null,\"request_id\":\"id-1\",\"model\":\"m1\",\"backend\":\"b1\",\"reason\":\"rules\",\"content\":\"a\\\"b\","
		    "\"finish_reason\":\"stop\",\"prompt_tokens\":3,\"completion_tokens\":4,");
	assert_string_equal(complained, "");
}

/* A model's words must not move the cursor or rename the window; a pipe gets the bytes as they are. */
static void a_terminal_is_not_commanded(void **state)
{
	will_stream((const char *const[]){ CHUNK("a\\u001b]0;x\\u0007b\\u009bc\\td"), DONE, NULL });
	usual.out_tty = true;
	assert_int_equal(corral("chat hello"), EXIT_OK);
	usual.out_tty = false;
	assert_string_equal(said, "a]0;xbc\td\n");
	assert_int_equal(corral("chat hello"), EXIT_OK);
	assert_says("a\033]0;x\ab");
}

static void thoughts_are_for_people(void **state)
{
	will_stream((const char *const[]){ "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n", CHUNK("yes"), DONE, NULL });
	assert_int_equal(corral("chat hello"), EXIT_OK);
	assert_string_equal(said, "yes\n");
	usual.out_tty = usual.colour = true;
	assert_int_equal(corral("chat hello"), EXIT_OK);
	usual.out_tty = usual.colour = false;
	assert_string_equal(said, "\033[2mhm\n\n\033[0myes\n");
}

static void what_broke_is_never_a_success(void **state)
{
	will_stream((const char *const[]){ CHUNK("half"), NULL });
	assert_int_equal(corral("chat hello"), EXIT_FAILED);
	assert_string_equal(said, "half\n");
	assert_complains("ended before it was complete");
	gw.cut = true;
	assert_int_equal(corral("chat hello"), EXIT_FAILED);
	assert_complains("broke off");
	gw.cut = false;
	will_stream((const char *const[]){ CHUNK("half"), "data: {\"error\":{\"message\":\"the backend died\"}}\n\n", DONE, NULL });
	assert_int_equal(corral("chat hello"), EXIT_FAILED);
	assert_complains("corral: the backend died\n");
	will_stream((const char *const[]){ "data: {half\n\n", DONE, NULL });
	assert_int_equal(corral("chat --json hello"), EXIT_FAILED);
	assert_says("\"end\":\"failed\",\"error\":\"an event of the stream is not JSON");
	will_answer(404, "{\"error\":{\"message\":\"no such model\"}}");
	assert_int_equal(corral("chat hello"), EXIT_FAILED);
	assert_complains("corral: no such model\n");
	will_answer(200, "{\"choices\":[]}");
	assert_int_equal(corral("chat hello"), EXIT_FAILED);
	assert_complains("no event stream");
}

static void ctrl_c_ends_the_answer(void **state)
{
	will_stream((const char *const[]){ CHUNK("half"), NULL });
	gw.hang = true;
	assert_int_equal(corral("chat hello"), EXIT_INTERRUPTED);
	assert_string_equal(said, "half\n");
	assert_complains("(interrupted)");
}

/* --- a conversation --- */

static void turns_are_remembered(void **state)
{
	char first[64];

	will_stream((const char *const[]){ CHUNK("ok"), DONE, NULL });
	assert_int_equal(corral_in("one\n", true, "chat"), EXIT_OK);
	snprintf(first, sizeof(first), "%s", gw.conversation);
	assert_int_equal(corral_in("one\n", true, "chat"), EXIT_OK);
	assert_string_not_equal(first, gw.conversation);
}

static void commands_begin_with_a_slash(void **state)
{
	will_stream((const char *const[]){ CHUNK("ok"), DONE, NULL });
	gw.asked[0] = '\0';
	assert_int_equal(corral_in("/model other\n", true, "chat"), EXIT_OK);
	assert_complains("Asking other from now on.");
	assert_int_equal(corral_in("/nonsense\n", true, "chat"), EXIT_OK);
	assert_complains("There is no /nonsense");
	assert_int_equal(corral_in("/quit\n", true, "chat"), EXIT_OK);
	assert_string_equal(gw.asked, "");
	assert_int_equal(corral_in(" /tmp is full\n", true, "chat"), EXIT_OK);
	assert_non_null(strstr(buf_z(&gw.body), "\"content\":\"/tmp is full\""));
}

/* --- doctor's reading of settings --- */

static void settings_are_read_back(void **state)
{
	static const char text[] = "# gateway\nlisten: \"127.0.0.1:8100\"      # default\nlisten_more: \"x\"  # default\n"
				   "backends: [\"a=ollama+http://h:1\", \"b=openai+http://h:2\"]  # --backends\nlog_level: info   # default\nempty: \"\"  # default\n";
	struct cli c = { .mem = arena_new(0) };
	struct doctor d = { .cli = &c, .settings = text };

	assert_string_equal(config_value(&d, "listen"), "127.0.0.1:8100");
	assert_string_equal(config_value(&d, "backends"), "a=ollama+http://h:1,b=openai+http://h:2");
	assert_string_equal(config_value(&d, "log_level"), "info");
	assert_string_equal(config_value(&d, "empty"), "");
	assert_string_equal(config_value(&d, "listen_"), "");
	arena_free(c.mem);
}

static void a_full_disk_is_a_failure(void **state)
{
	struct cli c = { .out = fopen("/dev/full", "w"), .err = fopen("/dev/null", "w") };
	char *argv[] = { "corral", "help", NULL };

	assert_int_equal(cli_run(&c, 2, argv), EXIT_FAILED);
	fclose(c.out);
	fclose(c.err);
}

static void unused_models_are_proposed(void **state)
{
	will_answer(200, "{\"days\":90,\"models\":[{\"name\":\"old\",\"size_bytes\":4100000000,\"first_seen_at\":\"2026-01-02T03:04:05Z\",\"backends\":[\"a\",\"b\"],"
			 "\"is_protected\":false,\"pinned\":false,\"proposed\":true},{\"name\":\"dear\",\"size_bytes\":1,\"first_seen_at\":\"2026-01-02T03:04:05Z\","
			 "\"backends\":[\"a\"],\"is_protected\":true,\"pinned\":false,\"proposed\":false}],\"proposed_bytes\":4100000000}");
	assert_int_equal(corral("models unused --days 90"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /models/unused?days=90");
	assert_says("old   4.1 GB  2026-01-02   a, b      corral models rm");
	assert_says("dear  0.0 GB  2026-01-02   a         protected");
	assert_says("Not asked for in 90 days; 4.1 GB that nobody protects. Nothing is removed by itself.");
	will_answer(200, "{\"days\":30,\"models\":[],\"proposed_bytes\":0}");
	assert_int_equal(corral("models unused"), EXIT_OK);
	assert_says("Every model that was known for 30 days was asked for.");
	assert_int_equal(corral("models list --days 3"), EXIT_USAGE);
	assert_int_equal(corral("models unused --available"), EXIT_USAGE);
}

/* --- keys, tenants, audit --- */

static void assert_body(const char *want)
{
	if (!str_eqz(buf_as_str(&gw.body), want))
		fail_msg("sent: " STR_FMT "\nnot:  %s", STR_ARG(buf_as_str(&gw.body)), want);
}

static const char a_new_key[] =
	"{\"key\":{\"id\":\"YyvEAUi7ojPzci2n\",\"name\":\"ci\",\"role\":\"user\",\"tenant\":\"acme\",\"created_at\":\"2026-11-21T09:00:00Z\","
	"\"expires_at\":\"2030-01-01T00:00:00Z\",\"models\":[],\"actions\":[],\"networks\":[],\"limits\":{},\"replaces\":null},\"secret\":\"corral_sk_x\"}";

static void a_key_is_printed_alone(void **state)
{
	will_answer(201, a_new_key);
	assert_int_equal(corral("keys create ci -t acme --team red -u bob -m a,b* --actions inference --networks 10.0.0.0/8 --requests-per-minute 60 --concurrency=2 "
				"--expires 2030-01-01"), EXIT_OK);
	assert_string_equal(gw.asked, "POST /keys");
	assert_body("{\"role\":\"user\",\"name\":\"ci\",\"tenant\":\"acme\",\"team\":\"red\",\"user\":\"bob\",\"expires_at\":\"2030-01-01T00:00:00Z\",\"models\":[\"a\",\"b*\"],"
		    "\"actions\":[\"inference\"],\"networks\":[\"10.0.0.0/8\"],\"limits\":{\"requests_per_minute\":60,\"concurrency\":2}}");
	assert_string_equal(said, "corral_sk_x\n");
	assert_complains("key YyvEAUi7ojPzci2n 'ci', role user, tenant acme, ends at 2030-01-01T00:00:00Z; it is shown this once");
	assert_int_equal(corral("keys create --json"), EXIT_OK);
	assert_says(a_new_key);
	assert_string_equal(complained, "");
	assert_body("{\"role\":\"user\"}");
	will_answer(409, "{\"success\":false,\"error\":\"the name is taken\",\"error_code\":\"CONFLICT\"}");
	assert_int_equal(corral("keys create ci"), EXIT_FAILED);
	assert_complains("the name is taken");
}

static void keys_are_listed(void **state)
{
	will_answer(200, "{\"keys\":[{\"id\":\"YyvEAUi7ojPzci2n\",\"name\":\"ci\",\"role\":\"user\",\"tenant\":\"acme\",\"created_at\":\"2026-11-21T09:00:00Z\","
			 "\"expires_at\":null,\"last_used_at\":\"2026-11-22T10:31:00Z\",\"models\":[\"a\",\"b\"]}],\"next\":\"\"}");
	assert_int_equal(corral("keys list --tenant=acme --all"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /keys?tenant=acme&all=true");
	assert_says("ID                NAME  ROLE  TENANT  CREATED     ENDS   USED              MODELS");
	assert_says("YyvEAUi7ojPzci2n  ci    user  acme    2026-11-21  never  2026-11-22T10:31  a, b");
	will_answer(200, "{\"keys\":[],\"next\":null}");
	assert_int_equal(corral("keys list"), EXIT_OK);
	assert_says("There are no keys.");
	will_answer(200, "{\"models\":[]}");
	assert_int_equal(corral("keys list"), EXIT_FAILED);
	assert_complains("is not Corral");
}

static const char tenants[] =
	"{\"name\":\"acme\",\"tenants\":[{\"name\":\"acme\",\"display_name\":\"Acme\",\"limits\":{\"requests_per_minute\":600,\"tokens_per_minute\":0,\"concurrency\":0},"
	"\"models\":[\"a*\"],\"suspended\":true,\"teams\":[\"red\"]}]}";

static const char a_limited_key[] =
	"{\"keys\":[{\"id\":\"other\",\"limits\":{\"requests_per_minute\":1}},{\"id\":\"YyvEAUi7ojPzci2n\",\"limits\":{\"requests_per_minute\":60,"
	"\"tokens_per_minute\":500,\"concurrency\":0}}],\"next\":null,\"key\":{\"id\":\"YyvEAUi7ojPzci2n\",\"limits\":{\"requests_per_minute\":9,"
	"\"tokens_per_minute\":0,\"concurrency\":4}}}";

static void limits_are_changed_in_part(void **state)
{
	will_answer(200, a_limited_key);
	assert_int_equal(corral("keys limit YyvEAUi7ojPzci2n"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /keys");
	assert_string_equal(said, "YyvEAUi7ojPzci2n: 60 requests a minute, 500 tokens a minute\n");
	assert_int_equal(corral("keys limit YyvEAUi7ojPzci2n --rpm 9 --concurrency=4"), EXIT_OK);
	assert_string_equal(gw.asked, "PUT /keys/YyvEAUi7ojPzci2n");
	assert_body("{\"limits\":{\"requests_per_minute\":9,\"tokens_per_minute\":500,\"concurrency\":4}}");
	assert_string_equal(said, "YyvEAUi7ojPzci2n: 9 requests a minute, 4 requests at once\n");
	assert_int_equal(corral("keys limit YyvEAUi7ojPzci2n --tokens-per-minute 0 --json"), EXIT_OK);
	assert_body("{\"limits\":{\"requests_per_minute\":60,\"tokens_per_minute\":0,\"concurrency\":0}}");
	assert_string_equal(said, "{\"id\":\"YyvEAUi7ojPzci2n\",\"limits\":{\"requests_per_minute\":9,\"tokens_per_minute\":0,\"concurrency\":4}}\n");
	assert_int_equal(corral("keys limit nobody --rpm 9"), EXIT_FAILED);
	assert_complains("there is no key 'nobody'");
	will_answer(200, tenants);
	assert_int_equal(corral("tenants limit acme --tpm 7"), EXIT_OK);
	assert_string_equal(gw.asked, "PUT /tenants/acme");
	assert_body("{\"display_name\":\"Acme\",\"models\":[\"a*\"],\"teams\":[\"red\"],\"suspended\":true,\"limits\":{\"requests_per_minute\":600,"
		    "\"tokens_per_minute\":7,\"concurrency\":0}}");
}

/* People paste the whole key: its secret must not be in a path, and so in logs. */
static void only_the_id_of_a_key_leaves(void **state)
{
	will_answer(201, a_new_key);
	assert_int_equal(corral("keys rotate corral^sk^YyvEAUi7ojPzci2n^EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS --overlap 7d"), EXIT_OK);
	assert_string_equal(gw.asked, "POST /keys/YyvEAUi7ojPzci2n/rotate");
	assert_body("{\"overlap_s\":604800}");
	will_answer(200, "{\"id\":\"YyvEAUi7ojPzci2n\",\"revoked\":true}");
	assert_int_equal(corral("keys revoke YyvEAUi7ojPzci2n"), EXIT_OK);
	assert_string_equal(gw.asked, "DELETE /keys/YyvEAUi7ojPzci2n");
	assert_string_equal(said, "YyvEAUi7ojPzci2n is revoked.\n");
	will_answer(404, "{\"success\":false,\"error\":\"there is no 'x' here\",\"error_code\":\"NOT_FOUND\"}");
	assert_int_equal(corral("keys revoke x"), EXIT_FAILED);
	assert_complains("there is no 'x' here");
}

static void a_generated_key_is_one(void **state)
{
	struct str id;

	assert_int_equal(corral("keys generate"), EXIT_OK);
	assert_int_equal(said[strlen(said) - 1], '\n');
	assert_true(apikey_parse(str_n(said, strlen(said) - 1), &id));
}

static void wrong_words_about_keys(void **state)
{
	static const struct { const char *words, *text; } cases[] = {
		{ "keys", "say what to do with keys" }, { "keys make", "not 'make'" }, { "keys list x", "one word too many" }, { "keys revoke", "needs the id" },
		{ "keys list --role user", "does not take all of these options" }, { "keys create --overlap 3d", "does not take all" },
		{ "keys create --role king", "there is no role 'king'" }, { "keys create --expires soon", "'soon' is no time" },
		{ "keys create --concurrency many", "'many' is not a number" }, { "keys rotate x --overlap long", "'long' is no length of time" },
		{ "keys limit", "needs the id" }, { "keys list --rpm 3", "does not take all" }, { "keys limit x --role user", "does not take all" },
		{ "tenants limit acme", "say which limit" }, { "tenants limit acme --rpm 3 --suspend", "takes limits only" },
		{ "tenants make", "not 'make'" }, { "tenants create", "needs a name" }, { "tenants set acme", "say what to set" },
		{ "tenants list --suspend", "none of these options" }, { "tenants set acme --suspend --resume", "exclude each other" },
		{ "audit check", "not 'check'" }, { "audit list --head 1:0", "are for audit verify" }, { "audit verify --actor x", "walks the whole log" },
		{ "audit verify --head 5", "not of the form SEQ:HASH" }, { "audit verify --head 0:00", "not of the form SEQ:HASH" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(corral(cases[i].words), EXIT_USAGE);
		assert_complains(cases[i].text);
	}
}

static void tenants_are_set_in_part(void **state)
{
	will_answer(200, tenants);
	assert_int_equal(corral("tenants"), EXIT_OK);
	assert_says("NAME  STATE      REQ/MIN  TOKENS/MIN  AT ONCE  MODELS  TEAMS  CALLED");
	assert_says("acme  suspended      600           -        -  a*      red    Acme");
	assert_int_equal(corral("tenants set acme --concurrency 4"), EXIT_OK);
	assert_string_equal(gw.asked, "PUT /tenants/acme");
	assert_body("{\"display_name\":\"Acme\",\"models\":[\"a*\"],\"teams\":[\"red\"],\"suspended\":true,"
		    "\"limits\":{\"requests_per_minute\":600,\"tokens_per_minute\":0,\"concurrency\":4}}");
	assert_int_equal(corral("tenants set acme --models - --resume --requests-per-minute 0"), EXIT_OK);
	assert_body("{\"display_name\":\"Acme\",\"models\":[],\"teams\":[\"red\"],\"suspended\":false,"
		    "\"limits\":{\"requests_per_minute\":0,\"tokens_per_minute\":0,\"concurrency\":0}}");
	assert_int_equal(corral("tenants create acme"), EXIT_FAILED);
	assert_complains("there is a tenant 'acme' already");
	assert_int_equal(corral("tenants set other --suspend"), EXIT_FAILED);
	assert_complains("there is no tenant 'other'");
	assert_int_equal(corral("tenants create new -d New_One"), EXIT_OK);
	assert_string_equal(gw.asked, "PUT /tenants/new");
	assert_body("{\"display_name\":\"New One\",\"models\":[],\"teams\":[],\"suspended\":false,"
		    "\"limits\":{\"requests_per_minute\":0,\"tokens_per_minute\":0,\"concurrency\":0}}");
	assert_int_equal(corral("tenants delete acme"), EXIT_OK);
	assert_string_equal(gw.asked, "DELETE /tenants/acme");
}

#define HASH "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void the_audit_log_is_shown(void **state)
{
	will_answer(200, "{\"entries\":[{\"seq\":7,\"at\":\"2026-11-21T09:00:00.123456Z\",\"actor\":\"loopback\",\"action\":\"keys.create\",\"object\":\"abc\","
			 "\"outcome\":\"refused\",\"detail\":\"{\\\"x\\\":1}\"}],\"next_seq\":7}");
	assert_int_equal(corral("audit --action keys.* --from 2026-11-01"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /audit?from=2026-11-01&action=keys.%2A");
	assert_says("7  2026-11-21T09:00:00  loopback  keys.create  abc     refused  {\"x\":1}");
	assert_says("corral audit --after 7");
}

static void a_broken_log_is_a_failure(void **state)
{
	will_answer(200, "{\"ok\":true,\"entries\":[{\"seq\":7,\"hash\":\"" HASH "\"}],\"broken_seq\":null,\"head\":\"\",\"text\":\"the log is whole\"}");
	assert_int_equal(corral("audit verify"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /audit/verify");
	assert_string_equal(said, "the log is whole\n");
	assert_int_equal(corral("audit verify --head 7:" HASH), EXIT_OK);
	assert_string_equal(gw.asked, "GET /audit?after=6");
	assert_int_equal(corral("audit verify --head 8:" HASH), EXIT_FAILED);
	assert_says("entry 8 is not the one whose hash was remembered");
	assert_int_equal(corral("audit verify --head 7:ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"), EXIT_FAILED);
	will_answer(200, "{\"ok\":false,\"entries\":3,\"broken_seq\":4,\"head\":\"\",\"text\":\"the chain breaks at entry 4\"}");
	assert_int_equal(corral("audit verify"), EXIT_FAILED);
	assert_string_equal(said, "the chain breaks at entry 4\n");
	assert_int_equal(corral("audit verify --json"), EXIT_FAILED);
	assert_int_equal(corral("audit verify --file /nowhere/access.db"), EXIT_FAILED);
	assert_complains("'/nowhere/access.db' cannot be read");
}

/* --- experiments --- */

static const char analysis[] =
	"{\"test_id\":\"t1\",\"state\":\"running\",\"metric\":\"success\",\"verdict\":\"no difference is sure yet\",\"sample_ratio_alarm\":true,"
	"\"arms\":[{\"arm\":\"a\",\"model\":\"m1\",\"units\":120,\"total_requests\":130,\"success_rate\":0.6,\"avg_latency_ms\":900.4,\"avg_rating\":null,"
	"\"avg_cost_microusd\":12,\"probability_best\":0.25,\"composite\":0.5},{\"arm\":\"b\",\"model\":\"m2\",\"units\":118}],"
	"\"comparisons\":[{\"arm\":\"b\",\"metric\":\"success\",\"estimate\":0.1,\"interval\":[-0.05,0.25],\"samples\":238,\"e_value\":3.5,\"expected_samples_left\":210,\"guard\":false},"
	"{\"arm\":\"b\",\"metric\":\"latency\",\"estimate\":null,\"interval\":[null,null],\"guard\":true,\"breached\":true}],"
	"\"history\":[{\"samples\":10,\"estimate\":null,\"interval\":[null,null]},{\"samples\":100,\"estimate\":0.2,\"interval\":[-0.3,0.7]}]}";

static void an_experiment_is_shown_with_its_picture(void **state)
{
	will_answer(200, analysis);
	assert_int_equal(corral("tests show t1"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /tests/t1/analysis");
	assert_says("running: no difference is sure yet\n");
	assert_says("60.0 %   900 ms       -  $0.000012  25.0 %");
	assert_says("+10.0      -5.0    +25.0  points of 100      3.5   210  -");
	assert_says("latency          -         -        -  %                    -     -  broken");
	assert_says("do not trust the comparison");
	assert_says("     25 |");
	assert_says("238 outcomes\n");
}

static void an_experiment_is_created_from_options(void **state)
{
	will_answer(201, "{\"id\":\"t1\",\"state\":\"running\"}");
	assert_int_equal(corral("tests create mine -a m1 -b m2 --traffic 20 --guards success:0.05,latency --task-type SQL --no-promote --days 7"), EXIT_OK);
	assert_string_equal(gw.asked, "POST /tests");
	assert_string_equal(buf_z(&gw.body), "{\"name\":\"mine\",\"model_a\":\"m1\",\"model_b\":\"m2\",\"task_type_filter\":\"SQL\",\"auto_promote\":false,"
			    "\"traffic_percent\":20,\"duration_days\":7,\"guards\":[{\"metric\":\"success\",\"margin\":0.05},\"latency\"]}");
	assert_says("t1 running\n");
	assert_int_equal(corral("tests create mine --arms [{\"model\":\"m1\"},{\"model\":\"m1\"}] --guards none"), EXIT_OK);
	assert_string_equal(buf_z(&gw.body), "{\"name\":\"mine\",\"guards\":[],\"arms\":[{\"model\":\"m1\"},{\"model\":\"m1\"}]}");
	assert_int_equal(corral("tests create mine --arms [{ --guards none"), EXIT_USAGE);
	assert_int_equal(corral("tests create mine -a m1"), EXIT_USAGE);
	assert_int_equal(corral("tests create mine -a m1 -b m2 --traffic much"), EXIT_USAGE);
	assert_int_equal(corral("tests create mine -a m1 -b m2 --guards success:x"), EXIT_USAGE);
}

static void experiments_are_listed_and_ended(void **state)
{
	will_answer(200, "{\"tests\":[{\"id\":\"t1\",\"name\":\"mine\",\"state\":\"rolled_back\",\"model_a\":\"m1\",\"model_b\":\"m2\",\"traffic_percent\":10,"
		    "\"reason\":\"a guard broke\"}],\"champions\":[]}");
	assert_int_equal(corral("tests --running"), EXIT_OK);
	assert_string_equal(gw.asked, "GET /tests?running=true");
	assert_says("t1    mine  rolled_back  answers  m1  m2  all      10 %  a guard broke");
	will_answer(200, "{\"id\":\"t1\",\"state\":\"promoted\",\"reason\":\"said so\"}");
	assert_int_equal(corral("tests promote t1 --arm b --reason said_so"), EXIT_OK);
	assert_string_equal(gw.asked, "POST /tests/t1/promote");
	assert_string_equal(buf_z(&gw.body), "{\"arm\":\"b\",\"reason\":\"said so\"}");
	assert_says("t1 promoted: said so\n");
	will_answer(200, "{\"tests\":[]}");
	assert_int_equal(corral("tests"), EXIT_OK);
	assert_says("There are no experiments");
	assert_int_equal(corral("tests begin"), EXIT_USAGE);
	assert_int_equal(corral("tests stop"), EXIT_USAGE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown_words_get_the_nearest),
		cmocka_unit_test(options_stand_anywhere),
		cmocka_unit_test(models_are_changed_by_jobs), cmocka_unit_test(the_first_models_are_pulled_after_a_yes),
		cmocka_unit_test(jobs_are_listed_watched_and_cancelled),
		cmocka_unit_test(help_and_version),
		cmocka_unit_test(no_line_of_help_is_wider_than_100),
		cmocka_unit_test(the_key_is_sent_as_bearer),
		cmocka_unit_test(the_address_is_read_kindly),
		cmocka_unit_test(nobody_there_is_status_3),
		cmocka_unit_test(other_answers_are_said),
		cmocka_unit_test(columns_are_as_wide_as_their_cells),
		cmocka_unit_test(only_columns_that_may_are_cut),
		cmocka_unit_test(models_as_a_table),
		cmocka_unit_test(status_at_a_glance),
		cmocka_unit_test(usage_as_a_table),
		cmocka_unit_test(explanations_as_tables),
		cmocka_unit_test(an_answer_is_shown_and_summed_up),
		cmocka_unit_test(input_is_a_question_too),
		cmocka_unit_test(json_is_one_object),
		cmocka_unit_test(a_terminal_is_not_commanded),
		cmocka_unit_test(thoughts_are_for_people),
		cmocka_unit_test(what_broke_is_never_a_success),
		cmocka_unit_test(ctrl_c_ends_the_answer),
		cmocka_unit_test(turns_are_remembered),
		cmocka_unit_test(commands_begin_with_a_slash),
		cmocka_unit_test(settings_are_read_back),
		cmocka_unit_test(a_full_disk_is_a_failure),
		cmocka_unit_test(a_key_is_printed_alone),
		cmocka_unit_test(unused_models_are_proposed), cmocka_unit_test(keys_are_listed), cmocka_unit_test(limits_are_changed_in_part),
		cmocka_unit_test(only_the_id_of_a_key_leaves),
		cmocka_unit_test(a_generated_key_is_one),
		cmocka_unit_test(wrong_words_about_keys),
		cmocka_unit_test(tenants_are_set_in_part),
		cmocka_unit_test(the_audit_log_is_shown),
		cmocka_unit_test(a_broken_log_is_a_failure),
		cmocka_unit_test(an_experiment_is_shown_with_its_picture), cmocka_unit_test(an_experiment_is_created_from_options),
		cmocka_unit_test(experiments_are_listed_and_ended),
	};

	clock_init();
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, start_gateway, stop_gateway);
}
