#include "loop/child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

#define CHILD_STACK (64 * 1024) /* of the child until its exec */
#define MAX_KEEP_FDS 32

struct start {
	struct start *next; /* in registry.starting */
	pid_t pid;          /* written by the kernel before the child runs */
	const struct berth_child_spec *spec;
	const char *const *envp;
	int null_fd;
	int cgroup_fd;    /* what it is born in; -1: it enters cgroups by itself */
	int err;          /* errno of what failed in the child */
	const char *what; /* and its name */
};

/* The children that somebody waits for. One that is just being started is listed before it runs, so
 * that the sweeper takes none of them for an orphan. The lock is not held meanwhile: clone()
 * returns when the child has done its exec, and the loop wants the lock. */
static struct {
	pthread_mutex_t lock;
	struct start *starting;
	pid_t *pids;
	size_t n, cap;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* How orphans ended that the sweeper reaped while somebody expects one: it may have been faster. */
#define ORPHANS_KEPT 1024
static struct {
	struct {
		pid_t pid;
		int status;
	} ended[ORPHANS_KEPT]; /* a ring */
	size_t n;
	unsigned int expecting;
} orphans; /* guarded by the registry's lock */

static struct rlimit first_nofile; /* what berthd was started with */
static bool have_first_nofile;

static void registry_add(pid_t pid)
{
	if (registry.n == registry.cap) {
		registry.cap = registry.cap ? registry.cap * 2 : 16;
		registry.pids =
		        berth_reallocarray(registry.pids, registry.cap, sizeof(*registry.pids));
	}
	registry.pids[registry.n++] = pid;
}

static bool registry_has(pid_t pid)
{
	for (const struct start *s = registry.starting; s; s = s->next) {
		if (__atomic_load_n(&s->pid, __ATOMIC_RELAXED) == pid)
			return true;
	}
	for (size_t i = 0; i < registry.n; i++) {
		if (registry.pids[i] == pid)
			return true;
	}
	return false;
}

static void registry_drop(pid_t pid)
{
	for (size_t i = 0; i < registry.n; i++) {
		if (registry.pids[i] == pid) {
			registry.pids[i] = registry.pids[--registry.n];
			return;
		}
	}
}

/* ---- starting ---- */

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
	        .parent_tid = (uintptr_t)&s->pid,
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
	        CLONE_VM | CLONE_VFORK | CLONE_PARENT_SETTID | SIGCHLD, s, &s->pid);
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

static void starting_add(struct start *s)
{
	pthread_mutex_lock(&registry.lock);
	s->next = registry.starting;
	registry.starting = s;
	pthread_mutex_unlock(&registry.lock);
}

/* `listed`: it was started, and is reaped through this module. */
static void starting_drop(struct start *s, pid_t listed)
{
	pthread_mutex_lock(&registry.lock);
	for (struct start **q = &registry.starting; *q; q = &(*q)->next) {
		if (*q == s) {
			*q = s->next;
			break;
		}
	}
	if (listed > 0)
		registry_add(listed);
	pthread_mutex_unlock(&registry.lock);
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
	starting_add(s);
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
	starting_drop(s, child_err ? 0 : pid);
	munmap(s, CHILD_STACK);
	if (pid < 0)
		return berth_error_errno(ret_err, saved, "%s: starting a process", name);
	if (child_err)
		return berth_error_errno(ret_err, child_err, "%s: %s", name, what);
	*ret_pid = pid;
	*ret_pidfd = pidfd;
	return 0;
}

/* ---- waiting ---- */

static int reap(pid_t pid, int flags, int *ret_status)
{
	pid_t r;
	do
		r = waitpid(pid, ret_status, flags);
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return -EAGAIN;
	int result = r < 0 ? -errno : 0;
	pthread_mutex_lock(&registry.lock);
	registry_drop(pid);
	pthread_mutex_unlock(&registry.lock);
	return result;
}

int berth_child_wait(pid_t pid, int pidfd, int *ret_status)
{
	(void)pidfd;
	return reap(pid, 0, ret_status);
}

struct berth_child_watch {
	struct berth_fdwatch *watch;
	pid_t pid;
	void (*fn)(pid_t pid, int status, void *arg);
	void *arg;
};

static void child_ended(int fd, int events, void *arg)
{
	struct berth_child_watch *w = arg;
	(void)fd;
	(void)events;
	int status = 0;
	if (reap(w->pid, WNOHANG, &status) == -EAGAIN)
		return;
	struct berth_child_watch copy = *w;
	berth_fdwatch_free(w->watch);
	free(w);
	copy.fn(copy.pid, status, copy.arg);
}

struct berth_child_watch *berth_child_watch(struct berth_loop *l, pid_t pid, int pidfd,
        void (*fn)(pid_t pid, int status, void *arg), void *arg)
{
	berth_assert_loop();
	struct berth_child_watch *w = berth_new(struct berth_child_watch);
	w->pid = pid;
	w->fn = fn;
	w->arg = arg;
	w->watch = berth_fdwatch_start(l, pidfd, UV_READABLE, child_ended, w);
	return w;
}

