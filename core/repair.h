/* `berthd check --repair`: what a start does to the state on disk, and more, without serving. */
#ifndef BERTH_REPAIR_H
#define BERTH_REPAIR_H

#include "daemon.h"

/* [main, after berth_recover()] Puts each image together, as for a container, and looks into it;
 * what does not come together, or cannot be read, is removed with the layers that nothing else
 * needs, to be pulled again. An image that a container uses stays. Prints one line for each finding
 * and a summary, like berth_check(). Returns the exit status: 1 where something stays damaged. */
int berth_repair(struct berth_daemon *d);

#endif
