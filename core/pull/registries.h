/* registries.conf, version 2, and its drop-ins: where an image is to be fetched.
 * containers-registries.conf(5). */
#ifndef BERTH_PULL_REGISTRIES_H
#define BERTH_PULL_REGISTRIES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "pull/ref.h"

struct pull_registries;

/* Reads PATH, then the .conf files of PATH.d in order; later ones win. A missing file is an empty
 * one. The error names the file and line. */
int pull_registries_load(const char *path, struct pull_registries **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
struct pull_registries *pull_registries_new(void); /* empty */
struct pull_registries *pull_registries_free(struct pull_registries *r);
/* One file's text; `name` is for errors. */
int pull_registries_add(struct pull_registries *r, const char *name, const char *text, size_t len,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

struct pull_place_of {
	char *host; /* with port */
	char *path;
	bool insecure; /* certificates unchecked, plain HTTP allowed */
	bool mirror;
};
/* The places to try, in order: mirrors, then the registry itself. Fails with PERMISSION_DENIED
 * where the registry is blocked. The caller frees them. */
int pull_registries_places(const struct pull_registries *r, const struct pull_ref *ref,
        struct pull_place_of **ret, size_t *ret_n, struct berth_error **ret_err) BERTH_MUST_CHECK;
void pull_places_free(struct pull_place_of *v, size_t n);
/* What a name without host, tag and digest stands for (HOST/PATH), or NULL. Borrowed. */
const char *pull_registries_alias(const struct pull_registries *r, const char *name);
/* short-name-mode: is a name without a host refused where there are several registries for it? */
bool pull_registries_enforcing(const struct pull_registries *r);
/* Registries for names without a host; NULL-terminated, borrowed, may be NULL. */
char *const *pull_registries_search(const struct pull_registries *r);

#endif
