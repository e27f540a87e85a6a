/* service.c - the gateway's table: options, metrics, routes; and its control side: snapshots in, facts out, drain. */
#include "services/gateway/service.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/tls.h"
#include "services/gateway/ask.h"
#include "services/gateway/budget_share.h"
#include "services/gateway/certificate.h"
#include "services/gateway/door.h"
#include "services/gateway/feedback_box.h"
#include "services/gateway/lease.h"
#include "services/gateway/outbox.h"
#include "services/gateway/recall.h"
#include "services/gateway/routes.h"
#include "services/gateway/run_store.h"
#include "services/gateway/limit_share.h"
#include "services/gateway/runs.h"
#include "services/gateway/slot_bank.h"
#include "services/gateway/sticky.h"
#include "services/gateway/trail.h"
#include "services/gateway/worker.h"

#define C struct gateway_config
static const struct opt options[] = {
	OPT(C, STRING, listen, "127.0.0.1:8100", "Address and port clients connect to, in plain HTTP; none = only by TLS. Who comes to an address other "
						 "than loopback needs a key."),
	OPT(C, STRING, public_tls_listen, "", "Address and port clients connect to by HTTPS, beside listen. Needs public_tls_cert and public_tls_key."),
	OPT(C, STRING, public_tls_cert, "", "PEM file with the certificate for public_tls_listen, and behind it those between it and its authority. A changed file is "
					    "in force within 2 s for connections made from then on.", .live = true),
	OPT(C, STRING, public_tls_key, "", "PEM file with the key of public_tls_cert, without a passphrase.", .live = true),
	OPT(C, STRING, backend_ca, "", "PEM file with the authorities whose certificates are good for https:// addresses of backends; empty = those of the system."),
	OPT(C, INT, workers, "0", "Worker threads; 0 = one per CPU core, at most 8.", .max = 256),
	OPT(C, BYTES, max_body, "8m", "Largest request body. Larger ones get 413.", .min = 1024, .max = 1 << 30, .live = true),
	OPT(C, BYTES, hold_max, "1g", "Memory that bodies and unread or unfinished answers of all requests may hold together; what needs more gets 503. "
				      "Buffers below 64 KiB are not counted, nor is what converting makes of a body.", .min = 1 << 20, .max = INT64_C(1) << 50),
	OPT(C, BYTES, max_blob, "64g", "Largest file that POST /api/blobs takes for an Ollama; it passes through the state directory.", .min = 1024, .max = INT64_C(1) << 50, .live = true),
	OPT(C, DURATION, admin_timeout, "30m", "Longest silence of an Ollama while it creates, copies or pushes a model.", .min = 1000, .max = 86400000, .live = true),
	OPT(C, INT, max_connections, "10000", "Client connections of one worker; further ones get 503.", .min = 1, .max = 1000000),
	OPT(C, DURATION, request_timeout, "10m", "Longest time for a request, all attempts together.", .min = 100, .max = 86400000, .live = true),
	OPT(C, DURATION, connect_timeout, "2s", "Longest time to connect to a backend.", .min = 10, .max = 600000, .live = true),
	OPT(C, DURATION, first_byte_timeout, "5m", "Longest silence of a backend before its answer begins; loading a model counts.", .min = 10, .max = 86400000, .live = true),
	OPT(C, DURATION, idle_timeout, "60s", "Longest silence of a backend in the middle of an answer; then the engine counts as hung.", .min = 10, .max = 86400000, .live = true),
	OPT(C, INT, queue_max, "256", "Requests that may wait for a slot of one model; further ones get 429.", .max = 1000000, .live = true),
	OPT(C, DURATION, queue_timeout, "30s", "Longest wait for a slot; a request whose predicted wait is longer gets 429 at once.", .max = 86400000, .live = true),
	OPT(C, INT, attempts, "3", "Most replicas tried for one request, before the first byte to the client.", .min = 1, .max = 10, .live = true),
	OPT(C, INT, breaker_failures, "5", "Failures in a row that open the breaker of a (backend, model).", .min = 1, .max = 1000, .live = true),
	OPT(C, DURATION, breaker_open, "30s", "How long an open breaker rests before one request may try; doubles up to 5 minutes.", .min = 10, .max = 3600000, .live = true),
	OPT(C, ENUM, access_log, "all", "Which requests get a log line: all, errors (status 400 and above), off.", .words = "all errors off", .live = true),
	OPT(C, BOOL, require_keys, "no", "Keys are needed on loopback too; without this, who comes there without one is the owner."),
	OPT(C, LIST, anonymous, "", "Networks (10.0.0.0/8, fd00::/8) from which no key is needed; who comes from there without one has role user."),
	OPT(C, ENUM, decide, "local", "Who decides which model answers: local is the gateway from what it was told, remote asks the selector for each request "
				       "and decides itself when there is no answer.", .words = "local remote", .live = true),
	OPT(C, DURATION, decide_timeout, "250ms", "With decide=remote: longest wait for the selector, and never longer than the request may still take.", .min = 1,
	    .max = 60000, .live = true),
	OPT(C, BOOL, cloud_named, "no", "Requests for a model of the house by its name may be answered in the cloud when no backend that has it can. Requests for auto always may, unless they, "
	    "their key or their tenant are marked local-only.", .live = true),
	OPT(C, NUMBER, decision_sample, "0.01", "Share of requests for a named model whose decision is kept for /explain; auto is always kept.", .max = 1, .live = true),
	OPT(C, STRING, ollama_version, "0.34.2", "The version of Ollama that /api/version names; clients refuse old ones.", .live = true),
	OPT(C, LIST, allowed_hosts, "", "Host names under which clients may reach the gateway, besides localhost, literal addresses, *.local, *.internal.", .live = true),
	OPT(C, LIST, cors_origins, "", "Origins of web pages that may read answers: https://chat.example.org; * stands for anything. By default none.",
	    .aliases = "OLLAMA_ORIGINS", .live = true),
	OPT(C, DURATION, heartbeat, "15s", "Silence after which a waiting event stream gets a comment line, so that proxies keep it open; 0 = never. "
					   "Once one was sent the status is 200, and an error comes as an event.", .max = 3600000, .live = true),
	OPT(C, DURATION, checkpoint, "1s", "How often the tokens of a running stream are noted, for a restart after a crash.", .min = 10, .max = 60000, .live = true),
	OPT(C, BYTES, spool_segment, "16m", "Size of one file of the spool; room on disk is taken in this step, for each worker.", .min = 64 << 10, .max = 1 << 30),
	OPT(C, BYTES, spool_max, "4g", "Most that may wait in a worker's spool for the ledger; then requests are refused with 503.", .min = 1 << 20, .max = INT64_C(1) << 50),
	OPT(C, STRING, cache, "memory:", "Where answers are kept that may be given again: memory: is in this process; sqlite:PATH a file, for one node; redis://[user:password@]host[:port][/db] "
					 "or redis+unix:///PATH?db=N what several gateways share, with the memory in front; off.", .aliases = "OLLAMA_CACHE_ENABLED"),
	OPT(C, BYTES, cache_size, "256m", "Most that answers kept in memory may hold; no single one more than 1/64 of it.", .min = 1 << 20, .max = INT64_C(1) << 50),
	OPT(C, BYTES, cache_entry_max, "1m", "Longest answer, as the backend sends it, that is kept.", .min = 1024, .max = 64 << 20, .live = true),
	OPT(C, DURATION, cache_ttl, "24h", "How long an answer is kept, unless its request says otherwise.", .min = 1000, .max = 30LL * 86400000, .live = true),
	OPT(C, DURATION, cache_lookup, "2ms", "Longest wait for a file or a Redis; then the request goes on without it.", .min = 1, .max = 1000),
	OPT(C, BOOL, cache_undigested, "no", "Keeps also answers of backends that tell no digest of their models (llama.cpp, vLLM): such a model is known by its backend, name and sizes, and "
					     "another one put in its place with the same is taken for it. Requests that ask for caching need no such leave.", .live = true),
	OPT(C, STRING, master_key_file, "", "File with the installation's secret, at least 32 bytes. The names of kept answers are made from it: gateways that share a Redis need the same. "
					    "Empty = a secret of its own, cache.key in the service's state directory."),
	OPT(C, STRING, runs_db, "", "Database of the jobs of /run, sqlite:PATH or postgresql://…; empty = as 'db' says, else runs.db in the service's state directory. Gateways on one database answer for "
	    "each other's jobs. ?sync=full behind the path makes an accepted job survive a power cut too."),
	OPT(C, DURATION, runs_keep, "1h", "How long the result of a job is kept after its end.", .min = 1000, .max = 366 * 86400000LL, .live = true),
	OPT(C, BYTES, runs_max, "1g", "Most that jobs and their results may hold on disk; the results that are oldest go first, and when none is left new jobs get 429.",
	    .min = 1 << 20, .max = INT64_C(1) << 50, .live = true),
	OPT(C, INT, budget_answer_tokens, "4096", "The longest answer, in tokens, to a request that is under a budget and says no max_tokens: so much is reserved for it, and it is "
	    "told to the backend.", .min = 1, .max = 100000000, .live = true),
	OPT(C, BOOL, budget_shrink, "no", "When a budget has less left than a request may need, bound its answer to what is left instead of refusing it; a client says so itself "
	    "with X-Corral-Budget: shrink (or refuse).", .live = true),
	OPT(C, INT, runs_parallel, "16", "Jobs that this gateway has under way at a time; each waits for a slot like any other request.", .min = 1, .max = 10000, .live = true),
	OPT(C, INT, runs_queue_max, "10000", "Jobs of one tenant that may wait to begin; further ones get 429.", .min = 1, .max = 10000000, .live = true),
	BUS_OPTIONS(C, bus),
	OPT_END
};
#undef C

