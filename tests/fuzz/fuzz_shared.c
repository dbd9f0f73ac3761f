/* Any text as the index of an image store: it is refused, or each name and digest in it is one that
 * may become a part of a path. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pull/digest.h"
#include "pull/shared.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static bool digest(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s && pull_digest_valid(s);
}

static void check_image(const json_t *image)
{
	json_t *record = json_object_get(image, "record"), *l;
	size_t i;

	must(digest(record, "id") && digest(record, "digest"));
	must(json_is_object(json_object_get(record, "config")));
	must(json_is_array(json_object_get(image, "tags")) &&
	        json_is_array(json_object_get(image, "digests")));
	json_array_foreach (json_object_get(record, "layers"), i, l) {
		must(digest(l, "chain_id") && digest(l, "diff_id") && digest(l, "digest"));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct berth_error *err = NULL;
	json_t *doc = NULL, *image, *x;
	const char *chain;
	size_t i;

	if (pull_shared_parse((const char *)data, size, &doc, &err) < 0) {
		must(!doc && err);
		berth_error_free(err);
		return 0;
	}
	json_array_foreach (json_object_get(doc, "images"), i, image) {
		check_image(image);
	}
	json_object_foreach (json_object_get(doc, "xattrs"), chain, x) {
		const char *path = json_string_value(json_object_get(x, "path"));
		must(pull_digest_valid(chain) && path && path[0] != '/');
	}
	json_decref(doc);
	return 0;
}
