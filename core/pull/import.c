#include "pull/import.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/files.h"
#include "pull/protocol.h"

struct pull_import {
	struct pull_source source;
	struct pull_files *files;
};

static int stream(struct pull_source *s, const struct pull_desc *d, uint64_t from, pull_sink sink,
        void *arg, struct berth_error **ret_err)
{
	struct pull_import *im = BERTH_CONTAINER_OF(s, struct pull_import, source);

	(void)from; /* a source on this machine begins at the start */
	if (d->path)
		return pull_files_stream(im->files, d->path, sink, arg, ret_err);
	_cleanup_free_ char *path = berth_asprintf("blobs/sha256/%s", d->digest + 7);
	return pull_files_stream(im->files, path, sink, arg, ret_err);
}

static int manifest(struct pull_source *s, struct pull_desc *d, char **ret, size_t *ret_len,
        char **ret_type, struct berth_error **ret_err)
{
	*ret_type = berth_strdup(d->media_type);
	return pull_source_read(s, d, "manifest", BERTH_LIMIT_MANIFEST, ret, ret_len, ret_err);
}

int pull_import_open(int fd, struct pull_import **ret, struct berth_error **ret_err)
{
	struct pull_files *files;

	if (pull_files_open(fd, &files, ret_err) < 0)
		return -1;
	struct pull_import *im = berth_new(struct pull_import);
	im->source = (struct pull_source){.stream = stream, .manifest = manifest};
	im->files = files;
	*ret = im;
	return 0;
}

struct pull_import *pull_import_free(struct pull_import *im)
{
	if (im) {
		pull_files_free(im->files);
		free(im);
	}
	return NULL;
}

struct pull_source *pull_import_source(struct pull_import *im)
{
	return &im->source;
}

void pull_found_free(struct pull_found *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(v[i].ref);
		pull_desc_finish(&v[i].desc);
		pull_manifest_free(v[i].manifest);
	}
	free(v);
}

struct found_list {
	struct pull_found *v;
	size_t n;
};

static struct pull_found *add(struct found_list *l)
{
	l->v = berth_reallocarray(l->v, l->n + 1, sizeof(*l->v));
	l->v[l->n] = (struct pull_found){0};
	return &l->v[l->n++];
}

/* containerd's full name goes before the OCI tag, which alone is a name only where it has a path.
 */
static const char *name_of(const json_t *entry)
{
	const json_t *a = json_object_get(entry, "annotations");
	const char *name = json_string_value(json_object_get(a, "io.containerd.image.name"));
	const char *oci =
	        json_string_value(json_object_get(a, "org.opencontainers.image.ref.name"));

	if (name && *name)
		return name;
	return oci && (strchr(oci, '/') || strchr(oci, ':')) ? oci : NULL;
}

static bool same_name(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Of several entries of one name the one that fits the platform best; one without a name has no
 * rival but the others without. */
static bool has_better(const json_t *list, size_t i, const struct pull_platform *platform)
{
	const json_t *entry = json_array_get(list, i), *e;
	const json_t *p = json_object_get(entry, "platform");
	unsigned int rank = p ? pull_platform_rank(p, platform) : 1;
	size_t k;

	if (rank == 0)
		return true;
	json_array_foreach ((json_t *)list, k, e) {
		const json_t *q = json_object_get(e, "platform");
		if (!q || !p || k == i || !same_name(name_of(e), name_of(entry)))
			continue;
		unsigned int other = pull_platform_rank(q, platform);
		if (other > rank || (other == rank && k < i))
			return true;
	}
	return false;
}

static int list_layout(const json_t *index, const struct pull_platform *platform,
        struct found_list *l, struct berth_error **ret_err)
{
	const json_t *list = json_object_get(index, "manifests");

	if (!json_is_array(list))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "index.json has no list of manifests");
	if (json_array_size(list) > BERTH_LIMIT_INDEX_ENTRIES)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "index.json has more than %d entries", BERTH_LIMIT_INDEX_ENTRIES);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *e = json_array_get(list, i);
		if (has_better(list, i, platform))
			continue;
		struct pull_found *f = add(l);
		f->ref = berth_strdup(name_of(e));
		if (pull_desc_parse(e, &f->desc, ret_err) < 0)
			return berth_error_wrap(ret_err, "index.json");
	}
	if (l->n == 0)
		return berth_error_set(ret_err, BERTH_NOT_FOUND,
		        "index.json names no image for platform %s/%s", platform->os,
		        platform->architecture);
	return 0;
}

/* The OCI manifest that says the same as a docker-archive's entry: the archive has none, and an
 * image is known by a manifest's digest. */
static int make_manifest(struct pull_found *f, const char *config, size_t config_len,
        const struct pull_config *c, struct berth_error **ret_err)
{
	struct pull_manifest *m = f->manifest;
	json_t *layers = json_array();

	pull_digest_of(config, config_len, m->config.digest);
	m->config.size = config_len;
	for (size_t i = 0; i < m->n_layers; i++) {
		/* An uncompressed layer's digest is its DiffID; of another one no digest is known.
		 */
		memcpy(m->layers[i].digest, c->diff_ids[i], PULL_DIGEST_SIZE);
		json_array_append_new(layers,
		        json_pack("{s:s, s:s, s:I}", "mediaType",
		                "application/vnd.oci.image.layer.v1.tar", "digest",
		                m->layers[i].digest, "size", (json_int_t)m->layers[i].size));
	}
	json_t *doc = json_pack("{s:i, s:s, s:{s:s, s:s, s:I}, s:o}", "schemaVersion", 2,
	        "mediaType", "application/vnd.oci.image.manifest.v1+json", "config", "mediaType",
	        "application/vnd.oci.image.config.v1+json", "digest", m->config.digest, "size",
	        (json_int_t)m->config.size, "layers", layers);
	_cleanup_free_ char *text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
	if (!text)
		return berth_error_set(ret_err, BERTH_INTERNAL, "cannot write a manifest");
	pull_digest_of(text, strlen(text), f->digest);
	return 0;
}

