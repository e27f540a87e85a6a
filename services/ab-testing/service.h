/* service.h - the table of ab-testing. */
#ifndef CORRAL_AB_TESTING_SERVICE_H
#define CORRAL_AB_TESTING_SERVICE_H
#include "common/svc/svc.h"

extern const struct svc_def ab_testing_service;
#endif
