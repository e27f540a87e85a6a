/* purse.h - what this gateway has been lent of each budget, shared by the workers: a request reserves here, without asking anybody.
 *
 * One purse a budget. granted is what the usage-tracker lent in the present period, in absolute numbers; spent and reserved is what finished
 * requests took of it and what those under way may take at most. A request takes from every purse that covers it, or from none. What is
 * given back is taken out of the purse before anybody is told. budget_share.c asks for more, ahead of need where there is plenty.
 * Any thread, one lock; who is covered by no budget does not come here. */
#ifndef CORRAL_GATEWAY_PURSE_H
#define CORRAL_GATEWAY_PURSE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "budgets.pb-c.h"
#include "common/base/arena.h"
#include "common/base/str.h"

enum { PURSE_TOKENS, PURSE_MICROUSD, PURSE_AMOUNTS };
enum { PURSES_MOST = 16 };            /* that cover one request */

struct purse_amounts { int64_t n[PURSE_AMOUNTS]; };

struct purse {
	struct purse *next, *next_same, *next_id;     /* all; those in the same place of the tables */
	uint64_t id;
	char scope[128], tenant[64], period[24];
	bool everybody;               /* an organisation's: covers every request */
	/* under the lock */
	bool gone, shadow, rolling, unlimited;
	bool limits[PURSE_AMOUNTS];
	struct purse_amounts limit;   /* of those: what there is in a whole period */
	bool heard;                   /* what follows is known */
	int64_t period_us, ends_us, resets_us, heard_us;     /* heard: mono */
	struct purse_amounts granted, spent, reserved, settled;       /* settled: of spent, what the usage-tracker had the facts of */
	struct purse_amounts need;    /* of requests that wait */
	struct purse_amounts left, most;      /* of the budget, when it was heard; see budgets.proto */
	struct purse_amounts taken, rate;     /* since the last look; per look, falling off slowly */
	bool tight, used;
	bool unsure;                  /* it was asked of and not answered: more may have been granted than is known */
	int64_t old_period_us;        /* of which something is to be given back: all but 'old_keep'; 0 = none */
	struct purse_amounts old_keep;
};

/* Who asks, in the words of budgets. */
struct purse_asker { struct str tenant, team, key_id, user, provider; };

/* What a request holds. */
struct purse_hold {
	struct purse *purses[PURSES_MOST];
	int64_t period_us[PURSES_MOST];
	unsigned n;
	struct purse_amounts taken;
	bool held;                    /* reserved in those that are not shadows */
	bool waits;                   /* its need is told in their 'need' */
	struct purse_amounts need;
};

enum purse_answer {
	PURSE_TAKEN,
	PURSE_ASK,                    /* more has to be lent first */
	PURSE_SPENT                   /* the budget, as heard lately, cannot give it */
};

struct purse_refusal {
	struct purse *purse;
	int kind;
	int64_t left, limit, resets_us;      /* what it could give at most, and in a whole period; wall clock */
	bool lent_out;                /* there may be more soon: what is left is held by others, or for requests under way */
};

struct purse_book;
struct purse_book *purse_book_new(void);
void purse_book_free(struct purse_book *);
/* No budget at all: the one test that a request pays. */
static inline bool purse_book_is_empty(const _Atomic unsigned *n) { return !n || atomic_load_explicit(n, memory_order_acquire) == 0; }
const _Atomic unsigned *purse_book_count(const struct purse_book *);

/* Fills 'purses' with those that cover the asker. */
void purse_find(struct purse_book *, const struct purse_asker *, struct purse_hold *ret);
/* One of them that limits so and is no shadow; NULL = none does. Its scope may be read. */
const struct purse *purse_limiting(struct purse_book *, const struct purse_hold *, int kind);
/* Whether a provider has a budget of its own that limits something and is no shadow, or one that says it is unlimited. */
bool purse_is_capped(struct purse_book *, struct str provider);
/* 'need' from all of them or from none; after less than 'least' tokens fewer, if that is what fits: *ret_tokens is what was taken. least = need: all of it.
 * Shadows are never short: *ret_shadow is one that would have been, or NULL. */
enum purse_answer purse_take(struct purse_book *, struct purse_hold *, struct purse_amounts need, int64_t least_tokens, int64_t wall_us, int64_t mono_us,
			     int64_t *ret_tokens, struct purse **ret_shadow, struct purse_refusal *ret);
/* It waits for more; its need is part of the next ask. Once; the other undoes it. */
void purse_wait(struct purse_book *, struct purse_hold *, struct purse_amounts need);
void purse_wait_no_more(struct purse_book *, struct purse_hold *);
/* It is over, and took so much. Once; a hold that holds nothing is fine. */
void purse_settle(struct purse_book *, struct purse_hold *, struct purse_amounts used);
/* What its usage event carries; empty when it holds nothing. Lives in the arena. */
struct str purse_stamp(const struct purse_hold *, const char *holder, struct arena *);

/* --- the control side --- */

/* The list as it is now; those that are not in it any more are gone. */
void purse_book_list(struct purse_book *, Corral__Budget *const *, size_t n);
/* What to ask for and what to give back, taken out already. 'leaving': everything that is not reserved. */
void purse_book_demands(struct purse_book *, bool leaving, int64_t mono_us, struct arena *, Corral__BudgetLeaseRequest *add_to);
void purse_book_lent(struct purse_book *, Corral__BudgetLease *const *, size_t n, int64_t mono_us);
/* Whether somebody waits, or something is lent: then it is asked often. */
bool purse_book_waits(struct purse_book *);
bool purse_book_busy(struct purse_book *);
bool purse_book_lends(struct purse_book *);           /* more than was spent was granted */
#endif
