/* Running the runtime's command line and understanding what it says. */
#include <berth/util.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runc.h"

char *runc_printf(struct berth_op *op, const struct runc *r, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	char *s = r->h->op_alloc(op, (uint64_t)n + 1);
	vsnprintf(s, (size_t)n + 1, fmt, again);
	va_end(again);
	va_end(ap);
	return s;
}

char *runc_file(struct berth_op *op, const struct runc *r, const char *id, enum runc_file f)
{
	static const char *const names[] = {[RUNC_DIR] = "",
	        [RUNC_BUNDLE] = "/bundle",
	        [RUNC_STARTED] = "/started",
	        [RUNC_PAUSED] = "/paused",
	        [RUNC_LOG] = "/log",
	        [RUNC_FILTER] = "/filter"};
	return runc_printf(op, r, "%s/ctr/%s%s", r->h->run_dir, id, names[f]);
}

char *runc_state_dir(struct berth_op *op, const struct runc *r, const char *id)
{
	return runc_printf(op, r, "%s/%s", r->root, id);
}

berth_status runc_check_id(struct berth_op *op, const struct runc *r, const char *id)
{
	static const char good[] =
	        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.";
	if (!id || !*id)
		return berth_fail(r->h, op, BERTH_E_INVALID, "a container needs an id");
	size_t n = strlen(id);
	if (id[0] == '.' || id[0] == '-' || n > 200 || strspn(id, good) != n)
		return berth_fail(r->h, op, BERTH_E_INVALID,
		        "container id '%.200s': letters, digits, _ + - . and at most 200 of them",
		        id);
	return BERTH_OK;
}

berth_status runc_check_flags(
        struct berth_op *op, const struct runc *r, const struct berth_ctr_args *a)
{
	const uint32_t known = BERTH_IO_TTY | BERTH_IO_STDIN | BERTH_IO_STDIN_ONCE;
	if (a->flags & ~known)
		return berth_fail(r->h, op, BERTH_E_INVALID, "container %s: unknown flags 0x%x",
		        a->id, (unsigned)a->flags);
	return BERTH_OK;
}

void runc_argv(const struct runc *r, const char *log, const char *const *words, const char **argv)
{
	size_t n = 0;
	argv[n++] = r->path;
	argv[n++] = "--root";
	argv[n++] = r->root;
	if (log) {
		argv[n++] = "--log";
		argv[n++] = log;
		argv[n++] = "--log-format";
		argv[n++] = "json";
	}
	if (r->systemd_cgroup)
		argv[n++] = "--systemd-cgroup";
	while (*words && n < RUNC_ARGS - 1)
		argv[n++] = *words++;
	argv[n] = NULL;
}

static char *read_tail(struct berth_op *op, const struct runc *r, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) < 0 || st.st_size <= 0) {
		close(fd);
		return NULL;
	}
	off_t from = st.st_size > RUNC_LOG_MAX ? st.st_size - RUNC_LOG_MAX : 0;
	size_t want = (size_t)(st.st_size - from), len = 0;
	char *buf = r->h->op_alloc(op, want + 1);
	ssize_t n;
	while (len < want && (n = pread(fd, buf + len, want - len, from + (off_t)len)) > 0)
		len += (size_t)n;
	close(fd);
	return buf;
}

static bool is_error(const char *level)
{
	return !level || strcmp(level, "error") == 0 || strcmp(level, "fatal") == 0;
}

char *runc_log_message(
        struct berth_op *op, const struct runc *r, const char *log, const char *wanted)
{
	char *text = read_tail(op, r, log), *save = NULL, *found = NULL;
	if (!text)
		return NULL;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		json_t *j = json_loads(line, 0, NULL);
		const char *level = json_string_value(json_object_get(j, "level"));
		const char *msg = json_string_value(json_object_get(j, "msg"));
		if (msg && *msg && (wanted ? level && !strcmp(level, wanted) : is_error(level)))
			found = berth_dup(r->h, op, msg);
		json_decref(j);
	}
	return found;
}

int runc_memfd(const char *text)
{
	int fd = memfd_create("berth-json", MFD_CLOEXEC);
	size_t n = strlen(text), at = 0;
	while (fd >= 0 && at < n) {
		ssize_t w = write(fd, text + at, n - at);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0) {
			int e = errno;
			close(fd);
			errno = e;
			return -1;
		}
		at += (size_t)w;
	}
	return fd;
}

/* What runc and crun say, in the order in which it counts: the container's own state, then the
 * command or file that was asked for, then what the kernel had against it. */
