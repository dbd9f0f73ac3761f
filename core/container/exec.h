/* Commands run in a container. [loop] */
#ifndef BERTH_CONTAINER_EXEC_H
#define BERTH_CONTAINER_EXEC_H

#include "container/container.h"

struct berth_exec_result {
	struct berth_exit exit;
	struct berth_buf out,
	        err; /* at most BERTH_LIMIT_EXEC_OUTPUT each; the rest was thrown away */
};

struct berth_exec;
/* Runs argv and collects its output; fn(result, err, arg) once, never inside this call. timeout_s 0
 * = none; past it the command and all its descendants are killed: DEADLINE_EXCEEDED. `total_max`
 * bounds both outputs together. argv is copied. */
typedef void (*berth_exec_fn)(
        const struct berth_exec_result *result, const struct berth_error *err, void *arg);
struct berth_exec *berth_exec_sync(struct berth_container *c, size_t argc, char *const *argv,
        uint64_t timeout_s, size_t total_max, berth_exec_fn fn, void *arg);
/* Kills it; fn still runs, with CANCELLED. */
void berth_exec_abandon(struct berth_exec *e);

#endif
