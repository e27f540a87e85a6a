/* certificate.c - see certificate.h. */
#include "services/gateway/certificate.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/tls.h"
#include "services/gateway/worker.h"

enum { WARN_DAYS = 14, DAY_S = 86400 };

struct certificate {
	struct gateway *gw;
	struct tls_identity *identity;
	char seen[2][96];             /* the files when they were read last */
};

static const char *const names[2] = { "public_tls_cert", "public_tls_key" };

static struct tls_identity *load(const struct gateway_config *c, struct why *why)
{
	return tls_identity_load(c->public_tls_cert, c->public_tls_key, names, why);
}

enum err certificate_check(const struct gateway_config *c, struct why *why)
{
	struct tls_identity *i;

	if (!c->public_tls_listen[0]) {
		if (strcmp(c->listen, "none") == 0)
			return err_field(why, ERR_INVALID, "listen", "listen is none and there is no public_tls_listen: nobody could connect");
		if (c->public_tls_cert[0] || c->public_tls_key[0])
			return err_field(why, ERR_INVALID, "public_tls_listen", "public_tls_cert and public_tls_key are for public_tls_listen, which is not given");
		return ERR_OK;
	}
	if (!strchr(c->public_tls_listen, ':') || strncmp(c->public_tls_listen, "unix:", 5) == 0)
		return err_field(why, ERR_INVALID, "public_tls_listen", "'%s' is not an address for TLS; write host:port, [v6]:port or :port", c->public_tls_listen);
	if (!c->public_tls_cert[0] || !c->public_tls_key[0])
		return err_field(why, ERR_INVALID, c->public_tls_cert[0] ? names[1] : names[0], "public_tls_listen needs public_tls_cert and public_tls_key");
	i = load(c, why);
	tls_identity_unref(i);
	return i ? ERR_OK : why->code;
}

static void mark(const char *path, char *ret, size_t cap)
{
	struct stat st;

	ret[0] = '\0';
	if (stat(path, &st) == 0)
		snprintf(ret, cap, "%llu.%lld.%ld.%lld", (unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (long long)st.st_size);
}

/* Have the files changed since the last time that this was asked? */
static bool changed(struct certificate *c, const struct gateway_config *cfg)
{
	const char *paths[2] = { cfg->public_tls_cert, cfg->public_tls_key };
	bool ret = false;

	for (unsigned i = 0; i < 2; i++) {
		char now[sizeof(c->seen[0])];

		mark(paths[i], now, sizeof(now));
		ret |= strcmp(now, c->seen[i]) != 0;
		snprintf(c->seen[i], sizeof(c->seen[i]), "%s", now);
	}
	return ret;
}

/* Takes over the reference. */
static void use(struct certificate *c, struct tls_identity *next)
{
	int64_t ends_s = tls_identity_ends_s(next), left_s = ends_s - wall_us() / 1000000;

	tls_identity_unref(c->identity);
	c->identity = next;
	series_set(metrics_series(c->gw->metrics, M_TLS_ENDS), (double)ends_s);
	for (unsigned i = 0; i < c->gw->n_workers; i++)
		if (c->gw->workers[i])
			worker_set_tls(c->gw->workers[i], next);
	if (left_s < WARN_DAYS * DAY_S)
		LOG_WARN(left_s > 0 ? "the certificate of the public port ends soon" : "the certificate of the public port has ended; clients refuse it",
			 LOG_I("days", left_s / DAY_S));
}

bool certificate_new(struct gateway *g, struct why *why)
{
	struct certificate *c;
	struct tls_identity *first;

	series_set(metrics_series(g->metrics, M_TLS_ENDS), 0);
	if (!g->cfg->public_tls_listen[0])
		return true;
	g->certificate = c = x_calloc(1, sizeof(*c));
	c->gw = g;
	(void)changed(c, g->cfg);
	first = load(g->cfg, why);
	if (!first)
		return false;
	use(c, first);
	return true;
}

struct tls_identity *certificate_identity(const struct certificate *c) { return c ? c->identity : NULL; }

bool certificate_reload(struct certificate *c, const struct gateway_config *next, struct why *why)
{
	struct tls_identity *i;

	if (!c)
		return true;
	(void)changed(c, next);
	i = load(next, why);
	if (!i)
		return false;
	use(c, i);
	LOG_INFO("the certificate of the public port was read again");
	return true;
}

void certificate_sweep(struct certificate *c)
{
	struct why why;

	if (c && changed(c, c->gw->cfg) && !certificate_reload(c, c->gw->cfg, &why))
		LOG_ERROR("the files of the public port's certificate have changed and cannot be used; the ones before stay in force", LOG_S("error", why.text));
}

void certificate_free(struct certificate *c)
{
	if (!c)
		return;
	tls_identity_unref(c->identity);
	free(c);
}