static const double cache_seconds[] = { 0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03, 0.1, 1, 0 };

const struct metric_def gateway_metrics[M_COUNT] = {
	[M_REQUESTS] = { METRIC_COUNTER, "requests_total", "Requests by dialect and HTTP status; 499 = the client left.", "dialect,status" },
	[M_REQUEST_SECONDS] = { METRIC_HISTOGRAM, "request_seconds", "Time from request to last byte, by dialect.", "dialect" },
	[M_ATTEMPTS] = { METRIC_COUNTER, "attempts_total", "Attempts on backends by outcome.", "model,backend,outcome" },
	[M_FIRST_TOKEN_SECONDS] = { METRIC_HISTOGRAM, "first_token_seconds", "Time from sending to the first token.", "model,backend" },
	[M_ENERGY] = { METRIC_COUNTER, "energy_joules_total", "Energy that attempts are reckoned to have used, where a hardware-probe tells what the machine draws.", "model,backend" },
	[M_COST] = { METRIC_COUNTER, "cost_microusd_total", "What attempts have cost in micro-dollars, by the prices that are known here.", "model,backend" },
	[M_TOKENS] = { METRIC_COUNTER, "tokens_total", "Tokens by direction, as reported or counted.", "model,backend,type" },
	[M_QUEUE_SECONDS] = { METRIC_HISTOGRAM, "queue_seconds", "Time spent waiting for a slot.", "" },
	[M_QUEUED] = { METRIC_GAUGE, "queued_requests", "Requests waiting for a slot.", "model" },
	[M_QUEUE_PASSED] = { METRIC_COUNTER, "queue_passed_total", "Requests that named no model and went on to another, because the queue of this one had no place.", "model" },
	[M_CUT] = { METRIC_COUNTER, "prompts_cut_total", "Answers whose backend read so much less than was sent that it must have cut the prompt.", "model,backend" },
	[M_REFUSED] = { METRIC_COUNTER, "refused_total", "Inference requests that reached no backend, by error code.", "reason" },
	[M_SLOTS] = { METRIC_GAUGE, "slots", "Slots that this gateway may use at present.", "model,backend" },
	[M_IN_USE] = { METRIC_GAUGE, "slots_in_use", "Slots taken.", "model,backend" },
	[M_BREAKER] = { METRIC_GAUGE, "breaker_state", "0 closed, 1 open, 2 half-open.", "model,backend" },
	[M_BREAKER_OPENED] = { METRIC_COUNTER, "breaker_opened_total", "Times a breaker opened.", "model,backend" },
	[M_SPOOL_BYTES] = { METRIC_GAUGE, "spool_bytes", "Usage events on disk that are not released yet.", "worker" },
	[M_SPOOL_ERRORS] = { METRIC_GAUGE, "spool_sync_errors", "Failed syncs of the spool since the start.", "worker" },
	[M_SNAPSHOT_VERSION] = { METRIC_GAUGE, "snapshot_version", "Version of the snapshot in force.", "name" },
	[M_CONNECTIONS] = { METRIC_GAUGE, "connections", "Open client connections.", "worker" },
	[M_AUTH_REFUSED] = { METRIC_COUNTER, "auth_refused_total", "Requests turned away for their key, or for having none.", "reason" },
	[M_KEYS] = { METRIC_GAUGE, "keys", "API keys that are known.", "" },
	[M_KEYS_AGE] = { METRIC_GAUGE, "keys_age_seconds", "Since the access service was last heard; -1 = not since the start. The last keys stay in force.", "" },
	[M_CLIENT_GONE] = { METRIC_COUNTER, "client_gone_total", "Clients that left before their answer was complete.", "" },
	[M_AUDIT_LOST] = { METRIC_COUNTER, "audit_lost_total", "Audit entries that are not in the log: no room in the spool (full), too many refusals in a minute (flood).", "reason" },
	[M_LIMITED] = { METRIC_COUNTER, "limited_total", "Requests refused for a limit, by what was limited (requests, tokens, concurrency) and whose it was (key, tenant).", "limit,of" },
	[M_LIMIT_WAITS] = { METRIC_COUNTER, "limit_waits_total", "Requests that waited until this gateway had more of a limit that several gateways share.", "" },
	[M_LIMIT_GATEWAYS] = { METRIC_GAUGE, "limit_gateways", "Gateways that share the limits, as the access service said last.", "" },
	[M_REMOTE_DECISIONS] = { METRIC_COUNTER, "remote_decisions_total", "Decisions that the selector made, under decide=remote.", "" },
	[M_LOCAL_DECISIONS] = { METRIC_COUNTER, "remote_decision_fallbacks_total", "Decisions made here under decide=remote, by what was wrong: away, late, other_snapshot, refused.", "reason" },
	[M_TLS_ENDS] = { METRIC_GAUGE, "public_tls_certificate_ends_timestamp_seconds", "When the certificate of public_tls_listen ends, in seconds since 1970; 0 = no TLS.", "" },
	[M_BUDGETS] = { METRIC_GAUGE, "budgets", "Budgets that this gateway knows of.", "" },
	[M_PRICES] = { METRIC_GAUGE, "prices", "Prices that this gateway knows of, with their history.", "" },
	[M_BUDGET_REFUSED] = { METRIC_COUNTER, "budget_refused_total", "Requests refused for a budget, by what it limits and why: spent, held (by others, or by requests under way), "
			       "away (the usage-tracker is, and more would have to be lent), no_cap (a provider in the cloud without a budget), no_price (of a model there, under a "
			       "limit of money).", "of,reason" },
	[M_BUDGET_SHADOW] = { METRIC_COUNTER, "budget_shadow_refused_total", "Requests that a budget in mode shadow would have refused.", "of" },
	[M_BUDGET_WAITS] = { METRIC_COUNTER, "budget_waits_total", "Requests that waited until more of a budget was lent to this gateway.", "" },
	[M_BUDGET_SHRUNK] = { METRIC_COUNTER, "budget_shrunk_total", "Requests whose answer was bounded to what a budget had left.", "of" },
	[M_SHADOWS] = { METRIC_COUNTER, "shadow_requests_total", "Shadow runs of experiments, by what became of them: ok, error, made_way (to a client's request, or to the end of the "
			"gateway), no_slot (none was free), not_loaded, no_model, no_room (too many at once), over (their experiment ended).", "result" },
	[M_RUNS] = { METRIC_COUNTER, "runs_total", "Jobs of /run that ended, by state.", "state" },
	[M_RUNS_HELD] = { METRIC_GAUGE, "runs", "Jobs of /run that are kept: waiting, running, ended.", "state" },
	[M_RUNS_BYTES] = { METRIC_GAUGE, "runs_bytes", "What jobs and their results hold on disk.", "" },
	[M_CACHE_HITS] = { METRIC_COUNTER, "cache_hits_total", "Answers given again: kept from before, or shared by requests that asked at once.", "from" },
	[M_CACHE_MISSES] = { METRIC_COUNTER, "cache_misses_total", "Requests whose answer might have been kept and was not.", "" },
	[M_CACHE_BYPASSED] = { METRIC_COUNTER, "cache_bypassed_total", "Requests that were not looked up: asked (by the client), sampling (neither temperature 0 nor a seed), tools, digest (the model has none), "
							       "nothing_asked, not_sent.", "reason" },
	[M_CACHE_STORED] = { METRIC_COUNTER, "cache_stored_total", "Answers that were kept.", "" },
	[M_CACHE_SECONDS] = { METRIC_HISTOGRAM, "cache_lookup_seconds", "Time until the file or the Redis behind the memory had answered, or was not waited for any more.", "", cache_seconds },
	[M_CACHE_BYTES] = { METRIC_GAUGE, "cache_bytes", "Memory of kept answers.", "" },
	[M_CACHE_ENTRIES] = { METRIC_GAUGE, "cache_entries", "Answers kept in memory.", "" },
	[M_CACHE_EVICTIONS] = { METRIC_COUNTER, "cache_evictions_total", "Answers that left memory to make room.", "" },
	[M_CACHE_TROUBLE] = { METRIC_COUNTER, "cache_trouble_total", "Of the file or the Redis behind the memory: late (not in time), broken (connection, error), resting (not asked for being late or away), "
							     "dropped (not stored), foreign (bytes that are no answer to this question).", "kind" },
	[M_CACHE_READY] = { METRIC_GAUGE, "cache_ready_workers", "Workers that ask the Redis behind the memory at present; all of them where there is none.", "" },
	[M_CONTEXT_SAVED] = { METRIC_COUNTER, "context_tokens_saved_total", "Tokens, by estimate, that contexts became shorter by (optimize_context).", "" },
	[M_BUS_PRODUCED] = { METRIC_COUNTER, "bus_produced_total", "Facts that Kafka says it has.", "topic" },
	[M_BUS_AGAIN] = { METRIC_COUNTER, "bus_sent_again_total", "Facts given to Kafka that may have been given before: after a restart, or a report that did not say persisted.", "topic" },
	[M_BUS_QUEUE] = { METRIC_GAUGE, "bus_queue_records", "Facts given to Kafka's producer of which nothing is known yet.", "" },
	[M_BUS_REFUSED] = { METRIC_COUNTER, "bus_too_large_total", "Facts too large for Kafka, passed over and named in the log.", "topic" },
	[M_HELD] = { METRIC_GAUGE, "held_bytes", "Memory held by bodies and answers of 64 KiB and more, see hold_max.", "" },
};

