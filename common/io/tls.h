/* tls.h - TLS on a descriptor: identities (certificate and key) and sessions (one connection each). OpenSSL 3, which tls.c alone includes.
 *
 * A session reads and writes like recv() and send() on a non-blocking socket; the handshake happens inside of them. TLS 1.2 and 1.3; 1.2
 * with forward secrecy and AEAD only; no renegotiation, no compression, no early data; ALPN is http/1.1.
 * The end of what the peer sends is told apart: 0 is its close_notify, -1 with EPROTO a connection that ended without it or was broken into.
 * An identity is immutable and counted: any thread; its sessions keep it. A session belongs to the thread of its loop. */
#ifndef CORRAL_IO_TLS_H
#define CORRAL_IO_TLS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/err.h"

struct tls_identity;
struct tls;

/* PEM files: the certificate with those between it and its authority behind it, and its key. NULL with *why: a file that cannot be read, is no
 * PEM, has a passphrase, or the key is not the certificate's. 'what' are the names of the two options, for the sentence and its field. */
struct tls_identity *tls_identity_load(const char *cert, const char *key, const char *const what[2], struct why *);
struct tls_identity *tls_identity_ref(struct tls_identity *);     /* NULL is fine, for both */
void tls_identity_unref(struct tls_identity *);
int64_t tls_identity_ends_s(const struct tls_identity *);        /* when the certificate ends, wall clock in seconds */

/* What a client trusts: the PEM file of authorities, or the system's with NULL or "". */
struct tls_trust;
struct tls_trust *tls_trust_load(const char *ca, struct why *);
enum err tls_trust_check(const char *ca, const char *what, struct why *);        /* can what an option names be used? 'what' is the option's name */
void tls_trust_free(struct tls_trust *);                          /* its sessions keep what they need; NULL is fine */

/* What is remembered of one server (a host and port, by one trust), so that the next handshake with it is short. One thread; outlives its sessions. */
struct tls_memory;
struct tls_memory *tls_memory_new(void);
void tls_memory_free(struct tls_memory *);                        /* NULL is fine */

/* The server's side; never fails: what is wrong with the peer shows at the first read. */
struct tls *tls_accept(struct tls_identity *, int fd);
/* The client's side: the server's certificate has to be of 'host' (a name or address) and of an authority that is trusted. 'memory' may be NULL. */
struct tls *tls_connect(struct tls_trust *, struct tls_memory *memory, int fd, const char *host);
bool tls_resumed(const struct tls *);             /* the handshake was a short one */
void tls_free(struct tls *);                      /* does not close the descriptor; NULL is fine */

/* Like recv() on a non-blocking stream socket: fewer bytes than asked for mean that there are no more at present. -1 with EAGAIN, ECONNRESET or
 * EPROTO (tls_error() says what was wrong). */
ssize_t tls_recv(struct tls *, void *to, size_t n);
/* Like send(). After -1 with EAGAIN, or fewer bytes than given, the next call has to begin with the bytes that were not taken. */
ssize_t tls_send(struct tls *, const void *from, size_t n);
bool tls_ready(const struct tls *);               /* the handshake is over */
bool tls_has_end(const struct tls *);             /* what was received last was followed by an end or an error: receive once more to hear it */
bool tls_wants_write(const struct tls *);         /* reading waits until the socket takes bytes */
void tls_say_end(struct tls *);                   /* close_notify, when it can be sent at once */
const char *tls_error(const struct tls *);        /* of the last EPROTO, a few words for a log; "" = the connection just ended */

/* What the first byte of a connection says: does a TLS handshake begin with it? */
static inline bool tls_begins_with(unsigned char first) { return first == 0x16; }
#endif
