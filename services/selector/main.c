/* main.c - the selector as a process of its own. */
#include "services/selector/service.h"

int main(int argc, char **argv) { return svc_main(&selector_service, argc, argv); }
