/* base_test.c - strings, arenas, buffers, ids and times. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/id.h"
#include "common/base/list.h"
#include "common/base/str.h"

static void splits_strings(void **state)
{
	struct str rest = STR("a,,b"), part;

	assert_true(str_split(&rest, ',', &part) && str_eqz(part, "a"));
	assert_true(str_split(&rest, ',', &part) && part.n == 0);
	assert_true(str_split(&rest, ',', &part) && str_eqz(part, "b"));
	assert_false(str_split(&rest, ',', &part));
}

static void converts_numbers_strictly(void **state)
{
	uint64_t u = 7;
	int64_t i = 7;
	double d;

	assert_true(str_u64(STR("18446744073709551615"), &u) && u == UINT64_MAX);
	assert_false(str_u64(STR("18446744073709551616"), &u));
	assert_false(str_u64(STR(" 1"), &u) || str_u64(STR(""), &u) || str_u64(STR("+1"), &u));
	assert_true(str_i64(STR("-9223372036854775808"), &i) && i == INT64_MIN);
	assert_false(str_i64(STR("9223372036854775808"), &i) || str_i64(STR("-"), &i));
	assert_true(str_double(STR("2.5e3"), &d) && d == 2500);
	assert_false(str_double(STR("1x"), &d) || str_double(STR(" 1"), &d));
}

static char plain_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c; }

/* Every pair of bytes, at each place of words that are compared byte by byte, eight at a time, and both. */
static void ignores_case(void **state)
{
	char a[21], b[21];

	for (size_t n = 1; n <= 20; n++)
		for (size_t at = 0; at < n; at += n > 3 ? 3 : 1)
			for (int x = 0; x < 65536; x++) {
				memset(a, 'q', n);
				memset(b, 'Q', n);
				a[at] = (char)x;
				b[at] = (char)(x >> 8);
				if (str_ieq(str_n(a, n), str_n(b, n)) != (plain_lower(a[at]) == plain_lower(b[at])))
					fail_msg("bytes %02x and %02x, place %zu of %zu", x & 255, x >> 8, at, n);
			}
	assert_true(str_ieq(STR(""), STR("")) && !str_ieq(STR("a"), STR("ab")));
	assert_true(str_ifind(STR("application/JSON; x"), STR("json")) && !str_ifind(STR("application/jso"), STR("json")));
}

static void checks_utf8(void **state)
{
	assert_true(str_utf8_valid(STR("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80")));
	assert_false(str_utf8_valid(STR("\xc0\x80")));
	assert_false(str_utf8_valid(STR("\xed\xa0\x80")));
	assert_false(str_utf8_valid(STR("\xf4\x90\x80\x80")));
	assert_false(str_utf8_valid(STR("ab\xe2\x82")));
}

static void measures_distance(void **state)
{
	assert_int_equal(str_distance(STR("listen"), STR("listen")), 0);
	assert_int_equal(str_distance(STR("lisetn"), STR("listen")), 1);
	assert_int_equal(str_distance(STR("kitten"), STR("sitting")), 3);
	assert_int_equal(str_distance(STR(""), STR("abc")), 3);
}

static void count(void *arg) { ++*(int *)arg; }

static void arena_keeps_and_cleans(void **state)
{
	struct arena *a = arena_new(64);
	int cleaned = 0;
	char *first = arena_dup(a, "first", 5);

	arena_defer(a, count, &cleaned);
	for (int i = 0; i < 1000; i++)
		memset(arena_alloc(a, (size_t)i), i, (size_t)i);
	assert_string_equal(first, "first");
	assert_int_equal((uintptr_t)arena_alloc(a, 3) % 16, 0);
	arena_reset(a);
	assert_int_equal(cleaned, 1);
	assert_int_equal(arena_used(a), 0);
	assert_string_equal(arena_printf(a, "%d-%s", 5, "x"), "5-x");
	arena_free(a);
	assert_int_equal(cleaned, 1);
	arena_free(NULL);
}

