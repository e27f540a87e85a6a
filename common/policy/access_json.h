/* access_json.h - keys, and the verdict on an audit log, as JSON: what the gateway answers, and the command line writes without one.
 *
 * Times are RFC 3339 with microseconds, null where there is none; lists are always there; a key never has its hash in it. */
#ifndef CORRAL_POLICY_ACCESS_JSON_H
#define CORRAL_POLICY_ACCESS_JSON_H
#include "access.pb-c.h"
#include "common/data/json_write.h"

/* {"id","name","role","tenant","team","user","created_at","created_by","expires_at","models","actions","networks",
 *  "limits":{"requests_per_minute","tokens_per_minute","concurrency"},"replaces"} */
void json_access_key(struct json_out *, const Corral__Key *);
/* {"ok","entries","broken_seq":n|null,"head":"64 hex digits","text"} */
void json_audit_verdict(struct json_out *, const Corral__AuditVerifyReply *);
/* {"key":{…},"secret"} */
void json_new_key(struct json_out *, const Corral__CreateKeyReply *);

/* Members of an object. Always there: a list, maybe empty; "limits" with each of its members, 0 = none. */
void json_list_member(struct json_out *, const char *name, char *const *items, size_t n);
void json_limits_member(struct json_out *, const Corral__Limits *);
/* Only what is set; the limits without an object of their own. */
void json_list_if_any(struct json_out *, const char *name, char *const *items, size_t n);
void json_limits_if_set(struct json_out *, const Corral__Limits *);
#endif