struct breaker_opts gateway_breaker_opts(const struct gateway_config *c)
{
	return (struct breaker_opts){ .failures = (uint32_t)c->breaker_failures, .open_us = c->breaker_open * 1000,
		.max_open_us = 300 * (int64_t)1000000, .refused_open_us = c->breaker_open < 1000 ? c->breaker_open * 1000 : 1000000 };
}

static enum err check(const void *config, struct why *why)
{
	const struct gateway_config *c = config;

	if (!strchr(c->listen, ':') && strcmp(c->listen, "none") != 0)
		return err_field(why, ERR_INVALID, "listen", "'%s' is not an address to listen on; write host:port, [v6]:port, :port or unix:/path", c->listen);
	if (certificate_check(c, why) || tls_trust_check(c->backend_ca, "backend_ca", why))
		return why->code;
	if (!recall_url_check(c->cache, why)) {
		(void)str_copy(why->field, sizeof(why->field), STR("cache"));
		return why->code;
	}
	if (bus_check(&c->bus, why))
		return why->code;
	return door_check(c, why);
}

/* --- snapshots --- */

static void runs_may_go(struct gateway *g)
{
	if (!g->waits)
		runs_go(g->runs);
}

static void rebuild(struct gateway *g)
{
	struct why why = { 0 };
	struct world *w;

	if (!g->models_id.version)
		return;
	w = world_new(g, &why);
	if (!w) {
		LOG_ERROR("a snapshot was not applied; the last good one stays", LOG_S("error", why.text));
		return;
	}
	for (unsigned i = 0; i < g->n_workers; i++)
		worker_set_world(g->workers[i], world_ref(w));
	series_set(metrics_series(g->metrics, M_SNAPSHOT_VERSION, "models"), (double)g->models_id.version);
	series_set(metrics_series(g->metrics, M_SNAPSHOT_VERSION, "policy"), (double)g->policy_id.version);
	series_set(metrics_series(g->metrics, M_SNAPSHOT_VERSION, "experiments"), (double)g->experiments_id.version);
	if (g->runs)
		runs_may_go(g);
	lease_renew(g->lease);            /* there may be replicas that nothing is lent of yet */
	svc_need(g->svc, "model snapshot", true, w->cat.n_models ? "" : "no backend has a model yet");
	world_unref(w);
	ask_models_came(g);
}

