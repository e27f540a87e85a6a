/* snapshot_file.c - see snapshot_file.h: magic, CRC-32 of the rest, a SnapshotEnvelope. */
#include "common/io/snapshot_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io/rpc_envelope.h"
#include "snapshot.pb-c.h"

static const char file_magic[8] = "CSNAP01\n";

static bool read_file(const char *path, struct buf *ret);
static Corral__SnapshotEnvelope *file_open(const struct buf *);
static uint32_t crc32_of(const uint8_t *p, size_t n);
static bool file_replace(const char *path, const struct buf *);

bool snapshot_file_load(const char *path, const char *name, struct snapshot_id *ret_id, struct buf *ret_bytes)
{
	struct buf file = { 0 };
	Corral__SnapshotEnvelope *envelope = NULL;
	bool good;

	if (read_file(path, &file))
		envelope = file_open(&file);
	buf_free(&file);
	good = envelope && !strcmp(envelope->name, name) && envelope->version;
	if (good) {
		*ret_id = (struct snapshot_id){ envelope->epoch, envelope->version };
		buf_add(ret_bytes, envelope->body.data, envelope->body.len);
	}
	if (envelope)
		corral__snapshot_envelope__free_unpacked(envelope, NULL);
	return good;
}

bool snapshot_file_save(const char *path, const char *name, struct snapshot_id id, struct str bytes)
{
	Corral__SnapshotEnvelope envelope = CORRAL__SNAPSHOT_ENVELOPE__INIT;
	const size_t head = sizeof file_magic + 4;
	struct buf file = { 0 };
	uint32_t crc;
	size_t n;
	bool good;

	envelope.name = (char *)name;
	envelope.epoch = id.epoch;
	envelope.version = id.version;
	envelope.body.data = (uint8_t *)bytes.p;
	envelope.body.len = bytes.n;
	buf_reserve(&file, head + corral__snapshot_envelope__get_packed_size(&envelope));
	n = corral__snapshot_envelope__pack(&envelope, (uint8_t *)file.p + head);
	crc = crc32_of((uint8_t *)file.p + head, n);
	memcpy(file.p, file_magic, sizeof file_magic);
	memcpy(file.p + sizeof file_magic, &crc, 4);
	file.n = head + n;
	good = file_replace(path, &file);
	buf_free(&file);
	return good;
}

static bool read_file(const char *path, struct buf *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return false;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size > RPC_MAX_BYTES + 64) {
		(void)close(fd);
		return false;
	}
	buf_reserve(ret, (size_t)st.st_size + 1);
	while ((n = read(fd, ret->p + ret->n, (size_t)st.st_size + 1 - ret->n)) > 0)
		ret->n += (size_t)n;
	(void)close(fd);
	return n == 0;
}

static Corral__SnapshotEnvelope *file_open(const struct buf *file)
{
	const size_t head = sizeof file_magic + 4;
	uint32_t crc;

	if (file->n < head || memcmp(file->p, file_magic, sizeof file_magic) != 0)
		return NULL;
	memcpy(&crc, file->p + sizeof file_magic, 4);
	if (crc != crc32_of((uint8_t *)file->p + head, file->n - head))
		return NULL;
	return corral__snapshot_envelope__unpack(NULL, file->n - head, (uint8_t *)file->p + head);
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
	static const uint32_t half[16] = {
		0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
		0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c
	};
	uint32_t crc = ~0u;

	while (n--) {
		crc ^= *p++;
		crc = half[crc & 15] ^ (crc >> 4);
		crc = half[crc & 15] ^ (crc >> 4);
	}
	return ~crc;
}

static bool write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t done = write(fd, p, n);

		if (done <= 0)
			return false;
		p += done;
		n -= (size_t)done;
	}
	return true;
}

/* Whole or not at all. Not synced: a file that a power cut damaged is told by its checksum. */
static bool file_replace(const char *path, const struct buf *file)
{
	struct buf tmp = { 0 };
	bool good = false;
	int fd;

	buf_printf(&tmp, "%s.tmp", path);
	fd = open(buf_z(&tmp), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0) {
		good = write_all(fd, file->p, file->n);
		good = close(fd) == 0 && good && rename(buf_z(&tmp), path) == 0;
		if (!good)
			(void)unlink(buf_z(&tmp));
	}
	buf_free(&tmp);
	return good;
}
