/* snapshot_delta_test.c - what changed instead of the whole: lost, late, refused, kept on disk, cut off while written; and wholes that
 * need several messages. The state that travels is a text; a delta appends to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/io/snapshot.h"
#include "common/io/snapshot_file.h"
#include "snapshot.pb-c.h"

/* --- both sides --- */

struct ear {
	struct loop *loop;
	struct rpc_client *client;
	struct snapshot_sub *sub;
	unsigned wholes, stale, deltas;
	struct snapshot_id id;
	struct buf text;
	size_t wanted;                /* bytes of text that stop the loop */
	bool refuse;                  /* the next delta */
};

struct mouth {
	struct rpc_server *server;
	struct snapshot_pub *pub;
	struct buf text;
	unsigned asked;               /* for a whole */
};

static char rpc_url[64], pub_url[64], cache[64];

static void look(struct ear *ear)
{
	if (ear->wanted && ear->text.n >= ear->wanted)
		loop_stop(ear->loop);
}

static void on_snapshot(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct ear *ear = arg;

	ear->wholes++;
	ear->stale += stale;
	ear->id = id;
	buf_clear(&ear->text);
	buf_str(&ear->text, bytes);
	look(ear);
}

static bool on_delta(void *arg, struct snapshot_id id, struct str delta)
{
	struct ear *ear = arg;

	if (ear->refuse) {
		ear->refuse = false;
		return false;
	}
	assert_true(id.epoch == ear->id.epoch && id.version == ear->id.version + 1);
	ear->id = id;
	ear->deltas++;
	buf_str(&ear->text, delta);
	look(ear);
	return true;
}

static struct str whole(void *arg)
{
	struct mouth *m = arg;

	m->asked++;
	return buf_as_str(&m->text);
}

static void mouth_open(struct mouth *m, struct loop *loop, const char *pub, const char *text)
{
	struct why why = { 0 };

	*m = (struct mouth){ .server = rpc_server_new(loop, rpc_url, &why) };
	if (!m->server || !(m->pub = snapshot_pub_new(loop, m->server, pub, "keys", &why)))
		fail_msg("%s", why.text);
	snapshot_pub_whole(m->pub, whole, m);
	buf_addz(&m->text, text);
	snapshot_publish(m->pub, buf_as_str(&m->text));
}

static uint64_t say(struct mouth *m, const char *delta)
{
	buf_addz(&m->text, delta);
	return snapshot_publish_delta(m->pub, str_of(delta));
}

static void mouth_shut(struct mouth *m)
{
	snapshot_pub_free(m->pub);
	rpc_server_free(m->server);
	buf_free(&m->text);
}

static void ear_open(struct ear *ear, struct loop *loop, const char *path)
{
	*ear = (struct ear){ .loop = loop, .client = rpc_client_new(loop, rpc_url) };
	ear->sub = snapshot_sub_new(loop, ear->client, pub_url, "keys", path, on_snapshot, ear);
	snapshot_sub_on_delta(ear->sub, on_delta);
}

