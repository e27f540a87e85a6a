/* access_json.h - keys, tenants and audit entries as JSON objects: the gateway's routes and the command line write the same.
 *
 * Times are RFC 3339 with microseconds, null where there is none; lists are always there; a key never has its hash in it. */
#ifndef CORRAL_POLICY_ACCESS_JSON_H
#define CORRAL_POLICY_ACCESS_JSON_H
#include "access.pb-c.h"
#include "common/data/json_write.h"

/* {"id","name","role","tenant","team","user","created_at","created_by","expires_at","models","actions","networks",
 *  "limits":{"requests_per_minute","tokens_per_minute","concurrency"},"replaces"} */
void json_access_key(struct json_out *, const Corral__Key *);
/* {"name","display_name","limits","models","suspended","teams","created_at"} */
void json_access_tenant(struct json_out *, const Corral__Tenant *);
/* {"seq","at","actor","role","tenant","address","action","object","outcome","detail":{…},"request_id","hash":"64 hex digits"} */
void json_audit_entry(struct json_out *, const Corral__AuditEntry *);
/* {"ok","entries","broken_seq":n|null,"head":"64 hex digits","text"} */
void json_audit_verdict(struct json_out *, const Corral__AuditVerifyReply *);
/* {"key":{…},"secret"} */
void json_new_key(struct json_out *, const Corral__CreateKeyReply *);
#endif
