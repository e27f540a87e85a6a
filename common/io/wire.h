/* wire.h - where an nng socket listens and whom it dials: inproc://NAME ipc://PATH tcp://HOST:PORT tls+tcp://HOST:PORT.
 *
 * A host name is looked up off the loop, again every 10 s; each of its addresses is dialled, one that is gone is dropped. A socket
 * that asks spreads over those that are connected. nng dials again by itself, after 50 to 250 ms.
 * TLS: own CA, a certificate of each side required, the host name of the URL checked against the server's. The files are looked
 * at every 2 s; when they have changed, listeners and dialers are made anew with them (connections break, and come back).
 * What nng gives up when a peer hangs up in the middle of the greeting is made anew some seconds later; not the listener of a tls+tcp URL.
 * All of one wire's calls on its loop's thread; free it before its socket is closed, or right after. */
#ifndef CORRAL_IO_WIRE_H
#define CORRAL_IO_WIRE_H
#include <nng/nng.h>

#include "common/base/err.h"
#include "common/io/loop.h"

struct wire;

/* NULL with *why when nothing can listen there. */
struct wire *wire_listen(struct loop *, nng_socket, const char *url, struct why *);
/* Several URLs with commas. What cannot be dialled is tried again. */
struct wire *wire_dial(struct loop *, nng_socket, const char *urls);
/* Drops what is connected and dials anew: for who has heard nothing for long, on a line that may swallow packets without closing. */
void wire_redial(struct wire *);
void wire_free(struct wire *);                    /* NULL is fine */
/* Closes a socket for good. false: nng did not finish within 2 s (or 0.1 s, once one hung: a process with many has to end in time, too).
 * Up to 1.5 it can lose a pipe that was being made while its dialer closed, and then waits for ever (nanomsg/nng #1498): the socket is
 * left as it is, and a callback of its may still come. */
bool wire_close(nng_socket);
#endif
