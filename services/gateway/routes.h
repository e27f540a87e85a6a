/* routes.h - which path is which list of stages. */
#ifndef CORRAL_GATEWAY_ROUTES_H
#define CORRAL_GATEWAY_ROUTES_H
#include "services/gateway/req.h"

/* NULL with *why (NOT_FOUND, METHOD_NOT_ALLOWED). When the path exists the route of another method is returned as well, for the dialect of the error. */
const struct route *route_find(const struct http_head *, struct str path, struct str *ret_param, struct why *);
/* "GET, HEAD, POST, OPTIONS": what the path takes; "*" is all of ours. "" = it is none. */
struct str route_allow(struct str path, struct arena *);
/* Whose shape an error about this path takes: its route's, else that of the protocol whose paths begin so, else ours. */
enum llm_dialect route_dialect(struct str path);
bool route_role_may(const struct route *, Corral__Role);      /* as role_may() of its action, looked up once */
extern const struct route gateway_routes[];           /* ended by { 0 } */
extern struct svc_route gateway_route_docs[];         /* the same, for --dump=routes */
#endif
