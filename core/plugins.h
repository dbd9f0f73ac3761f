/* Which plugins serve what, as the configuration says. */
#ifndef BERTH_PLUGINS_H
#define BERTH_PLUGINS_H

#include "daemon.h"

/* [loop, before serving] Creates the instances: storage, network, one for each runtime handler. */
int berth_load_plugins(struct berth_daemon *d, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
