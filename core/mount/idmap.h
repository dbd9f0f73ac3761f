/* Owners mapped by a user namespace. Private to core/mount. */
#ifndef BERTH_MOUNT_IDMAP_H
#define BERTH_MOUNT_IDMAP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "mount/options.h"

struct mount_map {
	int userns_fd;
	const char *scratch; /* a directory that may be made, and is gone afterwards */
};

/* Maps a mount that is attached nowhere; with `rec` what lies beneath, as far as it can be.
 * FAILED_PRECONDITION where the file system cannot. `what` is for messages. */
int mount_map_fd(int fd, bool rec, int userns_fd, const char *what, struct berth_error **ret_err);

/* Mapped clones of an overlay's layers, which take the layers' places in the plan: as fds, or, for
 * kernels that take no layer that is attached nowhere (before 6.15), on paths. */
struct mount_lowers {
	int *fds;
	size_t n;
	const char *scratch; /* where they were attached, or NULL */
};
int mount_lowers_map(struct mount_lowers *l, struct mount_plan *p, const struct mount_map *m,
        struct berth_error **ret_err);
int mount_lowers_attach(struct mount_lowers *l, struct mount_plan *p, const struct mount_map *m,
        struct berth_error **ret_err);
void mount_lowers_finish(struct mount_lowers *l);

#endif
