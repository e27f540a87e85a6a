/* job_input.h - the input of a job in RunPod's shapes: an inference request, as whoever sends jobs may write it.
 *
 * It is one of ours ({"prompt": …}), of any dialect's chat ({"messages": […]}), in the form of RunPod's vLLM worker ("sampling_params" beside
 * prompt or messages), or whatever a route takes: {"route": "/v1/completions", "request": {…}}, also as "openai_route" and "openai_input".
 * What becomes of it is a path and a body, as if a client had sent them. Whether that route may be asked by a job is for who takes the job. Pure. */
#ifndef CORRAL_LLM_JOB_INPUT_H
#define CORRAL_LLM_JOB_INPUT_H
#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "common/data/json.h"

struct job_input { struct str path, body; };          /* point into the arena or into what was read */

/* 'input' is the value of the job's member of that name; 0 = it has none. ERR_MALFORMED, ERR_UNSUPPORTED_FIELD with the field. */
enum err job_input_read(struct job_input *, const struct json *, uint32_t input, struct arena *, struct why *);

/* ERR_UNSUPPORTED_FIELD: a member that nobody knows; 'where' is what stands before its name. */
enum err job_unknown(const struct json *, uint32_t value, const char *where, struct why *);
#endif
