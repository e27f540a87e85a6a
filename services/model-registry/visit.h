/* visit.h - one visit to one backend: questions over HTTP, one after another, those about details a few at a time, ending good, loading or failed.
 *
 * A kind (kind_*.c) knows which questions its servers answer and what the answers mean; visit.c asks and keeps the time.
 * The owner is told once, on the loop, never before visit_start() returned. */
#ifndef REGISTRY_VISIT_H
#define REGISTRY_VISIT_H
#include "common/data/json.h"
#include "common/io/http_client.h"
#include "services/model-registry/found.h"

struct visit;

enum visit_task {
	VISIT_LIST,                   /* which models, with traits */
	VISIT_LOOK                    /* quick: is it there, what is in memory */
};

struct kind {
	const char *name;             /* "ollama" */
	void (*start)(struct visit *);
};

extern const struct kind kind_ollama, kind_llamacpp, kind_openai;
extern const struct kind kind_probe;      /* finds out which of them it is, then goes on as that one */
const struct kind *kind_find(struct str name);     /* of the three; NULL = no such kind */

enum visit_end {
	VISIT_GOOD,                   /* VISIT_LIST: 'found' is complete */
	VISIT_CHANGED,                /* VISIT_LOOK: the models differ from what is held, list them */
	VISIT_LOADING,                /* the server is there and will be ready */
	VISIT_FAILED
};

struct answer {
	int status;                   /* 0: none came */
	const char *error;            /* then: why */
	const struct json *json;      /* NULL when the body is not JSON */
	struct arena *mem;            /* of this answer only */
	size_t about;                 /* as visit_ask_beside() was told */
};

enum { VISIT_AT_ONCE = 8 };

/* A question under way. */
struct question {
	struct visit *visit;
	struct http_fetch *fetch;     /* NULL = free */
	size_t about;
	void (*then)(struct visit *, const struct answer *);
};

struct visit {
	struct http_pool *pool;
	const struct kind *kind;      /* kind_probe changes it */
	enum visit_task task;
	int64_t timeout_ms;           /* each question */
	struct listing *held;         /* what is known from before; a look updates its residency in place; may be NULL */
	struct listing *found;        /* a list fills it */
	size_t at;                    /* the kind's cursor */
	bool quiet;                   /* the kind's: stop asking for details */
	bool untold;                  /* the kind's: it did not say what is in memory */
	unsigned open;                /* the kind's: questions about details that are under way */
	struct question questions[VISIT_AT_ONCE];

	enum visit_end end;
	const char *reason;           /* failed: "unreachable", "status", "malformed"; a label */
	char text[200];               /* failed or loading: the sentence */
	void (*on_end)(struct visit *, void *arg);
	void *arg;
};

/* 'visit' has pool, kind, task, timeout_ms, held, on_end and arg set. */
void visit_start(struct visit *);
void visit_cancel(struct visit *);        /* no callback follows; frees what was found */

/* --- for kinds --- */
void visit_ask(struct visit *, const char *method, struct str path, struct str body, int64_t timeout_ms,
	       void (*then)(struct visit *, const struct answer *));
/* The same while others are under way, VISIT_AT_ONCE together at most; 'about' comes back with the answer. The visit ends when all have been
 * answered. */
void visit_ask_beside(struct visit *, size_t about, const char *method, struct str path, struct str body, int64_t timeout_ms,
		      void (*then)(struct visit *, const struct answer *));
/* True when there is a 200 with JSON; else the visit has ended as failed. */
bool visit_need(struct visit *, const struct answer *);
void visit_done(struct visit *, enum visit_end);
void visit_fail(struct visit *, const char *reason, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Readers that are content with anything: absent or of another type is "" or 0. Strings are copied into 'mem'. */
const char *read_str(const struct json *, uint32_t object, const char *key, struct arena *mem);
uint64_t read_u64(const struct json *, uint32_t object, const char *key);
uint32_t read_u32(const struct json *, uint32_t object, const char *key);
bool read_bool(const struct json *, uint32_t object, const char *key);
#endif
