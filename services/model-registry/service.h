/* service.h - the table of the model registry, for its own program and for the one that runs every service. */
#ifndef REGISTRY_SERVICE_H
#define REGISTRY_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def model_registry_service;
#endif
