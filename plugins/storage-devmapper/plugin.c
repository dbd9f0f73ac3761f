/* The driver: its configuration, its life, its hooks. */
#include "devmapper.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "berth/util.h"

#define FEATURES (BERTH_F_QUOTA | BERTH_F_IDMAP)
#define CHAIN_LIMIT 500 /* a device needs only its own; a bound for loops over parents */
#define BASE_SIZE "10G"
#define BASE_MIN (16ull << 20)
#define LOOP_MIN (64ull << 20)
#define SIZE_MAX_ (16ull << 40)
#define DATA_LIMIT 95
#define METADATA_LIMIT 90
#define INTERVAL_S 10

static berth_status invalid(
        struct store *st, struct berth_op *op, const char *key, const char *value, const char *why)
{
	return berth_fail(st->host, op, BERTH_E_INVALID, "%s: %s '%.200s' %s",
	        st->host->plugin_name, key, value, why);
}

static char *copy_text(struct store *st, const struct berth_conf *c, const char *key)
{
	const char *text = st->host->conf_str(c, key, NULL);

	return text && *text ? strdup(text) : NULL;
}

static berth_status take_size(struct store *st, struct berth_op *op, const struct berth_conf *c,
        const char *key, const char *preset, uint64_t min, uint64_t *ret)
{
	const char *text = st->host->conf_str(c, key, preset);

	if (!text)
		return BERTH_OK;
	if (!parse_size(text, ret))
		return invalid(st, op, key, text, "is no size, such as 10G");
	if (*ret < min || *ret > SIZE_MAX_)
		return invalid(st, op, key, text, "is too small or too large");
	*ret &= ~((1ull << 20) - 1);
	return BERTH_OK;
}

static berth_status take_number(struct store *st, struct berth_op *op, const struct berth_conf *c,
        const char *key, int64_t preset, int64_t max, int64_t *ret)
{
	char text[32];

	*ret = st->host->conf_i64(c, key, preset);
	if (*ret >= 1 && *ret <= max)
		return BERTH_OK;
	snprintf(text, sizeof(text), "%lld", (long long)*ret);
	return invalid(st, op, key, text, "is out of range");
}

static berth_status take_pool(struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	struct dm *d = st->self;

	d->pool_conf = copy_text(st, c, "pool");
	d->devices = copy_text(st, c, "devices");
	d->vg = strdup(st->host->conf_str(c, "volume_group", "berth"));
	berth_status r = take_size(st, op, c, "loop_size", NULL, LOOP_MIN, &d->loop_size);
	if (r != BERTH_OK)
		return r;
	int n = !!d->pool_conf + !!d->devices + !!d->loop_size;
	if (n != 1)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "%s: %s of pool (the name of a thin pool), devices (block devices to make "
		        "one on) and loop_size (one on files, for trials) must be given",
		        st->host->plugin_name, n ? "only one" : "one");
	d->kind = d->loop_size ? POOL_LOOP : d->devices ? POOL_LVM : POOL_GIVEN;
	return BERTH_OK;
}

static berth_status take_fs(struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	struct dm *d = st->self;
	const char *fs = st->host->conf_str(c, "filesystem", "ext4");

	if (!fs_known(fs))
		return invalid(st, op, "filesystem", fs, "is neither ext4 nor xfs");
	snprintf(d->fs, sizeof(d->fs), "%s", fs);
	d->mount_options = copy_text(st, c, "mount_options");
	d->mkfs_options = copy_text(st, c, "mkfs_options");
	if (d->mount_options && strlen(d->mount_options) > OPTIONS_LIMIT)
		return invalid(st, op, "mount_options", d->mount_options, "is too long");
	if (d->mkfs_options && strlen(d->mkfs_options) > OPTIONS_LIMIT)
		return invalid(st, op, "mkfs_options", d->mkfs_options, "is too long");
	d->discard = st->host->conf_bool(c, "discard", 1) != 0;
	return take_size(st, op, c, "base_size", BASE_SIZE, BASE_MIN, &d->base_size);
}

static berth_status take_limits(struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	struct dm *d = st->self;
	int64_t data, metadata, interval;
	berth_status r = take_number(st, op, c, "data_limit", DATA_LIMIT, 100, &data);

	if (r == BERTH_OK)
		r = take_number(st, op, c, "metadata_limit", METADATA_LIMIT, 100, &metadata);
	if (r == BERTH_OK)
		r = take_number(st, op, c, "check_interval_seconds", INTERVAL_S, 3600, &interval);
	if (r != BERTH_OK)
		return r;
	d->data_limit = (uint32_t)data;
	d->metadata_limit = (uint32_t)metadata;
	d->interval_ns = (uint64_t)interval * 1000000000ull;
	return BERTH_OK;
}

