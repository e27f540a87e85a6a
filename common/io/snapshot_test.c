/* snapshot_test.c - state that everyone hears: order of start, gaps, publishers that die, files that are damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/io/snapshot.h"
#include "snapshot.pb-c.h"

struct ear {
	struct loop *loop;
	struct snapshot_sub *sub;
	unsigned n, n_stale;
	struct snapshot_id id;
	char text[64];
	const char *wanted;           /* stops the loop */
	bool free_sub;
};

static void on_snapshot(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct ear *ear = arg;

	ear->n++;
	ear->n_stale += stale;
	ear->id = id;
	str_copy(ear->text, sizeof ear->text, bytes);
	if (ear->free_sub) {
		snapshot_sub_free(ear->sub);
		ear->sub = NULL;
	}
	if (ear->wanted && str_eqz(bytes, ear->wanted))
		loop_stop(ear->loop);
}

struct alarm { struct loop_timer timer; bool rang; };

static void on_alarm(struct loop_timer *timer)
{
	list_entry(timer, struct alarm, timer)->rang = true;
	loop_stop(timer->loop);
}

static bool run_for(struct loop *loop, int64_t ms)
{
	struct alarm alarm = { 0 };

	loop_timer_set(loop, &alarm.timer, ms * 1000, on_alarm);
	loop_run(loop);
	loop_timer_del(&alarm.timer);
	return !alarm.rang;
}

/* A publisher and what it stands on. */
struct side {
	struct rpc_server *server;
	struct snapshot_pub *pub;
};

static struct side publish_at(struct loop *loop, const char *rpc, const char *pub)
{
	struct why why = { 0 };
	struct side side = { .server = rpc_server_new(loop, rpc, &why) };

	if (!side.server || !(side.pub = snapshot_pub_new(loop, side.server, pub, "models", &why)))
		fail_msg("%s", why.text);
	return side;
}

static void side_free(struct side *side)
{
	snapshot_pub_free(side->pub);
	rpc_server_free(side->server);
	*side = (struct side){ 0 };
}

/* Of this process, so that two runs do not meet. */
static char rpc_urls[2][64] = { "inproc://snap-rpc" }, pub_urls[2][64] = { "inproc://snap-pub" };

static void hears_what_was_published_before_and_after(void **state)
{
	for (int u = 0; u < 2; u++) {
		struct loop *loop = loop_new();
		struct side side = publish_at(loop, rpc_urls[u], pub_urls[u]);
		struct rpc_client *client = rpc_client_new(loop, rpc_urls[u]);
		struct ear ear = { .loop = loop, .wanted = "one" };

		assert_int_equal(snapshot_publish(side.pub, STR("one")), 1);
		ear.sub = snapshot_sub_new(loop, client, pub_urls[u], "models", NULL, on_snapshot, &ear);
		assert_false(snapshot_sub_live(ear.sub));
		assert_true(run_for(loop, 5000));
		assert_true(snapshot_sub_live(ear.sub));
		assert_int_equal(ear.id.version, 1);
		assert_int_equal(ear.id.epoch, snapshot_pub_epoch(side.pub));

		ear.wanted = "two";
		snapshot_publish(side.pub, STR("two"));
		assert_true(run_for(loop, 5000));
		assert_int_equal(ear.n, 2);
		assert_int_equal(ear.id.version, 2);
		snapshot_sub_free(ear.sub);
		rpc_client_free(client);
		side_free(&side);
		loop_free(loop);
	}
}

static void may_start_before_the_publisher(void **state)
{
	for (int u = 0; u < 2; u++) {
		struct loop *loop = loop_new();
		struct rpc_client *client = rpc_client_new(loop, rpc_urls[u]);
		struct ear ear = { .loop = loop, .wanted = "late" };
		struct side side;

		ear.sub = snapshot_sub_new(loop, client, pub_urls[u], "models", NULL, on_snapshot, &ear);
		(void)run_for(loop, 200);
		side = publish_at(loop, rpc_urls[u], pub_urls[u]);
		(void)run_for(loop, 300);             /* connected, and nothing published yet */
		assert_int_equal(ear.n, 0);
		snapshot_publish(side.pub, STR("late"));
		assert_true(run_for(loop, 5000));
		assert_int_equal(ear.n, 1);
		snapshot_sub_free(ear.sub);
		rpc_client_free(client);
		side_free(&side);
		loop_free(loop);
	}
}

