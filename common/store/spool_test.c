/* spool_test.c - records stay, whole and in order: over restarts, kill -9, full disks and failed syncs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/store/crc32c.h"
#include "common/store/spool.h"
#include "common/store/spool_file.h"

/* --- the system, as it behaves on bad days: these stand in front of libc's --- */

static _Atomic int fail_sync;             /* syncs that fail with EIO */
static _Atomic bool no_fallocate;

int msync(void *at, size_t n, int flags)
{
	if (fail_sync > 0) {
		fail_sync--;
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_msync, at, n, flags);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
	if (no_fallocate) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, at, n);
}

/* --- a directory per test --- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static int dir_make(void **state)
{
	char path[] = "/tmp/spool-test-XXXXXX";

	assert_non_null(mkdtemp(path));
	*state = x_strdup(path);
	return 0;
}

static int dir_remove(void **state)
{
	nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(*state);
	return 0;
}

static const struct spool_opts small = { .segment_bytes = 4096, .sync_ms = 0 };

/* A payload of n bytes that tells its number and can be checked. */
static struct str payload(char *out, uint64_t number, size_t n)
{
	memset(out, (int)(number * 31 + 7), n);
	memcpy(out, &number, n < 8 ? n : 8);
	return str_n(out, n);
}

static void payload_check(struct str p, uint64_t number)
{
	uint64_t got;

	assert_true(p.n >= 8);
	memcpy(&got, p.p, 8);
	assert_int_equal(got, number);
	for (size_t i = 8; i < p.n; i++)
		assert_int_equal((uint8_t)p.p[i], (uint8_t)(number * 31 + 7));
}

/* Reads on; returns how many records came, each checked to be the next number. */
static uint64_t read_all(struct spool_reader *r, uint64_t number, uint64_t *ret_next)
{
	struct str p;
	uint64_t at, next = 0, n = 0;
	uint8_t type;
	int rc;

	while ((rc = spool_read(r, &type, &p, &at, &next, NULL)) == 1) {
		payload_check(p, number + n);
		n++;
	}
	assert_int_equal(rc, 0);
	if (ret_next && n)
		*ret_next = next;
	return n;
}

static uint64_t count_from(const char *dir, uint64_t position, uint64_t number)
{
	struct spool_reader *r = spool_reader_open(dir, position, NULL);
	uint64_t n;

	assert_non_null(r);
	n = read_all(r, number, NULL);
	spool_reader_close(r);
	return n;
}

static void append_numbers(struct spool *s, uint64_t from, uint64_t to, size_t n)
{
	char out[4096];

	for (uint64_t i = from; i < to; i++)
		assert_true(spool_append(s, (uint8_t)i, payload(out, i, n + i % 7), NULL) >= 0);
}

/* --- */

static void sums_as_published(void **state)
{
	char text[300];

	assert_int_equal(crc32c("123456789", 9), 0xe3069283);
	assert_int_equal(crc32c_table("123456789", 9), 0xe3069283);
	for (size_t i = 0; i < sizeof(text); i++) {
		text[i] = (char)(i * 7 + 3);
		assert_int_equal(crc32c(text, i), crc32c_table(text, i));
	}
}

static void reads_what_was_written(void **state)
{
	struct why why = { 0 };
	struct spool *s = spool_open(*state, &small, &why);
	struct spool_reader *r = spool_reader_open(*state, 0, &why);
	struct str p;
	uint64_t at, next, end;
	uint8_t type;

	assert_non_null(s);
	assert_int_equal(spool_read(r, &type, &p, &at, &next, &why), 0);
	end = spool_end(s);
	assert_int_equal(spool_append(s, 9, STR(""), &why), end);
	assert_int_equal(spool_read(r, &type, &p, &at, &next, &why), 1);
	assert_int_equal(type, 9);
	assert_int_equal(p.n, 0);
	assert_int_equal(at, end);
	assert_int_equal(next, spool_end(s));
	append_numbers(s, 0, 500, 20);
	assert_int_equal(read_all(r, 0, &next), 500);
	assert_int_equal(next, spool_end(s));
	append_numbers(s, 500, 501, 20);
	assert_int_equal(read_all(r, 500, NULL), 1);
	spool_reader_close(r);
	spool_close(s);
}

