/* account.h - the meter. It hangs on the request and not on handlers: START before dispatch, CHECKPOINT while a stream runs,
 * FINAL on every way out, one of each per attempt; all in the worker's spool before anything else happens. */
#ifndef CORRAL_GATEWAY_ACCOUNT_H
#define CORRAL_GATEWAY_ACCOUNT_H
#include "services/gateway/worker.h"

/* Record types in the usage spool. */
/* BEGUN is the START of an attempt as it is written before dispatch, and stays here: it serves a restart. The ledger hears a START only of
 * attempts that still run a second later (account_announce); the FINAL of the others tells all. */
enum { REC_START = 1, REC_FINAL = 2, REC_CORRECTION = 3, REC_CHECKPOINT = 4, REC_BEGUN = 5, REC_DECISION = 16 };
enum { ANNOUNCE_US = 1000000 };

/* False: the spool cannot be written; nothing may be dispatched. */
bool account_start(struct req *, struct why *);
/* The worker's sweep: an attempt that has run for a second is made known to the ledger, as open. */
void account_announce(struct req *, int64_t now_us);
void account_checkpoint(struct req *);
/* status: "ok", "error", "cancelled", "not_sent". Closes the attempt's START; without one (attempt 0) it stands alone. */
void account_final(struct req *, const char *status, enum err code);
void account_decision(struct req *);
/* Writes the FINALs that a full disk kept back; true when none is left. No START is written before them. */
bool account_flush(struct worker *);
/* At the end of the worker: what cannot be written even now the next start closes as unknown. */
void account_forget(struct worker *);
/* Closes what an earlier run left open in a usage spool: FINAL{unknown, last checkpoint}. Returns how many, -1 on failure. */
int account_recover(struct spool *, const char *dir, struct why *);
#endif
