/* main.c - cloud-fallback as a process of its own. */
#include "services/cloud-fallback/service.h"

int main(int argc, char **argv) { return svc_main(&cloud_fallback_service, argc, argv); }
