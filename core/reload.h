/* SIGHUP: what of the configuration takes effect without a restart. */
#ifndef BERTH_RELOAD_H
#define BERTH_RELOAD_H

#include "daemon.h"

/* [loop] Reads the configuration again on a worker, from `config` as berth_config_load() has it,
 * which must last. What is wrong there leaves everything as it was, but for the streams'
 * certificate; the log says what came of it. */
void berth_reload(struct berth_daemon *d, const char *config);

#endif
