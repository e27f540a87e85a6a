/* key_file.c - see key_file.h. */
#include "services/access/key_file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/policy/apikey.h"

enum { LONGEST_FILE = 4096 };

static void wipe(void *p) { secret_wipe(p, LONGEST_FILE); }

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static struct str trimmed(struct str s)
{
	while (s.n && is_blank(s.p[0]))
		s.p++, s.n--;
	while (s.n && is_blank(s.p[s.n - 1]))
		s.n--;
	return s;
}

enum err key_file_read(const char *path, struct arena *mem, struct str *ret_text, struct str *ret_id, struct why *why)
{
	char *p = arena_alloc(mem, LONGEST_FILE);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, p, LONGEST_FILE);
	int error = errno;

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return err_field(why, ERR_INVALID, "bootstrap_key_file", "bootstrap_key_file: '%s' cannot be read: %s", path, strerror(error));
	arena_defer(mem, wipe, p);
	*ret_text = trimmed(str_n(p, (size_t)n));
	if (apikey_parse(*ret_text, ret_id))
		return ERR_OK;
	return err_field(why, ERR_INVALID, "bootstrap_key_file",
			 "bootstrap_key_file: what '%s' holds is no key; make one with: corral keys generate >%s", path, path);
}
