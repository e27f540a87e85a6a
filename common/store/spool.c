/* spool.c - the writer's side of spool.h: segments, the append, the thread that syncs them, repair at open.
 *
 * cur      the mapped segment that takes records; none before the first append and while no segment can be had
 * retired  full segments that the sync thread still has to sync, unmap and close
 * on_disk  every segment that was not released, cur included
 * The writer thread owns cur and off; 'lock' guards what the sync thread and spool_release() share. */
#include "common/store/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/store/crc32c.h"
#include "common/store/spool_file.h"

enum { RETRY_US = 100 * 1000, AHEAD_BYTES = 512 << 10 };

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23    /* Linux 5.14 */
#endif

struct segment {
	uint64_t first, size;
	uint8_t *map;
	int fd;
};

struct spool {
	char *dir;
	int dir_fd, lock_fd;
	uint64_t segment_bytes, max_bytes, epoch, origin;
	int64_t sync_ms;

	struct segment cur;           /* map NULL = none */
	uint64_t off;                 /* of the next record in cur */
	uint64_t next_first;          /* where the next segment begins */
	uint32_t reserved;            /* bytes lent by spool_reserve() */
	int64_t retry_at_us;
	struct why failed;            /* why the last segment could not be had */
	_Atomic uint64_t end;

	pthread_mutex_t lock;
	struct spool_list on_disk;
	struct segment *retired;
	size_t n_retired;
	uint8_t *sync_map;            /* cur, as the sync thread sees it; that thread alone unmaps */
	uint64_t sync_first;
	uint64_t sync_size;
	uint64_t synced, ahead;       /* bytes of it that are on disk; that have memory behind them */
	bool dir_dirty, stopping;
	_Atomic uint64_t lost_first;  /* the segment whose sync failed */
	_Atomic uint64_t sync_errors;
	_Atomic uint64_t durable;     /* below it all is synced */

	bool threaded;
	pthread_t thread;
	pthread_cond_t wake;
	_Atomic bool asleep;
};

static bool spool_roll(struct spool *, struct why *);
static bool dir_open(struct spool *, struct why *);
static bool epoch_bump(struct spool *, struct why *);
static bool tail_open(struct spool *, struct why *);
static void segment_close(struct segment *);
static void sync_start(struct spool *);
static void sync_once(struct spool *);
static void sync_wake(struct spool *);

static enum err io_failed(struct why *why, const char *what, const char *dir)
{
	return err_set(why, ERR_STORE_FAILED, "cannot %s in the spool %s: %s", what, dir, strerror(errno));
}

/* --- open and close --- */

static void opts_apply(struct spool *s, const struct spool_opts *o)
{
	s->segment_bytes = o && o->segment_bytes ? o->segment_bytes : 16u << 20;
	s->segment_bytes = (s->segment_bytes + 4095) & ~(uint64_t)4095;
	s->sync_ms = o && o->sync_ms >= 0 ? o->sync_ms : 20;
	s->max_bytes = o && o->max_bytes ? o->max_bytes : (uint64_t)4 << 30;
}

struct spool *spool_open(const char *dir, const struct spool_opts *opts, struct why *why)
{
	struct spool *s = x_calloc(1, sizeof(*s));

	s->dir = x_strdup(dir);
	s->dir_fd = s->lock_fd = s->cur.fd = -1;
	s->lost_first = s->sync_first = UINT64_MAX;
	pthread_mutex_init(&s->lock, NULL);
	opts_apply(s, opts);
	if (!dir_open(s, why) || !epoch_bump(s, why) || !tail_open(s, why)) {
		spool_close(s);
		return NULL;
	}
	if (s->sync_ms > 0)
		sync_start(s);
	return s;
}

static void sync_stop(struct spool *s)
{
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->wake);
}

void spool_close(struct spool *s)
{
	if (!s)
		return;
	if (s->threaded)
		sync_stop(s);
	sync_once(s);
	segment_close(&s->cur);
	free(s->retired);
	free(s->on_disk.at);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	pthread_mutex_destroy(&s->lock);
	free(s->dir);
	free(s);
}

