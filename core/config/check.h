/* From the tree of the files to typed values, and all that can be wrong with them. Internal to
 * config/. */
#ifndef BERTH_CONFIG_CHECK_H
#define BERTH_CONFIG_CHECK_H

#include "config/config.h"
#include "config/tree.h"

/* A file's top level is a map, or there is nothing in it. */
int berth_config_check_map(
        const struct berth_yaml *root, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Fills every key of `c` from the tree or its default. All mistakes end up in one error, a line for
 * each. On failure `c` may be half filled, and can be freed. */
int berth_config_fill(struct berth_config *c, const struct berth_yaml *root,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