static void keep(struct buf *b, struct str bytes)
{
	buf_clear(b);
	buf_str(b, bytes);
}

static void on_models(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct gateway *g = arg;

	keep(&g->models_bytes, bytes);
	g->models_id = id;
	LOG_DEBUG("model snapshot", LOG_I("version", id.version), LOG_B("stale", stale));
	rebuild(g);
}

static void on_policy(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct gateway *g = arg;

	keep(&g->policy_bytes, bytes);
	g->policy_id = id;
	LOG_DEBUG("policy snapshot", LOG_I("version", id.version), LOG_B("stale", stale));
	rebuild(g);
}

static void on_experiments(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct gateway *g = arg;

	keep(&g->experiments_bytes, bytes);
	g->experiments_id = id;
	LOG_DEBUG("snapshot of experiments", LOG_I("version", id.version), LOG_B("stale", stale));
	rebuild(g);
}

static void subscribe(struct gateway *g)
{
	char path[1024];

	snprintf(path, sizeof(path), "%s/models.snapshot", svc_state_dir(g->svc));
	g->models_sub = snapshot_sub_new(g->loop, g->registry, svc_pub_url(g->svc, "model-registry"), "models", path, on_models, g);
	snprintf(path, sizeof(path), "%s/policy.snapshot", svc_state_dir(g->svc));
	g->policy_sub = snapshot_sub_new(g->loop, g->selector, svc_pub_url(g->svc, "selector"), "policy", path, on_policy, g);
	providers_open(g, &g->providers, rebuild);
	snprintf(path, sizeof(path), "%s/experiments.snapshot", svc_state_dir(g->svc));
	g->experiments_sub = snapshot_sub_new(g->loop, g->experiments, svc_pub_url(g->svc, "ab-testing"), "experiments", path, on_experiments, g);
}

