/* The driver: its configuration, its hooks. */
#include "overlay.h"

#include <stdlib.h>
#include <string.h>

#include "berth/util.h"

#define FEATURES (BERTH_F_DETACHED_LAYERS | BERTH_F_WHITEOUT_OVERLAY | BERTH_F_IDMAP)

static berth_status no_memory(struct store *st, struct berth_op *op)
{
	return berth_fail(st->host, op, BERTH_E_EXHAUSTED, "%s: no memory", st->host->plugin_name);
}

static berth_status overlay_configure(
        struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	const char *extra = st->host->conf_str(c, "mount_options", NULL);
	struct overlay *o = st->self = calloc(1, sizeof(*o));

	if (!o)
		return no_memory(st, op);
	o->use_volatile = st->host->conf_bool(c, "volatile", 1) != 0;
	if (!extra || !*extra)
		return BERTH_OK;
	static const char *const ours[] = {"lowerdir", "upperdir", "workdir"};
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (strstr(extra, ours[i]))
			return berth_fail(st->host, op, BERTH_E_INVALID,
			        "%s: mount_options '%s': '%s' is the driver's own",
			        st->host->plugin_name, extra, ours[i]);
	o->extra_options = strdup(extra);
	return o->extra_options ? (berth_status)BERTH_OK : no_memory(st, op);
}

static void overlay_finish(struct store *st)
{
	struct overlay *o = st->self;

	if (o)
		free(o->extra_options);
	free(o);
}

static const struct store_driver driver = {
        .features = FEATURES,
        .chain_limit = LAYERS_LIMIT,
        .configure = overlay_configure,
        .probe = probe_overlay,
        .finish = overlay_finish,
        .plan = overlay_plan,
        .make = overlay_make,
        .seal = overlay_seal,
        .describe = overlay_describe,
};

static berth_status overlay_create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	return store_create(&driver, op, h, c, self);
}

static const struct berth_plugin plugin = {
        .size = sizeof(plugin),
        .abi_minor = BERTH_ABI_MINOR,
        .features = FEATURES,
        .name = "storage-overlay",
        .version = "0.1",
        .storage = &store_ops,
        .create = overlay_create,
        .start = store_start,
        .stop = store_stop,
        .destroy = store_destroy,
        .extension = store_extension,
};

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