static void resumes_at_any_record(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	char out[256];
	int64_t at[300];

	for (uint64_t i = 0; i < 300; i++)
		at[i] = spool_append(s, 1, payload(out, i, 100), NULL);
	for (uint64_t i = 0; i < 300; i += 7) {
		assert_int_equal(count_from(*state, (uint64_t)at[i], i), 300 - i);
		assert_int_equal(count_from(*state, (uint64_t)at[i] + 1, i + 1), 299 - i);
	}
	assert_int_equal(count_from(*state, spool_end(s), 0), 0);
	spool_close(s);
}

static void goes_on_after_a_restart(void **state)
{
	uint64_t epoch = 0, e, origin, first_origin = 0, end = 0;

	for (uint64_t run = 0; run < 20; run++) {
		struct spool *s = spool_open(*state, &small, NULL);

		assert_true(run == 0 || spool_epoch(s) == epoch + 1);
		assert_true(run == 0 || spool_end(s) == end);
		epoch = spool_epoch(s);
		assert_true(spool_identity(*state, &e, &origin, NULL) && e == epoch);
		assert_true(run == 0 || origin == first_origin);
		first_origin = origin;
		append_numbers(s, run * 37, (run + 1) * 37, 50);
		end = spool_end(s);
		spool_close(s);
	}
	assert_int_equal(count_from(*state, 0, 0), 20 * 37);
	assert_int_equal(count_from(*state, first_origin, 0), 20 * 37);
}

