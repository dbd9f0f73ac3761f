/* The life of a container: create under a monitor, start, kill, state, remove, list. */
#include <berth/util.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runc.h"

#define LIST_MAX 65536

static bool exists(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static void remove_files(struct berth_op *op, const struct runc *r, const char *id)
{
	const char *dir = runc_file(op, r, id, RUNC_DIR);
	DIR *d = opendir(dir);

	/* Those of execs that a killed daemon left, too. */
	for (struct dirent *e; d && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			(void)unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	(void)rmdir(dir);
}

static berth_status prepare(
        struct berth_op *op, const struct runc *r, const struct berth_ctr_args *a)
{
	const char *state = runc_state_dir(op, r, a->id);
	if (exists(state))
		return berth_fail(r->h, op, BERTH_E_EXISTS,
		        "create %s: the runtime already has it in %s", a->id, state);
	const char *dir = runc_file(op, r, a->id, RUNC_DIR);
	remove_files(op, r, a->id);
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return berth_fail(r->h, op, BERTH_E_INTERNAL, "create %s: %s: %s", a->id, dir,
		        strerror(errno));
	/* list() finds the monitor's records by it. */
	if (symlink(a->bundle, runc_file(op, r, a->id, RUNC_BUNDLE)) < 0)
		return berth_fail(r->h, op, BERTH_E_INTERNAL, "create %s: %s: %s", a->id, dir,
		        strerror(errno));
	return BERTH_OK;
}

berth_status runc_create(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	berth_status st = runc_check_id(op, r, a->id);
	if (st != BERTH_OK)
		return st;
	if ((st = runc_check_flags(op, r, a)) != BERTH_OK)
		return st;
	if (!a->bundle || a->bundle[0] != '/')
		return berth_fail(r->h, op, BERTH_E_INVALID, "create %s: no bundle", a->id);
	if ((st = prepare(op, r, a)) != BERTH_OK)
		return st;

	const char *log = runc_file(op, r, a->id, RUNC_LOG);
	const char *pid_file = runc_printf(op, r, "%s/pid", a->bundle);
	/* Relative to the bundle, where the command runs: the path of a socket is short. */
	const char *console = "../console";
	bool tty = (a->flags & BERTH_IO_TTY) != 0;
	const char *words[] = {"create", "--bundle", a->bundle, "--pid-file", pid_file,
	        tty ? "--console-socket" : a->id, tty ? console : NULL, a->id, NULL};
	const char *argv[RUNC_ARGS];
	runc_argv(r, log, words, argv);
	struct berth_monitor_args args = {.size = sizeof(args),
	        .flags = a->flags & (BERTH_IO_TTY | BERTH_IO_STDIN | BERTH_IO_STDIN_ONCE),
	        .id = a->id,
	        .bundle = a->bundle,
	        .log_path = a->log_path,
	        .argv = argv,
	        .pid_file = pid_file,
	        .console_socket = tty ? console : NULL};
	struct berth_monitor_result res = {.size = sizeof(res)};
	st = r->mon->start(op, r->h, &args, &res);
	if (st == BERTH_OK) {
		(void)unlink(log);
		return BERTH_OK;
	}
	if (st == BERTH_E_UNKNOWN)
		st = runc_explain(op, r, "create", a->id, log, st);
	if (exists(runc_state_dir(op, r, a->id)) && !r->h->op_cancelled(op)) {
		/* What it left behind; its own failure would hide the first one. A cancelled op
		 * runs nothing more: there remove() does it. */
		const char *undo[] = {"delete", "--force", a->id, NULL};
		(void)runc_command(op, r, "delete", a->id, undo, NULL);
	}
	remove_files(op, r, a->id);
	return st;
}

berth_status runc_start(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	const char *words[] = {"start", a->id, NULL};
	berth_status st = runc_check_id(op, r, a->id);
	if (st == BERTH_OK)
		st = runc_command(op, r, "start", a->id, words, NULL);
	if (st == BERTH_OK) {
		/* Its time is when. */
		int fd = open(runc_file(op, r, a->id, RUNC_STARTED),
		        O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd >= 0)
			close(fd);
	}
	return st;
}

static uint64_t changed_ns(const char *path)
{
	struct stat s;
	if (lstat(path, &s) < 0)
		return 0;
	return (uint64_t)s.st_mtim.tv_sec * 1000000000u + (uint64_t)s.st_mtim.tv_nsec;
}

static berth_status read_state(struct berth_op *op, const struct runc *r, const char *id,
        const char *bundle, struct berth_ctr_state *res)
{
	berth_status st = r->mon->state(op, r->h, id, bundle, res);
	uint64_t started = 0;
	if (st != BERTH_OK)
		return st;
	if (BERTH_HAS(struct berth_ctr_state, res, started_ns))
		started = res->started_ns = changed_ns(runc_file(op, r, id, RUNC_STARTED));
	if (res->status != BERTH_ST_RUNNING)
		return BERTH_OK;
	/* The init of runc and crun waits on this until `start`. */
	if (exists(runc_printf(op, r, "%s/%s/exec.fifo", r->root, id)))
		res->status = BERTH_ST_CREATED;
	else if (exists(runc_file(op, r, id, RUNC_PAUSED)))
		res->status = BERTH_ST_PAUSED;
	/* A host that died right after the runtime's start: when its FIFO went is when that was. */
	if (res->status != BERTH_ST_CREATED && !started &&
	        BERTH_HAS(struct berth_ctr_state, res, started_ns))
		res->started_ns = changed_ns(runc_state_dir(op, r, id));
	return BERTH_OK;
}

berth_status runc_state(struct berth_op *op, void *self, const struct berth_ctr_args *a,
        struct berth_ctr_state *res)
{
	const struct runc *r = self;
	berth_status st = runc_check_id(op, r, a->id);
	if (st != BERTH_OK)
		return st;
	if (a->exec_id)
		return berth_fail(r->h, op, BERTH_E_UNIMPLEMENTED,
		        "state %s: the host holds its exec sessions", a->id);
	return read_state(op, r, a->id, a->bundle, res);
}

static bool started_at(int32_t pid, uint64_t start)
{
	char path[40], buf[1024];
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return false;
	buf[n] = '\0';
	char *p = strrchr(buf, ')');
	uint64_t at;
	return p &&
	       sscanf(p + 1,
	               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
	               "%*d %*d %" SCNu64,
	               &at) == 1 &&
	       at == start;
}

berth_status runc_kill(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	berth_status st = runc_check_id(op, r, a->id);
	if (st != BERTH_OK)
		return st;
	if (a->exec_id)
		return berth_fail(r->h, op, BERTH_E_UNIMPLEMENTED,
		        "kill %s: the host holds its exec sessions", a->id);
	if (a->signal < 1 || a->signal > SIGRTMAX)
		return berth_fail(
		        r->h, op, BERTH_E_INVALID, "kill %s: signal %d", a->id, a->signal);
	struct berth_ctr_state s = {.size = sizeof(s)};
	st = r->mon->state(op, r->h, a->id, a->bundle, &s);
	if (st != BERTH_OK || s.pid <= 0)
		return st; /* ended: nothing to do */
	/* In this process and by pidfd: a kill depends on nothing that could hang. */
	int fd = (int)syscall(SYS_pidfd_open, s.pid, 0);
	if (fd < 0)
		return errno == ESRCH ? BERTH_OK
		                      : berth_fail(r->h, op, BERTH_E_INTERNAL, "kill %s: pidfd: %s",
		                                a->id, strerror(errno));
	if (started_at(s.pid, s.pid_start_ns) &&
	        syscall(SYS_pidfd_send_signal, fd, a->signal, NULL, 0) < 0 && errno != ESRCH)
		st = berth_fail(r->h, op, errno == EPERM ? BERTH_E_PERMISSION : BERTH_E_INTERNAL,
		        "kill %s: pid %d: %s", a->id, s.pid, strerror(errno));
	close(fd);
	if (st == BERTH_OK && a->signal == SIGKILL &&
	        exists(runc_file(op, r, a->id, RUNC_PAUSED))) {
		/* A frozen v1 cgroup holds even SIGKILL back. */
		const char *words[] = {"resume", a->id, NULL};
		if (runc_command(op, r, "resume", a->id, words, NULL) == BERTH_OK)
			(void)unlink(runc_file(op, r, a->id, RUNC_PAUSED));
	}
	return st;
}

/* A runc that was killed in an exec leaves the bind mount of its own binary (runc.XXXXXX) in the
 * state directory, and then no delete can remove that. */
static void release_binaries(const char *dir)
{
	DIR *d = opendir(dir);
	if (!d)
		return;
	for (struct dirent *e; (e = readdir(d));) {
		char path[PATH_MAX];
		if (strncmp(e->d_name, "runc.", 5) != 0 ||
		        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) >= (int)sizeof(path))
			continue;
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0 || errno == EINVAL)
			unlink(path);
	}
	closedir(d);
}

