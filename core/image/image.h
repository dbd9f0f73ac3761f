/* Images: the store of records, and the pulls. [loop] unless said otherwise. */
#ifndef BERTH_IMAGE_IMAGE_H
#define BERTH_IMAGE_IMAGE_H

#include <jansson.h>
#include <uthash.h>

#include "daemon.h"
#include "image/ref.h"

struct berth_image {
	int refs;
	char *id;               /* "sha256:..." of the configuration */
	json_t *record;         /* as berth-pull made it (core/pull/protocol.h), never changed */
	char **tags, **digests; /* normalised references */
	uint64_t size;
	const char *store; /* the image store (shared.h) whose it is, not the node's own; or NULL */
	bool forgotten;    /* its record is removed; of record.c */
	unsigned int copies; /* under way to other storage drivers: it cannot be removed */
	UT_hash_handle hh;
};

struct berth_images {
	struct berth_image *by_id;
	struct berth_layer *layers;      /* committed ChainIDs, and which drivers have them */
	uint64_t serial;                 /* of the record that was written last; of record.c */
	struct berth_pull *pulls;        /* under way */
	struct berth_silent_host *hosts; /* that did not answer lately */
	uint64_t fetch_order;            /* the last place in the queue for downloads */
	bool saving;                     /* of a pull, a record: one at a time */
	struct berth_disk_state *disk;
	struct berth_shared *shared; /* NULL: no image store is configured */
	unsigned int removals; /* under way: no pull learns which layers are there, or stores */
	struct berth_removal_asked *asked; /* while a record was being written, of remove.c */
};

struct berth_image *berth_image_ref(struct berth_image *i);
struct berth_image *berth_image_unref(struct berth_image *i);
/* By id (with or without "sha256:", or a unique prefix of at least 4 digits), tag or digest
 * reference. NULL without an error where there is none. INVALID_ARGUMENT for what is no reference.
 */
struct berth_image *berth_image_find(
        struct berth_daemon *d, const char *name, struct berth_error **ret_err);
/* Does images.pinned name it: by its id, a tag, a tag without the ":..." at its end, or a digest
 * reference? With '*' at one end or at both the rest may be anything. Clients leave such images
 * out of their clearing up. */
bool berth_image_pinned(const struct berth_daemon *d, const struct berth_image *i);
/* ChainID of the top layer, NULL for an image without layers. */
const char *berth_image_chain_id(const struct berth_image *i);
/* Does the storage driver have all layers of the image? */
bool berth_image_in(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage);
/* Are they in another driver than this one? */
bool berth_image_elsewhere(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *but);
/* A driver that has them: `wanted` if it does, else any; NULL where none has. */
struct berth_instance *berth_image_home(
        const struct berth_daemon *d, const struct berth_image *i, struct berth_instance *wanted);
/* Where the n-th layer's content lies, if it is in an image store; NULL: it is the driver's own. */
const char *berth_image_external(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage, size_t n);
/* Can all image stores that the image needs in this driver give it now? UNAVAILABLE, from memory.
 */
int berth_image_usable(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Does an image that the driver has stand on the layer? */
bool berth_image_layer_used(
        struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id);

/* [worker, before serving] Reads ROOT/images and the drivers' layers; removes what is half made. */
int berth_images_load(struct berth_daemon *d, struct berth_error **ret_err) BERTH_MUST_CHECK;
void berth_images_free(struct berth_daemon *d);

/* An import may bring several images; a pull one. They are borrowed. */
typedef void (*berth_image_fn)(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg);
typedef void (*berth_pull_progress_fn)(
        unsigned int layer, const char *digest, uint64_t done, uint64_t total, void *arg);

struct berth_pull_request {
	const char *ref;  /* of a pull, or of an import to be given; or NULL */
	json_t *auth;     /* of the request (core/pull/protocol.h), or NULL; borrowed */
	json_t *platform; /* or NULL: this machine's; borrowed */
	int import_fd;    /* -1: a pull; else the file or directory, taken */
	struct berth_instance *storage; /* where the layers go; NULL: the default handler's */
};
/* Pulls or joins the same pull. fn runs once, never inside this call. The returned handle takes
 * part until fn ran or berth_pull_leave(): the last one to leave stops the pull. */
struct berth_pull_part;
struct berth_pull_part *berth_pull_join(struct berth_daemon *d, const struct berth_pull_request *r,
        berth_pull_progress_fn progress, berth_image_fn fn, void *arg);
void berth_pull_leave(struct berth_pull_part *p); /* fn does not run */
/* A part of no pull: fn is told `err` (taken), later. */
struct berth_pull_part *berth_pull_refuse(
        struct berth_daemon *d, struct berth_error *err, berth_image_fn fn, void *arg);

/* A pull of r->ref as the client said it: without a registry it may stand for several images
 * (shortnames.h), which are tried until one is there. Otherwise as berth_pull_join(). */
struct berth_image_pull;
struct berth_image_pull *berth_image_pull(struct berth_daemon *d,
        const struct berth_pull_request *r, berth_pull_progress_fn progress, berth_image_fn fn,
        void *arg);
void berth_image_pull_leave(struct berth_image_pull *p);
/* At the end of the daemon: all pulls fail with UNAVAILABLE, and no new one begins once the daemon
 * drains. They are gone when images->pulls is NULL. */
void berth_pulls_end(struct berth_daemon *d);

/* [before serving] Forgets a damaged image at once; its layers are for berth_recover_snapshots().
 */
int berth_image_scrap(struct berth_daemon *d, struct berth_image *i,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Removes all tags of the image and its layers that no other image has. With `storage` what that
 * driver has of it alone, and the image itself where no other has it. In use:
 * FAILED_PRECONDITION. */
void berth_image_remove(struct berth_image *i, struct berth_daemon *d,
        const struct berth_instance *storage,
        void (*done)(const struct berth_error *err, void *arg), void *arg);

/* for pull.c and store.c */
bool berth_layer_known(
        const struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id);
void berth_layer_add(
        struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id);
void berth_layer_add_external(struct berth_daemon *d, const struct berth_instance *storage,
        const char *chain_id, const char *path);
void berth_layer_drop(
        struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id);
/* Does a pull under way count on the layer? And: the last removal is over. */
bool berth_pull_wants(
        const struct berth_images *s, const struct berth_instance *storage, const char *chain_id);
void berth_pulls_resume(struct berth_daemon *d);
/* The names of the drivers that have the image, `storage` among them (or NULL). Caller frees. */
char **berth_image_drivers(
        const struct berth_daemon *d, const json_t *record, const struct berth_instance *storage);
/* [worker] Writes the record with these names and drivers to the disk. */
int berth_image_save(struct berth_daemon *d, const json_t *record, char *const *tags,
        char *const *digests, char *const *drivers, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] Takes tags that another image has got out of the record on the disk, if that is there.
 */
int berth_image_untag(struct berth_daemon *d, const struct berth_image *i, char *const *tags,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] Removes the record from the disk for good. */
int berth_image_forget(struct berth_daemon *d, struct berth_image *i,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Adds to the table, or gives new names to the one that is there. */
struct berth_image *berth_image_store(
        struct berth_daemon *d, json_t *record, char **tags, char **digests);
/* Names of an image that a pull of `ref` gave: merged with what it had. */
void berth_image_names(struct berth_daemon *d, const json_t *record, const struct berth_ref *ref,
        char ***ret_tags, char ***ret_digests);

#endif
