/* own_name.h - a random name that is the same after a restart: what this gateway is called by where several write into one place. */
#ifndef CORRAL_GATEWAY_OWN_NAME_H
#define CORRAL_GATEWAY_OWN_NAME_H
#include "services/gateway/gateway.h"

/* The name in that file of the state directory, a UUID; made when there is none yet. */
bool own_name(struct gateway *, const char *file, char ret[40], struct why *);
#endif
