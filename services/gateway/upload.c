/* upload.c - see upload.h. */
#include "services/gateway/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/data/secret.h"

#define BLOBS "/api/blobs/"

struct upload {
	int fd;
	uint64_t n;
	struct sha256_state *hash;
	void *map;
};

bool is_digest(struct str s)
{
	if (s.n != 7 + 64 || !str_starts(s, STR("sha256:")))
		return false;
	for (size_t i = 7; i < s.n; i++)
		if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
			return false;
	return true;
}

void upload_free(struct upload *u)
{
	uint8_t unused[SHA256_BYTES];

	if (!u)
		return;
	if (u->map)
		munmap(u->map, u->n);
	if (u->hash)
		sha256_end(u->hash, unused);
	if (u->fd >= 0)
		close(u->fd);
	free(u);
}

struct upload *upload_take(struct http_xchg *x)
{
	struct upload *u = x->on_body ? x->user : NULL;

	if (x->on_body) {
		x->on_body = NULL;
		x->user = NULL;
	}
	return u;
}

static void on_gone(struct http_xchg *x, const char *why)
{
	(void)why;
	upload_free(upload_take(x));
}

static bool on_body(struct http_xchg *x, struct str data, struct why *why)
{
	struct upload *u = x->user;

	sha256_add(u->hash, data);
	while (data.n) {
		ssize_t n = write(u->fd, data.p, data.n);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			err_set(why, ERR_STORE_FAILED, "the file cannot be kept here on its way to the backend: %s", strerror(errno));
			return false;
		}
		u->n += (uint64_t)n;
		data = str_from(data, (size_t)n);
	}
	return true;
}

bool upload_begin(struct gateway *gw, struct http_xchg *x, size_t *ret_allowed)
{
	struct upload *u;

	if (!str_eqz(x->head.method, "POST") || !str_starts(x->path, STR(BLOBS)) || x->head.framing == HTTP_NO_BODY)
		return false;
	u = x_calloc(1, sizeof(*u));
	u->fd = open(svc_state_dir(gw->svc), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	u->hash = sha256_begin();
	x->user = u;
	x->on_body = on_body;
	x->on_gone = on_gone;
	*ret_allowed = (size_t)gw->cfg->max_blob;
	return true;
}

enum err upload_bytes(struct upload *u, struct str digest, struct str *ret, struct why *why)
{
	uint8_t hash[SHA256_BYTES];
	char hex[2 * SHA256_BYTES + 1];

	sha256_end(u->hash, hash);
	u->hash = NULL;
	for (unsigned i = 0; i < SHA256_BYTES; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", hash[i]);
	if (!str_eqz(str_from(digest, 7), hex))
		return err_set(why, ERR_MALFORMED, "digest mismatch, expected \"" STR_FMT "\", got \"sha256:%s\"", STR_ARG(digest), hex);
	u->map = u->n ? mmap(NULL, u->n, PROT_READ, MAP_PRIVATE, u->fd, 0) : NULL;
	if (u->map == MAP_FAILED) {
		u->map = NULL;
		return err_set(why, ERR_STORE_FAILED, "the file cannot be read back: %s", strerror(errno));
	}
	*ret = str_n(u->map, u->n);
	return ERR_OK;
}