static void keeps_a_second_writer_out(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	struct why why = { 0 };

	assert_null(spool_open(*state, &small, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	spool_close(s);
	s = spool_open(*state, &small, &why);
	assert_non_null(s);
	spool_close(s);
}

static void reserves_and_commits(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	char out[64];
	uint8_t *p;

	for (uint64_t i = 0; i < 400; i++) {
		p = spool_reserve(s, 1000, NULL);
		assert_non_null(p);
		memset(p, 0xee, 1000);
		if (i % 3 == 0)
			assert_int_equal(spool_commit(s, 1, 0), -1);
		memcpy(p, payload(out, i, 40).p, 40);
		if (i % 5 == 0)
			assert_true(spool_append(s, 1, payload(out, i, 40), NULL) >= 0);
		else
			assert_true(spool_commit(s, 1, 40) >= 0);
	}
	spool_close(s);
	assert_int_equal(count_from(*state, 0, 0), 400);
	s = spool_open(*state, &small, NULL);
	append_numbers(s, 400, 410, 40);
	assert_int_equal(count_from(*state, 0, 0), 410);
	spool_close(s);
}

static void refuses_what_no_segment_holds(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	struct why why = { 0 };
	static char big[8192];

	assert_int_equal(spool_append(s, 1, str_n(big, 4090), &why), -1);
	assert_int_equal(why.code, ERR_TOO_LARGE);
	assert_null(spool_reserve(s, 1u << 30, &why));
	assert_true(spool_append(s, 1, str_n(big, 4080), &why) >= 0);
	assert_true(spool_append(s, 1, str_n(big, 4080), &why) >= 0);
	spool_close(s);
}

static void releases_whole_segments(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	struct spool_reader *slow = spool_reader_open(*state, 0, NULL);
	uint64_t next = 0, before, at;
	struct str p;
	uint8_t type;

	append_numbers(s, 0, 1, 100);
	assert_int_equal(spool_read(slow, &type, &p, &at, &next, NULL), 1);
	append_numbers(s, 1, 1000, 100);
	before = spool_bytes(s);
	spool_release(s, next);
	assert_int_equal(spool_bytes(s), before);
	spool_release(s, spool_end(s));
	assert_int_equal(spool_bytes(s), 4096);
	/* The open segment is still read to its end; what was released behind it is passed over, not damage. */
	while (spool_read(slow, &type, &p, &at, &next, NULL) == 1)
		;
	assert_int_equal(next, spool_end(s));
	append_numbers(s, 1000, 1001, 100);
	assert_int_equal(read_all(slow, 1000, NULL), 1);
	spool_reader_close(slow);
	spool_close(s);
}

static void is_full_until_released(void **state)
{
	struct spool_opts o = { .segment_bytes = 4096, .sync_ms = 5, .max_bytes = 3 * 4096 };
	struct spool *s = spool_open(*state, &o, NULL);
	struct why why = { 0 };
	char out[1000];
	uint64_t n = 0;

	while (spool_append(s, 1, payload(out, n, 1000), &why) >= 0)
		n++;
	assert_int_equal(n, 12);
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_non_null(strstr(why.text, "acknowledged"));
	spool_release(s, spool_end(s));
	why.code = ERR_OK;
	assert_int_equal(spool_append(s, 1, payload(out, n, 1000), &why), -1);        /* too soon */
	assert_int_equal(why.code, ERR_STORE_FAILED);
	usleep(120 * 1000);
	assert_true(spool_append(s, 1, payload(out, n, 1000), &why) >= 0);
	spool_close(s);
	assert_int_equal(count_from(*state, 0, 12), 1);
}

static void zero_fills_where_fallocate_is_missing(void **state)
{
	struct spool *s;

	no_fallocate = true;
	s = spool_open(*state, &small, NULL);
	append_numbers(s, 0, 200, 100);
	spool_close(s);
	s = spool_open(*state, &small, NULL);
	append_numbers(s, 200, 300, 100);
	spool_close(s);
	no_fallocate = false;
	assert_int_equal(count_from(*state, 0, 0), 300);
}

static void opens_another_segment_after_a_failed_sync(void **state)
{
	struct spool_opts o = { .segment_bytes = 1 << 20, .sync_ms = 1 };
	struct spool *s = spool_open(*state, &o, NULL);

	append_numbers(s, 0, 10, 100);
	fail_sync = 1;
	append_numbers(s, 10, 20, 100);
	for (int i = 0; i < 2000 && spool_sync_errors(s) == 0; i++)
		usleep(1000);
	assert_int_equal(spool_sync_errors(s), 1);
	append_numbers(s, 20, 30, 100);
	assert_int_equal(spool_bytes(s), 2 << 20);
	spool_close(s);
	assert_int_equal(count_from(*state, 0, 0), 30);
}

/* --- damage --- */

static void patch(const char *dir, uint64_t position, uint64_t first, const void *p, size_t n)
{
	char name[24], path[256];
	int fd;

	spool_name(first, name);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0 && pwrite(fd, p, n, (off_t)(position - first)) == (ssize_t)n);
	close(fd);
}

static void passes_over_a_damaged_segment(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	uint64_t origin, e, at, next, bad = 0;
	struct spool_reader *r;
	struct why why = { 0 };
	struct str p;
	uint8_t type;
	int n = 0, rc;

	assert_true(spool_identity(*state, &e, &origin, NULL));
	append_numbers(s, 0, 100, 100);
	patch(*state, origin + 5 * 112 + 40, origin, "X", 1);
	r = spool_reader_open(*state, 0, NULL);
	while ((rc = spool_read(r, &type, &p, &at, &next, &why)) != 0) {
		n += rc == 1;
		if (rc == -1) {
			bad = at;
			assert_int_equal(next, origin + 4096);
		}
	}
	assert_true(bad > origin && bad <= origin + 5 * 120);
	assert_true(n > 60 && n < 100);
	assert_non_null(strstr(why.text, "checksum"));
	spool_reader_close(r);
	spool_close(s);
}

static void keeps_a_damaged_tail_and_goes_on_behind_it(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	uint64_t end, e, origin, at, next;
	struct spool_reader *r;
	struct str p;
	uint8_t type;

	append_numbers(s, 0, 3, 100);
	end = spool_end(s);
	assert_true(spool_identity(*state, &e, &origin, NULL));
	spool_close(s);
	/* A power cut may keep the length and lose the rest. */
	patch(*state, end, origin, "\x64\0\0\0", 4);
	s = spool_open(*state, &small, NULL);
	assert_int_equal(spool_end(s), origin + 4096);
	append_numbers(s, 3, 5, 100);
	r = spool_reader_open(*state, 0, NULL);
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(spool_read(r, &type, &p, &at, &next, NULL), 1);
	assert_int_equal(spool_read(r, &type, &p, &at, &next, NULL), -1);
	assert_int_equal(at, end);
	assert_int_equal(read_all(r, 3, NULL), 2);
	spool_reader_close(r);
	spool_close(s);
}

static void clears_what_a_kill_left_behind(void **state)
{
	struct spool *s = spool_open(*state, &small, NULL);
	uint64_t end, e, origin;

	append_numbers(s, 0, 3, 100);
	end = spool_end(s);
	assert_true(spool_identity(*state, &e, &origin, NULL));
	spool_close(s);
	patch(*state, end + 4, origin, "half a record, its length was not stored", 40);
	s = spool_open(*state, &small, NULL);
	assert_int_equal(spool_end(s), end);
	append_numbers(s, 3, 4, 8);
	append_numbers(s, 4, 5, 8);
	spool_close(s);
	assert_int_equal(count_from(*state, 0, 0), 5);
}

/* --- while it is written --- */

enum { LIVE = 200000 };

static void *write_live(void *arg)
{
	append_numbers(arg, 0, LIVE, 60);
	return NULL;
}

static void reads_while_another_thread_writes(void **state)
{
	struct spool_opts o = { .segment_bytes = 64 << 10, .sync_ms = 2 };
	struct spool *s = spool_open(*state, &o, NULL);
	struct spool_reader *r = spool_reader_open(*state, 0, NULL);
	uint64_t n = 0, next = 0;
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, write_live, s), 0);
	while (n < LIVE) {
		n += read_all(r, n, &next);
		spool_release(s, next);
	}
	pthread_join(t, NULL);
	assert_true(spool_bytes(s) <= 3 * (64 << 10));
	spool_reader_close(r);
	spool_close(s);
}

