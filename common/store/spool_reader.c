/* spool_reader.c - the reader's side of spool.h.
 *
 * Reads through pread into a window of its own, never through a mapping: an I/O error or a file that somebody cut is an
 * answer then and not a signal. What the writer has not finished reads as length 0. */
#include "common/store/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/store/spool_file.h"

enum { WINDOW_MIN = 4 << 10, WINDOW_MAX = 256 << 10 };

struct spool_reader {
	char *dir;
	int fd;                       /* -1 = no segment open */
	uint64_t first, size, off;    /* of the open segment */
	uint64_t from;                /* without one: segments that begin below are passed over */
	bool leaving;                 /* the open segment gives nothing more */
	uint64_t expected, gaps;      /* position of the next record; 0 = any */
	uint8_t *win;
	size_t win_cap;
	uint64_t win_next;            /* bytes of the next pread: small at the tail, more while there is more */
	uint64_t win_off, win_n;      /* bytes [win_off, win_off + win_n) of the segment are in win */
};

static void segment_find(struct spool_reader *, uint64_t position);

struct spool_reader *spool_reader_open(const char *dir, uint64_t position, struct why *why)
{
	struct spool_list probe;
	struct spool_reader *r;

	if (!spool_list_dir(dir, &probe, why))
		return NULL;
	free(probe.at);
	r = x_calloc(1, sizeof(*r));
	r->dir = x_strdup(dir);
	r->fd = -1;
	r->win_cap = r->win_next = WINDOW_MIN;
	r->win = x_malloc(WINDOW_MIN);
	r->expected = position;
	segment_find(r, position);
	return r;
}

void spool_reader_close(struct spool_reader *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	free(r->win);
	free(r->dir);
	free(r);
}

uint64_t spool_reader_position(const struct spool_reader *r) { return r->expected; }
uint64_t spool_reader_gaps(const struct spool_reader *r) { return r->gaps; }

/* --- the window --- */

/* n bytes at the reader's offset; NULL when the file has fewer or cannot be read. fresh: not from what was read before. */
static const uint8_t *window(struct spool_reader *r, uint64_t n, bool fresh)
{
	uint64_t want = n > r->win_next ? n : r->win_next;
	ssize_t got;

	if (!fresh && r->off >= r->win_off && r->off + n <= r->win_off + r->win_n)
		return r->win + (r->off - r->win_off);
	if (n > r->size - r->off)
		return NULL;
	if (want > r->win_cap)
		r->win = x_realloc(r->win, r->win_cap = want);
	do
		got = pread(r->fd, r->win, want, (off_t)r->off);
	while (got < 0 && errno == EINTR);
	if (r->win_next < WINDOW_MAX)
		r->win_next *= 2;
	r->win_off = r->off;
	r->win_n = got > 0 ? (uint64_t)got : 0;
	return r->win_n >= n ? r->win : NULL;
}

/* The length word at the offset as it is now; false when it cannot be read. A 0 in the window may be old. */
static bool length_now(struct spool_reader *r, uint32_t *ret)
{
	*ret = 0;
	if (r->off >= r->win_off && r->off + 4 <= r->win_off + r->win_n)
		memcpy(ret, r->win + (r->off - r->win_off), 4);
	if (*ret != 0)
		return true;
	r->win_n = 0;
	return pread(r->fd, ret, 4, (off_t)r->off) == 4;
}

/* --- segments --- */

static void segment_leave(struct spool_reader *r)
{
	r->from = r->first + 1;
	close(r->fd);
	r->fd = -1;
	r->leaving = false;
	r->win_n = 0;
}

