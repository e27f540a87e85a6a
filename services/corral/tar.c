/* tar.c - see tar.h. */
#include "services/corral/tar.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/buf.h"

enum { BLOCK = 512, PIECE = 64 << 10 };

struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100], magic[6], version[2], uname[32], gname[32],
		major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is one block");

/* --- both ways --- */

static unsigned sum_of(const struct header *h)
{
	const unsigned char *p = (const unsigned char *)h;
	unsigned sum = 0;

	for (size_t i = 0; i < BLOCK; i++)
		sum += i >= offsetof(struct header, sum) && i < offsetof(struct header, sum) + sizeof(h->sum) ? ' ' : p[i];
	return sum;
}

bool tar_name_ok(const char *name)
{
	struct str rest = str_of(name), part;

	if (!*name || strlen(name) >= TAR_NAME)
		return false;
	for (const char *p = name; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '\\')
			return false;
	while (str_split(&rest, '/', &part))
		if (!part.n || str_eqz(part, ".") || str_eqz(part, ".."))
			return false;
	return true;
}

/* --- writing --- */

static bool write_all(int fd, const void *p, size_t n, struct why *why)
{
	while (n > 0) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return err_set(why, ERR_STORE_FAILED, "the archive cannot be written: %s", strerror(errno)) == ERR_OK;
		p = (const char *)p + w;
		n -= (size_t)w;
	}
	return true;
}

/* Octal where it fits, else base 256 with the first bit set. */
static void put_size(char to[12], uint64_t size)
{
	if (size < (UINT64_C(1) << 33)) {
		snprintf(to, 12, "%011llo", (unsigned long long)size);
		return;
	}
	memset(to, 0, 12);
	to[0] = (char)0x80;
	for (int i = 11; i > 3; i--, size >>= 8)
		to[i] = (char)(size & 0xff);
}

static bool put_name(struct header *h, const char *name)
{
	const char *cut = name;

	if (strlen(name) <= sizeof(h->name)) {
		memcpy(h->name, name, strlen(name));
		return true;
	}
	while ((cut = strchr(cut, '/')) && strlen(cut + 1) > sizeof(h->name))
		cut++;
	if (!cut || (size_t)(cut - name) > sizeof(h->prefix))
		return false;
	memcpy(h->prefix, name, (size_t)(cut - name));
	memcpy(h->name, cut + 1, strlen(cut + 1));
	return true;
}

static bool add_header(int tar, const char *name, uint64_t size, int64_t mtime_s, struct why *why)
{
	struct header h = { .type = '0', .magic = "ustar", .version = { '0', '0' } };
	char sum[8];

	if (!tar_name_ok(name) || !put_name(&h, name))
		return err_set(why, ERR_INVALID, "'%s' cannot be the name of a file in an archive", name) == ERR_OK;
	snprintf(h.mode, sizeof(h.mode), "%07o", 0600);
	snprintf(h.uid, sizeof(h.uid), "%07o", 0);
	snprintf(h.gid, sizeof(h.gid), "%07o", 0);
	snprintf(h.mtime, sizeof(h.mtime), "%011llo", (unsigned long long)mtime_s & 077777777777ULL);
	put_size(h.size, size);
	snprintf(sum, sizeof(sum), "%06o", sum_of(&h));
	memcpy(h.sum, sum, 7);
	h.sum[7] = ' ';
	return write_all(tar, &h, sizeof(h), why);
}

static bool pad(int tar, uint64_t size, struct why *why)
{
	static const char zeros[BLOCK];

	return size % BLOCK == 0 || write_all(tar, zeros, BLOCK - size % BLOCK, why);
}

bool tar_add(int tar, const char *name, struct str bytes, int64_t mtime_s, struct why *why)
{
	return add_header(tar, name, bytes.n, mtime_s, why) && write_all(tar, bytes.p, bytes.n, why) && pad(tar, bytes.n, why);
}

