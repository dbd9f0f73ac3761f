/* The PID namespace that the containers of a pod share, with berth-init as its first process. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/ns.h"

/* A sealed copy of the program: through /proc/1/exe a container would otherwise reach the host's
 * file. */
static int copy_program(const char *path)
{
	struct stat st;
	int in = open(path, O_RDONLY | O_CLOEXEC);
	if (in < 0)
		return -1;
	int out = memfd_create("berth-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	off_t left = out < 0 || fstat(in, &st) < 0 ? -1 : st.st_size;
	while (left > 0) {
		ssize_t n = sendfile(out, in, NULL, (size_t)left);
		if (n <= 0)
			break;
		left -= n;
	}
	if (left == 0 && fcntl(out, F_ADD_SEALS,
	                         F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		left = -1;
	int e = errno;
	close(in);
	if (left != 0 && out >= 0) {
		close(out);
		out = -1;
	}
	errno = e;
	return out;
}

static int enter(const struct ns_opts *o)
{
	int fds[NS_KINDS];
	for (int k = 0; k < NS_PID; k++) {
		fds[k] = o->join[k] ? open(o->join[k], O_RDONLY | O_CLOEXEC) : -1;
		if (o->join[k] && fds[k] < 0)
			return ns_fail(errno, "namespace", o->join[k]);
	}
	for (size_t i = 0; i < o->n_cgroup_procs; i++) {
		int fd = open(o->cgroup_procs[i], O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "0", 1) != 1)
			return ns_fail(errno, "cgroup", o->cgroup_procs[i]);
		close(fd);
	}
	for (int k = 0; k < NS_PID; k++) {
		if (fds[k] >= 0 && setns(fds[k], ns_names[k].flag) < 0)
			return ns_fail(errno, "namespace", o->join[k]);
		if (fds[k] >= 0)
			close(fds[k]);
	}
	return unshare(CLONE_NEWPID) < 0 ? ns_fail(errno, "new PID namespace", NULL) : 0;
}

static void become_init(int program, int ready)
{
	char num[16];
	char *argv[] = {(char *)"berth-init", num, NULL};
	char *envp[] = {NULL};
	snprintf(num, sizeof(num), "%d", ready);
	(void)fcntl(ready, F_SETFD, 0);
	fexecve(program, argv, envp);
	dprintf(ready, "exec: %s", strerror(errno));
	_exit(127);
}

/* berth-init says "ok" once it is confined, or what was in the way. */
static int await(int fd)
{
	char words[256];
	size_t len = 0;
	ssize_t n;
	while (len < sizeof(words) - 1 &&
	        (n = read(fd, words + len, sizeof(words) - 1 - len)) > 0) {
		len += (size_t)n;
		if (len == 2 && memcmp(words, "ok", 2) == 0)
			return 0;
	}
	words[len] = '\0';
	return ns_fail(0, "berth-init", len ? words : "it ended without a word");
}

static int write_pid(const char *path, pid_t pid)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d\n", (int)pid);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, text, (size_t)len) != len)
		return ns_fail(errno, "pid file", path);
	close(fd);
	return 0;
}

/* Enters the pod's namespaces and leaves init behind as a child of our parent, which has kept its
 * rights over the host's mounts. Returns the exit status. */
static int enter_and_start(const struct ns_opts *o, int program, int ready, int tell)
{
	if (enter(o) || (o->join[NS_USER] && ns_become_root()))
		return 1;
	struct clone_args how = {.flags = CLONE_PARENT, .exit_signal = 0};
	pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof(how));
	if (pid == 0)
		become_init(program, ready);
	if (pid < 0)
		return ns_fail(errno, "clone", NULL);
	return write(tell, &pid, sizeof(pid)) == sizeof(pid) ? 0
	                                                     : ns_fail(errno, "berth-init", NULL);
}

static pid_t start_init(const struct ns_opts *o, int program, int ready)
{
	int fds[2], status;
	pid_t init = -1;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		(void)ns_fail(errno, "pipe", NULL);
		return -1;
	}
	pid_t pid = fork();
	if (pid == 0)
		_exit(enter_and_start(o, program, ready, fds[1]));
	close(fds[1]);
	if (pid < 0)
		(void)ns_fail(errno, "fork", NULL);
	else if (read(fds[0], &init, sizeof(init)) != sizeof(init))
		init = -1; /* it has said why */
	close(fds[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return init;
}

int ns_pod_pid(const struct ns_opts *o)
{
	int ends[2];
	char source[48];
	int program = copy_program(o->init);
	if (program < 0)
		return ns_fail(errno, "berth-init", o->init);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return ns_fail(errno, "socket pair", NULL);
	pid_t pid = start_init(o, program, ends[1]);
	if (pid < 0)
		return 1;
	close(ends[1]);
	int r = await(ends[0]);
	snprintf(source, sizeof(source), "/proc/%d/ns/pid", (int)pid);
	if (r == 0)
		r = ns_pin_file(o->pin[NS_PID], source);
	if (r == 0) {
		r = write_pid(o->pid_file, pid);
		/* Only now does it live on without us. */
		if (r == 0 && send(ends[0], "g", 1, MSG_NOSIGNAL) != 1)
			r = ns_fail(errno, "berth-init", NULL);
		if (r)
			(void)ns_unpin(o->pin[NS_PID]);
	}
	if (r) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	return r;
}