static void buf_grows(void **state)
{
	struct buf b = { 0 };

	buf_u64(&b, 0);
	buf_u64(&b, UINT64_MAX);
	buf_printf(&b, "%0300d", 7);
	assert_int_equal(b.n, 1 + 20 + 300);
	buf_consume(&b, 1);
	assert_memory_equal(b.p, "18446744073709551615", 20);
	assert_int_equal(strlen(buf_z(&b)), 320);
	buf_free(&b);
}

static void bytes_become_hex_digits(void **state)
{
	for (unsigned i = 0; i < 256; i++) {
		uint8_t bytes[8] = { (uint8_t)i, (uint8_t)(255 - i), (uint8_t)(i * 7), (uint8_t)(i ^ 0x5a), 0, 0xff, 0x9a, 0xa9 };
		char got[17] = "", want[17];

		hex_of(got, bytes, 8);
		snprintf(want, sizeof(want), "%02x%02x%02x%02x00ff9aa9", bytes[0], bytes[1], bytes[2], bytes[3]);
		assert_string_equal(got, want);
	}
}

static void long_texts_have_hashes_of_their_own(void **state)
{
	char text[64] = "the quick brown fox jumps over the lazy dog, and sleeps";
	struct str s = str_of(text);
	uint64_t is = str_hash_long(s, 1);
	char moved[72];

	memcpy(moved + 3, text, s.n);
	assert_true(str_hash_long(str_n(moved + 3, s.n), 1) == is);
	assert_true(str_hash_long(s, 2) != is);
	for (size_t i = 0; i < s.n; i++) {
		assert_true(str_hash_long(str_n(text, i), 1) != is);
		text[i] ^= 1;
		assert_true(str_hash_long(s, 1) != is);
		text[i] ^= 1;
	}
}

static void uuids_are_ordered(void **state)
{
	char prev[37] = "", now[37];
	struct uuid u, back;

	for (int i = 0; i < 10000; i++) {
		u = uuid_v7(1700000000000000 + i / 100);
		uuid_format(u, now);
		assert_true(strcmp(prev, now) < 0);
		memcpy(prev, now, sizeof(prev));
	}
	assert_int_equal(now[14], '7');
	assert_true(uuid_parse(str_of(now), &back) && memcmp(&u, &back, 16) == 0);
	assert_false(uuid_parse(STR("0193-zz"), &back));
}

static void formats_times(void **state)
{
	char out[32];
	int64_t us;

	clock_rfc3339(1763715600123456, 6, out, sizeof(out));
	assert_string_equal(out, "2025-11-21T09:00:00.123456Z");
	assert_true(clock_parse_rfc3339(out, &us) && us == 1763715600123456);
	assert_true(clock_parse_rfc3339("2025-11-21T10:00:00+01:00", &us) && us == 1763715600000000);
	assert_true(clock_parse_rfc3339("2025-11-21", &us) && us == 1763683200000000);
	assert_false(clock_parse_rfc3339("2025-13-21", &us) || clock_parse_rfc3339("2025-11-21T10:00:00", &us));
}

static void errors_have_names(void **state)
{
	struct why why;
	enum err e;

	assert_int_equal(err_field(&why, ERR_INVALID, "model", "no '%s'", "x"), ERR_INVALID);
	assert_string_equal(why.text, "no 'x'");
	assert_string_equal(why.field, "model");
	assert_int_equal(err_status(ERR_QUEUE_FULL), 429);
	assert_true(err_from_name("DEADLINE", &e) && e == ERR_DEADLINE);
}

static void lists_link(void **state)
{
	struct list head = LIST_INIT(head), a, b;

	list_push(&head, &a);
	list_push_front(&head, &b);
	assert_ptr_equal(head.next, &b);
	list_del(&b);
	list_del(&a);
	assert_true(list_empty(&head));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(splits_strings), cmocka_unit_test(converts_numbers_strictly),
		cmocka_unit_test(ignores_case), cmocka_unit_test(checks_utf8), cmocka_unit_test(measures_distance),
		cmocka_unit_test(arena_keeps_and_cleans), cmocka_unit_test(buf_grows),
		cmocka_unit_test(bytes_become_hex_digits), cmocka_unit_test(long_texts_have_hashes_of_their_own),
		cmocka_unit_test(uuids_are_ordered), cmocka_unit_test(formats_times),
		cmocka_unit_test(errors_have_names), cmocka_unit_test(lists_link),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
