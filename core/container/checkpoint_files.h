/* What an archive of a checkpoint tells of its container, in the form in which CRI-O writes it and
 * checkpointctl reads it. [worker] */
#ifndef BERTH_CONTAINER_CHECKPOINT_FILES_H
#define BERTH_CONTAINER_CHECKPOINT_FILES_H

#include <jansson.h>

#include "container/container.h"

/* config.dump, spec.dump and bind.mounts into the directory. *ret_mounts: paths on which something
 * is mounted in the container, without the first '/'; the caller's. */
int berth_checkpoint_files(const struct berth_container *c, int dir, json_t **ret_mounts,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
