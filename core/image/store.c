/* The store of image records. Layers are the storage driver's; a record is written only once they
 * are all committed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/container.h"
#include "image/pull.h"
#include "image/shared.h"
#include "image/shortnames.h"
#include "image/usage.h"

struct berth_image *berth_image_ref(struct berth_image *i)
{
	i->refs++;
	return i;
}

struct berth_image *berth_image_unref(struct berth_image *i)
{
	if (!i || --i->refs > 0)
		return NULL;
	free(i->id);
	json_decref(i->record);
	berth_strv_free(i->tags);
	berth_strv_free(i->digests);
	free(i);
	return NULL;
}

/* ---- lookup ---- */

static bool has(char *const *v, const char *s)
{
	for (; v && *v; v++) {
		if (strcmp(*v, s) == 0)
			return true;
	}
	return false;
}

/* The node's own, then those of image stores that it does not have itself. */
static struct berth_image *next_of_all(const struct berth_daemon *d, struct berth_image *after)
{
	struct berth_image *next = !after ? d->images->by_id : after->store ? NULL : after->hh.next;
	return next ? next : berth_shared_next(d, after && after->store ? after : NULL);
}

static struct berth_image *by_id_prefix(
        const struct berth_daemon *d, const char *hex, struct berth_error **ret_err)
{
	struct berth_image *found = NULL;
	size_t n = strlen(hex);

	for (struct berth_image *i = NULL; (i = next_of_all(d, i));) {
		if (strncmp(i->id + strlen("sha256:"), hex, n) != 0)
			continue;
		if (found) {
			berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "image id prefix \"%s\" is ambiguous", hex);
			return NULL;
		}
		found = i;
	}
	return found;
}

static struct berth_image *by_name(
        const struct berth_daemon *d, const char *name, struct berth_error **ret_err)
{
	struct berth_ref ref = {0};

	if (berth_ref_parse(name, &ref, ret_err) < 0)
		return NULL;
	_cleanup_free_ char *full = berth_ref_name(&ref);
	bool digest = ref.digest != NULL;
	berth_ref_finish(&ref);
	for (struct berth_image *i = NULL; (i = next_of_all(d, i));) {
		if (has(digest ? i->digests : i->tags, full))
			return i;
	}
	return NULL;
}

struct berth_image *berth_image_find(
        struct berth_daemon *d, const char *name, struct berth_error **ret_err)
{
	const char *hex = strncmp(name, "sha256:", 7) == 0 ? name + 7 : name;
	size_t n = strlen(hex);

	if (n >= 4 && n <= 64 && strspn(hex, "0123456789abcdef") == n) {
		struct berth_image *i = by_id_prefix(d, hex, ret_err);
		if (i || *ret_err || hex != name)
			return i;
	}
	char **names = berth_shortnames_of(d->shortnames, name, true, ret_err);
	struct berth_image *i = NULL;
	for (char **one = names; one && *one && !i && !*ret_err; one++)
		i = by_name(d, *one, ret_err);
	berth_strv_free(names);
	return i;
}

/* ---- disk ---- */

char *berth_image_dir(const struct berth_daemon *d, const char *id)
{
	const char *hex = strchr(id, ':');
	return berth_path(d->config->root, "images", hex ? hex + 1 : id, NULL);
}

static char **strv_of(const json_t *a)
{
	char **v = NULL;
	size_t i;
	json_t *s;
	json_array_foreach (a, i, s) {
		if (json_is_string(s))
			v = berth_strv_append(v, json_string_value(s));
	}
	return v;
}

struct berth_image *berth_image_store(
        struct berth_daemon *d, json_t *record, char **tags, char **digests)
{
	struct berth_images *s = d->images;
	const char *id = json_string_value(json_object_get(record, "id"));
	struct berth_image *i, *other, *tmp;

