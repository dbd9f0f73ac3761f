/* host->spawn(): children that outlive their op, exec sessions above all. The host keeps their
 * pidfds, reaps and kills them, and tells their end by BERTH_EV_EXIT. */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/fd.h"
#include "loop/child.h"
#include "plugin/internal.h"

#define REAP_WAIT_MS 1000

struct spawned {
	struct spawned *next;
	struct berth_instance *instance;
	char *object_id, *exec_id;
	pid_t pid;
	int pidfd;
	bool ended;
	struct berth_child_watch *watch; /* [loop] */
};

static struct {
	pthread_mutex_t lock;
	struct spawned *first;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void unlink_locked(struct spawned *s)
{
	for (struct spawned **p = &all.first; *p; p = &(*p)->next) {
		if (*p == s) {
			*p = s->next;
			return;
		}
	}
}

static void spawned_free(struct spawned *s)
{
	berth_close(s->pidfd);
	free(s->object_id);
	free(s->exec_id);
	free(s);
}

static void ended(pid_t pid, int status, void *arg)
{
	struct spawned *s = arg;
	(void)pid;
	pthread_mutex_lock(&all.lock);
	unlink_locked(s);
	pthread_mutex_unlock(&all.lock);
	struct berth_event ev = {
	        .size = sizeof(ev),
	        .type = BERTH_EV_EXIT,
	        .object_id = s->object_id,
	        .exec_id = s->exec_id,
	        .exit = {.flags = BERTH_EXIT_KNOWN},
	        .when_ns = berth_realtime_ns(),
	};
	if (WIFSIGNALED(status)) {
		ev.exit.flags |= BERTH_EXIT_SIGNALLED;
		ev.exit.code = WTERMSIG(status);
	} else {
		ev.exit.code = WEXITSTATUS(status);
	}
	berth_instance_emit(s->instance, &ev);
	spawned_free(s);
}

static void begin_watch(void *arg)
{
	struct spawned *s = arg;
	s->watch = berth_child_watch(s->instance->owner->loop, s->pid, s->pidfd, ended, s);
}

struct ends { /* the child's and ours */
	int child[3], ours[3];
};

static int open_ends(const struct berth_run *spec, struct ends *e)
{
	for (int i = 0; i < 3; i++)
		e->child[i] = e->ours[i] = -1;
	if (spec->flags & BERTH_RUN_F_TTY) {
		int master, slave;
		if (openpty(&master, &slave, NULL, NULL, NULL) < 0)
			return -errno;
		fcntl(master, F_SETFD, FD_CLOEXEC);
		fcntl(slave, F_SETFD, FD_CLOEXEC);
		e->ours[0] = master;
		e->ours[1] = fcntl(master, F_DUPFD_CLOEXEC, 0);
		for (int i = 0; i < 3; i++)
			e->child[i] = i == 0 ? slave : fcntl(slave, F_DUPFD_CLOEXEC, 0);
		return 0;
	}
	for (int i = (spec->flags & BERTH_RUN_F_STDIN) ? 0 : 1; i < 3; i++) {
		int fds[2];
		if (pipe2(fds, O_CLOEXEC) < 0)
			return -errno;
		/* As the monitor's: /dev/stdout may be opened by one to whom we are nobody. */
		(void)fchmod(fds[0], 0666);
		e->child[i] = fds[i == 0 ? 0 : 1];
		e->ours[i] = fds[i == 0 ? 1 : 0];
	}
	return 0;
}

berth_status berth_service_spawn(struct berth_op *op, const struct berth_run *spec,
        const char *object_id, const char *exec_id, struct berth_stdio *stdio)
{
	struct berth_instance *i = call_of(op)->instance;
	struct ends e;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct spawned *s = NULL;
	char **procs = berth_cgroup_procs(spec->cgroup);

	int r = open_ends(spec, &e);
	if (r < 0) {
		berth_error_errno(&err, r, "%s: its input and output", spec->argv[0]);
	} else {
		s = berth_new(struct spawned);
		s->instance = i;
		s->object_id = berth_strdup(object_id);
		s->exec_id = berth_strdup(exec_id);
		struct berth_child_spec child = {
		        .argv = spec->argv,
		        .envp = spec->envp,
		        .cwd = spec->cwd,
		        .stdio = {e.child[0], e.child[1], e.child[2]},
		        .keep_fds = spec->keep_fds,
		        .n_keep_fds = spec->n_keep_fds,
		        .cgroup_procs = (const char *const *)(void *)procs,
		        .terminal = (spec->flags & BERTH_RUN_F_TTY) != 0,
		        .new_session = 1,
		};
		r = berth_child_start(&child, &s->pid, &s->pidfd, &err);
	}
	berth_strv_free(procs);
	for (int n = 0; n < 3; n++)
		berth_close(e.child[n]);
	if (r < 0) {
		for (int n = 0; n < 3; n++)
			berth_close(e.ours[n]);
		if (s) {
			s->pidfd = -1;
			spawned_free(s);
		}
		return berth_service_fail(op, -(berth_status)err->code, err->errnum, err->msg);
	}
	stdio->in_fd = e.ours[0];
	stdio->out_fd = e.ours[1];
	stdio->err_fd = e.ours[2];
	pthread_mutex_lock(&all.lock);
	s->next = all.first;
	all.first = s;
	pthread_mutex_unlock(&all.lock);
	berth_loop_post(i->owner->loop, begin_watch, s);
	return BERTH_OK;
}

void berth_exec_kill(struct berth_instance *i, const char *object_id, const char *exec_id)
{
	int pidfd = -1;
	pid_t pid = 0;

	pthread_mutex_lock(&all.lock);
	for (struct spawned *s = all.first; s; s = s->next) {
		if (s->instance == i && strcmp(s->object_id, object_id) == 0 &&
		        strcmp(s->exec_id, exec_id) == 0) {
			pidfd = fcntl(s->pidfd, F_DUPFD_CLOEXEC, 0);
			pid = s->pid;
		}
	}
	pthread_mutex_unlock(&all.lock);
	/* Stopped by its pidfd first, so that the pid is surely still its own. The lock is not held
	 * over the wait: the loop needs it to reap. */
	if (pidfd >= 0 && berth_pidfd_kill(pidfd, SIGSTOP) == 0)
		berth_kill_tree(pid, REAP_WAIT_MS);
	berth_close(pidfd);
}

void berth_spawned_drop(struct berth_instance *i)
{
	pthread_mutex_lock(&all.lock);
	for (struct spawned **p = &all.first; *p;) {
		struct spawned *s = *p;
		if (s->instance != i) {
			p = &s->next;
			continue;
		}
		*p = s->next;
		berth_kill_tree(s->pid, 0); /* nobody is left to read its output */
		berth_child_unwatch(s->watch);
		spawned_free(s);
	}
	pthread_mutex_unlock(&all.lock);
}
