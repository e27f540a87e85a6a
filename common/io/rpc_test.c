/* rpc_test.c - calls between loops and processes: many, late, refused, garbled, too large, and ends that go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/io/rpc.h"
#include "common/io/wire.h"
#include "facts.pb-c.h"
#include "rpc.pb-c.h"

/* --- the service under test: Cursor answers position + 1, Ingest keeps its closure --- */

struct kept { Corral__FactAck_Closure closure; void *data; };

static struct kept kept[64];
static char asked_for[64];
static unsigned n_kept;

static void echo_cursor(Corral__Facts_Service *service, const Corral__FactCursor *input, Corral__FactAck_Closure closure, void *data)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	(void)str_copy(asked_for, sizeof(asked_for), str_of(rpc_request_id(data)));
	if (!strcmp(input->topic, "fail")) {
		rpc_fail(data, ERR_CONFLICT, "as you wish");
		return;
	}
	ack.position = input->position + 1;
	closure(&ack, data);
}

static void echo_ingest(Corral__Facts_Service *service, const Corral__FactBatch *input, Corral__FactAck_Closure closure, void *data)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	if (!strcmp(input->topic, "size")) {
		ack.position = input->n_records ? input->records[0].len : 0;
		closure(&ack, data);
		return;
	}
	assert_true(n_kept < sizeof kept / sizeof *kept);
	kept[n_kept++] = (struct kept){ closure, data };
}

static struct kept muted[64];
static unsigned n_muted;

static void mute_cursor(Corral__Facts_Service *service, const Corral__FactCursor *input, Corral__FactAck_Closure closure, void *data)
{
	assert_true(n_muted < sizeof muted / sizeof *muted);
	muted[n_muted++] = (struct kept){ closure, data };
}

/* Their server is gone: nothing happens, but each has to be ended. */
static void end_muted(void)
{
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	while (n_muted) {
		n_muted--;
		muted[n_muted].closure(&ack, muted[n_muted].data);
	}
}

static Corral__Facts_Service echo = CORRAL__FACTS__INIT(echo_);

/* --- what the caller sees --- */

struct seen {
	struct loop *loop;
	struct rpc_client *client;
	unsigned wanted, answers, failures;
	uint64_t sum;
	struct why why;
	bool in_stub, free_client;
};

static void on_ack(const Corral__FactAck *ack, void *arg)
{
	struct seen *seen = arg;

	assert_false(seen->in_stub);
	if (ack) {
		seen->answers++;
		seen->sum += ack->position;
	} else {
		seen->failures++;
		seen->why = *rpc_error(seen->client);
	}
	if (seen->free_client) {
		rpc_client_free(seen->client);
		seen->client = NULL;
	}
	if (seen->answers + seen->failures >= seen->wanted)
		loop_stop(seen->loop);
}

static void ask(struct seen *seen, const char *topic, uint64_t position)
{
	Corral__FactCursor cursor = CORRAL__FACT_CURSOR__INIT;

	cursor.topic = (char *)topic;
	cursor.position = position;
	seen->in_stub = true;
	corral__facts__cursor(rpc_stub(seen->client, &corral__facts__descriptor), &cursor, on_ack, seen);
	seen->in_stub = false;
}

static void ingest(struct seen *seen, const char *topic, size_t bytes)
{
	Corral__FactBatch batch = CORRAL__FACT_BATCH__INIT;
	ProtobufCBinaryData record = { bytes, x_calloc(1, bytes + 1) };

	batch.topic = (char *)topic;
	batch.records = &record;
	batch.n_records = 1;
	seen->in_stub = true;
	corral__facts__ingest(rpc_stub(seen->client, &corral__facts__descriptor), &batch, on_ack, seen);
	seen->in_stub = false;
	free(record.data);
}

struct alarm { struct loop_timer timer; bool rang; };

static void on_alarm(struct loop_timer *timer)
{
	list_entry(timer, struct alarm, timer)->rang = true;
	loop_stop(timer->loop);
}