	/* A tag names one image: the others lose it. */
	HASH_ITER (hh, s->by_id, other, tmp) {
		if (strcmp(other->id, id) == 0)
			continue;
		char **left = NULL;
		for (char **t = other->tags; t && *t; t++) {
			if (!has(tags, *t))
				left = berth_strv_append(left, *t);
		}
		berth_strv_free(other->tags);
		other->tags = left;
	}
	HASH_FIND_STR(s->by_id, id, i);
	if (!i) {
		i = berth_new(struct berth_image);
		i->refs = 1;
		i->id = berth_strdup(id);
		i->record = json_incref(record);
		i->size = (uint64_t)json_integer_value(json_object_get(record, "size"));
		HASH_ADD_KEYPTR(hh, s->by_id, i->id, strlen(i->id), i);
	}
	berth_strv_free(i->tags);
	berth_strv_free(i->digests);
	i->tags = tags;
	i->digests = digests;
	berth_disk_usage_changed(d);
	return i;
}

static void add_name(char ***v, char *name)
{
	if (name && !has(*v, name))
		*v = berth_strv_append(*v, name);
	free(name);
}

void berth_image_names(struct berth_daemon *d, const json_t *record, const struct berth_ref *ref,
        char ***ret_tags, char ***ret_digests)
{
	const char *id = json_string_value(json_object_get(record, "id"));
	const char *digest = json_string_value(json_object_get(record, "index_digest"));
	struct berth_image *have;

	if (!digest)
		digest = json_string_value(json_object_get(record, "digest"));
	HASH_FIND_STR(d->images->by_id, id, have);
	*ret_tags = berth_strv_copy(have ? have->tags : NULL);
	*ret_digests = berth_strv_copy(have ? have->digests : NULL);
	if (!ref || !ref->repository)
		return;
	if (ref->tag)
		add_name(ret_tags, berth_asprintf("%s:%s", ref->repository, ref->tag));
	if (ref->digest)
		add_name(ret_digests, berth_asprintf("%s@%s", ref->repository, ref->digest));
	if (digest && !ref->digest)
		add_name(ret_digests, berth_asprintf("%s@%s", ref->repository, digest));
}

/* ---- start-up ---- */

static int load_layers(
        struct berth_daemon *d, struct berth_instance *storage, struct berth_error **ret_err)
{
	struct berth_snap_list list = {.size = sizeof(list)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(storage, BERTH_OP_STORAGE_LIST, NULL);
	if (berth_call_run(c, NULL, &list, ret_err) < 0)
		return berth_error_wrap(ret_err, "layers of %s", berth_instance_name(storage));
	for (uint32_t i = 0; i < list.n; i++) {
		const struct berth_snap_info *s = list.snaps[i];
		if (s->kind != BERTH_SNAP_COMMITTED)
			continue;
		if (BERTH_HAS(struct berth_snap_info, s, external) && s->external)
			berth_layer_add_external(d, storage, s->key, s->external);
		else
			berth_layer_add(d, storage, s->key);
	}
	return 0;
}

/* A driver of the record that is not loaded: its layers are there all the same. */
static bool elsewhere(const struct berth_daemon *d, const json_t *drivers)
{
	size_t i;
	json_t *v;
	json_array_foreach (drivers, i, v) {
		if (json_is_string(v) && !berth_daemon_storage(d, json_string_value(v)))
			return true;
	}
	return false;
}

/* A record as it was read. */
struct loaded {
	json_t *file;
	uint64_t serial;
};

/* What a write that was cut off left beside the record. */
static void sweep(const char *path)
{
	DIR *dir = opendir(path);
	if (!dir)
		return;
	for (struct dirent *e; (e = readdir(dir));) {
		if (strncmp(e->d_name, ".image.json.", strlen(".image.json.")) == 0)
			(void)!unlinkat(dirfd(dir), e->d_name, 0);
	}
	closedir(dir);
}

static uint64_t serial_of(const json_t *file)
{
	return (uint64_t)json_integer_value(json_object_get(file, "serial"));
}

/* NULL: it is none of ours, or is removed. */
static json_t *load_one(struct berth_daemon *d, const char *dir)
{
	_cleanup_free_ char *path = berth_path(dir, "image.json", NULL);
	_cleanup_free_ char *text = NULL;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL);
	json_t *j = r == 0 ? json_loads(text, 0, NULL) : NULL;
	json_t *record = json_object_get(j, "record");
	uint64_t serial = serial_of(j);

