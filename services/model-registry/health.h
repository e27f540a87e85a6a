/* health.h - whether backends can generate, and what is done when one cannot.
 *
 *   well ──check fails──▶ failing ──check_failures in a row──▶ sick ──check passes──▶ well
 *
 * A check is one token from a model that is in memory: lists and /api/ps still answer while an engine hangs. It is made once after each use,
 * when the engine has rested for check_every, so that it keeps no model in memory and takes no slot from anybody; while answers flow
 * (gateways tell it with their leases) none is needed. Who is sick is listed as down; the command of 'restart' is run, again and again with
 * growing pauses; when that did not help 'standby' is run in its place until it is well, and at once by
 * the next registry when this one ends. Everything on the registry's loop. */
#ifndef REGISTRY_HEALTH_H
#define REGISTRY_HEALTH_H
#include "services/model-registry/registry.h"

struct health;

/* 'dir': where the commands' output goes. */
struct health *health_new(struct registry *, const char *dir);
void health_free(struct health *);    /* ends what it started; NULL is fine */
/* After a reload: what is known of backends of the same name stays. */
void health_set_registry(struct health *, struct registry *);
/* What a gateway tells of what it uses. */
void health_hear(struct health *, const Corral__LeaseRequest *);
#endif