/* Runs the loop until somebody stops it or the time is over. */
static bool run_for(struct loop *loop, int64_t ms)
{
	struct alarm alarm = { 0 };

	loop_timer_set(loop, &alarm.timer, ms * 1000, on_alarm);
	loop_run(loop);
	loop_timer_del(&alarm.timer);
	return !alarm.rang;
}

static struct rpc_server *serve(struct loop *loop, const char *url)
{
	struct why why = { 0 };
	struct rpc_server *server = rpc_server_new(loop, url, &why);

	if (!server)
		fail_msg("%s", why.text);
	rpc_server_add(server, &echo.base);
	return server;
}

static struct seen caller(struct loop *loop, const char *url, unsigned wanted)
{
	return (struct seen){ .loop = loop, .client = rpc_client_new(loop, url), .wanted = wanted };
}

/* Of this process, so that two runs do not meet. */
static char urls[5][64];

static void make_urls(void)
{
	unsigned port = 20000 + (unsigned)getpid() % 3000 * 4;

	(void)snprintf(urls[0], sizeof urls[0], "inproc://rpc-test");
	(void)snprintf(urls[1], sizeof urls[1], "tcp://127.0.0.1:%u", port);
	(void)snprintf(urls[2], sizeof urls[2], "ipc:///tmp/corral-rpc-test-%d.sock", (int)getpid());
	(void)snprintf(urls[3], sizeof urls[3], "tcp://127.0.0.1:%u", port + 1);
	(void)snprintf(urls[4], sizeof urls[4], "tcp://127.0.0.1:%u", port + 2);
}

static void answers_many_calls_at_once(void **state)
{
	for (size_t u = 0; u < 3; u++) {
		struct loop *loop = loop_new();
		struct rpc_server *server = serve(loop, urls[u]);
		struct seen seen = caller(loop, urls[u], 500);

		for (unsigned i = 0; i < 500; i++)
			ask(&seen, "t", i);
		assert_true(run_for(loop, 10000));
		assert_int_equal(seen.answers, 500);
		assert_int_equal(seen.sum, 500 * 499 / 2 + 500);
		assert_true(rpc_connected(seen.client));
		rpc_client_free(seen.client);
		rpc_server_free(server);
		end_muted();
		loop_free(loop);
	}
}

static void carries_whose_request_it_is(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[0]);
	struct seen seen = caller(loop, urls[0], 1);
	static const char *const ids[] = { "", "01a1fe13-37df-71b7-b437-cc3d29a2af23", "" };

	for (size_t i = 0; i < 3; i++) {
		rpc_asked_for(seen.client, ids[i]);
		(void)snprintf(asked_for, sizeof asked_for, "not asked");
		seen.answers = 0;
		ask(&seen, "t", 1);
		assert_true(run_for(loop, 10000));
		assert_string_equal(asked_for, ids[i]);
	}
	rpc_client_free(seen.client);
	rpc_server_free(server);
	loop_free(loop);
}

static void keeps_closures_beyond_the_first_seats(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[0]);
	struct seen seen = caller(loop, urls[0], 1);

	n_kept = 0;
	for (unsigned i = 0; i < 60; i++)
		ingest(&seen, "keep", 10);
	ask(&seen, "t", 1);
	assert_true(run_for(loop, 5000));     /* the quick call is answered behind 60 slow ones */
	assert_int_equal(seen.answers, 1);
	while (n_kept < 60)
		(void)run_for(loop, 10);
	seen.wanted = 61;
	for (unsigned i = 0; i < 60; i++) {
		Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

		kept[i].closure(&ack, kept[i].data);
	}
	assert_true(run_for(loop, 5000));
	assert_int_equal(seen.answers, 61);
	rpc_client_free(seen.client);
	rpc_server_free(server);
	loop_free(loop);
}

static void tells_what_the_method_refused(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[1]);
	struct seen seen = caller(loop, urls[1], 1);

	ask(&seen, "fail", 1);
	assert_true(run_for(loop, 5000));
	assert_int_equal(seen.why.code, ERR_CONFLICT);
	assert_string_equal(seen.why.text, "as you wish");
	rpc_client_free(seen.client);
	rpc_server_free(server);
	loop_free(loop);
}

