/* errand.h - one request of a gateway on its way to a provider, for the files that move it: errand.c (admitted, sent, relayed), errand_fault.c (what
 * a failure means), errand_sign.c (Gemini's signatures), errand_job.c (RunPod's queue). */
#ifndef CORRAL_CLOUD_FALLBACK_ERRAND_H
#define CORRAL_CLOUD_FALLBACK_ERRAND_H
#include "common/llm/exchange.h"
#include "common/llm/provider_error.h"
#include "services/cloud-fallback/cloud.h"

struct errand {
	struct list link;
	struct cloud *cloud;
	struct provider *provider;
	struct http_xchg *x;          /* NULL: the gateway has its answer, or has left */
	struct arena *mem;
	struct llm_in in;
	struct llm_target target;
	struct llm_plan plan;
	struct llm_relay *relay;
	struct https_call *call;
	struct buf out;
	const char *url, *model;
	char tried[KEY_TRIES][KEY_ID];
	unsigned n_tried;
	uint32_t probe;
	int64_t sent_us, until_us;    /* loop clock; until: no request goes on after it */
	int64_t retry_ms;             /* when the gateway may come again; 0 = nobody knows */
	int status;                   /* of the answer's head; 0 = there is none */
	int refused_status;           /* the provider's own 4xx, when the request is refused; else 0 */
	const struct http_head *head; /* of an answer that is an error: kept, for it says how long to wait */
	bool cold;                    /* no worker was up when it was sent */
	int64_t cold_ms;              /* and a start was expected to take so long */
	bool in_doubt;                /* the provider has it, and may charge for it: it was sent, and not refused by a status */
	/* A job of RunPod's: */
	bool asked;                   /* it is submitted, and is being asked for */
	bool skipping;                /* this reply says only that the platform is busy */
	bool orphan;                  /* nobody waits any more; it is let tell its id, to be cancelled */
	unsigned skips;               /* such replies in a row */
	uint32_t job_deltas;          /* at the last reply */
	int64_t ask_us, job_began_us, job_heard_us;     /* 0 = not yet */
	struct loop_timer deadline;
	bool signed_anew;             /* its calls have new signatures, for theirs were lost or refused */
	bool over;                    /* the gateway has its whole answer; the rest of the provider's is awaited, so that the connection can be used again */
	struct loop_timer again;
	struct str request_id, trace;
	uint32_t attempt;             /* of the gateway's request; 0 = it was not said */
};

/* errand.c: sends with that key, body and all for a POST; the answer goes to the relay. */
void errand_call(struct errand *, const struct provider_key *, const char *method, const char *url, int64_t total_ms);
/* It failed without a word of the provider's. The errand is gone when it returns. */
void errand_failed(struct errand *, struct why *);

/* errand_fault.c: an attempt failed, and *why is what the relay or the connection says of it. */
enum blame { BLAME_PROVIDER, BLAME_KEY, BLAME_REQUEST };
/* Whose fault it is. *why becomes what people are told, the key rests when it is that, retry_ms and refused_status are set. */
enum blame errand_judge(struct errand *, struct why *why);
/* The head of an error, kept. */
void errand_keep_head(struct errand *, const struct http_head *);
/* The key that was sent; NULL = it was taken away meanwhile. */
struct provider_key *errand_key(const struct errand *);

/* errand_sign.c: Gemini refused the request for signatures of calls in it; its body with others. */
bool errand_is_about_signatures(const struct errand *);
struct str errand_signed_body(const struct errand *);

/* errand_job.c */
bool errand_is_job(const struct errand *);
bool errand_has_job(const struct errand *);                   /* its id is known */
bool errand_job_skips(struct errand *, const struct http_head *);     /* this reply is not for the relay: ask again */
void errand_job_heard(struct errand *);       /* the relay has read more: once it runs, what it waited is what a request waits */
bool errand_job_goes_on(struct errand *);     /* a reply is whole: true = it will be asked for again */
void errand_cancel_job(struct errand *);      /* when there is one that is not over */
#endif
