/* admission.h - the first stage of every route, called by the driver and not by lists that could forget it: who asks, and may he?
 *
 * The head decides, so it is looked at before the body is read (worker.c on_head); what was found out is kept until the request begins,
 * for this exchange and this keyring only, and found out again when either changed meanwhile. */
#ifndef CORRAL_GATEWAY_ADMISSION_H
#define CORRAL_GATEWAY_ADMISSION_H
#include "common/io/http_server.h"
#include "services/gateway/keyring.h"

struct worker;
struct req;
struct route;
struct gateway;

/* Why somebody was turned away: label of corral_auth_refused_total. */
enum refusal { REFUSED_NOT, REFUSED_NO_KEY, REFUSED_MALFORMED, REFUSED_UNKNOWN, REFUSED_EXPIRED, REFUSED_TENANT, REFUSED_NETWORK, REFUSED_ACTION,
	       REFUSED_QUERY, REFUSED_NOT_READY, REFUSED_ORIGIN, REFUSED_COUNT };
const char *refusal_name(enum refusal);

struct admission {
	const struct http_xchg *x;    /* whose this is; NULL = nobody's */
	const struct route *route;    /* NULL: there is none; also set when only the method is wrong (then no_route is) */
	struct str param;
	const struct ring_key *key;   /* NULL: without a key */
	const struct ring_tenant *home;
	Corral__Role role;
	enum refusal refused;
	struct why why;               /* of the refusal; from here on nothing is zeroed as a whole */
	struct why no_route;
};

/* What the head of x says. Never waits; below a microsecond with a key. */
void admission_check(struct worker *, const struct http_xchg *, struct admission *ret);
/* The kept one when it is of this exchange, else a new one. */
const struct admission *admission_of(struct worker *, const struct http_xchg *);
/* Gives the request its subject: who, tenant, key. */
void admission_apply(struct req *, const struct admission *);
/* The lines that a 401 needs, "" for the rest. */
struct str admission_challenge(const struct admission *);
#endif
