/* Instances: creation, start-up, the end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "plugin/internal.h"

#define WATCHDOG_MS 5000
#define STOP_DEADLINE_S 30

static void watchdog(void *arg)
{
	struct berth_plugin_host *h = arg;
	berth_timer_free(h->watchdog);
	for (size_t i = 0; i < h->n_instances; i++)
		berth_dispatch_watchdog(h->instances[i]);
	h->watchdog = berth_timer_start(h->loop, WATCHDOG_MS, watchdog, h);
}

struct berth_plugin_host *berth_plugin_host_new(const struct berth_plugin_host_opts *opts)
{
	berth_assert_loop();
	struct berth_plugin_host *h = berth_new(struct berth_plugin_host);
	h->loop = opts->loop;
	h->plugin_dir = berth_strdup(opts->plugin_dir);
	h->state_root = berth_strdup(opts->state_root);
	h->run_root = berth_strdup(opts->run_root);
	h->host_version = berth_strdup(opts->host_version);
	h->on_event = opts->on_event;
	h->event_arg = opts->event_arg;
	h->watchdog = berth_timer_start(h->loop, WATCHDOG_MS, watchdog, h);
	return h;
}

static const struct {
	const char *key;
	unsigned int threads;
} lane_kinds[LANE_COUNT] = {
        [LANE_ID_GENERAL] = {"general", LANE_GENERAL},
        [LANE_ID_CONTROL] = {"control", LANE_CONTROL},
        [LANE_ID_STORAGE] = {"storage", LANE_STORAGE},
};

/* The key `lanes`, as numbers of threads; *ret holds the defaults. */
static int read_lanes(const char *plugin, json_t *lanes, unsigned int ret[LANE_COUNT],
        struct berth_error **ret_err)
{
	const char *key;
	json_t *v;

	if (lanes && !json_is_null(lanes) && !json_is_object(lanes))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "plugins.%s.lanes must be a map of lanes to numbers of threads", plugin);
	json_object_foreach (lanes, key, v) {
		int n = 0;
		while (n < LANE_COUNT && strcmp(lane_kinds[n].key, key) != 0)
			n++;
		if (n == LANE_COUNT)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "plugins.%s.lanes.%s: no such lane; there are general, control and "
			        "storage",
			        plugin, key);
		json_int_t threads = json_integer_value(v);
		if (threads < 1 || threads > BERTH_LIMIT_LANE_THREADS)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "plugins.%s.lanes.%s must be a whole number of threads within 1 "
			        "and %d",
			        plugin, key, BERTH_LIMIT_LANE_THREADS);
		ret[n] = (unsigned int)threads;
	}
	return 0;
}

static void make_lanes(struct berth_instance *i, const unsigned int threads[LANE_COUNT])
{
	bool serial = (i->file->desc.flags & BERTH_PLUGIN_SERIAL) != 0;

	for (int n = 0; n < LANE_COUNT; n++) {
		if (serial && n > 0) {
			i->lanes[n] = i->lanes[0];
			continue;
		}
		i->lanes[n] = berth_pool_new(&(struct berth_pool_opts){.name = i->name,
		        .max_threads = serial ? 1 : threads[n],
		        .max_queued = LANE_QUEUE});
	}
}

/* What was posted to the loop for this instance must run while it still exists. */
static void flush_posts(struct berth_instance *i)
{
	uv_run(berth_loop_uv(i->owner->loop), UV_RUN_NOWAIT);
}

static struct berth_instance *instance_free(struct berth_instance *i)
{
	flush_posts(i);
	for (int n = LANE_COUNT - 1; n >= 0; n--) {
		if (n == 0 || i->lanes[n] != i->lanes[0])
			berth_pool_free(i->lanes[n]);
		i->lanes[n] = NULL;
	}
	flush_posts(i);
	berth_spawned_drop(i);
	berth_conf_finish(&i->conf);
	pthread_cond_destroy(&i->idle);
	pthread_mutex_destroy(&i->lock);
	free(i->name);
	free(i->state_dir);
	free(i->run_dir);
	free(i->why_unhealthy);
	free(i->says);
	free(i->no_quota);
	free(i->no_checkpoint);
	free(i);
	return NULL;
}

