/* req.h - one request on its way through the gateway: its state, in the order in which it comes to be.
 *
 * Everything it owns is in its arena or released by req_end(), which runs once on every way out. One worker thread has it. */
#ifndef CORRAL_GATEWAY_REQ_H
#define CORRAL_GATEWAY_REQ_H
#include "common/base/id.h"
#include "common/llm/exchange.h"
#include "common/policy/features.h"
#include "services/gateway/gateway.h"
#include "services/gateway/keyring.h"
#include "services/gateway/purse.h"
#include "services/gateway/replicas.h"
#include "services/gateway/world.h"

struct admission;
struct recollection;
struct run_exec;
struct shadow;

/* What a stage answers: go on; wait (the stage will call req_resume); the answer was sent; it failed (req_fail was called); try another
 * replica (the driver goes back to the stage named 'again' in the route). */
enum step { STEP_NEXT, STEP_WAIT, STEP_DONE, STEP_FAIL, STEP_AGAIN };

struct stage {
	const char *name;
	enum step (*enter)(struct req *);
};

struct route {
	const char *method;           /* "GET" serves HEAD as well */
	const char *path;             /* "/v1/models/" with a trailing slash: the rest is the parameter */
	const char *action;           /* what authorisation will check */
	const char *summary;
	enum llm_dialect dialect;     /* of errors, and of the body for inference */
	enum llm_op op;
	const struct stage *const *stages;
};

/* One try on one backend. */
struct attempt {
	uint32_t number;              /* from 1; 0 = none yet */
	uint16_t replica;
	struct replica_state *slot;   /* held; NULL = given back */
	uint32_t probe;               /* the breaker's ticket; 0 = not a probe */
	struct http_call *call;       /* NULL = not under way */
	struct loop_deferred over;    /* its answer has come to its end: what follows from that waits for the end of the turn */
	struct llm_plan plan;
	struct llm_relay *relay;
	int64_t start_us, first_us;   /* loop clock; first token */
	int64_t checkpoint_us;
	uint64_t bytes;               /* read from the backend's body */
	uint64_t held_bytes;          /* of them: held and counted */
	int64_t start_position;       /* of the BEGUN record; -1 = not written */
	int64_t start_wall_us;
	int64_t priced_us;            /* loop clock: its cost was told, and its GPU time ended; 0 = not yet */
	int64_t met_uj, priced_uj;    /* the slot's meter at its start, and when its GPU time ended */
	bool announced;               /* the ledger knows of it */
	struct list open;             /* in the worker's list of open attempts, oldest first */
	bool sent;
	bool kept_broke;              /* the backend ended a connection that was kept, without a byte of an answer */
	bool asked;                   /* slot_asked() was called, slot_answered() was not */
	bool ended;                   /* the protocol's own end was relayed; what the framing still does changes nothing */
	bool upstream_error;          /* head said 4xx or 5xx */
	bool unspent;                 /* cloud-fallback says that no provider will charge for it */
	int upstream_status;
	int64_t retry_after_us;
};

struct req {
	struct arena *mem;
	struct worker *worker;
	struct http_xchg *x;          /* NULL: the client is gone */
	const struct route *route;
	const struct stage *const *at;
	struct loop_deferred begin;   /* it walks at the end of the turn, with the others that came in it */
	struct str param;             /* rest of the path */
	struct uuid id;
	char id_text[37];
	uint8_t trace[24];            /* W3C trace context: the client's trace or a new one, 16 bytes; our span */
	struct str client_request_id; /* the client's own X-Request-Id, for the log */
	int64_t start_us, start_wall_us;
	int64_t deadline_us;
	struct list node;             /* the worker's list of requests under way */
	int64_t look_us;              /* before this time brings nothing; beside 'node', for it is all that is seen of most of them ten times a second */

	struct world *world;          /* set by the driver; one reference */
	struct llm_in in;             /* set by parse */
	bool parsed;
	struct keyring *ring;         /* set by the driver, as all of these; one reference, for 'who' points into it */
	struct subject who;
	struct str tenant, key_id;    /* who's: "default" and "" without a key */
	struct trail_note *trail;     /* for the audit log; NULL = it is no administration */
	struct limit_hold limits;     /* of the key and of the tenant; set by the stage 'limits' */
	struct list limit_node;       /* among the worker's that wait for a part of a limit */
	int64_t limit_until_us;       /* until when it waits; 0 = it does not */
	uint64_t spent_tokens;        /* of all attempts, as the ledger has them */
	int64_t cost_microusd;        /* of those that have ended, by the prices that are known here */
	struct purse_hold *budget;    /* of the budgets that cover it; set by the stage 'reserve', NULL = none does */
	struct str budget_stamp;      /* what its facts say of that */
	struct list budget_node;      /* among the worker's that wait for a budget */
	int64_t budget_until_us;      /* until when it waits; 0 = it does not */
	uint64_t budget_answers;      /* how many the usage-tracker had given when it began to */
	struct purse_amounts budget_need;     /* at most */
	uint64_t reserved_prompt, reserved_answer;    /* tokens, of the attempt; 0 = nothing is reserved */
	struct str limit_headers;     /* for the answer */
	char user_hash[17];           /* set by parse, as the next two */
	bool squeezed;                /* its context is to be optimised */
	uint32_t tokens_saved;        /* by that */
	uint64_t prompt_hash, prompt_sketch;  /* set by decide where it reads the text; see UsageEvent */
	struct llm_in *as_asked;      /* before an arm's parameters or prompt came to it; NULL = 'in' is as it was asked */
	const char *experiment, *arm, *unit;  /* that it is part of, from its first decision on; NULL = none */
	const Corral__ExperimentArm *shadow_arm;      /* that is to be asked the same, for the experiment alone (shadow.h); NULL = none, or done */
	struct shadow *shadow;        /* it is such a one, and no client's; NULL = it is a client's, or a job's */
	bool retries;                 /* the attempt that ends is followed by another */