static void ends_calls_at_their_deadline(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[0]);
	struct seen seen = caller(loop, urls[0], 1);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	int64_t start = mono_ms();

	n_kept = 0;
	rpc_deadline(seen.client, 120);
	ingest(&seen, "keep", 1);
	assert_true(run_for(loop, 5000));
	assert_in_range(mono_ms() - start, 100, 1000);
	assert_int_equal(seen.failures, 1);
	assert_int_equal(seen.why.code, ERR_DEADLINE);

	/* A late reply is nobody's; the next call gets its own. */
	kept[0].closure(&ack, kept[0].data);
	seen.wanted = 2;
	rpc_deadline(seen.client, 2000);
	ask(&seen, "t", 41);
	assert_true(run_for(loop, 5000));
	assert_int_equal(seen.sum, 42);
	rpc_client_free(seen.client);
	rpc_server_free(server);
	loop_free(loop);
}

/* Every closure runs once, whichever of answer and deadline is first, and the calls that follow are not hit. */
static void survives_deadlines_that_race_with_answers(void **state)
{
	for (size_t u = 0; u < 2; u++) {
		struct loop *loop = loop_new();
		struct rpc_server *server = serve(loop, urls[u]);
		struct seen seen = caller(loop, urls[u], 0);

		for (unsigned round = 0; round < 100; round++) {
			seen.wanted += 40;
			rpc_deadline(seen.client, 1);
			for (unsigned i = 0; i < 39; i++)
				ask(&seen, "t", i);
			rpc_deadline(seen.client, 5000);
			ask(&seen, "t", 1);
			assert_true(run_for(loop, 10000));
		}
		assert_int_equal(seen.answers + seen.failures, 4000);
		assert_true(seen.answers >= 100);
		if (seen.failures)
			assert_true(seen.why.code == ERR_DEADLINE || seen.why.code == ERR_UNAVAILABLE);
		rpc_client_free(seen.client);
		rpc_server_free(server);
		end_muted();
		loop_free(loop);
	}
}

static void says_unavailable_when_nobody_is_there(void **state)
{
	struct loop *loop = loop_new();
	struct seen seen = caller(loop, urls[3], 1);

	rpc_deadline(seen.client, 100);
	ask(&seen, "t", 1);
	assert_true(run_for(loop, 5000));
	assert_int_equal(seen.why.code, ERR_UNAVAILABLE);
	assert_false(rpc_connected(seen.client));
	rpc_client_free(seen.client);
	loop_free(loop);
}

static void finds_a_server_that_dies_and_comes_back(void **state)
{
	for (size_t u = 0; u < 2; u++) {
		struct loop *loop = loop_new();
		struct rpc_server *server = serve(loop, urls[u]);
		struct seen seen = caller(loop, urls[u], 1);
		Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

		n_kept = 0;
		ingest(&seen, "keep", 1);
		while (n_kept == 0)
			(void)run_for(loop, 5);
		rpc_server_free(server);
		assert_true(run_for(loop, 2000));         /* well before the deadline */
		assert_int_equal(seen.why.code, ERR_UNAVAILABLE);
		kept[0].closure(&ack, kept[0].data);      /* the method's end comes too late: nothing happens */

		seen.wanted = 2;
		ask(&seen, "t", 6);
		(void)run_for(loop, 50);
		server = serve(loop, urls[u]);
		assert_true(run_for(loop, 5000));
		assert_int_equal(seen.sum, 7);
		rpc_client_free(seen.client);
		rpc_server_free(server);
		end_muted();
		loop_free(loop);
	}
}

static void refuses_what_is_too_large(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[1]);
	struct seen seen = caller(loop, urls[1], 1);

	ingest(&seen, "size", 17 << 20);
	assert_true(run_for(loop, 5000));
	assert_int_equal(seen.why.code, ERR_TOO_LARGE);

	seen.wanted = 2;
	ingest(&seen, "size", 15 << 20);
	assert_true(run_for(loop, 5000));
	assert_int_equal(seen.sum, 15 << 20);
	rpc_client_free(seen.client);
	rpc_server_free(server);
	loop_free(loop);
}

