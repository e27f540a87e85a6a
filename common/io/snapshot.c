/* snapshot.c - see snapshot.h: PUB/SUB for the news, one RPC for the whole, a file for the start without anybody.
 *
 * Messages on the wire: topic, a zero byte, a SnapshotEnvelope. Publishers of one URL in a process share one PUB socket
 * (a hub), publishers of one RPC server share one Snapshots service (a desk). A subscriber has one receive outstanding:
 * what its loop has not read yet waits in nng, which drops the oldest when full; the next heartbeat shows the gap. */
#include "common/io/snapshot.h"

#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <pthread.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/io/mailbox.h"
#include "common/io/rpc_envelope.h"
#include "common/io/snapshot_file.h"
#include "snapshot.pb-c.h"

enum {
	HEARTBEAT_US = 1000 * 1000,
	LIVE_US = 3 * HEARTBEAT_US,
	ASK_SOON_US = 50 * 1000,      /* at start services come up one after another: then doubling, up to */
	ASK_AGAIN_US = HEARTBEAT_US,
	RECONNECT_MIN_MS = 50,
	RECONNECT_MAX_MS = 2000
};

/* --- publishers --- */

struct hub {
	struct hub *next;
	char *url;
	nng_socket socket;
	unsigned users;
};

struct desk {
	Corral__Snapshots_Service base;
	struct list pubs;
};

struct snapshot_pub {
	struct list link;             /* desk->pubs; on no list when there is none (any more) */
	struct loop *loop;
	struct hub *hub;
	char *name;
	uint64_t epoch, version;
	struct buf body;
	struct loop_timer heartbeat;
};

static pthread_mutex_t hubs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct hub *hubs;

static struct hub *hub_take(const char *url, struct why *why);
static void hub_drop(struct hub *);
static void desk_join(struct rpc_server *, struct snapshot_pub *);
static void on_heartbeat(struct loop_timer *);
static void pub_send(struct snapshot_pub *, bool heartbeat);

struct snapshot_pub *snapshot_pub_new(struct loop *loop, struct rpc_server *server, const char *pub_url, const char *name, struct why *why)
{
	struct hub *hub = hub_take(pub_url, why);
	struct snapshot_pub *pub;

	if (!hub)
		return NULL;
	pub = x_calloc(1, sizeof *pub);
	list_init(&pub->link);
	pub->loop = loop;
	pub->hub = hub;
	pub->name = x_strdup(name);
	pub->epoch = (uint64_t)wall_us();
	if (server)
		desk_join(server, pub);
	loop_timer_set(loop, &pub->heartbeat, HEARTBEAT_US, on_heartbeat);
	return pub;
}

uint64_t snapshot_publish(struct snapshot_pub *pub, struct str bytes)
{
	buf_clear(&pub->body);
	buf_str(&pub->body, bytes);
	pub->version++;
	pub_send(pub, false);
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
	buf_free(&pub->body);
	free(pub->name);
	free(pub);
}

static enum err hub_listen(nng_socket socket, const char *url, struct why *why)
{
	nng_listener listener;
	int rv = nng_listener_create(&listener, socket, url);

	if (!rv) {
		if (!strncmp(url, "ipc://", 6))
			(void)nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0600);
		rv = nng_listener_start(listener, 0);
	}
	return rv ? err_set(why, ERR_UNAVAILABLE, "cannot listen at %s: %s", url, nng_strerror(rv)) : ERR_OK;
}

static struct hub *hub_new(const char *url, struct why *why)
{
	struct hub *hub;
	nng_socket socket;

	rpc_few_threads();
	if (nng_pub0_open(&socket)) {
		err_set(why, ERR_INTERNAL, "cannot open a publisher at %s", url);
		return NULL;
	}
	if (hub_listen(socket, url, why)) {
		(void)nng_close(socket);
		return NULL;
	}
	hub = x_calloc(1, sizeof *hub);
	hub->url = x_strdup(url);
	hub->socket = socket;
	hub->next = hubs;
	hubs = hub;
	return hub;
}

