/* exchange.h - one inference request between a client's dialect and a backend's: read, plan, relay. Pure functions over memory.
 *
 *   llm_read()   client's body ──▶ struct llm_in: what policy needs to know, and the token tape
 *   llm_plan()   llm_in + chosen backend ──▶ path and body parts to send: passed through with edits spliced in, or converted
 *   llm_relay_*  backend's answer ──▶ client's bytes, watching usage, finish reason and the proper end
 *
 * Where dialects agree the client's bytes are never printed again; where they differ both sides meet in canon.h.
 * Every field of a request is carried, mapped, ignored by name (X-Corral-Ignored) or refused with a 400 that names it:
 * the table in fields.c says which, and docs/reference/fields.md is printed from it. */
#ifndef CORRAL_LLM_EXCHANGE_H
#define CORRAL_LLM_EXCHANGE_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "common/data/json.h"
#include "common/io/http1.h"
#include "common/policy/caps.h"     /* LLM_CAP_* */

enum llm_dialect { LLM_OPENAI, LLM_OLLAMA, LLM_NATIVE, LLM_ANTHROPIC };
enum llm_op {
	LLM_CHAT,                     /* /v1/chat/completions, /api/chat, /v1/messages, native */
	LLM_COMPLETE,                 /* /v1/completions, /api/generate */
	LLM_EMBED,                    /* /v1/embeddings, /api/embed */
	LLM_EMBED_OLD,                /* /api/embeddings: one text, no counts */
	LLM_COUNT                     /* /v1/messages/count_tokens: planned like the chat it counts, never relayed */
};
/* The last three are asked in OpenAI's chat form only (dialect LLM_OPENAI, op LLM_CHAT): llm_plan() refuses all else for them.
 * OpenAI itself, OpenRouter, Gemini's and RunPod's OpenAI-compatible paths and every imitation are LLM_BACKEND_OPENAI. */
enum llm_backend { LLM_BACKEND_LLAMACPP, LLM_BACKEND_OPENAI, LLM_BACKEND_OLLAMA, LLM_BACKEND_ANTHROPIC, LLM_BACKEND_GEMINI, LLM_BACKEND_RUNPOD, LLM_BACKENDS };

bool llm_embeds(enum llm_op);                           /* one of the two */
const char *llm_dialect_name(enum llm_dialect);         /* "openai" */

/* What a client asked, read once. Views point into the body; decoded copies live in the arena. */
struct llm_in {
	enum llm_dialect dialect;
	enum llm_op op;
	struct str body;
	struct json doc;
	struct str model;             /* decoded; "auto" when absent and the dialect allows that (native), else refused */
	uint32_t model_tok;           /* its token, 0 when absent */
	bool stream;
	bool sse;                     /* a stream is one of events: Anthropic always, native with Accept: text/event-stream; OpenAI streams always, unsaid */
	bool want_usage;              /* OpenAI: the client set stream_options.include_usage */
	uint32_t n_inputs;            /* embeddings asked for; 0 = no such request */
	uint32_t inputs_tokens_est;   /* of all inputs together, while prompt_tokens_est is that of the longest: a context holds one */
	bool load_only;               /* Ollama: no prompt, messages or input: load or unload the model */
	uint32_t needs;               /* LLM_CAP_* from content: images, tools, suffix */
	bool has_schema;              /* structured output asked */
	bool has_tools;
	uint32_t n_messages;
	uint64_t text_bytes;          /* of all text content, tools included */
	uint32_t prompt_tokens_est;   /* from text_bytes; an upper-leaning estimate, 4 per message added */
	int64_t max_tokens;           /* -1 = not given */
	uint32_t max_tokens_tok[2];   /* where it says so: its token, and that of another name for it; 0 = it does not */
	bool capped;                  /* max_tokens is ours (llm_cap_tokens), and the backend is told so */
	int64_t num_ctx;              /* Ollama options.num_ctx; 0 = not given */
	uint32_t system_tok, user_tok, context_tok;   /* tokens of text for llm_read_texts(); 0 = none */
	/* native hints, "" when absent (OpenAI and Ollama clients may send them as X-Corral-* headers) */
	struct str task_type, complexity, language, policy, user, session, conversation;
	bool local_only;
	struct str ignored;           /* "user, metadata": accepted and without effect; for X-Corral-Ignored */
};

/* 'accept' is the Accept header. ERR_MALFORMED, ERR_INVALID, ERR_UNSUPPORTED_FIELD with field and sentence. */
enum err llm_read(struct llm_in *, enum llm_dialect, enum llm_op, struct str body, struct str accept, struct arena *, struct why *);

