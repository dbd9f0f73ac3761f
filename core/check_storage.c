/* `berthd check` asks the storage drivers: each is started as by berthd, and stopped. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "berth-config.h"
#include "check.h"
#include "loop/child.h"
#include "plugins.h"

/* Their start touches their own directory alone. Another's may make a pool on a disk, once and for
 * all: no check does that. */
static const char *const bounded[] = {"storage-overlay", "storage-btrfs", "storage-aufs"};

struct driver {
	const char *name;
	char *key;         /* what names it first */
	char *state, *run; /* its directories; NULL: they were there */
};

struct asking {
	struct berth_daemon d;
	struct driver *drivers;
	size_t n;
	berth_check_say_fn say;
	void *arg;
};

static bool is_bounded(const char *name)
{
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bounded); i++)
		if (strcmp(name, bounded[i]) == 0)
			return true;
	return false;
}

static void on_event(struct berth_instance *i, const struct berth_event *ev, void *arg)
{
	(void)i;
	(void)ev;
	(void)arg;
}

static void on_orphan(pid_t pid, int status, void *arg)
{
	(void)pid;
	(void)status;
	(void)arg;
}

static char *if_missing(const char *path)
{
	struct stat st;
	return lstat(path, &st) < 0 && errno == ENOENT ? berth_strdup(path) : NULL;
}

static void add(struct asking *a, const char *name, char *key)
{
	const struct berth_config *c = a->d.config;

	for (size_t i = 0; i < a->n; i++) {
		if (strcmp(a->drivers[i].name, name) == 0) {
			free(key);
			return;
		}
	}
	_cleanup_free_ char *state = berth_path(c->root, "plugins", name, NULL);
	_cleanup_free_ char *run = berth_path(c->run, "plugins", name, NULL);
	a->drivers = berth_reallocarray(a->drivers, a->n + 1, sizeof(*a->drivers));
	a->drivers[a->n++] = (struct driver){
	        .name = name, .key = key, .state = if_missing(state), .run = if_missing(run)};
}

static void find_drivers(struct asking *a)
{
	const struct berth_config *c = a->d.config;
	const char *handler;
	json_t *conf;

	add(a, c->storage.driver, berth_strdup("storage.driver"));
	for (char **v = c->storage.also; v && *v; v++)
		add(a, *v, berth_strdup("storage.also"));
	json_object_foreach (c->runtimes.handlers, handler, conf) {
		add(a, berth_config_storage(c, handler),
		        berth_asprintf("runtimes.handlers.%s.storage", handler));
	}
}

static void start_each(struct asking *a)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct driver *v = &a->drivers[i];
		_cleanup_free_ char *label = berth_asprintf("storage driver %s", v->name);
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		if (!is_bounded(v->name))
			a->say(a->arg, "skipped", label,
			        "its start may do more than look: not tried");
		else if (!berth_load_storage(&a->d, v->name, v->key, &err))
			a->say(a->arg, "error", err->msg, NULL);
		else
			a->say(a->arg, "ok", label, "starts");
	}
}

static void check_limits(struct asking *a)
{
	const char *handler;
	json_t *conf;

	json_object_foreach (a->d.config->runtimes.handlers, handler, conf) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		struct berth_instance *i =
		        berth_daemon_storage(&a->d, berth_config_storage(a->d.config, handler));
		uint64_t limit;
		if (i && berth_check_size_limit(a->d.config, i, handler, &limit, &err) < 0)
			a->say(a->arg, "error", err->msg, NULL);
	}
}

/* What was not there before goes again. */
static void forget_drivers(struct asking *a)
{
	while (a->n > 0) {
		struct driver *v = &a->drivers[--a->n];
		if (v->state)
			(void)!berth_rm_tree(AT_FDCWD, v->state);
		if (v->run)
			(void)!berth_rm_tree(AT_FDCWD, v->run);
		free(v->key);
		free(v->state);
		free(v->run);
	}
	free(a->drivers);
}

static void ask(struct asking *a, const char *plugins)
{
	const struct berth_config *c = a->d.config;
	_cleanup_free_ char *root = if_missing(c->root),
	                    *all = berth_path(c->root, "plugins", NULL);
	int r = berth_mkdir_p(c->root, 0711);

	if (r < 0) {
		a->say(a->arg, "error", c->root, strerror(-r));
		return;
	}
	find_drivers(a);
	a->d.loop = berth_loop_new();
	berth_child_init(a->d.loop, on_orphan, NULL);
	a->d.plugins = berth_plugin_host_new(&(struct berth_plugin_host_opts){.loop = a->d.loop,
	        .plugin_dir = plugins,
	        .state_root = c->root,
	        .run_root = c->run,
	        .host_version = BERTH_VERSION,
	        .on_event = on_event});
	start_each(a);
	check_limits(a);
	a->d.plugins = berth_plugin_host_free(a->d.plugins);
	berth_child_finish();
	berth_loop_free(a->d.loop);
	forget_drivers(a);
	if (root) {
		(void)rmdir(all);
		(void)rmdir(root);
	}
}

/* The lock of a berthd, so that none starts meanwhile. -1: one runs, or that cannot be known; told.
 */
static int keep_out(struct asking *a, const struct berth_config *c)
{
	_cleanup_free_ char *path = berth_path(c->run, "berthd.lock", NULL);
	int r = berth_mkdir_p(c->run, 0711);
	int fd = r < 0 ? r : open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0) {
		a->say(a->arg, "error", path, strerror(r < 0 ? -r : errno));
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	int e = errno;
	berth_close(fd);
	if (e == EWOULDBLOCK)
		a->say(a->arg, "skipped", "storage drivers",
		        "a berthd runs here, and has started them: not tried");
	else
		a->say(a->arg, "error", path, strerror(e));
	return -1;
}

void berth_check_storages(
        const struct berth_config *c, const char *plugins, berth_check_say_fn say, void *arg)
{
	struct asking a = {
	        .d = {.config = (struct berth_config *)(uintptr_t)c}, .say = say, .arg = arg};

	umask(022);
	berth_log_set_level(BERTH_LOG_LVL_WARN);
	int lock = keep_out(&a, c);
	if (lock < 0)
		return;
	ask(&a, plugins);
	berth_close(lock);
}