static void runs_pending_closures_when_freed(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[0]);
	struct seen seen = caller(loop, urls[0], 1000);

	n_kept = 0;
	for (unsigned i = 0; i < 40; i++)
		ingest(&seen, "keep", 1);
	ingest(&seen, "keep", 17 << 20);      /* refused, not yet told */
	(void)run_for(loop, 30);
	rpc_client_free(seen.client);
	assert_int_equal(seen.failures, 41);
	assert_int_equal(seen.why.code, seen.why.code == ERR_TOO_LARGE ? ERR_TOO_LARGE : ERR_UNAVAILABLE);
	for (unsigned i = 0; i < n_kept; i++) {
		Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

		if (i % 2)
			kept[i].closure(&ack, kept[i].data);
		else
			rpc_fail(kept[i].data, ERR_INTERNAL, "too late");
	}
	(void)run_for(loop, 30);
	rpc_server_free(server);
	loop_free(loop);
}

static void lets_a_closure_free_its_client(void **state)
{
	for (int late = 0; late < 2; late++) {
		struct loop *loop = loop_new();
		struct rpc_server *server = serve(loop, urls[0]);
		struct seen seen = caller(loop, urls[0], 1);

		seen.free_client = true;
		rpc_deadline(seen.client, late ? 30 : 2000);
		if (late)
			ingest(&seen, "keep", 1);
		else
			ask(&seen, "t", 1);
		assert_true(run_for(loop, 5000));
		assert_int_equal(seen.answers + seen.failures, 1);
		rpc_server_free(server);
		for (unsigned i = 0; late && i < n_kept; i++)
			rpc_fail(kept[i].data, ERR_INTERNAL, "too late");
		n_kept = 0;
		loop_free(loop);
	}
}

/* --- peers that do not speak the protocol --- */

static void stop_loop(void *arg) { loop_stop(arg); }

struct raw { nng_socket socket; nng_aio *aio; struct loop *loop; bool sent; };

static void raw_moved(void *arg)
{
	struct raw *raw = arg;

	if (!raw->sent && nng_aio_result(raw->aio) == 0) {
		raw->sent = true;
		nng_recv_aio(raw->socket, raw->aio);
		return;
	}
	loop_post(raw->loop, stop_loop, raw->loop);
}

/* Sends the bytes as one request and gives the error code and call id of what comes back. */
static uint32_t raw_ask(struct loop *loop, const char *url, const void *bytes, size_t n, uint64_t *ret_call_id)
{
	struct raw raw = { .loop = loop };
	Corral__RpcReply *reply;
	uint32_t error;
	nng_msg *msg;

	assert_int_equal(nng_req0_open(&raw.socket), 0);
	assert_int_equal(nng_dial(raw.socket, url, NULL, 0), 0);
	assert_int_equal(nng_aio_alloc(&raw.aio, raw_moved, &raw), 0);
	assert_int_equal(nng_msg_alloc(&msg, 0), 0);
	assert_int_equal(nng_msg_append(msg, bytes, n), 0);
	nng_aio_set_msg(raw.aio, msg);
	nng_send_aio(raw.socket, raw.aio);
	assert_true(run_for(loop, 5000));
	nng_aio_wait(raw.aio);
	msg = nng_aio_get_msg(raw.aio);
	reply = corral__rpc_reply__unpack(NULL, nng_msg_len(msg), nng_msg_body(msg));
	assert_non_null(reply);
	error = reply->error;
	*ret_call_id = reply->call_id;
	corral__rpc_reply__free_unpacked(reply, NULL);
	nng_msg_free(msg);
	nng_aio_free(raw.aio);
	nng_close(raw.socket);
	return error;
}

static uint32_t raw_envelope(struct loop *loop, const char *service, uint32_t method, const char *body, size_t n)
{
	Corral__RpcRequest request = CORRAL__RPC_REQUEST__INIT;
	uint8_t bytes[256];
	uint64_t call_id;
	uint32_t error;

	request.call_id = 77;
	request.service = (char *)service;
	request.method = method;
	request.body.data = (uint8_t *)body;
	request.body.len = n;
	error = raw_ask(loop, urls[1], bytes, corral__rpc_request__pack(&request, bytes), &call_id);
	assert_int_equal(call_id, 77);
	return error;
}