static void outlives_the_publisher(void **state)
{
	struct loop *loop = loop_new();
	struct side side = publish_at(loop, rpc_urls[1], pub_urls[1]);
	struct rpc_client *client = rpc_client_new(loop, rpc_urls[1]);
	struct ear ear = { .loop = loop, .wanted = "old" };
	uint64_t epoch;

	snapshot_publish(side.pub, STR("older"));
	snapshot_publish(side.pub, STR("old"));
	ear.sub = snapshot_sub_new(loop, client, pub_urls[1], "models", NULL, on_snapshot, &ear);
	assert_true(run_for(loop, 5000));
	epoch = ear.id.epoch;
	side_free(&side);
	(void)run_for(loop, 3200);
	assert_false(snapshot_sub_live(ear.sub));

	side = publish_at(loop, rpc_urls[1], pub_urls[1]);
	ear.wanted = "new";
	snapshot_publish(side.pub, STR("new"));       /* version 1 of a later epoch; nobody is connected yet */
	assert_true(run_for(loop, 6000));
	assert_true(ear.id.epoch > epoch);
	assert_int_equal(ear.id.version, 1);
	assert_true(snapshot_sub_live(ear.sub));
	snapshot_sub_free(ear.sub);
	rpc_client_free(client);
	side_free(&side);
	loop_free(loop);
}

/* --- a publisher's news made by hand: gaps, old versions, garbage --- */

static void news(nng_socket socket, uint64_t epoch, uint64_t version, const char *body)
{
	Corral__SnapshotEnvelope envelope = CORRAL__SNAPSHOT_ENVELOPE__INIT;
	uint8_t bytes[256] = "models";

	envelope.name = (char *)"models";
	envelope.epoch = epoch;
	envelope.version = version;
	envelope.heartbeat = !body;
	if (body) {
		envelope.body.data = (uint8_t *)body;
		envelope.body.len = strlen(body);
	}
	assert_int_equal(nng_send(socket, bytes, 7 + corral__snapshot_envelope__pack(&envelope, bytes + 7), 0), 0);
}

static void repairs_a_gap_and_ignores_the_past(void **state)
{
	struct loop *loop = loop_new();
	struct side side = publish_at(loop, rpc_urls[0], "inproc://snap-unheard");
	struct rpc_client *client = rpc_client_new(loop, rpc_urls[0]);
	struct ear ear = { .loop = loop, .wanted = "one" };
	uint64_t epoch = snapshot_pub_epoch(side.pub);
	nng_socket pub;

	assert_int_equal(nng_pub0_open(&pub), 0);
	assert_int_equal(nng_listen(pub, pub_urls[0], NULL, 0), 0);
	snapshot_publish(side.pub, STR("one"));
	ear.sub = snapshot_sub_new(loop, client, pub_urls[0], "models", NULL, on_snapshot, &ear);
	assert_true(run_for(loop, 5000));
	(void)run_for(loop, 200);

	/* Two publications were lost; the heartbeat tells. */
	snapshot_publish(side.pub, STR("two"));
	snapshot_publish(side.pub, STR("three"));
	news(pub, epoch, 3, NULL);
	ear.wanted = "three";
	assert_true(run_for(loop, 5000));
	assert_int_equal(ear.n, 2);

	news(pub, epoch, 2, "from the past");
	news(pub, epoch - 1, 9, "from an earlier life");
	news(pub, epoch, 3, "three again");
	assert_int_equal(nng_send(pub, (void *)"models\0\xff\xff\xff", 10, 0), 0);
	assert_int_equal(nng_send(pub, (void *)"models", 6, 0), 0);
	assert_int_equal(nng_send(pub, (void *)"models2\0", 8, 0), 0);
	news(pub, epoch, 4, "four");
	ear.wanted = "four";
	assert_true(run_for(loop, 5000));
	assert_int_equal(ear.n, 3);
	snapshot_sub_free(ear.sub);
	rpc_client_free(client);
	nng_close(pub);
	side_free(&side);
	loop_free(loop);
}

