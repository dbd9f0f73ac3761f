/* Life of the plugin: configuration, the kept attachments, the watch. */
#include "cni.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

static void cni_destroy(void *self)
{
	struct cni *c = self;

	if (c->inotify_fd >= 0)
		close(c->inotify_fd);
	if (c->records_fd >= 0)
		close(c->records_fd);
	network_finish(&c->net);
	recent_free(c);
	for (size_t i = 0; c->bin_dirs[i]; i++)
		free(c->bin_dirs[i]);
	free(c->path);
	free(c->why);
	free(c->want);
	free(c->conf_dir);
	json_decref(c->gc_failed);
	pthread_rwlock_destroy(&c->changing);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static char *copy(const char *s)
{
	char *d = strdup(s);

	if (!d)
		abort();
	return d;
}

static bool add_bin_dir(struct cni *c, const char *dir, size_t *n)
{
	/* CNI_PATH parts directories by colons. */
	if (!dir || dir[0] != '/' || strchr(dir, ':') || *n == BIN_DIRS_LIMIT)
		return false;
	c->bin_dirs[(*n)++] = copy(dir);
	return true;
}

static berth_status set_bin_dirs(struct cni *c, struct berth_op *op, const struct berth_conf *conf)
{
	const char *text = c->host->conf_json(conf, "bin_dirs");
	json_t *v = json_loads(text ? text : "[\"/opt/cni/bin\",\"/usr/lib/cni\"]", 0, NULL);
	size_t n = 0, len = 1;

	bool ok = json_is_array(v) && json_array_size(v) > 0;
	for (size_t i = 0; ok && i < json_array_size(v); i++)
		ok = add_bin_dir(c, json_string_value(json_array_get(v, i)), &n);
	json_decref(v);
	if (!ok)
		return berth_fail(c->host, op, BERTH_E_INVALID,
		        "net-cni: bin_dirs is not a list of 1 to %d absolute paths without ':'",
		        BIN_DIRS_LIMIT);
	for (size_t i = 0; i < n; i++)
		len += strlen(c->bin_dirs[i]) + 1;
	c->path = calloc(1, len);
	if (!c->path)
		abort();
	for (size_t i = 0; i < n; i++) {
		if (i)
			strcat(c->path, ":");
		strcat(c->path, c->bin_dirs[i]);
	}
	return BERTH_OK;
}

static berth_status configure(struct cni *c, struct berth_op *op, const struct berth_conf *conf)
{
	const char *dir = c->host->conf_str(conf, "conf_dir", "/etc/cni/net.d"),
	           *want = c->host->conf_str(conf, "network", NULL);

	if (dir[0] != '/')
		return berth_fail(c->host, op, BERTH_E_INVALID,
		        "net-cni: conf_dir '%s' is not an absolute path", dir);
	c->conf_dir = copy(dir);
	if (want && *want)
		c->want = copy(want);
	return set_bin_dirs(c, op, conf);
}

static berth_status cni_create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *conf, void **self)
{
	struct cni *c = calloc(1, sizeof(*c));

	if (!c)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "net-cni: no memory");
	c->host = h;
	c->records_fd = c->inotify_fd = -1;
	c->net.version = V_NONE;
	c->gc_failed = json_object();
	pthread_rwlock_init(&c->changing, NULL);
	pthread_mutex_init(&c->lock, NULL);
	berth_status st = configure(c, op, conf);
	if (st == BERTH_OK) {
		int r = record_open_dir(c);
		if (r < 0)
			st = berth_fail(h, op, BERTH_E_PRECONDITION,
			        "net-cni: state directory '%s': %s", h->state_dir, strerror(-r));
	}
	if (st != BERTH_OK) {
		cni_destroy(c);
		return st;
	}
	*self = c;
	return BERTH_OK;
}

static berth_status cni_start(struct berth_op *op, void *self)
{
	return watch_start(self, op);
}

static berth_status cni_stop(struct berth_op *op, void *self)
{
	(void)op;
	watch_stop(self);
	return BERTH_OK;
}

static const struct berth_plugin plugin = {
        .size = sizeof(plugin),
        .abi_minor = BERTH_ABI_MINOR,
        .name = "net-cni",
        .version = "0.1",
        .network = &cni_ops,
        .create = cni_create,
        .start = cni_start,
        .stop = cni_stop,
        .destroy = cni_destroy,
};

BERTH_PLUGIN_NEEDS(0)

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