static berth_status call_create(struct berth_op *op, struct berth_instance *i, void *arg)
{
	(void)arg;
	return i->file->desc.create(op, &i->table, &i->conf, &i->self);
}

static void ask_features(struct berth_instance *i)
{
	const struct berth_plugin *d = &i->file->desc;
	const struct berth_features *f =
	        d->extension ? d->extension(i->self, BERTH_FEATURES_EXT) : NULL;

	i->features = d->features;
	if (!f || !BERTH_HAS(struct berth_features, f, no_quota))
		return;
	i->features = f->features;
	if (f->no_quota)
		i->no_quota = berth_strdup(f->no_quota);
	if (BERTH_HAS(struct berth_features, f, no_checkpoint) && f->no_checkpoint)
		i->no_checkpoint = berth_strdup(f->no_checkpoint);
}

static berth_status call_start_op(struct berth_op *op, struct berth_instance *i, void *arg)
{
	(void)arg;
	berth_status st = i->file->desc.start ? i->file->desc.start(op, i->self) : BERTH_OK;
	if (st == BERTH_OK)
		ask_features(i);
	return st;
}

static berth_status call_stop(struct berth_op *op, struct berth_instance *i, void *arg)
{
	(void)arg;
	return i->file->desc.stop ? i->file->desc.stop(op, i->self) : BERTH_OK;
}

static berth_status call_destroy(struct berth_op *op, struct berth_instance *i, void *arg)
{
	(void)op;
	(void)arg;
	i->file->desc.destroy(i->self);
	return BERTH_OK;
}

static int life_cycle(struct berth_instance *i, const char *name,
        berth_status (*fn)(struct berth_op *, struct berth_instance *, void *), uint64_t deadline_s,
        struct berth_error **ret_err)
{
	_cleanup_(berth_call_freep) struct berth_call *c = berth_call_custom(i, name, fn, NULL);
	berth_call_set_deadline(c, berth_now_ns() + deadline_s * 1000000000u);
	if (berth_call_run(c, NULL, NULL, ret_err) < 0)
		return berth_error_wrap(ret_err, "plugin %s: %s", i->name, name);
	return 0;
}

static int make_dirs(struct berth_instance *i, struct berth_error **ret_err)
{
	int r = berth_mkdir_p(i->state_dir, 0700);
	if (r < 0)
		return berth_error_errno(ret_err, r, "plugin %s: %s", i->name, i->state_dir);
	r = berth_mkdir_p(i->run_dir, 0700);
	return r < 0 ? berth_error_errno(ret_err, r, "plugin %s: %s", i->name, i->run_dir) : 0;
}

static void end_instance(struct berth_instance *i)
{
	struct berth_error *err = NULL;

	/* Those that nobody waits for, too: what they use goes with the instance. */
	berth_instance_wait_idle(i);
	if (i->started && life_cycle(i, "stop", call_stop, STOP_DEADLINE_S, &err) < 0) {
		berth_log_warn("plugin did not stop well", "plugin", i->name, "error", err->msg);
		err = berth_error_free(err);
	}
	if (i->created && life_cycle(i, "destroy", call_destroy, STOP_DEADLINE_S, &err) < 0)
		berth_error_free(err);
}

static int create(struct berth_instance *i, const char *plugin, struct berth_error **ret_err)
{
	struct berth_error *err = NULL;
	int r = life_cycle(i, "create", call_create, OP_DEADLINE_S, ret_err);

	i->created = r == 0;
	/* Before start() acts on a default. Where create() fails, that may come of one, too. */
	if (berth_conf_check_types(&i->conf, plugin, &err) < 0) {
		berth_error_free(*ret_err);
		*ret_err = err;
		return -1;
	}
	return r;
}

