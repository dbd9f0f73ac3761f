/* The driver: its hooks. */
#include "overlay.h"

#define FEATURES                                                              \
	(BERTH_F_DETACHED_LAYERS | BERTH_F_WHITEOUT_OVERLAY | BERTH_F_IDMAP | \
	        BERTH_F_EXTERNAL_LAYERS)

static berth_status overlay_probe(struct store *st, struct berth_op *op)
{
	berth_status r = probe_overlay(st, op);

	if (r == BERTH_OK)
		quota_probe(st, op);
	return r;
}

static const struct store_driver driver = {
        .features = FEATURES,
        .chain_limit = LAYERS_LIMIT,
        .configure = overlay_configure,
        .probe = overlay_probe,
        .start = quota_start,
        .finish = overlay_finish,
        .plan = overlay_plan,
        .make = overlay_make,
        .seal = overlay_seal,
        .describe = overlay_describe,
        .destroy = overlay_destroy,
        .usage = quota_usage,
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
