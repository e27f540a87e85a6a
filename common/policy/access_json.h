/* access_json.h - new keys and the verdict on an audit log as JSON: what the command line writes when no gateway does.
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
#endif
