/* Child processes: one place starts them and one reaps them.
 *
 * berthd is a child subreaper: it also inherits what its children leave behind. A child started
 * here is reaped by whoever waits for it through this module; every other zombie (an orphan) is
 * reaped by the sweeper, which peeks with WNOWAIT and never takes a child that is registered.
 * Nobody calls waitpid(-1). */
#ifndef BERTH_LOOP_CHILD_H
#define BERTH_LOOP_CHILD_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "loop/loop.h"

struct berth_child_spec {
	const char *const *argv; /* absolute argv[0] */
	const char *const *envp; /* NULL = PATH and nothing else */
	const char *cwd;         /* NULL = "/" */
	int stdio[3];            /* the child's 0, 1, 2; -1 = /dev/null */
	const int *keep_fds;     /* become 3, 4, ... in order */
	uint32_t n_keep_fds;
	const char *const *cgroup_procs; /* cgroup.procs files the child enters before exec,
	                                    NULL-terminated; may be NULL */
	int terminal;    /* 1: stdio[0] is a pty slave that becomes the controlling terminal */
	int new_session; /* 1: setsid */
	/* 0 = none. What descends from the child inherits it, whatever becomes of its parents,
	 * session and cgroup: berth_kill_tree() finds it by that. It is the limit of the CPU time
	 * that a real-time task may take without a pause, in microseconds; those of
	 * berth_child_mark() are as good as unlimited. */
	uint64_t mark;
};

/* [any] The child starts with default signal mask and dispositions, umask 022, the rlimits, nice
 * and oom_score_adj that berthd was started with, and only the fds named. Returns its pidfd (owned
 * by the caller) and pid. The error names argv[0]. */
int berth_child_start(const struct berth_child_spec *spec, pid_t *ret_pid, int *ret_pidfd,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] Waits for a registered child and reaps it; status as waitpid(2). */
int berth_child_wait(pid_t pid, int pidfd, int *ret_status);
/* [loop] When the child ends it is reaped and fn(pid, wait_status, arg) runs on the loop, once. The
 * pidfd stays the caller's and must stay open until then. */
struct berth_child_watch;
struct berth_child_watch *berth_child_watch(struct berth_loop *l, pid_t pid, int pidfd,
        void (*fn)(pid_t pid, int status, void *arg), void *arg);
struct berth_child_watch *berth_child_unwatch(
        struct berth_child_watch *w); /* the child stays registered */

/* [loop] PR_SET_CHILD_SUBREAPER and the sweeper on SIGCHLD. on_orphan(pid, status, arg) for each
 * orphan that it reaped: the container of a monitor that died, for one. */
void berth_child_init(
        struct berth_loop *l, void (*on_orphan)(pid_t pid, int status, void *arg), void *arg);
void berth_child_finish(void);

/* Grandchildren whose parent ends on purpose. Between expect and expect_end the sweeper remembers
 * how orphans ended; every expect has its end. [any] */
void berth_child_expect(void);
void berth_child_expect_end(void);
/* [any] Makes an orphan a child of its own: a pidfd, and it is reaped through this module from now
 * on; or, where it has ended and was swept, *ret_pidfd is -1 and *ret_status its wait status.
 * -ECHILD where it never was a child of this process. */
int berth_child_claim(pid_t pid, int *ret_pidfd, int *ret_status) BERTH_MUST_CHECK;

/* A mark for `name`, never 0; the same for the same name. */
uint64_t berth_child_mark(const char *name);
/* SIGKILL to a process and all that descend from it, parents stopped first so that none is missed;
 * orphans are found by the session that one of them began, and by the mark (0 = none). pid 0: those
 * with the mark alone. Returns when the descendants are reaped, at the latest after reap_wait_ms
 * (0: at once). [worker] */
void berth_kill_tree(pid_t pid, uint64_t mark, unsigned int reap_wait_ms);

#endif