static bool segment_enter(struct spool_reader *r, uint64_t first)
{
	char name[24], path[4096];
	struct stat st;

	spool_name(first, name);
	snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (r->fd < 0)
		return false;
	r->size = fstat(r->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	r->first = first;
	r->off = 0;
	r->leaving = false;
	r->win_n = 0;
	return true;
}

/* First position of the earliest segment at or after 'from'; false when there is none. */
static bool segment_next(struct spool_reader *r, uint64_t from, uint64_t *ret)
{
	struct spool_list l;
	bool found = false;

	if (!spool_list_dir(r->dir, &l, NULL))
		return false;
	for (size_t i = 0; i < l.n && !found; i++)
		if (l.at[i].first >= from) {
			*ret = l.at[i].first;
			found = true;
		}
	free(l.at);
	return found;
}

/* Walks records until one begins at or after the offset. */
static void offset_seek(struct spool_reader *r, uint64_t offset)
{
	uint32_t len;

	while (r->off < offset && r->size - r->off >= SPOOL_HEAD && length_now(r, &len)) {
		uint64_t bytes = len == 0 || len == SPOOL_SEAL ? 0 : spool_record_bytes(len);

		if (bytes == 0 || bytes > r->size - r->off)
			return;
		r->off += bytes;
	}
}

static void segment_find(struct spool_reader *r, uint64_t position)
{
	struct spool_list l;
	uint64_t first = 0;
	bool inside = false;

	r->from = position;
	if (!spool_list_dir(r->dir, &l, NULL))
		return;
	for (size_t i = 0; i < l.n; i++)
		if (l.at[i].first <= position && position - l.at[i].first < l.at[i].size) {
			first = l.at[i].first;
			inside = true;
		}
	free(l.at);
	if (inside && segment_enter(r, first))
		offset_seek(r, position - first);
}

/* A segment to read from: the open one, or the next one that exists. */
static bool segment_ready(struct spool_reader *r)
{
	uint64_t first;

	if (r->fd >= 0 && r->leaving && segment_next(r, r->first + 1, &first))
		segment_leave(r);
	if (r->fd < 0 && segment_next(r, r->from, &first))
		return segment_enter(r, first);
	return r->fd >= 0 && !r->leaving;
}

/* --- reading --- */

static int damaged(struct spool_reader *r, uint64_t *ret_position, uint64_t *ret_next, struct why *why, const char *what)
{
	uint64_t next = r->first + r->size;

	*ret_position = r->first + r->off;
	(void)segment_next(r, r->first + 1, &next);
	*ret_next = r->expected = next;
	r->leaving = true;
	err_set(why, ERR_STORE_FAILED, "the spool %s is damaged at position %" PRIu64 ": %s; the rest of that segment is passed over",
		r->dir, *ret_position, what);
	return -1;
}

/* Nothing is written at the offset: the end for now, or, when a later segment exists, a hole that only a power cut leaves. */
static int nothing_here(struct spool_reader *r, uint64_t *ret_position, uint64_t *ret_next, struct why *why)
{
	uint64_t next;
	uint32_t len;

	r->win_next = WINDOW_MIN;
	if (!segment_next(r, r->first + 1, &next))
		return 0;
	if (length_now(r, &len) && len != 0)
		return 2;
	return damaged(r, ret_position, ret_next, why, "records are missing");
}

/* The segment ended in order: the next record is in the next one. */
static int ended(struct spool_reader *r)
{
	if (r->expected == 0 || r->expected >= r->first)
		r->expected = r->first + r->size;
	r->leaving = true;
	return 2;
}

/* As spool_read(), or 2 = look again. */
static int read_here(struct spool_reader *r, uint8_t *ret_type, struct str *ret_payload, uint64_t *ret_position, uint64_t *ret_next, struct why *why)
{
	const uint8_t *p;
	uint32_t len;

	if (r->size - r->off < 4)
		return ended(r);
	if (!length_now(r, &len))
		return damaged(r, ret_position, ret_next, why, "it cannot be read");
	if (len == 0)
		return nothing_here(r, ret_position, ret_next, why);
	if (len == SPOOL_SEAL)
		return ended(r);
	if (8 + (uint64_t)len > r->size - r->off)
		return damaged(r, ret_position, ret_next, why, "a length is impossible");
	p = window(r, 8 + (uint64_t)len, false);
	if (!p || !spool_record_ok(p, 8 + (uint64_t)len))
		p = window(r, 8 + (uint64_t)len, true);   /* the window may have been read while the record was written */
	if (!p || !spool_record_ok(p, 8 + (uint64_t)len))
		return damaged(r, ret_position, ret_next, why, "a checksum is wrong");
	*ret_type = p[8];
	*ret_payload = str_n((const char *)p + SPOOL_HEAD, len - 1);
	*ret_position = r->first + r->off;
	r->gaps += r->expected != 0 && *ret_position != r->expected;
	r->off += spool_record_bytes(len);
	if (r->off > r->size)
		r->off = r->size;
	*ret_next = r->expected = r->first + r->off;
	return 1;
}

int spool_read(struct spool_reader *r, uint8_t *ret_type, struct str *ret_payload, uint64_t *ret_position, uint64_t *ret_next, struct why *why)
{
	int rc = 2;

	while (rc == 2) {
		if (!segment_ready(r))
			return 0;
		rc = read_here(r, ret_type, ret_payload, ret_position, ret_next, why);
	}
	return rc;
}
