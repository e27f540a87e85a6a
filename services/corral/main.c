/* main.c - the program `corral`: every service in one process, and the command line for people (cli.h). */
#include "services/ab-testing/service.h"
#include "services/access/service.h"
#include "services/cloud-fallback/service.h"
#include "services/corral/cli.h"
#include "services/gateway/service.h"
#include "services/hardware-probe/service.h"
#include "services/model-registry/service.h"
#include "services/runpod-worker/service.h"
#include "services/selector/service.h"
#include "services/usage-tracker/service.h"

/* Drained in this order: those that others report to come last. */
static const struct svc_def *const services[] = { &gateway_service, &cloud_fallback_service, &selector_service, &model_registry_service,
	&hardware_probe_service, &ab_testing_service, &usage_tracker_service, &access_service };

static int serve(int argc, char **argv)
{
	static const char summary[] = "An LLM serving platform in one process: gateway, selector, model-registry, hardware-probe, ab-testing, usage-tracker, access, cloud-fallback.";

	return svc_main_all("corral", summary, services, sizeof(services) / sizeof(*services), argc, argv);
}

/* Not among the services: whoever serves a queue runs it beside them. */
static int runpod_worker(int argc, char **argv) { return svc_main(&runpod_worker_service, argc, argv); }

int main(int argc, char **argv)
{
	cli_services = services;
	cli_n_services = sizeof(services) / sizeof(*services);
	return cli_main(argc, argv, serve, runpod_worker);
}
