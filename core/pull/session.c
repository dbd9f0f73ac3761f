#include "pull/session.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pull/artifact.h"
#include "pull/each.h"
#include "pull/layer.h"
#include "pull/protocol.h"

enum { INDEX_DEPTH = 4 };

struct work {
	const struct pull_session *s;
	const struct pull_image *image;
	const struct pull_config *config;
};

static int run_layer(void *arg, size_t n, struct berth_error **ret_err)
{
	struct work *w = arg;
	const struct pull_manifest *m = w->image->manifest;
	_cleanup_free_ char *file = NULL;

	if (m->artifact && pull_artifact_name(&m->layers[n], &file, ret_err) < 0)
		return -1;
	struct pull_layer l = {
	        .n = n, .desc = &m->layers[n], .diff_id = w->config->diff_ids[n], .file = file};
	return pull_layer_run(&l, w->image->source, w->s->wire, w->s->whiteout, ret_err);
}

static json_t *layers_json(const struct pull_image *image, const struct pull_config *config)
{
	char chain[PULL_DIGEST_SIZE], parent[PULL_DIGEST_SIZE];
	json_t *list = json_array();

	for (size_t i = 0; i < config->n_diff_ids; i++) {
		const struct pull_desc *d = &image->manifest->layers[i];
		pull_chain_id(i ? parent : NULL, config->diff_ids[i], chain);
		json_array_append_new(
		        list, json_pack("{s:s, s:s, s:s, s:I}", "diff_id", config->diff_ids[i],
		                      "chain_id", chain, "digest", d->digest, "size",
		                      (json_int_t)d->size));
		memcpy(parent, chain, sizeof(parent));
	}
	return list;
}

static int send_record(const struct pull_session *s, const struct pull_image *image,
        const struct pull_config *config, struct berth_error **ret_err)
{
	const struct pull_manifest *m = image->manifest;
	json_t *rec = json_deep_copy(config->record), *annotations = json_object(), *value;
	uint64_t size = m->config.size;
	const char *key;

	for (size_t i = 0; i < m->n_layers; i++)
		size += m->layers[i].size;
	json_object_set_new(rec, "v", json_integer(1));
	/* Many artifacts have one and the same config: an empty one. */
	json_object_set_new(rec, "id", json_string(m->artifact ? image->digest : m->config.digest));
	json_object_set_new(rec, "digest", json_string(image->digest));
	if (image->index_digest)
		json_object_set_new(rec, "index_digest", json_string(image->index_digest));
	if (image->ref)
		json_object_set_new(rec, "ref", json_string(image->ref));
	json_object_set_new(rec, "size", json_integer((json_int_t)size));
	json_object_set_new(rec, "layers", layers_json(image, config));
	json_object_foreach (m->annotations, key, value)
		if (json_is_string(value))
			json_object_set(annotations, key, value);
	json_object_set_new(rec, "annotations", annotations);

	_cleanup_free_ char *text = json_dumps(rec, JSON_COMPACT);
	json_decref(rec);
	if (!text || strlen(text) > BERTH_PULL_RECORD)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "the image's record is larger than %d bytes", BERTH_PULL_RECORD);
	return pull_wire_send_memfd(s->wire, json_pack("{s:s}", "t", "record"), "berth-record",
	        text, strlen(text), ret_err);
}

static int run_layers_of(const struct pull_session *s, const struct pull_image *image,
        const struct pull_config *config, struct berth_error **ret_err)
{
	bool *have = NULL;
	json_t *p = json_pack("{s:s, s:s, s:s, s:o}", "t", "image", "digest", image->digest,
	        "config_digest", image->manifest->config.digest, "layers",
	        layers_json(image, config));

	if (pull_wire_send(s->wire, p, -1, ret_err) < 0 ||
	        pull_wire_wait_have(s->wire, config->n_diff_ids, &have, ret_err) < 0)
		return -1;
	struct work w = {.s = s, .image = image, .config = config};
	const struct pull_each each = {.wire = s->wire,
	        .parallel = s->parallel,
	        .n = image->manifest->n_layers,
	        .have = have,
	        .run = run_layer,
	        .arg = &w};
	int r = pull_each_run(&each, ret_err);
	free(have);
	return r;
}

int pull_session_image(
        const struct pull_session *s, const struct pull_image *image, struct berth_error **ret_err)
{
	const struct pull_manifest *m = image->manifest;
	_cleanup_free_ char *text = NULL;
	_cleanup_(pull_config_finish) struct pull_config config = {0};
	size_t len = 0;

	if (m->artifact) {
		if (pull_artifact_config(m, &config, ret_err) < 0)
			return -1;
	} else if (pull_source_read(image->source, &m->config, "config", BERTH_LIMIT_IMAGE_CONFIG,
	                   &text, &len, ret_err) < 0 ||
	           pull_config_parse(text, len, &config, ret_err) < 0) {
		return -1;
	}
	if (config.n_diff_ids != m->n_layers)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "the config has %zu layers, the manifest %zu", config.n_diff_ids,
		        m->n_layers);
	if (run_layers_of(s, image, &config, ret_err) < 0 ||
	        send_record(s, image, &config, ret_err) < 0)
		return -1;
	pull_wire_wait_stored(s->wire);
	return 0;
}

/* One document: a manifest, or an index and the entry of it to go on with. */
static int follow(const struct pull_session *s, struct pull_source *source, struct pull_desc *at,
        struct pull_doc *doc, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL, *type = NULL;
	size_t len = 0;

	if (source->manifest(source, at, &text, &len, &type, ret_err) < 0)
		return -1;
	if (pull_doc_parse(text, len, type, &s->platform, doc, ret_err) < 0)
		return berth_error_wrap(ret_err, "manifest %s", at->digest);
	return 0;
}

int pull_session_resolve(const struct pull_session *s, struct pull_source *source,
        const struct pull_desc *start, struct pull_manifest **ret, char digest[PULL_DIGEST_SIZE],
        char index_digest[PULL_DIGEST_SIZE], struct berth_error **ret_err)
{
	_cleanup_(pull_desc_finish) struct pull_desc at = {
	        .size = start->size, .media_type = berth_strdup(start->media_type)};

	memcpy(at.digest, start->digest, PULL_DIGEST_SIZE);
	*index_digest = '\0';
	for (int depth = 0; depth <= INDEX_DEPTH; depth++) {
		struct pull_doc doc = {0};
		if (follow(s, source, &at, &doc, ret_err) < 0)
			return -1;
		if (doc.manifest) {
			memcpy(digest, at.digest, PULL_DIGEST_SIZE);
			*ret = doc.manifest;
			return 0;
		}
		if (!*index_digest)
			memcpy(index_digest, at.digest, PULL_DIGEST_SIZE);
		pull_desc_finish(&at);
		at = *doc.entry;
		free(doc.entry);
	}
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "index %s: more than %d indexes within each other", index_digest, INDEX_DEPTH);
}
