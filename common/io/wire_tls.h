/* wire_tls.h - the files of TLS between services; one set for the process, set before its first socket. Known to no library. */
#ifndef CORRAL_IO_WIRE_TLS_H
#define CORRAL_IO_WIRE_TLS_H
#include <stdbool.h>

#include "common/base/err.h"

struct wire_tls_files { const char *ca, *cert, *key; };  /* PEM; "" or NULL = not given */

/* All three can be read when any is given, and belong together; else says what does not. */
enum err wire_tls_check(const struct wire_tls_files *, struct why *);
/* Checks, and keeps the pointers. */
enum err wire_tls_set(const struct wire_tls_files *, struct why *);
/* Can it be an address? Says what is wrong with it: scheme, path, port; TLS without files. */
enum err wire_check_url(const char *url, bool tls_given, struct why *);
#endif
