/* places.c - where things are: services by name, their snapshots, their files. */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/data/log.h"
#include "common/svc/runtime.h"

/* RPC ports on loopback; a service that is added takes the next number. */
static const struct { const char *service; uint16_t port; } known[] = {
	{ "model-registry", 7111 }, { "selector", 7112 }, { "classifier", 7113 }, { "ab-testing", 7114 }, { "usage-tracker", 7115 },
	{ "access", 7116 }, { "hardware-probe", 7117 }, { "cloud-fallback", 7118 },
};

/* The last one that names the service. */
static const char *from_option(struct runtime *rt, struct arena *a, const char *service)
{
	for (size_t i = rt->config.peer.n; i-- > 0;) {
		struct str rest = str_of(rt->config.peer.items[i]), name;

		if (str_split(&rest, '=', &name) && str_eqz(str_trim(name), service) && rest.n > 0)
			return arena_str(a, str_trim(rest)).p;
	}
	return NULL;
}

/* In one process every service has an inproc address, and that comes first. */
const char *place_of(struct runtime *rt, struct arena *a, const char *service)
{
	const char *url;

	for (unsigned i = 0; i < rt->n; i++)
		if (strcmp(rt->svcs[i].def->name, service) == 0)
			return rt->n == 1 && rt->config.rpc_listen ? rt->config.rpc_listen : arena_printf(a, "inproc://%s", service);
	url = from_option(rt, a, service);
	if (url)
		return url;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].service, service) == 0)
			return arena_printf(a, "tcp://127.0.0.1:%u", known[i].port);
	LOG_WARN("nobody knows where this service is; name it with --peer", LOG_S("peer", service));
	return arena_printf(a, "inproc://%s", service);
}

static const char *pub_of_one(struct arena *a, const char *url)
{
	const char *colon = strrchr(url, ':');
	uint64_t port;

	if ((strncmp(url, "tcp://", 6) == 0 || strncmp(url, "tls+tcp://", 10) == 0) && str_u64(str_of(colon + 1), &port) && port > 0 && port <= 65435)
		return arena_printf(a, "%.*s:%u", (int)(colon - url), url, (unsigned)port + 100);
	return arena_printf(a, "%s.pub", url);
}

/* tcp: the port 100 above; else the address with ".pub". Of each, when there are several with commas. */
const char *place_pub(struct arena *a, const char *rpc_urls)
{
	struct str rest = str_of(rpc_urls), one;
	const char *all = NULL;

	while (rest.n > 0 && str_split(&rest, ',', &one)) {
		const char *pub = pub_of_one(a, arena_str(a, str_trim(one)).p);

		all = all ? arena_printf(a, "%s,%s", all, pub) : pub;
	}
	return all ? all : "";
}

static const char *home(void)
{
	const char *h = getenv("HOME");
	struct passwd *pw;

	if (h && h[0])
		return h;
	pw = getpwuid(getuid());
	return pw && pw->pw_dir && pw->pw_dir[0] ? pw->pw_dir : NULL;
}

enum err place_state_dir(struct arena *a, const char *given, const char **ret, struct why *why)
{
	if (!given[0])
		return err_field(why, ERR_INVALID, "state_dir", "state_dir is empty; give a directory with --state-dir");
	*ret = given;
	if (given[0] != '~' || given[1] != '/')
		return ERR_OK;
	if (!home())
		return err_field(why, ERR_INVALID, "state_dir", "state_dir: '%s' means nothing here, because HOME is not set; give a directory with --state-dir", given);
	*ret = arena_printf(a, "%s%s", home(), given + 1);
	return ERR_OK;
}

static enum err make_one(const char *path, struct why *why)
{
	if (mkdir(path, 0700) == 0 || errno == EEXIST || errno == EISDIR)
		return ERR_OK;
	return err_field(why, ERR_STORE_FAILED, "state_dir", "directory '%s' cannot be made: %s; give another with --state-dir", path, strerror(errno));
}

enum err place_make_dir(const char *path, struct why *why)
{
	char *part = x_strdup(path);
	enum err err = ERR_OK;

	for (char *p = part + 1; *p && err == ERR_OK; p++)
		if (*p == '/') {
			*p = '\0';
			err = make_one(part, why);
			*p = '/';
		}
	if (err == ERR_OK)
		err = make_one(part, why);
	if (err == ERR_OK && access(part, R_OK | W_OK | X_OK) != 0)
		err = err_field(why, ERR_STORE_FAILED, "state_dir", "directory '%s' cannot be written: %s; give another with --state-dir", part, strerror(errno));
	free(part);
	return err;
}
