/* snapshot_file.c - see snapshot_file.h: magic, then records: length and CRC-32 of a SnapshotEnvelope, and the envelope. */
#include "common/io/snapshot_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io/snapshot_wire.h"

enum {
	RECORD_HEAD = 8,
	LEAST_DELTAS = 256 << 10      /* a small whole is not rewritten for a few of them */
};

static const char file_magic[8] = "CSNAP02\n";

static void record_add(struct buf *, const Corral__SnapshotEnvelope *);
static Corral__SnapshotEnvelope *record_take(struct str *rest, const char *name);
static int file_replace(const char *path, const struct buf *);
static bool write_all(int fd, const char *p, size_t n);

static bool read_some(int fd, size_t size, struct buf *ret)
{
	ssize_t n;

	buf_reserve(ret, size + 1);
	while ((n = read(fd, ret->p + ret->n, size + 1 - ret->n)) > 0)
		ret->n += (size_t)n;
	return n == 0;
}

bool snapshot_file_open(const char *path, struct buf *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	bool good;

	if (fd < 0)
		return false;
	good = !fstat(fd, &st) && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= 3 * SNAPSHOT_MAX_BYTES && read_some(fd, (size_t)st.st_size, ret);
	(void)close(fd);
	return good;
}

static bool read_whole(struct str *rest, const char *name, const struct snapshot_reader *to, struct snapshot_id *ret_id, bool *ret_more)
{
	Corral__SnapshotEnvelope *e;

	if (rest->n < sizeof file_magic || memcmp(rest->p, file_magic, sizeof file_magic) != 0)
		return false;
	*rest = str_n(rest->p + sizeof file_magic, rest->n - sizeof file_magic);
	e = record_take(rest, name);
	if (!e || e->after || !e->version) {
		if (e)
			corral__snapshot_envelope__free_unpacked(e, NULL);
		return false;
	}
	*ret_id = (struct snapshot_id){ e->epoch, e->version };
	*ret_more = to->whole(to->arg, *ret_id, str_n((char *)e->body.data, e->body.len));
	corral__snapshot_envelope__free_unpacked(e, NULL);
	return true;
}

static bool read_delta(const Corral__SnapshotEnvelope *e, const struct snapshot_reader *to, struct snapshot_id *id)
{
	if (e->epoch != id->epoch || e->after != id->version || e->version != id->version + 1 || e->n_deltas != 1)
		return false;
	id->version++;
	return to->delta(to->arg, *id, str_n((char *)e->deltas[0].data, e->deltas[0].len));
}

bool snapshot_file_read(struct str file, const char *name, const struct snapshot_reader *to)
{
	struct snapshot_id id;
	Corral__SnapshotEnvelope *e;
	bool more;

	if (!read_whole(&file, name, to, &id, &more))
		return false;
	while (more && to->delta && (e = record_take(&file, name))) {
		more = read_delta(e, to, &id);
		corral__snapshot_envelope__free_unpacked(e, NULL);
	}
	return true;
}

struct kept { struct snapshot_id *id; struct buf *bytes; };

static bool keep_whole(void *arg, struct snapshot_id id, struct str bytes)
{
	struct kept *kept = arg;

	*kept->id = id;
	buf_str(kept->bytes, bytes);
	return false;
}

bool snapshot_file_load(const char *path, const char *name, struct snapshot_id *ret_id, struct buf *ret_bytes)
{
	struct kept kept = { ret_id, ret_bytes };
	const struct snapshot_reader reader = { .whole = keep_whole, .arg = &kept };
	struct buf file = { 0 };
	bool good = snapshot_file_open(path, &file) && snapshot_file_read(buf_as_str(&file), name, &reader);

	buf_free(&file);
	return good;
}

/* The new file's descriptor, at its end; -1 = not written. */
static int save(const char *path, const char *name, struct snapshot_id id, struct str bytes, size_t *ret_size)
{
	Corral__SnapshotEnvelope e = CORRAL__SNAPSHOT_ENVELOPE__INIT;
	struct buf file = { 0 };
	int fd;

	e.name = (char *)name;
	e.epoch = id.epoch;
	e.version = id.version;
	e.body.data = (uint8_t *)bytes.p;
	e.body.len = bytes.n;
	buf_add(&file, file_magic, sizeof file_magic);
	record_add(&file, &e);
	fd = file_replace(path, &file);
	*ret_size = file.n;
	buf_free(&file);
	return fd;
}

bool snapshot_file_save(const char *path, const char *name, struct snapshot_id id, struct str bytes)
{
	size_t size;
	int fd = save(path, name, id, bytes, &size);

	return fd >= 0 && close(fd) == 0;
}

/* --- with deltas --- */

void snapshot_log_init(struct snapshot_log *log, const char *path, const char *name)
{
	*log = (struct snapshot_log){ .path = path, .name = name, .fd = -1 };
}

bool snapshot_log_whole(struct snapshot_log *log, struct snapshot_id id, struct str bytes)
{
	snapshot_log_close(log);
	log->fd = save(log->path, log->name, id, bytes, &log->whole_bytes);
	log->delta_bytes = 0;
	return log->fd >= 0;
}

struct tail { struct snapshot_log *log; uint64_t after; };

static bool tail_whole(void *arg, struct snapshot_id id, struct str bytes) { (void)arg; (void)id; (void)bytes; return true; }

