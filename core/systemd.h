/* berthd as a service: what it tells the service manager, and where its helpers live. */
#ifndef BERTH_SYSTEMD_H
#define BERTH_SYSTEMD_H

#include "config/config.h"
#include "loop/loop.h"

/* [any] One message to the service manager, for example "READY=1". Nobody listens: nothing. */
void berth_notify(const char *text);

/* [loop] Where the service manager asked for it: calls Version at `socket` as any client would, and
 * tells the manager when it was answered. It ends a berthd whose loop, socket or server hangs, and
 * one whose socket was taken away. NULL where nobody asked. */
struct berth_watchdog;
struct berth_watchdog *berth_watchdog_start(struct berth_loop *l, const char *socket);
/* [loop] Waits for a call under way. NULL-safe, returns NULL. */
struct berth_watchdog *berth_watchdog_stop(struct berth_watchdog *w);

/* The cgroup.procs files that monitors or pullers ("monitors", "pull") enter, beside berthd and not
 * in its cgroup: its end and its limits are not theirs. Under "/berth", or with systemd's driver in
 * a scope that is delegated to us. NULL-terminated, the caller frees; NULL and a line in the log
 * where there can be none. Blocks for some milliseconds, the first time after a boot. */
char **berth_own_cgroup(const struct berth_config *c, const char *name);

#endif
