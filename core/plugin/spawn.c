/* host->spawn(): children that outlive their op, exec sessions above all. The host keeps their
 * pidfds, reaps and kills them, and tells their end by BERTH_EV_EXIT. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "loop/child.h"
#include "plugin/internal.h"

#define REAP_WAIT_MS 1000

struct spawned {
	struct spawned *next;
	struct berth_instance *instance;
	char *object_id, *exec_id;
	pid_t pid;
	int pidfd;  /* -1: it had ended before it could be watched */
	int status; /* then */
	uint64_t mark;
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

/* ---- records: what a daemon that was killed left running ---- */

static char *record_path(const struct berth_instance *i, const char *exec_id)
{
	return berth_asprintf("%s/execs/%s", i->owner->run_root, exec_id);
}

static int record_make(const char *path, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_strndup(path, (size_t)(strrchr(path, '/') - path));
	int fd = -1;

	if (mkdir(dir, 0700) == 0 || errno == EEXIST)
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "%s", path);
	close(fd);
	return 0;
}

static void record_remove(void *arg)
{
	_cleanup_free_ char *path = arg;
	(void)unlink(path);
}

void berth_spawned_recover(const char *run_root)
{
	_cleanup_free_ char *dir = berth_asprintf("%s/execs", run_root);
	DIR *d = opendir(dir);

	if (!d)
		return;
	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		berth_log_info("a command that was under way is killed", "exec", e->d_name);
		berth_kill_tree(0, berth_child_mark(e->d_name), REAP_WAIT_MS);
		(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	closedir(d);
}

/* ---- the end ---- */

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
	char *record = record_path(s->instance, s->exec_id);
	struct berth_pool *pool = s->instance->lanes[LANE_ID_CONTROL]; /* NULL: it ends */
	if (!pool || berth_pool_run(pool, record_remove, record) < 0)
		record_remove(record);
	spawned_free(s);
}

static void begin_watch(void *arg)
{
	struct spawned *s = arg;
	if (s->pidfd < 0)
		ended(s->pid, s->status, s);
	else
		s->watch = berth_child_watch(s->instance->owner->loop, s->pid, s->pidfd, ended, s);
}

/* ---- starting ---- */

struct ends { /* the child's and ours */
	int child[3], ours[3];
	int listener; /* of the terminal, where the program makes it */
};

static bool is_detached(const struct berth_run *spec)
{
	return BERTH_HAS(struct berth_run, spec, console_socket) && spec->pid_file;
}

