/* The limits in the files of a container's own cgroup: what an update is checked against, what a
 * runtime does not write, and what was there before it. `s` is the container's cgroup; where it is
 * not there, a runtime keeps the container elsewhere, and nothing is done. [worker] */
#ifndef BERTH_SPEC_INFORCE_H
#define BERTH_SPEC_INFORCE_H

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "cri.pb-c.h"
#include "spec/spec.h"
#include "stats/files.h"

/* Can what `change` names be put in force? INVALID_ARGUMENT: sets of what is not there, sizes of
 * pages that the node has not, unified names of no file, or of one that holds no limit. `outer` is
 * the cgroup that the runtime was given, which `s` may lie in: what is above it counts for sets. */
int berth_inforce_check(const struct berth_cg_source *s, const char *outer,
        const struct berth_spec_host *host, const Runtime__V1__LinuxContainerResources *change,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* What the files say now that an update to the model `after` may write: {"cpu.max": "max 100000"},
 * on v1 {"cpu/cpu.shares": "1024"}. One reference. */
json_t *berth_inforce_read(const struct berth_cg_source *s, const json_t *after);

/* Into OCI linux.resources that take an update back, the values that were read: so a runtime
 * learns them, and who it tells. What it takes in no form is left out. */
void berth_inforce_tell(const struct berth_cg_source *s, json_t *files, json_t *oci);

/* Writes what was read into each file that says something else. Goes on after a failure and
 * returns the first. */
int berth_inforce_restore(const struct berth_cg_source *s, json_t *files,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* After a runtime's update to the model `after`: what not every runtime writes. The limits of huge
 * pages, of which runc writes those of the creation again at each update; that there is no quota.
 */
int berth_inforce_write(const struct berth_cg_source *s, const json_t *after,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
