/* tenants.h - tenants: made, changed, suspended, deleted when no key is left. Acts (store.h), each with its line in the audit log. */
#ifndef CORRAL_ACCESS_TENANTS_H
#define CORRAL_ACCESS_TENANTS_H
#include "services/access/store.h"

/* The tenant that keys have when nobody names one; it is made with the store and stays. */
#define TENANT_DEFAULT "default"

bool tenant_seed(struct access_store *, struct arena *, int64_t now_us, struct why *);
enum err tenant_get(struct access_store *, struct arena *, struct str name, Corral__Tenant **ret, struct why *);      /* ERR_NOT_FOUND */
bool tenants_each(struct access_store *, bool (*on_row)(void *, const struct db_row *), void *arg, struct why *);     /* packed, in column 0 */

/* 'create': there must be none of that name; else it is made, or what is there is replaced (created_at stays). */
enum err tenant_put(struct act *, const Corral__Tenant *, bool create, Corral__Tenant **ret, struct why *);
enum err tenant_delete(struct act *, struct str name, struct why *);
enum err tenants_list(struct act *, Corral__ListTenantsReply *ret, struct why *);

/* Parts that keys have too. */
enum err check_patterns(char *const *patterns, size_t n, const char *field, struct why *);
enum err check_label(const char *text, const char *field, struct why *);      /* at most 128 bytes of UTF-8 without control characters */
#endif
