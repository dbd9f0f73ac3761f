/* Which plugins serve what, as the configuration says. */
#include "plugins.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "pod/userns.h"

/* What a plugin must know of the core's own keys: under "host", which berth_conf_check() skips.
 * Told by nobody else. */
static json_t *host_conf(const struct berth_config *c)
{
	return json_pack("{s:s}", "cgroup_driver",
	        c->cri.cgroup_driver == BERTH_CGROUP_SYSTEMD ? "systemd" : "cgroupfs");
}

/* A plugin's own keys; its `path` names the file, while a handler's is the runtime's binary. */
static json_t *plugin_conf(const struct berth_config *c, const char *plugin, const char *handler)
{
	json_t *own = json_object_get(c->plugins, plugin);
	const char *name;
	json_t *merged = handler ? berth_config_handler(c, handler, &name)
	                 : own   ? json_incref(own)
	                         : json_object();
	json_t *conf = json_copy(merged);
	json_t *file = json_object_get(own, "path");
	json_t *handler_path =
	        handler ? json_object_get(json_object_get(c->runtimes.handlers, handler), "path")
	                : NULL;

	json_decref(merged);
	json_object_del(conf, "path");
	if (handler_path)
		json_object_set(conf, "path", handler_path);
	if (file)
		json_object_set(conf, "plugin_path", file);
	json_object_set_new(conf, BERTH_CONF_HOST, host_conf(c));
	return conf;
}

/* What plugin_conf() puts over an instance's keys is not silently lost where somebody writes it. */
static int check_own(const struct berth_config *c, const char *plugin, const char *handler,
        struct berth_error **ret_err)
{
	static const char *const ours[] = {BERTH_CONF_HOST, "plugin_path"};
	const json_t *own = json_object_get(c->plugins, plugin),
	             *over = handler ? json_object_get(c->runtimes.handlers, handler) : NULL;

	for (size_t n = 0; n < BERTH_ARRAY_LEN(ours); n++)
		if (json_object_get(own, ours[n]) || json_object_get(over, ours[n]))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "plugins.%s.%s: unknown key: it is berth's own", plugin, ours[n]);
	return 0;
}

static struct berth_instance *load(struct berth_daemon *d, const char *plugin, const char *instance,
        const char *handler, struct berth_error **ret_err)
{
	if (!json_object_get(d->config->plugins, plugin)) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "plugin \"%s\" is not listed under plugins", plugin);
		return NULL;
	}
	if (check_own(d->config, plugin, handler, ret_err) < 0)
		return NULL;
	json_t *conf = plugin_conf(d->config, plugin, handler);
	struct berth_instance *i = berth_instance_new(d->plugins, plugin, instance, conf, ret_err);
	json_decref(conf);
	return i;
}

static bool list_has(const json_t *a, const char *s)
{
	size_t i;
	json_t *v;
	json_array_foreach (a, i, v) {
		if (json_is_string(v) && strcmp(json_string_value(v), s) == 0)
			return true;
	}
	return false;
}

static void read_info(struct berth_handler *h)
{
	struct berth_runtime_info info = {.size = sizeof(info)};
	struct berth_error *err = NULL;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(h->instance, BERTH_OP_RUNTIME_INFO, NULL);

	if (berth_call_run(c, NULL, &info, &err) < 0) {
		berth_log_warn("the runtime's features are not known", "handler", h->name, "error",
		        err->msg);
		berth_error_free(err);
		return;
	}
	h->info = berth_strdup(info.features_json);
	json_t *j = h->info ? json_loads(h->info, 0, NULL) : NULL;
	h->rro = list_has(json_object_get(j, "mountOptions"), "rro");
	h->no_selinux = json_is_false(json_object_get(
	        json_object_get(json_object_get(j, "linux"), "selinux"), "enabled"));
	json_decref(j);
}