/* nng may give up a line and tell nobody. */
static void asks_where_nothing_is_heard(void **state)
{
	struct loop *loop = loop_new();
	struct side side = publish_at(loop, rpc_urls[1], pub_urls[1]);
	struct rpc_client *client = rpc_client_new(loop, rpc_urls[1]);
	struct ear ear = { .loop = loop, .wanted = "one" };
	char nowhere[80];

	snprintf(nowhere, sizeof nowhere, "%s-nobody", pub_urls[1]);
	snapshot_publish(side.pub, STR("one"));
	ear.sub = snapshot_sub_new(loop, client, nowhere, "models", NULL, on_snapshot, &ear);
	assert_true(run_for(loop, 5000));
	ear.wanted = "two";
	snapshot_publish(side.pub, STR("two"));
	assert_true(run_for(loop, 10000));
	snapshot_sub_free(ear.sub);
	rpc_client_free(client);
	side_free(&side);
	loop_free(loop);
}

static void several_names_share_one_address(void **state)
{
	struct loop *loop = loop_new();
	struct why why;
	struct side side = publish_at(loop, rpc_urls[0], pub_urls[0]);
	struct snapshot_pub *policy = snapshot_pub_new(loop, side.server, pub_urls[0], "policy", &why);
	struct rpc_client *client = rpc_client_new(loop, rpc_urls[0]);
	struct ear models = { .loop = loop, .wanted = "m" }, rules = { .loop = loop, .wanted = "p" }, none = { .loop = loop };

	assert_non_null(policy);
	models.sub = snapshot_sub_new(loop, client, pub_urls[0], "models", NULL, on_snapshot, &models);
	rules.sub = snapshot_sub_new(loop, client, pub_urls[0], "policy", NULL, on_snapshot, &rules);
	none.sub = snapshot_sub_new(loop, client, pub_urls[0], "nobody", NULL, on_snapshot, &none);
	(void)run_for(loop, 200);
	snapshot_publish(side.pub, STR("m"));
	assert_true(run_for(loop, 5000));
	snapshot_publish(policy, STR("p"));
	assert_true(run_for(loop, 5000));
	assert_int_equal(models.n, 1);
	assert_int_equal(rules.n, 1);
	assert_int_equal(none.n, 0);
	assert_false(snapshot_sub_live(none.sub));
	snapshot_pub_free(policy);
	snapshot_publish(side.pub, STR("m"));
	assert_true(run_for(loop, 5000));
	snapshot_sub_free(rules.sub);
	snapshot_sub_free(models.sub);
	snapshot_sub_free(none.sub);
	rpc_client_free(client);
	side_free(&side);
	loop_free(loop);
}

/* --- the file --- */

static char cache[64];

static void sub_once(const char *wanted, int64_t ms, struct ear *ear)
{
	struct loop *loop = loop_new();
	struct rpc_client *client = rpc_client_new(loop, rpc_urls[1]);

	*ear = (struct ear){ .loop = loop, .wanted = wanted };
	ear->sub = snapshot_sub_new(loop, client, pub_urls[1], "models", cache, on_snapshot, ear);
	assert_int_equal(ear->n, 0);                  /* never before _new() returned */
	(void)run_for(loop, ms);
	snapshot_sub_free(ear->sub);
	rpc_client_free(client);
	loop_free(loop);
}

