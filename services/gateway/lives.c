/* lives.c - see lives.h. */
#include "services/gateway/lives.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

unsigned lives_read(const char *path, char ret[LIVES][LIFE])
{
	FILE *f = fopen(path, "re");
	char line[80];
	unsigned n = 0;

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (strlen(line) != LIFE - 1)
			continue;
		if (n == LIVES)
			memmove(ret[0], ret[1], (size_t)--n * LIFE);
		memcpy(ret[n++], line, LIFE);
	}
	if (f)
		fclose(f);
	return n;
}

static bool is_among(const char *life, char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], life) == 0)
			return true;
	return false;
}

static bool write_whole(const char *path, const char *text, size_t n)
{
	char temporary[1100];
	int fd;
	bool ok;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ok = fd >= 0 && write(fd, text, n) == (ssize_t)n && fdatasync(fd) == 0;
	if (fd >= 0)
		close(fd);
	return ok && rename(temporary, path) == 0;
}

static bool change(const char *path, const char *mine, char *const *closed, size_t n_closed)
{
	char lives[LIVES][LIFE], text[(LIVES + 1) * (LIFE + 1)];
	unsigned n_lives = lives_read(path, lives);
	size_t n = 0;

	for (unsigned i = 0; i < n_lives; i++)
		if (strcmp(lives[i], mine) != 0 && !is_among(lives[i], closed, n_closed))
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\n", lives[i]);
	n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\n", mine);
	return write_whole(path, text, n);
}

bool lives_change(const char *path, const char *mine, char *const *closed, size_t n_closed)
{
	char name[1100];
	int lock;
	bool ok;

	snprintf(name, sizeof(name), "%s.lock", path);
	lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ok = lock >= 0 && flock(lock, LOCK_EX) == 0 && change(path, mine, closed, n_closed);
	if (lock >= 0)
		close(lock);
	return ok;
}
