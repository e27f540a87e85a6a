/* service.h - the table of the runpod-worker: `corral runpod-worker` is a program of its own, and no part of `corral serve`. */
#ifndef CORRAL_RUNPOD_WORKER_SERVICE_H
#define CORRAL_RUNPOD_WORKER_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def runpod_worker_service;
#endif
