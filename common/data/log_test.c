/* log_test.c - lines as they come out at the other end of a pipe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "common/data/log.h"

static int saved, pipe_fd[2];
static char out[1 << 20];

static void capture(void)
{
	fflush(stderr);
	saved = dup(STDERR_FILENO);
	assert_int_equal(pipe(pipe_fd), 0);
	dup2(pipe_fd[1], STDERR_FILENO);
}

static const char *captured(void)
{
	size_t n = 0;
	ssize_t got;

	dup2(saved, STDERR_FILENO);
	close(saved);
	close(pipe_fd[1]);
	while ((got = read(pipe_fd[0], out + n, sizeof(out) - 1 - n)) > 0)
		n += (size_t)got;
	close(pipe_fd[0]);
	out[n] = '\0';
	return out;
}

static void writes_json(void **state)
{
	const char *p;

	capture();
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	log_thread_service("gateway");
	LOG_DEBUG("not this");
	LOG_INFO("backend is back", LOG_S("backend", "gpu1"), LOG_I("after_ms", 1200), LOG_B("warm", true), LOG_D("load", 0.5));
	p = captured();
	assert_memory_equal(p, "{\"ts\":\"20", 9);
	assert_string_equal(strstr(p, ",\"level\""), ",\"level\":\"info\",\"service\":\"gateway\",\"msg\":\"backend is back\","
			    "\"backend\":\"gpu1\",\"after_ms\":1200,\"warm\":true,\"load\":0.5}\n");
}

static void writes_without_fields(void **state)
{
	capture();
	log_init(LOG_LEVEL_DEBUG, LOG_FORMAT_JSON);
	log_thread_service(NULL);
	LOG_DEBUG("x");
	assert_non_null(strstr(captured(), "\"service\":\"\",\"msg\":\"x\"}\n"));
}

static void no_value_forges_a_line(void **state)
{
	capture();
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	LOG_INFO("a", LOG_S("v", "x\n{\"level\":\"error\"}\x1b[2J\x7f\xc2\x9b\xff\"\\"));
	assert_string_equal(strstr(captured(), "\"v\""),
			    "\"v\":\"x\\n{\\\"level\\\":\\\"error\\\"}\\u001b[2J\\u007f\\u009b\xef\xbf\xbd\\\"\\\\\"}\n");
	capture();
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	LOG_INFO("a\nb", LOG_S("v", "x\n09:00 ERROR"));
	assert_string_equal(strstr(captured(), "a\\nb"), "a\\nb v=\"x\\n09:00 ERROR\"\n");
}

static void writes_text(void **state)
{
	const char *p;

	capture();
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	log_thread_service("gateway");
	LOG_WARN("backend is away", LOG_S("backend", "gpu1"), LOG_S("why", "refused it"), LOG_S("none", NULL), LOG_I("n", -3));
	p = captured();
	assert_string_equal(p + 13, "WARN  gateway: backend is away backend=gpu1 why=\"refused it\" none=\"\" n=-3\n");
	assert_true(p[2] == ':' && p[8] == '.');
}

static void long_lines_stay_whole(void **state)
{
	static char big[8000];
	const char *p;

	memset(big, '\x01', sizeof(big) - 1);
	capture();
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	LOG_INFO("m", LOG_S("a", big), LOG_I("n", 1));
	p = captured();
	assert_string_equal(strstr(p, "\"msg\""), "\"msg\":\"m\",\"n\":1,\"cut\":true}\n");

	memset(big, 'x', sizeof(big) - 1);
	capture();
	LOG_INFO("m", LOG_S("a", big), LOG_S("b", big), LOG_S("c", big));
	p = captured();
	assert_true(strlen(p) <= 4096);
	assert_non_null(strstr(p, "x\xe2\x80\xa6\",\"cut\":true}\n"));
}

static void never_blocks(void **state)
{
	static char big[1400];
	uint64_t before = log_dropped();

	memset(big, 'y', sizeof(big) - 1);
	capture();
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);

	for (int i = 0; i < 100; i++)      /* nobody reads: 64 KiB fit */
		LOG_INFO("m", LOG_S("a", big));
	assert_true(log_dropped() > before);
	for (const char *line = captured(), *end; *line; line = end + 1) {
		end = strchr(line, '\n');
		assert_non_null(end);
		assert_memory_equal(line, "{\"ts\":\"", 7);
		assert_true(end[-1] == '}');
	}
}

static void *talk(void *arg)
{
	log_thread_service(arg);
	for (int i = 0; i < 50; i++)
		LOG_INFO("from a thread", LOG_I("i", i), LOG_S("who", arg));
	return NULL;
}

static void threads_do_not_mix(void **state)
{
	static const char *const names[] = { "one", "two", "three", "four" };
	pthread_t t[4];
	unsigned lines = 0;

	capture();
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, talk, (void *)(uintptr_t)names[i]);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (const char *line = captured(), *end; *line; line = end + 1, lines++) {
		end = strchr(line, '\n');
		assert_memory_equal(line, "{\"ts\":\"", 7);
		assert_memory_equal(end - 2, "\"}", 2);
	}
	assert_int_equal(lines, 200);
}

static void parses_levels(void **state)
{
	enum log_level l = LOG_LEVEL_INFO;

	assert_true(log_level_parse("WARN", &l) && l == LOG_LEVEL_WARN);
	assert_false(log_level_parse("loud", &l));
	assert_string_equal(log_level_name(LOG_LEVEL_ERROR), "error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_json), cmocka_unit_test(writes_without_fields), cmocka_unit_test(no_value_forges_a_line),
		cmocka_unit_test(writes_text), cmocka_unit_test(long_lines_stay_whole), cmocka_unit_test(never_blocks),
		cmocka_unit_test(threads_do_not_mix), cmocka_unit_test(parses_levels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