/* Is it one of the words of 'policy'? For headers; llm_read() looks at the body's. */
enum err llm_policy_check(struct str policy, struct why *);

/* The answer may have so many tokens at most, whatever the request says: every plan from now on tells the backend. Not for embeddings. */
void llm_cap_tokens(struct llm_in *, int64_t most);

/* The text that features are made of, decoded. It may point into the body. Only some requests need it. */
struct llm_texts {
	struct str system;            /* first system text, capped to 4 KiB */
	struct str user;              /* last user text or prompt: first 4 KiB + last 4 KiB when longer */
	struct str context;           /* native 'context', same cap */
};
struct llm_texts llm_read_texts(const struct llm_in *, struct arena *);

/* Where it goes. */
struct llm_target {
	enum llm_backend kind;
	struct str remote_model;      /* the name that backend knows */
	struct str shown_model;       /* what it is called where an answer is written by us: our name for it, or the client's spelling of that */
	uint32_t context_length;      /* in force there; 0 = unknown */
	uint32_t caps;                /* LLM_CAP_* of the model; 0 = unknown */
	struct str request_id;        /* ours, 36 characters */
	int64_t created_us;           /* wall clock */
	bool rewrite;                 /* LLM_BACKEND_OPENAI asked for one answer: it is written anew, for it is not quite of that form (Gemini's
	                               * OpenAI-compatible path: calls without an index, and "stop" after them). Fields nobody here knows go */
	bool no_guess;                /* a stream of OpenAI's form tells no counts that the backend did not tell: who reads it counts itself, and knows that */
	uint32_t max_output_tokens;   /* most the model can answer; 0 = unknown */
	bool worker;                  /* LLM_BACKEND_OPENAI is a worker of RunPod's: 16 tokens at a temperature of 0.7 unless it is told otherwise */
	int64_t time_left_ms;         /* RunPod: how long the job may wait and run; 0 = as long as the platform lets it */
};

/* What a kind wants besides Content-Type: the header of its key, and what stands before the key in it; one header that never changes, or NULLs. */
struct llm_headers { const char *key_name, *key_prefix, *name, *value; };
const struct llm_headers *llm_backend_headers(enum llm_backend);

enum { LLM_PLAN_PARTS = 18 };
struct llm_plan {
	bool passthrough;
	/* "/v1/chat/completions", "/api/chat", … Anthropic: "/v1/messages"; Gemini: "/v1beta/models/NAME:generateContent", with its query;
	 * RunPod, below ".../v2/ENDPOINT": "/runsync", or "/run" for a stream. */
	const char *path;
	struct str parts[LLM_PLAN_PARTS];    /* concatenated they are the body; point into llm_in.body and the arena */
	unsigned n_parts;
	uint64_t length;
	struct str ignored;           /* llm_in.ignored and what this backend cannot use */
};
/* Refuses what the backend cannot do (ERR_UNSUPPORTED_FIELD names the field). May be called again for another target (retry). */
enum err llm_plan(struct llm_plan *, const struct llm_in *, const struct llm_target *, struct arena *, struct why *);

struct llm_usage {
	uint64_t prompt_tokens, completion_tokens, cached_tokens;        /* cached ones are among those of the prompt */
	uint64_t reasoning_tokens;    /* among those of the completion */
	bool reported;                /* false: completion_tokens = deltas counted, prompt_tokens = the estimate */
	int64_t total_ns, load_ns, prompt_ns, eval_ns;       /* Ollama's own; 0 = unknown */
};

enum llm_step {
	LLM_MORE,                     /* go on; *out may hold bytes for the client */
	LLM_DONE,                     /* the backend's proper end was seen (and written, in a stream) */
	LLM_FAILED                    /* *why: backend's error, or not its protocol */
};

/* A job of RunPod, as its last reply told. The relay is fed the bodies of the replies to /run, /runsync, /stream/ID or /status/ID one after
 * another, in any pieces: LLM_MORE after a whole body means that the job goes on, so ask again. llm_relay_head() is called for each reply. */
struct llm_job {
	char id[96];                  /* "" = not yet told */
	char state[24];               /* IN_QUEUE, IN_PROGRESS, COMPLETED, … "" = not yet told */
	bool final;                   /* nothing is to be cancelled any more */
	int64_t delay_ms, execution_ms;      /* in the queue and running, when it is told; else 0 */
	bool has_worker;              /* the reply names one */
};

