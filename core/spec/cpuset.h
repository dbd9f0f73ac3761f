/* Sets of processors and memory nodes: "0-3,7". */
#ifndef BERTH_SPEC_CPUSET_H
#define BERTH_SPEC_CPUSET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/macros.h"
#include "stats/files.h"

#define BERTH_LIMIT_CPU_NUMBER 65535 /* of processors and memory nodes */

struct berth_cpuset {
	uint64_t bits[(BERTH_LIMIT_CPU_NUMBER + 1) / 64];
};

/* [any] Is it a list of numbers and ranges? ret, which may be NULL, gets what is in it. */
bool berth_cpuset_parse(const char *text, struct berth_cpuset *ret);
/* [any] Is all of `part` in `whole`? */
bool berth_cpuset_within(const struct berth_cpuset *part, const struct berth_cpuset *whole);

/* [worker] Can the container's cgroup `s` have them? `kind`: "cpus" or "mems". It can have what the
 * cgroup above it has in force, else what is online. INVALID_ARGUMENT names both sets. */
int berth_cpuset_check(const struct berth_cg_source *s, const char *kind, const char *wanted,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
