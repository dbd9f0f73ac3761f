/* A whole runtime plugin: containers by the command line of an OCI runtime (runc, crun), each under
 * a monitor of the host's (berth/monitor.h). The monitor is the container's parent, writes its log
 * and keeps its exit; so this plugin starts, asks and tells, and waits for nothing. One key of
 * configuration: `path`, the runtime.
 *
 * RUN_DIR/state is the runtime's --root, RUN_DIR/ID.ctr a link to the bundle: what list() finds.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "berth/monitor.h"
#include "berth/util.h"

#define SUFFIX ".ctr"
#define ID_MAX 128

struct oci {
	const struct berth_host *host;
	const struct berth_monitor_ext *monitor;
	char *path;
};

static char *file(struct oci *o, struct berth_op *op, const char *name, const char *suffix)
{
	char *p = o->host->op_alloc(op, PATH_MAX);
	snprintf(p, PATH_MAX, "%s/%s%s", o->host->run_dir, name, suffix);
	return p;
}

static int there(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static berth_status check_name(struct oci *o, struct berth_op *op, const char *id)
{
	size_t n = id ? strlen(id) : 0;

	errno = 0;
	if (n == 0 || n > ID_MAX || id[0] == '.' || id[0] == '-' || strchr(id, '/'))
		return berth_fail(o->host, op, BERTH_E_INVALID, "\"%.*s\" is no container's id",
		        ID_MAX, id ? id : "");
	return BERTH_OK;
}

/* ---- the runtime's command line ---- */

#define ARGS_MAX 20

static void command_line(
        struct oci *o, struct berth_op *op, const char *const *words, const char **argv)
{
	size_t n = 0;

	argv[n++] = o->path;
	argv[n++] = "--root";
	argv[n++] = file(o, op, "state", "");
	while (*words && n < ARGS_MAX - 1)
		argv[n++] = *words++;
	argv[n] = NULL;
}

static berth_status command(
        struct oci *o, struct berth_op *op, const char *id, const char *const *words)
{
	const char *argv[ARGS_MAX];
	struct berth_run run = {.size = sizeof run, .argv = argv, .term_grace_ms = 500};
	struct berth_run_result res = {.size = sizeof res};
	berth_status st;

	command_line(o, op, words, argv);
	st = o->host->run(op, &run, &res);
	errno = 0;
	if (st == BERTH_OK && res.wait_status != 0)
		st = berth_fail(o->host, op, BERTH_E_UNKNOWN, "container '%s': %s %s: %s", id,
		        o->path, words[0], res.err_len ? res.err : "it failed without a word");
	return st;
}

/* ---- what is known of a container ---- */

static berth_status look(struct oci *o, struct berth_op *op, const char *id, const char *bundle,
        struct berth_ctr_state *s)
{
	char *fifo = file(o, op, "state/", id);
	berth_status st = o->monitor->state(op, o->host, id, bundle, s);

	/* A runtime's init waits at this fifo from create to start. */
	strncat(fifo, "/exec.fifo", PATH_MAX - strlen(fifo) - 1);
	if (st == BERTH_OK && s->status == BERTH_ST_RUNNING && there(fifo))
		s->status = BERTH_ST_CREATED;
	return st;
}

/* It must be in this state. */
static berth_status must_be(
        struct oci *o, struct berth_op *op, const struct berth_ctr_args *a, uint32_t status)
{
	struct berth_ctr_state s = {.size = sizeof s};
	berth_status st = check_name(o, op, a->id);

	if (st == BERTH_OK)
		st = look(o, op, a->id, a->bundle, &s);
	errno = 0;
	if (st == BERTH_OK && s.status != status)
		st = berth_fail(o->host, op, BERTH_E_PRECONDITION,
		        "container '%s' is not in the state %u but in %u", a->id, status, s.status);
	return st;
}

static berth_status op_state(struct berth_op *op, void *self, const struct berth_ctr_args *a,
        struct berth_ctr_state *res)
{
	struct oci *o = self;
	berth_status st = check_name(o, op, a->id);

	return st == BERTH_OK ? look(o, op, a->id, a->bundle, res) : st;
}

/* One of the directory's entries; NULL where it is no container. */
static struct berth_ctr_state *listed(struct oci *o, struct berth_op *op, const char *name)
{
	size_t n = strlen(name), m = strlen(SUFFIX);
	char bundle[PATH_MAX];
	struct berth_ctr_state *s;
	char *id;
	ssize_t len;

