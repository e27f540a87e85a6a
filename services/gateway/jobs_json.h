/* jobs_json.h - a job of the registry in JSON, and what the routes about jobs share. */
#ifndef CORRAL_GATEWAY_JOBS_JSON_H
#define CORRAL_GATEWAY_JOBS_JSON_H
#include "jobs.pb-c.h"
#include "services/gateway/ask.h"
#include "services/gateway/explain_json.h"

void job_json(struct json_out *, const Corral__Job *);
/* The reply was NULL: its reason, or that the registry does not answer. */
void jobs_ask_failed(struct ask *);
#endif
