/* child.h - a program that is started on behalf of a backend: its words as they were configured, without a shell, in a process group of its
 * own, ended when this process ends. What it writes goes to a log file. */
#ifndef REGISTRY_CHILD_H
#define REGISTRY_CHILD_H
#include <stdbool.h>
#include <sys/types.h>

#include "common/base/err.h"

/* argv[0] is an absolute path or is looked for in PATH; the last is NULL. -1 with *why (also when the program is not there). To be called on a
 * thread that lives as long as the child should. */
pid_t child_start(const char *const *argv, const char *log_path, struct why *);
/* True when it has ended; *ret_status: its exit status, 128 + the signal that ended it. Never waits. */
bool child_ended(pid_t, int *ret_status);
void child_signal(pid_t, int signo);  /* to its whole group */
#endif
