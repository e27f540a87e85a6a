/* main.c - every service in one process. */
#include <string.h>

#include "services/gateway/service.h"
#include "services/model-registry/service.h"
#include "services/selector/service.h"
#include "services/usage-tracker/service.h"

/* Drained in this order: those that others report to come last. */
static const struct svc_def *const services[] = { &gateway_service, &selector_service, &model_registry_service, &usage_tracker_service };

int main(int argc, char **argv)
{
	static const char summary[] = "An LLM serving platform in one process: gateway, selector, model-registry, usage-tracker.";

	if (argc > 1 && strcmp(argv[1], "serve") == 0) {
		argv[1] = argv[0];
		argv++, argc--;
	}
	return svc_main_all("corral", summary, services, sizeof(services) / sizeof(*services), argc, argv);
}
