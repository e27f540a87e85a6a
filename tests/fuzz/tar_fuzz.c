/* tar_fuzz.c - archives that anybody may hand to `corral config restore`: names stay below, sizes are read as they are. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "services/corral/tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count(void *arg, struct str piece) { *(uint64_t *)arg += piece.n; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	struct tar_entry e;
	struct why why = { 0 };
	int got;

	if (fd < 0)
		fd = memfd_create("tar", 0);
	if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	while ((got = tar_next(fd, &e, &why)) == 1) {
		uint64_t n = 0;

		if (!tar_name_ok(e.name))
			abort();
		if (!tar_take(fd, &e, -1, count, &n, &why))
			return 0;
		if (n != e.size)
			abort();
	}
	if (got < 0 && why.code == ERR_OK)
		abort();
	return 0;
}
