/* cache_test.c - the contract of cache.h on every driver; what is kept when room is short; Redis that is slow, stopped, killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/data/hmac.h"
#include "common/data/log.h"
#include "common/data/secret.h"
#include "common/store/cache.h"

#define MIN_US INT64_C(60000000)

static void key_of(uint64_t n, uint8_t key[CACHE_KEY_BYTES]) { sha256(str_n((const char *)&n, sizeof(n)), key); }

static struct cached *value_of(uint64_t n, size_t bytes, int64_t ttl_us)
{
	char *text = x_malloc(bytes);
	uint8_t key[CACHE_KEY_BYTES];
	struct cached *c;

	memset(text, 'a' + (int)(n % 26), bytes);
	key_of(n, key);
	c = cached_new(key, wall_us(), wall_us() + ttl_us, str_n(text, bytes));
	free(text);
	return c;
}

/* --- the memory --- */

static bool memory_has(struct cache_memory *m, uint64_t n)
{
	uint8_t key[CACHE_KEY_BYTES];
	struct cached *c;

	key_of(n, key);
	c = cache_memory_get(m, key, wall_us());
	cached_unref(c);
	return c != NULL;
}

static void memory_put(struct cache_memory *m, uint64_t n, size_t bytes, int64_t ttl_us)
{
	struct cached *c = value_of(n, bytes, ttl_us);

	cache_memory_put(m, c);
	cached_unref(c);
}

static void what_was_put_is_there_until_its_time_is_over(void **state)
{
	struct cache_memory *m = cache_memory_new(1 << 20);
	struct cache_figures f;
	uint8_t key[CACHE_KEY_BYTES];

	assert_false(memory_has(m, 1));
	memory_put(m, 1, 100, MIN_US);
	assert_true(memory_has(m, 1));
	assert_false(memory_has(m, 2));
	key_of(1, key);
	assert_null(cache_memory_get(m, key, wall_us() + 2 * MIN_US));
	cache_memory_figures(m, &f);
	assert_int_equal(f.entries, 0);           /* what was found expired is gone */
	assert_int_equal(f.bytes, 0);
	cache_memory_free(m);
}

static void a_value_outlives_its_place(void **state)
{
	struct cache_memory *m = cache_memory_new(1 << 20);
	uint8_t key[CACHE_KEY_BYTES];
	struct cached *c;

	memory_put(m, 1, 1000, MIN_US);
	key_of(1, key);
	c = cache_memory_get(m, key, wall_us());
	memory_put(m, 1, 500, MIN_US);            /* replaced */
	cache_memory_free(m);
	assert_int_equal(c->n, 1000);
	assert_int_equal(c->bytes[999], 'b');
	cached_unref(c);
}

static void no_more_bytes_are_held_than_were_allowed(void **state)
{
	enum { MOST = 256 << 10 };
	struct cache_memory *m = cache_memory_new(MOST);
	struct cache_figures f;

	for (uint64_t i = 0; i < 20000; i++)
		memory_put(m, i, 40 + i % 900, MIN_US);
	memory_put(m, 99999, MOST / 2, MIN_US);   /* would empty its shard */
	cache_memory_figures(m, &f);
	assert_true(f.bytes <= MOST);
	assert_true(f.bytes > MOST / 2);
	assert_true(f.evictions > 10000);
	assert_false(memory_has(m, 99999));
	cache_memory_free(m);
}

static void a_scan_takes_nothing_away_that_is_asked_for(void **state)
{
	struct cache_memory *m = cache_memory_new(1 << 20);
	unsigned kept = 0;

	for (uint64_t i = 0; i < 500; i++)
		memory_put(m, i, 1000, MIN_US);
	for (unsigned round = 0; round < 3; round++)
		for (uint64_t i = 0; i < 500; i++)
			(void)memory_has(m, i);
	for (uint64_t i = 1000; i < 21000; i++)
		memory_put(m, i, 1000, MIN_US);   /* twenty times the whole, each once */
	for (uint64_t i = 0; i < 500; i++)
		kept += memory_has(m, i);
	assert_true(kept > 450);
	cache_memory_free(m);
}

/* 10,000 requests; every second one repeats an earlier one exactly. How long ago that was is spread evenly over the orders of magnitude, as ages of
 * repeats are in traces of caches. The cache holds a tenth of the bytes that all different answers have together. */
