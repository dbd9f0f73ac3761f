/* Overlay on kernels with and without `lowerdir+`. Private to core/mount. */
#ifndef BERTH_MOUNT_OVERLAY_H
#define BERTH_MOUNT_OVERLAY_H

#include "mount/options.h"

/* Can layers be given one by one? Probed once. Without it the whole list is one string, which must
 * fit a page. */
bool overlay_has_lowerdir_add(void);
/* Gives the layers to a file system context. `keep` takes up to n fds that must stay open until the
 * mount is made (-1 where there is none); it has room for one per layer. */
int overlay_add_lowers(
        int fsfd, const struct mount_plan *p, int *keep, struct berth_error **ret_err);
/* mount(2) on `target` with short names for the layers. */
int overlay_mount_short(
        const struct mount_plan *p, const char *target, struct berth_error **ret_err);
/* The same, attached nowhere. The host's mounts are copied for a moment, so this is for what is not
 * to be attached at all. Returns the fd. */
int overlay_open_short(const struct mount_plan *p, struct berth_error **ret_err);

/* Sets a string of the context; the kernel takes 255 bytes. What is a path may be longer: it goes
 * through an fd, returned in *keep. Returns 0 or a negative errno. */
int mount_fsconfig_string(int fsfd, const char *key, const char *value, bool path, int *keep);
/* "cause: the kernel's own words" from a context's log; the caller frees it. */
char *mount_fs_log(int fsfd, int errnum);

#endif
