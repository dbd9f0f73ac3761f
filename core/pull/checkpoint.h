/* What a checkpoint takes of a container's own layer, and its archive. */
#ifndef BERTH_PULL_CHECKPOINT_H
#define BERTH_PULL_CHECKPOINT_H

#include <jansson.h>

#include "pull/session.h"

/* `work` is the directory of which the archive is made; it takes rootfs-diff.tar and deleted.files
 * first. */
int pull_checkpoint_run(const struct pull_session *s, int work, const json_t *first,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
