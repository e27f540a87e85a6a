/* wire_test.c - TLS between services and names with addresses: whom a server answers, whom a client believes, files that change.
 *
 * The server is a process of its own with its own files; the certificates are made by openssl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/io/rpc.h"
#include "common/io/wire_tls.h"
#include "rpc.pb-c.h"

static char dir[] = "/tmp/corral-wire-test.XXXXXX";
static char url[64], named[64], plain[64];

/* --- the server, in a process of its own --- */

static void pong_ping(Corral__Peer_Service *service, const Corral__PingRequest *request, Corral__PingReply_Closure closure, void *data)
{
	Corral__PingReply reply = CORRAL__PING_REPLY__INIT;

	closure(&reply, data);
}

static struct wire_tls_files files_of(const char *ca, const char *who)
{
	static char paths[8][160];
	static unsigned n;
	char *a = paths[n++ % 8], *b = paths[n++ % 8], *c = paths[n++ % 8];

	snprintf(a, sizeof paths[0], "%s/%s.ca.pem", dir, ca);
	snprintf(b, sizeof paths[0], "%s/%s.pem", dir, who);
	snprintf(c, sizeof paths[0], "%s/%s.key", dir, who);
	return (struct wire_tls_files){ a, b, c };
}

static int serve(const char *at, const char *where)
{
	Corral__Peer_Service pong = CORRAL__PEER__INIT(pong_);
	struct loop *loop = loop_new();
	struct wire_tls_files files;
	struct rpc_server *server;
	struct why why;

	snprintf(dir, sizeof dir, "%s", where);
	files = files_of("server", "server");
	if (wire_tls_set(&files, &why) || !(server = rpc_server_new(loop, at, &why))) {
		fprintf(stderr, "%s\n", why.text);
		return 1;
	}
	rpc_server_add(server, &pong.base);
	if (write(1, "+", 1) != 1)
		return 1;
	loop_run(loop);
	return 0;
}

static pid_t server;                  /* 0 = none */

static void launch(const char *at)
{
	int to[2];
	char c;

	assert_int_equal(pipe(to), 0);
	server = fork();
	if (server == 0) {
		(void)dup2(to[1], 1);
		(void)execl("/proc/self/exe", "wire_test", "--serve", at, dir, (char *)NULL);
		_exit(1);
	}
	(void)close(to[1]);
	assert_int_equal(read(to[0], &c, 1), 1);
	(void)close(to[0]);
}

/* After a test that failed too. */
static int end_server(void **state)
{
	if (server > 0) {
		(void)kill(server, SIGKILL);
		(void)waitpid(server, NULL, 0);
	}
	server = 0;
	return 0;
}

/* --- certificates --- */

static void sh(const char *fmt, ...)
{
	char cmd[2000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof cmd, fmt, ap);
	va_end(ap);
	if (system(cmd) != 0)
		fail_msg("%s", cmd);
}

/* An authority, and a certificate of it for 'name'. */
static void make_ca(const char *ca)
{
	sh("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=%s -keyout %s.ca.key -out %s.ca.pem 2>/dev/null",
	   dir, ca, ca, ca);
}

static void make_cert(const char *ca, const char *who, const char *name)
{
	sh("cd %s && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=%s -keyout %s.key -out %s.csr 2>/dev/null && "
	   "printf 'subjectAltName=%s' >%s.ext && openssl x509 -req -in %s.csr -CA %s.ca.pem -CAkey %s.ca.key -CAcreateserial -days 2 -extfile %s.ext "
	   "-out %s.pem.new 2>/dev/null && mv %s.pem.new %s.pem",
	   dir, who, who, who, name, who, who, ca, ca, who, who, who, who);
}

static int make_all(void **state)
{
	assert_non_null(mkdtemp(dir));
	make_ca("server");
	make_ca("stranger");
	make_cert("server", "server", "DNS:localhost");
	make_cert("server", "client", "DNS:client");
	make_cert("stranger", "stranger", "DNS:localhost");
	return 0;
}

static int remove_all(void **state)
{
	sh("rm -rf %s", dir);
	return 0;
}

/* --- the client --- */

struct asked { struct loop *loop; bool done, answered; };

static void on_pong(const Corral__PingReply *reply, void *arg)
{
	struct asked *asked = arg;

	asked->done = true;
	asked->answered = reply != NULL;
	loop_stop(asked->loop);
}

static bool ping(struct loop *loop, struct rpc_client *client, int64_t ms)
{
	Corral__PingRequest request = CORRAL__PING_REQUEST__INIT;
	struct asked asked = { .loop = loop };

	(void)rpc_deadline(client, ms);
	corral__peer__ping(rpc_stub(client, &corral__peer__descriptor), &request, on_pong, &asked);
	loop_run(loop);
	return asked.answered;
}

static bool reaches(const char *at, const char *ca, const char *who, int64_t ms)
{
	struct loop *loop = loop_new();
	struct wire_tls_files files = files_of(ca, who);
	struct rpc_client *client;
	struct why why = { 0 };
	bool answered;

	if (wire_tls_set(&files, &why))
		fail_msg("%s", why.text);
	client = rpc_client_new(loop, at);
	answered = ping(loop, client, ms);
	rpc_client_free(client);
	loop_free(loop);
	return answered;
}

