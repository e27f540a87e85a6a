/* canon.h - what requests and answers are between dialects. Private to common/llm.
 *
 * A value that only moves stays as it was written: a "JSON string" below is the token with its quotes, still escaped, so that
 * nothing is decoded to be encoded again. "" (length 0) means absent. Everything lives in the request's arena or, for chunks,
 * until the next chunk is read.
 *
 *   request:  client's form ──canon_read_*()──▶ struct canon ──canon_write_*()──▶ backend's body
 *   answer:   backend's event ──*_read_chunk()──▶ struct chunk ──*_write_chunk()──▶ client's event
 */
#ifndef CORRAL_LLM_CANON_H
#define CORRAL_LLM_CANON_H
#include "common/data/json_write.h"
#include "common/llm/exchange.h"
#include "common/llm/fields.h"

struct call {
	uint32_t index;           /* which call a fragment belongs to */
	bool has_index;
	struct str id, name;      /* JSON strings */
	struct str arguments;     /* a JSON string whose text is JSON, or an object: see is_object */
	bool is_object;
	struct str signature;     /* JSON string: what Gemini signs a call with, and wants back with it */
};

struct message {
	struct str role;          /* decoded: "system", "user", "assistant", "tool" */
	struct str text;          /* JSON string */
	uint32_t content;         /* OpenAI's: its token, of a string or a list of parts whose images are 'images' in their order; 0 = none */
	struct str thinking;      /* JSON string */
	struct str tool_call_id, tool_name;      /* JSON strings */
	struct str *images;       /* base64, decoded, or a data URI with it; for Anthropic also an address */
	uint32_t n_images;
	struct call *calls;
	uint32_t n_calls;
};

enum canon_format { FORMAT_TEXT, FORMAT_JSON, FORMAT_SCHEMA };
enum { CANON_PLAIN_MAX = 32 };

struct canon {
	enum llm_op op;           /* LLM_COMPLETE: a prompt that no template touches */
	struct message *messages;
	uint32_t n_messages;
	struct str prompt, suffix;        /* JSON strings, LLM_COMPLETE */
	uint32_t tools;           /* token of a non-empty array of OpenAI's shape */
	struct str tools_json;    /* the same, made here */
	struct str tool_choice;   /* JSON, OpenAI's */
	struct str named_tool;    /* JSON string: the one that must be called */
	bool one_call;            /* tools must not be called in parallel */
	struct str stop;          /* JSON: a string or an array of strings */
	enum canon_format format;
	struct str schema;        /* JSON object */
	int64_t max_tokens;       /* -1 = not given */
	bool logprobs;
	struct str top_logprobs;  /* JSON number */
	struct str think;         /* decoded: "", "true", "false", "low", "medium", "high", "max", … */
	struct { const struct field *field; struct str value; } plain[CANON_PLAIN_MAX];
	uint32_t n_plain;
};

/* What a plan needs while it is made. */
struct planning {
	const struct llm_in *in;
	const struct llm_target *target;
	struct arena *mem;
	struct why *why;
	char ignored[512];        /* names, ", " between them */
	size_t ignored_len;
};
void plan_ignore(struct planning *, const char *parent, const char *name);       /* once each */
/* ERR_UNSUPPORTED_FIELD for this backend; 'because' is a clause, NULL = it has no such thing. */
enum err plan_refuse(struct planning *, const char *path, const char *because);

/* The members of a request, each looked up in the table: refused, ignored, or put into *canon. */
enum err canon_read_openai(struct planning *, struct canon *);
enum err canon_read_ollama(struct planning *, struct canon *);
enum err canon_read_native(struct planning *, struct canon *);
enum err canon_read_anthropic(struct planning *, struct canon *);

/* Shared by them. What the table says of one member: *ret is NULL when it needs no more attention.
 * 'where' stands before the name in errors ("messages[2]."), 'parent' in the list of ignored ("messages."). */
