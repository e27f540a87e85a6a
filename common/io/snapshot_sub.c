/* snapshot_sub.c - the hearing half of snapshot.h: news by SUB, what was missed by RPC, a file for the start without anybody.
 *
 * A subscriber has one receive outstanding: what its loop has not read yet waits in nng, which drops the oldest when full; the
 * next delta or heartbeat shows the gap. Of several publishers of one name the one that started last is heard, as long as it lives. */
#include <nng/nng.h>
#include <nng/protocol/pubsub0/sub.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/io/mailbox.h"
#include "common/io/rpc_envelope.h"
#include "common/io/snapshot_file.h"
#include "common/io/snapshot_wire.h"
#include "common/io/wire.h"

enum {
	LIVE_US = SNAPSHOT_LIVE_MS * 1000,
	DEAF_US = 3 * 1000 * 1000,
	LOOK_US = 1000 * 1000,
	ASK_SOON_US = 50 * 1000,      /* at start services come up one after another: then doubling, up to */
	ASK_AGAIN_US = 1000 * 1000,
	COMPACT_US = 10 * 1000 * 1000
};

struct ask { struct snapshot_sub *sub; };     /* sub is NULL once nobody wants the answer */

struct snapshot_sub {
	struct loop *loop;
	struct rpc_client *source;    /* NULL: news only */
	struct ask *ask;              /* the Get that is out; NULL = none */
	struct mailbox *mailbox;
	struct list mail;
	nng_socket socket;
	struct wire *wire;
	nng_aio *aio;
	nng_msg *heard;               /* set on nng's thread, taken by the loop */
	char *name, *cache_path;
	struct snapshot_id have;
	uint64_t latest;              /* of have.epoch, as far as heard */
	bool stale;                   /* what we have is from the file only */
	bool whole;                   /* deltas will not do */
	bool compacting;              /* a whole is asked for, for the file */
	bool loaded;                  /* the file was looked at */
	struct snapshot_parts news, got;      /* wholes in parts: as heard, as asked for */
	struct snapshot_log log;
	int64_t heard_at_us;          /* in either way; 0 = never */
	int64_t news_at_us;           /* by SUB */
	int64_t epoch_at_us;          /* heard from have.epoch's publisher */
	int64_t compacted_at_us;      /* asked for a whole for the file */
	struct loop_timer watch;      /* when nothing is heard: asks, and dials anew */
	int64_t dialled_us;
	struct loop_timer again;      /* at start, and while something is missing */
	int64_t again_us;             /* its next pause; 0 = the first */
	void (*on_snapshot)(void *arg, struct snapshot_id, struct str bytes, bool stale);
	bool (*on_delta)(void *arg, struct snapshot_id, struct str delta);
	void *arg;
	bool delivering, freed;       /* freed while delivering: told to free the rest */
};

static void sub_start(struct loop_timer *);
static void sub_watch(struct loop_timer *);
static void sub_ask(struct snapshot_sub *);
static bool sub_open(struct snapshot_sub *, const char *url);
static void sub_moved(void *arg);
static void on_news(void *owner, struct list *mail);
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
	snapshot_log_init(&sub->log, sub->cache_path, sub->name);
	if (!sub_open(sub, pub_url)) {
		fprintf(stderr, "snapshot: no descriptors or memory left for a subscriber of %s\n", pub_url);
		abort();
	}
	loop_timer_set(loop, &sub->again, 0, sub_start);
	sub->dialled_us = mono_us();
	if (strncmp(pub_url, "inproc:", 7) != 0)
		loop_timer_set(loop, &sub->watch, LOOK_US, sub_watch);
	return sub;
}

void snapshot_sub_on_delta(struct snapshot_sub *sub, bool (*on_delta)(void *arg, struct snapshot_id, struct str delta))
{
	sub->on_delta = on_delta;
}