berth_status runc_status_of(const char *words)
{
	static const struct {
		const char *part;
		berth_status status;
	} known[] = {
	        {"container does not exist", BERTH_E_NOT_FOUND},
	        {"does not exist", BERTH_E_NOT_FOUND},
	        {"already exists", BERTH_E_EXISTS},
	        {"already in use", BERTH_E_EXISTS},
	        {"cannot start", BERTH_E_PRECONDITION},
	        {"cannot exec", BERTH_E_PRECONDITION},
	        {"not running", BERTH_E_PRECONDITION},
	        {"is not in running state", BERTH_E_PRECONDITION},
	        {"stopped", BERTH_E_PRECONDITION},
	        {"not found in $PATH", BERTH_E_NOT_FOUND},
	        {"no such file or directory", BERTH_E_NOT_FOUND},
	        {"permission denied", BERTH_E_PERMISSION},
	        {"operation not permitted", BERTH_E_PERMISSION},
	        {"not a directory", BERTH_E_PRECONDITION},
	        {"is a directory", BERTH_E_PRECONDITION},
	        {"exec format error", BERTH_E_PRECONDITION},
	        {"device or resource busy", BERTH_E_PRECONDITION},
	        {"cannot allocate memory", BERTH_E_EXHAUSTED},
	        {"no space left on device", BERTH_E_EXHAUSTED},
	        {"resource temporarily unavailable", BERTH_E_EXHAUSTED},
	        {"too many open files", BERTH_E_EXHAUSTED},
	        {"invalid argument", BERTH_E_INVALID},
	        {"numerical result out of range", BERTH_E_INVALID},
	        {"cannot be mounted because it is", BERTH_E_INVALID}, /* by a link into /proc */
	        {"unable to set memory limit", BERTH_E_INVALID},
	        {"memory limit too low", BERTH_E_INVALID},
	        {"memory limit could be too low", BERTH_E_INVALID},
	        {"allowed cpu-shares is", BERTH_E_INVALID},
	        {"value conversion error", BERTH_E_INVALID},
	};
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcasestr(words, known[i].part))
			return known[i].status;
	return BERTH_E_UNKNOWN;
}

berth_status runc_explain(struct berth_op *op, const struct runc *r, const char *what,
        const char *id, const char *log, berth_status st)
{
	const char *msg = runc_log_message(op, r, log, NULL);
	if (!msg)
		return st;
	return r->h->fail(
	        op, runc_status_of(msg), 0, runc_printf(op, r, "%s %s: %s", what, id, msg));
}

static char *trim(char *s)
{
	size_t n = strlen(s);
	while (n && strchr(" \t\r\n", s[n - 1]))
		s[--n] = '\0';
	return s;
}

/* What a command that failed has to say. */
static char *last_words(struct berth_op *op, const struct runc *r, const char *log,
        const struct berth_run_result *res)
{
	char *msg = runc_log_message(op, r, log, NULL);

	if (!msg && res->err_len)
		msg = trim(berth_dup(r->h, op, res->err));
	if (msg && *msg)
		return msg;
	return WIFSIGNALED(res->wait_status)
	               ? runc_printf(op, r, "killed by signal %d", WTERMSIG(res->wait_status))
	               : runc_printf(
	                         op, r, "status %d without a word", WEXITSTATUS(res->wait_status));
}

berth_status runc_call(
        struct berth_op *op, const struct runc *r, const struct runc_call *c, char **ret_said)
{
	const struct berth_host *h = r->h;
	const char *argv[RUNC_ARGS];
	/* A name of its own: concurrent commands on one container must not share a log. */
	char *log = runc_printf(op, r, "%s/%s-%p.log", h->run_dir, c->id, (void *)op);
	int32_t fd = -1;

	*ret_said = NULL;
	if (c->json && strlen(c->json) > RUNC_JSON_MAX)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "%s %s: more than %d bytes of JSON",
		        c->what, c->id, RUNC_JSON_MAX);
	if (c->json && (fd = runc_memfd(c->json)) < 0)
		return berth_fail(h, op, BERTH_E_INTERNAL, "%s %s: memfd: %s", c->what, c->id,
		        strerror(errno));
	runc_argv(r, log, c->words, argv);
	struct berth_run run = {.size = sizeof(run),
	        .argv = argv,
	        .envp = c->env,
	        .keep_fds = &fd,
	        .n_keep_fds = fd >= 0 ? 1 : 0,
	        .term_grace_ms = 2000};
	struct berth_run_result res = {.size = sizeof(res)};
	berth_status st = h->run(op, &run, &res);
	if (fd >= 0)
		close(fd);
	if (st == BERTH_OK && !(WIFEXITED(res.wait_status) && WEXITSTATUS(res.wait_status) == 0))
		*ret_said = last_words(op, r, log, &res);
	(void)unlink(log);
	return st;
}

berth_status runc_command(struct berth_op *op, const struct runc *r, const char *what,
        const char *id, const char *const *words, const char *json)
{
	const struct runc_call call = {.what = what, .id = id, .words = words, .json = json};
	char *said = NULL;
	berth_status st = runc_call(op, r, &call, &said);

	if (st != BERTH_OK || !said)
		return st;
	return r->h->fail(
	        op, runc_status_of(said), 0, runc_printf(op, r, "%s %s: %s", what, id, said));
}
