/* run_input.h - the body of POST /run and /runsync: {"input": an inference request, "policy": {…}}.
 *
 * The input is one of ours ({"prompt": …}), of any dialect's chat ({"messages": […]}), in the form of RunPod's vLLM worker ("sampling_params" beside
 * prompt or messages), or whatever a route of inference takes: {"route": "/v1/completions", "request": {…}}, also as "openai_route" and "openai_input".
 * What becomes of it is a path and a body, which go through the gateway as if a client had sent them. Pure. */
#ifndef CORRAL_GATEWAY_RUN_INPUT_H
#define CORRAL_GATEWAY_RUN_INPUT_H
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"

struct run_input {
	struct str path, body;        /* point into the arena or into what was read */
	int64_t execution_ms;         /* 0 = not said */
	int64_t ttl_ms;
};

enum { RUN_TIME_MIN_MS = 1000, RUN_TIME_MAX_MS = 7 * 86400000 };

/* ERR_MALFORMED, ERR_INVALID, ERR_UNSUPPORTED_FIELD with the field. */
enum err run_input_read(struct run_input *, struct str body, struct arena *, struct why *);
#endif