static void answers_garbage_with_errors(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[1]);
	uint64_t call_id;

	assert_int_equal(raw_ask(loop, urls[1], "\xff\xff\xff garbage", 11, &call_id), ERR_MALFORMED);
	assert_int_equal(raw_ask(loop, urls[1], "", 0, &call_id), ERR_NOT_IMPLEMENTED);
	assert_int_equal(raw_envelope(loop, "corral.Nobody", 0, "", 0), ERR_NOT_IMPLEMENTED);
	assert_int_equal(raw_envelope(loop, "corral.Facts", 2, "", 0), ERR_NOT_IMPLEMENTED);
	assert_int_equal(raw_envelope(loop, "corral.Facts", 0, "\x0a\xff", 2), ERR_MALFORMED);
	rpc_server_free(server);
	loop_free(loop);
}

static void survives_a_server_that_answers_garbage(void **state)
{
	struct loop *loop = loop_new();
	struct seen seen = caller(loop, urls[1], 1);
	nng_socket rep;
	nng_msg *msg;

	assert_int_equal(nng_rep0_open(&rep), 0);
	assert_int_equal(nng_listen(rep, urls[1], NULL, 0), 0);
	ask(&seen, "t", 1);
	assert_int_equal(nng_recvmsg(rep, &msg, 0), 0);
	nng_msg_clear(msg);
	nng_msg_append(msg, "\xff\xfe", 2);
	assert_int_equal(nng_sendmsg(rep, msg, 0), 0);
	assert_true(run_for(loop, 5000));
	assert_int_equal(seen.why.code, ERR_MALFORMED);
	rpc_client_free(seen.client);
	nng_close(rep);
	loop_free(loop);
}

static void says_why_it_cannot_listen(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[1]);
	struct why why = { 0 };

	assert_null(rpc_server_new(loop, urls[1], &why));
	assert_int_equal(why.code, ERR_UNAVAILABLE);
	assert_non_null(strstr(why.text, urls[1]));
	assert_null(rpc_server_new(loop, "nonsense", &why));
	rpc_server_free(server);
	loop_free(loop);
}

/* --- another process: kill -9 --- */

static int serve_forever(const char *url)
{
	struct loop *loop = loop_new();

	(void)serve(loop, url);
	loop_run(loop);
	return 0;
}

static pid_t spawn_server(const char *url)
{
	pid_t pid = fork();

	if (pid == 0) {
		execl("/proc/self/exe", "rpc_test", "serve", url, (char *)NULL);
		_exit(127);
	}
	return pid;
}

/* On a busy machine the process is not there yet when the first call's time is up. */
static void ask_until_there(struct seen *seen, uint64_t sum)
{
	for (int i = 0; i < 30 && seen->sum < sum; i++) {
		seen->wanted = seen->answers + seen->failures + 1;
		ask(seen, "t", 1);
		assert_true(run_for(seen->loop, 5000));
	}
	assert_int_equal(seen->sum, sum);
}

static void notices_a_killed_process_at_once(void **state)
{
	const char *url = urls[4];
	struct loop *loop = loop_new();
	struct seen seen = caller(loop, url, 1);
	pid_t pid = spawn_server(url);
	int64_t start;

	ask_until_there(&seen, 2);
	seen.wanted = seen.answers + seen.failures + 1;
	ingest(&seen, "keep", 1);
	(void)run_for(loop, 50);
	kill(pid, SIGKILL);
	start = mono_ms();
	assert_true(run_for(loop, 4000));
	assert_in_range(mono_ms() - start, 0, 1900);
	assert_int_equal(seen.why.code, ERR_UNAVAILABLE);
	(void)waitpid(pid, NULL, 0);

	pid = spawn_server(url);
	ask_until_there(&seen, 4);
	kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	rpc_client_free(seen.client);
	loop_free(loop);
}

