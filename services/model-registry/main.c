/* main.c - the model registry as a program of its own. */
#include "services/model-registry/service.h"

int main(int argc, char **argv) { return svc_main(&model_registry_service, argc, argv); }
