/* run_input.h - the body of POST /run and /runsync: {"input": an inference request, "policy": {…}}. What an input may be: common/llm/job_input.h.
 *
 * What becomes of it is a path and a body, which go through the gateway as if a client had sent them. Pure. */
#ifndef CORRAL_GATEWAY_RUN_INPUT_H
#define CORRAL_GATEWAY_RUN_INPUT_H
#include <stdint.h>

#include "common/llm/job_input.h"

struct run_input {
	struct job_input job;
	int64_t execution_ms;         /* 0 = not said */
	int64_t ttl_ms;
};

enum { RUN_TIME_MIN_MS = 1000, RUN_TIME_MAX_MS = 7 * 86400000 };

/* ERR_MALFORMED, ERR_INVALID, ERR_UNSUPPORTED_FIELD with the field. */
enum err run_input_read(struct run_input *, struct str body, struct arena *, struct why *);
#endif
