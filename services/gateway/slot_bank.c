/* slot_bank.c - see slot_bank.h. */
#include "services/gateway/slot_bank.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/arena.h"

struct bank_file {
	_Alignas(64) _Atomic uint32_t claimed;        /* a bit for each bank that was somebody's since it was last emptied */
	struct slot_row rows[SLOT_ROWS];
};

struct slot_bank {
	struct bank_file *file;
	int fd, lock_fd;              /* for the successor; the same file opened anew, for locks belong to what was opened */
	unsigned mine;
};

static bool lock(const struct slot_bank *b, unsigned k, short type)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = k, .l_len = 1 };

	return fcntl(b->lock_fd, F_OFD_SETLK, &l) == 0;
}

/* Under the lock of bank k. */
static void empty(struct slot_bank *b, unsigned k)
{
	if (!(atomic_fetch_and(&b->file->claimed, ~(1u << k)) & 1u << k))
		return;
	for (unsigned i = 0; i < SLOT_ROWS; i++)
		if (atomic_load(&b->file->rows[i].key))
			atomic_store(&b->file->rows[i].in_use[k], 0);
}

static bool claim(struct slot_bank *b)
{
	for (b->mine = 0; b->mine < SLOT_BANKS; b->mine++)
		if (lock(b, b->mine, F_WRLCK)) {
			empty(b, b->mine);
			atomic_fetch_or(&b->file->claimed, 1u << b->mine);
			return true;
		}
	return false;
}

static bool open_file(struct slot_bank *b, int inherited)
{
	char path[40];
	void *at;

	b->fd = inherited >= 0 ? inherited : memfd_create("corral-slots", MFD_CLOEXEC);
	if (b->fd < 0 || (inherited < 0 && ftruncate(b->fd, sizeof(struct bank_file)) != 0) || lseek(b->fd, 0, SEEK_END) != sizeof(struct bank_file))
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", b->fd);
	b->lock_fd = open(path, O_RDWR | O_CLOEXEC);
	at = mmap(NULL, sizeof(struct bank_file), PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	b->file = at == MAP_FAILED ? NULL : at;
	return b->file && b->lock_fd >= 0;
}

struct slot_bank *slot_bank_new(int inherited)
{
	struct slot_bank *b = x_calloc(1, sizeof(*b));

	b->lock_fd = -1;
	if (open_file(b, inherited) && claim(b))
		return b;
	slot_bank_free(b);
	return NULL;
}

void slot_bank_free(struct slot_bank *b)
{
	if (!b)
		return;
	if (b->file)
		munmap(b->file, sizeof(*b->file));
	if (b->lock_fd >= 0)
		close(b->lock_fd);
	if (b->fd >= 0)
		close(b->fd);
	free(b);
}

int slot_bank_fd(const struct slot_bank *b) { return b->fd; }
unsigned slot_bank_mine(const struct slot_bank *b) { return b->mine; }

struct slot_row *slot_bank_row(struct slot_bank *b, struct str backend, struct str model)
{
	uint64_t key = str_hash(model, str_hash(backend, 0)), at = key;

	key += !key;
	for (unsigned i = 0; i < SLOT_ROWS; i++, at++) {
		struct slot_row *r = &b->file->rows[at % SLOT_ROWS];
		uint64_t has = 0;

		if (atomic_compare_exchange_strong(&r->key, &has, key) || has == key)
			return r;
	}
	return NULL;
}

bool slot_bank_alone(struct slot_bank *b)
{
	bool alone = true;

	for (unsigned k = 0; k < SLOT_BANKS; k++) {
		if (k == b->mine)
			continue;
		if (!lock(b, k, F_WRLCK)) {
			alone = false;
			continue;
		}
		empty(b, k);
		(void)lock(b, k, F_UNLCK);
	}
	return alone;
}