static bool dir_open(struct spool *s, struct why *why)
{
	if (mkdir(s->dir, 0700) != 0 && errno != EEXIST)
		return io_failed(why, "make the directory", s->dir) == ERR_OK;
	s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir_fd < 0)
		return io_failed(why, "open the directory", s->dir) == ERR_OK;
	s->lock_fd = openat(s->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return io_failed(why, "make the lock file", s->dir) == ERR_OK;
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
		return err_set(why, ERR_CONFLICT, "the spool %s is open in another process; stop that one first", s->dir) == ERR_OK;
	(void)unlinkat(s->dir_fd, "segment.new", 0);
	return spool_list_dir(s->dir, &s->on_disk, why);
}

/* --- epoch: "EPOCH ORIGIN\n" in the file 'epoch', replaced whole --- */

static bool epoch_read(int dir_fd, uint64_t *ret_epoch, uint64_t *ret_origin)
{
	char text[64];
	int fd = openat(dir_fd, "epoch", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	struct str rest = { text, n > 0 ? (size_t)n : 0 }, epoch, origin;

	if (fd >= 0)
		close(fd);
	return n > 0 && text[n - 1] == '\n' && str_split(&rest, ' ', &epoch) && str_split(&rest, '\n', &origin) &&
	       str_u64(epoch, ret_epoch) && str_u64(origin, ret_origin);
}

static bool epoch_write(struct spool *s)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64 "\n", s->epoch, s->origin);
	int fd = openat(s->dir_fd, "epoch.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, (size_t)n) == n && fsync(fd) == 0;
	close(fd);
	return ok && renameat(s->dir_fd, "epoch.new", s->dir_fd, "epoch") == 0 && fsync(s->dir_fd) == 0;
}

static bool epoch_bump(struct spool *s, struct why *why)
{
	int64_t now = wall_us();

	if (!epoch_read(s->dir_fd, &s->epoch, &s->origin)) {
		/* New, or the file was lost: then what is on disk is its own origin. 4 bytes a microsecond: faster than any writer
		 * on average, and still exact as a JSON number. */
		s->epoch = (uint64_t)(now / 1000000);
		s->origin = s->on_disk.n ? s->on_disk.at[0].first : ((uint64_t)now * 4) & ~(uint64_t)4095;
	}
	s->epoch++;
	return epoch_write(s) || io_failed(why, "write the epoch file", s->dir) == ERR_OK;
}

bool spool_identity(const char *dir, uint64_t *ret_epoch, uint64_t *ret_origin, struct why *why)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && epoch_read(fd, ret_epoch, ret_origin);

	if (fd >= 0)
		close(fd);
	return ok || err_set(why, ERR_NOT_FOUND, "%s is not a spool, or was never opened for writing", dir) == ERR_OK;
}

/* --- the last segment of an earlier run --- */

static void end_set(struct spool *s)
{
	uint64_t end = s->cur.map ? s->cur.first + s->off : s->next_first;

	atomic_store(&s->end, end);       /* a full barrier: see sync_wake() */
}

static void cur_set(struct spool *s, struct segment seg, uint64_t off)
{
	pthread_mutex_lock(&s->lock);
	s->cur = seg;
	s->off = off;
	s->sync_first = seg.first;
	s->sync_map = seg.map;
	s->sync_size = seg.size;
	s->synced = 0;                /* an earlier run may not have come to it */
	s->ahead = off;
	pthread_mutex_unlock(&s->lock);
	s->next_first = seg.first + seg.size;
	end_set(s);
}

/* Offset of the first place that holds no whole record. */
static uint64_t tail_find(const uint8_t *map, uint64_t size)
{
	uint64_t off = 0;
	uint32_t len;

	while (off < size && spool_record_ok(map + off, size - off)) {
		memcpy(&len, map + off, 4);
		off += spool_record_bytes(len);
	}
	return off;
}

/* A length of 0 with bytes behind it is a record that a kill cut short: it was never reported, so it goes. */
static void tail_clear(uint8_t *map, uint64_t off, uint64_t size)
{
	while (off < size) {
		uint64_t n = size - off < 4096 ? size - off : 4096;

		for (uint64_t i = 0; i < n; i++)
			if (map[off + i]) {
				memset(map + off, 0, n);
				break;
			}
		off += n;
	}
}