	Corral__DecisionFeatures features;    /* set by decide */
	struct features extracted;
	int model;                    /* asked index; -1 auto */
	bool alias;
	bool active;                  /* auto, and somebody has said what that is */
	bool *tried;                  /* by replica; NULL until a retry */
	uint16_t *full;               /* models whose queues refused it, and that are passed by; 0 of them = none */
	uint16_t n_full;
	bool fresh_link;              /* a kept connection broke: only a new one is taken from now on */
	struct decision pick;         /* set by decide */
	const char *not_asked;        /* decide=remote: why the gateway decided itself; "" = it did not. NULL under decide=local */
	struct snapshot_id policy_id; /* that the decision was made under */
	struct snapshot_id experiments_id;    /* the same; version 0 = there were none */
	struct reach pick_reach;      /* the replicas that decide() looks at */
	struct load *pick_load;       /* theirs, as it saw it */
	char picked_reason[16];

	struct recollection *recall;  /* set by cache, see recall.h; NULL = the cache is off, or not asked yet */
	struct replica_state *slot;   /* set by queue, taken over by dispatch */
	uint32_t probe;               /* with it: the breaker's ticket */
	struct waiter *waiting;       /* set by queue while it waits */
	int64_t slot_charged_us;      /* slot time its tenant was charged with; 0 = nothing to settle */
	int64_t queue_since_us, queue_us, queue_deadline_us;
	struct attempt try;           /* set by dispatch; the current one */

	struct upload *upload;        /* a blob that came with it */
	struct str upload_bytes;      /* its bytes, when they are what their digest says */
	struct passage *passage;      /* an answer handed on, or a job told of (passage.h) */
	struct run_exec *run;         /* not a client's, but a job's; NULL = a client's */
	struct ask *ask;              /* a question to another service that is under way */
	struct http_fetch *fetch;     /* a question to a backend that is no attempt: it takes no slot and stands in no book */
	bool head_sent;               /* the client has a status */
	bool answer_begun;            /* and bytes of an answer: no other replica can be tried any more */
	int64_t alive_us;             /* when a waiting stream was last shown a sign of life */
	bool paused;
	bool orphan;                  /* the client left while the backend loads the model: let the load finish */
	struct str extra_headers;     /* for the answer */
	struct str cors;              /* more of them, see cors.h; "" = none */
	int status;                   /* told to the client; 499 when it left */
	int64_t retry_after_s;
	uint64_t sent_bytes;
	size_t held_bytes;            /* of the gateway's budget, for answers that are made whole */
	struct llm_usage used;        /* of the last attempt, for the log */
	bool ended;

	/* From here on nothing is zeroed as a whole when a request begins. */
	struct buf out;               /* bytes for the client on their way through the relay; its memory goes from request to request */
	struct why err;               /* set by req_fail */
	struct why unplanned;         /* why a backend could not be given the request; others are tried first */
};

/* Starts a request that the server handed over; or one whose head was refused before its body is read. */
void req_start(struct worker *, struct http_xchg *);
/* A job's: the exchange is no client's, who it is was found out before. */
void req_start_run(struct worker *, struct http_xchg *, const struct admission *, struct run_exec *, int64_t execution_us);
void req_resume(struct req *, enum step);
/* Notes why; the first failure counts. Returns STEP_FAIL. */
enum step req_fail(struct req *, enum err, const char *fmt, ...) __attribute__((cold, format(printf, 3, 4)));
enum step req_fail_why(struct req *, const struct why *) __attribute__((cold));
int req_error_status(const struct req *, enum err);        /* what the client is told: the backend's own 4xx where it refused */
/* Complete answers of simple stages. */
enum step req_reply(struct req *, int status, const char *content_type, struct str body);
enum step req_reply_json(struct req *, int status, const struct buf *body);
/* A stream that still waits: a comment now and then, so that no proxy between takes the silence for death. */
void req_heartbeat(struct req *, int64_t now_us);
/* The client left. */
void req_gone(struct http_xchg *, const char *why);
/* The header lines every answer carries. */
struct str req_headers(struct req *, const char *content_type);
/* What its errors are written in: the route's, or that of the path where there is no route. */
enum llm_dialect req_dialect(const struct req *);
int64_t req_now(const struct req *);
const char *req_trace_id(const struct req *, char out[33]);      /* in hex, terminated; gives back 'out' */
const char *req_model_name(const struct req *);       /* of the chosen replica; "" = none */
const char *req_backend_name(const struct req *);
#endif
