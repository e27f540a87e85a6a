/* stages.h - every stage by name; routes.c puts them in order. Each does one thing, in a file of its own or with its kin. */
#ifndef CORRAL_GATEWAY_STAGES_H
#define CORRAL_GATEWAY_STAGES_H
#include "services/gateway/req.h"

/* inference */
extern const struct stage stage_parse;        /* body -> what was asked */
extern const struct stage stage_limits;       /* the limits of key and tenant: taken, or a refusal that says when to come back */
extern const struct stage stage_load_only;    /* Ollama's empty request for a backend that has nothing to load */
extern const struct stage stage_decide;       /* which model, which backends */
extern const struct stage stage_cache;        /* an answer that is kept; or the same question is under way (recall.c) */
extern const struct stage stage_queue;        /* a slot, or a place in the queue, or a refusal */
enum step queue_overdue(struct req *, int64_t now_us);        /* it has waited there as long as it may */
extern const struct stage stage_reserve;      /* what it can use at most, of every budget that covers it, or a refusal */
extern const struct stage stage_budgets, stage_budget_put, stage_budget_delete;
extern const struct stage stage_dispatch;     /* START, send, relay */
extern const struct stage stage_count_tokens; /* answers with the tokens of the prompt instead of sending it */
extern const struct stage stage_explain_only; /* answers with the decision instead of sending it */

/* answered from memory */
extern const struct stage stage_alive, stage_version, stage_openai_models, stage_openai_model, stage_ollama_tags, stage_ollama_ps,
	stage_ollama_show, stage_models, stage_model, stage_unused, stage_backends, stage_health;

/* Ollama's administration (admin.c) */
extern const struct stage stage_ollama_pull, stage_ollama_delete, stage_ollama_copy, stage_ollama_create, stage_ollama_push, stage_blob_head, stage_blob_put;

/* durable work on models (jobs.c) */
extern const struct stage stage_pull, stage_remove_model, stage_change_model, stage_jobs, stage_job, stage_job_cancel;

/* durable jobs that ask a model (runs.c) */
extern const struct stage stage_run, stage_runsync, stage_run_status, stage_run_stream, stage_run_cancel;

/* listing.c: the rest of the path as a name; clients encode the slash of "org/model". */
struct str param_name(struct req *);

/* asked of other services */
extern const struct stage stage_tests, stage_test_create, stage_test, stage_test_change;
extern const struct stage stage_feedback;
extern const struct stage stage_prices, stage_price_put, stage_reprice, stage_savings, stage_quality;
extern const struct stage stage_usage, stage_explain, stage_requests, stage_sync, stage_hardware, stage_providers, stage_active_model, stage_active_model_put;
extern const struct stage stage_key_create, stage_key_rotate, stage_key_limit, stage_key_revoke, stage_keys, stage_tenant_put, stage_tenant_delete, stage_tenants,
	stage_audit, stage_audit_verify;
#endif