/* In force before the first client is let in, and the keys before the jobs that a list of models sets going. */
static void load_what_was_heard(struct gateway *g)
{
	door_load(g->door);
	snapshot_sub_load(g->policy_sub);
	snapshot_sub_load(g->experiments_sub);
	snapshot_sub_load(g->models_sub);
}

/* --- once a second --- */

static void sweep(struct loop_timer *t)
{
	struct gateway *g = (struct gateway *)(void *)((char *)t - offsetof(struct gateway, sweep));
	char index[16];

	loop_timer_set(g->loop, t, 1000000, sweep);
	replica_table_sweep(g->replicas, mono_us());
	if (g->bank)
		(void)slot_bank_alone(g->bank);           /* a successor that failed may have left some */
	door_sweep(g->door, mono_us());
	ask_models_came(g);               /* for those that have waited too long */
	certificate_sweep(g->certificate);
	outbox_sweep(g->outbox);
	feedback_box_sweep(g->feedback);
	recall_sweep(g);
	series_set(metrics_series(g->metrics, M_HELD), (double)budget_used(&g->held));
	for (unsigned i = 0; i < g->n_workers; i++) {
		snprintf(index, sizeof(index), "%u", i);
		series_set(metrics_series(g->metrics, M_SPOOL_BYTES, index), (double)spool_bytes(g->workers[i]->usage));
		series_set(metrics_series(g->metrics, M_SPOOL_ERRORS, index), (double)spool_sync_errors(g->workers[i]->usage));
		series_set(metrics_series(g->metrics, M_CONNECTIONS, index), (double)http_server_conns(g->workers[i]->server));
	}
}

