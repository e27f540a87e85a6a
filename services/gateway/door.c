/* door.c - see door.h.
 *
 * A wide listener serves nobody without a key, unless from a network that 'anonymous' names. A gateway of its own cannot know at start whether
 * there are keys; it refuses everybody until it hears of them. Where the access service runs in the same process it can be known, and then
 * a wide listener without any key is a mistake that ends the program, with the command that makes one. */
#include "services/gateway/door.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/gateway/worker.h"

bool listen_is_loopback(struct str listen)
{
	return str_starts(listen, STR("127.")) || str_starts(listen, STR("[::1]:")) || str_starts(listen, STR("localhost:")) ||
	       str_starts(listen, STR("unix:")) || str_starts(listen, STR(":"));
}

enum err door_check(const struct gateway_config *c, struct why *why)
{
	struct cidr net;

	for (size_t i = 0; i < c->anonymous.n; i++)
		if (!cidr_parse(str_of(c->anonymous.items[i]), &net))
			return err_field(why, ERR_INVALID, "anonymous", "'%s' is not a network; write 10.0.0.0/8, fd00::/8 or one address, without bits behind the prefix",
					 c->anonymous.items[i]);
	return ERR_OK;
}

const char *door_wide_address(const struct gateway_config *c)
{
	if (strcmp(c->listen, "none") != 0 && !listen_is_loopback(str_of(c->listen)))
		return c->listen;
	return c->public_tls_listen[0] && !listen_is_loopback(str_of(c->public_tls_listen)) ? c->public_tls_listen : NULL;
}

struct door *door_new(struct gateway *g)
{
	struct door *d = x_calloc(1, sizeof(*d));

	d->gw = g;
	d->access = svc_peer(g->svc, "access");
	d->scopes = scope_table_new();
	d->wide = door_wide_address(g->cfg) != NULL;
	d->keyless_owner[DOOR_PLAIN] = listen_is_loopback(str_of(g->cfg->listen)) && !g->cfg->require_keys;
	d->keyless_owner[DOOR_TLS] = listen_is_loopback(str_of(g->cfg->public_tls_listen)) && !g->cfg->require_keys;
	d->anonymous = x_calloc(g->cfg->anonymous.n + 1, sizeof(*d->anonymous));
	for (; d->n_anonymous < g->cfg->anonymous.n; d->n_anonymous++)
		(void)cidr_parse(str_of(g->cfg->anonymous.items[d->n_anonymous]), &d->anonymous[d->n_anonymous]);   /* checked */
	return d;
}

/* --- the keyring --- */

static bool in_one_process(struct door *d) { return str_starts(str_of(svc_pub_url(d->gw->svc, "access")), STR("inproc:")); }

static void say_ready(struct door *d)
{
	bool keyless = !d->wide && !d->gw->cfg->require_keys;
	char text[160];
	int64_t away_s = d->heard_us ? (mono_us() - d->heard_us) / 1000000 : -1;

	if (!d->ring)
		snprintf(text, sizeof(text), "not heard from the access service yet%s", keyless ? "; loopback needs no key" : "");
	else if (away_s < 0)
		snprintf(text, sizeof(text), "%zu keys, as kept on disk; the access service was not heard since the start", keyring_keys(d->ring));
	else if (away_s > 3)
		snprintf(text, sizeof(text), "%zu keys; the access service is silent since %lld s", keyring_keys(d->ring), (long long)away_s);
	else
		snprintf(text, sizeof(text), "%zu keys", keyring_keys(d->ring));
	svc_need(d->gw->svc, "keys", d->ring || keyless, text);
}

/* The first time that the access service itself has spoken. */
static void judge(struct door *d)
{
	struct why why;

	if (d->judged)
		return;
	d->judged = true;
	if (!d->wide || d->n_anonymous || keyring_keys(d->ring))
		return;
	if (in_one_process(d)) {
		err_field(&why, ERR_INVALID, "listen", "'%s' can be reached from other machines, and there is no key that would let anybody in; make one with "
			  "`corral keys create first --role owner`, name a file with CORRAL_BOOTSTRAP_KEY_FILE, or listen on 127.0.0.1",
			  door_wide_address(d->gw->cfg));
		svc_fail(d->gw->svc, &why);
	} else {
		LOG_WARN("there is no key yet, and everybody needs one; make one with `corral keys create first --role owner`",
			 LOG_S("listen", door_wide_address(d->gw->cfg)));
	}
}

/* Takes over the reference. */
static void swap(struct door *d, struct keyring *ring, bool stale)
{
	keyring_unref(d->ring);
	d->ring = ring;
	for (unsigned i = 0; i < d->gw->n_workers; i++)
		worker_set_ring(d->gw->workers[i], keyring_ref(ring));
	if (!stale) {
		d->heard_us = mono_us();
		judge(d);
	}
	series_set(metrics_series(d->gw->metrics, M_SNAPSHOT_VERSION, "access"), (double)keyring_id(ring).version);
	series_set(metrics_series(d->gw->metrics, M_KEYS), (double)keyring_keys(ring));
	say_ready(d);
}

static void on_snapshot(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct door *d = arg;
	struct why why = { 0 };
	struct keyring *ring = keyring_new(bytes, id, d->scopes, &why);

	if (ring)
		swap(d, ring, stale);
	else
		LOG_ERROR("a snapshot was not applied; the last good one stays", LOG_S("error", why.text));
}

static bool on_delta(void *arg, struct snapshot_id id, struct str delta)
{
	struct door *d = arg;
	struct why why = { 0 };
	struct keyring *ring = d->ring ? keyring_with(d->ring, delta, id, d->scopes, &why) : NULL;

	if (ring)
		swap(d, ring, !snapshot_sub_live(d->sub));
	return ring != NULL;
}

void door_open(struct door *d)
{
	char path[1024];

	say_ready(d);
	snprintf(path, sizeof(path), "%s/access.snapshot", svc_state_dir(d->gw->svc));
	d->sub = snapshot_sub_new(d->gw->loop, d->access, svc_pub_url(d->gw->svc, "access"), "access", path, on_snapshot, d);
	snapshot_sub_on_delta(d->sub, on_delta);
}

void door_load(struct door *d) { snapshot_sub_load(d->sub); }

static void nothing(struct scope *s, void *arg) { (void)s, (void)arg; }

void door_sweep(struct door *d, int64_t now_us)
{
	if (d->sub && d->ring && snapshot_sub_live(d->sub))
		d->heard_us = now_us;
	series_set(metrics_series(d->gw->metrics, M_KEYS_AGE), d->heard_us ? (double)(now_us - d->heard_us) / 1e6 : -1);
	scope_table_sweep(d->scopes, nothing, NULL);
	say_ready(d);
}

void door_close(struct door *d)
{
	snapshot_sub_free(d->sub);
	d->sub = NULL;
}

void door_free(struct door *d)
{
	if (!d)
		return;
	door_close(d);
	keyring_unref(d->ring);
	scope_table_free(d->scopes);
	free(d->anonymous);
	free(d);
}
