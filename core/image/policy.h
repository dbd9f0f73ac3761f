/* containers-policy.json(5): which images are accepted. What berth cannot verify yet is refused,
 * never taken for granted. */
#ifndef BERTH_IMAGE_POLICY_H
#define BERTH_IMAGE_POLICY_H

#include <jansson.h>

#include "base/error.h"
#include "image/ref.h"

struct berth_policy;
/* [any] Reads the file; an absent one accepts everything (*ret is NULL then). INVALID_ARGUMENT
 * names the file and what is wrong in it. */
int berth_policy_load(
        const char *path, struct berth_policy **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct berth_policy *berth_policy_free(struct berth_policy *p); /* NULL-safe */

/* [any] May the image come in? transport: "docker" for registries, "oci-archive" for imports, whose
 * `ref` may be NULL. FAILED_PRECONDITION with the kubelet's word "SignatureValidationFailed" where
 * the policy rejects it or asks for a signature. A NULL policy accepts. */
int berth_policy_check(const struct berth_policy *p, const char *transport,
        const struct berth_ref *ref, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