struct berth_child_watch *berth_child_unwatch(struct berth_child_watch *w)
{
	if (w) {
		berth_fdwatch_free(w->watch);
		free(w);
	}
	return NULL;
}

/* ---- grandchildren ---- */

void berth_child_expect(void)
{
	pthread_mutex_lock(&registry.lock);
	orphans.expecting++;
	pthread_mutex_unlock(&registry.lock);
}

void berth_child_expect_end(void)
{
	pthread_mutex_lock(&registry.lock);
	if (--orphans.expecting == 0)
		orphans.n = 0;
	pthread_mutex_unlock(&registry.lock);
}

static void orphan_keep(pid_t pid, int status)
{
	if (!orphans.expecting)
		return;
	orphans.ended[orphans.n % ORPHANS_KEPT].pid = pid;
	orphans.ended[orphans.n % ORPHANS_KEPT].status = status;
	orphans.n++;
}

static bool orphan_find(pid_t pid, int *ret_status)
{
	for (size_t i = orphans.n; i > 0 && orphans.n - i < ORPHANS_KEPT; i--) {
		if (orphans.ended[(i - 1) % ORPHANS_KEPT].pid == pid) {
			*ret_status = orphans.ended[(i - 1) % ORPHANS_KEPT].status;
			return true;
		}
	}
	return false;
}

int berth_child_claim(pid_t pid, int *ret_pidfd, int *ret_status)
{
	siginfo_t si = {0};
	int r = -ECHILD;

	pthread_mutex_lock(&registry.lock);
	*ret_pidfd = -1;
	/* Alive or a zombie: as long as it is our child its pid is its own. */
	if (!registry_has(pid) && waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) == 0) {
		*ret_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		r = *ret_pidfd < 0 ? -errno : 0;
		if (r == 0)
			registry_add(pid);
	} else if (orphan_find(pid, ret_status)) {
		r = 0;
	}
	pthread_mutex_unlock(&registry.lock);
	return r;
}

/* ---- the sweeper ---- */

#define SWEEP_RETRY_MS 10

static struct {
	struct berth_loop *loop;
	uv_signal_t sigchld;
	struct berth_timer *retry;
	void (*on_orphan)(pid_t pid, int status, void *arg);
	void *arg;
	bool active;
} sweeper;

static void sweep(void);

static void sweep_again(void *arg)
{
	(void)arg;
	sweeper.retry = berth_timer_free(sweeper.retry);
	sweep();
}

/* The kernel shows one zombie at a time. Where that one is somebody's, orphans behind it must wait
 * until it is reaped. */
static void sweep(void)
{
	for (;;) {
		siginfo_t si = {0};
		int status = 0;
		pthread_mutex_lock(&registry.lock);
		bool found =
		        waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid > 0;
		bool ours = found && registry_has(si.si_pid);
		if (found && !ours)
			found = waitpid(si.si_pid, &status, WNOHANG) == si.si_pid;
		if (found && !ours)
			orphan_keep(si.si_pid, status);
		pthread_mutex_unlock(&registry.lock);
		if (ours && !sweeper.retry)
			sweeper.retry =
			        berth_timer_start(sweeper.loop, SWEEP_RETRY_MS, sweep_again, NULL);
		if (!found || ours)
			return;
		if (sweeper.on_orphan)
			sweeper.on_orphan(si.si_pid, status, sweeper.arg);
	}
}

static void on_sigchld(uv_signal_t *h, int signum)
{
	(void)h;
	(void)signum;
	sweep();
}

void berth_child_init(
        struct berth_loop *l, void (*on_orphan)(pid_t pid, int status, void *arg), void *arg)
{
	berth_assert_loop();
	have_first_nofile = getrlimit(RLIMIT_NOFILE, &first_nofile) == 0;
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	sweeper.loop = l;
	sweeper.on_orphan = on_orphan;
	sweeper.arg = arg;
	sweeper.active = true;
	uv_signal_init(berth_loop_uv(l), &sweeper.sigchld);
	uv_signal_start(&sweeper.sigchld, on_sigchld, SIGCHLD);
	sweep();
}

void berth_child_finish(void)
{
	if (!sweeper.active)
		return;
	sweeper.active = false;
	sweeper.retry = berth_timer_free(sweeper.retry);
	uv_signal_stop(&sweeper.sigchld);
	uv_close((uv_handle_t *)&sweeper.sigchld, NULL);
	pthread_mutex_lock(&registry.lock);
	if (registry.n == 0) {
		free(registry.pids);
		registry.pids = NULL;
		registry.cap = 0;
	}
	pthread_mutex_unlock(&registry.lock);
}