static struct hub *hub_take(const char *url, struct why *why)
{
	struct hub *hub;

	pthread_mutex_lock(&hubs_lock);
	for (hub = hubs; hub && strcmp(hub->url, url) != 0; hub = hub->next)
		;
	if (!hub)
		hub = hub_new(url, why);
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
		(void)nng_close(hub->socket);
		free(hub->url);
		free(hub);
	}
	pthread_mutex_unlock(&hubs_lock);
}

static Corral__SnapshotEnvelope pub_envelope(struct snapshot_pub *pub, bool heartbeat)
{
	Corral__SnapshotEnvelope envelope = CORRAL__SNAPSHOT_ENVELOPE__INIT;

	envelope.name = pub->name;
	envelope.epoch = pub->epoch;
	envelope.version = pub->version;
	envelope.heartbeat = heartbeat;
	if (!heartbeat) {
		envelope.body.data = (uint8_t *)pub->body.p;
		envelope.body.len = pub->body.n;
	}
	return envelope;
}

/* A subscriber that misses this asks for the whole, so a failure here needs no answer. */
static void pub_send(struct snapshot_pub *pub, bool heartbeat)
{
	Corral__SnapshotEnvelope envelope = pub_envelope(pub, heartbeat);
	size_t topic = strlen(pub->name) + 1;
	size_t size = topic + corral__snapshot_envelope__get_packed_size(&envelope);
	nng_msg *msg;

	if (size > RPC_MAX_BYTES || nng_msg_alloc(&msg, size))
		return;
	memcpy(nng_msg_body(msg), pub->name, topic);
	(void)corral__snapshot_envelope__pack(&envelope, (uint8_t *)nng_msg_body(msg) + topic);
	if (nng_sendmsg(pub->hub->socket, msg, NNG_FLAG_NONBLOCK))
		nng_msg_free(msg);
}

static void on_heartbeat(struct loop_timer *timer)
{
	struct snapshot_pub *pub = list_entry(timer, struct snapshot_pub, heartbeat);

	loop_timer_set(pub->loop, timer, HEARTBEAT_US, on_heartbeat);
	pub_send(pub, true);
}

/* --- the Snapshots service --- */

