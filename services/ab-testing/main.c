/* main.c - ab-testing as a process of its own. */
#include "services/ab-testing/service.h"

int main(int argc, char **argv) { return svc_main(&ab_testing_service, argc, argv); }