static double traced(uint64_t seed)
{
	enum { REQUESTS = 10000, BYTES = 2000 };
	uint64_t *asked = x_malloc(REQUESTS * sizeof(*asked)), n = 0, hits = 0, rng = seed * 2654435761u + 88172645463325252u;
	struct cache_memory *m = cache_memory_new((size_t)REQUESTS / 2 * (BYTES + 160) / 10);

	for (unsigned i = 0; i < REQUESTS; i++) {
		double u;

		rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
		u = (double)(rng >> 11) / 9007199254740992.0;
		asked[i] = i % 2 ? asked[i - (unsigned)fmin(i, ceil(exp(u * log(i))))] : n++;
		if (memory_has(m, asked[i]))
			hits++;
		else
			memory_put(m, asked[i], BYTES / 2 + asked[i] % BYTES, MIN_US);
	}
	cache_memory_free(m);
	free(asked);
	return (double)hits / REQUESTS;
}

static void a_tenth_of_the_size_is_enough_for_forty_hits_in_a_hundred(void **state)
{
	double least = 1;

	for (uint64_t seed = 1; seed <= 5; seed++)
		least = fmin(least, traced(seed));
	print_message("          least of five traces: %.1f %% hits of 50 possible\n", least * 100);
	assert_true(least >= 0.40);
}

/* --- the key's function: RFC 4231, cases 1, 2, 6 --- */

static void hmac_is_that_of_the_rfc(void **state)
{
	static const struct { const char *key; size_t key_n; const char *text; const char *mac; } cases[] = {
		{ "\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b", 20, "Hi There", "b0344c61d8db38535ca8afceaf0bf12b" },
		{ "Jefe", 4, "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c7" },
		{ NULL, 131, "Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f0d8a26aacbf5b77f" },
	};
	char large[131];

	memset(large, 0xaa, sizeof(large));
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hmac_key *k = hmac_key_new(str_n(cases[i].key ? cases[i].key : large, cases[i].key_n));
		struct str whole = str_of(cases[i].text), parts[] = { str_n(whole.p, 3), STR(""), str_from(whole, 3) };
		uint8_t a[HMAC_BYTES], b[HMAC_BYTES];
		char hex[33];

		hmac(k, &whole, 1, a);
		hmac(k, parts, 3, b);
		assert_memory_equal(a, b, HMAC_BYTES);
		for (unsigned j = 0; j < 16; j++)
			snprintf(hex + 2 * j, 3, "%02x", a[j]);
		assert_string_equal(hex, cases[i].mac);
		hmac_key_free(k);
	}
	hmac_key_free(NULL);
}

/* --- a place, and a Redis in it --- */

static struct {
	char dir[64], url[160];
	pid_t redis;
	uint16_t port;                /* 0 = only the socket */
	struct loop *loop;
	struct cache *cache;
	struct cache_seat *seat;
	_Atomic uint64_t events[CACHE_EVENTS];
	struct loop_timer tick;
	bool (*until)(void);
	int64_t give_up_us;
} t;

static struct { struct cache_ask ask; struct cached *got; bool done; int64_t asked_us, took_us; } q[64];

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void tick(struct loop_timer *timer)
{
	if (t.until() || mono_us() > t.give_up_us)
		loop_stop(t.loop);
	else
		loop_timer_set(t.loop, timer, 200, tick);
}

static void run_until(bool (*done)(void))
{
	t.until = done;
	t.give_up_us = mono_us() + 20000000;
	loop_timer_set(t.loop, &t.tick, 0, tick);
	loop_run(t.loop);
	assert_true(done());
}

static bool redis_there(void)
{
	return access("/usr/bin/redis-server", X_OK) == 0 || access("/usr/local/bin/redis-server", X_OK) == 0;
}

/* Another may take it before Redis does: then the test fails to start it and says so. */
static uint16_t free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	close(fd);
	return ntohs(a.sin_port);
}

static void redis_start(void)
{
	char sock[96], port[8];
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(sock, sizeof(sock), "%s/r.sock", t.dir);
	snprintf(port, sizeof(port), "%u", t.port);
	t.redis = fork();
	if (t.redis == 0) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execlp("redis-server", "redis-server", "--bind", "127.0.0.1", "--port", port, "--unixsocket", sock, "--save", "", "--appendonly", "no", "--dir", t.dir, "--requirepass", "geheim: @/", (char *)NULL);
		_exit(127);
	}
	str_copy(a.sun_path, sizeof(a.sun_path), str_of(sock));
	for (unsigned i = 0; i < 2000; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		bool there = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

		close(fd);
		if (there)
			return;
		usleep(10000);
	}
	fail_msg("redis-server does not start");
}