static int open_pty(struct ends *e)
{
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

static int open_pipes(struct ends *e, int first)
{
	for (int i = first; i < 3; i++) {
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

static int open_ends(const struct berth_run *spec, struct ends *e, struct berth_error **ret_err)
{
	int r;

	*e = (struct ends){{-1, -1, -1}, {-1, -1, -1}, -1};
	if ((spec->flags & BERTH_RUN_F_TTY) && is_detached(spec)) {
		if (!spec->console_socket)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: a terminal needs a console socket", spec->argv[0]);
		if ((e->listener = berth_detach_listen(spec, ret_err)) < 0)
			return berth_error_wrap(ret_err, "%s", spec->argv[0]);
		r = open_pipes(e, 2);
	} else if (spec->flags & BERTH_RUN_F_TTY) {
		r = open_pty(e);
	} else {
		r = open_pipes(e, (spec->flags & BERTH_RUN_F_STDIN) ? 0 : 1);
	}
	return r < 0 ? berth_error_errno(ret_err, r, "%s: its input and output", spec->argv[0]) : 0;
}

static void close_all(int fds[3])
{
	for (int i = 0; i < 3; i++)
		fds[i] = berth_close(fds[i]);
}

static int start(const struct berth_run *spec, const struct ends *e, struct spawned *s,
        struct berth_error **ret_err)
{
	char **procs = berth_cgroup_procs(spec->cgroup);
	struct berth_child_spec child = {
	        .argv = spec->argv,
	        .envp = spec->envp,
	        .cwd = spec->cwd,
	        .stdio = {e->child[0], e->child[1], e->child[2]},
	        .keep_fds = spec->keep_fds,
	        .n_keep_fds = spec->n_keep_fds,
	        .cgroup_procs = (const char *const *)(void *)procs,
	        .terminal = (spec->flags & BERTH_RUN_F_TTY) && !is_detached(spec),
	        .new_session = 1,
	        .mark = s->mark,
	};
	int r = berth_child_start(&child, &s->pid, &s->pidfd, ret_err);
	berth_strv_free(procs);
	return r;
}

/* The program has ended, and what it started is ours. */
static berth_status await(
        struct berth_op *op, const struct berth_run *spec, struct ends *e, struct spawned *s)
{
	struct berth_detach d = {
	        .pid = s->pid, .pidfd = s->pidfd, .listener = e->listener, .mark = s->mark};
	int master = -1;
	berth_status st = berth_detach_await(op, spec, &d, e->ours[2], &master);

	s->pid = d.pid;
	s->pidfd = d.pidfd;
	s->status = d.status;
	if (st != BERTH_OK || e->listener < 0)
		return st;
	e->ours[2] = berth_close(e->ours[2]); /* the program's words; a terminal has no stderr */
	e->ours[0] = master;
	e->ours[1] = fcntl(master, F_DUPFD_CLOEXEC, 0);
	return BERTH_OK;
}

static berth_status start_and_await(struct berth_op *op, const struct berth_run *spec,
        struct ends *e, struct spawned *s, struct berth_error **ret_err)
{
	berth_status st = BERTH_OK;

	if (open_ends(spec, e, ret_err) < 0)
		return -(berth_status)(*ret_err)->code;
	if (is_detached(spec))
		berth_child_expect();
	berth_fault("exec-start-before");
	if (start(spec, e, s, ret_err) < 0)
		st = -(berth_status)(*ret_err)->code;
	close_all(e->child);
	if (st == BERTH_OK && is_detached(spec))
		st = await(op, spec, e, s);
	if (is_detached(spec))
		berth_child_expect_end();
	if (e->listener >= 0) {
		_cleanup_free_ char *path =
		        berth_asprintf("%s/%s", spec->cwd ? spec->cwd : "/", spec->console_socket);
		(void)unlink(path);
	}
	e->listener = berth_close(e->listener);
	return st;
}

berth_status berth_service_spawn(struct berth_op *op, const struct berth_run *spec,
        const char *object_id, const char *exec_id, struct berth_stdio *stdio)
{
	struct berth_instance *i = call_of(op)->instance;
	struct ends e;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	if (!*exec_id || strchr(exec_id, '/') || exec_id[0] == '.')
		return berth_service_failf(op, BERTH_E_INVALID, 0,
		        "spawn for %s: \"%.128s\" is no name of an exec session", object_id,
		        exec_id);
	_cleanup_free_ char *record = record_path(i, exec_id);
	if (record_make(record, &err) < 0)
		return berth_service_fail(op, -(berth_status)err->code, err->errnum, err->msg);
	struct spawned *s = berth_new(struct spawned);
	s->instance = i;
	s->pidfd = -1;
	s->object_id = berth_strdup(object_id);
	s->exec_id = berth_strdup(exec_id);
	s->mark = berth_child_mark(exec_id);
	berth_status st = start_and_await(op, spec, &e, s, &err);
	if (st != BERTH_OK) {
		close_all(e.child);
		close_all(e.ours);
		spawned_free(s);
		(void)unlink(record);
		return err ? berth_service_fail(op, st, err->errnum, err->msg) : st;
	}
	berth_fault("exec-start-after");
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
	/* Stopped by its pidfd first, so that the pid is surely still its own. Where it has ended
	 * already, what it left behind is found by the mark. The lock is not held over the wait:
	 * the loop needs it to reap. */
	if (pidfd < 0 || berth_pidfd_kill(pidfd, SIGSTOP) < 0)
		pid = 0;
	berth_kill_tree(pid, berth_child_mark(exec_id), REAP_WAIT_MS);
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
		/* Nobody is left to read its output. */
		berth_kill_tree(s->pid, s->mark, 0);
		record_remove(record_path(i, s->exec_id));
		berth_child_unwatch(s->watch);
		spawned_free(s);
	}
	pthread_mutex_unlock(&all.lock);
}
