/* intake.c - see intake.h. */
#include "common/store/intake.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/io/loop.h"

enum { TICK_US = 1000000 };

/* The right to move one partition's place. */
struct claim { const char *topic; int32_t partition; int64_t epoch; };

struct intake {
	struct loop *loop;
	struct intake_opts o;
	struct bus_consumer *consumer;
	struct bus_producer *producer;        /* of dead letters */
	struct bus_user user;
	struct claim *claims;
	size_t n_claims;
	struct list letters;          /* under way */
	bool letters_wait;            /* there are some that no broker has */
	bool failing;
	char member[48];
	struct loop_timer tick;
};

static void on_tick(struct loop_timer *);

static struct series *series(struct intake *k, unsigned metric, const char *topic) { return metrics_series(k->o.metrics, k->o.metrics_at + metric, topic); }

/* --- places --- */

static struct claim *claim_of(struct intake *k, const char *topic, int32_t partition)
{
	for (size_t i = 0; i < k->n_claims; i++)
		if (k->claims[i].partition == partition && strcmp(k->claims[i].topic, topic) == 0)
			return &k->claims[i];
	k->claims = x_realloc(k->claims, (k->n_claims + 1) * sizeof(*k->claims));
	k->claims[k->n_claims] = (struct claim){ topic, partition, 0 };
	return &k->claims[k->n_claims++];
}

struct place { int64_t next, epoch; };

static bool take_place(void *arg, const struct db_row *row)
{
	*(struct place *)arg = (struct place){ db_int(row, 0), db_int(row, 1) };
	return true;
}

/* A failure is said once, and when it is over. */
static void store_state(struct intake *k, bool ok, const struct why *why)
{
	if (ok == !k->failing)
		return;
	k->failing = !ok;
	if (ok)
		LOG_INFO("messages from Kafka are kept again");
	else
		LOG_ERROR("messages from Kafka cannot be kept; they wait there", LOG_S("error", why->text));
}

static bool on_assigned(void *arg, const char *topic, int32_t partition, int64_t *ret_next)
{
	struct intake *k = arg;
	struct place p = { -1, 0 };
	struct why why;

	if (!db_run(k->o.db, k->o.statements + INTAKE_CLAIM, (struct db_value[]){ DB_Z(topic), DB_I(partition) }, 2, take_place, &p, NULL, &why)) {
		store_state(k, false, &why);
		return false;
	}
	claim_of(k, topic, partition)->epoch = p.epoch;
	*ret_next = p.next;
	LOG_DEBUG("partition is ours", LOG_S("topic", topic), LOG_I("partition", partition), LOG_I("next", p.next), LOG_I("epoch", p.epoch));
	return true;
}

bool intake_move(const struct intake_batch *b, bool *ret_moved, struct why *why)
{
	const struct intake_opts *o = &b->intake->o;
	const struct db_value p[] = { DB_Z(b->batch->topic), DB_I(b->batch->partition), DB_I(b->batch->first), DB_I(b->batch->next), DB_I(b->epoch) };
	int64_t changed = 0;

	if (!db_run(o->db, o->statements + INTAKE_MOVE, p, 5, NULL, NULL, &changed, why))
		return false;
	*ret_moved = changed == 1;
	return true;
}

/* --- batches --- */

bool intake_bury(const struct intake_batch *b, const struct bus_in *in, const char *reason, struct why *why)
{
	struct intake *k = b->intake;
	const struct db_value p[] = { DB_Z(b->batch->topic), DB_I(b->batch->partition), DB_I(in->offset), DB_I(wall_us()), DB_Z(reason), DB_B(in->key), DB_B(in->value) };

	LOG_ERROR("a message from Kafka cannot be understood; it is kept in the table kafka_dead", LOG_S("topic", b->batch->topic),
		  LOG_I("partition", b->batch->partition), LOG_I("offset", in->offset), LOG_S("reason", reason));
	k->letters_wait = true;
	series_inc(series(k, INTAKE_DEAD, b->batch->topic));
	return db_run(k->o.db, k->o.statements + INTAKE_DEAD_ADD, p, 7, NULL, NULL, NULL, why);
}

