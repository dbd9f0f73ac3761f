/* Starting children. */
#include "loop/child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "loop/reap.h"

#define CHILD_STACK (64 * 1024) /* of the child until its exec */
#define MAX_KEEP_FDS 32

struct start {
	struct child_starting entry;
	const struct berth_child_spec *spec;
	const char *const *envp;
	int null_fd;
	int cgroup_fd;    /* what it is born in; -1: it enters cgroups by itself */
	int err;          /* errno of what failed in the child */
	const char *what; /* and its name */
};

static struct rlimit first_nofile; /* what berthd was started with */
static bool have_first_nofile;

void child_keep_limits(void)
{
	have_first_nofile = getrlimit(RLIMIT_NOFILE, &first_nofile) == 0;
}

/* The child shares our memory until exec (CLONE_VM): nothing but system calls, past libc and what
 * sanitizers put before it, for they would take what the child does to its signals and fds as done
 * to ours; and the stack is not their business. */
#define IN_CHILD __attribute__((no_sanitize("address", "undefined", "thread"), noinline))
#define KERNEL_SIGSET ((size_t)(NSIG - 1) / 8)
#define RAW(name, ...) syscall(SYS_##name, __VA_ARGS__)

IN_CHILD static int give_up(struct start *s, const char *what)
{
	s->err = errno;
	s->what = what;
	RAW(exit_group, 127);
	return -1;
}

IN_CHILD static void default_signals(void)
{
	/* The kernel's struct sigaction: SIG_DFL, no flags, an empty mask. */
	static const unsigned long none[8];
	for (int i = 1; i < NSIG; i++)
		RAW(rt_sigaction, i, none, NULL, KERNEL_SIGSET);
	RAW(rt_sigprocmask, SIG_SETMASK, none, NULL, KERNEL_SIGSET);
}

IN_CHILD static void place_fds(struct start *s)
{
	const struct berth_child_spec *spec = s->spec;
	int moved[3 + MAX_KEEP_FDS];
	uint32_t n = 3 + spec->n_keep_fds;

	/* First out of the way of the final numbers, then down to them. */
	for (uint32_t i = 0; i < n; i++) {
		int fd = i < 3 ? spec->stdio[i] : spec->keep_fds[i - 3];
		if (fd < 0)
			fd = s->null_fd;
		moved[i] = (int)RAW(fcntl, fd, F_DUPFD_CLOEXEC, (int)n);
		if (moved[i] < 0)
			give_up(s, "placing its file descriptors");
	}
	for (uint32_t i = 0; i < n; i++) {
		if (RAW(dup3, moved[i], (int)i, 0) < 0)
			give_up(s, "placing its file descriptors");
	}
	RAW(close_range, n, ~0u, 0);
}

IN_CHILD static int child_main(void *arg)
{
	struct start *s = arg;
	const struct berth_child_spec *spec = s->spec;

	for (const char *const *p = spec->cgroup_procs; s->cgroup_fd < 0 && p && *p; p++) {
		int fd = (int)RAW(openat, AT_FDCWD, *p, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || RAW(write, fd, "0", 1) != 1)
			give_up(s, "entering its cgroup");
		RAW(close, fd);
	}
	if ((spec->new_session || spec->terminal) && RAW(setsid, 0) < 0)
		give_up(s, "setsid");
	place_fds(s);
	if (spec->terminal && RAW(ioctl, 0, TIOCSCTTY, 0) < 0)
		give_up(s, "taking its terminal");
	RAW(umask, 022);
	if (have_first_nofile)
		RAW(prlimit64, 0, RLIMIT_NOFILE, &first_nofile, NULL);
	if (spec->mark) {
		struct rlimit mark = {.rlim_cur = spec->mark, .rlim_max = spec->mark};
		RAW(prlimit64, 0, RLIMIT_RTTIME, &mark, NULL);
	}
	if (RAW(chdir, spec->cwd ? spec->cwd : "/") < 0)
		give_up(s, "changing to its directory");
	default_signals();
	RAW(execve, spec->argv[0], spec->argv, s->envp);
	return give_up(s, "exec");
}

/* A child with a copy of our memory, but for *s. */
IN_CHILD static pid_t start_copy(struct start *s)
{
	struct clone_args a = {.flags = CLONE_VFORK | CLONE_PARENT_SETTID,
	        .parent_tid = (uintptr_t)&s->entry.pid,
	        .exit_signal = SIGCHLD};
	if (s->cgroup_fd >= 0) {
		a.flags |= CLONE_INTO_CGROUP;
		a.cgroup = (uint64_t)s->cgroup_fd;
	}
	long pid = RAW(clone3, &a, sizeof(a));
	if (pid == 0)
		child_main(s);
	return (pid_t)pid;
}

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
/* The thread sanitizer cannot follow a child in its own memory. */
#define start_shared start_copy
#else
static pid_t start_shared(struct start *s)
{
	return clone(child_main, (char *)s + CHILD_STACK,
	        CLONE_VM | CLONE_VFORK | CLONE_PARENT_SETTID | SIGCHLD, s, &s->entry.pid);
}
#endif

static pid_t start_child(struct start *s)
{
	if (s->cgroup_fd >= 0) {
		pid_t pid = start_copy(s);
		if (pid > 0)
			return pid;
		s->cgroup_fd = berth_close(s->cgroup_fd); /* it can try by itself */
	}
	return start_shared(s);
}

/* Of v2 a child can be born in a cgroup. A move waits until all processors have seen it. */
static int birthplace(const char *const *procs)
{
	struct statfs fs;

	if (!procs || !procs[0] || procs[1])
		return -1;
	_cleanup_free_ char *dir = berth_strdup(procs[0]);
	*strrchr(dir, '/') = '\0';
	_cleanup_close_ int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)
		return -1;
	return berth_take_fd(&fd);
}

int berth_child_start(const struct berth_child_spec *spec, pid_t *ret_pid, int *ret_pidfd,
        struct berth_error **ret_err)
{
	static const char *const plain_env[] = {
	        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	const char *name = spec->argv[0];

	if (spec->n_keep_fds > MAX_KEEP_FDS)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: %u file descriptors to pass, at most %d", name, spec->n_keep_fds,
		        MAX_KEEP_FDS);
	_cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		return berth_error_errno(ret_err, errno, "%s: /dev/null", name);
	/* At the other end of its stack. */
	struct start *s =
	        mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return berth_error_errno(ret_err, errno, "%s: a stack to start it", name);

	*s = (struct start){.spec = spec,
	        .envp = spec->envp ? spec->envp : plain_env,
	        .null_fd = null_fd,
	        .cgroup_fd = birthplace(spec->cgroup_procs)};
	sigset_t all, before;
	sigfillset(&all);
	child_starting_add(&s->entry);
	/* No handler of ours may run in the child while it shares our memory. */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid_t pid = start_child(s);
	int saved = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	int child_err = s->err, pidfd = -1;
	const char *what = s->what;
	s->cgroup_fd = berth_close(s->cgroup_fd);
	if (pid > 0 && !child_err) {
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (pidfd < 0) {
			child_err = errno;
			what = "watching it";
			kill(pid, SIGKILL);
		}
	}
	if (pid > 0 && child_err) {
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	child_starting_drop(&s->entry, child_err ? 0 : pid);
	munmap(s, CHILD_STACK);
	if (pid < 0)
		return berth_error_errno(ret_err, saved, "%s: starting a process", name);
	if (child_err)
		return berth_error_errno(ret_err, child_err, "%s: %s", name, what);
	*ret_pid = pid;
	*ret_pidfd = pidfd;
	return 0;
}
