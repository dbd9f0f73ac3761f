/* Images. */
#include "cri/service.h"

#include <stdlib.h>
#include <string.h>

#include "image/shared.h"
#include "image/usage.h"

static const char *str(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "";
}

/* USER of the image: a number is a uid, all else a name; a group is not told. */
static void fill_user(struct berth_arena *a, const struct berth_image *i, Runtime__V1__Image *m)
{
	char *user = berth_arena_strdup(a, str(json_object_get(i->record, "config"), "user"));
	char *colon = strchr(user, ':'), *end;
	if (colon)
		*colon = '\0';
	long long uid = strtoll(user, &end, 10);
	if (*user && !*end && uid >= 0) {
		m->uid = berth_arena_alloc(a, sizeof(*m->uid));
		runtime__v1__int64_value__init(m->uid);
		m->uid->value = uid;
	} else {
		m->username = user;
	}
}

static Runtime__V1__Image *image_of(
        struct berth_arena *a, const struct berth_daemon *d, const struct berth_image *i)
{
	Runtime__V1__Image *m = berth_arena_alloc(a, sizeof(*m));

	runtime__v1__image__init(m);
	m->id = i->id;
	m->repo_tags = i->tags;
	m->n_repo_tags = berth_strv_len(i->tags);
	m->repo_digests = i->digests;
	m->n_repo_digests = berth_strv_len(i->digests);
	m->size = i->size;
	m->pinned = berth_image_pinned(d, i);
	fill_user(a, i, m);
	m->spec = berth_arena_alloc(a, sizeof(*m->spec));
	runtime__v1__image_spec__init(m->spec);
	m->spec->image = m->spec->image_ref = i->id;
	json_t *notes = json_object_get(i->record, "annotations");
	m->spec->annotations =
	        berth_arena_alloc(a, (json_object_size(notes) + 1) * sizeof(*m->spec->annotations));
	const char *key;
	json_t *value;
	json_object_foreach (notes, key, value) {
		Runtime__V1__ImageSpec__AnnotationsEntry *e = berth_arena_alloc(a, sizeof(*e));
		runtime__v1__image_spec__annotations_entry__init(e);
		e->key = (char *)key;
		e->value = (char *)json_string_value(value);
		if (e->value)
			m->spec->annotations[m->spec->n_annotations++] = e;
	}
	return m;
}

static bool find(struct berth_grpc_call *call, struct berth_daemon *d,
        const Runtime__V1__ImageSpec *spec, struct berth_image **ret)
{
	struct berth_error *err = NULL;

	*ret = NULL;
	if (!spec || !*spec->image)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "image is missing");
	else
		*ret = berth_image_find(d, spec->image, &err);
	if (!err)
		return true;
	berth_grpc_fail(call, err);
	berth_error_free(err);
	return false;
}

const struct berth_handler *berth_cri_handler(
        struct berth_grpc_call *call, struct berth_daemon *d, const char *name)
{
	const struct berth_handler *h = berth_daemon_handler(d, name);

	if (!h)
		berth_grpc_failf(call, BERTH_INVALID_ARGUMENT,
		        "runtime_handler \"%.100s\" is not configured (runtimes.handlers)", name);
	return h;
}

static bool collect(struct berth_grpc_call *call, struct berth_daemon *d,
        const Runtime__V1__ImageFilter *filter, Runtime__V1__Image ***ret, size_t *ret_n)
{
	struct berth_arena *a = berth_grpc_arena(call);
	struct berth_image *i, *tmp, *only = NULL;
	bool filtered = filter && filter->image && *filter->image->image;

	if (filtered && !find(call, d, filter->image, &only))
		return false;
	size_t shared = 0;
	for (i = NULL; (i = berth_shared_next(d, i));)
		shared++;
	*ret_n = 0;
	*ret = berth_arena_alloc(a, (HASH_COUNT(d->images->by_id) + shared + 1) * sizeof(**ret));
	HASH_ITER (hh, d->images->by_id, i, tmp) {
		if (!filtered || i == only)
			(*ret)[(*ret_n)++] = image_of(a, d, i);
	}
	for (i = NULL; (i = berth_shared_next(d, i));) {
		if (!filtered || i == only)
			(*ret)[(*ret_n)++] = image_of(a, d, i);
	}
	return true;
}