static bool each_of(const struct intake_batch *b, const char *(*each)(void *, const struct bus_in *, struct why *), void *arg, struct why *why)
{
	for (size_t i = 0; i < b->batch->n; i++) {
		const char *reason = each(arg, &b->batch->in[i], why);

		if (!reason || (reason[0] && !intake_bury(b, &b->batch->in[i], reason, why)))
			return false;
	}
	return true;
}

enum intake_outcome intake_each(const struct intake_batch *b, const char *(*each)(void *arg, const struct bus_in *, struct why *), void *arg, struct why *why)
{
	struct db *db = b->intake->o.db;
	bool moved = false;

	if (!db_begin(db, why))
		return INTAKE_FAILED;
	if (intake_move(b, &moved, why) && moved && each_of(b, each, arg, why) && db_commit(db, why))
		return INTAKE_KEPT;
	db_rollback(db);
	return moved || why->text[0] ? INTAKE_FAILED : INTAKE_WAS_FENCED;
}

static void count(struct intake *k, const struct bus_batch *b)
{
	size_t again = 0;

	for (size_t i = 0; i < b->n; i++)
		again += bus_in_header(&b->in[i], "again").p != NULL;
	series_add(series(k, INTAKE_READ, b->topic), (double)b->n);
	series_add(series(k, INTAKE_AGAIN, b->topic), (double)again);
}

static bool on_batch(void *arg, const struct bus_batch *batch)
{
	struct intake *k = arg;
	struct intake_batch b = { batch, claim_of(k, batch->topic, batch->partition)->epoch, k };
	struct why why = { 0 };

	switch (k->o.keep(k->o.arg, &b, &why)) {
	case INTAKE_KEPT:
		store_state(k, true, &why);
		count(k, batch);
		if (k->letters_wait)
			loop_timer_set(k->loop, &k->tick, 0, on_tick);
		return true;
	case INTAKE_WAS_FENCED:
		series_inc(metrics_series(k->o.metrics, k->o.metrics_at + INTAKE_FENCED));
		LOG_WARN("a batch is dropped: its partition is another reader's", LOG_S("topic", batch->topic), LOG_I("partition", batch->partition));
		return false;
	default:
		store_state(k, false, &why);
		return false;
	}
}

static void on_gap(void *arg, const char *topic, int32_t partition, int64_t wanted)
{
	struct intake *k = arg;

	series_inc(series(k, INTAKE_GAPS, topic));
	LOG_ERROR("what was to be read next is gone from Kafka; reading goes on with the first there is", LOG_S("topic", topic), LOG_I("partition", partition),
		  LOG_I("wanted", wanted));
}

/* --- dead letters --- */

struct letter {
	struct bus_ticket ticket;     /* first */
	struct list node;
	struct intake *intake;
	const char *topic;            /* of intake.o.topics */
	int32_t partition;
	int64_t offset;
};

static void on_letter(struct bus_ticket *t, bool persisted, const char *error)
{
	struct letter *l = (struct letter *)(void *)t;
	struct intake *k = l->intake;
	const struct db_value p[] = { DB_Z(l->topic), DB_I(l->partition), DB_I(l->offset) };
	struct why why;

	(void)error;
	list_del(&l->node);
	if (persisted && !db_run(k->o.db, k->o.statements + INTAKE_DEAD_DONE, p, 3, NULL, NULL, NULL, &why))
		LOG_WARN("a dead letter may be published twice", LOG_S("error", why.text));
	free(l);
}

static void letters_drop(struct intake *k)
{
	list_each_safe(it, &k->letters)
		free(list_entry(it, struct letter, node));
	list_init(&k->letters);
}

static void on_lost(struct bus_user *u) { letters_drop(list_entry(u, struct intake, user)); }

static const char *topic_of(const struct intake *k, struct str name, size_t *ret_index)
{
	for (size_t i = 0; k->o.topics[i]; i++)
		if (str_eqz(name, k->o.topics[i])) {
			*ret_index = i;
			return k->o.topics[i];
		}
	return NULL;
}

