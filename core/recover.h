/* What an earlier berthd left: adopted, undone or forgotten. Before serving; blocks. */
#ifndef BERTH_RECOVER_H
#define BERTH_RECOVER_H

#include "daemon.h"

/* Reads the records of pods and containers; undoes every intent without a completion record;
 * releases what belongs to no record: networks, snapshots, namespaces, mounts. Single objects that
 * cannot be undone are logged and stay for the next start; an error is what no start can go on
 * with. */
int berth_recover(struct berth_daemon *d, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The last part of it: removes snapshots and layers that no container and no image needs. */
int berth_recover_snapshots(struct berth_daemon *d, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
