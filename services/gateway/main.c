/* main.c - the gateway as a process of its own. */
#include "services/gateway/service.h"

int main(int argc, char **argv) { return svc_main(&gateway_service, argc, argv); }