static int take_layers(struct pull_import *im, const json_t *layers, struct pull_manifest *m,
        struct berth_error **ret_err)
{
	size_t n = json_array_size(layers);

	if (n > BERTH_LIMIT_IMAGE_LAYERS)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "it has %zu layers, at most %d are accepted", n, BERTH_LIMIT_IMAGE_LAYERS);
	m->layers = berth_new_array(struct pull_desc, n);
	for (size_t i = 0; i < n; i++) {
		const char *path = json_string_value(json_array_get(layers, i));
		int64_t size = path ? pull_files_size(im->files, path) : -1;
		if (size < 0)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "its layer '%.200s' is not in the archive", path ? path : "");
		m->layers[m->n_layers++] = (struct pull_desc){.path = berth_strdup(path),
		        .media_type = berth_strdup(""),
		        .size = (uint64_t)size};
	}
	return 0;
}

static int take_docker(struct pull_import *im, const json_t *entry, struct pull_found *f,
        struct berth_error **ret_err)
{
	const char *path = json_string_value(json_object_get(entry, "Config"));
	_cleanup_free_ char *text = NULL;
	_cleanup_(pull_config_finish) struct pull_config c = {0};
	size_t len = 0;

	if (!path)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "it names no config");
	struct pull_manifest *m = f->manifest = berth_new(struct pull_manifest);
	if (take_layers(im, json_object_get(entry, "Layers"), m, ret_err) < 0 ||
	        pull_files_read(im->files, path, BERTH_LIMIT_IMAGE_CONFIG, &text, &len, ret_err) <
	                0 ||
	        pull_config_parse(text, len, &c, ret_err) < 0)
		return -1;
	m->config.path = berth_strdup(path);
	m->config.media_type = berth_strdup("");
	if (c.n_diff_ids != m->n_layers)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "its config has %zu layers, its manifest %zu", c.n_diff_ids, m->n_layers);
	return make_manifest(f, text, len, &c, ret_err);
}

static int list_docker(struct pull_import *im, const json_t *list, struct found_list *l,
        struct berth_error **ret_err)
{
	if (!json_is_array(list) || json_array_size(list) == 0)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "manifest.json is no list of images");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *e = json_array_get(list, i);
		const json_t *tags = json_object_get(e, "RepoTags");
		size_t k = 0;
		do { /* one image for each name */
			const char *tag = json_string_value(json_array_get(tags, k));
			if (l->n == BERTH_LIMIT_INDEX_ENTRIES)
				return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
				        "manifest.json names more than %d images",
				        BERTH_LIMIT_INDEX_ENTRIES);
			struct pull_found *f = add(l);
			f->ref = berth_strdup(tag);
			if (take_docker(im, e, f, ret_err) < 0)
				return berth_error_wrap(ret_err, "manifest.json: image %zu", i + 1);
		} while (++k < json_array_size(tags));
	}
	return 0;
}

static int load(struct pull_import *im, const char *name, size_t max, json_t **ret,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	json_error_t je;

	if (pull_files_read(im->files, name, max, &text, &len, ret_err) < 0)
		return -1;
	*ret = json_loadb(text, len, 0, &je);
	if (!*ret)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s is no JSON: line %d: %s", name, je.line, je.text);
	return 0;
}

/* Keeps what the caller asked for. One image takes the name given, whatever its own. */
static int choose(struct found_list *l, const char *ref, struct berth_error **ret_err)
{
	size_t kept = 0;

	if (!ref)
		return 0;
	if (l->n == 1) {
		free(l->v[0].ref);
		l->v[0].ref = berth_strdup(ref);
		return 0;
	}
	for (size_t i = 0; i < l->n; i++)
		if (same_name(l->v[i].ref, ref)) {
			struct pull_found f = l->v[i];
			l->v[i] = l->v[kept];
			l->v[kept++] = f;
		}
	if (kept == 0)
		return berth_error_set(ret_err, BERTH_NOT_FOUND,
		        "it holds %zu images and none of them is named '%s'", l->n, ref);
	for (size_t i = kept; i < l->n; i++) {
		free(l->v[i].ref);
		pull_desc_finish(&l->v[i].desc);
		pull_manifest_free(l->v[i].manifest);
	}
	l->n = kept;
	return 0;
}

int pull_import_list(struct pull_import *im, const char *ref, const struct pull_platform *platform,
        struct pull_found **ret, size_t *ret_n, struct berth_error **ret_err)
{
	struct found_list l = {0};
	json_t *doc = NULL;
	int r;

	/* Docker writes both since version 25; the layout says more. */
	if (pull_files_size(im->files, "index.json") >= 0) {
		r = load(im, "index.json", BERTH_LIMIT_MANIFEST, &doc, ret_err);
		if (r == 0)
			r = list_layout(doc, platform, &l, ret_err);
	} else if (pull_files_size(im->files, "manifest.json") >= 0) {
		r = load(im, "manifest.json", BERTH_LIMIT_MANIFEST, &doc, ret_err);
		if (r == 0)
			r = list_docker(im, doc, &l, ret_err);
	} else {
		r = berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "it is no OCI layout and no docker-archive: neither index.json nor "
		        "manifest.json is in it");
	}
	json_decref(doc);
	if (r == 0)
		r = choose(&l, ref, ret_err);
	if (r < 0) {
		pull_found_free(l.v, l.n);
		return -1;
	}
	*ret = l.v;
	*ret_n = l.n;
	return 0;
}
