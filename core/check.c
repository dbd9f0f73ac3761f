#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cap-ng.h>

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "daemon.h"
#include "loop/run.h"
#include "plugin/host.h"
#include "stream/stream.h"

struct findings {
	int errors, warnings;
};

static void say(void *findings, const char *kind, const char *what, const char *text)
{
	struct findings *f = findings;
	printf("%-8s %s%s%s\n", kind, what, text ? ": " : "", text ? text : "");
	f->errors += strcmp(kind, "error") == 0;
	f->warnings += strcmp(kind, "warning") == 0;
}

static void check_program(struct findings *f, const char *what, const char *path)
{
	_cleanup_free_ char *label = berth_asprintf("%s %s", what, path);
	if (access(path, X_OK) < 0)
		say(f, "error", label, strerror(errno));
	else
		say(f, "ok", label, NULL);
}

static void check_capabilities(struct findings *f)
{
	static const unsigned int wanted[] = {CAP_SYS_ADMIN, CAP_CHOWN, CAP_DAC_OVERRIDE,
	        CAP_FOWNER, CAP_KILL, CAP_MKNOD, CAP_NET_ADMIN, CAP_SETFCAP, CAP_SETGID, CAP_SETUID,
	        CAP_SETPCAP, CAP_SYS_CHROOT};
	capng_get_caps_process();
	for (size_t i = 0; i < BERTH_ARRAY_LEN(wanted); i++) {
		_cleanup_free_ char *label =
		        berth_asprintf("capability %s", capng_capability_to_name(wanted[i]));
		if (!capng_have_capability(CAPNG_EFFECTIVE, wanted[i]))
			say(f, "error", label, "berthd does not have it");
	}
	if (!capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_RESOURCE))
		say(f, "warning", "capability sys_resource",
		        "berthd does not have it: a negative oom_score_adj is clamped to its own");
}

static void check_cgroups(struct findings *f, const struct berth_config *c)
{
	bool v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
	bool hybrid = !v2 && access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0;
	if (!v2 && access("/sys/fs/cgroup/memory", F_OK) < 0)
		say(f, "error", "cgroups",
		        "neither version 2 nor the v1 memory controller is mounted at "
		        "/sys/fs/cgroup");
	else
		say(f, hybrid ? "warning" : "ok", "cgroups",
		        v2       ? "version 2"
		        : hybrid ? "version 1 with a v2 tree (hybrid): crun refuses this layout"
		                 : "version 1");
	if (c->cri.cgroup_driver == BERTH_CGROUP_SYSTEMD && access("/run/systemd/system", F_OK) < 0)
		say(f, "error", "cri.cgroup_driver",
		        "systemd is configured, and does not run here");
}

/* Of a handler, or of its plugin. NULL: none. */
static char *exec_helper(const struct berth_config *c, const char *handler)
{
	const char *plugin;
	json_t *conf = berth_config_handler(c, handler, &plugin);
	const char *path = json_string_value(json_object_get(conf, "exec_helper"));
	char *copy = path && *path ? berth_strdup(path) : NULL;

	json_decref(conf);
	return copy;
}

