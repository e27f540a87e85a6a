/* store.h - the database of access, held by one process; and an act: a change and its line in the audit log, both or neither.
 *
 *   act_begin() … changes … act_end(): with ERR_OK the line is appended and all is committed; else the changes are undone and the
 *   refusal alone is written down.
 *
 * Everything is synchronous and belongs to the thread that opened it. */
#ifndef CORRAL_ACCESS_STORE_H
#define CORRAL_ACCESS_STORE_H
#include "access.pb-c.h"
#include "common/policy/authz.h"
#include "common/store/db.h"
#include "services/access/sql.h"

struct access_store;

/* ERR_CONFLICT when another process holds it. A new store gets the tenant "default". */
struct access_store *access_store_open(const char *url, struct why *);
/* For reading only, beside whoever holds it. */
struct access_store *access_store_peek(const char *url, struct why *);
void access_store_close(struct access_store *);           /* NULL is fine */
struct db *access_db(struct access_store *);

/* One statement of sql.h. False with *why on failure of the store. */
bool access_run(struct access_store *, enum access_statement, const struct db_value *params, unsigned n,
		bool (*on_row)(void *, const struct db_row *), void *arg, struct why *);

struct act {
	struct access_store *store;
	struct arena *mem;
	const Corral__Caller *caller;
	int64_t now_us;
	bool by_system;               /* nobody asked: the service does it itself */
	struct subject subject;       /* who acts, as the store knows it; set by act_begin() */
	const char *action;           /* "keys.create" */
	struct str object;            /* the key's id, the tenant's name; may be set on the way */
	struct str detail;            /* JSON object */
	Corral__AccessDelta delta;    /* what gateways have to hear of it */
	bool unsure;                  /* set by act_end(): the commit was not answered, so it may have been done */
};

/* Begins the transaction and finds out who acts. A key that asks is looked up: what the caller says of its rights does not count. */
enum err act_begin(struct act *, struct why *);
enum err act_end(struct act *, enum err, struct why *);
/* Instead of both, for what changes nothing: whose key has ended or whose tenant is suspended is refused, and that is written down. */
enum err act_read(struct act *, struct why *);
enum err act_allowed(struct act *, struct str object_tenant, struct why *);      /* authorise() of this act */

/* A row's packed message of protobuf-c, unpacked into the arena. NULL when it is none. */
void *access_unpack(struct arena *, const ProtobufCMessageDescriptor *, struct str body);
struct str access_pack(struct arena *, const ProtobufCMessage *);
#endif