static void answers_those_it_knows(void **state)
{
	launch(url);

	assert_true(reaches(named, "server", "client", 10000));
	assert_false(reaches(named, "server", "stranger", 1500));     /* a certificate of somebody else's authority */
	assert_false(reaches(named, "stranger", "client", 1500));     /* we do not believe the server's */
	assert_false(reaches(url, "server", "client", 1500));         /* it is for "localhost", not for the address */
	assert_false(reaches(plain, "server", "client", 1500));       /* no TLS at all */
	assert_true(reaches(named, "server", "client", 10000));
}

static void takes_new_files_without_a_restart(void **state)
{
	struct loop *loop = loop_new();
	struct wire_tls_files files = files_of("server", "client");
	struct rpc_client *client;
	struct why why;
	launch(url);

	assert_int_equal(wire_tls_set(&files, &why), ERR_OK);
	client = rpc_client_new(loop, named);
	assert_true(ping(loop, client, 10000));

	/* Another authority, and certificates of it, in the places of the old ones. */
	make_ca("server");
	make_cert("server", "server", "DNS:localhost");
	make_cert("server", "client", "DNS:client");
	assert_true(reaches(named, "server", "client", 20000));
	for (int i = 0; i < 10 && !ping(loop, client, 2000); i++)
		assert_true(i < 9);

	/* Files that do not fit are not taken. */
	sh("cp %s/stranger.key %s/server.key", dir, dir);
	for (int64_t until = mono_ms() + 4500; mono_ms() < until; usleep(100000))
		assert_true(ping(loop, client, 3000));
	rpc_client_free(client);
	loop_free(loop);
	make_cert("server", "server", "DNS:localhost");
}

static void says_what_is_wrong_with_the_files(void **state)
{
	struct wire_tls_files files = files_of("server", "client");
	struct why why;

	files.key = "";
	assert_int_equal(wire_tls_set(&files, &why), ERR_INVALID);
	assert_string_equal(why.text, "tls_key is not given; TLS between services needs tls_ca, tls_cert and tls_key");
	files.key = "/nowhere";
	assert_int_equal(wire_tls_set(&files, &why), ERR_INVALID);
	assert_string_equal(why.text, "tls_key: '/nowhere' cannot be read: No such file or directory");
	files = files_of("server", "client");
	files.key = files_of("server", "stranger").key;
	assert_int_equal(wire_tls_set(&files, &why), ERR_INVALID);
	assert_non_null(strstr(why.text, "cannot be used together"));
	files.key = "/proc/self/status";
	assert_int_equal(wire_tls_set(&files, &why), ERR_INVALID);
	assert_non_null(strstr(why.text, "is not a PEM file"));
	files = (struct wire_tls_files){ 0 };
	assert_int_equal(wire_tls_set(&files, &why), ERR_OK);
}

static void knows_a_url(void **state)
{
	static const char *const good[] = { "tcp://h:1", "tcp://[::1]:7111", "ipc:///run/x", "inproc://x" };
	static const char *const bad[] = { "", "h:1", "http://h:1", "tcp://h", "tcp://:1", "tcp://h:0", "tcp://h:65500", "ipc://", "ipc:///", "ipc://x",
					   "inproc://", "tls+tcp://h:1" };
	struct why why;

	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_int_equal(wire_check_url(good[i], false, &why), ERR_OK);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(wire_check_url(bad[i], false, &why), ERR_INVALID);
	assert_int_equal(wire_check_url("tls+tcp://h:1", true, &why), ERR_OK);
}

/* A name is looked up off the loop; one that is not known yet is looked up again, and the loop turns meanwhile. */
static void dials_a_name(void **state)
{
	struct loop *loop = loop_new();
	struct wire_tls_files none = { 0 };
	struct rpc_client *client, *lost;
	struct why why;
	struct rpc_server *here;
	Corral__Peer_Service pong = CORRAL__PEER__INIT(pong_);

	assert_int_equal(wire_tls_set(&none, &why), ERR_OK);
	lost = rpc_client_new(loop, "tcp://no-such-host.invalid:7111");
	client = rpc_client_new(loop, plain);
	here = rpc_server_new(loop, plain, &why);
	assert_non_null(here);
	rpc_server_add(here, &pong.base);
	assert_true(ping(loop, client, 10000));
	assert_false(ping(loop, lost, 300));
	rpc_client_free(client);
	rpc_client_free(lost);
	rpc_server_free(here);
	loop_free(loop);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(answers_those_it_knows, end_server), cmocka_unit_test_teardown(takes_new_files_without_a_restart, end_server),
		cmocka_unit_test(says_what_is_wrong_with_the_files), cmocka_unit_test(knows_a_url), cmocka_unit_test(dials_a_name),
	};
	unsigned port = 20100 + (unsigned)getpid() % 9000;

	clock_init();
	if (argc == 4 && !strcmp(argv[1], "--serve"))
		return serve(argv[2], argv[3]);
	(void)snprintf(url, sizeof url, "tls+tcp://127.0.0.1:%u", port);
	(void)snprintf(named, sizeof named, "tls+tcp://localhost:%u", port);
	(void)snprintf(plain, sizeof plain, "tcp://localhost:%u", port);
	return cmocka_run_group_tests(tests, make_all, remove_all);
}