static void redis_end(void)
{
	if (t.redis <= 0)
		return;
	kill(t.redis, SIGCONT);
	kill(t.redis, SIGKILL);
	waitpid(t.redis, NULL, 0);
	t.redis = 0;
}

static bool is_ready(void) { return cache_seat_ready(t.seat); }

static void open_all(int64_t lookup_us)
{
	struct cache_opts o = { .url = t.url, .memory_bytes = 1 << 20, .lookup_us = lookup_us, .events = t.events };
	struct why why;

	t.cache = cache_open(&o, &why);
	if (!t.cache)
		fail_msg("%s", why.text);
	t.loop = loop_new();
	t.seat = cache_seat_new(t.cache, t.loop);
	run_until(is_ready);
}

static void close_all(void)
{
	cache_seat_free(t.seat);
	cache_close(t.cache);
	loop_free(t.loop);
	t.seat = NULL, t.cache = NULL, t.loop = NULL;
}

static void begin(void)
{
	memset(&t, 0, sizeof(t));
	memset(q, 0, sizeof(q));
	str_copy(t.dir, sizeof(t.dir), STR("/tmp/cache-test-XXXXXX"));
	assert_non_null(mkdtemp(t.dir));
}

static int end(void **state)
{
	if (t.seat)
		close_all();
	redis_end();
	for (unsigned i = 0; i < 64; i++)
		cached_unref(q[i].got);
	nftw(t.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}

static int with_memory(void **state)
{
	begin();
	str_copy(t.url, sizeof(t.url), STR("memory:"));
	open_all(2000000);
	return 0;
}

static int with_sqlite(void **state)
{
	begin();
	snprintf(t.url, sizeof(t.url), "sqlite:%s/c.db", t.dir);
	open_all(5000000);
	return 0;
}

static int with_redis_within(int64_t lookup_us)
{
	begin();
	if (!redis_there())
		return 0;
	redis_start();
	snprintf(t.url, sizeof(t.url), "redis+unix://geheim%%3a%%20%%40%%2f@%s/r.sock?db=3", t.dir);
	open_all(lookup_us);
	return 0;
}

/* By name, over TCP. */
static int with_redis_tcp(void **state)
{
	begin();
	if (!redis_there())
		return 0;
	t.port = free_port();
	redis_start();
	snprintf(t.url, sizeof(t.url), "redis://:geheim%%3a%%20%%40%%2f@localhost:%u/2", t.port);
	open_all(5000000);
	return 0;
}

static int with_redis(void **state) { return with_redis_within(5000000); }
static int with_impatience(void **state) { return with_redis_within(2000); }

/* --- the contract --- */

static void got(struct cache_ask *a, struct cached *c)
{
	for (unsigned i = 0; i < 64; i++)
		if (a == &q[i].ask) {
			assert_false(q[i].done);
			q[i].done = true;
			q[i].got = c;
			q[i].took_us = mono_us() - q[i].asked_us;
		}
}

static bool all_done(void)
{
	for (unsigned i = 0; i < 64; i++)
		if (q[i].ask.done && !q[i].done)
			return false;
	return true;
}

static void ask(unsigned i, uint64_t n)
{
	uint8_t key[CACHE_KEY_BYTES];
	enum cache_found f;

	cached_unref(q[i].got);
	memset(&q[i], 0, sizeof(q[i]));
	q[i].ask.done = got;
	q[i].asked_us = mono_us();
	key_of(n, key);
	f = cache_get(t.seat, key, &q[i].ask, &q[i].got);
	q[i].done = f != CACHE_ASKED;
}

static struct cached *look(uint64_t n)
{
	ask(0, n);
	run_until(all_done);
	return q[0].got;
}

static void keep(uint64_t n, size_t bytes, int64_t ttl_us)
{
	struct cached *c = value_of(n, bytes, ttl_us);

	cache_put(t.seat, c);
	cached_unref(c);
}

/* Another process: the memory is empty, what is behind it stays. */
static void reopen(void)
{
	close_all();
	open_all(5000000);
}

#define NEEDS_SERVER() do { if (!t.seat) { print_message("          redis-server is not installed\n"); skip(); } } while (0)

static bool is_memory(void) { return strcmp(t.url, "memory:") == 0; }
static uint64_t wanted;
static bool wanted_is_there(void)
{
	uint8_t key[CACHE_KEY_BYTES];
	struct cached *c;

	if (!q[1].ask.done || q[1].done)
		ask(1, wanted);
	key_of(wanted, key);
	c = cache_memory_get(cache_near(t.cache), key, wall_us());
	cached_unref(c);
	return c != NULL;
}

static void a_value_is_found_by_its_key_alone(void **state)
{
	NEEDS_SERVER();
	assert_null(look(1));
	keep(1, 5000, MIN_US);
	assert_non_null(look(1));
	assert_int_equal(q[0].got->n, 5000);
	assert_int_equal(q[0].got->bytes[4999], 'b');
	assert_null(look(2));
}

static void a_value_is_there_for_the_next_process(void **state)
{
	int64_t stored;

	NEEDS_SERVER();
	keep(7, 10000, MIN_US);
	assert_non_null(look(7));
	stored = q[0].got->stored_us;
	if (is_memory())
		return;
	assert_null(look(8));                     /* what is answered now was asked after the value was given away: it is stored */
	reopen();
	wanted = 7;
	run_until(wanted_is_there);
	assert_non_null(look(7));
	assert_int_equal(q[0].got->n, 10000);
	assert_int_equal(q[0].got->stored_us, stored);
}

static void an_expired_value_is_none(void **state)
{
	NEEDS_SERVER();
	keep(3, 10, 300000);
	if (!is_memory()) {
		assert_null(look(8));
		reopen();
	}
	usleep(350000);
	assert_null(look(3));
}

static void the_last_of_one_key_counts(void **state)
{
	NEEDS_SERVER();
	keep(4, 10, MIN_US);
	keep(4, 20, MIN_US);
	assert_int_equal(look(4)->n, 20);
}

static void who_forgets_is_not_called(void **state)
{
	NEEDS_SERVER();
	for (unsigned i = 0; i < 40; i++)
		ask(i, 100 + i);
	for (unsigned i = 0; i < 40; i += 2)
		if (!q[i].done) {
			cache_forget(&q[i].ask);
			q[i].ask.done = NULL;
		}
	run_until(all_done);
	assert_null(look(8));
	for (unsigned i = 0; i < 40; i += 2)
		assert_true(q[i].done == (q[i].ask.done != NULL));
	cache_forget(&q[1].ask);
}

static void a_seat_goes_while_questions_are_under_way(void **state)
{
	NEEDS_SERVER();
	for (unsigned i = 0; i < 40; i++)
		ask(i, 100 + i);
	for (unsigned i = 0; i < 40; i++)
		cache_forget(&q[i].ask);
	close_all();
}

/* --- a Redis that is not well: nobody waits longer than was said --- */

enum { SLOW_US = 2000000 };           /* the machine may be busy with other things; a server that is stopped would never answer */

static unsigned asked_under_load;
static int64_t slowest_us;

static bool load_goes_on(void)
{
	if (!all_done())
		return false;
	for (unsigned i = 0; i < 32; i++) {
		slowest_us = q[i].took_us > slowest_us ? q[i].took_us : slowest_us;
		keep(5000 + asked_under_load, 2000, MIN_US);
		ask(i, 1000000 + asked_under_load++);
	}
	return false;
}

static bool load_is_over(void) { return asked_under_load >= 32 * 40 || load_goes_on(); }

static void load(void)
{
	asked_under_load = 0;
	slowest_us = 0;
	run_until(load_is_over);
	run_until(all_done);
	assert_true(slowest_us < SLOW_US);
}

static void a_stopped_redis_makes_nobody_wait(void **state)
{
	NEEDS_SERVER();
	load();
	kill(t.redis, SIGSTOP);
	load();
	assert_true(t.events[CACHE_LATE] > 0);
	assert_true(t.events[CACHE_RESTING] > 0);         /* after some that were late it was not asked any more */
	assert_false(cache_seat_ready(t.seat));
	kill(t.redis, SIGCONT);
	run_until(is_ready);
	load();
}

static void a_killed_redis_makes_nobody_wait(void **state)
{
	NEEDS_SERVER();
	load();
	redis_end();
	load();
	assert_true(t.events[CACHE_BROKEN] > 0);
	redis_start();
	run_until(is_ready);
	load();
}

static bool was_refused(void) { return t.events[CACHE_BROKEN] >= 2; }

/* A wrong password, a database that is not there, nobody at all: told of, not asked, tried again. */
static void who_is_not_let_in_asks_nothing(void **state)
{
	static const char *const ends[][2] = { { "wrong", "r.sock" }, { "geheim%3a%20%40%2f", "r.sock?db=999" }, { "x", "nobody.sock" } };
	struct cache_opts o = { .url = t.url, .memory_bytes = 1 << 20, .lookup_us = 5000000, .events = t.events };
	struct why why;

	NEEDS_SERVER();
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		close_all();
		memset((void *)t.events, 0, sizeof(t.events));
		snprintf(t.url, sizeof(t.url), "redis+unix://%s@%s/%s", ends[i][0], t.dir, ends[i][1]);
		t.cache = cache_open(&o, &why);
		t.loop = loop_new();
		t.seat = cache_seat_new(t.cache, t.loop);
		run_until(was_refused);
		assert_false(cache_seat_ready(t.seat));
		assert_null(look(1));
		keep(1, 10, MIN_US);
		assert_non_null(look(1));         /* the memory is there all the same */
	}
}