/* Reads every page through the file first: an I/O error is an answer there and a signal in the mapping. */
static bool readable(int fd, uint64_t size)
{
	enum { CHUNK = 256 << 10 };
	char *chunk = x_malloc(CHUNK);
	uint64_t at = 0;
	ssize_t n = 1;

	while (at < size && (n = pread(fd, chunk, CHUNK, (off_t)at)) > 0)
		at += (uint64_t)n;
	free(chunk);
	return n > 0;
}

/* Goes on in the last segment when it ends in order; one that is sealed, full, damaged or not writable stays as it is and the next begins after it. */
static void segment_continue(struct spool *s, struct spool_extent last)
{
	struct segment seg = { .first = last.first, .size = last.size };
	char name[24];
	uint64_t off;
	uint32_t len = 1;
	void *map;

	spool_name(last.first, name);
	seg.fd = openat(s->dir_fd, name, O_RDWR | O_CLOEXEC);
	if (seg.fd < 0)
		return;
	/* A file with holes could fault on a full disk. */
	if (!readable(seg.fd, seg.size) || (fallocate(seg.fd, 0, 0, (off_t)seg.size) != 0 && errno != EOPNOTSUPP) ||
	    (map = mmap(NULL, seg.size, PROT_READ | PROT_WRITE, MAP_SHARED, seg.fd, 0)) == MAP_FAILED) {
		close(seg.fd);
		return;
	}
	seg.map = map;
	off = tail_find(seg.map, seg.size);
	if (seg.size - off >= 8)
		memcpy(&len, seg.map + off, 4);
	if (len != 0) {
		segment_close(&seg);
		return;
	}
	tail_clear(seg.map, off, seg.size);
	(void)madvise(map, seg.size, MADV_DONTNEED);   /* what was read through is the page cache's, not this process's memory */
	cur_set(s, seg, off);
}

static bool tail_open(struct spool *s, struct why *why)
{
	struct spool_extent last;

	s->next_first = s->origin;
	if (s->on_disk.n) {
		last = s->on_disk.at[s->on_disk.n - 1];
		s->next_first = last.first + ((last.size + 4095) & ~(uint64_t)4095);
		if (last.size == 0)
			s->next_first = last.first + 4096;
		else if (last.size % 4096 == 0)
			segment_continue(s, last);
	}
	if (s->next_first > INT64_MAX)
		return err_set(why, ERR_STORE_FAILED, "the spool %s has a segment with an impossible name", s->dir) == ERR_OK;
	end_set(s);
	return true;
}

/* --- segments --- */

static void segment_close(struct segment *seg)
{
	if (seg->map)
		munmap(seg->map, seg->size);
	if (seg->fd >= 0)
		close(seg->fd);
	*seg = (struct segment){ .fd = -1 };
}

static bool zeros_write(int fd, uint64_t size)
{
	static const char zeros[64 << 10];
	uint64_t at = 0;
	ssize_t n;

	if (ftruncate(fd, (off_t)size) != 0)
		return false;
	while (at < size) {
		n = pwrite(fd, zeros, size - at < sizeof(zeros) ? size - at : sizeof(zeros), (off_t)at);
		if (n < 0 && errno != EINTR)
			return false;
		at += n > 0 ? (uint64_t)n : 0;
	}
	return true;
}

/* Real blocks for every byte, so that no store into the mapping can find the disk full. */
static bool blocks_take(int fd, uint64_t size)
{
	int rc;

	do
		rc = fallocate(fd, 0, 0, (off_t)size);
	while (rc != 0 && errno == EINTR);
	return rc == 0 || ((errno == EOPNOTSUPP || errno == ENOSYS) && zeros_write(fd, size));
}

