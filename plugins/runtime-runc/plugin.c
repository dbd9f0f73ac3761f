/* The plugin itself: configuration, what the runtime can do, the table. */
#include <berth/util.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runc.h"

static const char *const dirs[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"};

static const char *find_runtime(struct berth_op *op, const struct runc *r)
{
	const char *const names[] = {r->h->instance_name, "runc", "crun"};
	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
		for (size_t i = 0; names[n] && i < sizeof(dirs) / sizeof(dirs[0]); i++) {
			char *p = runc_printf(op, r, "%s/%s", dirs[i], names[n]);
			if (!strchr(names[n], '/') && access(p, X_OK) == 0)
				return p;
		}
	}
	return NULL;
}

static void destroy(void *self)
{
	struct runc *r = self;
	if (!r)
		return;
	if (r->join_fd >= 0)
		close(r->join_fd);
	free(r->path);
	free(r->root);
	free(r->criu);
	free(r->no_checkpoint);
	free(r);
}

static berth_status configure(struct berth_op *op, struct runc *r, const struct berth_conf *c)
{
	const struct berth_host *h = r->h;
	const char *path = h->conf_str(c, "path", NULL);
	const char *root = h->conf_str(c, "root", NULL);
	const char *join = h->conf_str(c, "exec_helper", NULL);
	const char *driver = h->conf_str(c, "host.cgroup_driver", "cgroupfs");
	r->systemd_cgroup = h->conf_bool(c, "systemd_cgroup", strcmp(driver, "systemd") == 0) != 0;
	if (!path && !(path = find_runtime(op, r)))
		return berth_fail(h, op, BERTH_E_PRECONDITION,
		        "no OCI runtime found: set 'path' to one (runc, crun)");
	if (path[0] != '/')
		return berth_fail(h, op, BERTH_E_INVALID, "path: '%s' is not absolute", path);
	if (access(path, X_OK) < 0)
		return berth_fail(
		        h, op, BERTH_E_PRECONDITION, "OCI runtime %s: %s", path, strerror(errno));
	if (root && root[0] != '/')
		return berth_fail(h, op, BERTH_E_INVALID, "root: '%s' is not absolute", root);
	r->path = strdup(path);
	r->root = strdup(root ? root : runc_printf(op, r, "%s/state", h->run_dir));
	if (!r->path || !r->root)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "no memory");
	if (join && join[0] != '/')
		return berth_fail(
		        h, op, BERTH_E_INVALID, "exec_helper: '%s' is not absolute", join);
	berth_status st = join ? runc_direct_open(op, r, join) : BERTH_OK;
	if (st == BERTH_OK)
		st = runc_checkpoint_conf(op, r, c);
	if (st != BERTH_OK)
		return st;
	const char *own[] = {r->root, runc_printf(op, r, "%s/ctr", h->run_dir)};
	for (size_t i = 0; i < 2; i++)
		if (mkdir(own[i], 0700) < 0 && errno != EEXIST)
			return berth_fail(
			        h, op, BERTH_E_INTERNAL, "%s: %s", own[i], strerror(errno));
	return BERTH_OK;
}

static berth_status create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	const struct berth_monitor_ext *mon = h->extension(h, BERTH_MONITOR_EXT);
	if (!mon || !BERTH_HAS(struct berth_monitor_ext, mon, reopen_log))
		return berth_fail(h, op, BERTH_E_PRECONDITION, "the host lacks " BERTH_MONITOR_EXT);
	struct runc *r = calloc(1, sizeof(*r));
	if (!r)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "no memory");
	r->h = h;
	r->mon = mon;
	r->join_fd = -1;
	berth_status st = configure(op, r, c);
	if (st != BERTH_OK) {
		destroy(r);
		return st;
	}
	*self = r;
	return BERTH_OK;
}

/* crun 1.8 and others have no `features`: what their version tells is little, but true. */
static char *from_version(struct berth_op *op, const struct runc *r, const char *text)
{
	char *copy = berth_dup(r->h, op, text), *save = NULL;
	const char *spec = "1.0.0", *first = NULL;
	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!first)
			first = line;
		if (strncmp(line, "spec: ", 6) == 0)
			spec = line + 6;
	}
	/* User namespaces are part of every version of the OCI runtime specification. */
	json_t *j = json_pack("{s:s, s:s, s:{s:[s]}, s:{s:s}}", "ociVersionMin", "1.0.0",
	        "ociVersionMax", spec, "linux", "namespaces", "user", "annotations",
	        "io.berth.runtime.version", first ? first : "unknown");
	char *dump = j ? json_dumps(j, JSON_COMPACT) : NULL;
	char *res = dump ? berth_dup(r->h, op, dump) : NULL;
	free(dump);
	json_decref(j);
	return res;
}

static bool is_object(const char *text)
{
	json_t *j = json_loads(text, 0, NULL);
	bool yes = json_is_object(j);
	json_decref(j);
	return yes;
}

berth_status runc_info(struct berth_op *op, void *self, struct berth_runtime_info *res)
{
	const struct runc *r = self;
	const char *features[] = {r->path, "features", NULL};
	const char *version[] = {r->path, "--version", NULL};
	struct berth_run run = {.size = sizeof(run), .argv = features, .term_grace_ms = 500};
	struct berth_run_result out = {.size = sizeof(out)};

	berth_status st = r->h->run(op, &run, &out);
	if (st != BERTH_OK)
		return st;
	if (WIFEXITED(out.wait_status) && WEXITSTATUS(out.wait_status) == 0 && is_object(out.out)) {
		res->features_json = out.out;
		return BERTH_OK;
	}
	run.argv = version;
	st = r->h->run(op, &run, &out);
	if (st != BERTH_OK)
		return st;
	if (!WIFEXITED(out.wait_status) || WEXITSTATUS(out.wait_status) != 0)
		return berth_fail(r->h, op, BERTH_E_PRECONDITION,
		        "OCI runtime %s does not answer: %s", r->path,
		        out.err_len ? out.err : "no words");
	res->features_json = from_version(op, r, out.out);
	return BERTH_OK;
}

BERTH_PLUGIN_NEEDS(0)

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	static const struct berth_runtime_ops ops = {.size = sizeof(ops),
	        .info = runc_info,
	        .create = runc_create,
	        .start = runc_start,
	        .kill = runc_kill,
	        .remove = runc_remove,
	        .state = runc_state,
	        .list = runc_list,
	        .exec = runc_exec,
	        .close_stdin = runc_close_stdin,
	        .resize = runc_resize,
	        .update = runc_update,
	        .pause = runc_pause,
	        .resume = runc_resume,
	        .checkpoint = runc_checkpoint};
	static const struct berth_plugin plugin = {.size = sizeof(plugin),
	        .abi_minor = BERTH_ABI_MINOR,
	        .name = "runtime-runc",
	        .version = "0.1.0",
	        .runtime = &ops,
	        .create = create,
	        .start = runc_checkpoint_start,
	        .destroy = destroy,
	        .extension = runc_extension};
	(void)host_minor;
	return &plugin;
}
