/* rpc.h - asks between services: generated protobuf-c stubs over nng request/reply.
 *
 * A client is a ProtobufCService, so a call is the generated stub:
 *     corral__selector__explain(rpc_stub(client, &corral__selector__descriptor), &request, on_reply, arg);
 * The closure runs exactly once on the client's loop, never before the stub returned, with the reply or with NULL (then
 * rpc_error() tells why). Every call has a deadline; nothing is re-sent by nng itself.
 * A server runs the implementation's methods on its loop thread; a method may keep its closure and call it later, once.
 * A method's input is valid until the method returns; a reply until its closure returns. A closure may free the client.
 * A peer that is gone is ERR_UNAVAILABLE: at once when the connection breaks under the call, at the deadline when there is none.
 * Free clients and servers before their loop.
 * Endpoints: inproc://NAME, ipc://PATH, tcp://HOST:PORT, tls+tcp://HOST:PORT; a client may have several, with commas (wire.h). Messages above 16 MiB are refused.
 * nng's threads only move finished messages to the loop (queue and eventfd). */
#ifndef CORRAL_IO_RPC_H
#define CORRAL_IO_RPC_H
#include <stdbool.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "common/base/err.h"
#include "common/io/loop.h"

struct rpc_server;
struct rpc_client;

struct rpc_server *rpc_server_new(struct loop *, const char *url, struct why *);
void rpc_server_add(struct rpc_server *, ProtobufCService *impl);    /* several; found by the descriptor's name. One without destroy function may
						     be freed before the server, when the loop no longer turns */
ProtobufCService *rpc_server_find(const struct rpc_server *, const char *service);    /* NULL when it was not added */
void rpc_server_free(struct rpc_server *);        /* closures kept by methods become no-ops; services with a
						     destroy function are destroyed; NULL is fine */
/* For a method that fails: call instead of the closure; 'closure_data' is the method's. */
void rpc_fail(void *closure_data, enum err code, const char *text);
/* The id that the caller gave with rpc_asked_for(); "" = none. Valid as long as the method's closure. */
const char *rpc_request_id(const void *closure_data);

struct rpc_client *rpc_client_new(struct loop *, const char *url);
/* The first half of rpc_client_free(), for when what closures use goes away before the client: pending closures run with NULL now,
 * calls that follow are refused. */
void rpc_client_close(struct rpc_client *);
void rpc_client_free(struct rpc_client *);        /* pending closures run with NULL (and make no new calls); NULL is fine */
ProtobufCService *rpc_stub(struct rpc_client *, const ProtobufCServiceDescriptor *);   /* valid as long as the client */
int64_t rpc_deadline(struct rpc_client *, int64_t ms);   /* for the calls that follow; default 5000; returns what was */
/* For the next call only, and for methods that may run twice: it is sent again, with the same id, when the connection breaks under it
 * or its share of the time passes; 'tries' times at most, all within the deadline. Of several addresses nng takes the next in turn, so most often another. */
void rpc_tries(struct rpc_client *, unsigned tries);
/* On whose behalf the calls that follow are: the id of a client's request, at most 36 characters; "" = nobody's, as at first. */
void rpc_asked_for(struct rpc_client *, const char *request_id);
const struct why *rpc_error(const struct rpc_client *);  /* inside a closure that got NULL */
/* Drops its connections and dials anew; calls under way fail, or are sent again. */
void rpc_reconnect(struct rpc_client *);
bool rpc_connected(const struct rpc_client *);

/* Keeps nng's threads few, where its version can be told; before the first socket of the process. For snapshot.c. */
void rpc_few_threads(void);
#endif
