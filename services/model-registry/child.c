/* child.c - see child.h. */
#include "services/model-registry/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Between fork and exec in a process with threads: system calls alone. Its error number comes back through the pipe. */
static void become(const char *const *argv, int log_fd, int report_fd)
{
	sigset_t none;
	int error, null_fd;

	(void)setpgid(0, 0);
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	null_fd = open("/dev/null", O_RDONLY);
	(void)dup2(null_fd, 0);
	(void)dup2(log_fd, 1);
	(void)dup2(log_fd, 2);
	(void)dup2(report_fd, 3);
	(void)fcntl(3, F_SETFD, FD_CLOEXEC);
	(void)close_range(4, ~0U, 0);
	(void)execvp(argv[0], (char *const *)(uintptr_t)argv);
	error = errno;
	(void)!write(3, &error, sizeof(error));
	_exit(127);
}

pid_t child_start(const char *const *argv, const char *log_path, struct why *why)
{
	int report[2], error = 0, log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	pid_t pid;

	if (log_fd < 0 || pipe2(report, O_CLOEXEC) != 0) {
		err_set(why, ERR_STORE_FAILED, "%s: %s", log_path, strerror(errno));
		if (log_fd >= 0)
			close(log_fd);
		return -1;
	}
	pid = fork();
	if (pid == 0)
		become(argv, log_fd, report[1]);
	close(log_fd);
	close(report[1]);
	if (pid < 0)
		err_set(why, ERR_INTERNAL, "no process can be made: %s", strerror(errno));
	else if (read(report[0], &error, sizeof(error)) == (ssize_t)sizeof(error)) {
		err_set(why, ERR_NOT_FOUND, "%s: %s", argv[0], strerror(error));
		(void)waitpid(pid, NULL, 0);
		pid = -1;
	}
	close(report[0]);
	return pid;
}

bool child_ended(pid_t pid, int *ret_status)
{
	int status;

	if (waitpid(pid, &status, WNOHANG) != pid)
		return false;
	*ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return true;
}

void child_signal(pid_t pid, int signo)
{
	if (kill(-pid, signo) != 0)
		(void)kill(pid, signo);   /* before it made its group */
}
