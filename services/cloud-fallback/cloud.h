/* cloud.h - what the files of cloud-fallback share.
 *
 * Nouns: a provider is one account with somebody who serves models, with its keys, its breaker and its slots; an errand is one request of a
 * gateway on its way there (errand.c). front.c is where gateways come in, spend.c and counts.c hear from the usage-tracker whether a provider may be used,
 * health.c looks at RunPod's workers, active.c keeps the active model, service.c publishes what is known. One loop thread owns everything. */
#ifndef CORRAL_CLOUD_FALLBACK_CLOUD_H
#define CORRAL_CLOUD_FALLBACK_CLOUD_H
#include "common/base/list.h"
#include "common/io/http_server.h"
#include "common/io/https_out.h"
#include "common/policy/breaker.h"
#include "common/store/db.h"
#include "common/svc/svc.h"
#include "providers.pb-c.h"
#include "services/cloud-fallback/catalogue.h"
#include "services/cloud-fallback/keys.h"
#include "services/cloud-fallback/settings.h"

enum { TOKEN_BYTES = 24, WORDS = 400 };

enum cloud_metric { M_REQUESTS, M_ACTIVE, M_READY, M_KEYS, M_FIRST_BYTE, M_TOKENS, M_RETRIES, M_COLD_START, M_REDACTED, M_FAULTS, M_CANCELS, M_DOUBTS, M_COUNT };

struct cloud;

/* What the usage-tracker said last. */
struct spending {
	bool heard, may;
	char why[WORDS];
	int64_t until_us;             /* wall clock; 0 = nobody knows */
	int64_t left_tokens, left_microusd;   /* -1 = not limited */
};

/* RunPod: are there workers, and what does a request wait while there is none? */
struct workers {
	struct https_fetch *asking;
	int64_t asked_us;
	bool known;
	unsigned up;                  /* idle and running */
	int64_t starting_us;          /* since when one starts while none is up; 0 = none does */
	int64_t cold_start_us;        /* measured; 0 = not yet */
};

struct provider {
	struct cloud *cloud;
	const struct provider_setting *set;   /* another one after a reload */
	bool began_on;                /* it was switched on at the start */
	struct keyring keys;
	struct breaker breaker;
	struct spending spend;
	struct workers workers;
	uint32_t active;
	struct list waiting;          /* errands without a slot, the first to come first */
	uint32_t n_waiting;
	Corral__ProviderState told;   /* said last in the log */
	char told_why[WORDS];
};

struct cloud {
	struct svc *svc;
	struct loop *loop;
	const struct cloud_config *cfg;
	struct arena *mem;            /* of the settings and the catalogue */
	const struct catalogue *catalogue;
	struct provider *providers;
	size_t n;
	struct https_out *out;
	struct http_server *front;
	const char *endpoint;
	char token[2 * TOKEN_BYTES + 1];
	const char *asked_token;      /* the one in force */
	struct list errands;
	struct list endings;          /* jobs that are being cancelled */
	void (*endings_over)(struct cloud *);         /* called when the last one is; NULL = nobody waits */
	uint8_t seal_key[32];
	struct active *active;
	const struct redact *redact;  /* what must not leave; NULL = nothing is looked for */
	struct spend *spend;
	struct counts *counts;
	struct offers *offers;
	struct snapshot_pub *pub;
	struct buf published;
	Corral__Providers_Service rpc;
	struct loop_timer tick;
	bool draining;
};

/* provider.c: how a provider is. */
struct standing {
	Corral__ProviderState state;
	char why[WORDS];
	int64_t ready_at_ms;          /* wall clock; 0 = unknown */
};
void provider_standing(const struct provider *, struct standing *ret);
struct provider *cloud_provider(struct cloud *, struct str name);
struct breaker_opts cloud_breaker_opts(const struct cloud *);
/* The model of a provider; NULL = it has no such. */
const char *provider_model(const struct provider *, struct str model);
/* What a request would wait for a worker, in ms; 0 = nothing, or it is no such provider. */
int64_t provider_cold_ms(const struct provider *);
void cloud_fill(struct cloud *, struct arena *, Corral__Provider ***ret, size_t *ret_n);  /* for the snapshot and for lists */
void cloud_changed(struct cloud *);           /* service.c: publishes when something that is told has changed, and says it in the log */

/* front.c */
bool front_open(struct cloud *, struct why *);
void front_close(struct cloud *);

/* errand.c: answers x, now or later. */
void errand_begin(struct cloud *, struct http_xchg *x);
void errands_drop(struct cloud *);
/* status 0: that of the code. in_doubt: a provider had the request, and may charge for it. */
void front_refuse(struct http_xchg *, const struct why *, int status, int64_t retry_ms, bool in_doubt);

/* ending.c: a job that nobody waits for any more. ran: it was seen to run. attempt: of that request; 0 = nobody said. */
struct llm_job;
void ending_begin(struct provider *, const struct llm_job *, bool ran, struct str request_id, uint32_t attempt);
void endings_hurry(struct cloud *);           /* those that would have to try again give up */
void endings_drop(struct cloud *);

/* redaction.c: what must not leave. The body as it may go; or ERR_INVALID and others for what may not, without a word of what was found. */
enum err redaction_apply(struct cloud *, struct str body, struct str request_id, struct arena *, struct str *ret, struct why *);

/* spend.c */
struct spend *spend_new(struct cloud *);
void spend_free(struct spend *);

/* counts.c: how many requests a minute and a day. */
struct counts *counts_new(struct cloud *);
void counts_free(struct counts *);
/* No more may be sent in this period: *ret_resets_us (wall clock) is when more may. */
bool counts_used_up(struct counts *, const struct provider *, char words[WORDS], int64_t *ret_resets_us);
bool counts_take(struct counts *, const struct provider *);   /* false: none is in hand, and more is asked for */
void counts_leave(struct counts *, void (*left)(void *arg), void *arg);       /* gives back what was not sent; 'left' once, then or now */

/* offers.c */
struct offers *offers_new(struct cloud *);
void offers_free(struct offers *);        /* NULL is fine */
struct price;
/* The price of tokens in force in the ledger, of a model by its full name; NULL = there is none, or it was not heard yet. NULL offers are fine. */
const struct price *offers_price(const struct offers *, const char *provider, const char *model);

/* health.c */
void workers_look(struct provider *);
void workers_stop(struct provider *);
void workers_began(struct provider *, int64_t waited_us, bool was_cold);

/* active.c: the active model, in a database. */
extern const struct db_migration cloud_migrations[];
struct active *active_open(struct cloud *, struct why *);
void active_close(struct active *);
void active_get(struct active *, struct arena *, Corral__ActiveModel *ret);       /* as last read */
/* Once, later: why->code 0 = it is set. 'q' is a copy of the request. */
typedef void active_set_done(void *arg, const Corral__SetActiveModelRequest *q, const struct why *);
/* Not ERR_OK with *why: refused at once, and 'done' is not called. */
enum err active_set(struct active *, const Corral__SetActiveModelRequest *, active_set_done *done, void *arg, struct why *);
void active_look(struct active *);            /* reads it again, for another may have set it: then cloud_changed() */
#endif
