/* SELinux labels of files. [worker] */
#ifndef BERTH_MOUNT_RELABEL_H
#define BERTH_MOUNT_RELABEL_H

#include <stdbool.h>

#include "base/error.h"
#include "base/macros.h"

#define BERTH_LIMIT_RELABEL_DEPTH 256 /* directories in one another; each is held open */

/* Of one file, which is not followed. Where the file system keeps no labels, nothing is done. */
int berth_label_file(
        const char *path, const char *label, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Of all that is in `path`, which is without links, itself as the last: where it has the label
 * already, all has. Links are labelled, not followed; what is mounted beneath is left alone. go_on
 * (may be NULL) is asked before each file; after its false: CANCELLED. RESOURCE_EXHAUSTED for a
 * tree that is too deep. */
int berth_relabel(const char *path, const char *label, bool (*go_on)(void *arg), void *arg,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* False for directories that belong to the node as such. `path` is absolute and without links. */
bool berth_relabel_allowed(const char *path);

#endif
