/* service_test.c - the registry as a process of its own: Sync and snapshots over tcp, kill -9, a start with every backend down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/io/http_server.h"
#include "common/io/snapshot.h"
#include "models.pb-c.h"
#include "services/model-registry/service.h"

static char dir[64], rpc_url[64], pub_url[64], admin[64];
static bool answers = true;

struct world {
	struct loop *loop;
	struct http_server *backend;
	struct rpc_client *client;
	struct snapshot_sub *sub;
	Corral__ModelSnapshot *now;
	unsigned heard, synced, failed;
	enum err code;
	Corral__BackendState wanted;
	pid_t pid;
};

static void on_request(struct http_xchg *x, void *arg)
{
	http_reply(x, answers ? 200 : 500, STR(""), STR("{\"data\":[{\"id\":\"one\"},{\"id\":\"two\"}]}"));
}

static void on_snapshot(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct world *w = arg;

	w->heard++;
	if (w->now)
		corral__model_snapshot__free_unpacked(w->now, NULL);
	w->now = corral__model_snapshot__unpack(NULL, bytes.n, (const uint8_t *)bytes.p);
	assert_non_null(w->now);
	if (w->now->backends[0]->state == w->wanted)
		loop_stop(w->loop);
}

static void on_sync(const Corral__SyncReply *reply, void *arg)
{
	struct world *w = arg;

	if (reply) {
		w->synced++;
		assert_int_equal(reply->models, 2);
		assert_string_equal(reply->backends[0]->name, "b");
	} else {
		w->failed++;
		w->code = rpc_error(w->client)->code;
	}
	loop_stop(w->loop);
}

static void sync_one(struct world *w, const char *backend)
{
	Corral__SyncRequest request = CORRAL__SYNC_REQUEST__INIT;

	request.backend = (char *)backend;
	corral__model_registry__sync(rpc_stub(w->client, &corral__model_registry__descriptor), &request, on_sync, w);
}

static void on_alarm(struct loop_timer *timer) { loop_stop(timer->loop); }

static void run_ms(struct world *w, int64_t ms)
{
	struct loop_timer alarm = { 0 };

	loop_timer_set(w->loop, &alarm, ms * 1000, on_alarm);
	loop_run(w->loop);
	loop_timer_del(&alarm);
}

static pid_t spawn(struct world *w)
{
	char backends[80];
	pid_t pid;

	(void)snprintf(backends, sizeof backends, "b=openai+http://127.0.0.1:%u", http_server_port(w->backend));
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "model-registry", "--state-dir", dir, "--rpc-listen", rpc_url, "--admin-listen", admin, "--backends", backends,
		      "--residency-every", "200ms", "--log-level", "error", (char *)NULL);
		_exit(127);
	}
	return pid;
}

static void serves_and_survives(void **state)
{
	struct world w = { .loop = loop_new() };
	struct http_handler handler = { .on_request = on_request };
	struct why why = { 0 };
	int status;

	w.backend = http_server_new(w.loop, "127.0.0.1:0", &handler, NULL, &why);
	assert_non_null(w.backend);
	w.client = rpc_client_new(w.loop, rpc_url);
	rpc_deadline(w.client, 10000);
	w.wanted = CORRAL__BACKEND_STATE__BACKEND_UP;
	w.sub = snapshot_sub_new(w.loop, w.client, pub_url, "models", NULL, on_snapshot, &w);
	w.pid = spawn(&w);
	run_ms(&w, 15000);
	assert_non_null(w.now);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_UP);
	assert_int_equal(w.now->n_models, 2);

	w.wanted = CORRAL__BACKEND_STATE__BACKEND_UNKNOWN;    /* only the answer stops the loop */
	sync_one(&w, "");
	run_ms(&w, 10000);
	assert_int_equal(w.synced, 1);
	sync_one(&w, "nobody");
	run_ms(&w, 10000);
	assert_int_equal(w.failed, 1);
	assert_int_equal(w.code, ERR_NOT_FOUND);

	/* Killed; started again while the backend is broken: the models are still known, and said to be down. */
	assert_int_equal(kill(w.pid, SIGKILL), 0);
	(void)waitpid(w.pid, &status, 0);
	answers = false;
	w.wanted = CORRAL__BACKEND_STATE__BACKEND_DOWN;
	w.pid = spawn(&w);
	run_ms(&w, 15000);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_DOWN);
	assert_int_equal(w.now->n_models, 2);
	answers = true;
	w.wanted = CORRAL__BACKEND_STATE__BACKEND_UP;
	run_ms(&w, 15000);
	assert_int_equal(w.now->backends[0]->state, CORRAL__BACKEND_STATE__BACKEND_UP);

	assert_int_equal(kill(w.pid, SIGTERM), 0);
	(void)waitpid(w.pid, &status, 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	snapshot_sub_free(w.sub);
	rpc_client_free(w.client);
	http_server_free(w.backend);
	corral__model_snapshot__free_unpacked(w.now, NULL);
	loop_free(w.loop);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(serves_and_survives) };
	unsigned port = 12000 + (unsigned)getpid() % 1500 * 2;
	char path[128];
	int failed;

	if (argc > 1)
		return svc_main(&model_registry_service, argc, argv);
	clock_init();
	(void)snprintf(dir, sizeof dir, "/tmp/corral-registry-test-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	(void)snprintf(rpc_url, sizeof rpc_url, "tcp://127.0.0.1:%u", port);
	(void)snprintf(pub_url, sizeof pub_url, "tcp://127.0.0.1:%u", port + 100);
	(void)snprintf(admin, sizeof admin, "127.0.0.1:%u", port + 1);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	for (const char *const *file = (const char *const[]){ "models.snapshot", "jobs.db", "jobs.db-wal", "jobs.db-shm", NULL }; *file; file++) {
		(void)snprintf(path, sizeof path, "%s/model-registry/%s", dir, *file);
		(void)unlink(path);
	}
	(void)snprintf(path, sizeof path, "%s/model-registry", dir);
	(void)rmdir(path);
	(void)rmdir(dir);
	return failed;
}
