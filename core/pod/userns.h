/* User namespaces: whose, and whether this node can have them. */
#ifndef BERTH_POD_USERNS_H
#define BERTH_POD_USERNS_H

#include "pod/pod.h"

/* Ranges of a request in the ABI's form. Caller frees. [any] */
struct berth_idmap *berth_idmaps(Runtime__V1__IDMapping *const *v, size_t n);
/* Are these the same ranges? [any] */
bool berth_idmaps_equal(
        Runtime__V1__IDMapping *const *a, size_t n_a, Runtime__V1__IDMapping *const *b, size_t n_b);
/* The options of berth-ns for a user namespace with these ranges, pinned to `path`. */
char **berth_userns_args(char **argv, const char *path, Runtime__V1__IDMapping *const *uids,
        size_t n_uids, Runtime__V1__IDMapping *const *gids, size_t n_gids);
/* [worker] Makes and pins one alone. INVALID_ARGUMENT for ranges that the kernel refuses. */
int berth_userns_make(struct berth_daemon *d, const char *path, Runtime__V1__IDMapping *const *uids,
        size_t n_uids, Runtime__V1__IDMapping *const *gids, size_t n_gids,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] The pod's pinned one, open: the fd is the caller's. -1 in *ret where it has none. */
int berth_pod_userns_open(
        const struct berth_pod *p, int *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* [before serving] Can the layers of this node be mapped? Tried out in ROOT; the answer for each
 * handler, and its userns_why where it is no. */
void berth_userns_probe(struct berth_daemon *d);
/* Can a pod of this handler have one? FAILED_PRECONDITION with the reason. */
int berth_userns_check(const struct berth_daemon *d, const struct berth_handler *h,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