/* --- kill -9 --- */

/* Appends until it is killed and reports the count through the pipe, after the append returned. */
static void append_for_ever(const char *dir, int fd, uint64_t number)
{
	struct spool_opts o = { .segment_bytes = 64 << 10, .sync_ms = 3 };
	struct spool *s = spool_open(dir, &o, NULL);
	char out[2048];

	if (!s)
		_exit(1);
	for (;; number++) {
		if (spool_append(s, 1, payload(out, number, 20 + number * 37 % 1500), NULL) < 0)
			_exit(2);
		if (write(fd, &number, sizeof(number)) != sizeof(number))
			_exit(3);
	}
}

static uint64_t drain_pipe(int fd, uint64_t reported)
{
	uint64_t got[512];
	ssize_t n;

	while ((n = read(fd, got, sizeof(got))) > 0)
		reported = got[n / 8 - 1] + 1;
	return reported;
}

static void loses_nothing_it_reported_to_a_kill(void **state)
{
	uint64_t written = 0, total = 0, next = 0;
	struct spool_reader *r = spool_reader_open(*state, 0, NULL);
	const char *rounds_text = getenv("SPOOL_KILL_ROUNDS");
	uint64_t rounds = 200;

	if (rounds_text)
		assert_true(str_u64(str_of(rounds_text), &rounds));
	srandom(20261121);
	for (uint64_t i = 0; i < rounds; i++) {
		int fds[2], status;
		uint64_t reported;
		pid_t pid;

		assert_int_equal(pipe(fds), 0);
		pid = fork();
		if (pid == 0)
			append_for_ever(*state, fds[1], total);
		close(fds[1]);
		usleep((useconds_t)(random() % 12000));
		kill(pid, SIGKILL);
		reported = drain_pipe(fds[0], total);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		close(fds[0]);
		/* Everything reported is there; at most one more was written and not reported. */
		written = total + read_all(r, total, &next);
		assert_in_range(written, reported, reported + 1);
		total = written;
	}
	spool_reader_close(r);
	assert_true(total > rounds);
	assert_int_equal(count_from(*state, 0, 0), total);
	print_message("%" PRIu64 " records over %" PRIu64 " kills\n", total, rounds);
}

/* --- full disks --- */

