/* A registry as a source: manifests and blobs of one image, from its mirrors and itself. */
#ifndef BERTH_PULL_REGISTRY_H
#define BERTH_PULL_REGISTRY_H

#include <jansson.h>

#include "base/error.h"
#include "pull/ref.h"
#include "pull/source.h"

struct pull_registry;

/* request: the `pull` packet, for registries, certs_dirs, auth_files, auth, stall_ms and down;
 * borrowed.
 * ref has a host. Reads the files, connects to nothing. */
int pull_registry_open(const json_t *request, const struct pull_ref *ref,
        struct pull_registry **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct pull_registry *pull_registry_free(struct pull_registry *r);
/* [any] `heard` learns which hosts answer, and which do not after all tries, as it changes. */
void pull_registry_watch(
        struct pull_registry *r, void (*heard)(void *arg, const char *host, bool up), void *arg);
/* Borrowed. Its first manifest is asked for with an empty digest: the one that the reference means.
 */
struct pull_source *pull_registry_source(struct pull_registry *r);

#endif
