/* cors.h - pages in browsers that may read answers: those of the origins in cors_origins, by default none.
 *
 * An origin is "https://chat.example.org"; '*' in it stands for anything, and alone for all origins. Credentials are not granted:
 * a page sends its key itself. */
#ifndef CORRAL_GATEWAY_CORS_H
#define CORRAL_GATEWAY_CORS_H
#include "services/gateway/req.h"

bool cors_allows(const struct opt_list *origins, struct str origin);
/* Header lines for the answer to this request; "" without origins. */
struct str cors_lines(const struct opt_list *origins, const struct http_head *, struct arena *);
/* What OPTIONS is answered with besides: the methods of the path, and what a preflight asked for when its origin is allowed. */
struct str cors_options(const struct opt_list *origins, const struct http_head *, struct str allow, struct arena *);
#endif