/* Without a file system of its own to fill, the limit on a file's size refuses the blocks of a new segment in the same place. */
static void full_disk_by_limit(void **state)
{
	struct spool_opts o = { .segment_bytes = 64 << 10, .sync_ms = 2 };
	struct spool *s = spool_open(*state, &o, NULL);
	struct rlimit old, low;
	struct why why = { 0 };
	char out[1000];
	uint64_t n = 0;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	while (n < 10)
		assert_true(spool_append(s, 1, payload(out, n++, 1000), NULL) >= 0);
	low = (struct rlimit){ 4096, old.rlim_max };
	setrlimit(RLIMIT_FSIZE, &low);
	while (spool_append(s, 1, payload(out, n, 1000), &why) >= 0)
		n++;
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_int_equal(n, 64);
	assert_int_equal(spool_append(s, 1, payload(out, n, 1000), &why), -1);
	setrlimit(RLIMIT_FSIZE, &old);
	usleep(120 * 1000);
	assert_true(spool_append(s, 1, payload(out, n++, 1000), NULL) >= 0);
	spool_close(s);
	assert_int_equal(count_from(*state, 0, 0), n);
}

/* In a child with a mount namespace of its own: exit 0 = as it should be, 77 = no right to mount. */
static int fill_tmpfs(const char *dir)
{
	struct spool_opts o = { .segment_bytes = 64 << 10, .sync_ms = 2 };
	struct spool *s;
	struct why why = { 0 };
	char out[1000];
	uint64_t n = 0, released = 0;

	if ((unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("tmpfs", dir, "tmpfs", 0, "size=1m") != 0)
		return 77;
	s = spool_open(dir, &o, &why);
	if (!s)
		return 1;
	while (spool_append(s, 1, payload(out, n, 1000), &why) >= 0)
		n++;
	if (why.code != ERR_STORE_FAILED || !strstr(why.text, "No space left") || n < 800)
		return 2;
	released = spool_end(s);
	spool_release(s, released);
	usleep(120 * 1000);
	if (spool_append(s, 1, payload(out, n, 1000), &why) < 0)
		return 3;
	spool_close(s);
	return 0;
}

static void full_disk_by_tmpfs(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(fill_tmpfs(*state));
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("skipped: no right to mount a tmpfs\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- cost --- */

static double cpu_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Appends n records, every 100 of them followed by a pause; ns of CPU each, of the writer and of the whole process. */
static double append_cost(struct spool *s, int n, useconds_t pause_us, double *ret_process)
{
	double a, b, writer = 0;
	char out[200];

	payload(out, 1, 200);
	b = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
	for (int i = 0; i < n;) {
		a = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
		for (int k = 0; k < 100; k++, i++)
			assert_true(spool_append(s, 1, str_n(out, 200), NULL) >= 0);
		writer += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - a;
		if (pause_us)
			usleep(pause_us);
	}
	*ret_process = (cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - b) / n;
	return writer / n;
}

static void costs_little(void **state)
{
	struct spool *s = spool_open(*state, NULL, NULL);
	double process, ns = append_cost(s, 100000, 1500, &process);

	print_message("append of 200 bytes, at about 60,000 a second: %.0f ns of the writer's CPU, %.0f of the process (pauses and syncs included)\n", ns, process);
	ns = append_cost(s, 300000, 0, &process);
	print_message("as fast as it goes: %.0f ns of the writer's CPU, %.0f of the process\n", ns, process);
	assert_true(ns < 20000);      /* a sanitizer on a busy machine included */
	spool_close(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, dir_make, dir_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_as_published),
		T(reads_what_was_written),
		T(resumes_at_any_record),
		T(goes_on_after_a_restart),
		T(keeps_a_second_writer_out),
		T(reserves_and_commits),
		T(refuses_what_no_segment_holds),
		T(releases_whole_segments),
		T(is_full_until_released),
		T(zero_fills_where_fallocate_is_missing),
		T(opens_another_segment_after_a_failed_sync),
		T(passes_over_a_damaged_segment),
		T(keeps_a_damaged_tail_and_goes_on_behind_it),
		T(clears_what_a_kill_left_behind),
		T(reads_while_another_thread_writes),
		T(loses_nothing_it_reported_to_a_kill),
		T(full_disk_by_limit),
		T(full_disk_by_tmpfs),
		T(costs_little),
	};

	clock_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
