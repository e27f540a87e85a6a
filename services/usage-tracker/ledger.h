/* ledger.h - the ledger: one row per attempt, a cursor per source of facts, and sums by hour, in one database.
 *
 * Nouns: an attempt's row is open (its START came) or finished (its FINAL came, before or after the START). Dimensions are the eight
 * words usage is grouped by; a row and a sum name them by number. An attempt is booked at the time in its request id (UUIDv7), which
 * never changes: so rows of a time span are one range of the primary key, and order of arrival does not matter.
 * A batch is one transaction: cursor, rows, sums, or nothing. Pure over db.h; one thread. */
#ifndef CORRAL_USAGE_LEDGER_H
#define CORRAL_USAGE_LEDGER_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "common/store/db.h"
#include "events.pb-c.h"
#include "services/usage-tracker/sums.h"

struct ledger;

enum dim_name { DIM_TENANT, DIM_KEY, DIM_MODEL, DIM_BACKEND, DIM_PROVIDER, DIM_DIALECT, DIM_TASK_TYPE, DIM_STATUS, DIMS };
struct dim { int64_t id; struct str word[DIMS]; };

enum { ROW_STARTED = 1, ROW_FINISHED = 2 };

/* One row as it is in the table. */
struct ledger_row {
	uint8_t request_id[16];
	uint32_t attempt;
	int64_t dim;
	unsigned state;               /* ROW_ bits */
	int64_t started_us, ended_us; /* 0 = not known */
	int64_t prompt_tokens, completion_tokens, cost_microusd, latency_us, gpu_us, energy_mj;
	bool cached;
	uint32_t final_seq;
	struct str event;             /* the packed UsageEvent: the FINAL, or the START while open */
};

/* A batch that came another way than from a source's spool: it moves a place of its own, and buries its dead itself, in the same transaction. */
struct ledger_carrier {
	void *arg;
	bool (*move)(void *arg, bool *ret_moved, struct why *);       /* *ret_moved stays false: it does not begin where the place is */
	bool (*bury)(void *arg, size_t record, const char *reason, struct why *);
};

struct ledger_batch {
	struct str topic, source;
	uint64_t epoch, first, next;
	const struct ledger_carrier *carrier;         /* NULL: the source's cursor, from first to next, and the table dead_letters */
	const struct str *records;
	size_t n;
};

enum ledger_outcome { LEDGER_APPLIED, LEDGER_OUT_OF_ORDER, LEDGER_STALE, LEDGER_FAILED };

struct ledger_counts {
	uint64_t starts, finals, corrections, duplicates, dead, shadows;
	int64_t newest_us;            /* occurred_at of the youngest record; 0 = none */
};

struct ledger *ledger_open(const char *url, struct why *);
void ledger_close(struct ledger *);       /* NULL is fine */

/* 0 and 0 for a source that was never heard. */
bool ledger_cursor(struct ledger *, struct str topic, struct str source, uint64_t *ret_position, uint64_t *ret_epoch, struct why *);
/* Applies the batch if it starts at the source's cursor and its epoch is not older than the last one; *ret_position = the cursor now.
 * ret_counts (may be NULL) is what was applied. LEDGER_STALE and LEDGER_FAILED fill *why; after either nothing has changed. */
enum ledger_outcome ledger_ingest(struct ledger *, const struct ledger_batch *, uint64_t *ret_position, struct ledger_counts *ret_counts, struct why *);

/* The same for a topic that is no usage: each record goes to 'each', in one transaction with the cursor; false undoes the batch. */
enum ledger_outcome ledger_carry(struct ledger *, const struct ledger_batch *, bool (*each)(void *, struct str record, struct why *), void *arg,
				 uint64_t *ret_position, struct why *);

/* For feedback.c, which keeps its rows beside the ledger's. */
struct db *ledger_db(struct ledger *);

/* Calls on_row for every attempt of a request, in order. */
bool ledger_attempts(struct ledger *, const uint8_t request_id[16], bool (*on_row)(void *, const struct ledger_row *), void *arg, struct why *);
/* The same for requests that came in [from_us, to_us). */
bool ledger_rows(struct ledger *, int64_t from_us, int64_t to_us, bool (*on_row)(void *, const struct ledger_row *), void *arg, struct why *);
/* The newest 'most' of those at or after from_us, oldest first. */
bool ledger_rows_newest(struct ledger *, int64_t from_us, int64_t most, bool (*on_row)(void *, const struct ledger_row *), void *arg, struct why *);
/* Sums by hour (hours since 1970) in [from_hour, to_hour) and dimension. */
bool ledger_sums(struct ledger *, int64_t from_hour, int64_t to_hour,
		 bool (*on_sums)(void *, int64_t hour, int64_t dim, const struct sums *), void *arg, struct why *);
const struct dim *ledger_dim(struct ledger *, int64_t id, struct why *);      /* valid until the next ingest */

/* Called for each attempt that finishes, after its batch is committed; for the speeds. */
void ledger_on_finished(struct ledger *, void (*fn)(void *, const struct dim *, const Corral__UsageEvent *), void *arg);
/* What a batch books of one attempt. */
struct ledger_booking {
	const Corral__UsageEvent *event;      /* its FINAL, whole */
	bool finished;                /* in this batch; else it was, and a correction changes it, or a START that came late */
	int64_t told_microusd;        /* finished: what its FINAL said that it cost; what is booked may differ by a price that its writer did not know */
	int64_t tokens, microusd;     /* booked; of a change: by how much, below 0 too */
};

/* Called inside a batch's transaction, before its commit, with each attempt that finishes in it and then once with NULL; false with *why undoes the
 * batch. on_booked is called with the changes too. 'undone' (with neither) is told when it is undone all the same. Either of the first may be NULL. */
struct ledger_watch {
	bool (*on_finished)(void *, const struct dim *, const Corral__UsageEvent *, struct arena *, struct why *);
	bool (*on_booked)(void *, const struct ledger_booking *, struct arena *, struct why *);
	bool (*on_shadow)(void *, const Corral__UsageEvent *, struct why *);   /* of who has on_finished: with each shadow's FINAL that is new */
	void (*undone)(void *);
	void *arg;
};
/* LEDGER_WATCHES at most; one without functions ends those of its 'arg'. */
enum { LEDGER_WATCHES = 6 };
void ledger_watch(struct ledger *, struct ledger_watch);

int64_t ledger_row_time_us(const struct ledger_row *);    /* when it is booked */
int64_t ledger_row_began_us(const struct ledger_row *);   /* when its attempt began, as well as the ledger knows: the time its price is of */

/* Says what a finished attempt costs. Without one, and before, it costs what its event says. */
void ledger_set_pricer(struct ledger *, int64_t (*cost)(void *, const Corral__UsageEvent *, int64_t began_us), void *arg);
/* A request is counted by its row 0 or 1. Row 0 is of a request that met no backend: no attempt, and no latency unless a cache answered. */
void ledger_row_sums(const struct ledger_row *, struct str status, struct sums *add_to, int sign);
#endif
