/* main.c - the hardware-probe as a process of its own. */
#include "services/hardware-probe/service.h"

int main(int argc, char **argv) { return svc_main(&hardware_probe_service, argc, argv); }