static berth_status dm_configure(struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	struct dm *d = calloc(1, sizeof(*d));

	st->self = d;
	if (!d)
		return berth_fail(
		        st->host, op, BERTH_E_EXHAUSTED, "%s: no memory", st->host->plugin_name);
	d->ctl = -1;
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->snapping, NULL);
	d->files_fd = -1;
	/* Pages that nobody touches are never there. */
	d->owner = calloc(IDS, sizeof(*d->owner));
	d->held = calloc(IDS, sizeof(*d->held));
	d->serial = store_now_ns(CLOCK_REALTIME);
	if (!d->owner || !d->held)
		return berth_fail(
		        st->host, op, BERTH_E_EXHAUSTED, "%s: no memory", st->host->plugin_name);
	berth_status r = take_fs(st, op, c);
	if (r == BERTH_OK)
		r = take_limits(st, op, c);
	/* Last: a machine without device mapper has no pool to name. */
	if (r == BERTH_OK)
		r = take_pool(st, op, c);
	return r;
}

static berth_status dm_probe(struct store *st, struct berth_op *op)
{
	static const char *const targets[] = {"thin-pool", "thin"};
	struct dm *d = st->self;

	d->ctl = dm_open();
	if (d->ctl < 0) {
		errno = -d->ctl;
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: this machine has no device mapper: /dev/mapper/control: %s",
		        st->host->plugin_name, strerror(errno));
	}
	for (size_t i = 0; i < 2; i++) {
		int r = dm_has_target(d->ctl, targets[i]);
		if (r == 0)
			continue;
		errno = -r;
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: the kernel has no device mapper target '%s' (module dm-thin-pool): %s",
		        st->host->plugin_name, targets[i], strerror(-r));
	}
	berth_status r = state_load(st, op);
	return r == BERTH_OK ? pool_open(st, op) : r;
}

/* ---- start ---- */

static int note_living(void *arg, const char *in, const char *name, const struct meta *m)
{
	struct store *st = arg;
	struct thin t;
	char msg[NAME_LIMIT + 128];

	if ((strcmp(in, "layers") != 0 && strcmp(in, "active") != 0) || !m ||
	        thin_parse(m->own, &t) < 0 || thin_note(st->self, t.dev, t.n))
		return 0;
	snprintf(msg, sizeof(msg), "%s: '%s/%s' has a device that is another's, too",
	        st->host->plugin_name, in, name);
	st->host->log(st->host, NULL, BERTH_LOG_ERROR, msg);
	return 0;
}

static int note_dead(void *arg, const char *in, const char *name, const struct meta *m)
{
	struct store *st = arg;
	struct thin t;

	(void)name;
	if ((strcmp(in, "trash") == 0 || strcmp(in, "new") == 0) && m &&
	        thin_parse(m->own, &t) == 0)
		(void)thin_note(st->self, t.dev, t.n);
	return 0;
}

/* A device that is active and nobody's: its pool has forgotten it. */
static void drop_stale(void *arg, const char *name)
{
	struct dm *d = arg;
	const char *digits = strrchr(name, '-') + 1;
	char *end;
	unsigned long dev = strtoul(digits, &end, 10);

	if (end == digits || *end || dev < d->first || dev - d->first >= IDS)
		return;
	if (d->owner[dev - d->first] == 0)
		(void)dm_remove(d->ctl, name, true);
}

static berth_status dm_start(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	char prefix[DM_NAME_MAX + 1];
	int r = store_each(st, note_living, st);

	if (r == 0)
		r = store_each(st, note_dead, st);
	if (r < 0) {
		errno = -r;
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: read the snapshots in '%s': %s", st->host->plugin_name, st->root,
		        strerror(-r));
	}
	berth_status s = base_ready(st, op);
	if (s != BERTH_OK)
		return s;
	snprintf(prefix, sizeof(prefix), "berth-%s-", d->tag);
	(void)dm_each(d->ctl, prefix, drop_stale, d);
	s = health_start(st, op);
	if (s == BERTH_OK)
		d->pool_made = false; /* it stays from here on */
	return s;
}

static void dm_stop(struct store *st, struct berth_op *op)
{
	(void)op;
	health_stop(st);
}

static void dm_finish(struct store *st)
{
	struct dm *d = st->self;

	if (!d)
		return;
	for (uint32_t i = 0; d->held && i < IDS; i++)
		thin_let_go(d, d->first + i);
	if (d->ctl >= 0) {
		pool_undo(st);
		close(d->ctl);
	}
	free(d->pool_conf);
	free(d->devices);
	free(d->vg);
	free(d->mount_options);
	free(d->mkfs_options);
	free(d->owner);
	free(d->held);
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->snapping);
	free(d);
}

static const struct store_driver driver = {
        .features = FEATURES,
        .chain_limit = CHAIN_LIMIT,
        .outside = true,
        .configure = dm_configure,
        .probe = dm_probe,
        .start = dm_start,
        .stop = dm_stop,
        .finish = dm_finish,
        .plan = dm_plan,
        .unplan = dm_unplan,
        .make = dm_content,
        .seal = dm_seal,
        .describe = dm_describe,
        .destroy = dm_destroy,
        .usage = dm_usage,
};

STORE_PLUGIN("storage-devmapper", FEATURES)
