/* Removal of images: the record, then the layers that no other has. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/container.h"
#include "image/pull.h"
#include "image/usage.h"

int berth_image_scrap(struct berth_daemon *d, struct berth_image *i, struct berth_error **ret_err)
{
	if (berth_image_forget(d, i, ret_err) < 0)
		return -1;
	HASH_DEL(d->images->by_id, i);
	berth_image_unref(i);
	return 0;
}

/* What goes of one driver. */
struct part {
	struct berth_instance *storage;
	char **layers; /* ChainIDs, top first */
	size_t removed;
};

struct removal {
	struct berth_daemon *d;
	struct berth_image *image;
	bool whole;                        /* the record goes, too */
	char **tags, **digests, **drivers; /* of what stays */
	struct part parts[BERTH_LIMIT_STORAGE_DRIVERS];
	size_t n_parts;
	struct berth_error *err;
	void (*done)(const struct berth_error *err, void *arg);
	void *arg;
};

static int forget_record(struct removal *r)
{
	if (!r->whole)
		return berth_image_save(
		        r->d, r->image->record, r->tags, r->digests, r->drivers, &r->err);
	return berth_image_forget(r->d, r->image, &r->err);
}

static void remove_layers(struct part *p)
{
	for (char **l = p->layers; l && *l; l++) {
		struct berth_snap_args args = {.size = sizeof(args), .key = *l};
		struct berth_error *err = NULL;
		_cleanup_(berth_call_freep) struct berth_call *c =
		        berth_call_new(p->storage, BERTH_OP_STORAGE_REMOVE, *l);
		if (berth_call_run(c, &args, NULL, &err) < 0) {
			/* A pull that runs may have put a layer on it meanwhile; it stays for that.
			 */
			berth_log_warn("a layer stays", "layer", *l, "error", err->msg);
			berth_error_free(err);
			break;
		}
		berth_fault("image-layer-removed");
		p->removed++;
	}
}

static void removal_work(void *arg)
{
	struct removal *r = arg;

	/* The record goes first: without it the layers are nobody's, and the next start removes
	 * them. */
	if (forget_record(r) < 0)
		return;
	berth_fault("image-remove-after");
	for (size_t i = 0; i < r->n_parts; i++)
		remove_layers(&r->parts[i]);
}

static void removal_done(void *arg)
{
	struct removal *r = arg;
	struct berth_daemon *d = r->d;

	if (r->err && r->whole) { /* it is still there: give it its place back */
		HASH_ADD_KEYPTR(hh, d->images->by_id, r->image->id, strlen(r->image->id), r->image);
		berth_image_ref(r->image);
	}
	for (size_t i = 0; i < r->n_parts; i++) {
		struct part *p = &r->parts[i];
		for (size_t n = p->removed; p->layers && p->layers[n]; n++)
			berth_layer_add(d, p->storage, p->layers[n]);
		berth_strv_free(p->layers);
	}
	berth_disk_usage_changed(d);
	if (!r->err)
		berth_log_info("image removed", "image", r->image->id, "from",
		        r->whole ? NULL : berth_instance_name(r->parts[0].storage));
	r->done(r->err, r->arg);
	berth_image_unref(r->image);
	berth_strv_free(r->tags);
	berth_strv_free(r->digests);
	berth_strv_free(r->drivers);
	berth_error_free(r->err);
	free(r);
	if (--d->images->removals == 0) {
		berth_pulls_resume(d);
		pull_store_next(d);
	}
}

/* The image is not in the table any more, or another driver is its home: who still has the layer
 * are others. */
static bool layer_used(struct removal *r, const struct berth_instance *storage, const char *chain)
{
	struct berth_image *i, *tmp;
	HASH_ITER (hh, r->d->images->by_id, i, tmp) {
		if (i != r->image && berth_layers_have(i->record, chain) &&
		        berth_image_in(r->d, i, storage))
			return true;
	}
	return berth_pull_wants(r->d->images, storage, chain);
}

