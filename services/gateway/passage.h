/* passage.h - an answer that is handed from one backend to the client as it comes, after the registry said that it may be asked: Ollama's own
 * administration. And the wait for a job, told as Ollama tells of a pull. A request has one at most. */
#ifndef CORRAL_GATEWAY_PASSAGE_H
#define CORRAL_GATEWAY_PASSAGE_H
#include "services/gateway/ask.h"

struct passage;

/* 'body' has to live as long as the request. 'makes' names the model that a good answer makes, NULL when it makes none: its backend is
 * listed again before the client sees the end. */
enum step passage_start(struct req *, const char *url, const char *backend, const char *method, struct str path, struct str body, bool is_json, const char *makes);
/* Tells of a pull until it ends: lines of progress, or one answer when 'stream' is false. */
enum step passage_watch(struct req *, const char *job_id, const char *backend, const char *model, bool stream);
/* Answers 200 without a body once this gateway lists the model no more, at the latest after two seconds. */
enum step passage_hidden(struct req *, const char *model);
/* The client reads again. False: there is nothing that waits for it. */
bool passage_resume(struct passage *);
void passage_free(struct passage *);      /* from req_end(); NULL is fine */
#endif