	if (n <= m || strcmp(name + n - m, SUFFIX) != 0)
		return NULL;
	len = readlink(file(o, op, name, ""), bundle, sizeof bundle - 1);
	bundle[len > 0 ? len : 0] = '\0';
	id = berth_dup(o->host, op, name);
	id[n - m] = '\0';
	s = o->host->op_alloc(op, sizeof *s);
	s->size = sizeof *s;
	if (look(o, op, id, bundle, s) != BERTH_OK)
		s->status = BERTH_ST_UNKNOWN; /* a create that did not come to its end */
	s->id = id;
	return s;
}

static berth_status op_list(struct berth_op *op, void *self, struct berth_ctr_list *res)
{
	struct oci *o = self;
	const struct berth_ctr_state **v = NULL, **more;
	uint32_t n = 0, room = 0;
	struct dirent *e;
	DIR *d = opendir(o->host->run_dir);

	if (!d)
		return berth_fail(o->host, op, BERTH_E_INTERNAL, "list of containers: %s: %s",
		        o->host->run_dir, strerror(errno));
	while ((e = readdir(d))) {
		const struct berth_ctr_state *s = listed(o, op, e->d_name);
		if (!s)
			continue;
		if (n == room) {
			more = o->host->op_alloc(op, (room * 2 + 16) * sizeof *more);
			if (n)
				memcpy(more, v, n * sizeof *v);
			v = more;
			room = room * 2 + 16;
		}
		v[n++] = s;
	}
	closedir(d);
	res->ctrs = v;
	res->n = n;
	return BERTH_OK;
}

/* ---- its life ---- */

static berth_status clean(struct oci *o, struct berth_op *op, const char *id)
{
	const char *const words[] = {"delete", "--force", id, NULL};
	char *state = file(o, op, "state/", id);
	berth_status st = there(state) ? command(o, op, id, words) : BERTH_OK;

	if (st != BERTH_OK && rmdir(state) == 0)
		st = BERTH_OK; /* an empty directory, which a killed create left */
	if (st == BERTH_OK)
		(void)unlink(file(o, op, id, SUFFIX));
	return st;
}

static berth_status op_create(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct oci *o = self;
	const uint32_t known = BERTH_IO_TTY | BERTH_IO_STDIN | BERTH_IO_STDIN_ONCE;
	const int tty = (a->flags & BERTH_IO_TTY) != 0;
	const char *argv[ARGS_MAX];
	berth_status st = check_name(o, op, a->id);
	char *pid_file, *link_path;

	if (st != BERTH_OK)
		return st;
	if ((a->flags & ~known) || !a->bundle)
		return berth_fail(o->host, op, BERTH_E_INVALID,
		        "container '%s': no bundle, or unknown flags 0x%x", a->id,
		        (unsigned)a->flags);
	if (there(file(o, op, "state/", a->id)))
		return berth_fail(
		        o->host, op, BERTH_E_EXISTS, "container '%s' exists already", a->id);
	link_path = file(o, op, a->id, SUFFIX);
	(void)unlink(link_path);
	if (symlink(a->bundle, link_path) < 0) /* before anything that must be found again */
		return berth_fail(o->host, op, BERTH_E_INTERNAL, "container '%s': %s: %s", a->id,
		        link_path, strerror(errno));
	pid_file = o->host->op_alloc(op, PATH_MAX);
	snprintf(pid_file, PATH_MAX, "%s/pid", a->bundle);
	const char *const words[] = {"create", "--bundle", a->bundle, "--pid-file", pid_file,
	        tty ? "--console-socket" : a->id, tty ? "../console" : NULL, a->id, NULL};
	command_line(o, op, words, argv);
	const struct berth_monitor_args args = {.size = sizeof args,
	        .flags = a->flags,
	        .id = a->id,
	        .bundle = a->bundle,
	        .log_path = a->log_path,
	        .argv = argv,
	        .pid_file = pid_file,
	        .console_socket = tty ? "../console" : NULL};
	struct berth_monitor_result res = {.size = sizeof res};
	st = o->monitor->start(op, o->host, &args, &res);
	if (st != BERTH_OK && !o->host->op_cancelled(op))
		(void)clean(o, op, a->id); /* of one that was cancelled, remove() takes the rest */
	return st;
}

static berth_status op_start(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct oci *o = self;
	const char *const words[] = {"start", a->id, NULL};
	berth_status st = must_be(o, op, a, BERTH_ST_CREATED);

	return st == BERTH_OK ? command(o, op, a->id, words) : st;
}

/* Sends, and does not wait. What has ended needs no signal. */
static berth_status op_kill(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct oci *o = self;
	struct berth_ctr_state s = {.size = sizeof s};
	char number[16];
	const char *const words[] = {"kill", a->id, number, NULL};
	berth_status st = check_name(o, op, a->id);

	snprintf(number, sizeof number, "%d", (int)a->signal);
	if (st == BERTH_OK)
		st = look(o, op, a->id, a->bundle, &s);
	if (st != BERTH_OK || s.pid <= 0)
		return st;
	st = command(o, op, a->id, words);
	if (st != BERTH_OK && look(o, op, a->id, a->bundle, &s) == BERTH_OK && s.pid <= 0)
		st = BERTH_OK; /* it ended meanwhile */
	return st;
}

