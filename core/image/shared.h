/* Image stores that other nodes have written (images.additional_stores), as a rule on a network
 * file system, which may hang or vanish. Nobody here touches one but a child of its own for each
 * look (core/pull/shared.h), which is abandoned where it does not answer; all else is told from
 * what was last known. [loop] */
#ifndef BERTH_IMAGE_SHARED_H
#define BERTH_IMAGE_SHARED_H

#include "image/image.h"

/* Begins to look, and goes on now and then. */
void berth_shared_start(struct berth_daemon *d);
void berth_shared_stop(struct berth_daemon *d);

/* fn once each store was looked at lately, or has not answered within the deadline, or answers but
 * takes long: then what it had before is what is known. Maybe before the return. */
void berth_shared_check(struct berth_daemon *d, void (*fn)(void *arg), void *arg);
/* What berth_shared_check() would wait for. */
bool berth_shared_fresh(const struct berth_daemon *d);

/* The images of the stores that are not among the node's own, one after the other, NULL at the
 * first and after the last. */
struct berth_image *berth_shared_next(
        const struct berth_daemon *d, const struct berth_image *after);
struct berth_image *berth_shared_by_id(const struct berth_daemon *d, const char *id);
/* Where the content of a layer lies that some store has and can give now; NULL: none. Caller frees.
 */
char *berth_shared_layer(const struct berth_daemon *d, const char *chain_id);
/* Why it has none: always -1. FAILED_PRECONDITION where that stays so until the store is changed,
 * UNAVAILABLE where it may pass. */
int berth_shared_why_not(
        const struct berth_daemon *d, const char *chain_id, struct berth_error **ret_err);
/* Can the store that `path` lies in give it now? If not, the error names the store and says why. */
int berth_shared_usable(const struct berth_daemon *d, const char *path,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
