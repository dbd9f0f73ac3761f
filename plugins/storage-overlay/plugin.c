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

STORE_PLUGIN("storage-overlay", FEATURES)