/* Of two addresses one keeps every call for ever: the other is asked, within the deadline. One call at a time, for nng gives turns. */
static void asks_another_when_one_is_silent(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *silent = rpc_server_new(loop, "inproc://tries-silent", NULL), *good = serve(loop, "inproc://tries-good");
	struct seen seen = caller(loop, "inproc://tries-silent,inproc://tries-good", 1);
	Corral__Facts_Service mute = CORRAL__FACTS__INIT(echo_);

	mute.cursor = mute_cursor;
	rpc_server_add(silent, &mute.base);
	(void)run_for(loop, 100);
	(void)rpc_deadline(seen.client, 2000);
	for (int i = 1; i <= 4; i++) {
		seen.wanted = i;
		rpc_tries(seen.client, 4);
		ask(&seen, "t", 1);
		assert_true(run_for(loop, 8000));
		assert_int_equal(seen.answers, i);
	}
	assert_true(n_muted > 0);
	rpc_client_free(seen.client);
	rpc_server_free(silent);
	rpc_server_free(good);
	end_muted();
	loop_free(loop);
}

struct server_end { struct loop_timer timer; struct rpc_server **server; const char *url; struct loop *loop; };

static void replace_server(struct loop_timer *timer)
{
	struct server_end *end = list_entry(timer, struct server_end, timer);

	rpc_server_free(*end->server);
	*end->server = serve(end->loop, end->url);
}

/* The connection breaks under a call: it is sent again to the one that comes instead; without leave it is not. */
static void sends_again_when_the_connection_breaks(void **state)
{
	for (unsigned tries = 1; tries <= 2; tries++) {
		struct loop *loop = loop_new();
		struct rpc_server *server = rpc_server_new(loop, urls[0], NULL);
		struct seen seen = caller(loop, urls[0], 1);
		struct server_end end = { .server = &server, .url = urls[0], .loop = loop };
		Corral__Facts_Service mute = CORRAL__FACTS__INIT(echo_);

		assert_non_null(server);
		mute.cursor = mute_cursor;
		rpc_server_add(server, &mute.base);
		(void)run_for(loop, 100);
		loop_timer_set(loop, &end.timer, 100 * 1000, replace_server);
		rpc_tries(seen.client, tries);
		ask(&seen, "t", 1);
		assert_true(run_for(loop, 8000));
		assert_int_equal(seen.answers, tries - 1);
		assert_int_equal(seen.failures, 2 - tries);
		rpc_client_free(seen.client);
		rpc_server_free(server);
		end_muted();
		loop_free(loop);
	}
}

/* --- who hangs up in the middle of the greeting --- */

static int plain_socket(struct sockaddr_un *ret)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	(void)snprintf(ret->sun_path, sizeof ret->sun_path, "/tmp/corral-rpc-test-%d.sock", (int)getpid());       /* urls[2] */
	assert_true(fd >= 0);
	return fd;
}

/* Asks until there is an answer. */
static void answered_at_last(struct loop *loop, struct seen *seen)
{
	(void)rpc_deadline(seen->client, 500);
	for (int64_t end = mono_ms() + 60000; seen->answers == 0; seen->wanted = seen->answers + seen->failures + 1) {
		assert_true(mono_ms() < end);
		ask(seen, "t", 1);
		(void)run_for(loop, 2000);
	}
}

static void accepts_others_after_some_that_hung_up(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server = serve(loop, urls[2]);
	struct sockaddr_un to;
	struct seen seen;

	for (int i = 0; i < 200; i++) {
		int fd = plain_socket(&to);

		assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
		close(fd);
	}
	(void)run_for(loop, 100);
	seen = caller(loop, urls[2], 1);
	answered_at_last(loop, &seen);
	rpc_client_free(seen.client);
	rpc_server_free(server);
	end_muted();
	loop_free(loop);
}

static void dials_again_after_one_that_hung_up(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *server;
	struct sockaddr_un at;
	int fd = plain_socket(&at);
	struct seen other = caller(loop, urls[1], 1), seen;   /* other: a dialer before it, which finds nobody */

	(void)unlink(at.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(fd, 8), 0);
	seen = caller(loop, urls[2], 1);
	for (int i = 0; i < 50; i++) {            /* until it gave up: then nobody comes */
		struct pollfd p = { .fd = fd, .events = POLLIN };

		if (poll(&p, 1, 1000) <= 0)
			break;
		close(accept(fd, NULL, NULL));
	}
	close(fd);
	(void)unlink(at.sun_path);
	server = serve(loop, urls[2]);
	answered_at_last(loop, &seen);
	rpc_client_free(other.client);
	rpc_client_free(seen.client);
	rpc_server_free(server);
	end_muted();
	loop_free(loop);
}