bool tar_add_fd(int tar, const char *name, int fd, uint64_t size, int64_t mtime_s, struct why *why)
{
	char piece[PIECE];

	if (!add_header(tar, name, size, mtime_s, why))
		return false;
	for (uint64_t at = 0; at < size;) {
		ssize_t n = pread(fd, piece, size - at < PIECE ? (size_t)(size - at) : PIECE, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(why, ERR_STORE_FAILED, "%s cannot be read: %s", name, n ? strerror(errno) : "it became shorter") == ERR_OK;
		if (!write_all(tar, piece, (size_t)n, why))
			return false;
		at += (uint64_t)n;
	}
	return pad(tar, size, why);
}

bool tar_end(int tar, struct why *why)
{
	static const char zeros[2 * BLOCK];

	return write_all(tar, zeros, sizeof(zeros), why);
}

/* --- reading --- */

static bool read_all(int fd, void *to, size_t n, struct why *why)
{
	while (n > 0) {
		ssize_t r = read(fd, to, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return err_set(why, ERR_MALFORMED, "the archive %s", r ? strerror(errno) : "ends too early") == ERR_OK;
		to = (char *)to + r;
		n -= (size_t)r;
	}
	return true;
}

static bool get_octal(const char *p, size_t n, uint64_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;

	while (i < n && p[i] == ' ')
		i++;
	for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
		if (v >> 60)
			return false;
		v = v * 8 + (uint64_t)(p[i] - '0');
	}
	*ret = v;
	return i == n || p[i] == ' ' || !p[i];
}

static bool get_size(const char p[12], uint64_t *ret)
{
	uint64_t v = 0;

	if (!((unsigned char)p[0] & 0x80))
		return get_octal(p, 12, ret);
	for (int i = 1; i < 12; i++) {
		if (v >> 55)
			return false;
		v = v << 8 | (unsigned char)p[i];
	}
	*ret = v;
	return (unsigned char)p[0] == 0x80;
}

static void get_name(const struct header *h, char name[TAR_NAME + 2])
{
	size_t prefix = strnlen(h->prefix, sizeof(h->prefix));

	memcpy(name, h->prefix, prefix);
	if (prefix)
		name[prefix++] = '/';
	memcpy(name + prefix, h->name, strnlen(h->name, sizeof(h->name)));
	name[prefix + strnlen(h->name, sizeof(h->name))] = '\0';
}

static bool all_zero(const struct header *h)
{
	const char *p = (const char *)h;

	for (size_t i = 0; i < BLOCK; i++)
		if (p[i])
			return false;
	return true;
}

int tar_next(int tar, struct tar_entry *e, struct why *why)
{
	struct header h;
	char name[TAR_NAME + 2];
	uint64_t sum;

	if (!read_all(tar, &h, sizeof(h), why))
		return -1;
	if (all_zero(&h))
		return 0;
	get_name(&h, name);
	if (memcmp(h.magic, "ustar", 5) != 0 || !get_octal(h.sum, sizeof(h.sum), &sum) || sum != sum_of(&h) || !get_size(h.size, &e->size) ||
	    (h.type != '0' && h.type != '\0'))
		return err_set(why, ERR_MALFORMED, "this is no backup of Corral, or it is damaged"), -1;
	if (!tar_name_ok(name))
		return err_set(why, ERR_MALFORMED, "the archive holds a file with a name that no backup has"), -1;
	(void)str_copy(e->name, sizeof(e->name), str_of(name));
	return 1;
}

bool tar_take(int tar, const struct tar_entry *e, int to, void (*see)(void *arg, struct str), void *arg, struct why *why)
{
	char piece[PIECE];

	for (uint64_t left = e->size; left > 0;) {
		size_t n = left < PIECE ? (size_t)left : PIECE;

		if (!read_all(tar, piece, n, why))
			return false;
		if (see)
			see(arg, str_n(piece, n));
		if (to >= 0 && !write_all(to, piece, n, why))
			return false;
		left -= n;
	}
	return e->size % BLOCK == 0 || read_all(tar, piece, BLOCK - e->size % BLOCK, why);
}
