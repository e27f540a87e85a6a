/* probe_test.h - a tree of /proc and /sys of one's own, for the tests of what reads them. */
#ifndef CORRAL_HARDWARE_PROBE_TEST_H
#define CORRAL_HARDWARE_PROBE_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/data/opt.h"
#include "services/hardware-probe/probe.h"

struct tree {
	char root[64];
	struct arena *mem;
	struct probe p;
};

static inline int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static inline int setup(void **state)
{
	struct tree *t = x_calloc(1, sizeof(*t));

	snprintf(t->root, sizeof(t->root), "/tmp/probe-test-XXXXXX");
	assert_non_null(mkdtemp(t->root));
	t->mem = arena_new(0);
	*state = t;
	return 0;
}

static inline int teardown(void **state)
{
	struct tree *t = *state;

	nftw(t->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	arena_free(t->mem);
	free(t);
	return 0;
}

/* A file of the tree, with the directories above it. */
static inline void put(struct tree *t, const char *path, const char *text)
{
	char full[512];
	int fd;

	snprintf(full, sizeof(full), "%s%s", t->root, path);
	for (char *s = full + strlen(t->root) + 1; (s = strchr(s, '/')); s++) {
		*s = '\0';
		mkdir(full, 0700);
		*s = '/';
	}
	fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}
#endif
