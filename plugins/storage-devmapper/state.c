/* What the driver knows beside its snapshots: its numbers in the pool, and the base. */
#include "devmapper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

#define REGION_TRIES 16

static berth_status fail_state(
        struct store *st, struct berth_op *op, const char *what, const char *name, int r)
{
	errno = r < 0 ? -r : r;
	return berth_fail(st->host, op,
	        errno == ENOSPC || errno == EDQUOT ? BERTH_E_EXHAUSTED : BERTH_E_PRECONDITION,
	        "%s: %s '%s/%s': %s", st->host->plugin_name, what, st->root, name, strerror(errno));
}

/* The whole file or the old one, and on the disk. */
static int write_state(struct store *st, const char *name, const char *text)
{
	char tmp[64];

	snprintf(tmp, sizeof(tmp), "%s.tmp", name);
	int fd = openat(
	        st->root_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	size_t n = strlen(text);
	ssize_t w = write(fd, text, n);
	int r = w < 0 ? -errno : (size_t)w != n ? -ENOSPC : fsync(fd) < 0 ? -errno : 0;
	close(fd);
	if (r == 0 && renameat(st->root_fd, tmp, st->root_fd, name) < 0)
		r = -errno;
	if (r == 0 && fsync(st->root_fd) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(st->root_fd, tmp, 0);
	return r;
}

static int forget(struct store *st, const char *name)
{
	if (unlinkat(st->root_fd, name, 0) < 0)
		return errno == ENOENT ? 0 : -errno;
	return fsync(st->root_fd) < 0 ? -errno : 0;
}

/* ---- numbers and names ---- */

/* LVM counts from the bottom: that region is not ours. Two stores on one pool are in different
 * ones, for the base is the region's first number, and the pool gives a number once. */
static int choose(struct store *st, struct dm *d)
{
	uint32_t random[2];
	char text[64];

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return -EIO;
	if (!*d->tag)
		snprintf(d->tag, sizeof(d->tag), "%08x", random[0]);
	d->first = (1 + random[1] % (IDS_REGIONS - 1)) * IDS;
	snprintf(text, sizeof(text), "v=1 tag=%s first=%u", d->tag, d->first);
	return write_state(st, "pool", text);
}

berth_status state_load(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	char text[OWN_LIMIT + 1];
	uint64_t v, first;
	int r = store_read_small(st->root_fd, "pool", text, sizeof(text));

	if (r == -ENOENT) {
		r = choose(st, d);
		return r < 0 ? fail_state(st, op, "write", "pool", r) : (berth_status)BERTH_OK;
	}
	if (r == 0 && (!own_u64(text, "v", &v) || v != 1 || !own_u64(text, "first", &first) ||
	                      first < IDS || first > (IDS_REGIONS - 1) * IDS || first % IDS ||
	                      !own_text(text, "tag", d->tag, sizeof(d->tag)) ||
	                      strspn(d->tag, "0123456789abcdef") != TAG_LEN))
		r = -EPROTO;
	if (r < 0)
		return fail_state(st, op, "read", "pool", r);
	d->first = (uint32_t)first;
	return BERTH_OK;
}

/* ---- the base ---- */

static int read_base(struct store *st, const char *name, struct thin *t, uint32_t *old)
{
	char text[OWN_LIMIT + 1];
	uint64_t before = 0;
	int r = store_read_small(st->root_fd, name, text, sizeof(text));

	if (r == 0)
		r = thin_parse(text, t);
	if (r == 0 && old)
		*old = own_u64(text, "old", &before) ? (uint32_t)before : 0;
	return r;
}

static int write_base(
        struct store *st, const char *name, const struct thin *t, bool totals, uint32_t old)
{
	char text[OWN_LIMIT + 1];
	int r = thin_print(t, totals, text, sizeof(text));

	if (r == 0 && old) {
		size_t n = strlen(text);
		snprintf(text + n, sizeof(text) - n, " old=%u", old);
	}
	return r < 0 ? r : write_state(st, name, text);
}

static int drop(struct dm *d, uint32_t dev)
{
	int r = thin_deactivate(d, dev);

	return r < 0 ? r : thin_delete(d, dev);
}

/* A number, written down, with a new device in the pool. */
static int create_noted(struct store *st, bool first_ever, struct thin *t)
{
	struct dm *d = st->self;

	for (int i = 0; i < REGION_TRIES; i++) {
		t->dev = thin_take(d, t->n);
		if (!t->dev)
			return -ENOSPC;
		int r = write_base(st, "base.next", t, false, 0);
		if (r == 0)
			r = thin_create(d, t->dev);
		if (r != -EEXIST)
			return r;
		/* Another's. It stays marked as taken, or with it the region is left. */
		r = forget(st, "base.next");
		if (r == 0 && first_ever) {
			thin_give(d, t->dev, t->n);
			d->cursor = 0;
			r = choose(st, d);
		}
		if (r < 0)
			return r;
	}
	return -EEXIST;
}

static berth_status fill_base(struct store *st, struct berth_op *op, struct thin *t)
{
	struct dm *d = st->self;
	char path[PATH_LIMIT];
	int r = thin_activate(d, t, path);

	if (r < 0)
		return fail_state(st, op, "activate the base of", "base", r);
	berth_status s = fs_make(st, op, path, t->fs);
	if (s != BERTH_OK)
		return s;
	int fd = fs_open(d, path, t->fs, false);
	r = fd < 0 ? fd : 0;
	/* A directory of no image, which would be in each container, and go with the lowest layer
	 * into other drivers. e2fsck makes it where it has something for it. */
	if (r == 0 && unlinkat(fd, "lost+found", AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	if (r == 0)
		r = fs_totals(fd, &t->totals);
	if (r == 0 && syncfs(fd) < 0)
		r = -errno;
	if (fd >= 0)
		close(fd);
	if (r == 0)
		r = thin_deactivate(d, t->dev);
	return r < 0 ? fail_state(st, op, "mount the new file system of", "base", r)
	             : (berth_status)BERTH_OK;
}

static void use(struct dm *d, const struct thin *t)
{
	d->base = t->dev;
	d->base_n = t->n;
	d->base_size = t->size;
	d->base_totals = t->totals;
}

static berth_status make_base(struct store *st, struct berth_op *op, uint32_t old, bool first_ever)
{
	struct dm *d = st->self;
	struct thin t = {.n = store_now_ns(CLOCK_REALTIME), .size = d->base_size};

	snprintf(t.fs, sizeof(t.fs), "%s", d->fs);
	int r = create_noted(st, first_ever, &t);
	if (r < 0)
		return fail_state(st, op, "make the device of", "base", r);
	berth_status s = fill_base(st, op, &t);
	if (s == BERTH_OK) {
		r = write_base(st, "base.next", &t, true, old);
		if (r == 0 && renameat(st->root_fd, "base.next", st->root_fd, "base") < 0)
			r = -errno;
		if (r == 0 && fsync(st->root_fd) < 0)
			r = -errno;
		if (r < 0)
			s = fail_state(st, op, "write", "base", r);
	}
	if (s != BERTH_OK) {
		if (drop(d, t.dev) == 0)
			(void)forget(st, "base.next");
		return s;
	}
	use(d, &t);
	return BERTH_OK;
}

/* Is the device in the pool? -ENODATA */
static int probe_device(struct dm *d, const struct thin *t)
{
	char path[PATH_LIMIT];
	int r = thin_activate(d, t, path);

	return r < 0 ? r : thin_deactivate(d, t->dev);
}

/* What a killed make_base() left. */
static int finish_old(struct store *st, const struct thin *base, bool have, uint32_t old)
{
	struct dm *d = st->self;
	struct thin next;
	int r = read_base(st, "base.next", &next, NULL);

	if (r == 0 && !(have && next.dev == base->dev))
		r = drop(d, next.dev);
	if (r == 0 || r == -EINVAL)
		r = forget(st, "base.next");
	if (r == -ENOENT)
		r = 0;
	if (r == 0 && old) {
		r = drop(d, old);
		if (r == 0)
			r = write_base(st, "base", base, true, 0);
	}
	return r;
}

berth_status base_ready(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	struct thin t;
	uint32_t old = 0;
	int r = read_base(st, "base", &t, &old);
	bool have = r == 0;

	if (r < 0 && r != -ENOENT)
		return fail_state(st, op, "read", "base", r);
	if (have && !thin_note(d, t.dev, t.n))
		return fail_state(st, op, "number of", "base", EPROTO);
	r = finish_old(st, &t, have, old);
	if (r < 0)
		return fail_state(st, op, "delete what is left of", "base.next", r);
	int used = store_in_use(st);
	if (used < 0)
		return fail_state(st, op, "read", "", used);
	if (have) {
		r = probe_device(d, &t);
		if (r == -ENODATA && used > 0)
			return berth_fail(st->host, op, BERTH_E_PRECONDITION,
			        "%s: thin pool '%s' is not the one that the snapshots in '%s' are "
			        "in: it has no device %u",
			        st->host->plugin_name, d->pool, st->root, t.dev);
		if (r < 0 && r != -ENODATA)
			return fail_state(st, op, "activate the device of", "base", r);
		if (r == 0 && strcmp(t.fs, d->fs) == 0 && t.size == d->base_size) {
			use(d, &t);
			return BERTH_OK;
		}
	}
	berth_status s = make_base(st, op, have ? t.dev : 0, !have && used == 0);
	if (s == BERTH_OK && have) {
		thin_give(d, t.dev, t.n);
		r = drop(d, t.dev);
		/* Else the next start does it. */
		if (r == 0 && read_base(st, "base", &t, NULL) == 0)
			(void)write_base(st, "base", &t, true, 0);
	}
	return s;
}
