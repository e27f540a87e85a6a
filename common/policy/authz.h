/* authz.h - the one authorisation function: who may do what to which object of which tenant.
 *
 * Pure. Default deny: a role has a list of action patterns ("inference", "models.*"), and what is not listed is refused. A key can narrow
 * its role (actions, models, networks), never widen it. Another tenant's objects are NOT_FOUND, not FORBIDDEN, for everybody but owner,
 * and roles that see all tenants (admin, auditor: reading) as the table says.
 * Actions are those of gateway_routes (routes.c): a route cannot be registered without one. */
#ifndef CORRAL_POLICY_AUTHZ_H
#define CORRAL_POLICY_AUTHZ_H
#include <stdbool.h>
#include <stddef.h>

#include "access.pb-c.h"
#include "common/base/err.h"
#include "common/base/str.h"

struct subject {
	Corral__Role role;
	struct str key_id;                    /* "" = no key: loopback, or an anonymous network */
	struct str tenant, team, user;
	const Corral__Key *key;               /* narrows; NULL = nothing does */
	const Corral__Tenant *home;           /* its tenant's own limits; NULL = none */
};

/* 'object_tenant' empty: the object belongs to nobody in particular. ERR_OK, ERR_FORBIDDEN or ERR_NOT_FOUND with a sentence that names the
 * role and what it lacks. */
enum err authorise(const struct subject *, struct str action, struct str object, struct str object_tenant, struct why *);
/* Models have patterns of their own, of the key and of its tenant. */
/* One list of patterns; an empty one allows everything. "name" and "name:latest" are one. */
bool models_allow(char *const *patterns, size_t n, struct str model);
bool authorise_model(const struct subject *, struct str model);
/* Every action a role has; for docs, tests, and the rule that a new key is no stronger than its maker. */
bool role_may(Corral__Role, struct str action);
bool role_within(Corral__Role inner, Corral__Role outer);     /* inner has no action that outer lacks */
const char *role_name(Corral__Role);                  /* "owner" */
bool role_parse(struct str, Corral__Role *ret);
extern const char *const all_actions[];               /* ended by NULL */
bool action_reads(struct str action);                 /* it changes nothing */
bool role_reaches(Corral__Role, struct str action);   /* to other tenants' objects too */
/* --dump=roles: the tables as Markdown. */
struct buf;
void authz_dump(struct buf *);
#endif