/* --- life --- */

static unsigned worker_count(const struct gateway_config *c)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (str_starts(str_of(c->listen), STR("unix:")))
		return 1;                 /* a socket file has one listener */
	return c->workers ? (unsigned)c->workers : cores < 1 ? 1 : cores > 8 ? 8 : (unsigned)cores;
}

/* A predecessor with more workers had more descriptors; clients wait at each. All of them are for our successor too. */
static void share_doors(struct gateway *g)
{
	for (unsigned d = 0, k = 0; d < DOORS; d++)
		for (int fd; g->addresses[d][0] && (fd = svc_inherit(g->svc, door_names[d])) >= 0; k++)
			(void)worker_add_door(g->workers[k % g->n_workers], d, fd);
	for (unsigned i = 0; i < g->n_workers; i++)
		worker_offer_doors(g->workers[i]);
}

static bool make_workers(struct gateway *g, struct why *why)
{
	if (strcmp(g->cfg->listen, "none") != 0)
		snprintf(g->addresses[DOOR_PLAIN], sizeof(g->addresses[0]), "%s", g->cfg->listen);
	snprintf(g->addresses[DOOR_TLS], sizeof(g->addresses[0]), "%s", g->cfg->public_tls_listen);
	for (unsigned i = 0; i < g->n_workers; i++) {
		g->workers[i] = worker_new(g, i, why);
		if (!g->workers[i])
			return false;
	}
	share_doors(g);
	LOG_INFO("listening", LOG_S("address", g->addresses[DOOR_PLAIN]), LOG_S("tls_address", g->addresses[DOOR_TLS]), LOG_I("workers", g->n_workers));
	return true;
}