static bool tail_delta(void *arg, struct snapshot_id id, struct str delta)
{
	struct tail *tail = arg;

	return id.version <= tail->after || snapshot_log_delta(tail->log, id, delta);
}

bool snapshot_log_compact(struct snapshot_log *log, struct snapshot_id id, struct str bytes)
{
	struct tail tail = { log, id.version };
	const struct snapshot_reader reader = { tail_whole, tail_delta, &tail };
	struct buf old = { 0 };
	bool had = snapshot_file_open(log->path, &old), good = snapshot_log_whole(log, id, bytes);

	if (had && good)
		(void)snapshot_file_read(buf_as_str(&old), log->name, &reader);
	buf_free(&old);
	return log->fd >= 0;
}

/* A delta that is written half would hide those behind it: then there are none behind it. */
bool snapshot_log_delta(struct snapshot_log *log, struct snapshot_id id, struct str delta)
{
	Corral__SnapshotEnvelope e = CORRAL__SNAPSHOT_ENVELOPE__INIT;
	ProtobufCBinaryData data = { .data = (uint8_t *)delta.p, .len = delta.n };
	struct buf record = { 0 };

	if (log->fd < 0)
		return false;
	e.name = (char *)log->name;
	e.epoch = id.epoch;
	e.after = id.version - 1;
	e.version = id.version;
	e.deltas = &data;
	e.n_deltas = 1;
	record_add(&record, &e);
	if (!write_all(log->fd, record.p, record.n))
		snapshot_log_close(log);
	log->delta_bytes += record.n;
	buf_free(&record);
	return log->fd >= 0;
}

bool snapshot_log_outgrown(const struct snapshot_log *log)
{
	return log->fd < 0 || (log->delta_bytes > LEAST_DELTAS && log->delta_bytes > log->whole_bytes);
}

void snapshot_log_close(struct snapshot_log *log)
{
	if (log->fd >= 0)
		(void)close(log->fd);
	log->fd = -1;
}

/* --- records --- */

/* CRC-32 of IEEE 802.3, eight bytes at a step. */
static uint32_t crc_table[8][256];

static void crc_prepare(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320 ^ (c >> 1) : c >> 1;
		crc_table[0][i] = c;
	}
	for (unsigned t = 1; t < 8; t++)
		for (unsigned i = 0; i < 256; i++)
			crc_table[t][i] = (crc_table[t - 1][i] >> 8) ^ crc_table[0][crc_table[t - 1][i] & 255];
}

static uint32_t crc32_of(const char *p, size_t n)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	uint32_t crc = ~0u, low, high;

	(void)pthread_once(&once, crc_prepare);
	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&low, p, 4);
		memcpy(&high, p + 4, 4);
		low ^= crc;
		crc = crc_table[7][low & 255] ^ crc_table[6][low >> 8 & 255] ^ crc_table[5][low >> 16 & 255] ^ crc_table[4][low >> 24] ^
		      crc_table[3][high & 255] ^ crc_table[2][high >> 8 & 255] ^ crc_table[1][high >> 16 & 255] ^ crc_table[0][high >> 24];
	}
	while (n--)
		crc = crc_table[0][(crc ^ (uint8_t)*p++) & 255] ^ (crc >> 8);
	return ~crc;
}

static void record_add(struct buf *b, const Corral__SnapshotEnvelope *e)
{
	uint32_t head[2] = { (uint32_t)corral__snapshot_envelope__get_packed_size(e) };

	buf_reserve(b, RECORD_HEAD + head[0]);
	(void)corral__snapshot_envelope__pack(e, (uint8_t *)b->p + b->n + RECORD_HEAD);
	head[1] = crc32_of(b->p + b->n + RECORD_HEAD, head[0]);
	memcpy(b->p + b->n, head, sizeof head);
	b->n += RECORD_HEAD + head[0];
}

/* NULL at the end, and at what is not a good record. */
static Corral__SnapshotEnvelope *record_take(struct str *rest, const char *name)
{
	Corral__SnapshotEnvelope *e;
	uint32_t head[2];

	if (rest->n < RECORD_HEAD)
		return NULL;
	memcpy(head, rest->p, sizeof head);
	if (head[0] > rest->n - RECORD_HEAD || head[1] != crc32_of(rest->p + RECORD_HEAD, head[0]))
		return NULL;
	e = corral__snapshot_envelope__unpack(NULL, head[0], (const uint8_t *)rest->p + RECORD_HEAD);
	*rest = str_n(rest->p + RECORD_HEAD + head[0], rest->n - RECORD_HEAD - head[0]);
	if (e && strcmp(e->name, name) != 0) {
		corral__snapshot_envelope__free_unpacked(e, NULL);
		e = NULL;
	}
	return e;
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

static int file_replace(const char *path, const struct buf *file)
{
	struct buf tmp = { 0 };
	int fd;

	buf_printf(&tmp, "%s.%d.tmp", path, (int)getpid());   /* a process that drains and its successor keep the same file */
	fd = open(buf_z(&tmp), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0 && !(write_all(fd, file->p, file->n) && rename(buf_z(&tmp), path) == 0)) {
		(void)close(fd);
		(void)unlink(buf_z(&tmp));
		fd = -1;
	}
	buf_free(&tmp);
	return fd;
}
