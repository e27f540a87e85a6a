/* resolve_test.c - look-ups that answer, fail, and hang: getaddrinfo() here is the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/io/resolve.h"

static int64_t *clock_shift;
static struct loop *loop;
static atomic_int asked, hang;        /* so many of the calls to come hang until 'free_all' */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool free_all;

static struct { int calls; struct addresses to; const char *error; } got;

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **ret)
{
	struct addrinfo *ai = calloc(1, sizeof(*ai) + sizeof(struct sockaddr_in));
	struct sockaddr_in *sa = (struct sockaddr_in *)(void *)(ai + 1);

	atomic_fetch_add(&asked, 1);
	if (atomic_fetch_sub(&hang, 1) > 0) {
		pthread_mutex_lock(&lock);
		while (!free_all)
			pthread_cond_wait(&wake, &lock);
		pthread_mutex_unlock(&lock);
	}
	if (strcmp(host, "nobody") == 0) {
		free(ai);
		return EAI_NONAME;
	}
	*sa = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	ai->ai_addr = (struct sockaddr *)sa;
	ai->ai_addrlen = sizeof(*sa);
	*ret = ai;
	return 0;
}

void freeaddrinfo(struct addrinfo *ai) { free(ai); }

static void done(void *arg, const struct addresses *to, const char *error)
{
	got.calls++;
	got.to = *to;
	got.error = error;
	loop_stop(loop);
}

static int set_up(void **state)
{
	loop = loop_new();
	memset(&got, 0, sizeof(got));
	atomic_store(&asked, 0);
	atomic_store(&hang, 0);
	free_all = false;
	return 0;
}

static void let_them_go(void)
{
	pthread_mutex_lock(&lock);
	free_all = true;
	pthread_cond_broadcast(&wake);
	pthread_mutex_unlock(&lock);
}

static int tear_down(void **state)
{
	let_them_go();
	loop_free(loop);
	return 0;
}

/* Time passes once that many look-ups have begun. */
static struct { struct loop_timer timer; int asked; int64_t ms; } then;

static void pass(struct loop_timer *t)
{
	if (atomic_load(&asked) >= then.asked) {
		__atomic_fetch_add(&clock_shift[0], then.ms * 1000, __ATOMIC_RELAXED);
		then.asked++;
	}
	loop_timer_set(loop, t, 1000, pass);
}

static void passing(int64_t ms)
{
	then.asked = 1;
	then.ms = ms;
	loop_timer_set(loop, &then.timer, 0, pass);
	loop_run(loop);
	loop_timer_del(&then.timer);
}

static void a_name_has_addresses(void **state)
{
	assert_non_null(resolve_start(loop, "somebody", 80, done, NULL));
	loop_run(loop);
	assert_int_equal(got.to.n, 1);
	assert_int_equal(((struct sockaddr_in *)(void *)&got.to.list[0].sa)->sin_port, htons(80));
}

static void an_error_is_told_at_once(void **state)
{
	assert_non_null(resolve_start(loop, "nobody", 80, done, NULL));
	loop_run(loop);
	assert_int_equal(got.to.n, 0);
	assert_string_equal(got.error, gai_strerror(EAI_NONAME));
	assert_int_equal(atomic_load(&asked), 1);
}

static void one_that_hangs_is_passed_by(void **state)
{
	atomic_store(&hang, 1);
	assert_non_null(resolve_start(loop, "late", 80, done, NULL));
	passing(2100);
	assert_int_equal(got.to.n, 1);
	assert_int_equal(atomic_load(&asked), 2);
	let_them_go();                            /* what it says now is nobody's */
	usleep(20000);
	assert_int_equal(got.calls, 1);
}

static void when_all_hang_it_has_an_end(void **state)
{
	atomic_store(&hang, 10);
	assert_non_null(resolve_start(loop, "never", 80, done, NULL));
	passing(2100);
	assert_int_equal(got.to.n, 0);
	assert_string_equal(got.error, "the name service does not answer");
	assert_int_equal(atomic_load(&asked), 3);
}

static void stop(struct loop_timer *t) { loop_stop(t->loop); }

static void cancelled_nobody_is_told(void **state)
{
	struct loop_timer t = { 0 };

	atomic_store(&hang, 1);
	resolve_cancel(resolve_start(loop, "late", 80, done, NULL));
	let_them_go();
	loop_timer_set(loop, &t, 30000, stop);
	loop_run(loop);
	assert_int_equal(got.calls, 0);
}

/* A name service that answers nobody does not fill the process with threads. */
static void threads_have_a_limit(void **state)
{
	struct resolver *all[100];
	int n = 0;

	atomic_store(&hang, 1000);
	for (int i = 0; i < 100; i++)
		n += (all[i] = resolve_start(loop, "never", 80, done, NULL)) != NULL;
	assert_in_range(n, 32, 64);
	for (int i = 0; i < 100; i++)
		resolve_cancel(all[i]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(a_name_has_addresses), T(an_error_is_told_at_once), T(one_that_hangs_is_passed_by), T(when_all_hang_it_has_an_end),
		T(cancelled_nobody_is_told), T(threads_have_a_limit),
	};
	char path[] = "/tmp/corral-resolve-clock.XXXXXX";
	int fd = mkstemp(path), rc;

	if (fd < 0 || ftruncate(fd, 16) != 0)
		return 1;
	clock_shift = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	setenv("CORRAL_TEST_CLOCK", path, 1);
	clock_init();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return rc;
}
