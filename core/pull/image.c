#include "pull/image.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pull/protocol.h"

#define TITLE "org.opencontainers.image.title"

struct pull_manifest *pull_manifest_free(struct pull_manifest *m)
{
	if (!m)
		return NULL;
	pull_desc_finish(&m->config);
	for (size_t i = 0; i < m->n_layers; i++)
		pull_desc_finish(&m->layers[i]);
	free(m->layers);
	json_decref(m->annotations);
	free(m->artifact);
	free(m);
	return NULL;
}

void pull_manifest_freep(struct pull_manifest **m)
{
	*m = pull_manifest_free(*m);
}

void pull_doc_finish(struct pull_doc *d)
{
	d->manifest = pull_manifest_free(d->manifest);
	if (d->entry)
		pull_desc_finish(d->entry);
	free(berth_take(d->entry));
}

static const char *string_at(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

int pull_desc_parse(const json_t *o, struct pull_desc *ret, struct berth_error **ret_err)
{
	const char *digest = string_at(o, "digest");
	json_t *size = json_object_get(o, "size");

	if (!json_is_object(o))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "a descriptor is no object");
	if (!pull_digest_valid(digest))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "'%.100s' is no sha256 digest", digest);
	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "descriptor %s has no valid size", digest);
	*ret = (struct pull_desc){.size = (uint64_t)json_integer_value(size),
	        .media_type = berth_strdup(string_at(o, "mediaType"))};
	memcpy(ret->digest, digest, PULL_DIGEST_SIZE);
	return 0;
}

/* "v8" is 8; what arm64, arm and amd64 mean without a variant. */
static unsigned int variant_number(const char *arch, const char *variant)
{
	if (*variant == 'v')
		return (unsigned int)strtoul(variant + 1, NULL, 10);
	if (strcmp(arch, "arm64") == 0)
		return 8;
	return strcmp(arch, "arm") == 0 ? 7 : 1;
}

unsigned int pull_platform_rank(const json_t *platform, const struct pull_platform *want)
{
	const char *arch = string_at(platform, "architecture");

	if (strcmp(string_at(platform, "os"), want->os) != 0 ||
	        strcmp(arch, want->architecture) != 0)
		return 0;
	unsigned int have = variant_number(arch, string_at(platform, "variant"));
	unsigned int can = variant_number(arch, want->variant ? want->variant : "");
	/* A newer variant does not run on an older machine; the newest that runs is best. */
	return have <= can ? have + 1 : 0;
}

static int parse_index(const json_t *root, const struct pull_platform *platform,
        struct pull_doc *ret, struct berth_error **ret_err)
{
	const json_t *list = json_object_get(root, "manifests"), *best = NULL, *e;
	unsigned int best_rank = 0;
	size_t i;

	if (json_array_size(list) > BERTH_LIMIT_INDEX_ENTRIES)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "the index has %zu entries, at most %d are accepted", json_array_size(list),
		        BERTH_LIMIT_INDEX_ENTRIES);
	json_array_foreach (list, i, e) {
		const json_t *p = json_object_get(e, "platform");
		/* One without a platform is better than none at all. */
		unsigned int rank = p ? pull_platform_rank(p, platform) * 2 : 1;
		if (rank > best_rank) {
			best = e;
			best_rank = rank;
		}
	}
	if (!best)
		return berth_error_set(ret_err, BERTH_NOT_FOUND, "no image for platform %s/%s%s%s",
		        platform->os, platform->architecture,
		        platform->variant && *platform->variant ? "/" : "",
		        platform->variant ? platform->variant : "");
	struct pull_desc d;
	if (pull_desc_parse(best, &d, ret_err) < 0)
		return -1;
	ret->entry = berth_memdup(&d, sizeof(d));
	return 0;
}

static bool is_one_of(const char *s, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(s, *list) == 0)
			return true;
	return false;
}

/* A config of another type, or none, makes it an artifact. */
static int check_media_types(
        struct pull_manifest *m, const char *artifact_type, struct berth_error **ret_err)
{
	static const char *const configs[] = {"application/vnd.oci.image.config.v1+json",
	        "application/vnd.docker.container.image.v1+json", "application/octet-stream", "",
	        NULL};

	if (!is_one_of(m->config.media_type, configs))
		m->artifact = berth_strdup(*artifact_type ? artifact_type : m->config.media_type);
	for (size_t i = 0; i < m->n_layers; i++)
		if (strstr(m->layers[i].media_type, "+encrypted"))
			return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
			        "layer %s is encrypted, which is not supported",
			        m->layers[i].digest);
	return 0;
}