enum err canon_field(struct planning *, enum llm_form, uint32_t value, const char *where, const char *parent, const struct field **ret);
enum err canon_plain(struct planning *, struct canon *, const struct field *, uint32_t value);
enum err canon_options(struct planning *, struct canon *, uint32_t object);
enum err canon_read_format(struct planning *, struct canon *, uint32_t value);      /* Ollama's and ours */
enum err canon_stop(struct planning *, struct canon *, const char *path, uint32_t value);
/* The list of a message's tool calls, in either shape. */
enum err canon_calls(struct planning *, struct message *, uint32_t list, uint32_t at);
/* A result names its call by id; Ollama wants the tool's name. Looks back over the messages so far. */
void canon_name_tool(const struct canon *, struct message *result);
bool canon_is_true(const struct planning *, uint32_t value);

/* extra_content.google.thought_signature of a call of OpenAI's shape: a JSON string, "" = none. */
struct str canon_signature(const struct json *, uint32_t call);
/* Clouds: the system prompt is apart, turns alternate, calls and results are among the parts of a turn. */
static inline bool kind_is_cloud(enum llm_backend kind) { return kind == LLM_BACKEND_ANTHROPIC || kind == LLM_BACKEND_GEMINI; }
/* How many tokens to think with: 0 = not at all, -1 = as many as the model likes, -2 = nothing was said. */
int64_t canon_thinking_tokens(const struct canon *);
/* What an image is: its type and base64; *address when it is one. */
struct image { struct str type, base64, address; };
struct image canon_image(struct str image);

/* The body for the backend, appended. */
enum err anthropic_write_request(struct planning *, const struct canon *, struct buf *out);
enum err gemini_write_request(struct planning *, const struct canon *, struct buf *out);
const char *gemini_path(const struct llm_in *, const struct llm_target *, struct arena *);
void openai_write_request(struct planning *, const struct canon *, struct buf *out);
void ollama_write_request(struct planning *, const struct canon *, struct buf *out);
/* llama.cpp's /infill, for a prompt with a suffix; the second takes OpenAI's completions as they are, without a canon. */
void infill_write_request(struct planning *, const struct canon *, struct buf *out);
enum err infill_from_openai(struct planning *, struct buf *out);

enum { CHUNK_CALLS = 32 };

/* One event of a stream, or a whole answer. Strings are JSON strings into the event. */
struct chunk {
	struct str text, thinking;
	struct call calls[CHUNK_CALLS];
	uint32_t n_calls;
	struct str logprobs;      /* array of {token, logprob, bytes, top_logprobs} */
	struct str finish;        /* decoded, "" = goes on */
	struct str stop_string;   /* JSON string: the stop sequence that was met, where the backend says it */
	struct str error;         /* JSON value; the backend says it broke */
	struct str refused;       /* decoded: why a provider does not answer this prompt; 'error' is where it says so */
	uint32_t n_choices;
	uint32_t text_tok;        /* token of the one text fragment, when there is exactly one */
	bool is_answer;           /* it has the members an event of this dialect must have */
	bool end;                 /* Ollama: done is true */
	bool has_usage;
	bool too_many_calls;      /* more than CHUNK_CALLS */
};

/* 'usage' is updated by what the event says. */
void openai_read_chunk(const struct json *, struct chunk *, struct llm_usage *, struct arena *);
void ollama_read_chunk(const struct json *, struct chunk *, struct llm_usage *, struct arena *);
void infill_read_chunk(const struct json *, struct chunk *, struct llm_usage *, struct arena *);
void anthropic_read_chunk(const struct json *, struct chunk *, struct llm_usage *, struct arena *);
void runpod_read_chunk(const struct json *, struct chunk *, struct llm_usage *, struct arena *);
void gemini_read_chunk(const struct json *, struct chunk *, struct llm_usage *, struct arena *);
/* Their counts alone. False: there are none, or zeros. */
bool openai_read_usage(const struct json *, struct llm_usage *);
bool ollama_read_usage(const struct json *, struct llm_usage *);
/* 'objects': arguments may be an object, as Ollama's are, and not only a string. */
void chunk_read_calls(const struct json *, uint32_t list, struct chunk *, bool objects);
void llamacpp_read_timings(const struct json *, uint32_t timings, struct llm_usage *);

/* All but the calls, which n_calls counts: they are many bytes. */
static inline void chunk_clear(struct chunk *c)
{
	memset(c, 0, offsetof(struct chunk, calls));
	memset(&c->n_calls, 0, sizeof(*c) - offsetof(struct chunk, n_calls));
}

#define has(s) ((s).n != 0)
static inline bool text_is_empty(struct str json_string) { return json_string.n <= 2; }
#endif