	if (serial > d->images->serial)
		d->images->serial = serial;
	if (json_is_string(json_object_get(record, "id")) && berth_layers_home(d, record, NULL)) {
		sweep(dir);
		return j;
	}
	if (record && elsewhere(d, json_object_get(j, "drivers"))) {
		berth_log_warn(
		        "an image lies in a storage driver that is not configured", "dir", dir);
	} else {
		berth_log_warn("an incomplete image is removed", "dir", dir);
		(void)!berth_rm_tree(AT_FDCWD, dir);
		d->counts.repaired++;
	}
	json_decref(j);
	return NULL;
}

static int by_serial(const void *a, const void *b)
{
	const struct loaded *x = a, *y = b;
	return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* Who has lost a tag to a later one and was not written again would have it back once that goes. */
static void write_what_lost(struct berth_daemon *d, const struct loaded *l)
{
	json_t *record = json_object_get(l->file, "record"),
	       *tags = json_object_get(l->file, "tags");
	const char *id = json_string_value(json_object_get(record, "id"));
	struct berth_error *err = NULL;
	struct berth_image *i;
	size_t n = 0;

	HASH_FIND_STR(d->images->by_id, id, i);
	while (i && i->tags && i->tags[n])
		n++;
	if (!i || n == json_array_size(tags))
		return;
	char **drivers = strv_of(json_object_get(l->file, "drivers"));
	if (berth_image_save(d, i->record, i->tags, i->digests, drivers, &err) < 0) {
		berth_log_warn("a tag may come back", "image", id, "error", err->msg);
		berth_error_free(err);
	}
	berth_strv_free(drivers);
}

/* In the order in which they were written: a tag is the last one's. */
static void load_sorted(struct berth_daemon *d, struct loaded *l, size_t n)
{
	if (n > 0)
		qsort(l, n, sizeof(*l), by_serial);
	for (size_t i = 0; i < n; i++) {
		berth_image_store(d, json_object_get(l[i].file, "record"),
		        strv_of(json_object_get(l[i].file, "tags")),
		        strv_of(json_object_get(l[i].file, "digests")));
	}
	for (size_t i = 0; i < n; i++) {
		write_what_lost(d, &l[i]);
		json_decref(l[i].file);
	}
}

int berth_images_load(struct berth_daemon *d, struct berth_error **ret_err)
{
	_cleanup_free_ char *images = berth_path(d->config->root, "images", NULL);
	_cleanup_free_ struct loaded *l = NULL;
	size_t n = 0;
	int r = berth_mkdir_p(images, 0700);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", images);
	for (size_t i = 0; i < d->n_storages; i++)
		if (load_layers(d, d->storages[i], ret_err) < 0)
			return -1;
	DIR *dir = opendir(images);
	if (!dir)
		return berth_error_errno(ret_err, errno, "%s", images);
	for (struct dirent *e; (e = readdir(dir));) {
		if (e->d_name[0] == '.')
			continue;
		_cleanup_free_ char *path = berth_path(images, e->d_name, NULL);
		json_t *file = load_one(d, path);
		if (!file)
			continue;
		l = berth_reallocarray(l, n + 1, sizeof(*l));
		l[n++] = (struct loaded){.file = file, .serial = serial_of(file)};
	}
	closedir(dir);
	load_sorted(d, l, n);
	return 0;
}

void berth_images_free(struct berth_daemon *d)
{
	struct berth_image *i, *tmp;
	HASH_ITER (hh, d->images->by_id, i, tmp) {
		HASH_DEL(d->images->by_id, i);
		berth_image_unref(i);
	}
	berth_layers_free(d->images);
	berth_disk_usage_finish(d);
	pull_hosts_free(d->images);
}