static void stop(struct svc *s)
{
	struct gateway *g = svc_state(s);

	if (!g)
		return;
	loop_timer_del(&g->sweep);
	loop_timer_del(&g->hurry);
	snapshot_sub_free(g->models_sub);
	snapshot_sub_free(g->policy_sub);
	providers_close(&g->providers);
	snapshot_sub_free(g->experiments_sub);
	if (g->door)
		door_close(g->door);
	for (unsigned i = 0; i < g->n_workers; i++)       /* the last FINALs are written here … */
		if (g->workers[i])
			worker_stop(g->workers[i]);
	lease_free(g->lease);                             /* a worker's requests tell these two of slots and limits until it has stopped */
	limit_share_free(g->limit_share);
	runs_close(g->runs);
	feedback_box_free(g->feedback);
	ask_forget_all(g);
	pthread_mutex_destroy(&g->asks_lock);
	outbox_free(g->outbox);                           /* … and ship at the next start, if not now */
	for (unsigned i = 0; i < g->n_workers; i++)
		worker_free(g->workers[i]);
	recall_close(g);
	budget_share_free(g->budget_share);
	trail_free(g->trail);
	door_free(g->door);
	certificate_free(g->certificate);
	tls_trust_free(g->backend_trust);
	loop_timer_del(&g->look);
	replica_table_free(g->replicas);
	slot_bank_free(g->bank);
	sticky_free(g->sticky);
	buf_free(&g->models_bytes);
	buf_free(&g->policy_bytes);
	buf_free(&g->experiments_bytes);
	free(g->workers);
	free(g);
	svc_set_state(s, NULL);
}

enum { SLOT_LOOK_US = 25 * 1000 };

static void look(struct loop_timer *t)
{
	struct gateway *g = (struct gateway *)(void *)((char *)t - offsetof(struct gateway, look));

	replica_table_look(g->replicas);
	if (!slot_bank_alone(g->bank))
		loop_timer_set(g->loop, t, SLOT_LOOK_US, look);
}

/* In one process nobody lends slots between a program and its successor: they count them together. */
static void count_together(struct gateway *g)
{
	if (!str_starts(str_of(svc_pub_url(g->svc, "model-registry")), STR("inproc:")))
		return;
	g->bank = slot_bank_new(svc_inherit(g->svc, "slots"));
	if (!g->bank) {
		LOG_WARN("slots in use cannot be counted together with a successor: during an upgrade in place backends may get more than they have");
		return;
	}
	replica_table_bank(g->replicas, g->bank);
	svc_offer(g->svc, "slots", slot_bank_fd(g->bank));
	look(&g->look);
}

static bool start(struct svc *s, struct why *why)
{
	struct gateway *g = x_calloc(1, sizeof(*g));
	bool ok;

	svc_set_state(s, g);
	g->svc = s;
	g->loop = svc_loop(s);
	g->cfg = svc_config(s);
	g->metrics = svc_metrics(s);
	g->held.max = g->cfg->hold_max;
	pthread_mutex_init(&g->asks_lock, NULL);
	list_init(&g->asks);
	g->replicas = replica_table_new(g->metrics);
	count_together(g);
	g->sticky = sticky_new();
	g->registry = svc_peer(s, "model-registry");
	g->selector = svc_peer(s, "selector");
	g->ledger = svc_peer(s, "usage-tracker");
	g->hardware = svc_peer(s, "hardware-probe");
	g->cloud = svc_peer(s, "cloud-fallback");
	g->providers.peer = g->cloud;
	g->experiments = svc_peer(s, "ab-testing");
	g->n_workers = worker_count(g->cfg);
	g->workers = x_calloc(g->n_workers, sizeof(*g->workers));
	svc_need(s, "model snapshot", false, "not heard from the model-registry yet");
	g->door = door_new(g);
	g->budget_share = budget_share_new(g);
	g->spool_base = outbox_free_base(g);
	g->waits = svc_is_heir(s);
	ok = certificate_new(g, why) && recall_open(g, why) && make_workers(g, why) && (g->trail = trail_new(g, why)) != NULL &&
	     (g->runs = runs_open(g, why)) != NULL;
	if (ok) {
		door_open(g->door);
		g->limit_share = limit_share_new(g->door);
		ok = (g->outbox = outbox_new(g, why)) != NULL;
		g->feedback = ok ? feedback_box_new(g, outbox_producer(g->outbox)) : NULL;
		budget_share_open(g->budget_share);
		g->lease = lease_new(g);
		subscribe(g);
		load_what_was_heard(g);
		loop_timer_set(g->loop, &g->sweep, 1000000, sweep);
	}
	for (unsigned i = 0; ok && i < g->n_workers; i++)
		ok = worker_run(g->workers[i], why);
	if (!ok)
		stop(s);
	return ok;
}