static void ear_shut(struct ear *ear)
{
	snapshot_sub_free(ear->sub);
	rpc_client_free(ear->client);
	buf_free(&ear->text);
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

/* Until the ear has all that the mouth said. */
static void hear_all(struct ear *ear, const struct mouth *m)
{
	ear->wanted = m->text.n;
	if (ear->text.n < m->text.n)
		assert_true(run_for(ear->loop, 20000));
	ear->wanted = 0;
	assert_true(str_eq(buf_as_str(&ear->text), buf_as_str(&m->text)));
}

/* --- as heard --- */

static void hears_deltas_after_the_whole(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;

	mouth_open(&m, loop, pub_url, "abc");
	ear_open(&ear, loop, NULL);
	hear_all(&ear, &m);
	(void)run_for(loop, 300);             /* connected by now */
	assert_int_equal(say(&m, "d"), 2);
	assert_int_equal(say(&m, ""), 3);
	assert_int_equal(say(&m, "ef"), 4);
	hear_all(&ear, &m);
	assert_int_equal(ear.id.version, 4);
	assert_int_equal(ear.deltas, 3);
	assert_int_equal(ear.wholes, 1);
	assert_int_equal(m.asked, 0);

	/* A whole in between ends what the deltas led on from. */
	buf_clear(&m.text);
	buf_addz(&m.text, "anew and longer");
	snapshot_publish(m.pub, buf_as_str(&m.text));
	say(&m, "!");
	hear_all(&ear, &m);
	assert_int_equal(ear.id.version, 6);
	ear_shut(&ear);
	mouth_shut(&m);
	loop_free(loop);
}

static void without_a_function_for_deltas_fetches_the_whole(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;

	mouth_open(&m, loop, pub_url, "abc");
	ear_open(&ear, loop, NULL);
	snapshot_sub_on_delta(ear.sub, NULL);
	hear_all(&ear, &m);
	for (int i = 0; i < 5; i++) {
		say(&m, "xy");
		hear_all(&ear, &m);
	}
	assert_int_equal(ear.deltas, 0);
	assert_int_equal(ear.id.version, 6);
	ear_shut(&ear);
	mouth_shut(&m);
	loop_free(loop);
}

/* --- a publisher's deltas made by hand: lost, late, twice --- */

static void news(nng_socket socket, uint64_t epoch, uint64_t version, const char *delta)
{
	Corral__SnapshotEnvelope e = CORRAL__SNAPSHOT_ENVELOPE__INIT;
	ProtobufCBinaryData data = { .data = (uint8_t *)delta, .len = strlen(delta) };
	uint8_t bytes[256] = "keys";

	e.name = (char *)"keys";
	e.epoch = epoch;
	e.version = version;
	e.after = version - 1;
	e.deltas = &data;
	e.n_deltas = 1;
	assert_int_equal(nng_send(socket, bytes, 5 + corral__snapshot_envelope__pack(&e, bytes + 5), 0), 0);
}

static void repairs_what_was_lost_or_came_late(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;
	uint64_t epoch;
	nng_socket pub;

	assert_int_equal(nng_pub0_open(&pub), 0);
	assert_int_equal(nng_listen(pub, pub_url, NULL, 0), 0);
	mouth_open(&m, loop, "inproc://deltas-unheard", "0");
	epoch = snapshot_pub_epoch(m.pub);
	ear_open(&ear, loop, NULL);
	hear_all(&ear, &m);
	(void)run_for(loop, 300);
	say(&m, "1");
	news(pub, epoch, 2, "1");
	hear_all(&ear, &m);
	assert_int_equal(ear.deltas, 1);

	/* Three are said, the third is heard: the others are asked for, and the whole is not made. */
	say(&m, "2");
	say(&m, "3");
	say(&m, "4");
	news(pub, epoch, 5, "4");
	hear_all(&ear, &m);
	assert_int_equal(ear.deltas, 4);

	/* The other way round, and once more. */
	say(&m, "5");
	say(&m, "6");
	news(pub, epoch, 7, "6");
	news(pub, epoch, 6, "5");
	news(pub, epoch, 6, "5");
	news(pub, epoch, 2, "1");
	news(pub, epoch - 1, 8, "of an earlier life");
	hear_all(&ear, &m);
	(void)run_for(loop, 200);
	assert_string_equal(buf_z(&ear.text), "0123456");
	assert_int_equal(ear.wholes, 1);
	assert_int_equal(m.asked, 0);

	/* One that does not apply: the whole. */
	ear.refuse = true;
	say(&m, "7");
	news(pub, epoch, 8, "7");
	hear_all(&ear, &m);
	assert_int_equal(ear.wholes, 2);
	assert_int_equal(m.asked, 1);
	ear_shut(&ear);
	mouth_shut(&m);
	nng_close(pub);
	loop_free(loop);
}

static void fetches_the_whole_when_too_much_was_missed(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;

	mouth_open(&m, loop, "inproc://deltas-unheard", "begin");
	ear_open(&ear, loop, NULL);
	hear_all(&ear, &m);
	for (int i = 0; i < 5000; i++)
		say(&m, "+");
	snapshot_sub_free(ear.sub);           /* comes back with what it had */
	ear.sub = snapshot_sub_new(loop, ear.client, pub_url, "keys", NULL, on_snapshot, &ear);
	snapshot_sub_on_delta(ear.sub, on_delta);
	hear_all(&ear, &m);
	assert_int_equal(ear.wholes, 2);
	assert_int_equal(ear.id.version, 5001);
	ear_shut(&ear);
	mouth_shut(&m);
	loop_free(loop);
}

static void outlives_the_publisher(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;
	uint64_t epoch;

	mouth_open(&m, loop, pub_url, "first ");
	ear_open(&ear, loop, NULL);
	hear_all(&ear, &m);
	say(&m, "life");
	hear_all(&ear, &m);
	epoch = ear.id.epoch;
	mouth_shut(&m);
	(void)run_for(loop, 1300);
	assert_false(snapshot_sub_live(ear.sub));

	mouth_open(&m, loop, pub_url, "another, longer ");
	say(&m, "life");
	hear_all(&ear, &m);
	assert_true(ear.id.epoch > epoch);
	assert_int_equal(ear.id.version, 2);
	assert_true(snapshot_sub_live(ear.sub));
	ear_shut(&ear);
	mouth_shut(&m);
	loop_free(loop);
}

/* Two publishers of one name: the one that started last is heard, then the other. */
static void hears_the_younger_of_two(void **state)
{
	struct loop *loop = loop_new();
	struct why why;
	struct rpc_server *servers[2] = { rpc_server_new(loop, "inproc://younger-0", &why), rpc_server_new(loop, "inproc://younger-1", &why) };
	struct snapshot_pub *pubs[2];
	struct ear ear = { .loop = loop, .client = rpc_client_new(loop, "inproc://younger-0,inproc://younger-1") };

	pubs[0] = snapshot_pub_new(loop, servers[0], "inproc://younger-0.pub", "keys", &why);
	pubs[1] = snapshot_pub_new(loop, servers[1], "inproc://younger-1.pub", "keys", &why);
	assert_true(snapshot_pub_epoch(pubs[1]) > snapshot_pub_epoch(pubs[0]));
	snapshot_publish(pubs[0], STR("older"));
	snapshot_publish(pubs[1], STR("young"));
	ear.sub = snapshot_sub_new(loop, ear.client, "inproc://younger-0.pub,inproc://younger-1.pub", "keys", NULL, on_snapshot, &ear);
	for (int i = 0; i < 200 && ear.id.epoch != snapshot_pub_epoch(pubs[1]); i++)
		(void)run_for(loop, 20);
	assert_string_equal(buf_z(&ear.text), "young");
	snapshot_publish(pubs[0], STR("older still"));
	(void)run_for(loop, 800);
	assert_string_equal(buf_z(&ear.text), "young");
	assert_true(ear.wholes <= 2);

	snapshot_pub_free(pubs[1]);
	rpc_server_free(servers[1]);
	for (int i = 0; i < 500 && ear.id.epoch != snapshot_pub_epoch(pubs[0]); i++)
		(void)run_for(loop, 20);
	assert_string_equal(buf_z(&ear.text), "older still");
	ear_shut(&ear);
	snapshot_pub_free(pubs[0]);
	rpc_server_free(servers[0]);
	loop_free(loop);
}

/* --- the file --- */

static void read_all(const char *path, struct buf *to)
{
	buf_clear(to);
	assert_true(snapshot_file_open(path, to));
}

static void starts_from_the_file_with_its_deltas(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;
	struct snapshot_id id;
	struct buf said = { 0 };

	mouth_open(&m, loop, pub_url, "kept");
	ear_open(&ear, loop, cache);
	hear_all(&ear, &m);
	for (int i = 0; i < 20; i++)
		say(&m, " more");
	hear_all(&ear, &m);
	id = ear.id;
	buf_str(&said, buf_as_str(&m.text));
	ear_shut(&ear);
	mouth_shut(&m);

	ear_open(&ear, loop, cache);
	ear.wanted = said.n;
	assert_true(run_for(loop, 5000));
	assert_true(str_eq(buf_as_str(&ear.text), buf_as_str(&said)));
	assert_int_equal(ear.stale, 1);
	assert_int_equal(ear.deltas, 20);
	assert_true(ear.id.epoch == id.epoch && ear.id.version == id.version);

	mouth_open(&m, loop, pub_url, "a publisher comes");   /* shorter: waits for the second whole */
	for (int i = 0; i < 500 && ear.wholes < 2; i++)
		(void)run_for(loop, 20);
	hear_all(&ear, &m);
	ear_shut(&ear);
	mouth_shut(&m);
	buf_free(&said);
	loop_free(loop);
}

struct read { unsigned wholes, deltas; struct snapshot_id id; };

static bool read_whole(void *arg, struct snapshot_id id, struct str bytes)
{
	struct read *r = arg;

	r->wholes++;
	r->id = id;
	assert_string_equal(str_eqz(bytes, "whole") ? "whole" : "", "whole");
	return true;
}

static bool read_delta(void *arg, struct snapshot_id id, struct str delta)
{
	struct read *r = arg;
	char expected[32];

	assert_int_equal(id.version, r->id.version + 1);
	(void)snprintf(expected, sizeof expected, "delta %llu", (unsigned long long)id.version);
	assert_true(str_starts(delta, str_of(expected)));
	r->id = id;
	r->deltas++;
	return true;
}

static bool read_bytes(struct str file, struct read *r)
{
	const struct snapshot_reader reader = { read_whole, read_delta, r };

	*r = (struct read){ 0 };
	return snapshot_file_read(file, "keys", &reader);
}

static void write_some(unsigned n)
{
	struct snapshot_log log;
	char text[32];

	snapshot_log_init(&log, cache, "keys");
	assert_true(snapshot_log_whole(&log, (struct snapshot_id){ 7, 1 }, STR("whole")));
	for (unsigned v = 2; v < 2 + n; v++) {
		(void)snprintf(text, sizeof text, "delta %u", v);
		assert_true(snapshot_log_delta(&log, (struct snapshot_id){ 7, v }, str_of(text)));
	}
	snapshot_log_close(&log);
}

/* Cut anywhere, and one bit wrong anywhere: what comes before still counts, nothing behind it does. */
static void reads_a_file_up_to_where_it_is_good(void **state)
{
	struct buf file = { 0 };
	struct read r;
	unsigned last = 0;

	write_some(10);
	read_all(cache, &file);
	assert_true(read_bytes(buf_as_str(&file), &r));
	assert_int_equal(r.deltas, 10);
	for (size_t n = 0; n <= file.n; n++) {
		bool good = read_bytes(str_n(file.p, n), &r);

		assert_true(good == (r.wholes == 1) && r.deltas >= last);
		last = r.deltas;
	}
	assert_int_equal(last, 10);
	for (size_t i = 0; i < file.n; i++) {
		file.p[i] ^= 0x10;
		(void)read_bytes(buf_as_str(&file), &r);
		assert_true(r.deltas < 10);
		file.p[i] ^= 0x10;
	}
	buf_free(&file);
}

/* A delta that is not written breaks the chain: the file stays what it was, and says that it wants a whole. */
static void stops_at_a_delta_that_cannot_be_written(void **state)
{
	struct snapshot_log log;
	struct buf file = { 0 };
	struct read r;

	write_some(3);
	snapshot_log_init(&log, cache, "keys");
	log.fd = open("/dev/full", O_WRONLY);
	assert_false(snapshot_log_outgrown(&log));
	assert_false(snapshot_log_delta(&log, (struct snapshot_id){ 7, 5 }, STR("x")));
	assert_false(snapshot_log_delta(&log, (struct snapshot_id){ 7, 6 }, STR("x")));
	assert_true(snapshot_log_outgrown(&log));
	read_all(cache, &file);
	assert_true(read_bytes(buf_as_str(&file), &r));
	assert_int_equal(r.deltas, 3);
	snapshot_log_close(&log);
	buf_free(&file);
}

/* The program that is killed: a whole now and then, deltas behind it, each told after it was written. */
static int write_until_killed(const char *path)
{
	struct snapshot_log log;
	struct buf delta = { 0 };

	snapshot_log_init(&log, path, "keys");
	for (uint64_t v = 1;; v++) {
		buf_clear(&delta);
		buf_printf(&delta, "delta %llu", (unsigned long long)v);
		while (delta.n < 4096)
			buf_addz(&delta, " and so on");
		if (v % 200 == 1 ? !snapshot_log_whole(&log, (struct snapshot_id){ 7, v }, STR("whole"))
				 : !snapshot_log_delta(&log, (struct snapshot_id){ 7, v }, buf_as_str(&delta)))
			return 1;
		if (write(1, &v, sizeof v) != sizeof v)
			return 1;
	}
}

static void is_whole_after_kill_9(void **state)
{
	struct buf file = { 0 };

	for (int round = 0; round < 25; round++) {
		uint64_t told = 0, v;
		struct read r;
		int to[2];
		pid_t pid;

		assert_int_equal(pipe(to), 0);
		pid = fork();
		if (pid == 0) {
			(void)dup2(to[1], 1);
			(void)close(to[0]);
			(void)close(to[1]);
			(void)execl("/proc/self/exe", "snapshot_delta_test", "--write", cache, (char *)NULL);
			_exit(1);
		}
		(void)close(to[1]);
		for (uint64_t until = 1 + rand_u64() % 700; told < until && read(to[0], &v, sizeof v) == sizeof v;)
			told = v;
		(void)kill(pid, SIGKILL);
		while (read(to[0], &v, sizeof v) == sizeof v)
			told = v;
		(void)close(to[0]);
		(void)waitpid(pid, NULL, 0);
		assert_true(told > 0);
		read_all(cache, &file);
		assert_true(read_bytes(buf_as_str(&file), &r));
		assert_true(r.id.version >= told && r.id.version <= told + 1);
	}
	buf_free(&file);
}

/* The file does not grow for ever: a whole takes the place of what the deltas have outgrown. */
static bool tells_whole(void *arg, struct snapshot_id id, struct str bytes)
{
	buf_printf(arg, "%d:%.*s", (int)id.version, (int)bytes.n, bytes.p);
	return true;
}

static bool tells_delta(void *arg, struct snapshot_id id, struct str delta)
{
	buf_printf(arg, " %d:%.*s", (int)id.version, (int)delta.n, delta.p);
	return true;
}

/* The whole was fetched while deltas 4 and 5 came: they are kept behind it. */
static void keeps_deltas_behind_a_younger_whole(void **state)
{
	struct snapshot_log log;
	struct buf file = { 0 }, told = { 0 };
	const struct snapshot_reader reader = { tells_whole, tells_delta, &told };

	(void)unlink(cache);
	snapshot_log_init(&log, cache, "keys");
	assert_true(snapshot_log_whole(&log, (struct snapshot_id){ 9, 1 }, str_of("a")));
	for (uint64_t v = 2; v <= 5; v++)
		assert_true(snapshot_log_delta(&log, (struct snapshot_id){ 9, v }, str_n("abcde" + v - 1, 1)));
	assert_true(snapshot_log_compact(&log, (struct snapshot_id){ 9, 3 }, str_of("abc")));
	assert_true(snapshot_log_delta(&log, (struct snapshot_id){ 9, 6 }, str_of("f")));
	snapshot_log_close(&log);
	assert_true(snapshot_file_open(cache, &file));
	assert_true(snapshot_file_read(buf_as_str(&file), "keys", &reader));
	assert_string_equal(buf_z(&told), "3:abc 4:d 5:e 6:f");
	buf_free(&file);
	buf_free(&told);
	(void)unlink(cache);
}

static void replaces_a_file_that_has_outgrown_its_whole(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;
	struct stat st;
	char delta[8192];

	(void)unlink(cache);
	memset(delta, 'x', sizeof delta - 1);
	delta[sizeof delta - 1] = '\0';
	mouth_open(&m, loop, pub_url, "small");
	ear_open(&ear, loop, cache);
	hear_all(&ear, &m);
	(void)run_for(loop, 300);
	for (int i = 0; i < 60; i++) {        /* 480 KiB of deltas behind 5 bytes */
		say(&m, delta);
		hear_all(&ear, &m);
	}
	for (int i = 0; i < 3000; i++) {
		struct read_file { struct snapshot_id id; struct buf b; } f = { 0 };
		bool good = snapshot_file_load(cache, "keys", &f.id, &f.b);

		assert_true(good);
		buf_free(&f.b);
		if (f.id.version > 30)
			break;
		(void)run_for(loop, 20);
		assert_true(i < 2999);
	}
	assert_int_equal(stat(cache, &st), 0);
	assert_true((size_t)st.st_size < m.text.n + 300 * 1024);
	assert_int_equal(ear.wholes, 1);      /* the owner was not told anew */
	ear_shut(&ear);
	mouth_shut(&m);
	(void)unlink(cache);
	loop_free(loop);
}

/* --- large --- */

static void add_keys(struct buf *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		buf_printf(b, "key-%06u sha256:%064x tenant-%03u models=*,routes=*,addresses=* requests=600/1m tokens=100000/1m state=active until=never %032x\n",
			   i, i, i % 500, i);
}

static void carries_a_hundred_thousand_entries(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ear;
	int64_t began;

	mouth_open(&m, loop, pub_url, "");
	add_keys(&m.text, 100000);
	assert_true(m.text.n > 15 << 20);
	snapshot_publish(m.pub, buf_as_str(&m.text));
	began = mono_us();
	ear_open(&ear, loop, cache);
	hear_all(&ear, &m);           /* asked for */
	print_message("%zu bytes fetched in %lld ms\n", m.text.n, (long long)(mono_us() - began) / 1000);
	assert_int_equal(ear.wholes, 1);

	say(&m, "one more\n");
	hear_all(&ear, &m);
	assert_int_equal(ear.deltas, 1);
	assert_int_equal(m.asked, 0);

	add_keys(&m.text, 10);
	began = mono_us();
	snapshot_publish(m.pub, buf_as_str(&m.text));         /* heard */
	hear_all(&ear, &m);
	print_message("%zu bytes heard in %lld ms\n", m.text.n, (long long)(mono_us() - began) / 1000);
	ear_shut(&ear);

	ear_open(&ear, loop, cache);          /* from the file, and then once more as fresh */
	for (int i = 0; i < 1000 && ear.wholes < 2; i++)
		(void)run_for(loop, 20);
	assert_true(str_eq(buf_as_str(&ear.text), buf_as_str(&m.text)));
	assert_int_equal(ear.stale, 1);
	ear_shut(&ear);
	mouth_shut(&m);
	(void)unlink(cache);
	loop_free(loop);
}

/* Deltas go on while the parts are fetched. */
static void fetches_a_large_whole_that_keeps_changing(void **state)
{
	struct loop *loop = loop_new();
	struct mouth m;
	struct ear ears[3];

	mouth_open(&m, loop, pub_url, "");
	add_keys(&m.text, 60000);
	snapshot_publish(m.pub, buf_as_str(&m.text));
	for (int i = 0; i < 3; i++)
		ear_open(&ears[i], loop, NULL);
	for (int i = 0; i < 150; i++) {
		say(&m, "a change\n");
		(void)run_for(loop, 2);
	}
	for (int i = 0; i < 3; i++) {
		hear_all(&ears[i], &m);
		assert_true(ears[i].wholes <= 3);
	}
	for (int i = 0; i < 3; i++)
		ear_shut(&ears[i]);
	mouth_shut(&m);
	loop_free(loop);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hears_deltas_after_the_whole),
		cmocka_unit_test(without_a_function_for_deltas_fetches_the_whole),
		cmocka_unit_test(repairs_what_was_lost_or_came_late),
		cmocka_unit_test(fetches_the_whole_when_too_much_was_missed),
		cmocka_unit_test(outlives_the_publisher),
		cmocka_unit_test(hears_the_younger_of_two),
		cmocka_unit_test(starts_from_the_file_with_its_deltas),
		cmocka_unit_test(reads_a_file_up_to_where_it_is_good),
		cmocka_unit_test(stops_at_a_delta_that_cannot_be_written),
		cmocka_unit_test(is_whole_after_kill_9),
		cmocka_unit_test(keeps_deltas_behind_a_younger_whole),
		cmocka_unit_test(replaces_a_file_that_has_outgrown_its_whole),
		cmocka_unit_test(carries_a_hundred_thousand_entries),
		cmocka_unit_test(fetches_a_large_whole_that_keeps_changing),
	};

	clock_init();
	if (argc == 3 && !strcmp(argv[1], "--write"))
		return write_until_killed(argv[2]);
	(void)snprintf(rpc_url, sizeof rpc_url, "ipc:///tmp/corral-delta-test-%d.rpc", (int)getpid());
	(void)snprintf(pub_url, sizeof pub_url, "ipc:///tmp/corral-delta-test-%d.pub", (int)getpid());
	(void)snprintf(cache, sizeof cache, "/tmp/corral-delta-test-%d.file", (int)getpid());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
