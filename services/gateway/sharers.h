/* sharers.h - how many gateways share something, kept in the state folder for a start without the service that counts them. */
#ifndef CORRAL_GATEWAY_SHARERS_H
#define CORRAL_GATEWAY_SHARERS_H
#include "services/gateway/gateway.h"

/* 'file' is a name in the gateway's state folder. At least 1, also when it is not known. */
uint32_t sharers_load(const struct gateway *, const char *file);
/* What cannot be written is said in the log. */
void sharers_save(const struct gateway *, const char *file, uint32_t n);
#endif
