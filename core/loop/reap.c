/* The children that somebody waits for, waiting for them, and the sweeper for all others. */
#include "loop/reap.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "loop/child.h"

/* The children that somebody waits for. One that is just being started is listed before it runs, so
 * that the sweeper takes none of them for an orphan. The lock is not held meanwhile: clone()
 * returns when the child has done its exec, and the loop wants the lock. */
static struct {
	pthread_mutex_t lock;
	struct child_starting *starting;
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
	for (const struct child_starting *s = registry.starting; s; s = s->next) {
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

void child_starting_add(struct child_starting *s)
{
	pthread_mutex_lock(&registry.lock);
	s->next = registry.starting;
	registry.starting = s;
	pthread_mutex_unlock(&registry.lock);
}

void child_starting_drop(struct child_starting *s, pid_t listed)
{
	pthread_mutex_lock(&registry.lock);
	for (struct child_starting **q = &registry.starting; *q; q = &(*q)->next) {
		if (*q == s) {
			*q = s->next;
			break;
		}
	}
	if (listed > 0)
		registry_add(listed);
	pthread_mutex_unlock(&registry.lock);
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
	child_keep_limits();
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
