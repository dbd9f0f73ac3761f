/* What an earlier berthd left: adopted, undone or forgotten. Before serving; blocks. */
#ifndef BERTH_RECOVER_H
#define BERTH_RECOVER_H

#include "daemon.h"

/* Reads the records of pods and containers; undoes every intent without a completion record;
 * releases what belongs to no record: snapshots, namespaces, mounts. Single objects that
 * cannot be undone are logged and stay in the tables as ended ones, for a client to remove; an
 * error is what no start can go on with. A daemon that will serve releases what its network holds
 * for nobody by berth_network_sweep() afterwards, and does not wait long for that of half-made
 * pods; one that repairs takes the time. */
int berth_recover(
        struct berth_daemon *d, bool repair, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The last part of it: removes snapshots and layers that no container and no image needs. */
int berth_recover_snapshots(struct berth_daemon *d, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
