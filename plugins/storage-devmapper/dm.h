/* Device mapper by its ioctls.
 *
 * Not through libdevmapper: that keeps its descriptor, its log function and a list of nodes to make
 * in static variables of the process, without a lock, and ops run on many threads beside other
 * plugins. There are seven ioctls, and what the library adds to them is not wanted: nodes below
 * /dev/mapper, and waiting for udev. The kernel itself makes /dev/dm-N before DM_DEV_CREATE
 * returns, with and without udev.
 *
 * All return 0 or a negative errno; -ENXIO is a device that is not there. [any]
 */
#ifndef STORAGE_DEVMAPPER_DM_H
#define STORAGE_DEVMAPPER_DM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DM_NAME_MAX 127    /* bytes of a name; the kernel's array is one longer */
#define DM_PARAMS_MAX 1024 /* bytes of a target's parameters and of a message */
#define DM_STATUS_MAX 4096 /* bytes of the status of a device with one target */

struct dm_dev {
	uint32_t major, minor;
	int32_t opened; /* how often it is open, mounts included */
	bool live;      /* it has a table and was resumed */
	bool suspended, deferred;
};

struct dm_table {
	uint64_t sectors;
	const char *type, *params;
	bool readonly;
};

int dm_open(void); /* the control device; -ENODEV, -ENOENT: this machine has none */
/* Is the target there, or a module that brings it? -ENOENT */
int dm_has_target(int ctl, const char *target);
int dm_find(int ctl, const char *name, struct dm_dev *ret);
/* Makes the device, complete and live, or nothing. -EBUSY: there is one of the name. */
int dm_make(int ctl, const char *name, const struct dm_table *t, struct dm_dev *ret);
/* Removes it. -EBUSY: it is open; with `deferred` it then goes by itself at its last close. */
int dm_remove(int ctl, const char *name, bool deferred);
int dm_suspend(int ctl, const char *name); /* with the file system on it frozen */
int dm_resume(int ctl, const char *name);
int dm_message(int ctl, const char *name, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
/* The first target's status, or with `table` its parameters. type: at least 16 bytes. */
int dm_status(int ctl, const char *name, bool table, char type[16], char text[DM_STATUS_MAX]);
/* Calls fn for each device whose name begins with `prefix`. */
int dm_each(int ctl, const char *prefix, void (*fn)(void *arg, const char *name), void *arg);

#endif
