/* What the option strings of a described mount mean. Private to core/mount. */
#ifndef BERTH_MOUNT_OPTIONS_H
#define BERTH_MOUNT_OPTIONS_H

#include <berth/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct mount_param {
	char *key, *value; /* value NULL: a flag */
};

struct mount_plan {
	bool bind, rec;
	bool super_ro; /* the file system itself is read-only, not the mount alone */
	uint64_t attr_set, attr_clr;
	uint64_t propagation; /* MS_PRIVATE, ... */
	bool propagation_rec;
	struct mount_param *params;
	size_t n_params;
	char **lowers; /* overlay: top first */
	char *program; /* overlay: what serves it, NULL = the kernel */
};

/* Reads type and options. The plan is the caller's to finish, also on failure. */
int mount_plan_init(
        struct mount_plan *p, const struct berth_mount *m, struct berth_error **ret_err);
void mount_plan_finish(struct mount_plan *p);
/* Gives a file system that has no context= this one. */
void mount_plan_label(struct mount_plan *p, const char *context);
const char *mount_plan_param(const struct mount_plan *p, const char *key);

#endif
