/* snapshot_pub.c - the publishing half of snapshot.h: PUB for the news, the RPC service Snapshots for what somebody missed.
 *
 * Messages on the wire: topic, a zero byte, a SnapshotEnvelope. Publishers of one URL in a process share one PUB socket
 * (a hub), publishers of one RPC server share one Snapshots service (a desk).
 *
 * A publisher keeps its last whole and the deltas since (the trail, as far as it fits): who missed a few messages gets those. */
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <pthread.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/snapshot_wire.h"
#include "common/io/wire.h"

enum {
	TRAIL_BYTES = 4 << 20,
	TRAIL_MAX = 4096,             /* deltas */
	SEND_QUEUE = 2 * SNAPSHOT_PARTS_MAX,  /* messages to one subscriber */
	FETCH_US = 2 * 1000 * 1000    /* a whole in parts is kept as it is while somebody fetches it */
};

struct hub {
	struct hub *next;
	char *url;
	nng_socket socket;
	struct wire *wire;
	unsigned users;
};

struct desk {
	Corral__Snapshots_Service base;
	struct list pubs;
};

struct delta {
	struct list link;
	uint64_t version;             /* with it applied */
	size_t n;
	uint8_t bytes[];
};

struct snapshot_pub {
	struct list link;             /* desk->pubs; on no list when there is none (any more) */
	struct loop *loop;
	struct hub *hub;
	char *name;
	uint64_t epoch, version;
	struct buf body;              /* the whole, as it was at body_version */
	uint64_t body_version;
	struct list trail;            /* deltas up to 'version', oldest first */
	size_t trail_bytes;
	unsigned trail_n;
	int64_t fetched_until_us;     /* mono */
	struct str (*whole)(void *arg);
	void *whole_arg;
	struct loop_timer heartbeat;
};

static pthread_mutex_t hubs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct hub *hubs;

static struct hub *hub_take(struct loop *, const char *url, struct why *why);
static void hub_drop(struct hub *);
static void desk_join(struct rpc_server *, struct snapshot_pub *);
static void on_heartbeat(struct loop_timer *);
static void send_whole(struct snapshot_pub *);
static void send_envelope(struct snapshot_pub *, const Corral__SnapshotEnvelope *);
static Corral__SnapshotEnvelope envelope_of(struct snapshot_pub *);
static void body_set(struct snapshot_pub *, struct str);
static void trail_add(struct snapshot_pub *, struct str);
static void trail_trim(struct snapshot_pub *, unsigned n, size_t bytes);

struct snapshot_pub *snapshot_pub_new(struct loop *loop, struct rpc_server *server, const char *pub_url, const char *name, struct why *why)
{
	struct hub *hub = hub_take(loop, pub_url, why);
	struct snapshot_pub *pub;

	if (!hub)
		return NULL;
	pub = x_calloc(1, sizeof *pub);
	list_init(&pub->link);
	list_init(&pub->trail);
	pub->loop = loop;
	pub->hub = hub;
	pub->name = x_strdup(name);
	pub->epoch = (uint64_t)wall_us();
	if (server)
		desk_join(server, pub);
	loop_timer_set(loop, &pub->heartbeat, SNAPSHOT_HEARTBEAT_MS * 1000, on_heartbeat);
	return pub;
}

uint64_t snapshot_publish(struct snapshot_pub *pub, struct str bytes)
{
	pub->version++;
	body_set(pub, bytes);
	send_whole(pub);
	return pub->version;
}

void snapshot_pub_whole(struct snapshot_pub *pub, struct str (*whole)(void *arg), void *arg)
{
	pub->whole = whole;
	pub->whole_arg = arg;
}

uint64_t snapshot_publish_delta(struct snapshot_pub *pub, struct str delta)
{
	Corral__SnapshotEnvelope e;
	ProtobufCBinaryData data = { .data = (uint8_t *)delta.p, .len = delta.n };

	if (!pub->whole) {
		fprintf(stderr, "snapshot: a delta of %s without snapshot_pub_whole()\n", pub->name);
		abort();
	}
	if (pub->version == 0 || delta.n > SNAPSHOT_PART_BYTES)       /* nothing to apply to, or as large as a whole */
		return snapshot_publish(pub, pub->whole(pub->whole_arg));
	pub->version++;
	trail_add(pub, delta);
	e = envelope_of(pub);
	e.after = pub->version - 1;
	e.deltas = &data;
	e.n_deltas = 1;
	send_envelope(pub, &e);
	return pub->version;
}

uint64_t snapshot_pub_epoch(const struct snapshot_pub *pub)
{
	return pub->epoch;
}

void snapshot_pub_free(struct snapshot_pub *pub)
{
	if (!pub)
		return;
	loop_timer_del(&pub->heartbeat);
	list_del(&pub->link);
	hub_drop(pub->hub);
	trail_trim(pub, 0, 0);
	buf_free(&pub->body);
	free(pub->name);
	free(pub);
}

