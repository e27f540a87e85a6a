/* settings.c - the options that every program has, and the filling of all tables. */
#include <stdio.h>

#include "common/io/wire_tls.h"
#include "common/svc/runtime.h"

#define RT(...) OPT(struct runtime_config, __VA_ARGS__)

static const struct opt common_options[] = {
	RT(STRING, config, "", "YAML file with options, by name: 'drain: 60s'. CORRAL_CONFIG names it too."),
	RT(STRING, listen, "", "Address of the public port, HOST:PORT or unix:/path."),
	RT(STRING, admin_listen, "", "Address of the admin port: /livez /readyz /startupz /metrics /version. It asks for no key: keep it on loopback."),
	RT(STRING, rpc_listen, "", "Where the other services reach this one: tcp://HOST:PORT, tls+tcp://HOST:PORT or ipc:///path. Snapshots go out on the port 100 above."),
	RT(STRING, state_dir, "${XDG_STATE_HOME:-~/.local/state}/corral", "Directory for what must survive a restart; each service has its own below it."),
	RT(DURATION, drain, "300s", "How long answers in progress may go on after SIGTERM; SIGINT and a second signal shorten it to 5 s.", .min = 0, .max = 86400000, .live = true),
	RT(LIST, peer, "", "Where other services are, as name=url, or each as --peer.NAME=URL (CORRAL_PEER_NAME; several URLs with commas there); those "
			   "of the same process and those at their usual ports need no entry. All addresses of a host name are used.", .keyed = true),
	RT(SECRET, db, "", "Database server of all services that keep something: postgresql://USER:PASSWORD@HOST:PORT/NAME, each service in a schema by its name, which "
			   "'PROGRAM migrate' makes. Empty = a file of SQLite for each in state_dir, for one replica of it. A service's own option goes before this. "
			   "sqlite:PATH here is the file of the ledger alone."),
	RT(BOOL, standby_ready, "no", "Whether /readyz says 200 while another process is the writer and this one would take over, for rolling updates that wait for it. It does "
				      "not listen meanwhile, so that others find the writer among several addresses."),
	RT(STRING, tls_ca, "", "PEM file with the authority of all services' certificates, for tls+tcp:// between services."),
	RT(STRING, tls_cert, "", "PEM file with this service's own certificate, as server and as client. A changed file is noticed within seconds."),
	RT(STRING, tls_key, "", "PEM file with the key of tls_cert."),
	RT(ENUM, log_level, "info", "What is logged: this and all that is worse.", .words = "debug info warn error", .live = true),
	RT(ENUM, log_format, "auto", "auto is text on a terminal, else JSON.", .words = "auto json text"),
	OPT_END
};

static const char *loopback(struct runtime *rt, const char *before, uint16_t port) { return arena_printf(rt->mem, "%s127.0.0.1:%u", before, port); }

/* The first service that has a public port; in one process the others' are fixed. */
static const struct svc_def *public_one(const struct runtime *rt)
{
	for (unsigned i = 0; i < rt->n; i++)
		if (rt->svcs[i].def->public_port)
			return rt->svcs[i].def;
	return NULL;
}

static bool has_writer(const struct runtime *rt)
{
	for (unsigned i = 0; i < rt->n; i++)
		if (rt->svcs[i].def->one_writer)
			return true;
	return false;
}

/* NULL: this program does not have the option. */
static const char *default_of(struct runtime *rt, const struct opt *o)
{
	const struct svc_def *first = rt->svcs[0].def, *pub = public_one(rt);

	if (strcmp(o->name, "listen") == 0)
		return pub ? loopback(rt, "", pub->public_port) : NULL;
	if (strcmp(o->name, "admin_listen") == 0)
		return loopback(rt, "", first->admin_port);
	if (strcmp(o->name, "rpc_listen") == 0)
		return rt->n == 1 && first->rpc_port ? loopback(rt, "tcp://", first->rpc_port) : NULL;
	if (strcmp(o->name, "standby_ready") == 0)
		return has_writer(rt) ? o->dflt : NULL;
	return o->dflt;
}

void settings_prepare(struct runtime *rt)
{
	struct opt *to = rt->options = arena_zero(rt->mem, sizeof(common_options));

	for (const struct opt *o = common_options; o->name; o++) {
		const char *dflt = default_of(rt, o);

		if (!dflt)
			continue;
		*to = *o;
		to++->dflt = dflt;
	}
	rt->sets = arena_array(rt->mem, struct opt_set, rt->n + 1);
	for (unsigned i = 0; i < rt->n; i++) {
		const struct svc_def *def = rt->svcs[i].def;

		rt->svcs[i].config = arena_zero(rt->mem, def->config_size ? def->config_size : 1);
		rt->sets[i] = (struct opt_set){ .table = def->options, .config = rt->svcs[i].config, .owner = def->name };
	}
	rt->sets[rt->n] = (struct opt_set){ .table = rt->options, .config = &rt->config, .owner = "every program" };
}

static enum err check_urls(const char *urls, bool tls, struct why *why)
{
	struct str rest = str_of(urls), part;
	enum err err = ERR_OK;

	while (err == ERR_OK && rest.n > 0 && str_split(&rest, ',', &part)) {
		char url[512];

		str_copy(url, sizeof(url), str_trim(part));
		err = wire_check_url(url, tls, why);
	}
	return err;
}

