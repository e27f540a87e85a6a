/* intake.h - reads topics of Kafka into a database, each message once in effect.
 *
 * Where a partition is read from stands in the table kafka_offset beside the rows, and moves in their transaction: by compare-and-set from
 * exactly where the batch begins, and only under the epoch that this reader claimed when it was given the partition. One that was given to
 * another meanwhile moves nothing (fenced): the batch is dropped, and it reads again where the table says.
 * What cannot be understood goes into the table kafka_dead in the same transaction, and from there, until a broker has it, to "TOPIC.dead".
 *
 * The owner's table of statements has INTAKE_STATEMENTS at some place, its migrations INTAKE_SCHEMA, its metrics INTAKE_METRICS. One loop. */
#ifndef CORRAL_STORE_INTAKE_H
#define CORRAL_STORE_INTAKE_H
#include "common/data/metrics.h"
#include "common/store/bus.h"
#include "common/store/db.h"

struct intake;

enum { INTAKE_CLAIM, INTAKE_MOVE, INTAKE_DEAD_ADD, INTAKE_DEAD_OPEN, INTAKE_DEAD_DONE, INTAKE_N_STATEMENTS };
#define INTAKE_STATEMENTS(first) \
	[(first) + INTAKE_CLAIM] = "INSERT INTO kafka_offset (topic, partition, next, epoch) VALUES (?1, ?2, -1, 1) ON CONFLICT (topic, partition) " \
		"DO UPDATE SET epoch = kafka_offset.epoch + 1 RETURNING next, epoch", \
	[(first) + INTAKE_MOVE] = "UPDATE kafka_offset SET next = ?4 WHERE topic = ?1 AND partition = ?2 AND next = ?3 AND epoch = ?5", \
	[(first) + INTAKE_DEAD_ADD] = "INSERT INTO kafka_dead (topic, partition, at_offset, at_us, reason, message_key, bytes, published) " \
		"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0) ON CONFLICT (topic, partition, at_offset) DO NOTHING", \
	[(first) + INTAKE_DEAD_OPEN] = "SELECT topic, partition, at_offset, reason, message_key, bytes FROM kafka_dead WHERE published = 0 " \
		"ORDER BY topic, partition, at_offset LIMIT 100", \
	[(first) + INTAKE_DEAD_DONE] = "UPDATE kafka_dead SET published = 1 WHERE topic = ?1 AND partition = ?2 AND at_offset = ?3"

#define INTAKE_SCHEMA \
	"CREATE TABLE kafka_offset (topic TEXT NOT NULL, partition INTEGER NOT NULL, next BIGINT NOT NULL, epoch BIGINT NOT NULL, PRIMARY KEY (topic, partition));" \
	"CREATE TABLE kafka_dead (topic TEXT NOT NULL, partition INTEGER NOT NULL, at_offset BIGINT NOT NULL, at_us BIGINT NOT NULL, reason TEXT NOT NULL," \
	" message_key BLOB NOT NULL, bytes BLOB NOT NULL, published INTEGER NOT NULL, PRIMARY KEY (topic, partition, at_offset));"

enum { INTAKE_LAG, INTAKE_READ, INTAKE_AGAIN, INTAKE_DEAD, INTAKE_FENCED, INTAKE_GAPS, INTAKE_N_METRICS };
#define INTAKE_METRICS(first) \
	[(first) + INTAKE_LAG] = { METRIC_GAUGE, "bus_lag_records", "Messages of a partition that are not in the database yet.", "topic,partition" }, \
	[(first) + INTAKE_READ] = { METRIC_COUNTER, "bus_read_total", "Messages read from Kafka and kept.", "topic" }, \
	[(first) + INTAKE_AGAIN] = { METRIC_COUNTER, "bus_redelivered_total", "Of those, messages that their writer says it may have sent before.", "topic" }, \
	[(first) + INTAKE_DEAD] = { METRIC_COUNTER, "bus_dead_total", "Messages that could not be understood; see the table kafka_dead and the topic's .dead.", "topic" }, \
	[(first) + INTAKE_FENCED] = { METRIC_COUNTER, "bus_fenced_total", "Batches that were dropped because another reader has their partition.", "" }, \
	[(first) + INTAKE_GAPS] = { METRIC_COUNTER, "bus_gaps_total", "How often what was to be read next was gone from the topic.", "topic" }

struct intake_batch {
	const struct bus_batch *batch;
	int64_t epoch;
	struct intake *intake;
};

enum intake_outcome { INTAKE_KEPT, INTAKE_WAS_FENCED, INTAKE_FAILED };

struct intake_opts {
	const struct bus_config *config;
	const char *group;
	const char *dir;              /* of the service's state: the name of this member of the group is kept there */
	const char *const *topics;    /* ended by NULL */
	const char *const *dead;      /* the same with ".dead" */
	struct db *db;
	unsigned statements, metrics_at;      /* places of INTAKE_STATEMENTS, INTAKE_METRICS */
	struct metrics *metrics;
	/* One transaction: intake_move(), then the rows, intake_bury() for what has none. FAILED fills *why; it is called again after a while. */
	enum intake_outcome (*keep)(void *arg, const struct intake_batch *, struct why *);
	bus_on_state *on_state;
	void *arg;
};

struct intake *intake_new(struct loop *, const struct intake_opts *, struct why *);
void intake_free(struct intake *);            /* NULL is fine; the database is still open */

/* In the transaction of a batch. *ret_moved false: fenced; roll back. */
bool intake_move(const struct intake_batch *, bool *ret_moved, struct why *);
bool intake_bury(const struct intake_batch *, const struct bus_in *, const char *reason, struct why *);
/* The usual keep(): begins, moves, calls each for every message ("" = kept, a reason = buried, NULL with *why = failed), commits. */
enum intake_outcome intake_each(const struct intake_batch *, const char *(*each)(void *arg, const struct bus_in *, struct why *), void *arg, struct why *);
#endif
