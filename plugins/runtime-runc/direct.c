/* Exec without the runtime: berth-join enters the container by itself. */
#include <berth/util.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runc.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#define HELPER_MAX (16 * 1024 * 1024)
#define SELF "/proc/self/fd/5" /* where berth-join itself is passed */

static int copy_into(int from, int to, off_t size)
{
	off_t at = 0;

	while (at < size) {
		ssize_t n = sendfile(to, from, &at, (size_t)(size - at));
		if (n == 0)
			errno = EIO;
		if (n <= 0)
			return -1;
	}
	return 0;
}

/* A copy that nobody can write. */
static int seal_copy(int from)
{
	struct stat st;
	int fd = memfd_create("berth-join", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);

	if (fd < 0 && errno == EINVAL) /* kernels before 6.3 */
		fd = memfd_create("berth-join", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (fstat(from, &st) < 0)
		;
	else if (!S_ISREG(st.st_mode) || st.st_size > HELPER_MAX)
		errno = EINVAL;
	else if (copy_into(from, fd, st.st_size) == 0 && fchmod(fd, 0500) == 0 &&
	         fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) ==
	                 0)
		return fd;
	int e = errno;
	close(fd);
	errno = e;
	return -1;
}

static berth_status check_runtime(struct berth_op *op, const struct runc *r)
{
	const char *argv[] = {r->path, "--version", NULL};
	struct berth_run run = {.size = sizeof(run), .argv = argv, .term_grace_ms = 500};
	struct berth_run_result out = {.size = sizeof(out)};
	berth_status st = r->h->run(op, &run, &out);

	if (st == BERTH_OK && strncmp(out.out, "runc version ", 13) != 0)
		st = berth_fail(r->h, op, BERTH_E_PRECONDITION,
		        "exec_helper: berth-join does as runc does, and %s is another runtime",
		        r->path);
	return st;
}

berth_status runc_direct_open(struct berth_op *op, struct runc *r, const char *path)
{
	berth_status st = check_runtime(op, r);
	if (st != BERTH_OK)
		return st;
	int from = open(path, O_RDONLY | O_CLOEXEC);
	r->join_fd = from < 0 ? -1 : seal_copy(from);
	int e = errno;
	if (from >= 0)
		close(from);
	return r->join_fd >= 0 ? BERTH_OK
	                       : berth_fail(r->h, op, BERTH_E_PRECONDITION, "exec_helper %s: %s",
	                                 path, strerror(e));
}

static berth_status find_init(struct berth_op *op, const struct runc *r,
        const struct berth_ctr_args *a, struct berth_ctr_state *ret)
{
	berth_status st = r->mon->state(op, r->h, a->id, a->bundle, ret);
	struct stat paused;

	if (st == BERTH_OK && (ret->status != BERTH_ST_RUNNING || ret->pid <= 1))
		return berth_fail(
		        r->h, op, BERTH_E_PRECONDITION, "exec in %s: it is not running", a->id);
	if (st == BERTH_OK && lstat(runc_file(op, r, a->id, RUNC_PAUSED), &paused) == 0)
		return berth_fail(
		        r->h, op, BERTH_E_PRECONDITION, "exec in %s: it is paused", a->id);
	return st;
}

static berth_status run_join(struct berth_op *op, const struct runc *r,
        const struct berth_ctr_args *a, const struct runc_session *s,
        const struct berth_ctr_state *init, const int32_t keep[3], struct berth_stdio *stdio)
{
	bool tty = (a->flags & BERTH_IO_TTY) != 0;
	const char *argv[] = {SELF, "--pid", runc_printf(op, r, "%d", init->pid), "--start",
	        runc_printf(op, r, "%llu", (unsigned long long)init->pid_start_ns), "--id", a->id,
	        "--pid-file", s->pid_file, "--log", s->log, "--filter",
	        runc_file(op, r, a->id, RUNC_FILTER), tty ? "--console" : NULL, s->console, NULL};
	struct berth_run run = {.size = sizeof(run),
	        .flags = s->run_flags,
	        .argv = argv,
	        .cwd = s->dir,
	        .keep_fds = keep,
	        .n_keep_fds = 3,
	        .pid_file = s->pid_file,
	        .console_socket = s->console};
	return r->h->spawn(op, &run, a->id, a->exec_id, stdio);
}

/* A refusal comes before anything was begun. */
static bool was_refused(struct berth_op *op, const struct runc *r, const char *id, const char *log)
{
	const char *msg = runc_log_message(op, r, log, "refused");
	if (!msg)
		return false;
	(void)unlink(log);
	r->h->log(r->h, op, BERTH_LOG_DEBUG,
	        runc_printf(op, r, "exec in %s goes by the runtime: %s", id, msg));
	return true;
}

berth_status runc_direct_exec(struct berth_op *op, const struct runc *r,
        const struct berth_ctr_args *a, const struct runc_session *s, struct berth_stdio *stdio,
        bool *ret_refused)
{
	struct berth_ctr_state init = {.size = sizeof(init)};
	berth_status st = find_init(op, r, a, &init);
	if (st != BERTH_OK)
		return st;
	const char *path = runc_printf(op, r, "%s/config.json", a->bundle);
	int config = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (config < 0)
		return berth_fail(r->h, op, BERTH_E_INTERNAL, "exec in %s: %s: %s", a->id, path,
		        strerror(errno));
	/* One for each command: a container whose own file is "#!/proc/self/exe" gets hold of it,
	 * and may change its mode or lock it. */
	int self = seal_copy(r->join_fd);
	if (self < 0) {
		st = berth_fail(r->h, op, BERTH_E_EXHAUSTED, "exec in %s: a copy of berth-join: %s",
		        a->id, strerror(errno));
	} else {
		const int32_t keep[] = {s->process_fd, config, self};
		st = run_join(op, r, a, s, &init, keep, stdio);
		close(self);
	}
	close(config);
	*ret_refused = st == BERTH_E_UNKNOWN && was_refused(op, r, a->id, s->log);
	return st;
}
