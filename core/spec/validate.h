/* Checks of what a CRI client sent, before anything is made of it. Every failure is
 * INVALID_ARGUMENT (UNIMPLEMENTED where berth lacks it) and names the object and the field. [any]
 */
#ifndef BERTH_SPEC_VALIDATE_H
#define BERTH_SPEC_VALIDATE_H

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "cri.pb-c.h"
#include "spec/spec.h"

/* metadata (a name; namespace and uid where they are set), hostname syntax, log_directory, DNS
 * limits, port mappings, labels and annotations (bounded, UTF-8), cgroup_parent for the driver,
 * sysctls, namespace options, user ids. */
int berth_validate_pod(const Runtime__V1__PodSandboxConfig *pod, enum berth_cgroup_driver driver,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* metadata, image, log_path, labels and annotations, counts and lengths. The rest is checked where
 * it is used, by berth_spec_container(). */
int berth_validate_container(
        const Runtime__V1__ContainerConfig *config, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Signals. "SIGTERM", "TERM", "15", "SIGRTMIN+3", "RTMAX-1" -> Linux number; -1 where it is none.
 */
int berth_signal_parse(const char *name);
/* CRI's enum -> Linux number (0 = RUNTIME_DEFAULT, -1 = not in the enum) and back (RUNTIME_DEFAULT
 * where CRI has no name). */
int berth_signal_from_cri(Runtime__V1__Signal s);
Runtime__V1__Signal berth_signal_to_cri(int signum);

#endif