/* --- the configuration was read again --- */

/* A worker reads the configuration through struct gateway, within one turn of its loop: when each has turned, nobody has the old one. */
static void settled(void *arg)
{
	struct gateway *g = arg;

	if (--g->settling == 0)
		svc_reloaded(g->svc);
}

void gateway_worker_settled(struct gateway *g) { loop_post(g->loop, settled, g); }

static bool reload(struct svc *s, struct why *why)
{
	struct gateway *g = svc_state(s);

	if (!certificate_reload(g->certificate, svc_config(s), why))
		return false;
	g->cfg = svc_config(s);
	g->settling = g->n_workers;
	for (unsigned i = 0; i < g->n_workers; i++)
		worker_settle(g->workers[i]);
	return true;
}

static void open_for_clients(struct svc *s)
{
	struct gateway *g = svc_state(s);

	g->waits = false;
	if (g->models_id.version)
		runs_may_go(g);
	for (unsigned i = 0; i < g->n_workers; i++)
		worker_open(g->workers[i]);
}

enum { LAST_MS = 1500 };

/* --- drain: listeners close, requests end, facts ship --- */

static void ship_rest(struct loop_timer *t)
{
	struct gateway *g = (struct gateway *)(void *)((char *)t - offsetof(struct gateway, sweep));

	outbox_kick(g->outbox);
	feedback_box_kick(g->feedback);
	if ((outbox_empty(g->outbox) && feedback_box_empty(g->feedback) && budget_share_left(g->budget_share)) || --g->drain_ticks <= 0)
		svc_drained(g->svc);
	else
		loop_timer_set(g->loop, t, 20000, ship_rest);
}

static void worker_idle(void *arg)
{
	struct gateway *g = arg;

	if (--g->draining == 0) {
		g->drain_ticks = 100;     /* 2 s; what is left ships at the next start */
		ship_rest(&g->sweep);
	}
}

void gateway_worker_idle(struct gateway *g) { loop_post(g->loop, worker_idle, g); }

/* Ends what is left while there is time for its errors, its FINALs and their shipping. A second signal makes the time shorter. */
static void watch_drain(struct loop_timer *t)
{
	struct gateway *g = (struct gateway *)(void *)((char *)t - offsetof(struct gateway, hurry));

	if (svc_drain_ms(g->svc) <= LAST_MS)
		for (unsigned i = 0; i < g->n_workers; i++)
			worker_hurry(g->workers[i]);
	loop_timer_set(g->loop, t, 100000, watch_drain);
}

static void drain(struct svc *s)
{
	struct gateway *g = svc_state(s);

	g->draining = g->n_workers;
	if (g->bank && svc_handed_over(s))
		look(&g->look);
	runs_drain(g->runs);
	lease_leave(g->lease);
	limit_share_leave(g->limit_share);
	budget_share_leave(g->budget_share);
	for (unsigned i = 0; i < g->n_workers; i++)
		worker_drain(g->workers[i]);
	watch_drain(&g->hurry);
}

const struct svc_def gateway_service = {
	.name = "gateway",
	.summary = "The HTTP front door: OpenAI, Ollama and native clients in; decides, queues, streams and accounts.",
	.options = options,
	.databases = (const struct svc_db[]){ { "runs_db", "runs.db", run_migrations }, { 0 } },
	.config_size = sizeof(struct gateway_config),
	.metrics = gateway_metrics,
	.n_metrics = M_COUNT,
	.routes = gateway_route_docs,
	.public_port = 8100,
	.admin_port = 8110,
	.check = check,
	.start = start,
	.reload = reload,
	.open = open_for_clients,
	.drain = drain,
	.stop = stop,
};
