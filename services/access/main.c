/* main.c - access as a program of its own. */
#include "services/access/service.h"

int main(int argc, char **argv) { return svc_main(&access_service, argc, argv); }
