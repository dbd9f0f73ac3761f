/* Which plugins serve what, as the configuration says. */
#ifndef BERTH_PLUGINS_H
#define BERTH_PLUGINS_H

#include "daemon.h"

/* [loop, before serving] Creates the instances: storage, network, one for each runtime handler. */
int berth_load_plugins(struct berth_daemon *d, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* One storage driver, unless it is loaded; `what` names its key in errors. NULL with an error. */
struct berth_instance *berth_load_storage(
        struct berth_daemon *d, const char *name, const char *what, struct berth_error **ret_err);
/* The limit of a handler's containers in *ret, 0 = none; FAILED_PRECONDITION where `storage` cannot
 * hold it. */
int berth_check_size_limit(const struct berth_config *c, const struct berth_instance *storage,
        const char *handler, uint64_t *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
