/* http_local_test.c - an exchange without a connection: answers whole, in parts, broken off; and one that is left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/io/http_local.h"

static struct buf heard;
static const char *gone;

static void on_start(void *arg, int status, struct str headers) { (void)arg, buf_printf(&heard, "%d " STR_FMT, status, STR_ARG(headers)); }
static void on_data(void *arg, struct str data) { (void)arg, buf_printf(&heard, "[" STR_FMT "]", STR_ARG(data)); }
static void on_end(void *arg, bool whole) { (void)arg, buf_addz(&heard, whole ? "end" : "broken"); }
static void on_gone(struct http_xchg *x, const char *why) { gone = x->user ? why : NULL; }

static const struct http_local_ops ops = { on_start, on_data, on_end };

static struct http_local *begin(void)
{
	struct http_local *l = http_local_new(STR("/p"), STR("body"), "here", &ops, NULL);
	struct http_xchg *x = http_local_xchg(l);

	buf_clear(&heard);
	gone = NULL;
	x->user = &gone;
	x->on_gone = on_gone;
	assert_true(str_eqz(x->path, "/p") && str_eqz(x->body, "body") && str_eqz(x->head.method, "POST"));
	assert_null(http_find(&x->head, "authorization"));
	return l;
}

static void answered_whole(void **state)
{
	struct http_local *l = begin();

	http_reply(http_local_xchg(l), 200, STR("A: b\r\n"), STR("hello"));
	assert_string_equal(buf_z(&heard), "200 A: b\r\n[hello]end");
	http_local_leave(l, "late");
	assert_null(gone);
	http_local_free(l);
}

static void answered_in_parts(void **state)
{
	struct http_local *l = begin();
	struct http_xchg *x = http_local_xchg(l);

	http_reply_data(x, STR("before the head"));
	http_reply_start(x, 200, STR(""), -1);
	http_reply_start(x, 500, STR("twice"), -1);
	http_reply_data(x, STR("a"));
	assert_false(http_reply_full(x));
	assert_true(http_reply_started(x));
	http_reply_data(x, STR("b"));
	http_reply_end(x);
	http_reply_data(x, STR("behind the end"));
	assert_string_equal(buf_z(&heard), "200 [a][b]end");
	http_local_free(l);
}

static void broken_off(void **state)
{
	struct http_local *l = begin();

	http_reply_end(http_local_xchg(l));              /* without an answer */
	assert_string_equal(buf_z(&heard), "broken");
	http_local_free(l);
}

static void left(void **state)
{
	struct http_local *l = begin();

	http_local_leave(l, "enough");
	assert_string_equal(gone, "enough");
	http_reply(http_local_xchg(l), 200, STR(""), STR("to nobody"));
	assert_int_equal(heard.n, 0);
	http_local_free(l);
	buf_free(&heard);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answered_whole), cmocka_unit_test(answered_in_parts), cmocka_unit_test(broken_off), cmocka_unit_test(left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
