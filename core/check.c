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

static void say(struct findings *f, const char *kind, const char *what, const char *text)
{
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

static void check_overlay(struct findings *f, const struct berth_config *c)
{
	_cleanup_free_ char *text = NULL;
	if (strcmp(c->storage.driver, "storage-overlay") != 0)
		return;
	if (berth_read_file(AT_FDCWD, "/proc/filesystems", BERTH_KIB(64), &text, NULL) < 0 ||
	        !strstr(text, "\toverlay\n"))
		say(f, "warning", "storage-overlay",
		        "this kernel does not list overlay (modprobe overlay)");
	else
		say(f, "ok", "storage-overlay", "the kernel has overlay");
}

static void check_runtimes(struct findings *f, const struct berth_config *c)
{
	const char *name;
	json_t *conf;
	json_object_foreach (c->runtimes.handlers, name, conf) {
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

static void check_conflist(struct findings *f, const char *path, const json_t *dirs)
{
	_cleanup_free_ char *text = NULL;
	json_error_t je;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, NULL);
	json_t *j = r == 0 ? json_loads(text, 0, &je) : NULL;
	if (!j) {
		say(f, "warning", path, r < 0 ? strerror(-r) : je.text);
		return;
	}
	json_t *plugins = json_object_get(j, "plugins");
	size_t n = plugins ? json_array_size(plugins) : 1;
	bool all = true;
	for (size_t i = 0; i < n; i++) {
		const json_t *p = plugins ? json_array_get(plugins, i) : j;
		const char *type = json_string_value(json_object_get(p, "type"));
		if (type && in_dirs(dirs, type))
			continue;
		_cleanup_free_ char *why = berth_asprintf(
		        "plugin %s is in none of bin_dirs", type ? type : "without a type");
		say(f, "error", path, why);
		all = false;
	}
	if (all)
		say(f, "ok", path, "its plugins are there");
	json_decref(j);
}

static void check_cni(struct findings *f, const struct berth_config *c)
{
	json_t *conf = json_object_get(c->plugins, "net-cni");
	const char *dir = json_string_value(json_object_get(conf, "conf_dir"));
	json_t *dirs = json_object_get(conf, "bin_dirs");
	json_t *dflt = json_pack("[s,s]", "/opt/cni/bin", "/usr/lib/cni");
	bool any = false;

	if (strcmp(c->network.plugin, "net-cni") == 0) {
		dir = dir ? dir : "/etc/cni/net.d";
		DIR *d = opendir(dir);
		for (struct dirent *e; d && (e = readdir(d));) {
			const char *dot = strrchr(e->d_name, '.');
			if (!dot || (strcmp(dot, ".conf") && strcmp(dot, ".conflist") &&
			                    strcmp(dot, ".json")))
				continue;
			_cleanup_free_ char *path = berth_path(dir, e->d_name, NULL);
			any = true;
			check_conflist(f, path, dirs ? dirs : dflt);
		}
		if (d)
			closedir(d);
		if (!any)
			say(f, "warning", dir, "no CNI configuration yet: pods wait for one");
	}
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

int berth_check(const struct berth_config *c, const char *helpers, const char *plugins)
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
	check_overlay(&f, c);
	check_cgroups(&f, c);
	check_capabilities(&f);
	if (access(c->images.policy, F_OK) < 0)
		say(&f, "warning", c->images.policy, "absent: every image is accepted");
	printf("%d errors, %d warnings\n", f.errors, f.warnings);
	return f.errors > 0;
}
