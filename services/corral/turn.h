/* turn.h - one question to a model and its streamed answer, token by token. */
#ifndef CORRAL_CORRAL_TURN_H
#define CORRAL_CORRAL_TURN_H
#include <signal.h>

#include "services/corral/remote.h"

struct message { const char *role; struct str text; };

/* What is asked; the texts must stay until the turn has ended. */
struct question {
	const char *model;
	const struct message *messages;
	unsigned n_messages;
	const char *conversation;     /* id for X-Corral-Conversation; NULL = none */
	int64_t max_tokens;           /* 0 = as the model likes */
	int64_t first_byte_ms;        /* 0 = as long as the gateway waits */
};

enum turn_end { TURN_DONE, TURN_INTERRUPTED, TURN_FAILED, TURN_UNREACHABLE };

struct turn {
	enum turn_end end;
	char error[600];              /* why it failed, a sentence */
	int status;                   /* of HTTP; 0 = no answer */
	char request_id[64], model[256], backend[256], reason[64], date[64];
	struct buf text;              /* the whole answer; free it with turn_free() */
	char finish[32];              /* "stop", "length", "" = it said none */
	int64_t prompt_tokens, completion_tokens;     /* -1 = not told */
	int64_t first_us, total_us;   /* until the first token (0 = none came) and the end */
};

/* Asks and waits. on_text gets each piece as it comes; 'thinking' is what a model says before its answer and is not in 'text'. */
void turn_run(struct remote *, const struct question *, void (*on_text)(void *arg, struct str piece, bool thinking), void *arg, struct turn *ret);
void turn_free(struct turn *);

/* "M on B, chosen by rules; 12 tokens in, 40 out; 0.82 s, first after 0.10 s; 55.6 tokens/s; request ID". */
void turn_summary(const struct turn *, struct buf *);

/* Ctrl-C during a turn ends the turn. How often it was pressed since somebody set this to 0. */
extern volatile sig_atomic_t interrupts;
void interrupts_watch(void);          /* from then on Ctrl-C does not end the program */
void interrupts_forget(void);         /* what was pressed so far was meant for something else */
bool interrupts_wait(int fd);         /* true: fd can be read (or is at its end); false: Ctrl-C came first */
void interrupts_release(void);
#endif
