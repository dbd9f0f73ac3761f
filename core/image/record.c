/* Records of images on the disk. [worker] */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "image/pull.h"

/* Of a record nobody else's change is lost, and none comes back that was removed. */
static pthread_mutex_t records = PTHREAD_MUTEX_INITIALIZER;

static json_t *strv_json(char *const *v)
{
	json_t *a = json_array();
	for (; v && *v; v++)
		json_array_append_new(a, json_string(*v));
	return a;
}

static int write_record(
        struct berth_daemon *d, const char *id, const json_t *j, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_image_dir(d, id);
	_cleanup_free_ char *path = berth_path(dir, "image.json", NULL);
	_cleanup_free_ char *images = berth_path(d->config->root, "images", NULL);
	_cleanup_free_ char *text = json_dumps(j, JSON_COMPACT);

	if (!text)
		return berth_error_set(
		        ret_err, BERTH_INTERNAL, "image %s: its record is not UTF-8", id);
	int r = berth_mkdir_p(dir, 0700);
	berth_fault("image-record-before");
	if (r == 0)
		r = berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0600, true);
	if (r == 0)
		r = berth_fsync_dir(images);
	berth_fault("image-record-after");
	return r < 0 ? berth_error_errno(ret_err, r, "image %s: %s", id, path) : 0;
}

int berth_image_save(struct berth_daemon *d, const json_t *record, char *const *tags,
        char *const *digests, char *const *drivers, struct berth_error **ret_err)
{
	const char *id = json_string_value(json_object_get(record, "id"));

	pthread_mutex_lock(&records);
	json_t *j = json_pack("{s:i, s:I, s:O, s:o, s:o, s:o}", "v", 1, "serial",
	        (json_int_t)++d->images->serial, "record", (json_t *)record, "tags",
	        strv_json(tags), "digests", strv_json(digests), "drivers", strv_json(drivers));
	int r = write_record(d, id, j, ret_err);
	pthread_mutex_unlock(&records);
	json_decref(j);
	return r;
}

/* Is any of them in the list? Those are taken out. */
static bool take_out(json_t *list, char *const *tags)
{
	bool any = false;

	for (; tags && *tags; tags++) {
		for (size_t n = json_array_size(list); n > 0; n--) {
			const char *have = json_string_value(json_array_get(list, n - 1));
			if (have && strcmp(have, *tags) == 0)
				any = json_array_remove(list, n - 1) == 0;
		}
	}
	return any;
}

int berth_image_untag(struct berth_daemon *d, const struct berth_image *i, char *const *tags,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_image_dir(d, i->id);
	_cleanup_free_ char *path = berth_path(dir, "image.json", NULL);
	_cleanup_free_ char *text = NULL;
	int r = 0;

	pthread_mutex_lock(&records);
	if (!i->forgotten)
		r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL);
	if (r < 0)
		r = berth_error_errno(ret_err, r, "image %s: %s", i->id, path);
	json_t *j = text ? json_loads(text, 0, NULL) : NULL;
	if (j && take_out(json_object_get(j, "tags"), tags))
		r = write_record(d, i->id, j, ret_err);
	pthread_mutex_unlock(&records);
	json_decref(j);
	return r;
}

int berth_image_forget(struct berth_daemon *d, struct berth_image *i, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_image_dir(d, i->id);
	_cleanup_free_ char *images = berth_path(d->config->root, "images", NULL);

	pthread_mutex_lock(&records);
	int r = berth_rm_tree(AT_FDCWD, dir);
	/* A removal of layers may not reach the disk before it, nor an answer the client: an image
	 * whose layers another has would come back after a power cut. */
	if (r == 0)
		r = berth_fsync_dir(images);
	if (r == 0)
		i->forgotten = true;
	pthread_mutex_unlock(&records);
	return r < 0 ? berth_error_errno(ret_err, r, "image %s: %s", i->id, dir) : 0;
}