/* --- hubs --- */

static struct hub *hub_new(struct loop *loop, const char *url, struct why *why)
{
	struct hub *hub;
	nng_socket socket;
	struct wire *wire;

	rpc_few_threads();
	if (nng_pub0_open(&socket)) {
		err_set(why, ERR_INTERNAL, "cannot open a publisher at %s", url);
		return NULL;
	}
	(void)nng_socket_set_int(socket, NNG_OPT_SENDBUF, SEND_QUEUE);
	wire = wire_listen(loop, socket, url, why);
	if (!wire) {
		(void)nng_close(socket);
		return NULL;
	}
	hub = x_calloc(1, sizeof *hub);
	hub->url = x_strdup(url);
	hub->socket = socket;
	hub->wire = wire;
	hub->next = hubs;
	hubs = hub;
	return hub;
}

static struct hub *hub_take(struct loop *loop, const char *url, struct why *why)
{
	struct hub *hub;

	pthread_mutex_lock(&hubs_lock);
	for (hub = hubs; hub && strcmp(hub->url, url) != 0; hub = hub->next)
		;
	if (!hub)
		hub = hub_new(loop, url, why);
	if (hub)
		hub->users++;
	pthread_mutex_unlock(&hubs_lock);
	return hub;
}

static void hub_drop(struct hub *hub)
{
	pthread_mutex_lock(&hubs_lock);
	if (--hub->users == 0) {
		struct hub **at = &hubs;

		while (*at != hub)
			at = &(*at)->next;
		*at = hub->next;
		wire_free(hub->wire);
		(void)wire_close(hub->socket);
		free(hub->url);
		free(hub);
	}
	pthread_mutex_unlock(&hubs_lock);
}

/* --- the whole and its trail --- */

static void trail_trim(struct snapshot_pub *pub, unsigned n, size_t bytes)
{
	while (pub->trail_n > n || pub->trail_bytes > bytes) {
		struct delta *d = list_entry(pub->trail.next, struct delta, link);

		list_del(&d->link);
		pub->trail_n--;
		pub->trail_bytes -= d->n;
		free(d);
	}
}

static void trail_add(struct snapshot_pub *pub, struct str bytes)
{
	struct delta *d = x_malloc(sizeof *d + bytes.n);

	d->version = pub->version;
	d->n = bytes.n;
	if (bytes.n)
		memcpy(d->bytes, bytes.p, bytes.n);
	list_push(&pub->trail, &d->link);
	pub->trail_n++;
	pub->trail_bytes += d->n;
	trail_trim(pub, TRAIL_MAX, TRAIL_BYTES);
}

/* Do the deltas lead on from that version? */
static bool trail_leads_from(const struct snapshot_pub *pub, uint64_t version)
{
	return version && version <= pub->version && pub->version - version <= pub->trail_n;
}

/* The deltas stay: they lead those on who have an older version. A whole published between them ends the trail. */
static void body_set(struct snapshot_pub *pub, struct str bytes)
{
	if (bytes.n > SNAPSHOT_MAX_BYTES)
		LOG_ERROR("a snapshot is larger than can travel", LOG_S("name", pub->name), LOG_I("bytes", bytes.n));
	if (list_empty(&pub->trail) || list_entry(pub->trail.prev, struct delta, link)->version != pub->version)
		trail_trim(pub, 0, 0);
	buf_clear(&pub->body);
	buf_str(&pub->body, bytes);
	pub->body_version = pub->version;
}

/* The newest, but not while somebody is fetching the parts of one that the trail leads on from. */
static void body_refresh(struct snapshot_pub *pub)
{
	if (pub->body_version == pub->version || (mono_us() < pub->fetched_until_us && trail_leads_from(pub, pub->body_version)))
		return;
	body_set(pub, pub->whole(pub->whole_arg));
}

/* --- messages --- */

static Corral__SnapshotEnvelope envelope_of(struct snapshot_pub *pub)
{
	Corral__SnapshotEnvelope e = CORRAL__SNAPSHOT_ENVELOPE__INIT;

	e.name = pub->name;
	e.epoch = pub->epoch;
	e.version = e.latest = pub->version;
	return e;
}

static Corral__SnapshotEnvelope part_of(struct snapshot_pub *pub, uint32_t part)
{
	Corral__SnapshotEnvelope e = envelope_of(pub);
	struct str piece = snapshot_part(buf_as_str(&pub->body), part);

	e.version = pub->body_version;
	e.part = part;
	e.parts = snapshot_parts_of(pub->body.n);
	e.body.data = (uint8_t *)piece.p;
	e.body.len = piece.n;
	return e;
}