static berth_status op_remove(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct oci *o = self;
	struct berth_ctr_state s = {.size = sizeof s};
	berth_status st = check_name(o, op, a->id);

	if (st != BERTH_OK || !there(file(o, op, a->id, SUFFIX)))
		return st;
	errno = 0;
	if (look(o, op, a->id, a->bundle, &s) == BERTH_OK && s.status == BERTH_ST_RUNNING)
		return berth_fail(
		        o->host, op, BERTH_E_PRECONDITION, "container '%s' is running", a->id);
	return clean(o, op, a->id);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t n = strlen(text);
	int ok = fd >= 0 && write(fd, text, n) == (ssize_t)n;

	if (fd >= 0)
		close(fd);
	return ok;
}

/* A process in the container, which is the host's: it watches, kills and tells of the end. */
static berth_status op_exec(
        struct berth_op *op, void *self, const struct berth_ctr_args *a, struct berth_stdio *stdio)
{
	struct oci *o = self;
	const int tty = (a->flags & BERTH_IO_TTY) != 0;
	const char *argv[ARGS_MAX];
	char *name, *process, *pid_file, *console;
	berth_status st = check_name(o, op, a->exec_id);

	if (st == BERTH_OK)
		st = must_be(o, op, a, BERTH_ST_RUNNING);
	if (st != BERTH_OK)
		return st;
	name = o->host->op_alloc(op, PATH_MAX);
	snprintf(name, PATH_MAX, "%s@%s", a->id, a->exec_id);
	process = file(o, op, name, ".json");
	pid_file = file(o, op, name, ".pid");
	console = berth_dup(o->host, op, strrchr(file(o, op, name, ".tty"), '/') + 1);
	const char *const words[] = {"exec", "--detach", "--pid-file", pid_file, "--process",
	        process, tty ? "--console-socket" : a->id, tty ? console : NULL, a->id, NULL};
	command_line(o, op, words, argv);
	const struct berth_run run = {.size = sizeof run,
	        .flags = (tty ? BERTH_RUN_F_TTY : 0u) |
	                 (a->flags & BERTH_IO_STDIN ? BERTH_RUN_F_STDIN : 0u),
	        .argv = argv,
	        .cwd = o->host->run_dir,
	        .pid_file = pid_file,
	        .console_socket = tty ? console : NULL};
	if (!a->json || !write_file(process, a->json))
		st = berth_fail(o->host, op, BERTH_E_INTERNAL, "exec in '%s': its process: %s",
		        a->id, strerror(errno));
	else
		st = o->host->spawn(op, &run, a->id, a->exec_id, stdio);
	(void)unlink(process);
	return st;
}

/* ---- the plugin's life ---- */

static void destroy(void *self)
{
	struct oci *o = self;

	free(o->path);
	free(o);
}

static berth_status create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	const struct berth_monitor_ext *monitor = h->extension(h, BERTH_MONITOR_EXT);
	const char *path = h->conf_str(c, "path", "/usr/sbin/runc");
	struct oci *o;

	if (!monitor)
		return berth_fail(h, op, BERTH_E_PRECONDITION, "the host lacks " BERTH_MONITOR_EXT);
	if (path[0] != '/' || access(path, X_OK) < 0)
		return berth_fail(
		        h, op, BERTH_E_PRECONDITION, "the OCI runtime '%s' cannot be run", path);
	o = calloc(1, sizeof *o);
	if (!o || !(o->path = strdup(path))) {
		free(o);
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "no memory");
	}
	o->host = h;
	o->monitor = monitor;
	if (mkdir(file(o, op, "state", ""), 0700) < 0 && errno != EEXIST) {
		berth_status st = berth_fail(
		        h, op, BERTH_E_INTERNAL, "%s/state: %s", h->run_dir, strerror(errno));
		destroy(o);
		return st;
	}
	*self = o;
	return BERTH_OK;
}

static const struct berth_runtime_ops ops = {.size = sizeof ops,
        .create = op_create,
        .start = op_start,
        .kill = op_kill,
        .remove = op_remove,
        .state = op_state,
        .list = op_list,
        .exec = op_exec};
static const struct berth_plugin plugin = {.size = sizeof plugin,
        .abi_minor = BERTH_ABI_MINOR,
        .name = "runtime-oci",
        .version = "1.0",
        .runtime = &ops,
        .create = create,
        .destroy = destroy};

BERTH_PLUGIN_NEEDS(0)

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