static bool segment_make(struct spool *s, struct segment *ret)
{
	struct segment seg = { .first = s->next_first, .size = s->segment_bytes };
	char name[24];
	void *map;
	int saved;

	spool_name(seg.first, name);
	seg.fd = openat(s->dir_fd, "segment.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (seg.fd < 0)
		return false;
	if (blocks_take(seg.fd, seg.size) && (map = mmap(NULL, seg.size, PROT_READ | PROT_WRITE, MAP_SHARED, seg.fd, 0)) != MAP_FAILED) {
		seg.map = map;
		if (renameat(s->dir_fd, "segment.new", s->dir_fd, name) == 0) {
			*ret = seg;
			return true;
		}
	}
	saved = errno;
	segment_close(&seg);
	(void)unlinkat(s->dir_fd, "segment.new", 0);
	errno = saved;
	return false;
}

static uint64_t list_bytes(const struct spool_list *l)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < l->n; i++)
		sum += l->at[i].size;
	return sum;
}

static void list_add(struct spool *s, const struct segment *seg)
{
	pthread_mutex_lock(&s->lock);
	s->on_disk.at = x_realloc(s->on_disk.at, (s->on_disk.n + 1) * sizeof(*s->on_disk.at));
	s->on_disk.at[s->on_disk.n++] = (struct spool_extent){ seg->first, seg->size };
	s->dir_dirty = true;
	pthread_mutex_unlock(&s->lock);
}

/* Seals cur and leaves it to the sync thread, or closes it when there is none. */
static void cur_retire(struct spool *s)
{
	struct segment old = s->cur;

	if (!old.map)
		return;
	if (s->off + 4 <= old.size)
		__atomic_store_n((uint32_t *)(void *)(old.map + s->off), SPOOL_SEAL, __ATOMIC_RELEASE);
	pthread_mutex_lock(&s->lock);
	s->retired = x_realloc(s->retired, (s->n_retired + 1) * sizeof(*s->retired));
	s->retired[s->n_retired++] = old;
	s->cur = (struct segment){ .fd = -1 };
	s->sync_first = UINT64_MAX;
	s->sync_map = NULL;
	pthread_mutex_unlock(&s->lock);
	end_set(s);
	if (s->threaded)
		sync_wake(s);
	else
		sync_once(s);
}

static bool roll_failed(struct spool *s, int64_t now_us, struct why *why)
{
	s->retry_at_us = now_us + RETRY_US;
	if (why)
		*why = s->failed;
	return false;
}

/* Gets a fresh segment into cur. */
static bool spool_roll(struct spool *s, struct why *why)
{
	int64_t now_us = mono_us();
	struct segment seg;

	cur_retire(s);
	if (now_us < s->retry_at_us) {
		if (why)
			*why = s->failed;
		return false;
	}
	if (spool_bytes(s) + s->segment_bytes > s->max_bytes) {
		err_set(&s->failed, ERR_STORE_FAILED, "the spool %s holds its %" PRIu64 " bytes of records that nobody has acknowledged; is their receiver up?",
			s->dir, s->max_bytes);
		return roll_failed(s, now_us, why);
	}
	if (!segment_make(s, &seg)) {
		io_failed(&s->failed, "allocate a segment", s->dir);
		return roll_failed(s, now_us, why);
	}
	list_add(s, &seg);
	cur_set(s, seg, 0);
	s->retry_at_us = 0;
	return true;
}

/* --- append --- */

/* A place for n bytes of payload in cur; NULL when no segment can be had. */
static uint8_t *place(struct spool *s, uint32_t n, struct why *why)
{
	uint64_t need = spool_record_bytes(1) + n;

	if (__builtin_expect(s->cur.map && s->off + need <= s->cur.size &&
			     atomic_load_explicit(&s->lost_first, memory_order_relaxed) != s->cur.first, 1))
		return s->cur.map + s->off;
	if (need > s->segment_bytes) {
		err_set(why, ERR_TOO_LARGE, "a record of %" PRIu32 " bytes does not fit a spool segment of %" PRIu64 " bytes", n, s->segment_bytes);
		return NULL;
	}
	return spool_roll(s, why) ? s->cur.map : NULL;
}