/* One attempt's answer. In the request's arena; big buffers of its own are freed with it (arena_defer). */
struct llm_relay;

/* What a native answer or an Ollama-style final line shows besides the text. Filled by the gateway before the end. */
struct llm_extra {
	struct str backend, task_type, complexity, language, reason, alternatives_json /* array text */, experiment_json /* object text */;
	uint32_t context_size;
	double confidence;
	int64_t latency_us, ttft_us, cost_microusd;
	bool cached;                  /* given again */
	bool squeezed;                /* its context was optimised: so many tokens less */
	uint32_t tokens_saved;
};

struct llm_relay *llm_relay_new(struct arena *, const struct llm_in *, const struct llm_plan *, const struct llm_target *);
/* What the answer costs by its use, in micro-dollars; told where the use is told to a client that asked for it, and asked for there. Without it: as
 * llm_extra says. */
void llm_relay_price(struct llm_relay *, int64_t (*cost)(void *arg, const struct llm_usage *), void *arg);
/* The head of the backend's answer. A status of 400 and above makes the relay read the error body: then llm_relay_end() fails with a why that has the
 * backend's sentence and the code: ERR_BACKEND_REFUSED for 4xx (relay->refused_status keeps it), ERR_BACKEND_FAILED for 5xx, ERR_CONTEXT_TOO_LONG and
 * ERR_MODEL_NOT_FOUND where the backend's error says so, ERR_RATE_LIMITED for 429, ERR_UNAVAILABLE for 503. */
enum llm_step llm_relay_head(struct llm_relay *, const struct http_head *, struct why *);
/* Body bytes. In a stream, finished events are appended to *out as they become whole (an error as first event gives LLM_FAILED with nothing written).
 * Without streaming nothing is written before llm_relay_end(): the whole answer is held (at most 64 MiB), so that a broken one can be tried elsewhere. */
enum llm_step llm_relay_data(struct llm_relay *, struct str in, struct buf *out, struct why *);
/* Call llm_relay_end() after LLM_DONE too, at once: the last line of an Ollama-style or native stream needs 'extra' and is written there. */
/* The framing ended. LLM_DONE: *out has the rest (non-streamed: the whole body). LLM_FAILED: ended without the dialect's terminator, or an error body. */
enum llm_step llm_relay_end(struct llm_relay *, const struct llm_extra *, struct buf *out, struct why *);
/* A stream that had started breaks: the client dialect's error event; never a made-up end. */
void llm_relay_break(struct llm_relay *, const struct why *, struct buf *out);

/* What there was to know of a whole answer that went to its client byte for byte, so that the same bytes need not be read again. */
struct llm_known {
	enum llm_backend kind;
	enum llm_dialect dialect;
	enum llm_op op;
	struct llm_usage usage;
	char finish[32];
};
/* After LLM_DONE of llm_relay_end(). False: it was a stream, or was written anew. */
bool llm_relay_known(const struct llm_relay *, struct llm_known *ret);
/* In the place of head, data and end: the caller has those bytes, and gives them. False, nothing done: they would be written anew, or read otherwise. */
bool llm_relay_again(struct llm_relay *, const struct llm_known *);

const struct llm_usage *llm_relay_usage(const struct llm_relay *);
uint32_t llm_relay_deltas(const struct llm_relay *);    /* content, thinking or tool fragments so far: 0 = no token yet */
const char *llm_relay_finish(const struct llm_relay *); /* "stop", "length", "tool_calls"…; "" = not yet */
const char *llm_relay_content_type(const struct llm_relay *);   /* for the client */
int llm_relay_refused_status(const struct llm_relay *); /* backend's own 4xx, 0 = none; not 401, 403: the key it refused is ours */
struct str llm_relay_upstream_body(const struct llm_relay *);   /* an error body, or the error inside a 200 or a stream, as the backend wrote it; "" = none */
const struct llm_job *llm_relay_job(const struct llm_relay *);  /* NULL = the backend is not RunPod */

/* What a reply to /status/ID says of a job whose answer nobody wants any more. usage.reported: it says what was used, which only the output of a job
 * that is completed does. Of what is no reply about a job: all zero. */
struct llm_job_end { struct llm_job job; struct llm_usage usage; };
void llm_job_read_end(struct llm_job_end *, struct str body);

/* An error before anything was sent, in the client's dialect: complete body; returns its content type. */
const char *llm_error_body(enum llm_dialect, const struct why *, struct str request_id, int64_t wall_us, struct buf *out);
/* --dump=fields: the conversion table as Markdown. */
void llm_dump_fields(struct buf *);
#endif
