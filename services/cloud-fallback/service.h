/* service.h - cloud-fallback's table. */
#ifndef CORRAL_CLOUD_FALLBACK_SERVICE_H
#define CORRAL_CLOUD_FALLBACK_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def cloud_fallback_service;
#endif
