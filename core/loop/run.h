/* A child process to its end, for the core's own helpers. */
#ifndef BERTH_LOOP_RUN_H
#define BERTH_LOOP_RUN_H

#include <stdint.h>

#include "base/error.h"

/* [worker] Runs argv (absolute argv[0]) with /dev/null as its input and waits for it, at most
 * timeout_ms; past that it is killed with its descendants: DEADLINE_EXCEEDED. A failing command is
 * an error with the words it wrote to stderr (cut at BERTH_LIMIT_RUN_OUTPUT): INVALID_ARGUMENT
 * where it exits with 2, else INTERNAL. */
int berth_run_helper(const char *const *argv, uint64_t timeout_ms,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The same with more to say. */
struct berth_helper {
	const char *const *argv;
	uint64_t timeout_ms;
	const int *keep_fds; /* become 3, 4, ... */
	uint32_t n_keep_fds;
};
int berth_run_helper_with(
        const struct berth_helper *h, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
