/* Overlays served by a program. Private to core/mount. */
#ifndef BERTH_MOUNT_PROGRAM_H
#define BERTH_MOUNT_PROGRAM_H

#include "mount/options.h"

/* [worker] Mounts an overlay as the plan has it, attached nowhere, and starts plan->program as its
 * server: PROGRAM -o OPTIONS /dev/fd/3, where 3 is the connection (libfuse 3.3 takes that for a
 * mount that is there). The program ends with 0 once it serves, and leaves a process that does.
 * `attrs`: MOUNT_ATTR_*. Returns the mount's fd. */
int mount_program_open(
        const struct mount_plan *p, unsigned int attrs, struct berth_error **ret_err);

#endif
