/* service.h - the selector's table. */
#ifndef CORRAL_SELECTOR_SERVICE_H
#define CORRAL_SELECTOR_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def selector_service;
#endif