void snapshot_sub_load(struct snapshot_sub *sub)
{
	if (!sub->loaded)
		(void)cache_load(sub);
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
	loop_timer_del(&sub->watch);
	wire_free(sub->wire);
	(void)wire_close(sub->socket);
	nng_aio_stop(sub->aio);
	nng_aio_free(sub->aio);
	mailbox_free(sub->mailbox);
	nng_msg_free(sub->heard);
	if (sub->ask)
		sub->ask->sub = NULL;
	snapshot_log_close(&sub->log);
	snapshot_parts_drop(&sub->news);
	snapshot_parts_drop(&sub->got);
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
	(void)nng_socket_set(sub->socket, NNG_OPT_SUB_SUBSCRIBE, sub->name, strlen(sub->name) + 1);
	sub->mailbox = mailbox_new(sub->loop, on_news, sub);
	if (!sub->mailbox || nng_aio_alloc(&sub->aio, sub_moved, sub))
		return false;
	nng_aio_set_timeout(sub->aio, NNG_DURATION_INFINITE);
	sub->wire = wire_dial(sub->loop, sub->socket, url);
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

/* A heartbeat comes every 250 ms: it is gone, or the line swallows it without closing. What it says there, it also says when it is asked. */
static void sub_watch(struct loop_timer *timer)
{
	struct snapshot_sub *sub = list_entry(timer, struct snapshot_sub, watch);
	int64_t now = mono_us();

	loop_timer_set(sub->loop, timer, LOOK_US, sub_watch);
	if (now - sub->news_at_us <= LOOK_US)
		return;
	if (now - sub->news_at_us > DEAF_US && now - sub->dialled_us > DEAF_US) {
		sub->dialled_us = now;
		wire_redial(sub->wire);
	}
	if (!sub->again.heap_index)
		sub_ask(sub);
}

/* First turn: what the file has, and the question for something newer. */
static void sub_start(struct loop_timer *timer)
{
	struct snapshot_sub *sub = list_entry(timer, struct snapshot_sub, again);

	if (sub->loaded || cache_load(sub))
		sub_ask(sub);
}

/* --- giving it to the owner --- */

/* Before and after the owner's function: false when it has freed the subscriber. */
static void deliver_begin(struct snapshot_sub *sub) { sub->delivering = true; }

static bool deliver_end(struct snapshot_sub *sub)
{
	sub->delivering = false;
	if (!sub->freed)
		return true;
	free(sub);
	return false;
}

static bool give_whole(struct snapshot_sub *sub, struct snapshot_id id, struct str bytes, bool stale)
{
	if (id.epoch != sub->have.epoch || id.version > sub->latest)
		sub->latest = id.version;
	sub->have = id;
	sub->stale = stale;
	sub->whole = sub->compacting = false;
	if (!stale)
		sub->epoch_at_us = mono_us();
	if (!stale && sub->cache_path)
		(void)snapshot_log_whole(&sub->log, id, bytes);
	deliver_begin(sub);
	sub->on_snapshot(sub->arg, id, bytes, stale);
	return deliver_end(sub);
}

/* The file has outgrown itself: a whole for it, not for the owner. */
static void compact(struct snapshot_sub *sub)
{
	if (!sub->cache_path || !snapshot_log_outgrown(&sub->log) || sub->ask || (sub->compacted_at_us && mono_us() - sub->compacted_at_us < COMPACT_US))
		return;
	sub->compacted_at_us = mono_us();
	sub->compacting = true;
	sub_ask(sub);
}

enum given { GIVEN, REFUSED, GONE };

static enum given give_delta(struct snapshot_sub *sub, struct str delta)
{
	struct snapshot_id id = { sub->have.epoch, sub->have.version + 1 };
	bool taken;

	deliver_begin(sub);
	taken = sub->on_delta(sub->arg, id, delta);
	if (!deliver_end(sub))
		return GONE;
	if (!taken) {
		sub->whole = true;
		return REFUSED;
	}
	sub->have = id;
	sub->latest = id.version > sub->latest ? id.version : sub->latest;
	if (sub->cache_path && !sub->stale)
		(void)snapshot_log_delta(&sub->log, id, delta);
	return GIVEN;
}

/* False when the subscriber is gone. Deltas that are known already are passed over; what does not follow is a gap. */
static bool take_deltas(struct snapshot_sub *sub, const Corral__SnapshotEnvelope *e)
{
	for (size_t i = 0; i < e->n_deltas; i++) {
		uint64_t version = e->after + i + 1;
		enum given given;

		if (version <= sub->have.version)
			continue;
		if (version != sub->have.version + 1)
			break;
		given = give_delta(sub, str_n((char *)e->deltas[i].data, e->deltas[i].len));
		if (given == GONE)
			return false;
		if (given == REFUSED)
			break;
	}
	return true;
}

/* --- news --- */

static bool newer(struct snapshot_id a, struct snapshot_id than)
{
	return a.epoch > than.epoch || (a.epoch == than.epoch && a.version > than.version);
}

static bool sub_lacks(const struct snapshot_sub *sub, struct snapshot_id current)
{
	return current.version && (sub->stale || current.epoch != sub->have.epoch || current.version != sub->have.version);
}

/* Of a publisher that started before the one that is heard now. When that one is gone, its clock may have been set back. */
static bool outlived(const struct snapshot_sub *sub, uint64_t epoch)
{
	return epoch < sub->have.epoch && sub->epoch_at_us && mono_us() - sub->epoch_at_us < LIVE_US;
}

static void note(struct snapshot_sub *sub, const Corral__SnapshotEnvelope *e)
{
	uint64_t latest = e->latest > e->version ? e->latest : e->version;

	sub->heard_at_us = mono_us();
	if (e->epoch != sub->have.epoch)
		return;
	sub->epoch_at_us = sub->heard_at_us;
	if (latest > sub->latest)
		sub->latest = latest;
}

static void news_deltas(struct snapshot_sub *sub, const Corral__SnapshotEnvelope *e)
{
	if (sub->on_delta && !sub->stale && !sub->whole && e->epoch == sub->have.epoch && !take_deltas(sub, e))
		return;
	if (e->epoch != sub->have.epoch || sub->have.version < sub->latest || sub->whole || sub->stale)
		sub_ask(sub);
	else
		compact(sub);
}

static void news_whole(struct snapshot_sub *sub, const Corral__SnapshotEnvelope *e)
{
	struct snapshot_id id = { e->epoch, e->version };
	enum parts_taken taken;

	if (!id.version || !newer(id, sub->have))
		return;
	taken = snapshot_parts_take(&sub->news, e);
	if (taken == PARTS_LOST)
		sub_ask(sub);
	else if (taken == PARTS_DONE && give_whole(sub, id, buf_as_str(&sub->news.body), false))
		snapshot_parts_drop(&sub->news);
}

static void sub_heard(struct snapshot_sub *sub, const Corral__SnapshotEnvelope *e)
{
	if (outlived(sub, e->epoch))
		return;
	note(sub, e);
	if (e->heartbeat) {
		if (sub_lacks(sub, (struct snapshot_id){ e->epoch, e->version }))
			sub_ask(sub);
		else
			compact(sub);
	} else if (e->after) {
		news_deltas(sub, e);
	} else {
		news_whole(sub, e);
	}
}

static void on_news(void *owner, struct list *mail)
{
	struct snapshot_sub *sub = owner;
	nng_msg *msg = sub->heard;
	Corral__SnapshotEnvelope *envelope = NULL;

	(void)mail;
	sub->heard = NULL;
	if (msg)
		envelope = snapshot_open(str_n(nng_msg_body(msg), nng_msg_len(msg)), sub->name);
	nng_msg_free(msg);
	nng_recv_aio(sub->socket, sub->aio);
	if (!envelope)
		return;
	sub->news_at_us = mono_us();
	sub_heard(sub, envelope);
	corral__snapshot_envelope__free_unpacked(envelope, NULL);
}

/* --- asking --- */

/* Nobody there yet, or nothing published yet. The first news may be missed while the PUB connection is being made, and a
 * subscriber that waited for the heartbeat would have skipped versions that others decided by. */
static void ask_later(struct snapshot_sub *sub)
{
	sub->again_us = !sub->again_us ? ASK_SOON_US : sub->again_us * 2 > ASK_AGAIN_US ? ASK_AGAIN_US : sub->again_us * 2;
	loop_timer_set(sub->loop, &sub->again, sub->again_us, sub_start);
}

static bool behind(const struct snapshot_sub *sub, const Corral__SnapshotEnvelope *e)
{
	return e->epoch == sub->have.epoch && sub->have.version < sub->latest;
}

/* False when the subscriber is gone. */
static bool got_whole(struct snapshot_sub *sub, struct snapshot_id id)
{
	struct buf body = sub->got.body;
	bool alive = true;

	sub->got = (struct snapshot_parts){ 0 };
	sub->compacting = false;
	if (sub_lacks(sub, id) && (id.epoch != sub->have.epoch || id.version >= sub->have.version))
		alive = give_whole(sub, id, buf_as_str(&body), false);
	else if (id.epoch == sub->have.epoch && sub->cache_path)      /* deltas may have come while it was fetched */
		(void)snapshot_log_compact(&sub->log, id, buf_as_str(&body));
	buf_free(&body);
	return alive;
}

/* The publisher itself says how it is. Asks on at once as long as each answer brings something. */
static void take_answer(struct snapshot_sub *sub, const Corral__SnapshotEnvelope *e)
{
	struct snapshot_id before = sub->have;
	enum parts_taken taken = PARTS_DONE;

	note(sub, e);
	if (e->after) {
		if (!sub->stale && !sub->whole && sub->on_delta && e->epoch == sub->have.epoch && !take_deltas(sub, e))
			return;
	} else {
		taken = snapshot_parts_take(&sub->got, e);
		if (taken == PARTS_DONE && !got_whole(sub, (struct snapshot_id){ e->epoch, e->version }))
			return;
		note(sub, e);
	}
	if (taken == PARTS_MORE || (behind(sub, e) && sub->have.version > before.version))
		sub_ask(sub);
	else if (taken == PARTS_LOST || behind(sub, e) || sub->whole)
		ask_later(sub);
	else
		sub->again_us = 0;
}

static void on_answer(const Corral__SnapshotEnvelope *e, void *arg)
{
	struct ask *ask = arg;
	struct snapshot_sub *sub = ask->sub;

	free(ask);
	if (!sub)
		return;
	sub->ask = NULL;
	if (e && e->version && !outlived(sub, e->epoch)) {
		take_answer(sub, e);
		return;
	}
	if (e)
		sub->heard_at_us = mono_us();
	snapshot_parts_drop(&sub->got);
	ask_later(sub);
}

static void sub_ask(struct snapshot_sub *sub)
{
	Corral__SnapshotRequest request = CORRAL__SNAPSHOT_REQUEST__INIT;

	if (!sub->source || sub->ask)
		return;
	sub->ask = x_calloc(1, sizeof *sub->ask);
	sub->ask->sub = sub;
	request.name = sub->name;
	if (sub->got.parts) {
		request.epoch = sub->got.id.epoch;
		request.version = sub->got.id.version;
		request.part = sub->got.next;
	} else if (sub->on_delta && !sub->stale && !sub->whole && !sub->compacting) {
		request.epoch = sub->have.epoch;
		request.version = sub->have.version;
	}
	rpc_tries(sub->source, 2);
	corral__snapshots__get(rpc_stub(sub->source, &corral__snapshots__descriptor), &request, on_answer, sub->ask);
}

/* --- the file --- */

static bool load_whole(void *arg, struct snapshot_id id, struct str bytes)
{
	struct snapshot_sub **sub = arg;

	if (!give_whole(*sub, id, bytes, true))
		*sub = NULL;
	return *sub && (*sub)->on_delta;
}

static bool load_delta(void *arg, struct snapshot_id id, struct str delta)
{
	struct snapshot_sub **sub = arg;
	enum given given;

	(void)id;
	given = give_delta(*sub, delta);
	if (given == GONE)
		*sub = NULL;
	return given == GIVEN;
}

/* False when the owner freed the subscriber. */
static bool cache_load(struct snapshot_sub *sub)
{
	const struct snapshot_reader reader = { load_whole, load_delta, &sub };
	struct buf file = { 0 };

	sub->loaded = true;
	if (sub->cache_path && !sub->have.version && snapshot_file_open(sub->cache_path, &file))
		(void)snapshot_file_read(buf_as_str(&file), sub->name, &reader);
	buf_free(&file);
	return sub != NULL;
}