static void choose_layers(struct removal *r, struct berth_instance *storage)
{
	struct part *p = &r->parts[r->n_parts++];
	json_t *layers = json_object_get(r->image->record, "layers");

	p->storage = storage;
	for (size_t n = json_array_size(layers); n > 0; n--) {
		const char *chain = json_string_value(
		        json_object_get(json_array_get(layers, n - 1), "chain_id"));
		if (layer_used(r, storage, chain))
			break; /* what lies below is used by the same one */
		p->layers = berth_strv_append(p->layers, chain);
	}
	/* A pull that begins now must bring them itself. */
	for (char **l = p->layers; l && *l; l++)
		berth_layer_drop(r->d, storage, *l);
}

static int check_unused(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage, struct berth_error **ret_err)
{
	struct berth_container *c, *tmp;

	if (i->store)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "image %s is not this node's: it lies in the image store %s", i->id,
		        i->store);
	if (i->copies > 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "image %s is being copied to another storage driver", i->id);
	HASH_ITER (hh, d->containers->by_id, c, tmp) {
		if (berth_container_uses_image(c, i->id, storage))
			return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
			        "image %s is used by container %s", i->id, c->id);
	}
	return 0;
}

static void begin(struct berth_image *i, struct berth_daemon *d,
        const struct berth_instance *storage,
        void (*done)(const struct berth_error *err, void *arg), void *arg)
{
	struct berth_error *err = NULL;
	bool part = storage && berth_image_chain_id(i) && berth_image_elsewhere(d, i, storage);

	if (check_unused(d, i, part ? storage : NULL, &err) < 0 ||
	        (part && !berth_image_in(d, i, storage))) {
		done(err, arg);
		berth_error_free(err);
		return;
	}
	struct removal *r = berth_new(struct removal);
	r->d = d;
	r->image = berth_image_ref(i);
	r->whole = !part;
	r->done = done;
	r->arg = arg;
	for (size_t n = 0; n < d->n_storages; n++)
		if (!part || d->storages[n] == storage)
			choose_layers(r, d->storages[n]);
	if (part) {
		r->tags = berth_strv_copy(i->tags);
		r->digests = berth_strv_copy(i->digests);
		r->drivers = berth_image_drivers(d, i->record, NULL);
	} else {
		HASH_DEL(d->images->by_id, i);
		berth_image_unref(i);
	}
	d->images->removals++;
	if (berth_work(d->flows, d->loop, removal_work, removal_done, r) < 0) {
		berth_error_set(&r->err, BERTH_RESOURCE_EXHAUSTED,
		        "image %s: too many requests are under way", r->image->id);
		removal_done(r);
	}
}

struct berth_removal_asked {
	struct berth_removal_asked *next;
	struct berth_image *image;
	const struct berth_instance *storage;
	void (*done)(const struct berth_error *err, void *arg);
	void *arg;
};

void berth_image_remove(struct berth_image *i, struct berth_daemon *d,
        const struct berth_instance *storage,
        void (*done)(const struct berth_error *err, void *arg), void *arg)
{
	if (!d->images->saving) {
		begin(i, d, storage, done, arg);
		return;
	}
	struct berth_removal_asked **end = &d->images->asked;
	while (*end)
		end = &(*end)->next;
	*end = berth_new(struct berth_removal_asked);
	**end = (struct berth_removal_asked){
	        .image = berth_image_ref(i), .storage = storage, .done = done, .arg = arg};
}

void berth_removals_resume(struct berth_daemon *d)
{
	struct berth_removal_asked *a;

	while (!d->images->saving && (a = d->images->asked)) {
		struct berth_image *there;
		d->images->asked = a->next;
		HASH_FIND_STR(d->images->by_id, a->image->id, there);
		if (there == a->image)
			begin(there, d, a->storage, a->done, a->arg);
		else /* another one was faster */
			a->done(NULL, a->arg);
		berth_image_unref(a->image);
		free(a);
	}
}
