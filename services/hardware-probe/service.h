/* service.h - the hardware-probe's table. */
#ifndef CORRAL_HARDWARE_PROBE_SERVICE_H
#define CORRAL_HARDWARE_PROBE_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def hardware_probe_service;
#endif
