/* spool_file.c - see spool_file.h. */
#include "common/store/spool_file.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "common/base/arena.h"
#include "common/store/crc32c.h"

void spool_name(uint64_t first, char out[24])
{
	snprintf(out, 24, "%016" PRIx64 ".seg", first);
}

static bool name_parse(const char *name, uint64_t *ret)
{
	uint64_t v = 0;

	if (strlen(name) != 20 || memcmp(name + 16, ".seg", 4) != 0)
		return false;
	for (int i = 0; i < 16; i++) {
		const char *digits = "0123456789abcdef", *d = strchr(digits, name[i]);

		if (!d)
			return false;
		v = v << 4 | (uint64_t)(d - digits);
	}
	*ret = v;
	return v <= INT64_MAX;
}

static int by_first(const void *a, const void *b)
{
	uint64_t x = ((const struct spool_extent *)a)->first, y = ((const struct spool_extent *)b)->first;

	return x < y ? -1 : x > y;
}

bool spool_list_dir(const char *dir, struct spool_list *ret, struct why *why)
{
	struct spool_list l = { 0 };
	DIR *d = opendir(dir);
	struct dirent *e;
	struct stat st;
	uint64_t first;

	if (!d) {
		err_set(why, ERR_STORE_FAILED, "cannot read the spool directory %s: %s", dir, strerror(errno));
		return false;
	}
	while ((e = readdir(d))) {
		/* A segment that was deleted since is not there. */
		if (!name_parse(e->d_name, &first) || fstatat(dirfd(d), e->d_name, &st, 0) != 0)
			continue;
		if (l.n % 16 == 0)
			l.at = x_realloc(l.at, (l.n + 16) * sizeof(*l.at));
		l.at[l.n++] = (struct spool_extent){ first, (uint64_t)st.st_size };
	}
	closedir(d);
	if (l.n)
		qsort(l.at, l.n, sizeof(*l.at), by_first);
	*ret = l;
	return true;
}

bool spool_record_ok(const uint8_t *p, uint64_t room)
{
	uint32_t len, crc;

	if (room < SPOOL_HEAD)
		return false;
	memcpy(&len, p, 4);
	memcpy(&crc, p + 4, 4);
	return len != 0 && len != SPOOL_SEAL && 8 + (uint64_t)len <= room && crc32c(p + 8, len) == crc;
}
