/* main.c - the usage-tracker as a program of its own. */
#include "services/usage-tracker/service.h"

int main(int argc, char **argv) { return svc_main(&usage_tracker_service, argc, argv); }