/* The payload lies at p + SPOOL_HEAD. The word behind the record is cleared first: it may hold what an unused reservation left. */
static int64_t record_finish(struct spool *s, uint8_t *p, uint8_t type, uint32_t n)
{
	uint64_t at = s->cur.first + s->off, bytes = spool_record_bytes(n + 1);
	uint32_t crc;

	p[8] = type;
	crc = crc32c(p + 8, n + 1);
	memcpy(p + 4, &crc, 4);
	if (s->off + bytes < s->cur.size)
		memset(p + bytes, 0, 4);
	__atomic_store_n((uint32_t *)(void *)p, n + 1, __ATOMIC_RELEASE);
	s->off += bytes;
	end_set(s);
	if (atomic_load(&s->asleep))
		sync_wake(s);
	return (int64_t)at;
}

int64_t spool_append(struct spool *s, uint8_t type, struct str payload, struct why *why)
{
	uint8_t *p = payload.n < UINT32_MAX / 2 ? place(s, (uint32_t)payload.n, why) : NULL;

	if (!p) {
		if (payload.n >= UINT32_MAX / 2)
			err_set(why, ERR_TOO_LARGE, "a record of %zu bytes does not fit a spool segment", payload.n);
		return -1;
	}
	if (payload.n)
		memcpy(p + SPOOL_HEAD, payload.p, payload.n);
	return record_finish(s, p, type, (uint32_t)payload.n);
}

uint8_t *spool_reserve(struct spool *s, uint32_t n, struct why *why)
{
	uint8_t *p = place(s, n, why);

	s->reserved = p ? n : 0;
	return p ? p + SPOOL_HEAD : NULL;
}

int64_t spool_commit(struct spool *s, uint8_t type, uint32_t n)
{
	if (n == 0 || n > s->reserved)
		return -1;
	s->reserved = 0;
	return record_finish(s, s->cur.map + s->off, type, n);
}

/* --- what others ask --- */

uint64_t spool_end(const struct spool *s) { return atomic_load(&s->end); }
uint64_t spool_epoch(const struct spool *s) { return s->epoch; }
uint64_t spool_durable(const struct spool *s) { return atomic_load(&s->durable); }
uint64_t spool_sync_errors(const struct spool *s) { return atomic_load(&s->sync_errors); }

uint64_t spool_bytes(const struct spool *s)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&s->lock;
	uint64_t sum;

	pthread_mutex_lock(lock);
	sum = list_bytes(&s->on_disk);
	pthread_mutex_unlock(lock);
	return sum;
}

void spool_release(struct spool *s, uint64_t below)
{
	struct spool_extent gone[64];
	char name[24];
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	while (n < s->on_disk.n && n < 64 && s->on_disk.at[n].first + s->on_disk.at[n].size <= below && s->on_disk.at[n].first != s->sync_first)
		n++;
	if (n) {
		memcpy(gone, s->on_disk.at, n * sizeof(*gone));
		s->on_disk.n -= n;
		memmove(s->on_disk.at, s->on_disk.at + n, s->on_disk.n * sizeof(*gone));
	}
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < n; i++) {
		spool_name(gone[i].first, name);
		(void)unlinkat(s->dir_fd, name, 0);
	}
	if (n == 64)
		spool_release(s, below);
}

/* --- the thread that syncs --- */

static void sync_failed(struct spool *s, uint64_t first)
{
	/* The kernel forgets what it could not write: nothing more goes there. */
	atomic_fetch_add(&s->sync_errors, 1);
	atomic_store(&s->lost_first, first);
}

static void sync_retired(struct spool *s)
{
	struct segment *old;
	size_t n;

	pthread_mutex_lock(&s->lock);
	old = s->retired, n = s->n_retired;
	s->retired = NULL, s->n_retired = 0;
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < n; i++) {
		if (fdatasync(old[i].fd) != 0)
			sync_failed(s, old[i].first);
		segment_close(&old[i]);
	}
	free(old);
}

/* What the sync thread sees of cur: the part [from, to) of its map; NULL when there is none. */
struct part { uint8_t *map; uint64_t first, from, to; };

