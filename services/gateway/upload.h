/* upload.h - a blob that a client sends for /api/create: to a file without a name while it comes, hashed on the way, so that neither memory
 * nor a backend sees one that is not what its digest says. */
#ifndef CORRAL_GATEWAY_UPLOAD_H
#define CORRAL_GATEWAY_UPLOAD_H
#include "services/gateway/gateway.h"

struct upload;

/* In on_head, after admission: makes the body of POST /api/blobs/… come here; *ret_allowed is how large it may be. The exchange's 'user' is the
 * upload until a request takes it. False: it is none. */
bool upload_begin(struct gateway *, struct http_xchg *, size_t *ret_allowed);
/* Takes the upload off an exchange; NULL when there is none. */
struct upload *upload_take(struct http_xchg *);
void upload_free(struct upload *);    /* the bytes are gone with it; NULL is fine */
/* All is there: its bytes, mapped, if their digest is this one ("sha256:…"). */
enum err upload_bytes(struct upload *, struct str digest, struct str *ret, struct why *);
/* "sha256:" and 64 hexadecimal digits in lower case. */
bool is_digest(struct str);
#endif
