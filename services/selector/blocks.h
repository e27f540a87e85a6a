/* blocks.h - kept decisions on disk: many to a row, because a row for each costs four times what is in it, and few are ever asked for.
 *
 * A block holds decisions whose requests began within a minute, at most a quarter of a megabyte of them. Its row has the lowest and the highest id,
 * an index (id and end of each; empty when there is one only) and the packed events one behind the other. */
#ifndef CORRAL_SELECTOR_BLOCKS_H
#define CORRAL_SELECTOR_BLOCKS_H
#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/store/db.h"

/* Statements of the selector that belong to blocks; decisions.c has the others. */
enum { Q_BLOCK, Q_BLOCK_FIND, Q_BLOCK_CLEAN, Q_BLOCKS };
#define BLOCK_STATEMENTS \
	[Q_BLOCK] = "INSERT INTO decision_blocks (first_id, last_id, n, ids, events) VALUES (?1, ?2, ?3, ?4, ?5)", \
	[Q_BLOCK_FIND] = "SELECT ids, events, id FROM decision_blocks WHERE last_id >= ?1 AND last_id <= ?2 AND first_id <= ?1", \
	[Q_BLOCK_CLEAN] = "DELETE FROM decision_blocks WHERE last_id < ?1"

/* Gathers a block. Zero-initialised is empty; block_free() at the end. */
struct block {
	uint8_t first[16], last[16];
	struct buf ids, events;
	size_t n;
};
/* Writes the block out first when this one has no place in it. */
bool block_add(struct block *, struct db *, const uint8_t request_id[16], struct str event, struct why *);
bool block_write(struct block *, struct db *, struct why *);   /* what there is; nothing when it is empty */
void block_free(struct block *);

/* The event, the last that came for that id, in the arena; *ret_event.p NULL when it is not kept. False when the store failed. */
bool block_find(struct db *, const uint8_t request_id[16], struct arena *, struct str *ret_event, struct why *);
/* Removes the blocks that are wholly of before. */
bool block_clean(struct db *, int64_t before_us, int64_t *ret_blocks, struct why *);
#endif
