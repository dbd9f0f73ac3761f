/* Devices of the pool: their numbers, making and deleting, activation. */
#include "devmapper.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUSY_TRIES 20
#define BUSY_WAIT_NS 5000000l

int thin_parse(const char *own, struct thin *ret)
{
	struct thin t = {0};
	uint64_t dev;

	if (!own_u64(own, "dev", &dev) || dev == 0 || dev >= IDS * IDS_REGIONS ||
	        !own_u64(own, "n", &t.n) || t.n == 0 || !own_u64(own, "size", &t.size) ||
	        !own_text(own, "fs", t.fs, sizeof(t.fs)) || !fs_known(t.fs))
		return -EINVAL;
	t.dev = (uint32_t)dev;
	(void)own_u64(own, "used", &t.totals.bytes);
	(void)own_u64(own, "files", &t.totals.files);
	*ret = t;
	return 0;
}

int thin_print(const struct thin *t, bool totals, char *own, size_t size)
{
	char more[64] = "";

	if (totals)
		snprintf(more, sizeof(more), " used=%" PRIu64 " files=%" PRIu64, t->totals.bytes,
		        t->totals.files);
	int n = snprintf(own, size, "dev=%u n=%" PRIu64 " size=%" PRIu64 " fs=%s%s", t->dev, t->n,
	        t->size, t->fs, more);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

void thin_name(const struct dm *d, uint32_t dev, char name[DM_NAME_MAX + 1])
{
	snprintf(name, DM_NAME_MAX + 1, "berth-%s-%u", d->tag, dev);
}

/* ---- numbers ---- */

static bool ours(const struct dm *d, uint32_t dev)
{
	return dev >= d->first && dev - d->first < IDS;
}

uint32_t thin_take(struct dm *d, uint64_t n)
{
	uint32_t found = 0;

	pthread_mutex_lock(&d->lock);
	/* A number is used again as late as can be. */
	for (uint32_t i = 0; i < IDS && !found; i++) {
		uint32_t at = (d->cursor + i) % IDS;
		if (d->owner[at])
			continue;
		d->owner[at] = n;
		d->cursor = at + 1;
		found = d->first + at;
	}
	pthread_mutex_unlock(&d->lock);
	return found;
}

void thin_give(struct dm *d, uint32_t dev, uint64_t n)
{
	pthread_mutex_lock(&d->lock);
	if (ours(d, dev) && d->owner[dev - d->first] == n)
		d->owner[dev - d->first] = 0;
	pthread_mutex_unlock(&d->lock);
}

bool thin_note(struct dm *d, uint32_t dev, uint64_t n)
{
	bool ok = false;

	pthread_mutex_lock(&d->lock);
	if (ours(d, dev)) {
		uint64_t *o = &d->owner[dev - d->first];
		ok = *o == 0 || *o == n;
		if (ok)
			*o = n;
		if (dev - d->first >= d->cursor)
			d->cursor = dev - d->first + 1;
	}
	pthread_mutex_unlock(&d->lock);
	return ok;
}

bool thin_is(struct dm *d, uint32_t dev, uint64_t n)
{
	pthread_mutex_lock(&d->lock);
	bool is = ours(d, dev) && d->owner[dev - d->first] == n;
	pthread_mutex_unlock(&d->lock);
	return is;
}

/* ---- messages ---- */

int thin_create(struct dm *d, uint32_t dev)
{
	return dm_message(d->ctl, d->pool, "create_thin %u", dev);
}

/* The kernel takes a snapshot of what the origin's device has got by then: what is in flight, and
 * in the file system's memory, must have got there. */
int thin_snapshot(struct dm *d, uint32_t dev, uint32_t origin)
{
	char name[DM_NAME_MAX + 1];
	struct dm_dev o;

	thin_name(d, origin, name);
	int r = dm_find(d->ctl, name, &o);
	if (r == -ENXIO)
		return dm_message(d->ctl, d->pool, "create_snap %u %u", dev, origin);
	if (r < 0)
		return r;
	pthread_mutex_lock(&d->snapping);
	r = dm_suspend(d->ctl, name);
	if (r == 0 || r == -ENXIO) {
		int resumed = 0;
		bool there = r == 0;
		r = dm_message(d->ctl, d->pool, "create_snap %u %u", dev, origin);
		if (there)
			resumed = dm_resume(d->ctl, name);
		if (r == 0 && resumed < 0 && resumed != -ENXIO)
			r = resumed;
	}
	pthread_mutex_unlock(&d->snapping);
	return r;
}

int thin_delete(struct dm *d, uint32_t dev)
{
	int r = dm_message(d->ctl, d->pool, "delete %u", dev);

	return r == -ENODATA ? 0 : r;
}

/* ---- devices ---- */

int thin_activate(struct dm *d, const struct thin *t, char path[PATH_LIMIT])
{
	char name[DM_NAME_MAX + 1], params[64];
	struct dm_dev dev = {0};

	thin_name(d, t->dev, name);
	snprintf(params, sizeof(params), "%u:%u %u", d->pool_dev.major, d->pool_dev.minor, t->dev);
	const struct dm_table table = {
	        .sectors = t->size / SECTOR, .type = "thin", .params = params};
	int r = dm_find(d->ctl, name, &dev);
	/* Killed between making it and giving it a table. */
	if (r == 0 && !dev.live) {
		r = dm_remove(d->ctl, name, false);
		if (r == 0)
			r = -ENXIO;
	}
	if (r == -ENXIO)
		r = dm_make(d->ctl, name, &table, &dev);
	if (r == 0 && dev.deferred)
		r = dm_message(d->ctl, name, "@cancel_deferred_remove");
	if (r == 0 && dev.suspended) /* killed while it took a snapshot of it */
		r = dm_resume(d->ctl, name);
	if (r < 0)
		return r;
	snprintf(path, PATH_LIMIT, "/dev/dm-%u", dev.minor);
	return 0;
}

int thin_deactivate(struct dm *d, uint32_t dev)
{
	const struct timespec wait = {.tv_nsec = BUSY_WAIT_NS};
	char name[DM_NAME_MAX + 1];
	int r = 0;

	thin_name(d, dev, name);
	for (int i = 0; i < BUSY_TRIES; i++) {
		r = dm_remove(d->ctl, name, false);
		if (r != -EBUSY)
			return r == -ENXIO ? 0 : r;
		/* A mount that has just been let go, or a program that looks at new devices. */
		nanosleep(&wait, NULL);
	}
	r = dm_remove(d->ctl, name, true);
	if (r < 0)
		return r == -ENXIO ? 0 : r;
	struct dm_dev o;
	return dm_find(d->ctl, name, &o) == -ENXIO ? 0 : -EBUSY;
}
