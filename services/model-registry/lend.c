/* lend.c - see lend.h. */
#include "services/model-registry/lend.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/snapshot_file.h"
#include "services/model-registry/settings.h"
#include "services/model-registry/slots.h"
#include "services/model-registry/turns.h"

struct endpoint {
	Corral__Slots_Service base;   /* first: freed by the RPC server */
	struct lender *lender;
};

struct lender {
	struct loop *loop;
	struct svc *svc;
	struct slots *slots;
	struct turns *turns;
	struct endpoint *endpoint;
	struct loop_timer tick;
	struct series *m_gateways;
	unsigned gateways;            /* as told last */
	void (*heard)(void *arg, const Corral__LeaseRequest *);
	void *arg;
	void (*loads)(void *arg, struct arena *, Corral__LeaseRequest *);
	void *loads_arg;
	void (*powers)(void *arg, struct arena *, Corral__LeaseReply *);
	void *powers_arg;
	uint64_t epoch;
	char *path;                   /* who holds slots, for the start after this one; NULL = not kept */
	struct buf kept;              /* what is in it */
	bool kept_once;
};

static void lend_rpc_lease(Corral__Slots_Service *, const Corral__LeaseRequest *, Corral__LeaseReply_Closure, void *closure_data);

static void endpoint_destroy(ProtobufCService *service) { free(service); }

static void tell(struct lender *l)
{
	unsigned n = slots_holders(l->slots);

	if (n == l->gateways)
		return;
	LOG_INFO("gateways that share the slots", LOG_I("gateways", n), LOG_I("before", l->gateways));
	l->gateways = n;
	series_set(l->m_gateways, n);
}

/* Before anything is lent to one that is not in it. */
static void keep(struct lender *l)
{
	struct buf now = { 0 };

	if (l->path && slots_known(l->slots, mono_us(), &now) && (!l->kept_once || !str_eq(buf_as_str(&now), buf_as_str(&l->kept)))) {
		if (!snapshot_file_save(l->path, "gateways", (struct snapshot_id){ l->epoch, 1 }, buf_as_str(&now)))
			LOG_WARN("who holds slots cannot be kept for the next start", LOG_S("path", l->path));
		buf_clear(&l->kept);
		buf_str(&l->kept, buf_as_str(&now));
		l->kept_once = true;
	}
	buf_free(&now);
}

static void expect(struct lender *l)
{
	struct snapshot_id id;
	struct buf ids = { 0 };

	if (snapshot_file_load(l->path, "gateways", &id, &ids))
		slots_expect(l->slots, buf_as_str(&ids), mono_us());
	buf_free(&ids);
}

static void tick(struct loop_timer *t)
{
	struct lender *l = (struct lender *)(void *)((char *)t - offsetof(struct lender, tick));

	loop_timer_set(l->loop, t, SLOTS_TICK_MS * 1000, tick);
	slots_tick(l->slots, mono_us());
	keep(l);
	tell(l);
}

static void turn_began(void *arg, const char *backend, const char *model)
{
	struct lender *l = arg;

	LOG_INFO("a model waits for its load: the others of the backend are held back", LOG_S("backend", backend), LOG_S("model", model));
	series_inc(metrics_series(svc_metrics(l->svc), M_TURNS, backend));
}

struct lender *lender_new(struct svc *svc, uint64_t epoch)
{
	static const Corral__Slots_Service methods = CORRAL__SLOTS__INIT(lend_rpc_);
	struct lender *l = x_calloc(1, sizeof *l);
	bool alone = str_starts(str_of(svc_pub_url(svc, svc_name(svc))), STR("inproc:"));     /* its only gateway ends with it */

	l->loop = svc_loop(svc);
	l->svc = svc;
	l->turns = turns_new(turn_began, l);
	l->epoch = epoch;
	l->slots = slots_new(epoch, !alone, mono_us());
	if (!alone) {
		struct buf path = { 0 };

		buf_printf(&path, "%s/gateways", svc_state_dir(svc));
		l->path = x_strdup(buf_z(&path));
		buf_free(&path);
		expect(l);
	}
	l->m_gateways = metrics_series(svc_metrics(svc), M_GATEWAYS);
	l->endpoint = x_calloc(1, sizeof *l->endpoint);
	l->endpoint->base = methods;
	l->endpoint->base.base.destroy = endpoint_destroy;
	l->endpoint->lender = l;
	rpc_server_add(svc_rpc_server(svc), &l->endpoint->base.base);
	tick(&l->tick);
	return l;
}

void lender_tell(struct lender *l, void (*heard)(void *arg, const Corral__LeaseRequest *), void *arg)
{
	l->heard = heard;
	l->arg = arg;
}

void lender_loads(struct lender *l, void (*loads)(void *arg, struct arena *, Corral__LeaseRequest *), void *arg)
{
	l->loads = loads;
	l->loads_arg = arg;
}

void lender_powers(struct lender *l, void (*powers)(void *arg, struct arena *, Corral__LeaseReply *), void *arg)
{
	l->powers = powers;
	l->powers_arg = arg;
}

void lender_set_totals(struct lender *l, const Corral__ModelSnapshot *snapshot) { slots_set_totals(l->slots, snapshot); }

void lender_free(struct lender *l)
{
	if (!l)
		return;
	l->endpoint->lender = NULL;
	loop_timer_del(&l->tick);
	slots_free(l->slots);
	turns_free(l->turns);
	buf_free(&l->kept);
	free(l->path);
	free(l);
}

/* As if a gateway said so that has no other name than zeros. */
static void hear_own(struct lender *l, struct arena *mem)
{
	static uint8_t nobody[16];
	Corral__LeaseRequest own = CORRAL__LEASE_REQUEST__INIT;

	own.gateway = (ProtobufCBinaryData){ sizeof(nobody), nobody };
	if (l->loads)
		l->loads(l->loads_arg, mem, &own);
	turns_hear(l->turns, &own, mono_us());
}

static void lend_rpc_lease(Corral__Slots_Service *service, const Corral__LeaseRequest *request, Corral__LeaseReply_Closure closure, void *closure_data)
{
	struct lender *l = ((struct endpoint *)(void *)service)->lender;
	Corral__LeaseReply reply = CORRAL__LEASE_REPLY__INIT;
	struct arena *mem;
	struct why why;

	if (!l) {
		rpc_fail(closure_data, ERR_UNAVAILABLE, "the registry is shutting down");
		return;
	}
	if (l->heard)
		l->heard(l->arg, request);
	mem = arena_new(0);
	if (slots_lease(l->slots, request, mono_us(), mem, &reply, &why) == ERR_OK) {
		keep(l);
		turns_hear(l->turns, request, mono_us());
		hear_own(l, mem);
		turns_put(l->turns, ((const struct registry_config *)svc_config(l->svc))->hand_over_after, mono_us(), mem, &reply);
		if (l->powers)
			l->powers(l->powers_arg, mem, &reply);
		closure(&reply, closure_data);
	} else {
		rpc_fail(closure_data, why.code, why.text);
	}
	arena_free(mem);
	tell(l);
}
