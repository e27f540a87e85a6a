/* lease_file.c - see lease_file.h. */
#include "services/gateway/lease_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { FILE_MAX = 16 << 20 };

void state_file_path(const struct gateway *g, const char *file, char path[1024])
{
	snprintf(path, 1024, "%s/%s", svc_state_dir(g->svc), file);
}

bool state_file_write(const struct gateway *g, const char *file, const void *bytes, size_t n)
{
	char path[1024], temporary[1040];
	int fd;
	bool ok;

	state_file_path(g, file, path);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ok = fd >= 0 && write(fd, bytes, n) == (ssize_t)n && fdatasync(fd) == 0;
	if (fd >= 0)
		close(fd);
	return ok && rename(temporary, path) == 0;
}

bool lease_file_write(const struct gateway *g, const char *file, const Corral__BudgetLeaseReply *r)
{
	size_t n = corral__budget_lease_reply__get_packed_size(r);
	uint8_t *bytes = x_malloc(n + 1);
	bool ok;

	corral__budget_lease_reply__pack(r, bytes);
	ok = state_file_write(g, file, bytes, n);
	free(bytes);
	return ok;
}

Corral__BudgetLeaseReply *lease_file_read(const struct gateway *g, const char *file)
{
	Corral__BudgetLeaseReply *r = NULL;
	char path[1024];
	uint8_t *bytes = NULL;
	long n = -1;
	FILE *f;

	state_file_path(g, file, path);
	f = fopen(path, "re");
	if (f && fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) >= 0 && n <= FILE_MAX) {
		bytes = x_malloc((size_t)n + 1);
		rewind(f);
		if (fread(bytes, 1, (size_t)n, f) == (size_t)n)
			r = corral__budget_lease_reply__unpack(NULL, (size_t)n, bytes);
	}
	if (f)
		fclose(f);
	free(bytes);
	return r;
}
