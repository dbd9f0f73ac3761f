/* What happens to a running container: exec, stdin, size, limits, pause. */
#include <berth/util.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "runc.h"

#define THIRD_FD "/proc/self/fd/3"
#define CONSOLE_NAME 64

/* A name for the console socket: in the container's directory, where the command runs, for the path
 * of a socket is short. */
static const char *console_name(struct berth_op *op, const struct runc *r, const char *exec_id)
{
	return runc_printf(op, r, "%.*s.tty", CONSOLE_NAME, exec_id);
}

static berth_status by_runtime(struct berth_op *op, const struct runc *r,
        const struct berth_ctr_args *a, const struct runc_session *s, struct berth_stdio *stdio)
{
	bool tty = (a->flags & BERTH_IO_TTY) != 0;
	/* Detached: in the foreground it would wait for all that hold its output. */
	const char *words[] = {"exec", "--detach", "--pid-file", s->pid_file, "--process", THIRD_FD,
	        tty ? "--console-socket" : a->id, tty ? s->console : NULL, a->id, NULL};
	const char *argv[RUNC_ARGS];
	runc_argv(r, s->log, words, argv);
	struct berth_run run = {.size = sizeof(run),
	        .flags = s->run_flags,
	        .argv = argv,
	        .cwd = s->dir,
	        .keep_fds = &s->process_fd,
	        .n_keep_fds = 1,
	        .pid_file = s->pid_file,
	        .console_socket = s->console};
	return r->h->spawn(op, &run, a->id, a->exec_id, stdio);
}

static berth_status check_exec(
        struct berth_op *op, const struct runc *r, const struct berth_ctr_args *a)
{
	berth_status st = runc_check_id(op, r, a->id);
	if (st == BERTH_OK)
		st = runc_check_flags(op, r, a);
	if (st != BERTH_OK)
		return st;
	if (!a->exec_id || !a->json)
		return berth_fail(r->h, op, BERTH_E_INVALID, "exec in %s: no process", a->id);
	if (strlen(a->json) > RUNC_JSON_MAX)
		return berth_fail(r->h, op, BERTH_E_EXHAUSTED,
		        "exec in %s: more than %d bytes of JSON", a->id, RUNC_JSON_MAX);
	return runc_check_id(op, r, a->exec_id);
}

berth_status runc_exec(
        struct berth_op *op, void *self, const struct berth_ctr_args *a, struct berth_stdio *stdio)
{
	const struct runc *r = self;
	berth_status st = check_exec(op, r, a);
	if (st != BERTH_OK)
		return st;
	const char *dir = runc_file(op, r, a->id, RUNC_DIR);
	/* The process description is a memfd: nothing to clean up after a crash. */
	struct runc_session s = {.dir = dir,
	        .pid_file = runc_printf(op, r, "%s/%s.pid", dir, a->exec_id),
	        .log = runc_printf(op, r, "%s/%s.log", dir, a->exec_id),
	        .console = console_name(op, r, a->exec_id),
	        .process_fd = runc_memfd(a->json),
	        .run_flags = (a->flags & BERTH_IO_TTY ? BERTH_RUN_F_TTY : 0) |
	                     (a->flags & BERTH_IO_STDIN ? BERTH_RUN_F_STDIN : 0)};
	if (s.process_fd < 0)
		return berth_fail(r->h, op, BERTH_E_INTERNAL, "exec in %s: memfd: %s", a->id,
		        strerror(errno));
	bool by_join = r->join_fd >= 0, refused = false;
	if (by_join)
		st = runc_direct_exec(op, r, a, &s, stdio, &refused);
	if (!by_join || refused)
		st = by_runtime(op, r, a, &s, stdio);
	close(s.process_fd);
	if (st == BERTH_E_UNKNOWN)
		st = runc_explain(op, r, "exec in", a->id, s.log, st);
	(void)unlink(s.log);
	return st;
}

static berth_status not_for_exec(
        struct berth_op *op, const struct runc *r, const struct berth_ctr_args *a, const char *what)
{
	berth_status st = runc_check_id(op, r, a->id);
	if (st == BERTH_OK && a->exec_id)
		st = berth_fail(r->h, op, BERTH_E_UNIMPLEMENTED,
		        "%s %s: the host holds the streams of its exec sessions", what, a->id);
	return st;
}

berth_status runc_close_stdin(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	berth_status st = not_for_exec(op, r, a, "close stdin of");
	return st == BERTH_OK ? r->mon->close_stdin(op, r->h, a->bundle) : st;
}

berth_status runc_resize(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	berth_status st = not_for_exec(op, r, a, "resize");
	return st == BERTH_OK ? r->mon->resize(op, r->h, a->bundle, a->width, a->height) : st;
}

berth_status runc_update(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	const char *words[] = {"update", "--resources", THIRD_FD, a->id, NULL};
	berth_status st = runc_check_id(op, r, a->id);
	if (st == BERTH_OK && !a->json)
		st = berth_fail(r->h, op, BERTH_E_INVALID, "update %s: no resources", a->id);
	return st == BERTH_OK ? runc_command(op, r, "update", a->id, words, a->json) : st;
}

berth_status runc_pause(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	const char *words[] = {"pause", a->id, NULL};
	berth_status st = runc_check_id(op, r, a->id);
	if (st != BERTH_OK)
		return st;
	/* First the mark: a kill that finds it without need only tries a resume in vain. */
	int fd = open(runc_file(op, r, a->id, RUNC_PAUSED), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	st = runc_command(op, r, "pause", a->id, words, NULL);
	if (st != BERTH_OK)
		(void)unlink(runc_file(op, r, a->id, RUNC_PAUSED));
	return st;
}

berth_status runc_resume(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	const struct runc *r = self;
	const char *words[] = {"resume", a->id, NULL};
	const struct runc_call call = {.what = "resume", .id = a->id, .words = words};
	char *said = NULL;
	berth_status st = runc_check_id(op, r, a->id);
	if (st == BERTH_OK)
		st = runc_call(op, r, &call, &said);
	/* The mark is older than the pause: a host that was killed may have left it alone. */
	if (st == BERTH_OK && (!said || strcasestr(said, "not paused")))
		(void)unlink(runc_file(op, r, a->id, RUNC_PAUSED));
	return st == BERTH_OK && said ? r->h->fail(op, runc_status_of(said), 0,
	                                        runc_printf(op, r, "resume %s: %s", a->id, said))
	                              : st;
}
