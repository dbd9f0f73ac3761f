/* The driver: its configuration, its hooks. */
#include "aufs.h"

#include <stdlib.h>
#include <string.h>

#include "berth/util.h"

#define FEATURES (BERTH_F_DETACHED_LAYERS | BERTH_F_WHITEOUT_AUFS)

static berth_status no_memory(struct store *st, struct berth_op *op)
{
	return berth_fail(st->host, op, BERTH_E_EXHAUSTED, "%s: no memory", st->host->plugin_name);
}

/* Is this option, with or without a value, one that the driver gives? */
static const char *ours(const char *option)
{
	static const char *const names[] = {"br", "dirs", "add", "ins", "append", "prepend", "del",
	        "mod", "xino", "noxino", "noplink", "ro", "rw"};
	size_t n = strcspn(option, "=:");

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strlen(names[i]) == n && strncmp(option, names[i], n) == 0)
			return names[i];
	return NULL;
}

static berth_status take_options(struct store *st, struct berth_op *op, const char *list)
{
	struct aufs *d = st->self;
	size_t n = 0;
	char *save = NULL;

	if (!list || !*list)
		return BERTH_OK;
	d->extra = strdup(list);
	if (!d->extra)
		return no_memory(st, op);
	for (char *o = strtok_r(d->extra, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
		const char *own = ours(o);
		if (own)
			return berth_fail(st->host, op, BERTH_E_INVALID,
			        "%s: mount_options '%s': '%s' is the driver's own",
			        st->host->plugin_name, list, own);
		if (n == OPTIONS_MAX)
			return berth_fail(st->host, op, BERTH_E_INVALID,
			        "%s: mount_options '%s': more than %d options",
			        st->host->plugin_name, list, OPTIONS_MAX);
		d->options[n++] = o;
	}
	return BERTH_OK;
}

static berth_status aufs_configure(
        struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	const char *xino = st->host->conf_str(c, "xino_dir", NULL);
	const char *options = st->host->conf_str(c, "mount_options", NULL);
	struct aufs *d = st->self = calloc(1, sizeof(*d));

	if (!d)
		return no_memory(st, op);
	if (xino && *xino) {
		if (*xino != '/')
			return berth_fail(st->host, op, BERTH_E_INVALID,
			        "%s: xino_dir '%s' is no absolute path", st->host->plugin_name,
			        xino);
		d->xino_dir = strdup(xino);
		if (!d->xino_dir)
			return no_memory(st, op);
	}
	return take_options(st, op, options);
}

static void aufs_finish(struct store *st)
{
	struct aufs *d = st->self;

	if (d) {
		free(d->xino_dir);
		free(d->extra);
	}
	free(d);
}

static const struct store_driver driver = {
        .features = FEATURES,
        .chain_limit = LAYERS_LIMIT,
        .configure = aufs_configure,
        .probe = aufs_probe,
        .finish = aufs_finish,
        .make = aufs_make,
        .seal = aufs_seal,
        .describe = aufs_describe,
        .skips = aufs_skips,
};

STORE_PLUGIN("storage-aufs", FEATURES)
