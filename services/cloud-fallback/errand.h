/* errand.h - one request of a gateway on its way to a provider, for the files that move it: errand.c (admitted, sent, relayed), errand_fault.c (what
 * a failure means). */
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
	bool cold, began;             /* a byte of an answer came */
	bool over;                    /* the gateway has its whole answer; the rest of the provider's is awaited, so that the connection can be used again */
	struct loop_timer again;
	struct str request_id, trace;
};

/* errand_fault.c: an attempt failed, and *why is what the relay or the connection says of it. */
enum blame { BLAME_PROVIDER, BLAME_KEY, BLAME_REQUEST };
/* Whose fault it is. *why becomes what people are told, the key rests when it is that, retry_ms and refused_status are set. */
enum blame errand_judge(struct errand *, struct why *why);
/* The head of an error, kept. */
void errand_keep_head(struct errand *, const struct http_head *);
/* The key that was sent; NULL = it was taken away meanwhile. */
struct provider_key *errand_key(const struct errand *);
#endif
