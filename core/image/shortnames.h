/* Image names without a registry: what they stand for. containers-registries.conf(5), `[aliases]`,
 * `unqualified-search-registries` and `short-name-mode`. [any] */
#ifndef BERTH_IMAGE_SHORTNAMES_H
#define BERTH_IMAGE_SHORTNAMES_H

#include <stdbool.h>

#include "base/error.h"

struct berth_shortnames;

/* `path`: registries.conf, with its drop-ins; it may be missing. Blocks. */
int berth_shortnames_load(const char *path, struct berth_shortnames **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
struct berth_shortnames *berth_shortnames_free(struct berth_shortnames *s); /* NULL-safe */

/* The references that `text` may mean, in the order in which a pull tries them: itself where it has
 * a registry; else its alias alone; else with each of the search registries; else itself, for which
 * docker.io is meant. Where short-name-mode is enforcing, several search registries are
 * INVALID_ARGUMENT. A look-up on this node (`local`) never is, and tries docker.io at the end.
 * NULL-terminated, the caller's (berth_strv_free()). NULL with an error where `text` is no
 * reference. `s` may be NULL: nothing is configured. */
char **berth_shortnames_of(const struct berth_shortnames *s, const char *text, bool local,
        struct berth_error **ret_err);

#endif
