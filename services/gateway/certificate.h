/* certificate.h - the certificate of the address with TLS: read at the start, on SIGHUP, and when its files are seen to have changed.
 * Control thread; the workers get what is to be used. New files that cannot be used are told, and the ones before stay in force. */
#ifndef CORRAL_GATEWAY_CERTIFICATE_H
#define CORRAL_GATEWAY_CERTIFICATE_H
#include "services/gateway/gateway.h"

struct tls_identity;

/* Are the three options complete, and can the files be used? */
enum err certificate_check(const struct gateway_config *, struct why *);
/* Sets gateway.certificate, which stays NULL without public_tls_listen. Before the workers. */
bool certificate_new(struct gateway *, struct why *);
struct tls_identity *certificate_identity(const struct certificate *);    /* the one in force; NULL is fine */
bool certificate_reload(struct certificate *, const struct gateway_config *next, struct why *);  /* false: the one before stays */
void certificate_sweep(struct certificate *);     /* once a second; NULL is fine */
void certificate_free(struct certificate *);      /* after the workers; NULL is fine */
#endif
