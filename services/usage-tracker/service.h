/* service.h - the usage-tracker's table. */
#ifndef CORRAL_USAGE_SERVICE_H
#define CORRAL_USAGE_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def usage_tracker_service;
#endif
