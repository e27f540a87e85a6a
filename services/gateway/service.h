/* service.h - the gateway's table. */
#ifndef CORRAL_GATEWAY_SERVICE_H
#define CORRAL_GATEWAY_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def gateway_service;
#endif
