/* relay.h - inside of one answer's relay. Private to common/llm: relay.c drives, watch.c looks, refusal.c explains, dialect_*.c write. */
#ifndef CORRAL_LLM_RELAY_H
#define CORRAL_LLM_RELAY_H
#include "common/llm/canon.h"
#include "common/llm/frame.h"
#include "common/llm/shape.h"

enum reply { REPLY_NONE, REPLY_STREAM, REPLY_WHOLE, REPLY_ERROR };
enum verdict { KEEP, DROP, END, FAIL };
enum { WHOLE_MAX = 64 * 1024 * 1024, ERROR_MAX = 64 * 1024, RELAY_CALLS = 64 };

struct llm_relay {
	const struct llm_in *in;
	const struct llm_target *target;
	struct arena *mem;
	struct arena *scratch;        /* of one event; made when first needed */
	bool pass;                    /* bytes go on as they came */
	bool from_ollama;             /* the backend's dialect */
	bool hide_usage;              /* we asked for the usage chunk, the client did not */
	enum reply reply;
	int status, refused_status;
	struct frames frames;         /* REPLY_STREAM */
	struct shape shape;
	struct buf body;              /* REPLY_WHOLE, REPLY_ERROR */
	struct llm_usage usage;
	uint32_t deltas;
	uint64_t text_bytes;          /* of the answer, for an estimate where nothing is counted */
	char finish[32];
	bool started;                 /* something was written */
	bool done, failed;
	struct why why;               /* when failed */
};

/* watch.c: one payload read. Updates usage, finish and deltas. FAIL fills r->why. */
enum verdict watch_payload(struct llm_relay *, struct str payload);
/* The same and leaves what it said in *c; valid until the next call. */
enum verdict watch_chunk(struct llm_relay *, struct str payload, struct chunk *c);
/* A whole, unstreamed answer. */
enum verdict watch_whole(struct llm_relay *, struct str body, struct chunk *c);

/* refusal.c: the code and sentence of a backend's error: 'error' is the body, or the JSON of an error member. */
enum err refusal(struct llm_relay *, int status, struct str error, struct why *);
#endif
