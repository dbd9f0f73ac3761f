/* The pool: found or activated, and what it says of itself. */
#include "devmapper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

int node_of(uint32_t major, uint32_t minor, char path[PATH_LIMIT])
{
	char file[64], text[1024], *save = NULL;

	snprintf(file, sizeof(file), "/sys/dev/block/%u:%u/uevent", major, minor);
	int r = store_read_small(AT_FDCWD, file, text, sizeof(text));
	if (r < 0)
		return r;
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		if (strncmp(l, "DEVNAME=", 8) != 0)
			continue;
		int n = snprintf(path, PATH_LIMIT, "/dev/%s", l + 8);
		return n < 0 || n >= PATH_LIMIT ? -ENAMETOOLONG : 0;
	}
	return -ENOENT;
}

/* TRANSACTION USED/TOTAL-METADATA USED/TOTAL-DATA HELD-ROOT MODE DISCARDS WHEN-FULL NEEDS-CHECK ...
 * or one word: Fail, Error. */
int pool_status_parse(const char *text, struct pool_status *ret)
{
	struct pool_status s = {0};
	char mode[24], discards[32], full[32], check[32] = "-", held[24];
	uint64_t transaction;

	if (strncmp(text, "Fail", 4) == 0 || strncmp(text, "Error", 5) == 0) {
		ret->mode = POOL_FAILED;
		return 0;
	}
	int n = sscanf(text,
	        "%" SCNu64 " %" SCNu64 "/%" SCNu64 " %" SCNu64 "/%" SCNu64
	        " %23s %23s %31s %31s %31s",
	        &transaction, &s.meta_used, &s.meta_total, &s.data_used, &s.data_total, held, mode,
	        discards, full, check);
	if (n < 9 || s.meta_total == 0 || s.data_total == 0)
		return -EPROTO;
	if (strcmp(mode, "rw") == 0)
		s.mode = POOL_RW;
	else if (strcmp(mode, "out_of_data_space") == 0)
		s.mode = POOL_NO_SPACE;
	else
		s.mode = POOL_RO;
	s.needs_check = strcmp(check, "needs_check") == 0;
	*ret = s;
	return 0;
}

int pool_status(struct dm *d, struct pool_status *ret)
{
	char type[16], text[DM_STATUS_MAX];
	int r = dm_status(d->ctl, d->pool, false, type, text);

	if (r < 0)
		return r;
	if (strcmp(type, "thin-pool") != 0)
		return -EMEDIUMTYPE;
	return pool_status_parse(text, ret);
}

static berth_status refuse(struct store *st, struct berth_op *op, const char *why)
{
	struct dm *d = st->self;

	return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s: thin pool '%s' %s",
	        st->host->plugin_name, d->pool, why);
}

static berth_status check_pool(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	struct pool_status s;
	int r = pool_status(d, &s);

	if (r == -EMEDIUMTYPE)
		return refuse(st, op, "is a device of another kind");
	if (r < 0) {
		errno = -r;
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: status of thin pool '%s': %s", st->host->plugin_name, d->pool,
		        strerror(-r));
	}
	if (s.mode == POOL_FAILED)
		return refuse(st, op,
		        "has failed: look for the errors of its devices in the kernel's log, then "
		        "repair its metadata (lvconvert --repair for LVM's, else thin_repair)");
	if (s.needs_check)
		return refuse(st, op,
		        "asks for a check of its metadata: deactivate it, then lvconvert --repair "
		        "for LVM's, else thin_check --clear-needs-check-flag, or thin_repair "
		        "where that finds damage");
	if (s.mode == POOL_RO)
		return refuse(st, op, "is read-only");
	return BERTH_OK;
}

static berth_status features(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	char type[16], text[DM_STATUS_MAX];
	int r = dm_status(d->ctl, d->pool, true, type, text);

	if (r < 0)
		return refuse(st, op, "does not tell its table");
	d->zeroes = !strstr(text, "skip_block_zeroing");
	if (strstr(text, "ignore_discard"))
		d->discard = false;
	return BERTH_OK;
}

static berth_status find_given(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	const char *slash = strchr(d->pool_conf, '/');

	if (slash) {
		char vg[DM_NAME_MAX + 1];
		snprintf(vg, sizeof(vg), "%.*s", (int)(slash - d->pool_conf), d->pool_conf);
		return pool_of_lvm(st, op, vg, slash + 1);
	}
	if (strlen(d->pool_conf) > DM_NAME_MAX)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "%s: pool '%.40s...' is no name of a device", st->host->plugin_name,
		        d->pool_conf);
	snprintf(d->pool, sizeof(d->pool), "%s", d->pool_conf);
	return BERTH_OK;
}

berth_status pool_open(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	berth_status r = d->kind == POOL_LOOP  ? pool_on_files(st, op)
	                 : d->kind == POOL_LVM ? pool_on_lvm(st, op)
	                                       : find_given(st, op);

	if (r != BERTH_OK)
		return r;
	int e = dm_find(d->ctl, d->pool, &d->pool_dev);
	if (e < 0)
		return refuse(st, op, e == -ENXIO ? "is not active" : strerror(-e));
	r = check_pool(st, op);
	if (r == BERTH_OK)
		r = features(st, op);
	return r;
}

void pool_undo(struct store *st)
{
	struct dm *d = st->self;

	if (d->pool_made)
		(void)dm_remove(d->ctl, d->pool, true);
	d->pool_made = false;
}
