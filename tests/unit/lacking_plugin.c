/* A storage driver that promises too little or too much: LACKS names an op that it has not,
 * FEATURES are its descriptor's, LATER those that its instance tells. */
#include <berth/plugin.h>

static berth_status create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	(void)op;
	(void)h;
	(void)c;
	(void)self;
	return BERTH_OK;
}

static void destroy(void *self)
{
	(void)self;
}

static const void *extension(void *self, const char *id)
{
	static const struct berth_features later = {.size = sizeof(later), .features = LATER};

	(void)self;
	(void)id; /* nobody asks for another */
	return LATER ? &later : NULL;
}

static berth_status snap(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	(void)op;
	(void)self;
	(void)a;
	return BERTH_OK;
}

static berth_status mounts(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	(void)res;
	return snap(op, self, a);
}

static berth_status stat_(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res)
{
	(void)res;
	return snap(op, self, a);
}

static berth_status list(struct berth_op *op, void *self, struct berth_snap_list *res)
{
	(void)res;
	return snap(op, self, NULL);
}

BERTH_PLUGIN_NEEDS(0)

const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	static struct berth_storage_ops ops = {.size = sizeof(ops),
	        .prepare = mounts,
	        .view = mounts,
	        .mounts = mounts,
	        .commit = snap,
	        .remove = snap,
	        .stat = stat_,
	        .list = list};
	static const struct berth_plugin plugin = {.size = sizeof(plugin),
	        .name = "lacking",
	        .version = "1",
	        .features = FEATURES,
	        .storage = &ops,
	        .create = create,
	        .destroy = destroy,
	        .extension = extension};

	(void)host_minor;
#ifdef LACKS
	ops.LACKS = NULL;
#endif
	return &plugin;
}
