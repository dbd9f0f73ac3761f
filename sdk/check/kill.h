#ifndef BERTH_CHECK_KILL_H
#define BERTH_CHECK_KILL_H

/* Ends all children of this process, and what they leave. In processes of one thread alone. */
void kill_children(void);

#endif