/* Only what was written since: a sync of the whole would also write the pages touched ahead, and make each fault again. */
static struct part part_to_sync(struct spool *s)
{
	uint64_t end = atomic_load(&s->end);
	struct part p;

	pthread_mutex_lock(&s->lock);
	p = (struct part){ s->sync_map, s->sync_first, s->synced & ~(uint64_t)4095, end - s->sync_first };
	/* The end may be of the segment after this one, or of the one before. */
	if (end < p.first || p.to > s->sync_size || p.to <= s->synced)
		p.map = NULL;
	else
		s->synced = p.to;
	pthread_mutex_unlock(&s->lock);
	return p;
}

/* One turn: what is retired is synced and closed, then the segment in use, then the directory's new names. */
static void sync_once(struct spool *s)
{
	uint64_t end = atomic_load(&s->end);
	struct part p;
	bool dir;

	sync_retired(s);
	p = part_to_sync(s);
	if (p.map && msync(p.map + p.from, p.to - p.from, MS_SYNC) != 0)
		sync_failed(s, p.first);
	pthread_mutex_lock(&s->lock);
	dir = s->dir_dirty, s->dir_dirty = false;
	pthread_mutex_unlock(&s->lock);
	if (dir && s->dir_fd >= 0 && fsync(s->dir_fd) != 0)
		atomic_fetch_add(&s->sync_errors, 1);
	if (atomic_load(&s->sync_errors) == 0)
		atomic_store(&s->durable, end);
}

static struct part part_ahead(struct spool *s)
{
	uint64_t end = atomic_load(&s->end), off;
	struct part p;

	pthread_mutex_lock(&s->lock);
	off = end - s->sync_first;
	p = (struct part){ s->sync_map, s->sync_first, off > s->ahead ? off : s->ahead, off + AHEAD_BYTES };
	p.from &= ~(uint64_t)4095;
	p.to = p.to < s->sync_size ? p.to : s->sync_size;
	if (end < p.first || off > s->sync_size || p.from + AHEAD_BYTES / 4 > p.to)
		p.map = NULL;
	else
		s->ahead = p.to;
	pthread_mutex_unlock(&s->lock);
	return p;
}

/* Gives memory to the pages that are written next, so that the page faults are not the writer's. Only a help: errors do not matter. */
static void touch_ahead(struct spool *s)
{
	struct part p = part_ahead(s);

	if (p.map)
		(void)madvise(p.map + p.from, p.to - p.from, MADV_POPULATE_WRITE);
}

/* asleep and end are written before the other is read, both in one total order: either the writer sees the sleeper or the sleeper sees the end. */
static void sync_wake(struct spool *s)
{
	if (!atomic_exchange(&s->asleep, false))
		return;
	pthread_mutex_lock(&s->lock);
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

static void wait_until(struct spool *s, int64_t ms)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += ms % 1000 * 1000000;
	if (at.tv_nsec >= 1000000000)
		at.tv_sec++, at.tv_nsec -= 1000000000;
	while (!s->stopping && pthread_cond_timedwait(&s->wake, &s->lock, &at) == 0)
		;
}

static void *sync_main(void *arg)
{
	struct spool *s = arg;
	uint64_t synced = UINT64_MAX;

	pthread_mutex_lock(&s->lock);
	while (!s->stopping) {
		atomic_store(&s->asleep, true);
		while (!s->stopping && atomic_load(&s->asleep) && atomic_load(&s->end) == synced && s->n_retired == 0)
			pthread_cond_wait(&s->wake, &s->lock);
		atomic_store(&s->asleep, false);
		wait_until(s, s->sync_ms);
		synced = atomic_load(&s->end);
		pthread_mutex_unlock(&s->lock);
		sync_once(s);
		touch_ahead(s);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void sync_start(struct spool *s)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &attr);
	pthread_condattr_destroy(&attr);
	/* Without the thread records are still safe from kill -9; the next open tries again. */
	s->threaded = pthread_create(&s->thread, NULL, sync_main, s) == 0;
	if (!s->threaded) {
		pthread_cond_destroy(&s->wake);
		atomic_fetch_add(&s->sync_errors, 1);
	}
}