static void desk_get(Corral__Snapshots_Service *service, const Corral__SnapshotRequest *request, Corral__SnapshotEnvelope_Closure closure,
		     void *closure_data)
{
	struct desk *desk = list_entry(service, struct desk, base);

	list_each(it, &desk->pubs) {
		struct snapshot_pub *pub = list_entry(it, struct snapshot_pub, link);

		if (!strcmp(pub->name, request->name)) {
			Corral__SnapshotEnvelope envelope = pub_envelope(pub, false);

			closure(&envelope, closure_data);
			return;
		}
	}
	rpc_fail(closure_data, ERR_NOT_FOUND, "nobody publishes that here");
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

/* --- subscribers --- */

struct snapshot_sub {
	struct loop *loop;
	struct rpc_client *source;    /* NULL: news only */
	struct ask *ask;              /* the Get that is out; NULL = none */
	struct mailbox *mailbox;
	struct list mail;
	nng_socket socket;
	nng_aio *aio;
	nng_msg *heard;               /* set on nng's thread, taken by the loop */
	char *name, *cache_path;
	struct snapshot_id have;
	bool stale;                   /* what we have is from the file only */
	int64_t heard_at_us;          /* 0 = never */
	struct loop_timer again;      /* at start, and while something is missing */
	int64_t again_us;             /* its next pause; 0 = the first */
	void (*on_snapshot)(void *arg, struct snapshot_id, struct str bytes, bool stale);
	void *arg;
	bool delivering, freed;       /* freed while delivering: sub_deliver() ends it */
};

struct ask { struct snapshot_sub *sub; };     /* sub is NULL once nobody wants the answer */

static void sub_start(struct loop_timer *);
static void sub_ask(struct snapshot_sub *);
static bool sub_open(struct snapshot_sub *, const char *url);
static void sub_moved(void *arg);
static void on_news(void *owner, struct list *mail);
static bool sub_deliver(struct snapshot_sub *, struct snapshot_id, struct str bytes, bool stale);
static bool cache_load(struct snapshot_sub *);

struct snapshot_sub *snapshot_sub_new(struct loop *loop, struct rpc_client *source, const char *pub_url, const char *name,
				      const char *cache_path,
				      void (*on_snapshot)(void *arg, struct snapshot_id, struct str bytes, bool stale), void *arg)
{
	struct snapshot_sub *sub = x_calloc(1, sizeof *sub);

	sub->loop = loop;
	sub->source = source;
	sub->name = x_strdup(name);
	sub->cache_path = cache_path ? x_strdup(cache_path) : NULL;
	sub->on_snapshot = on_snapshot;
	sub->arg = arg;
	list_init(&sub->mail);
	if (!sub_open(sub, pub_url)) {
		fprintf(stderr, "snapshot: no descriptors or memory left for a subscriber of %s\n", pub_url);
		abort();
	}
	loop_timer_set(loop, &sub->again, 0, sub_start);
	return sub;
}

bool snapshot_sub_live(const struct snapshot_sub *sub)
{
	return sub->heard_at_us && mono_us() - sub->heard_at_us < LIVE_US;
}

void snapshot_sub_free(struct snapshot_sub *sub)
{
	if (!sub)
		return;
	loop_timer_del(&sub->again);
	(void)nng_close(sub->socket);
	nng_aio_stop(sub->aio);
	nng_aio_free(sub->aio);
	mailbox_free(sub->mailbox);
	nng_msg_free(sub->heard);
	if (sub->ask)
		sub->ask->sub = NULL;
	free(sub->name);
	free(sub->cache_path);
	sub->freed = true;
	if (!sub->delivering)
		free(sub);
}

static bool sub_open(struct snapshot_sub *sub, const char *url)
{
	rpc_few_threads();
	if (nng_sub0_open(&sub->socket))
		return false;
	(void)nng_socket_set_size(sub->socket, NNG_OPT_RECVMAXSZ, RPC_MAX_BYTES);
	(void)nng_socket_set_ms(sub->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
	(void)nng_socket_set_ms(sub->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
	(void)nng_socket_set(sub->socket, NNG_OPT_SUB_SUBSCRIBE, sub->name, strlen(sub->name) + 1);
	sub->mailbox = mailbox_new(sub->loop, on_news, sub);
	if (!sub->mailbox || nng_aio_alloc(&sub->aio, sub_moved, sub))
		return false;
	nng_aio_set_timeout(sub->aio, NNG_DURATION_INFINITE);
	(void)nng_dial(sub->socket, url, NULL, NNG_FLAG_NONBLOCK);
	nng_recv_aio(sub->socket, sub->aio);
	return true;
}

static void sub_moved(void *arg)      /* nng's thread */
{
	struct snapshot_sub *sub = arg;
	int result = nng_aio_result(sub->aio);

	if (result == NNG_ECLOSED || result == NNG_ECANCELED)
		return;
	sub->heard = result ? NULL : nng_aio_get_msg(sub->aio);
	nng_aio_set_msg(sub->aio, NULL);
	mailbox_put(sub->mailbox, &sub->mail);
}

/* First turn: what the file has, and the question for something newer. */
static void sub_start(struct loop_timer *timer)
{
	struct snapshot_sub *sub = list_entry(timer, struct snapshot_sub, again);

	if (cache_load(sub))
		sub_ask(sub);
}

static bool newer(struct snapshot_id a, struct snapshot_id than)
{
	return a.epoch > than.epoch || (a.epoch == than.epoch && a.version > than.version);
}

static bool sub_lacks(const struct snapshot_sub *sub, struct snapshot_id current)
{
	return current.version && (sub->stale || current.epoch != sub->have.epoch || current.version != sub->have.version);
}

static void sub_heard(struct snapshot_sub *sub, const Corral__SnapshotEnvelope *envelope)
{
	struct snapshot_id id = { envelope->epoch, envelope->version };

	if (strcmp(envelope->name, sub->name) != 0)
		return;
	sub->heard_at_us = mono_us();
	if (envelope->heartbeat) {
		if (sub_lacks(sub, id))
			sub_ask(sub);
		return;
	}
	if (id.version && newer(id, sub->have))
		(void)sub_deliver(sub, id, str_n((char *)envelope->body.data, envelope->body.len), false);
}

static void on_news(void *owner, struct list *mail)
{
	struct snapshot_sub *sub = owner;
	nng_msg *msg = sub->heard;
	size_t topic = strlen(sub->name) + 1;
	Corral__SnapshotEnvelope *envelope = NULL;

	(void)mail;
	sub->heard = NULL;
	if (msg && nng_msg_len(msg) >= topic)
		envelope = corral__snapshot_envelope__unpack(NULL, nng_msg_len(msg) - topic, (uint8_t *)nng_msg_body(msg) + topic);
	nng_msg_free(msg);
	nng_recv_aio(sub->socket, sub->aio);
	if (!envelope)
		return;
	sub_heard(sub, envelope);
	corral__snapshot_envelope__free_unpacked(envelope, NULL);
}

/* Nobody there yet, or nothing published yet. The first news may be missed while the PUB connection is being made, and a
 * subscriber that waited for the heartbeat would have skipped versions that others decided by. */
static void ask_later(struct snapshot_sub *sub)
{
	sub->again_us = !sub->again_us ? ASK_SOON_US : sub->again_us * 2 > ASK_AGAIN_US ? ASK_AGAIN_US : sub->again_us * 2;
	loop_timer_set(sub->loop, &sub->again, sub->again_us, sub_start);
}

/* The publisher itself says how it is: taken even when its epoch is lower (its clock may have been set back). */
static void on_whole(const Corral__SnapshotEnvelope *envelope, void *arg)
{
	struct ask *ask = arg;
	struct snapshot_sub *sub = ask->sub;

	free(ask);
	if (!sub)
		return;
	sub->ask = NULL;
	if (!envelope || !envelope->version) {
		ask_later(sub);
		if (!envelope)
			return;
	}
	struct snapshot_id id = { envelope->epoch, envelope->version };

	sub->heard_at_us = mono_us();
	if (sub_lacks(sub, id) && (id.epoch != sub->have.epoch || id.version >= sub->have.version))
		(void)sub_deliver(sub, id, str_n((char *)envelope->body.data, envelope->body.len), false);
}

static void sub_ask(struct snapshot_sub *sub)
{
	Corral__SnapshotRequest request = CORRAL__SNAPSHOT_REQUEST__INIT;

	if (!sub->source || sub->ask)
		return;
	sub->ask = x_calloc(1, sizeof *sub->ask);
	sub->ask->sub = sub;
	request.name = sub->name;
	corral__snapshots__get(rpc_stub(sub->source, &corral__snapshots__descriptor), &request, on_whole, sub->ask);
}

/* False when the subscriber was freed by its own callback. */
static bool sub_deliver(struct snapshot_sub *sub, struct snapshot_id id, struct str bytes, bool stale)
{
	sub->have = id;
	sub->stale = stale;
	if (!stale && sub->cache_path)
		(void)snapshot_file_save(sub->cache_path, sub->name, id, bytes);
	sub->delivering = true;
	sub->on_snapshot(sub->arg, id, bytes, stale);
	sub->delivering = false;
	if (!sub->freed)
		return true;
	free(sub);
	return false;
}

/* False when the callback freed the subscriber. */
static bool cache_load(struct snapshot_sub *sub)
{
	struct snapshot_id id;
	struct buf body = { 0 };
	bool alive = true;

	if (!sub->cache_path || sub->have.version)
		return true;
	if (snapshot_file_load(sub->cache_path, sub->name, &id, &body))
		alive = sub_deliver(sub, id, buf_as_str(&body), true);
	buf_free(&body);
	return alive;
}
