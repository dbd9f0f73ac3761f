/* A pool that LVM keeps: found, or made on block devices. LVM checks its metadata (thin_check) when
 * it activates it. */
#include "devmapper.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

#define LV "thinpool"
#define DEVICES_MAX 32

/* The last argument: LVM waits for udev's word on each device, and none comes where no udev runs.
 */
static const char *udev_sync(void)
{
	return access("/run/udev/control", F_OK) == 0 ? NULL : "--noudevsync";
}

static bool valid_name(const char *name)
{
	if (!*name || *name == '-' || *name == '.')
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("+_.-", *name))
			return false;
	return true;
}

/* As LVM makes a device's name of its own: with each hyphen doubled. */
static int lvm_device(const char *vg, const char *lv, const char *suffix, char *out, size_t size)
{
	size_t n = 0;
	const char *const parts[] = {vg, lv};

	for (size_t i = 0; i < 2; i++) {
		if (i > 0 && n + 1 < size)
			out[n++] = '-';
		for (const char *p = parts[i]; *p && n + 2 < size; p++) {
			out[n++] = *p;
			if (*p == '-')
				out[n++] = '-';
		}
	}
	int more = snprintf(out + n, size - n, "%s", suffix);
	return more < 0 || n + (size_t)more + 2 >= size ? -ENAMETOOLONG : 0;
}

static bool is_pool(struct dm *d, const char *name)
{
	char type[16], text[DM_STATUS_MAX];

	return dm_status(d->ctl, name, true, type, text) == 0 && strcmp(type, "thin-pool") == 0;
}

berth_status pool_of_lvm(struct store *st, struct berth_op *op, const char *vg, const char *lv)
{
	struct dm *d = st->self;
	/* Beside thin volumes of LVM's own the pool is called so; alone by its plain name. */
	static const char *const suffixes[] = {"-tpool", ""};
	char what[PATH_LIMIT], both[PATH_LIMIT];

	if (!valid_name(vg) || !valid_name(lv))
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "%s: '%s/%s' is no name of a logical volume", st->host->plugin_name, vg,
		        lv);
	snprintf(what, sizeof(what), "activate thin pool '%.120s/%.120s'", vg, lv);
	snprintf(both, sizeof(both), "%.120s/%.120s", vg, lv);
	berth_status r = run_tool(st, op, what,
	        (const char *const[]){"lvchange", "-ay", "-y", both, udev_sync(), NULL}, NULL);
	if (r != BERTH_OK)
		return r;
	for (size_t i = 0; i < 2; i++)
		if (lvm_device(vg, lv, suffixes[i], d->pool, sizeof(d->pool)) == 0 &&
		        is_pool(d, d->pool))
			return BERTH_OK;
	return berth_fail(st->host, op, BERTH_E_PRECONDITION,
	        "%s: logical volume '%s/%s' is no thin pool", st->host->plugin_name, vg, lv);
}

static berth_status make_vg(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	const char *argv[DEVICES_MAX + 4] = {"vgcreate"};
	char *list = berth_dup(st->host, op, d->devices), *save = NULL, what[PATH_LIMIT];
	size_t n = 1;

	argv[n++] = d->vg;
	for (char *dev = strtok_r(list, ", ", &save); dev; dev = strtok_r(NULL, ", ", &save)) {
		if (n >= DEVICES_MAX + 3)
			return berth_fail(st->host, op, BERTH_E_INVALID,
			        "%s: devices: more than %d", st->host->plugin_name, DEVICES_MAX);
		argv[n++] = dev;
	}
	/* Without --yes: devices that hold something are refused. */
	snprintf(what, sizeof(what), "make volume group '%.100s' on '%.200s'", d->vg, d->devices);
	return run_tool(st, op, what, argv, NULL);
}

/* The rest of the group stays free: LVM's spare for a repair, and room for the metadata to grow. */
static berth_status make_lv(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	char what[PATH_LIMIT];

	snprintf(what, sizeof(what), "make thin pool '%.100s/" LV "'", d->vg);
	return run_tool(st, op, what,
	        (const char *const[]){"lvcreate", "-y", "--type", "thin-pool", "-n", LV,
	                "--extents", "90%FREE", "--chunksize", "64K", "--zero", "y", d->vg,
	                udev_sync(), NULL},
	        NULL);
}

/* A writer that waits for space cannot be killed. lvcreate does not take the option, and lvchange
 * fails where it is set. */
static berth_status fail_when_full(struct store *st, struct berth_op *op, const char *full)
{
	struct dm *d = st->self;
	char type[16], table[DM_STATUS_MAX];

	if (dm_status(d->ctl, d->pool, true, type, table) == 0 &&
	        strstr(table, "error_if_no_space"))
		return BERTH_OK;
	return run_tool(st, op, "have the thin pool tell when it is full",
	        (const char *const[]){"lvchange", "--errorwhenfull", "y", full, udev_sync(), NULL},
	        NULL);
}

static berth_status has(struct store *st, struct berth_op *op, const char *tool, const char *field,
        const char *wanted, bool *ret)
{
	const char *out;
	char *save = NULL;
	berth_status r = run_tool(st, op, "list what LVM has",
	        (const char *const[]){tool, "--noheadings", "-o", field, NULL}, &out);

	*ret = false;
	if (r != BERTH_OK)
		return r;
	char *copy = berth_dup(st->host, op, out);
	for (char *w = strtok_r(copy, " \t\n", &save); w; w = strtok_r(NULL, " \t\n", &save))
		*ret = *ret || strcmp(w, wanted) == 0;
	return BERTH_OK;
}

berth_status pool_on_lvm(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	char full[DM_NAME_MAX + 1];
	bool group, volume = false;

	if (!valid_name(d->vg) || strlen(d->vg) > 100)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "%s: volume_group '%.100s' is no name of one", st->host->plugin_name,
		        d->vg);
	snprintf(full, sizeof(full), "%.100s/" LV, d->vg);
	berth_status r = has(st, op, "vgs", "vg_name", d->vg, &group);
	if (r == BERTH_OK && !group)
		r = make_vg(st, op);
	if (r == BERTH_OK && group)
		r = has(st, op, "lvs", "lv_full_name", full, &volume);
	if (r == BERTH_OK && !volume)
		r = make_lv(st, op);
	if (r == BERTH_OK)
		r = pool_of_lvm(st, op, d->vg, LV);
	return r == BERTH_OK ? fail_when_full(st, op, full) : r;
}
