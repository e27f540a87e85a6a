/* peers.c - other services as seen from one: a client each, and whether they are there.
 *
 * nng sees a killed peer at once and a stopped one never, so each peer of another process is pinged: after two pings without answer
 * it counts as missing, which takes about a second. Nothing waits for that: it is what /readyz and the log say. */
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/svc/runtime.h"

enum {
	PING_EVERY_US = 300 * 1000, PING_MS = 350, MISSED = 2,
	DEAF = 20,                    /* missed in a row, about 13 s: perhaps it is the line, and a new connection helps */
	ALONE = 8                     /* the same without a connection, 5 s: seen, rarely, that nng makes none to a service that was killed and started again.
				       * Not sooner: one that is starting is not to be left in the middle of its greeting */
};

static void ping_ping(Corral__Peer_Service *service, const Corral__PingRequest *request, Corral__PingReply_Closure closure, void *closure_data)
{
	Corral__PingReply reply = CORRAL__PING_REPLY__INIT;

	(void)service;
	closure(&reply, closure_data);
}

void peers_serve(struct svc *s)
{
	corral__peer__init(&s->ping, NULL);
	s->ping.ping = ping_ping;
	rpc_server_add(s->rpc, &s->ping.base);
}

static void ping(struct loop_timer *);

static void on_pong(const Corral__PingReply *reply, void *arg)
{
	struct peer *p = arg;

	if (p->gone)
		return;
	p->missed = reply ? 0 : p->missed + 1;
	if (reply)
		svc_want(p->svc, p->need, true, "");
	else if (p->missed >= MISSED)
		svc_want(p->svc, p->need, false, rpc_error(p->client)->text);
	if (!reply && p->missed % DEAF == (rpc_connected(p->client) ? 0 : ALONE))
		rpc_reconnect(p->client);
	loop_timer_set(p->svc->loop, &p->timer, reply || p->missed >= MISSED ? PING_EVERY_US : 0, ping);
}

static void ping(struct loop_timer *timer)
{
	struct peer *p = list_entry(timer, struct peer, timer);
	Corral__PingRequest request = CORRAL__PING_REQUEST__INIT;
	int64_t before = rpc_deadline(p->client, PING_MS);

	corral__peer__ping(rpc_stub(p->client, &corral__peer__descriptor), &request, on_pong, p);
	(void)rpc_deadline(p->client, before);
}

struct rpc_client *svc_peer(struct svc *s, const char *service)
{
	struct peer *p;
	const char *url;

	for (p = s->peers; p; p = p->next)
		if (strcmp(p->name, service) == 0)
			return p->client;
	url = place_of(s->rt, s->mem, service);
	p = x_calloc(1, sizeof(*p));
	p->svc = s;
	p->name = arena_dup(s->mem, service, strlen(service));
	p->need = arena_printf(s->mem, "peer %s", service);
	p->client = rpc_client_new(s->loop, url);
	p->next = s->peers;
	s->peers = p;
	if (strncmp(url, "inproc://", 9) != 0) {
		svc_want(s, p->need, false, arena_printf(s->mem, "not reached yet at %s", url));
		loop_timer_set(s->loop, &p->timer, 0, ping);
	}
	return p->client;
}

/* Answers that will not come end now, while the service still has what they are about. */
void peers_end_calls(struct svc *s)
{
	for (struct peer *p = s->peers; p; p = p->next) {
		p->gone = true;
		loop_timer_del(&p->timer);
		rpc_client_close(p->client);
	}
}

void peers_free(struct svc *s)
{
	struct peer *p;

	while ((p = s->peers)) {
		s->peers = p->next;
		p->gone = true;
		loop_timer_del(&p->timer);
		rpc_client_free(p->client);
		free(p);
	}
}