/* --- one that leaves as it should --- */

struct came { uint64_t accepted, rejected; };

static struct came came(void)
{
	struct came n = { 0 };
	nng_stat *all;

	assert_int_equal(nng_stats_get(&all), 0);
	for (nng_stat *end = nng_stat_child(all); end; end = nng_stat_next(end))
		for (nng_stat *s = strcmp(nng_stat_name(end), "listener") ? NULL : nng_stat_child(end); s; s = nng_stat_next(s)) {
			n.accepted += strcmp(nng_stat_name(s), "accept") == 0 ? nng_stat_value(s) : 0;
			n.rejected += strcmp(nng_stat_name(s), "reject") == 0 ? nng_stat_value(s) : 0;
		}
	nng_stats_free(all);
	return n;
}

static unsigned open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Where a subscriber was and left, over ipc and tcp, the publisher's end is tried once, by a connection of its own, and then there is quiet. */
static void quiet_after_one_that_left(void **state)
{
	struct loop *loop = loop_new();
	struct rpc_server *other = serve(loop, urls[1]);      /* a listener before them: each is to be known by its own figures */
	struct why why;
	nng_socket pub[2], sub[2];
	struct wire *wire[2];
	struct came before, after;
	unsigned files;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(nng_pub0_open(&pub[i]), 0);
		assert_non_null(wire[i] = wire_listen(loop, pub[i], urls[2 + i], &why));
	}
	(void)run_for(loop, 100);
	files = open_files();
	for (int i = 0; i < 2; i++) {
		assert_int_equal(nng_sub0_open(&sub[i]), 0);
		assert_int_equal(nng_dial(sub[i], urls[2 + i], NULL, 0), 0);
	}
	(void)run_for(loop, 300);
	for (int i = 0; i < 2; i++)
		assert_int_equal(nng_close(sub[i]), 0);
	(void)run_for(loop, 7000);                /* the turns in which it is tried, and let go */
	before = came();
	(void)run_for(loop, 5000);
	after = came();
	assert_int_equal(before.accepted, 4);
	assert_int_equal(after.accepted, before.accepted);
	assert_int_equal(after.rejected, 0);
	assert_true(open_files() <= files);
	for (int i = 0; i < 2; i++) {
		wire_free(wire[i]);
		assert_int_equal(nng_close(pub[i]), 0);
	}
	rpc_server_free(other);
	loop_free(loop);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quiet_after_one_that_left),
		cmocka_unit_test(accepts_others_after_some_that_hung_up), cmocka_unit_test(dials_again_after_one_that_hung_up),
		cmocka_unit_test(answers_many_calls_at_once),
		cmocka_unit_test(carries_whose_request_it_is),
		cmocka_unit_test(keeps_closures_beyond_the_first_seats),
		cmocka_unit_test(tells_what_the_method_refused),
		cmocka_unit_test(ends_calls_at_their_deadline),
		cmocka_unit_test(survives_deadlines_that_race_with_answers),
		cmocka_unit_test(says_unavailable_when_nobody_is_there),
		cmocka_unit_test(finds_a_server_that_dies_and_comes_back),
		cmocka_unit_test(refuses_what_is_too_large),
		cmocka_unit_test(runs_pending_closures_when_freed),
		cmocka_unit_test(lets_a_closure_free_its_client),
		cmocka_unit_test(answers_garbage_with_errors),
		cmocka_unit_test(survives_a_server_that_answers_garbage),
		cmocka_unit_test(says_why_it_cannot_listen),
		cmocka_unit_test(asks_another_when_one_is_silent),
		cmocka_unit_test(sends_again_when_the_connection_breaks),
		cmocka_unit_test(notices_a_killed_process_at_once),
	};

	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve_forever(argv[2]);
	make_urls();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