berth_status runc_remove(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	const char *words[] = {"delete", "--force", a->id, NULL};
	berth_status st = runc_check_id(op, r, a->id);
	if (st != BERTH_OK)
		return st;
	const char *dir = runc_state_dir(op, r, a->id);
	if (exists(dir)) {
		release_binaries(dir);
		st = runc_command(op, r, "delete", a->id, words, NULL);
		/* An empty directory is what a killed create leaves; runtimes differ about it. */
		if (st != BERTH_OK && st != BERTH_E_CANCELLED && st != BERTH_E_DEADLINE &&
		        (rmdir(dir) == 0 || errno == ENOENT))
			st = BERTH_OK;
	}
	if (st == BERTH_OK)
		remove_files(op, r, a->id);
	return st;
}

berth_status runc_list(struct berth_op *op, void *self, struct berth_ctr_list *res)
{
	const struct runc *r = self;
	DIR *d = opendir(r->root);
	if (!d)
		return errno == ENOENT ? BERTH_OK
		                       : berth_fail(r->h, op, BERTH_E_INTERNAL, "list: %s: %s",
		                                 r->root, strerror(errno));
	const struct berth_ctr_state **v = NULL;
	uint32_t n = 0, cap = 0;
	for (struct dirent *e; (e = readdir(d)) && n < LIST_MAX;) {
		if (e->d_name[0] == '.')
			continue;
		if (n == cap) {
			uint32_t more = cap ? cap * 2 : 32;
			const struct berth_ctr_state **w = r->h->op_alloc(op, more * sizeof(*w));
			if (v)
				memcpy(w, v, n * sizeof(*w));
			v = w;
			cap = more;
		}
		struct berth_ctr_state *s = r->h->op_alloc(op, sizeof(*s));
		char bundle[RUNC_PATH_MAX];
		s->size = sizeof(*s);
		s->id = berth_dup(r->h, op, e->d_name);
		ssize_t len =
		        readlink(runc_file(op, r, s->id, RUNC_BUNDLE), bundle, sizeof(bundle) - 1);
		if (len > 0)
			bundle[len] = '\0';
		if (len <= 0 || read_state(op, r, s->id, bundle, s) != BERTH_OK) {
			const char *id = s->id;
			*s = (struct berth_ctr_state){
			        .size = sizeof(*s), .status = BERTH_ST_UNKNOWN, .id = id};
		}
		v[n++] = s;
	}
	closedir(d);
	res->n = n;
	res->ctrs = v;
	return BERTH_OK;
}
