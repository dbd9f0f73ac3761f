/* What berth-pull gives up before it reads the first byte from outside: its view of the host's
 * files, processes and mounts, most capabilities and most system calls. */
#ifndef BERTH_PULL_CONFINE_H
#define BERTH_PULL_CONFINE_H

#include <stdbool.h>

#include "base/error.h"

struct pull_confine_opts {
	bool network;       /* false: a network namespace of its own, with nothing in it */
	char *const *files; /* further files and directories to be seen, read-only, at the same
	                       path; NULL-terminated, borrowed; what does not exist is left out */
};

/* Before any thread is started. It forks: a process in a new PID namespace returns from this, and
 * the old one waits for its end and ends with its status. Fails where any part is impossible. */
int pull_confine(const struct pull_confine_opts *o, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* confine_root.c: the calling process gets a mount namespace with a read-only tmpfs as its root. */
int pull_confine_root(
        const struct pull_confine_opts *o, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* confine_filter.c: no_new_privs and the system call filter. */
int pull_confine_filter(bool network, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