HANDLER(berth_cri_list_images)
{
	const Runtime__V1__ListImagesRequest *q = (const void *)request;
	Runtime__V1__ListImagesResponse r = RUNTIME__V1__LIST_IMAGES_RESPONSE__INIT;

	if (collect(call, arg, q->filter, &r.images, &r.n_images))
		berth_grpc_reply(call, &r.base);
}

HANDLER(berth_cri_stream_images)
{
	const Runtime__V1__StreamImagesRequest *q = (const void *)request;
	Runtime__V1__StreamImagesResponse r = RUNTIME__V1__STREAM_IMAGES_RESPONSE__INIT;
	Runtime__V1__Image **all;
	size_t n;

	if (!collect(call, arg, q->filter, &all, &n))
		return;
	for (size_t i = 0; i < n; i += r.n_images) {
		r.images = all + i;
		r.n_images = n - i < BERTH_STREAM_ITEMS ? n - i : BERTH_STREAM_ITEMS;
		if (berth_grpc_send(call, &r.base) < 0)
			break;
	}
	berth_grpc_finish(call);
}

HANDLER(berth_cri_image_status)
{
	const Runtime__V1__ImageStatusRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_arena *a = berth_grpc_arena(call);
	Runtime__V1__ImageStatusResponse r = RUNTIME__V1__IMAGE_STATUS_RESPONSE__INIT;
	struct berth_image *i;
	void *info[1];

	if (!find(call, d, q->image, &i))
		return;
	if (i) /* absent is no error: the image is left out */
		r.image = image_of(a, d, i);
	if (i && q->verbose) {
		json_t *j = json_pack("{s:s, s:O, s:O?}", "chainID",
		        berth_image_chain_id(i) ? berth_image_chain_id(i) : "", "imageSpec",
		        i->record, "config", json_object_get(i->record, "config"));
		_cleanup_free_ char *text = json_dumps(j, JSON_COMPACT);
		json_decref(j);
		info[0] = berth_map_entry(call,
		        &runtime__v1__image_status_response__info_entry__descriptor, "info", text);
		r.info = (void *)info;
		r.n_info = 1;
	}
	berth_grpc_reply(call, &r.base);
}

/* ---- pull ---- */

static void pulled(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg)
{
	struct berth_grpc_call *call = arg;
	Runtime__V1__PullImageResponse r = RUNTIME__V1__PULL_IMAGE_RESPONSE__INIT;

	berth_grpc_on_cancel(call, NULL, NULL);
	if (err) {
		berth_grpc_fail(call, err);
		return;
	}
	r.image_ref = n > 0 ? images[0]->id : (char *)"";
	berth_grpc_reply(call, &r.base);
}

struct leaving {
	struct berth_grpc_call *call;
	struct berth_image_pull *pull;
};

static void client_left(void *arg)
{
	struct leaving *l = arg;
	berth_image_pull_leave(l->pull);
	/* Thrown away, but owed. */
	berth_grpc_failf(l->call, BERTH_CANCELLED, "the pull was given up");
}

static json_t *auth_json(const Runtime__V1__AuthConfig *a)
{
	if (!a || (!*a->username && !*a->password && !*a->auth && !*a->identity_token &&
	                  !*a->registry_token))
		return NULL;
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "username", a->username, "password",
	        a->password, "auth", a->auth, "identity_token", a->identity_token, "registry_token",
	        a->registry_token, "server_address", a->server_address);
}

HANDLER(berth_cri_pull_image)
{
	const Runtime__V1__PullImageRequest *q = (const void *)request;
	struct berth_daemon *d = arg;

	if (!q->image || !*q->image->image) {
		berth_grpc_failf(call, BERTH_INVALID_ARGUMENT, "image is missing");
		return;
	}
	if (d->draining) {
		berth_grpc_failf(call, BERTH_UNAVAILABLE, "berthd is shutting down");
		return;
	}
	const struct berth_handler *h = berth_cri_handler(call, d, q->image->runtime_handler);
	if (!h)
		return;
	json_t *auth = auth_json(q->auth);
	struct berth_pull_request r = {
	        .ref = q->image->image, .auth = auth, .import_fd = -1, .storage = h->storage};
	struct leaving *l = berth_arena_alloc(berth_grpc_arena(call), sizeof(*l));
	l->call = call;
	l->pull = berth_image_pull(d, &r, NULL, pulled, call);
	json_decref(auth);
	berth_grpc_on_cancel(call, client_left, l);
}

