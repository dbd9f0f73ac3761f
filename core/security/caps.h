/* Linux capabilities of containers. A set is a bit mask: bit n is capability number n. [any] */
#ifndef BERTH_SECURITY_CAPS_H
#define BERTH_SECURITY_CAPS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/macros.h"

typedef uint64_t berth_capset;
#define BERTH_CAP(n) ((berth_capset)1 << (n))

/* What a container has when the request says nothing: the fourteen that Docker gives. */
berth_capset berth_caps_default(void);
/* The bounding set of this thread; empty where it cannot be read. */
berth_capset berth_caps_bounding(void);
/* "NET_ADMIN" or "CAP_NET_ADMIN", any case; -1 where libcap-ng or the kernel knows none. */
int berth_cap_number(const char *name);

struct berth_caps_request {
	bool privileged; /* everything that `bounding` has */
	char *const *add, *const *drop, *const *ambient;
	size_t n_add, n_drop, n_ambient;
	berth_capset bounding; /* what can be given at all */
};
struct berth_caps {
	berth_capset set;     /* bounding, effective and permitted */
	berth_capset ambient; /* ambient and inheritable; part of set */
};
/* "ALL" first (add, then drop), then the single names: add ALL + drop X gives all but X, drop ALL +
 * add X gives X alone. An ambient capability is added to all sets. INVALID_ARGUMENT names an
 * unknown one. */
int berth_caps_resolve(const struct berth_caps_request *req, struct berth_caps *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* OCI process.capabilities; one reference. */
json_t *berth_caps_json(const struct berth_caps *caps);

#endif
