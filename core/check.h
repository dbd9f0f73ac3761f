/* `berthd check`: would this configuration work on this machine? */
#ifndef BERTH_CHECK_H
#define BERTH_CHECK_H

#include "config/config.h"

/* Prints one line per finding ("ok", "warning", "error") to stdout and starts nothing that stays.
 * Returns the exit status: 1 where there was an error. */
int berth_check(const struct berth_config *c, const char *helpers, const char *plugins);

#endif
