/* key_pair.h - does a private key belong to a certificate? The one question that neither nng nor mbed TLS asks before a connection
 * fails for it. mbed TLS's header is included by key_pair.c alone. */
#ifndef CORRAL_IO_KEY_PAIR_H
#define CORRAL_IO_KEY_PAIR_H
#include "common/base/err.h"
#include "common/base/str.h"

/* Both PEM. INVALID with what is wrong: the certificate or key that cannot be read, or that they are of two pairs. */
enum err key_pair_check(struct str cert, struct str key, struct why *);
#endif