/* A node that could start no container had better not start. */
int berth_check_size_limit(const struct berth_config *c, const struct berth_instance *storage,
        const char *handler, uint64_t *ret, struct berth_error **ret_err)
{
	if (berth_config_size_limit(c, handler, ret, ret_err) < 0)
		return -1;
	if (*ret && !(berth_instance_features(storage) & BERTH_F_QUOTA))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "containers of the handler %s have a size limit, and the storage driver %s "
		        "has no quota: %s",
		        handler, berth_instance_name(storage), berth_instance_no_quota(storage));
	return 0;
}

struct berth_instance *berth_load_storage(
        struct berth_daemon *d, const char *name, const char *what, struct berth_error **ret_err)
{
	struct berth_instance *i = berth_daemon_storage(d, name);

	if (i)
		return i;
	if (d->n_storages == BERTH_LIMIT_STORAGE_DRIVERS) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s: more than %d storage drivers",
		        what, BERTH_LIMIT_STORAGE_DRIVERS);
		return NULL;
	}
	i = load(d, name, name, NULL, ret_err);
	if (!i) {
		berth_error_wrap(ret_err, "%s", what);
		return NULL;
	}
	if (!berth_instance_has_storage(i)) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: plugin %s is no storage driver", what, name);
		return NULL;
	}
	d->storages[d->n_storages++] = i;
	return i;
}

static int load_storages(struct berth_daemon *d, struct berth_error **ret_err)
{
	const struct berth_config *c = d->config;
	const char *name;
	json_t *conf;

	d->storage = berth_load_storage(d, c->storage.driver, "storage.driver", ret_err);
	if (!d->storage)
		return -1;
	for (char **v = c->storage.also; v && *v; v++)
		if (!berth_load_storage(d, *v, "storage.also", ret_err))
			return -1;
	json_object_foreach (c->runtimes.handlers, name, conf) {
		_cleanup_free_ char *what = berth_asprintf("runtimes.handlers.%s.storage", name);
		if (!berth_load_storage(d, berth_config_storage(c, name), what, ret_err))
			return -1;
	}
	return 0;
}

static int load_handlers(struct berth_daemon *d, struct berth_error **ret_err)
{
	json_t *all = d->config->runtimes.handlers;
	const char *name;
	json_t *conf;

	d->handlers = berth_new_array(struct berth_handler, json_object_size(all) + 1);
	json_object_foreach (all, name, conf) {
		struct berth_handler *h = &d->handlers[d->n_handlers];
		const char *plugin = json_string_value(json_object_get(conf, "plugin"));
		h->instance = load(d, plugin, name, name, ret_err);
		if (!h->instance)
			return berth_error_wrap(ret_err, "runtimes.handlers.%s", name);
		if (!berth_instance_has_runtime(h->instance))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "runtimes.handlers.%s: plugin %s is no runtime", name, plugin);
		h->storage = berth_daemon_storage(d, berth_config_storage(d->config, name));
		if (berth_check_size_limit(d->config, h->storage, name, &h->size_limit, ret_err) <
		        0)
			return -1;
		h->name = berth_strdup(name);
		d->n_handlers++;
		read_info(h);
	}
	return berth_daemon_handler(d, "") ? 0
	                                   : berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	                                             "runtimes.default: no handler \"%s\"",
	                                             d->config->runtimes.default_handler);
}

int berth_load_plugins(struct berth_daemon *d, struct berth_error **ret_err)
{
	const struct berth_config *c = d->config;

	if (load_storages(d, ret_err) < 0)
		return -1;
	if (*c->network.plugin) {
		d->network = load(d, c->network.plugin, c->network.plugin, NULL, ret_err);
		if (!d->network)
			return berth_error_wrap(ret_err, "network.plugin");
		if (!berth_instance_has_network(d->network))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "network.plugin: plugin %s is no network", c->network.plugin);
	}
	if (load_handlers(d, ret_err) < 0)
		return -1;
	berth_userns_probe(d);
	return 0;
}
