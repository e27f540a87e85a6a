/* asked.h - what stages share that ask other services on behalf of a client: who it is, what it wrote, and the way on. */
#ifndef CORRAL_GATEWAY_ASKED_H
#define CORRAL_GATEWAY_ASKED_H
#include "common/data/json.h"
#include "services/gateway/ask.h"

/* The caller, in the ask's memory. Without a key and let in by its network, somebody is "anonymous" in the audit log; the service tells by the role. */
void asked_by(struct req *, struct ask *, Corral__Caller *);
/* The body as an object of these fields only, for a misspelt limit would be no limit; an absent body is an empty object. False: the request has failed. */
bool asked_body(struct req *, struct ask *, struct json *, const char *const *known);
/* A value of the query, "" when it is absent. */
char *asked_param(struct req *, struct ask *, const char *name);
/* Sends it, or drops it when it is not good (the request has failed). */
enum step asked_send(struct ask *, bool good);
/* Asks cloud-fallback of its providers: 'call' has a ListProvidersRequest as its query. */
enum step asked_providers(struct req *, void (*call)(struct ask *));
#endif