static void a_value_of_another_key_is_none(void **state)
{
	char sock[96], cmd[400];
	uint8_t a[CACHE_KEY_BYTES], b[CACHE_KEY_BYTES];
	char hex_a[65], hex_b[65];

	NEEDS_SERVER();
	snprintf(sock, sizeof(sock), "%s/r.sock", t.dir);
	key_of(1, a);
	key_of(2, b);
	for (unsigned i = 0; i < 32; i++) {
		snprintf(hex_a + 2 * i, 3, "%02x", a[i]);
		snprintf(hex_b + 2 * i, 3, "%02x", b[i]);
	}
	keep(1, 100, MIN_US);
	assert_null(look(8));
	snprintf(cmd, sizeof(cmd), "redis-cli --no-auth-warning -a 'geheim: @/' -n 3 -s %s RENAME corral:%s corral:%s >/dev/null", sock, hex_a, hex_b);
	assert_int_equal(system(cmd), 0);
	assert_null(look(2));
	assert_int_equal(t.events[CACHE_FOREIGN], 1);
}

/* --- the URL --- */

static void what_is_no_cache_is_refused_without_its_password(void **state)
{
	static const char *const wrong[] = { "", "redis:", "redis:/x", "redis://:geheim@h:0", "redis://:geheim@h:99999", "redis://:geheim@h/x", "redis+unix://h/x",
					     "redis+unix://", "redis+unix:///x?database=geheim", "rediss://:geheim@h", "sqlite:", "mysql://geheim@h", "memory:/geheim" };
	static const char *const right[] = { "memory:", "memory", "sqlite:/x/y.db", "redis://h", "redis://h:1", "redis://u:p%40@[::1]:1/2", "redis+unix:///x", "redis+unix://:p@/x?db=1" };
	struct why why;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		if (cache_url_check(wrong[i], &why))
			fail_msg("'%s' is taken", wrong[i]);
		assert_null(strstr(why.text, "geheim"));
	}
	for (size_t i = 0; i < sizeof(right) / sizeof(*right); i++)
		if (!cache_url_check(right[i], &why))
			fail_msg("'%s': %s", right[i], why.text);
}

