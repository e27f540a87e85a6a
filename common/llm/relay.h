/* relay.h - inside of one answer's relay. Private to common/llm: relay.c drives, watch.c looks, refusal.c explains, dialect_*.c write. */
#ifndef CORRAL_LLM_RELAY_H
#define CORRAL_LLM_RELAY_H
#include "common/llm/canon.h"
#include "common/llm/frame.h"
#include "common/llm/shape.h"

enum reply { REPLY_NONE, REPLY_STREAM, REPLY_WHOLE, REPLY_ERROR };
enum verdict { KEEP, DROP, END, FAIL };
enum { WHOLE_MAX = 64 * 1024 * 1024, ERROR_MAX = 64 * 1024, RELAY_CALLS = 64 };

/* How the answers of a protocol are read. */
struct reader {
	const char *name;             /* for sentences */
	const char *end;              /* what ends a stream */
	void (*read)(const struct json *, struct chunk *, struct llm_usage *, struct arena *);
	bool says_end;                /* by an event with chunk.end; else by [DONE] or the end of the body, after a finish reason */
	bool ends_with_body;          /* a stream has no last event */
	bool whole_calls;             /* a call comes in one piece */
};

/* What is known of a job of RunPod, see provider_runpod.c. */
struct runpod {
	struct llm_job job;
	struct frames events;         /* of outputs that are text of an event stream */
	bool is_events;
	uint32_t outputs;
	struct buf text;              /* inside of a JSON string, for a client that waits for the whole */
};

struct llm_relay {
	const struct llm_in *in;
	const struct llm_target *target;
	struct arena *mem;
	struct arena *scratch;        /* of one event; made when first needed; 'mem' for a whole answer */
	bool pass;                    /* bytes go on as they came */
	bool embeds;                  /* vectors, see embed.c */
	bool from_ollama;
	const struct reader *reader;  /* of the backend's dialect */
	struct runpod *runpod;        /* NULL = another kind */
	bool hide_usage;              /* we asked for the usage chunk, the client did not */
	bool started;                 /* something was written */
	bool done, failed;
	enum reply reply;
	int status, refused_status;
	struct frames frames;         /* REPLY_STREAM */
	struct shape shape;
	uint32_t deltas;
	uint64_t text_bytes;          /* of the answer, for an estimate where nothing is counted */
	struct llm_usage usage;
	int64_t (*cost)(void *, const struct llm_usage *);   /* NULL: nobody says */
	void *cost_arg;
	const char *usage_ends;       /* of the event in hand: where its usage closes, when what it cost is to be told there; NULL = not this one */
	struct buf body;              /* REPLY_WHOLE, REPLY_ERROR; of RunPod the whole answer */
	struct str error;             /* JSON: the error inside a 200 or a stream */
	char finish[32];
	bool called;                  /* a tool was called */
	/* Where dialects differ: */
	const struct writer *writer;
	struct str head;              /* what every event to the client begins with */
	bool role_sent;
	uint32_t calls_sent;
	uint8_t block;                /* Anthropic: what kind is open */
	uint32_t n_blocks;
	struct str stop_string;       /* JSON string: the stop sequence that was met */
	bool scattered;               /* pieces of a call came after its block was closed */
	struct pending *pending;      /* tool calls whose pieces are still coming */
	uint32_t n_pending;
	bool too_many_calls;          /* more than RELAY_CALLS */
	uint64_t text_chars;          /* sent so far, for the offsets of /v1/completions */
	bool shape_is_thinking;       /* the text of a matched shape is thinking */
	bool one_object;              /* a stream that the backend answered with one object, as Ollama does when it only loads */
	bool finished;                /* the client's last line is written */
	struct why why;               /* when failed */
};

/* A tool call put together from its pieces. */
struct pending {
	uint32_t index;
	struct str id, name;          /* JSON strings */
	struct buf arguments;         /* the inside of a JSON string, or an object */
	bool is_object;
	bool begun;               /* Anthropic: its block is open or closed, its pieces go on as they come */
};

/* Writes answers of another dialect for the client. One per dialect of clients. */
struct writer {
	/* A piece of a stream; writes nothing when there is nothing in it. */
	void (*piece)(struct llm_relay *, const struct chunk *, struct buf *out);
	/* The end of a stream; 'extra' is NULL when it is written as soon as the backend ends. False: r->why. */
	bool (*finish)(struct llm_relay *, const struct llm_extra *, struct buf *out);
	/* A whole answer. False: r->why. */
	bool (*whole)(struct llm_relay *, const struct chunk *, const struct llm_extra *, struct buf *out);
	bool needs_extra;             /* finish() waits for llm_relay_end() */
};
extern const struct writer openai_writer, ollama_writer, native_writer, anthropic_writer;

/* convert.c: the way of converted answers. */
enum verdict convert_payload(struct llm_relay *, struct str payload, struct buf *out);
enum verdict convert_whole(struct llm_relay *, struct str body, const struct llm_extra *, struct buf *out);
/* For the writers. */
/* The call this piece belongs to, with the piece in it; NULL = one too many, see too_many_calls. */
struct pending *pending_add(struct llm_relay *, const struct call *);
/* Writes the arguments of a call as an object; false with r->why when they are none. */
bool pending_arguments(struct llm_relay *, const struct pending *, struct json_out *);
struct durations { int64_t total_ns, load_ns, prompt_ns, eval_ns; };
struct durations durations_of(const struct llm_relay *, const struct llm_extra *);

/* Where the backend counts nothing: pieces of a stream are about tokens; of a whole answer four bytes are about one. */
void relay_count(struct llm_relay *);
/* The end of a converted stream, with the counts as they stand then. */
bool relay_finish(struct llm_relay *, const struct llm_extra *, struct buf *out);

/* provider_runpod.c: one reply about the job; END = the answer is complete. Then runpod_whole() writes it where it was not streamed. */
enum verdict runpod_reply(struct llm_relay *, struct str reply, struct buf *out);
enum verdict runpod_whole(struct llm_relay *, const struct llm_extra *, struct buf *out);
void runpod_free(struct runpod *);

extern const struct json_limits answer_limits;
/* watch.c: one payload read. Updates usage, finish and deltas. FAIL fills r->why. */
enum verdict watch_payload(struct llm_relay *, struct str payload);
/* The same and leaves what it said in *c; valid until the next call. */
enum verdict watch_chunk(struct llm_relay *, struct str payload, struct chunk *c);
/* A whole, unstreamed answer. */
enum verdict watch_whole(struct llm_relay *, struct str body, struct json *ret_doc, struct chunk *c);

/* refusal.c: the code and sentence of a backend's error: 'error' is the body, or the JSON of an error member. */
enum err refusal(struct llm_relay *, int status, struct str error, struct why *);
#endif
