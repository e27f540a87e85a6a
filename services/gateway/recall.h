/* recall.h - answers that are given again instead of being asked for again.
 *
 *   stage cache ──▶ may it be? (recall_key.c) ──▶ look it up ──▶ hit: answered, booked as cached
 *                        │                            └──▶ miss ──▶ is it under way? (flights.h) ──▶ wait for that, or lead and go on
 *                        └── no: bypass                                                                      │
 *   attempt.c ──▶ recall_record() each piece that the backend says ──▶ recall_keep() at its proper end ◀─────┘
 *   req_end() ──▶ recall_end(), on every way out
 *
 * What is kept is what the backend said, byte for byte; a hit is read and written for its client by the same code as an answer that comes now. */
#ifndef CORRAL_GATEWAY_RECALL_H
#define CORRAL_GATEWAY_RECALL_H
#include "common/store/cache.h"
#include "services/gateway/flights.h"
#include "services/gateway/req.h"

struct recall;                        /* the gateway's */
struct recall_seat;                   /* one worker's */

/* What is known of one request, in its arena. */
struct recollection {
	struct req *req;
	const char *bypass;           /* why it is not looked up nor kept; NULL = it is not so */
	bool opted_in;                /* the caller asks for it: sampling, tools and models without a digest do not matter */
	bool reads, writes;
	int64_t max_age_us;           /* older answers are none; 0 = any age */
	int64_t ttl_us;
	uint8_t key[CACHE_KEY_BYTES];
	uint16_t replica;             /* that the key speaks of */
	struct llm_plan plan;
	struct llm_target target;
	struct cache_ask ask;
	struct flight_place *place;   /* NULL: neither leads nor follows */
	bool follows;
	int64_t asked_us;
	bool records;                 /* what comes is written down */
	struct buf heard;
	bool hit;
	int64_t age_us;
};

bool recall_open(struct gateway *, struct why *);     /* gateway.recall; NULL when the cache is off */
void recall_close(struct gateway *);                  /* after every worker */
void recall_sweep(struct gateway *);                  /* once a second, on the control thread: figures */
void recall_seat_sweep(struct recall_seat *);         /* on the worker's */
bool recall_url_check(const char *option, struct why *);
struct recall_seat *recall_seat_new(struct gateway *, struct loop *);         /* NULL when the cache is off */
void recall_seat_free(struct recall_seat *);

enum step recall_look(struct req *);
void recall_begin(struct req *);                      /* an attempt begins: what an earlier one said is forgotten */
void recall_record(struct req *, struct str data);
void recall_keep(struct req *);                       /* the attempt's answer is whole and proper */
void recall_spoil(struct req *);                      /* it is not to be kept after all */
void recall_end(struct req *);
void recall_tick(struct req *, int64_t now_us);       /* who waits for another's answer: its own time */
const char *recall_word(const struct req *);          /* "hit", "miss", "bypass" */
static inline bool recall_is_hit(const struct req *r) { return r->recall && r->recall->hit; }

/* --- recall_key.c --- */

/* Fills bypass, reads, writes, ages. */
void recall_may(struct recollection *, const struct gateway_config *);
/* The key's text but for the tenant's secret: every field with its length. 'kind' of the backend, what the model is, what is sent to it in the order of its
 * names without what changes no answer. False: it cannot be told which model this is. */
bool recall_text(struct recollection *, struct buf *out);
/* All that the text is made of, byte for byte: where this is the same, the text is. */
void recall_source(const struct recollection *, struct buf *out);
/* What names the model in it: by its digest, or where it lies. One of a world's replicas. */
struct str recall_model_text(const struct world *, uint16_t replica, struct arena *);
/* An answer of this replica is one to a question that was put to the other. */
bool recall_same_model(const struct world *, uint16_t replica, uint16_t other);
#endif