static bool send_letter(void *arg, const struct db_row *row)
{
	struct intake *k = arg;
	struct letter *l;
	char place[48];
	size_t i = 0;
	const char *topic = topic_of(k, db_str(row, 0), &i);
	struct bus_header headers[] = { { "reason", db_str(row, 3) }, { "position", { 0 } } };
	struct bus_out m = { .topic = k->o.dead[i], .key = db_str(row, 4), .value = db_str(row, 5), .headers = headers, .n_headers = 2 };

	if (!topic)
		return true;
	l = x_calloc(1, sizeof(*l));
	*l = (struct letter){ { on_letter }, { NULL, NULL }, k, topic, (int32_t)db_int(row, 1), db_int(row, 2) };
	snprintf(place, sizeof(place), "%d:%lld", (int)l->partition, (long long)l->offset);
	headers[1].value = str_of(place);
	if (bus_send(k->producer, &m, &l->ticket) != BUS_SENT) {
		free(l);
		return false;
	}
	list_push(&k->letters, &l->node);
	return true;
}

/* A hundred at a time; the rest when these have their reports. */
static void letters_send(struct intake *k)
{
	struct why why;

	if (!k->letters_wait || !list_empty(&k->letters) || !bus_producer_ready(k->producer))
		return;
	if (!db_run(k->o.db, k->o.statements + INTAKE_DEAD_OPEN, NULL, 0, send_letter, k, NULL, &why))
		LOG_WARN("dead letters cannot be read", LOG_S("error", why.text));
	else
		k->letters_wait = !list_empty(&k->letters);
}

/* --- life --- */

static void on_lag(void *arg, const char *topic, int32_t partition, int64_t lag)
{
	struct intake *k = arg;
	char text[16];

	snprintf(text, sizeof(text), "%d", (int)partition);
	series_set(metrics_series(k->o.metrics, k->o.metrics_at + INTAKE_LAG, topic, text), (double)lag);
}

static void on_tick(struct loop_timer *t)
{
	struct intake *k = list_entry(t, struct intake, tick);

	loop_timer_set(k->loop, t, TICK_US, on_tick);
	bus_consumer_lag(k->consumer, on_lag, k);
	letters_send(k);
}

/* The same over restarts, so that it gets its partitions back at once. */
static void name_member(struct intake *k)
{
	char path[1024];
	struct uuid id;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/bus-member", k->o.dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	n = fd < 0 ? -1 : read(fd, k->member, 36);
	k->member[n > 0 ? n : 0] = '\0';
	if (n >= 0 && !uuid_parse(str_of(k->member), &id)) {
		uuid_format(uuid_v7(wall_us()), k->member);
		if (pwrite(fd, k->member, 36, 0) != 36)
			LOG_WARN("the name in the group cannot be kept", LOG_S("file", path));
	}
	if (fd >= 0)
		close(fd);
}

struct intake *intake_new(struct loop *loop, const struct intake_opts *o, struct why *why)
{
	struct intake *k = x_calloc(1, sizeof(*k));
	struct bus_consumer_opts c = { .group = o->group, .topics = o->topics, .on_assigned = on_assigned, .on_batch = on_batch, .on_gap = on_gap,
				       .on_state = o->on_state };

	k->loop = loop;
	k->o = *o;
	k->letters_wait = true;
	k->user.on_lost = on_lost;
	list_init(&k->user.node);
	list_init(&k->letters);
	name_member(k);
	c.member = k->member;
	c.arg = k;
	c.state_arg = o->arg;
	k->producer = bus_producer_new(loop, o->config, o->dead, NULL, NULL, why);
	k->consumer = k->producer ? bus_consumer_new(loop, o->config, &c, why) : NULL;
	if (!k->consumer) {
		intake_free(k);
		return NULL;
	}
	bus_producer_join(k->producer, &k->user);
	loop_timer_set(loop, &k->tick, TICK_US, on_tick);
	return k;
}

void intake_free(struct intake *k)
{
	if (!k)
		return;
	loop_timer_del(&k->tick);
	bus_consumer_free(k->consumer);
	list_del(&k->user.node);
	bus_producer_free(k->producer);
	letters_drop(k);
	free(k->claims);
	free(k);
}
