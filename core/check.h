/* `berthd check`: would this configuration work on this machine? */
#ifndef BERTH_CHECK_H
#define BERTH_CHECK_H

#include <stdbool.h>

#include "config/config.h"

/* Prints one line per finding ("ok", "warning", "error", "skipped") to stdout and starts nothing
 * that stays; plugins are loaded, and with `start` storage drivers are started and stopped. Returns
 * the exit status: 1 where there was an error. */
int berth_check(const struct berth_config *c, const char *helpers, const char *plugins, bool start);

/* check_storage.c: starts and stops the storage drivers, where no berthd runs and their start is
 * known to touch their own directory alone; what was not there before is removed. */
typedef void (*berth_check_say_fn)(void *arg, const char *kind, const char *what, const char *text);
void berth_check_storages(
        const struct berth_config *c, const char *plugins, berth_check_say_fn say, void *arg);

#endif
