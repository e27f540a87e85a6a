/* provider_error.h - what a provider in the cloud means by an error, whatever it puts it in: a status, headers, a body, an object inside a 200 or a
 * stream. Pure: memory in, a verdict out. Who relays acts on the verdict; the words are for people and hold no part of a key. */
#ifndef CORRAL_LLM_PROVIDER_ERROR_H
#define CORRAL_LLM_PROVIDER_ERROR_H
#include "common/base/err.h"
#include "common/io/http1.h"

enum provider_fault {
	FAULT_AUTH,               /* our key is not taken, or may not do this: no request goes well with it */
	FAULT_NO_CREDIT,          /* the account has nothing left, or its own limit is reached: until somebody pays or raises it */
	FAULT_RATE_LIMITED,       /* too many now: wait */
	FAULT_OVERLOADED,         /* theirs: too busy, no worker, or too slow; later or elsewhere */
	FAULT_NO_MODEL,           /* no such model for this account */
	FAULT_BAD_REQUEST,        /* this request goes well nowhere there */
	FAULT_TOO_LONG,           /* nor does this: more than the model's context, or than a body may hold */
	FAULT_REFUSED,            /* they will not answer this content */
	FAULT_BROKEN,             /* theirs: anything else, and what nobody can make sense of */
	FAULTS
};

struct provider_error {
	enum provider_fault fault;
	enum err code;            /* for the client; keys and credit are our business: UNAVAILABLE */
	int status;               /* for the client: that of the code, or for BACKEND_REFUSED the provider's own */
	int64_t wait_ms;          /* it said when to come back; -1 = it did not. At most a day */
	bool until_tomorrow;      /* a limit of the day is reached: wait_ms is until it begins anew */
	char words[400];          /* a sentence without a trailing stop: "the provider allows no more requests now; again in 3 s" */
};

/* 'status' of the reply; 200 or 0: 'body' is an error inside an answer or a stream, or the member "error" of one. 'head' is where headers are read
 * from, NULL = there are none. 'body' may be anything. 'now_us' is the wall clock. */
void provider_error_read(struct provider_error *, int status, const struct http_head *head, struct str body, int64_t now_us);

const char *provider_fault_name(enum provider_fault);   /* "rate_limited": a label of metrics */
/* True when a breaker should count it: the fault is the provider's, not this request's. */
bool provider_fault_counts(enum provider_fault);
#endif