static void starts_from_the_file_without_a_publisher(void **state)
{
	struct loop *loop = loop_new();
	struct side side = publish_at(loop, rpc_urls[1], pub_urls[1]);
	struct ear ear;
	struct rpc_client *client = rpc_client_new(loop, rpc_urls[1]);
	struct ear first = { .loop = loop, .wanted = "kept" };

	snprintf(cache, sizeof cache, "/tmp/corral-snapshot-test-%d", (int)getpid());
	snapshot_publish(side.pub, STR("kept"));
	first.sub = snapshot_sub_new(loop, client, pub_urls[1], "models", cache, on_snapshot, &first);
	assert_true(run_for(loop, 5000));
	snapshot_sub_free(first.sub);
	side_free(&side);

	sub_once("kept", 300, &ear);
	assert_int_equal(ear.n_stale, 1);
	assert_int_equal(ear.id.epoch, first.id.epoch);

	/* The publisher comes with the very same version: heard once more, as fresh. */
	side = publish_at(loop, rpc_urls[1], pub_urls[1]);
	snapshot_publish(side.pub, STR("fresh"));
	first = (struct ear){ .loop = loop, .wanted = "fresh" };
	first.sub = snapshot_sub_new(loop, client, pub_urls[1], "models", cache, on_snapshot, &first);
	assert_true(run_for(loop, 6000));
	snapshot_sub_free(first.sub);
	assert_int_equal(first.n, 2);
	first = (struct ear){ .loop = loop };
	first.sub = snapshot_sub_new(loop, client, pub_urls[1], "models", cache, on_snapshot, &first);
	(void)run_for(loop, 300);
	assert_int_equal(first.n, 2);
	assert_int_equal(first.n_stale, 1);
	snapshot_sub_free(first.sub);
	rpc_client_free(client);
	side_free(&side);
	loop_free(loop);
}

static void ignores_a_damaged_file(void **state)
{
	struct ear ear;
	char bytes[256], broken[256];
	int fd = open(cache, O_RDONLY);
	ssize_t n = read(fd, bytes, sizeof bytes);

	(void)close(fd);
	assert_true(n > 16);
	for (ssize_t i = 0; i <= n; i += 5) {
		memcpy(broken, bytes, sizeof broken);
		if (i < n)
			broken[i] ^= 1;
		fd = open(cache, O_WRONLY | O_TRUNC);
		assert_true(write(fd, broken, (size_t)(i < n ? n : n - 1)) > 0);
		(void)close(fd);
		sub_once(NULL, 40, &ear);
		assert_int_equal(ear.n, 0);
	}
	fd = open(cache, O_WRONLY | O_TRUNC);
	(void)close(fd);
	sub_once(NULL, 40, &ear);
	assert_int_equal(ear.n, 0);
	(void)unlink(cache);
	sub_once(NULL, 40, &ear);
	assert_int_equal(ear.n, 0);
}

static void may_be_freed_by_its_own_callback(void **state)
{
	struct loop *loop = loop_new();
	struct side side = publish_at(loop, rpc_urls[0], pub_urls[0]);
	struct rpc_client *client = rpc_client_new(loop, rpc_urls[0]);
	struct ear ear = { .loop = loop, .wanted = "x", .free_sub = true };

	snapshot_publish(side.pub, STR("x"));
	ear.sub = snapshot_sub_new(loop, client, pub_urls[0], "models", NULL, on_snapshot, &ear);
	assert_true(run_for(loop, 5000));
	assert_null(ear.sub);

	/* Asked, and gone before the answer. */
	ear.sub = snapshot_sub_new(loop, client, pub_urls[0], "models", NULL, on_snapshot, &ear);
	(void)run_for(loop, 0);
	snapshot_sub_free(ear.sub);
	(void)run_for(loop, 100);
	rpc_client_free(client);
	/* The endpoint goes before its publishers. */
	rpc_server_free(side.server);
	snapshot_publish(side.pub, STR("y"));
	snapshot_pub_free(side.pub);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hears_what_was_published_before_and_after),
		cmocka_unit_test(may_start_before_the_publisher),
		cmocka_unit_test(outlives_the_publisher),
		cmocka_unit_test(repairs_a_gap_and_ignores_the_past),
		cmocka_unit_test(asks_where_nothing_is_heard), cmocka_unit_test(several_names_share_one_address),
		cmocka_unit_test(starts_from_the_file_without_a_publisher),
		cmocka_unit_test(ignores_a_damaged_file),
		cmocka_unit_test(may_be_freed_by_its_own_callback),
	};

	clock_init();
	(void)snprintf(rpc_urls[1], sizeof rpc_urls[1], "tcp://127.0.0.1:%u", 20002 + (unsigned)getpid() % 3000 * 4);
	(void)snprintf(pub_urls[1], sizeof pub_urls[1], "tcp://127.0.0.1:%u", 20003 + (unsigned)getpid() % 3000 * 4);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