struct berth_instance *berth_instance_new(struct berth_plugin_host *h, const char *plugin,
        const char *instance, json_t *config, struct berth_error **ret_err)
{
	berth_assert_loop();
	unsigned int threads[LANE_COUNT];
	for (int n = 0; n < LANE_COUNT; n++)
		threads[n] = lane_kinds[n].threads;
	if (read_lanes(plugin, json_object_get(config, "lanes"), threads, ret_err) < 0)
		return NULL;
	json_t *own = config ? json_copy(config) : json_object();
	struct plugin_file *f = berth_plugin_load(
	        h, plugin, json_string_value(json_object_get(own, "plugin_path")), ret_err);
	json_object_del(own, "plugin_path");
	json_object_del(own, "lanes");
	if (!f) {
		json_decref(own);
		return NULL;
	}
	struct berth_instance *i = berth_new(struct berth_instance);
	i->owner = h;
	i->file = f;
	i->name = berth_strdup(instance);
	i->state_dir = berth_asprintf("%s/plugins/%s", h->state_root, instance);
	i->run_dir = berth_asprintf("%s/plugins/%s", h->run_root, instance);
	pthread_mutex_init(&i->lock, NULL);
	pthread_cond_init(&i->idle, NULL);
	berth_conf_init(&i->conf, own);
	json_decref(own);
	make_lanes(i, threads);
	berth_services_fill(i);

	bool ok = make_dirs(i, ret_err) == 0 && create(i, plugin, ret_err) == 0;
	ok = ok && life_cycle(i, "start", call_start_op, OP_DEADLINE_S, ret_err) == 0;
	i->started = ok;
	ok = ok && berth_plugin_features_check(i->name, i->features, ret_err) == 0;
	ok = ok && berth_conf_check(&i->conf, plugin, ret_err) == 0;
	if (!ok) {
		end_instance(i);
		return instance_free(i);
	}
	h->instances = berth_reallocarray(h->instances, h->n_instances + 1, sizeof(*h->instances));
	h->instances[h->n_instances++] = i;
	return i;
}

struct berth_plugin_host *berth_plugin_host_free(struct berth_plugin_host *h)
{
	if (!h)
		return NULL;
	berth_assert_loop();
	h->watchdog = berth_timer_free(h->watchdog);
	while (h->n_instances > 0) {
		struct berth_instance *i = h->instances[--h->n_instances];
		end_instance(i);
		instance_free(i);
	}
	while (h->files) {
		struct plugin_file *f = h->files;
		h->files = f->next;
		free(f->name);
		free(f->path);
		free(f);
	}
	free(h->instances);
	free(h->plugin_dir);
	free(h->state_root);
	free(h->run_root);
	free(h->host_version);
	free(h);
	return NULL;
}

const char *berth_instance_name(const struct berth_instance *i)
{
	return i->name;
}

const char *berth_instance_plugin(const struct berth_instance *i)
{
	return i->file->name;
}

const struct berth_plugin *berth_instance_descriptor(const struct berth_instance *i)
{
	return &i->file->desc;
}

uint64_t berth_instance_features(const struct berth_instance *i)
{
	return i->features;
}

const char *berth_instance_no_quota(const struct berth_instance *i)
{
	return i->no_quota ? i->no_quota : "it never has";
}

const char *berth_instance_no_checkpoint(const struct berth_instance *i)
{
	return i->no_checkpoint ? i->no_checkpoint : "it never can";
}

bool berth_instance_has_storage(const struct berth_instance *i)
{
	return i->file->desc.storage != NULL;
}

bool berth_instance_has_runtime(const struct berth_instance *i)
{
	return i->file->desc.runtime != NULL;
}

bool berth_instance_has_network(const struct berth_instance *i)
{
	return i->file->desc.network != NULL;
}

bool berth_instance_healthy(struct berth_instance *i, const char **ret_why)
{
	if (atomic_load(&i->unhealthy))
		*ret_why = i->why_unhealthy;
	else if (i->says)
		*ret_why = i->says;
	else
		return true;
	return false;
}

void berth_instance_says(struct berth_instance *i, const char *why)
{
	free(i->says);
	i->says = why && *why ? berth_strdup(why) : NULL;
}

size_t berth_plugin_host_count(const struct berth_plugin_host *h)
{
	return h->n_instances;
}

struct berth_instance *berth_plugin_host_at(const struct berth_plugin_host *h, size_t n)
{
	return n < h->n_instances ? h->instances[n] : NULL;
}