#define ON(driver, test) { #test " on " #driver, test, with_##driver, end, NULL }
#define ON_ALL(test) ON(memory, test), ON(sqlite, test), ON(redis, test), ON(redis_tcp, test)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_put_is_there_until_its_time_is_over),
		cmocka_unit_test(a_value_outlives_its_place),
		cmocka_unit_test(no_more_bytes_are_held_than_were_allowed),
		cmocka_unit_test(a_scan_takes_nothing_away_that_is_asked_for),
		cmocka_unit_test(a_tenth_of_the_size_is_enough_for_forty_hits_in_a_hundred),
		cmocka_unit_test(hmac_is_that_of_the_rfc),
		cmocka_unit_test(what_is_no_cache_is_refused_without_its_password),
		ON_ALL(a_value_is_found_by_its_key_alone),
		ON_ALL(a_value_is_there_for_the_next_process),
		ON_ALL(an_expired_value_is_none),
		ON_ALL(the_last_of_one_key_counts),
		ON_ALL(who_forgets_is_not_called),
		ON_ALL(a_seat_goes_while_questions_are_under_way),
		{ "a_stopped_redis_makes_nobody_wait", a_stopped_redis_makes_nobody_wait, with_impatience, end, NULL },
		{ "a_killed_redis_makes_nobody_wait", a_killed_redis_makes_nobody_wait, with_impatience, end, NULL },
		{ "who_is_not_let_in_asks_nothing", who_is_not_let_in_asks_nothing, with_redis, end, NULL },
		{ "a_value_of_another_key_is_none", a_value_of_another_key_is_none, with_redis, end, NULL },
	};

	clock_init();
	signal(SIGPIPE, SIG_IGN);          /* as every program does */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