/* A subscriber that misses this asks for it, so a failure here needs no answer. */
static void send_envelope(struct snapshot_pub *pub, const Corral__SnapshotEnvelope *e)
{
	size_t topic = strlen(pub->name) + 1;
	size_t size = topic + corral__snapshot_envelope__get_packed_size(e);
	nng_msg *msg;

	if (nng_msg_alloc(&msg, size))
		return;
	memcpy(nng_msg_body(msg), pub->name, topic);
	(void)corral__snapshot_envelope__pack(e, (uint8_t *)nng_msg_body(msg) + topic);
	if (nng_sendmsg(pub->hub->socket, msg, NNG_FLAG_NONBLOCK))
		nng_msg_free(msg);
}

static void send_whole(struct snapshot_pub *pub)
{
	for (uint32_t part = 0; part < snapshot_parts_of(pub->body.n); part++) {
		Corral__SnapshotEnvelope e = part_of(pub, part);

		send_envelope(pub, &e);
	}
}

static void on_heartbeat(struct loop_timer *timer)
{
	struct snapshot_pub *pub = list_entry(timer, struct snapshot_pub, heartbeat);
	Corral__SnapshotEnvelope e = envelope_of(pub);

	loop_timer_set(pub->loop, timer, SNAPSHOT_HEARTBEAT_MS * 1000, on_heartbeat);
	e.heartbeat = true;
	send_envelope(pub, &e);
}

/* --- the Snapshots service --- */

static void answer_deltas(struct snapshot_pub *pub, uint64_t from, Corral__SnapshotEnvelope_Closure closure, void *closure_data)
{
	ProtobufCBinaryData *deltas = x_calloc(pub->trail_n + 1u, sizeof *deltas);
	Corral__SnapshotEnvelope e = envelope_of(pub);
	size_t bytes = 0;

	e.after = from;
	e.deltas = deltas;
	list_each(it, &pub->trail) {
		struct delta *d = list_entry(it, struct delta, link);

		if (d->version <= from)
			continue;
		if (bytes && bytes + d->n > SNAPSHOT_PART_BYTES)
			break;
		bytes += d->n;
		deltas[e.n_deltas++] = (ProtobufCBinaryData){ .data = d->bytes, .len = d->n };
	}
	e.version = from + e.n_deltas;
	closure(&e, closure_data);
	free(deltas);
}

static void answer_whole(struct snapshot_pub *pub, const Corral__SnapshotRequest *request, Corral__SnapshotEnvelope_Closure closure,
			 void *closure_data)
{
	bool same = request->epoch == pub->epoch && request->version == pub->body_version;
	uint32_t part = same && request->part < snapshot_parts_of(pub->body.n) ? request->part : 0;
	Corral__SnapshotEnvelope e;

	if (!part && pub->version)
		body_refresh(pub);
	e = part_of(pub, part);
	if (e.parts > 1)
		pub->fetched_until_us = mono_us() + FETCH_US;
	closure(&e, closure_data);
}

static struct snapshot_pub *find(struct desk *desk, const char *name)
{
	list_each(it, &desk->pubs)
		if (!strcmp(list_entry(it, struct snapshot_pub, link)->name, name))
			return list_entry(it, struct snapshot_pub, link);
	return NULL;
}

static void desk_get(Corral__Snapshots_Service *service, const Corral__SnapshotRequest *request, Corral__SnapshotEnvelope_Closure closure,
		     void *closure_data)
{
	struct snapshot_pub *pub = find(list_entry(service, struct desk, base), request->name);

	if (!pub)
		rpc_fail(closure_data, ERR_NOT_FOUND, "nobody publishes that here");
	else if (!request->part && request->epoch == pub->epoch && trail_leads_from(pub, request->version))
		answer_deltas(pub, request->version, closure, closure_data);
	else
		answer_whole(pub, request, closure, closure_data);
}

static void desk_destroy(Corral__Snapshots_Service *service)
{
	struct desk *desk = list_entry(service, struct desk, base);

	list_each_safe(it, &desk->pubs)
		list_del(it);
	free(desk);
}

static void desk_join(struct rpc_server *server, struct snapshot_pub *pub)
{
	static const Corral__Snapshots_Service methods = CORRAL__SNAPSHOTS__INIT(desk_);
	ProtobufCService *found = rpc_server_find(server, corral__snapshots__descriptor.name);
	struct desk *desk = (struct desk *)(void *)found;

	if (!desk) {
		desk = x_calloc(1, sizeof *desk);
		desk->base = methods;
		desk->base.base.destroy = (void (*)(ProtobufCService *))(void (*)(void))desk_destroy;
		list_init(&desk->pubs);
		rpc_server_add(server, &desk->base.base);
	}
	list_push(&desk->pubs, &pub->link);
}