static int parse_manifest(const json_t *root, struct pull_manifest *m, struct berth_error **ret_err)
{
	const json_t *layers = json_object_get(root, "layers"), *e;
	size_t i;

	if (pull_desc_parse(json_object_get(root, "config"), &m->config, ret_err) < 0)
		return berth_error_wrap(ret_err, "config");
	if (!json_is_array(layers))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "it has no layers");
	if (json_array_size(layers) > BERTH_LIMIT_IMAGE_LAYERS)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "it has %zu layers, at most %d are accepted", json_array_size(layers),
		        BERTH_LIMIT_IMAGE_LAYERS);
	m->layers = berth_new_array(struct pull_desc, json_array_size(layers));
	json_array_foreach (layers, i, e) {
		if (pull_desc_parse(e, &m->layers[i], ret_err) < 0)
			return berth_error_wrap(ret_err, "layer %zu", i + 1);
		m->layers[i].title = berth_strdup(json_string_value(
		        json_object_get(json_object_get(e, "annotations"), TITLE)));
		m->n_layers++;
	}
	json_t *annotations = json_object_get(root, "annotations");
	if (json_is_object(annotations))
		m->annotations = json_incref(annotations);
	return check_media_types(m, string_at(root, "artifactType"), ret_err);
}

enum kind { KIND_UNKNOWN, KIND_MANIFEST, KIND_INDEX, KIND_SCHEMA1 };

static enum kind kind_of_type(const char *type)
{
	static const char *const manifests[] = {"application/vnd.oci.image.manifest.v1+json",
	        "application/vnd.docker.distribution.manifest.v2+json", NULL};
	static const char *const indexes[] = {"application/vnd.oci.image.index.v1+json",
	        "application/vnd.docker.distribution.manifest.list.v2+json", NULL};

	if (!type)
		return KIND_UNKNOWN;
	_cleanup_free_ char *bare = berth_strndup(type, strcspn(type, "; "));
	if (is_one_of(bare, manifests))
		return KIND_MANIFEST;
	if (is_one_of(bare, indexes))
		return KIND_INDEX;
	return strncmp(bare, "application/vnd.docker.distribution.manifest.v1+", 48) == 0
	               ? KIND_SCHEMA1
	               : KIND_UNKNOWN;
}

static enum kind kind_of(const json_t *root, const char *transport)
{
	bool manifests = json_object_get(root, "manifests") != NULL;
	bool layers = json_object_get(root, "layers") || json_object_get(root, "config");

	/* What can be read in two ways is read in neither. */
	if (manifests && layers)
		return KIND_UNKNOWN;
	if (json_integer_value(json_object_get(root, "schemaVersion")) == 1)
		return KIND_SCHEMA1;
	enum kind own = kind_of_type(json_string_value(json_object_get(root, "mediaType")));
	if (own == KIND_UNKNOWN)
		own = kind_of_type(transport);
	if (own == KIND_UNKNOWN)
		own = manifests ? KIND_INDEX : layers ? KIND_MANIFEST : KIND_UNKNOWN;
	if ((own == KIND_INDEX && !manifests) || (own == KIND_MANIFEST && !layers))
		return KIND_UNKNOWN;
	return own;
}

static int parse_root(const json_t *root, const char *media_type,
        const struct pull_platform *platform, struct pull_doc *ret, struct berth_error **ret_err)
{
	switch (kind_of(root, media_type)) {
	case KIND_INDEX:
		return parse_index(root, platform, ret, ret_err);
	case KIND_MANIFEST:
		ret->manifest = berth_new(struct pull_manifest);
		return parse_manifest(root, ret->manifest, ret_err);
	case KIND_SCHEMA1:
		return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
		        "it is a Docker schema 1 manifest, which is not supported");
	case KIND_UNKNOWN:
		break;
	}
	return berth_error_set(
	        ret_err, BERTH_INVALID_ARGUMENT, "it is neither an image manifest nor an index");
}

int pull_doc_parse(const char *text, size_t len, const char *media_type,
        const struct pull_platform *platform, struct pull_doc *ret, struct berth_error **ret_err)
{
	json_error_t je;
	json_t *root = json_loadb(text, len, 0, &je);

	*ret = (struct pull_doc){0};
	if (!root)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "it is no JSON: line %d: %s", je.line, je.text);
	int r = parse_root(root, media_type, platform, ret, ret_err);
	json_decref(root);
	if (r < 0)
		pull_doc_finish(ret);
	return r;
}
