/* Resource limits of a container. The model is a JSON object with the names of CRI's
 * LinuxContainerResources ("cpu_shares", "hugepage_limits": [{"page_size","limit"}], "unified":
 * {}); what is not set is absent. It is kept in the container's record, is what ContainerStatus
 * tells, and is turned into OCI linux.resources for create and update. */
#ifndef BERTH_SPEC_RESOURCES_H
#define BERTH_SPEC_RESOURCES_H

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "cri.pb-c.h"
#include "spec/spec.h"

/* [any] `have` (may be NULL) with `change` (may be NULL) laid over it: a zero or an empty string
 * changes nothing, unified keys are merged one by one. Checked: ranges, cpuset lists, page sizes,
 * unified names. INVALID_ARGUMENT names `id` and the field. *ret gets one reference. */
int berth_resources_merge(const char *id, const json_t *have,
        const Runtime__V1__LinuxContainerResources *change, json_t **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* [any] The bytes of a page of a size like "2MB"; 0 where it is none of the kernel's names. */
uint64_t berth_page_size(const char *name);

/* [any] Takes out of the model what this host cannot put in force, for it is what is told: sizes of
 * huge pages without their controller, swap that is not accounted, a score out of reach. */
void berth_resources_settle(json_t *res, const struct berth_spec_host *host);

/* [any] OCI linux.resources (without "devices") for this host: on cgroup v2 unified keys are passed
 * on, on v1 they are FAILED_PRECONDITION; swap is left out where it is not accounted. One
 * reference. */
int berth_resources_oci(const char *id, const json_t *res, const struct berth_spec_host *host,
        json_t **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* [any] What puts `have` (may be NULL) in force again, where an update to `after` failed half way:
 * with a number for each that `have` does not name, as runtimes leave alone what is not named. One
 * reference. */
json_t *berth_resources_before(
        const json_t *have, const json_t *after, const struct berth_spec_host *host);

/* [any] process.oomScoreAdj for this host: clamped to [-1000, 1000] and, without
 * CAP_SYS_RESOURCE, to berthd's own. */
int berth_resources_oom_score_adj(const json_t *res, const struct berth_spec_host *host);

/* [any] Fills a CRI message from the model. Everything it points to is owned by `arena`. */
struct berth_arena;
void berth_resources_to_cri(
        struct berth_arena *arena, const json_t *res, Runtime__V1__LinuxContainerResources *out);

#endif
