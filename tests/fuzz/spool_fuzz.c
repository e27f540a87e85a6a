/* spool_fuzz.c - a segment of arbitrary bytes: it is read without a crash, no record with a wrong checksum comes out, the reader ends,
 * and the spool opens on it and takes a record that is read back. The first byte chooses how the file is padded. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/store/crc32c.h"
#include "common/store/spool.h"
#include "common/store/spool_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FIRST = 4096 };
static char dir[64];

static void must(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "spool_fuzz: %s\n", what);
		abort();
	}
}

static void file_path(char *out, size_t cap, const char *name) { snprintf(out, cap, "%s/%s", dir, name); }

static void directory_clear(void)
{
	struct spool_list l;
	char name[24], path[128];

	must(spool_list_dir(dir, &l, NULL), "list");
	for (size_t i = 0; i < l.n; i++) {
		spool_name(l.at[i].first, name);
		file_path(path, sizeof(path), name);
		unlink(path);
	}
	free(l.at);
	file_path(path, sizeof(path), "epoch");
	unlink(path);
}

static void directory_remove(void)
{
	char path[128];

	directory_clear();
	file_path(path, sizeof(path), "lock");
	unlink(path);
	rmdir(dir);
}

static void segment_write(const uint8_t *data, size_t n, size_t size)
{
	char name[24], path[128];
	int fd;

	spool_name(FIRST, name);
	file_path(path, sizeof(path), name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	must(fd >= 0 && write(fd, data, n) == (ssize_t)n && ftruncate(fd, (off_t)size) == 0, "write");
	close(fd);
}

/* Reads all there is from 'position'; returns the number of records. Every one is checked against the bytes of the file. */
static size_t read_all(uint64_t position, const uint8_t *data, size_t n)
{
	struct spool_reader *r = spool_reader_open(dir, position, NULL);
	uint64_t at, next, last = 0;
	struct str p;
	uint8_t type;
	size_t records = 0;
	int rc;

	must(r != NULL, "reader");
	while ((rc = spool_read(r, &type, &p, &at, &next, NULL)) != 0) {
		must(next > at && at >= last, "positions go on");
		last = next;
		if (rc != 1)
			continue;
		records++;
		if (data && at - FIRST + SPOOL_HEAD + p.n <= n) {
			uint32_t crc;

			memcpy(&crc, data + (at - FIRST) + 4, 4);
			must(crc32c_table(data + (at - FIRST) + 8, p.n + 1) == crc, "checksum");
			must(memcmp(p.p, data + (at - FIRST) + SPOOL_HEAD, p.n) == 0, "payload");
		}
	}
	spool_reader_close(r);
	return records;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct spool_opts o = { .segment_bytes = 4096, .sync_ms = 0 };
	struct spool *s;
	size_t before, size;
	int64_t at;

	if (n < 1 || n > 64 << 10)
		return 0;
	if (!dir[0]) {
		snprintf(dir, sizeof(dir), access("/dev/shm", W_OK) == 0 ? "/dev/shm/spool-fuzz-XXXXXX" : "/tmp/spool-fuzz-XXXXXX");
		must(mkdtemp(dir) != NULL, "mkdtemp");
		atexit(directory_remove);
	}
	directory_clear();
	size = data[0] & 1 ? ((n - 1) | 4095) + 1 : n - 1;
	segment_write(data + 1, n - 1, size);
	before = read_all(0, data + 1, n - 1);
	(void)read_all(FIRST + data[0], data + 1, n - 1);
	s = spool_open(dir, &o, NULL);
	must(s != NULL, "open");
	at = spool_append(s, 7, STR("after"), NULL);
	must(at >= 0 && (uint64_t)at + 16 == spool_end(s), "append");
	must(read_all((uint64_t)at, NULL, 0) == 1, "read back");
	must(read_all(0, NULL, 0) >= before + 1, "nothing that was readable is gone");
	spool_close(s);
	return 0;
}
