/* What images and containers take on the disk. [loop] */
#ifndef BERTH_IMAGE_USAGE_H
#define BERTH_IMAGE_USAGE_H

#include "daemon.h"

struct berth_disk_usage {
	uint64_t at_ns; /* CLOCK_REALTIME */
	struct berth_disk_share {
		uint64_t image_bytes, image_inodes;
		uint64_t ctr_bytes, ctr_inodes; /* writable layers */
	} of[BERTH_LIMIT_STORAGE_DRIVERS];      /* each of d->storages */
};
typedef void (*berth_disk_usage_fn)(
        const struct berth_disk_usage *u, const struct berth_error *err, void *arg);

/* Tells the last sample, and has a new one taken where it is some seconds old. Only where there is
 * none, or images have come or gone since, does fn wait for the new one. */
void berth_disk_usage(struct berth_daemon *d, berth_disk_usage_fn fn, void *arg);
/* Images have come or gone. */
void berth_disk_usage_changed(struct berth_daemon *d);
/* Where a driver keeps images and writable layers: what its key `root` says, else its state
 * directory. Caller frees. [any] */
char *berth_disk_place(const struct berth_daemon *d, const struct berth_instance *storage);
void berth_disk_usage_finish(struct berth_daemon *d);

#endif
