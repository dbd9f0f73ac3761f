/* What child.c, which starts children, and reap.c, which reaps them, need of each other. Internal
 * to loop/. [any] */
#ifndef BERTH_LOOP_REAP_H
#define BERTH_LOOP_REAP_H

#include <sys/types.h>

/* A child that is just being started. */
struct child_starting {
	struct child_starting *next;
	pid_t pid; /* 0, then written by the kernel before the child runs */
};

/* reap.c: it is listed before it runs, so that the sweeper does not take it for an orphan. */
void child_starting_add(struct child_starting *s);
/* `listed`: it was started, and is reaped through child.h; 0: it was not. */
void child_starting_drop(struct child_starting *s, pid_t listed);

/* child.c: the limits that children get are those of now. [loop] */
void child_keep_limits(void);

#endif
