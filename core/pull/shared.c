#include "pull/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/digest.h"
#include "pull/protocol.h"
#include "pull/tree_impl.h"

#define CHUNK_BYTES BERTH_KIB(64) /* of the index, at a time */

/* ---- parsing ---- */

static int malformed(struct berth_error **ret_err, size_t image, const char *what)
{
	return berth_error_set(
	        ret_err, BERTH_DATA_LOSS, "index.json: image %zu: %s", image + 1, what);
}

static const char *check_names(const json_t *list)
{
	const json_t *e;
	size_t i;

	if (!json_is_array(list) || json_array_size(list) > PULL_SHARED_NAMES)
		return "its names are no list, or too many";
	json_array_foreach ((json_t *)(uintptr_t)list, i, e) {
		const char *s = json_string_value(e);
		if (!s || !*s || strlen(s) > BERTH_LIMIT_PATH || strlen(s) != json_string_length(e))
			return "one of its names is none";
	}
	return NULL;
}

static const char *check_layers(const json_t *layers)
{
	char chain[PULL_DIGEST_SIZE], parent[PULL_DIGEST_SIZE];
	const json_t *l;
	size_t i;

	if (!json_is_array(layers) || json_array_size(layers) > BERTH_LIMIT_IMAGE_LAYERS)
		return "its layers are no list, or too many";
	json_array_foreach ((json_t *)(uintptr_t)layers, i, l) {
		const char *diff = json_string_value(json_object_get(l, "diff_id"));
		const char *own = json_string_value(json_object_get(l, "chain_id"));
		const char *blob = json_string_value(json_object_get(l, "digest"));
		if (!diff || !own || !blob || !pull_digest_valid(diff) || !pull_digest_valid(own) ||
		        !pull_digest_valid(blob) || !json_is_integer(json_object_get(l, "size")))
			return "a layer has no well-formed digests";
		pull_chain_id(i ? parent : NULL, diff, chain);
		if (strcmp(chain, own) != 0)
			return "a layer's ChainID is not that of its DiffIDs";
		memcpy(parent, chain, sizeof(parent));
	}
	return NULL;
}

static const char *check_image(const json_t *image)
{
	const json_t *record = json_object_get(image, "record");
	const char *id = json_string_value(json_object_get(record, "id"));
	const char *digest = json_string_value(json_object_get(record, "digest"));

	if (!id || !digest || !pull_digest_valid(id) || !pull_digest_valid(digest) ||
	        !json_is_object(json_object_get(record, "config")) ||
	        !json_is_integer(json_object_get(record, "size")))
		return "its record is malformed";
	const char *why = check_layers(json_object_get(record, "layers"));
	if (!why)
		why = check_names(json_object_get(image, "tags"));
	return why ? why : check_names(json_object_get(image, "digests"));
}

static int check_xattrs(const json_t *all, struct berth_error **ret_err)
{
	const char *chain;
	json_t *x;

	if (all && !json_is_object(all))
		return berth_error_set(ret_err, BERTH_DATA_LOSS, "index.json: xattrs is no map");
	json_object_foreach ((json_t *)(uintptr_t)all, chain, x) {
		const char *path = json_string_value(json_object_get(x, "path"));
		const char *name = json_string_value(json_object_get(x, "name"));
		char clean[BERTH_LIMIT_PATH];
		if (!pull_digest_valid(chain) || !path || !name || strlen(name) > 255 ||
		        (*path && pull_tree_clean(path, clean)))
			return berth_error_set(ret_err, BERTH_DATA_LOSS,
			        "index.json: xattrs has a malformed entry");
	}
	return 0;
}

int pull_shared_parse(const char *text, size_t len, json_t **ret, struct berth_error **ret_err)
{
	json_error_t je;
	json_t *doc = len <= PULL_SHARED_INDEX ? json_loadb(text, len, JSON_REJECT_DUPLICATES, &je)
	                                       : NULL;
	json_t *images = json_object_get(doc, "images"), *image;
	int r = 0;
	size_t i;

	if (!doc)
		return berth_error_set(ret_err, BERTH_DATA_LOSS, "index.json: %s",
		        len <= PULL_SHARED_INDEX ? je.text : "larger than it may be");
	if (json_integer_value(json_object_get(doc, "v")) != 1)
		r = berth_error_set(
		        ret_err, BERTH_UNIMPLEMENTED, "index.json: it is not of version 1");
	else if (!json_is_array(images) || json_array_size(images) > PULL_SHARED_IMAGES)
		r = berth_error_set(ret_err, BERTH_DATA_LOSS,
		        "index.json: its images are no list, or more than %d", PULL_SHARED_IMAGES);
	json_array_foreach (images, i, image) {
		const char *why = r == 0 ? check_image(image) : NULL;
		if (why)
			r = malformed(ret_err, i, why);
	}
	if (r == 0)
		r = check_xattrs(json_object_get(doc, "xattrs"), ret_err);
	if (r == 0)
		*ret = json_incref(doc);
	json_decref(doc);
	return r;
}

/* ---- reading ---- */

int pull_shared_open(int dir, char name[PULL_SHARED_GENERATION + 1], struct berth_error **ret_err)
{
	static const char prefix[] = "generations/";
	char link[sizeof(prefix) + PULL_SHARED_GENERATION + 1];
	ssize_t n = readlinkat(dir, "current", link, sizeof(link) - 1);

	if (n < 0)
		return berth_error_errno(ret_err, errno, "current");
	link[n] = '\0';
	const char *own = link + sizeof(prefix) - 1;
	if (strncmp(link, prefix, sizeof(prefix) - 1) != 0 || !*own || own[0] == '.' ||
	        strlen(own) > PULL_SHARED_GENERATION ||
	        own[strspn(own, "0123456789abcdefghijklmnopqrstuvwxyz-")])
		return berth_error_set(
		        ret_err, BERTH_DATA_LOSS, "current does not lead to a generation");
	memcpy(name, own, strlen(own) + 1);
	return 0;
}

static int read_all(int fd, const struct pull_shared_ear *ear, struct berth_buf *b)
{
	_cleanup_free_ char *chunk = berth_zalloc(CHUNK_BYTES);
	ssize_t n;

	while ((n = read(fd, chunk, CHUNK_BYTES)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (b->len + (size_t)n > PULL_SHARED_INDEX)
			return -EFBIG;
		berth_buf_add(b, chunk, (size_t)n);
		if (ear)
			ear->heard(ear->arg);
	}
	return 0;
}

int pull_shared_read(int dir, const char *name, const struct pull_shared_ear *ear, json_t **ret,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_asprintf("generations/%s/index.json", name);
	struct berth_buf b = {0};
	int fd = pull_tree_open_beneath(dir, path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return berth_error_errno(ret_err, fd, "%s", path);
	int r = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
	if (r == 0)
		r = read_all(fd, ear, &b);
	close(fd);
	r = r < 0 ? berth_error_errno(ret_err, r, "%s", path)
	          : pull_shared_parse(b.data ? b.data : "", b.len, ret, ret_err);
	berth_buf_finish(&b);
	return r;
}