static bool in_path(const char *program)
{
	static const char *const dirs[] = {
	        "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(dirs); i++) {
		_cleanup_free_ char *path = berth_path(dirs[i], program, NULL);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static void check_criu(struct findings *f, const struct berth_config *c, const char *handler)
{
	const char *plugin = "";
	json_t *conf = berth_config_handler(c, handler, &plugin);
	const char *path = json_string_value(json_object_get(conf, "criu"));
	_cleanup_free_ char *label = berth_asprintf("checkpoints of handler %s", handler);

	if (strcmp(plugin, "runtime-runc") != 0 ||
	        json_is_false(json_object_get(conf, "checkpoint")))
		; /* they are not wanted, or not made by it */
	else if (path && *path)
		check_program(f, "criu", path);
	else if (!in_path("criu"))
		say(f, "skipped", label, "criu is not installed");
	json_decref(conf);
}

static void check_runtimes(struct findings *f, const struct berth_config *c)
{
	const char *name;
	json_t *conf;
	json_object_foreach (c->runtimes.handlers, name, conf) {
		check_criu(f, c, name);
		const char *path = json_string_value(json_object_get(conf, "path"));
		if (!path)
			continue;
		_cleanup_free_ char *label = berth_asprintf("runtime handler %s: %s", name, path);
		const char *const argv[] = {path, "--version", NULL};
		struct berth_error *err = NULL;
		if (berth_run_helper(argv, 10000, &err) < 0)
			say(f, "error", label, err->msg);
		else
			say(f, "ok", label, "answers");
		berth_error_free(err);
		_cleanup_free_ char *helper = exec_helper(c, name);
		if (helper)
			check_program(f, "exec_helper", helper);
	}
	if (!json_object_get(c->runtimes.handlers, c->runtimes.default_handler))
		say(f, "error", "runtimes.default", "no such handler");
}

/* ---- CNI ---- */

static bool in_dirs(const json_t *dirs, const char *type)
{
	size_t i;
	json_t *d;
	json_array_foreach (dirs, i, d) {
		_cleanup_free_ char *path = berth_path(json_string_value(d), type, NULL);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

/* Of a network configuration that could be read; its plugins may also lie in a directory of its
 * name. */
static const char *unusable(const json_t *j, const char *dir, const char *want)
{
	const char *name = json_string_value(json_object_get(j, "name"));
	const json_t *plugins = json_object_get(j, "plugins"), *p;
	size_t i;

	if (!name)
		return "it is no network configuration with a name";
	_cleanup_free_ char *more = berth_path(dir, name, NULL);
	if (!json_object_get(j, "type") && json_array_size(plugins) == 0 && access(more, F_OK) < 0)
		return "it has no plugins";
	json_array_foreach (plugins, i, p) {
		if (!json_is_string(json_object_get(p, "type")))
			return "a plugin has no type";
	}
	return want && *want && strcmp(name, want) != 0 ? "it is not the network that is wanted"
	                                                : NULL;
}

/* Why net-cni takes the next file instead of this one, or NULL with the file in *ret. Static or of
 * *je. */
static const char *passed_over(
        const char *dir, const char *path, const char *want, json_t **ret, json_error_t *je)
{
	_cleanup_free_ char *text = NULL;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, NULL);

	if (r < 0)
		return strerror(-r);
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, je);
	if (!j)
		return je->text;
	const char *why = unusable(j, dir, want);
	if (why)
		json_decref(j);
	else
		*ret = j;
	return why;
}

static void check_plugins(
        struct findings *f, const char *path, const json_t *list, const json_t *dirs)
{
	const json_t *plugins = json_object_get(list, "plugins");
	size_t n = plugins ? json_array_size(plugins) : json_object_get(list, "type") != NULL;
	bool all = true;

	for (size_t i = 0; i < n; i++) {
		const json_t *p = plugins ? json_array_get(plugins, i) : list;
		const char *type = json_string_value(json_object_get(p, "type"));
		if (type && in_dirs(dirs, type))
			continue;
		_cleanup_free_ char *why =
		        berth_asprintf("plugin %s is in none of bin_dirs", type ? type : "?");
		say(f, "error", path, why);
		all = false;
	}
	if (all)
		say(f, "ok", path, "its plugins are there");
}

static int is_conf(const struct dirent *e)
{
	const char *dot = strrchr(e->d_name, '.');
	return dot && (!strcmp(dot, ".conf") || !strcmp(dot, ".conflist") || !strcmp(dot, ".json"));
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* As net-cni does: the first file that is a configuration counts, whatever the others are. */
static void check_conf_dir(
        struct findings *f, const char *dir, const json_t *dirs, const char *want)
{
	_cleanup_free_ char *used = NULL;
	struct dirent **v = NULL;
	int n = scandir(dir, &v, is_conf, by_bytes);

	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *path = berth_path(dir, v[i]->d_name, NULL);
		_cleanup_free_ char *after = used ? berth_asprintf("not used, %s is", used) : NULL;
		json_t *list = NULL;
		json_error_t je;
		const char *why = after ? NULL : passed_over(dir, path, want, &list, &je);
		if (after) {
			say(f, "skipped", path, after);
		} else if (why) {
			say(f, "warning", path, why);
		} else {
			check_plugins(f, path, list, dirs);
			used = berth_strdup(v[i]->d_name);
		}
		json_decref(list);
		free(v[i]);
	}
	free(v);
	if (!used)
		say(f, "warning", dir, "no CNI configuration yet: pods wait for one");
}

static void check_cni(struct findings *f, const struct berth_config *c)
{
	json_t *conf = json_object_get(c->plugins, "net-cni");
	const char *dir = json_string_value(json_object_get(conf, "conf_dir"));
	json_t *dirs = json_object_get(conf, "bin_dirs");
	json_t *dflt = json_pack("[s,s]", "/opt/cni/bin", "/usr/lib/cni");

	if (strcmp(c->network.plugin, "net-cni") == 0)
		check_conf_dir(f, dir ? dir : "/etc/cni/net.d", dirs ? dirs : dflt,
		        json_string_value(json_object_get(conf, "network")));
	json_decref(dflt);
}

static void check_stream_tls(struct findings *f, const struct berth_config *c, const char *helpers)
{
	struct berth_error *err = NULL;
	_cleanup_free_ char *what = NULL;
	const char *warning;

	if (berth_streams_check_tls(c, helpers, &what, &warning, &err) < 0)
		say(f, "error", err->msg, NULL);
	else if (what)
		say(f, warning ? "warning" : "ok", what, warning);
	berth_error_free(err);
}

int berth_check(const struct berth_config *c, const char *helpers, const char *plugins, bool start)
{
	static const char *const programs[] = {
	        "berth-monitor", "berth-pull", "berth-ns", "berth-init"};
	struct findings f = {0};
	const char *name;
	json_t *conf;

	say(&f, "ok", c->file && *c->file ? c->file : "defaults",
	        "no mistakes in the configuration");
	for (size_t i = 0; i < BERTH_ARRAY_LEN(programs); i++) {
		_cleanup_free_ char *path = berth_path(helpers, programs[i], NULL);
		check_program(&f, "helper", path);
	}
	check_stream_tls(&f, c, helpers);
	json_object_foreach (c->plugins, name, conf) {
		const char *own = json_string_value(json_object_get(conf, "path"));
		_cleanup_free_ char *path =
		        own ? berth_strdup(own) : berth_asprintf("%s/%s.so", plugins, name);
		struct berth_error *err = NULL;
		if (berth_plugin_try(plugins, name, own, &err) < 0)
			say(&f, "error", err->msg, NULL);
		else
			say(&f, "ok", path, NULL);
		berth_error_free(err);
	}
	check_runtimes(&f, c);
	check_cni(&f, c);
	if (start)
		berth_check_storages(c, plugins, say, &f);
	check_cgroups(&f, c);
	check_capabilities(&f);
	if (access(c->images.policy, F_OK) < 0)
		say(&f, "warning", c->images.policy, "absent: every image is accepted");
	printf("%d errors, %d warnings\n", f.errors, f.warnings);
	return f.errors > 0;
}
