/* wire_tls.h - the files of TLS between services; one set for the process, set before its first socket. Known to no library. */
#ifndef CORRAL_IO_WIRE_TLS_H
#define CORRAL_IO_WIRE_TLS_H
#include "common/base/err.h"

struct wire_tls_files { const char *ca, *cert, *key; };  /* PEM; "" or NULL = not given */

/* Keeps the pointers. Checks that all three can be read when any is given; says which cannot. A key that is not the
 * certificate's is not noticed here (mbed TLS 2.28): connections then fail. */
enum err wire_tls_set(const struct wire_tls_files *, struct why *);
/* Can it be an address? Says what is wrong with it: scheme, path, port; TLS without files. */
enum err wire_check_url(const char *url, struct why *);
#endif
