/* power.c - see power.h. */
#include "services/model-registry/power.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/rpc.h"
#include "hardware.pb-c.h"
#include "services/model-registry/power_parts.h"

enum {
	MAKE_US = 100 * 1000, ASK_MS = 2000,
	MISSED = 3,                   /* unanswered in a row: it is told of */
	ALONE_US = 5000 * 1000, DEAF_US = 13000 * 1000        /* without a connection, with one: a new one may help (common/svc/peers.c says why) */
};

/* A hardware-probe; kept until the end. */
struct probe {
	struct probe *next;
	struct power_watch *watch;
	char *url;                    /* "" = the peer */
	struct rpc_client *own;       /* NULL = the peer's */
	bool asking, known;
	unsigned missed;              /* calls in a row */
	int64_t missed_us;            /* when the first of them ended, or a new connection was made since */
	char machine[64];
	int64_t milliwatts, limit;    /* now, held to (-1 = not known) */
	struct power_peak seen;
	int64_t heard_us;
};

struct power_watch {
	struct svc *svc;
	struct registry *const *registry;
	struct loop_timer timer;
	struct probe *probes;
	struct power_parts *parts;
	int64_t made_us;
};

static const struct registry_config *config_of(const struct power_watch *w) { return (*w->registry)->config; }

static struct probe *probe_get(struct power_watch *w, const char *url)
{
	struct probe *p;

	for (p = w->probes; p; p = p->next)
		if (strcmp(p->url, url) == 0)
			return p;
	p = x_calloc(1, sizeof(*p));
	p->watch = w;
	p->url = x_strdup(url);
	p->own = *url ? rpc_client_new(svc_loop(w->svc), url) : NULL;
	p->next = w->probes;
	return w->probes = p;
}

static struct probe *probe_of(struct power_watch *w, const struct backend *b)
{
	char url[512];

	return settings_probe(config_of(w), b->name, b->url_text, url, sizeof(url)) ? probe_get(w, url) : NULL;
}

/* --- asking --- */

/* The peer's own connection and its state are looked after where peers are. */
static void unheard(struct probe *p)
{
	int64_t now = mono_us();

	p->missed_us = p->missed++ ? p->missed_us : now;
	if (!p->own)
		return;
	if (p->missed == MISSED)
		LOG_WARN("a hardware-probe does not answer; the energy of requests on its machine is not known", LOG_S("url", p->url), LOG_S("why", rpc_error(p->own)->text));
	if (p->missed >= MISSED && now - p->missed_us >= (rpc_connected(p->own) ? DEAF_US : ALONE_US)) {
		p->missed_us = now;
		rpc_reconnect(p->own);
	}
}

static void heard(struct probe *p)
{
	if (p->own && p->missed >= MISSED)
		LOG_INFO("a hardware-probe answers again", LOG_S("url", p->url));
	p->missed = 0;
}

static void on_power(const Corral__PowerReply *reply, void *arg)
{
	struct probe *p = arg;
	bool tells = reply && reply->source[0] && reply->milliwatts >= 0;

	p->asking = false;
	if (!reply) {
		unheard(p);
		return;
	}
	heard(p);
	if (tells && !p->known)
		LOG_INFO("the power of a machine is known", LOG_S("node", reply->node), LOG_S("source", reply->source), LOG_I("milliwatts", reply->milliwatts));
	p->known = tells;
	if (!tells)
		return;
	(void)str_copy(p->machine, sizeof(p->machine), str_of(reply->probe));
	p->milliwatts = reply->milliwatts;
	p->limit = reply->limit_milliwatts;
	p->heard_us = mono_us();
	power_peak_note(&p->seen, p->milliwatts, p->heard_us);
}

static void ask(struct probe *p)
{
	struct rpc_client *rpc = p->own ? p->own : svc_peer(p->watch->svc, "hardware-probe");
	Corral__PowerRequest q = CORRAL__POWER_REQUEST__INIT;
	int64_t before;

	if (p->asking)
		return;
	p->asking = true;
	before = rpc_deadline(rpc, ASK_MS);
	corral__hardware_probe__power(rpc_stub(rpc, &corral__hardware_probe__descriptor), &q, on_power, p);
	rpc_deadline(rpc, before);
}

static void tick(struct loop_timer *t)
{
	struct power_watch *w = list_entry(t, struct power_watch, timer);
	const struct registry *r = *w->registry;

	loop_timer_set(svc_loop(w->svc), t, r->config->power_every * 1000, tick);
	for (size_t i = 0; i < r->n; i++) {
		struct probe *p = probe_of(w, &r->backends[i]);

		if (p)
			ask(p);           /* once a turn: while one asks, it is not asked */
	}
}

/* --- telling --- */

void power_watch_hear(struct power_watch *w, const Corral__LeaseRequest *r)
{
	if (w)
		power_parts_hear(w->parts, r, mono_us());
}

static bool is_fresh(const struct power_watch *w, const struct probe *p, int64_t now_us)
{
	return p->known && now_us - p->heard_us < (3 * config_of(w)->power_every + 1000) * 1000;
}

static void make(struct power_watch *w, int64_t now_us)
{
	const struct registry *r = *w->registry;
	struct machine_power *list = x_calloc(r->n + 1, sizeof(*list));
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++) {
		const struct probe *p = probe_of(w, &r->backends[i]);

		if (p && is_fresh(w, p, now_us))
			list[n++] = (struct machine_power){ r->backends[i].name, p->machine, p->milliwatts, p->limit > 0 ? p->limit : power_peak_of(&p->seen) };
	}
	power_parts_make(w->parts, r->last, list, n, now_us);
	free(list);
}

void power_watch_put(struct power_watch *w, struct arena *mem, Corral__LeaseReply *reply)
{
	int64_t now = mono_us();

	if (!w || !(*w->registry)->last)
		return;
	if (now - w->made_us >= MAKE_US) {
		make(w, now);
		w->made_us = now;
	}
	power_parts_put(w->parts, mem, reply);
}

/* --- life --- */

struct power_watch *power_watch_new(struct svc *svc, struct registry *const *registry)
{
	struct power_watch *w = x_calloc(1, sizeof(*w));

	w->svc = svc;
	w->registry = registry;
	w->parts = power_parts_new();
	tick(&w->timer);
	return w;
}

/* stop() comes after calls to peers have ended; those to probes of its own end here. */
void power_watch_free(struct power_watch *w)
{
	if (!w)
		return;
	loop_timer_del(&w->timer);
	while (w->probes) {
		struct probe *p = w->probes;

		w->probes = p->next;
		rpc_client_free(p->own);
		free(p->url);
		free(p);
	}
	power_parts_free(w->parts);
	free(w);
}
