/* resolve.h - host names to socket addresses without stopping the loop: one short-lived thread per look-up.
 *
 * A look-up that hangs (a name asked for before its container was there, a name service that lost the question) holds nobody up: after
 * two seconds another is begun beside it, the first that answers counts, and six seconds end it. */
#ifndef CORRAL_IO_RESOLVE_H
#define CORRAL_IO_RESOLVE_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/io/loop.h"

enum { RESOLVE_MAX = 8 };

struct address { struct sockaddr_storage sa; socklen_t len; };
struct addresses { struct address list[RESOLVE_MAX]; unsigned n; };

struct resolver;

/* True and *ret filled when 'host' is a literal v4 or v6 address. */
bool resolve_literal(const char *host, uint16_t port, struct addresses *ret);

/* Calls done(arg, …) once on the loop's thread in a later turn: with addresses, or with none and a sentence that stays valid.
 * NULL when no thread can be started. */
struct resolver *resolve_start(struct loop *, const char *host, uint16_t port,
			       void (*done)(void *arg, const struct addresses *, const char *error), void *arg);
void resolve_cancel(struct resolver *);           /* no call of 'done' follows, even if the look-up still runs; NULL is fine */
#endif