static enum err check_peers(const struct runtime *rt, struct why *why)
{
	for (size_t i = 0; i < rt->config.peer.n; i++) {
		const char *item = rt->config.peer.items[i], *eq = strchr(item, '=');
		struct why url;

		if (!eq || eq == item || !eq[1])
			return err_field(why, ERR_INVALID, "peer", "peer: '%s' is not of the form name=tcp://HOST:PORT or name=ipc:///path", item);
		if (check_urls(eq + 1, rt->config.tls_cert[0], &url))
			return err_field(why, ERR_INVALID, "peer", "peer %.*s: %s", (int)(eq - item), item, url.text);
	}
	return ERR_OK;
}

static enum err check_places(const struct runtime *rt, struct why *why)
{
	const struct wire_tls_files tls = { rt->config.tls_ca, rt->config.tls_cert, rt->config.tls_key };
	struct why url;
	enum err err = wire_tls_check(&tls, why);

	if (err == ERR_OK && rt->config.rpc_listen && wire_check_url(rt->config.rpc_listen, tls.cert[0], &url))
		err = err_field(why, ERR_INVALID, "rpc_listen", "rpc_listen: %s", url.text);
	return err == ERR_OK ? check_peers(rt, why) : err;
}

static enum err check_args(const struct opt_list *args, struct why *why)
{
	if (args->n == 0)
		return ERR_OK;
	return err_set(why, ERR_INVALID, "'%s' is not an option; --help lists them", args->items[0]);
}

enum err settings_fill(struct runtime *rt, int argc, char **argv, struct why *why)
{
	struct opt_list args;
	enum err err = opt_load(rt->sets, rt->n + 1, argc, argv, rt->mem, &args, why);

	if (err == ERR_OK)
		err = check_args(&args, why);
	if (err == ERR_OK)
		err = check_places(rt, why);
	if (err == ERR_OK)
		err = databases_place(rt, why);
	return err ? err : place_state_dir(rt->mem, rt->config.state_dir, &rt->state_dir, why);
}

/* A check knows the option, the table knows the line of the file that it came from. */
static enum err add_line(const struct opt_set *set, struct why *why)
{
	struct why said = *why;

	for (const struct opt *o = set->table; o && o->name; o++) {
		const char *source = set->sources[o - set->table];

		if (strcmp(o->name, said.field) == 0 && strncmp(source, "--", 2) != 0 && strncmp(source, "environment ", 12) != 0 &&
		    strcmp(source, "default") != 0 && !str_starts(str_of(said.text), str_of(source)))
			return err_field(why, said.code, said.field, "%s: %s", source, said.text);
	}
	return said.code;
}

static void tell(enum err e, void (*wrong)(void *arg, const struct why *), void *arg, const struct why *why)
{
	if (e)
		wrong(arg, why);
}

/* What is missing cannot be set back: then the option that needs it is, the first without which that is not said any more. */
static bool without_another(struct runtime *rt, unsigned i, const char *field)
{
	const struct svc_def *def = rt->svcs[i].def;
	struct opt_set *set = &rt->sets[i];
	void *before = arena_alloc(rt->mem, def->config_size + 1);

	memcpy(before, set->config, def->config_size);
	for (const struct opt *o = set->table; o && o->name; o++) {
		const char *source = set->sources[o - set->table];
		struct why why = { 0 };

		if (!opt_reset(set, o->name, rt->mem))
			continue;
		if (def->check(set->config, &why) == ERR_OK || strcmp(why.field, field) != 0)
			return true;
		memcpy(set->config, before, def->config_size);
		set->sources[o - set->table] = source;
	}
	return false;
}

/* A check says what it finds first; with that option at its default it says what it finds next. */
static void check_all(struct runtime *rt, unsigned i, void (*wrong)(void *arg, const struct why *), void *arg)
{
	const struct svc_def *def = rt->svcs[i].def;
	struct why why = { 0 };
	char field[sizeof(why.field)];

	while (def->check && def->check(rt->svcs[i].config, &why) != ERR_OK) {
		str_copy(field, sizeof(field), str_of(why.field));
		(void)add_line(&rt->sets[i], &why);
		wrong(arg, &why);
		if (!opt_reset(&rt->sets[i], field, rt->mem) && !without_another(rt, i, field))
			return;
		why = (struct why){ 0 };
	}
}

void settings_check_all(struct runtime *rt, int argc, char **argv, void (*wrong)(void *arg, const struct why *), void *arg)
{
	struct opt_list args = { 0 };
	struct why why;

	tell(opt_load_all(rt->sets, rt->n + 1, argc, argv, rt->mem, &args, wrong, arg, &why), wrong, arg, &why);
	tell(check_args(&args, &why), wrong, arg, &why);
	tell(check_places(rt, &why), wrong, arg, &why);
	tell(databases_place(rt, &why), wrong, arg, &why);
	tell(place_state_dir(rt->mem, rt->config.state_dir, &rt->state_dir, &why), wrong, arg, &why);
	for (unsigned i = 0; i < rt->n; i++)
		check_all(rt, i, wrong, arg);
}

enum err settings_load(struct runtime *rt, int argc, char **argv, struct why *why)
{
	enum err err = settings_fill(rt, argc, argv, why);

	for (unsigned i = 0; i < rt->n && err == ERR_OK; i++)
		if (rt->svcs[i].def->check && rt->svcs[i].def->check(rt->svcs[i].config, why) != ERR_OK)
			err = add_line(&rt->sets[i], why);
	return err;
}
