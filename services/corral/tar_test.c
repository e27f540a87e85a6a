/* tar_test.c - what is written is read again, by us and by everybody's tar; what is damaged or leads elsewhere is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "services/corral/tar.h"

static char path[64];
static struct why why;

static int make(void)
{
	snprintf(path, sizeof(path), "/tmp/tar_test.XXXXXX");
	return mkstemp(path);
}

static void add(void *arg, struct str s) { buf_str(arg, s); }

static void goes_round(void **state)
{
	char deep[200];
	struct tar_entry e;
	struct buf got = { 0 };
	int fd = make();

	for (int i = 0; i < 15; i++)
		memcpy(deep + 10 * i, "directory/", 10);
	memcpy(deep + 150, "file", 5);
	assert_true(tar_add(fd, "a", STR("hello"), 1700000000, &why));
	assert_true(tar_add(fd, deep, STR(""), 0, &why));
	assert_true(tar_add_fd(fd, "self", fd, 700, 0, &why));
	assert_true(tar_end(fd, &why));
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(tar_next(fd, &e, &why), 1);
	assert_string_equal(e.name, "a");
	assert_true(tar_take(fd, &e, -1, add, &got, &why));
	assert_true(str_eqz(buf_as_str(&got), "hello"));
	assert_int_equal(tar_next(fd, &e, &why), 1);
	assert_string_equal(e.name, deep);
	assert_true(tar_take(fd, &e, -1, NULL, NULL, &why));
	assert_int_equal(tar_next(fd, &e, &why), 1);
	assert_int_equal(e.size, 700);
	assert_true(tar_take(fd, &e, -1, NULL, NULL, &why));
	assert_int_equal(tar_next(fd, &e, &why), 0);
	unlink(path);
	close(fd);
	buf_free(&got);
}

static void cut_anywhere_it_is_told(void **state)
{
	struct tar_entry e;
	char whole[4096];
	int fd = make(), got;
	ssize_t n;

	assert_true(tar_add(fd, "a", STR("hello"), 0, &why) && tar_end(fd, &why));
	n = pread(fd, whole, sizeof(whole), 0);
	for (ssize_t cut = 0; cut < n - 512; cut += 37) {         /* the second block of the end may be missing */
		assert_int_equal(ftruncate(fd, cut), 0);
		lseek(fd, 0, SEEK_SET);
		while ((got = tar_next(fd, &e, &why)) == 1)
			if (!tar_take(fd, &e, -1, NULL, NULL, &why)) {
				got = -1;
				break;
			}
		assert_int_equal(got, -1);
		assert_int_equal(pwrite(fd, whole, (size_t)n, 0), n);
	}
	unlink(path);
	close(fd);
}

static void a_flipped_bit_in_a_header(void **state)
{
	struct tar_entry e;
	char byte;
	int fd = make();

	assert_true(tar_add(fd, "a", STR("hello"), 0, &why) && tar_end(fd, &why));
	for (off_t at = 0; at < 512; at += 1 + (at == 154)) {     /* behind the sum is a blank that nobody reads */
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 4;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		lseek(fd, 0, SEEK_SET);
		assert_int_equal(tar_next(fd, &e, &why), -1);
		byte ^= 4;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	unlink(path);
	close(fd);
}

static void names_that_lead_elsewhere(void **state)
{
	static const char *const bad[] = { "", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.", "./a", "a/", "a\nb", "a\\b" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(tar_name_ok(bad[i]));
	assert_true(tar_name_ok("state/gateway/spool/usage-0/0000.seg") && tar_name_ok("..a/b..") && tar_name_ok("ä"));
	assert_false(tar_add(-1, "../x", STR(""), 0, &why));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_round), cmocka_unit_test(cut_anywhere_it_is_told), cmocka_unit_test(a_flipped_bit_in_a_header),
		cmocka_unit_test(names_that_lead_elsewhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