/* ---- remove ---- */

static void removed(const struct berth_error *err, void *arg)
{
	Runtime__V1__RemoveImageResponse r = RUNTIME__V1__REMOVE_IMAGE_RESPONSE__INIT;
	if (err)
		berth_grpc_fail(arg, err);
	else
		berth_grpc_reply(arg, &r.base);
}

HANDLER(berth_cri_remove_image)
{
	const Runtime__V1__RemoveImageRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_image *i;

	if (!find(call, d, q->image, &i))
		return;
	const struct berth_handler *h = NULL;
	if (*q->image->runtime_handler &&
	        !(h = berth_cri_handler(call, d, q->image->runtime_handler)))
		return;
	if (i)
		berth_image_remove(i, d, h ? h->storage : NULL, removed, call);
	else
		removed(NULL, call);
}

/* ---- usage ---- */

static void fill_usage(Runtime__V1__FilesystemUsage *f, Runtime__V1__FilesystemIdentifier *id,
        Runtime__V1__UInt64Value v[2], uint64_t at_ns, uint64_t bytes, uint64_t inodes)
{
	runtime__v1__filesystem_usage__init(f);
	runtime__v1__uint64_value__init(&v[0]);
	runtime__v1__uint64_value__init(&v[1]);
	f->timestamp = (int64_t)at_ns;
	f->fs_id = id;
	f->used_bytes = &v[0];
	f->inodes_used = &v[1];
	v[0].value = bytes;
	v[1].value = inodes;
}

struct usage {
	struct berth_daemon *d;
	struct berth_grpc_call *call;
};

/* Of one driver, which keeps both in one place: clients see by the mount point that it is one. */
struct shown {
	Runtime__V1__FilesystemUsage images, ctrs;
	Runtime__V1__FilesystemIdentifier id;
	Runtime__V1__UInt64Value v[4];
};

static void usage_known(const struct berth_disk_usage *u, const struct berth_error *err, void *arg)
{
	struct usage *q = arg;
	struct berth_arena *a = berth_grpc_arena(q->call);
	Runtime__V1__ImageFsInfoResponse r = RUNTIME__V1__IMAGE_FS_INFO_RESPONSE__INIT;
	Runtime__V1__FilesystemUsage *images[BERTH_LIMIT_STORAGE_DRIVERS],
	        *ctrs[BERTH_LIMIT_STORAGE_DRIVERS];

	if (err) {
		berth_grpc_fail(q->call, err);
		return;
	}
	for (size_t i = 0; i < q->d->n_storages; i++) {
		const struct berth_disk_share *share = &u->of[i];
		struct shown *s = berth_arena_alloc(a, sizeof(*s));
		_cleanup_free_ char *place = berth_disk_place(q->d, q->d->storages[i]);
		runtime__v1__filesystem_identifier__init(&s->id);
		s->id.mountpoint = berth_arena_strdup(a, place);
		fill_usage(&s->images, &s->id, s->v, u->at_ns, share->image_bytes,
		        share->image_inodes);
		fill_usage(
		        &s->ctrs, &s->id, s->v + 2, u->at_ns, share->ctr_bytes, share->ctr_inodes);
		images[i] = &s->images;
		ctrs[i] = &s->ctrs;
	}
	/* The first is storage.driver's: there are clients that look at no other. */
	r.image_filesystems = images;
	r.container_filesystems = ctrs;
	r.n_image_filesystems = r.n_container_filesystems = q->d->n_storages;
	berth_grpc_reply(q->call, &r.base);
}

HANDLER(berth_cri_image_fs_info)
{
	struct usage *q = berth_arena_alloc(berth_grpc_arena(call), sizeof(*q));

	(void)request;
	q->d = arg;
	q->call = call;
	berth_disk_usage(arg, usage_known, q);
}
