/* Manifests, indexes and configs: OCI image-spec 1.1 and Docker schema 2. Everything here is from
 * outside: bounded, checked for form, and turned into the record that berthd keeps. */
#ifndef BERTH_PULL_IMAGE_H
#define BERTH_PULL_IMAGE_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "pull/source.h"

struct pull_platform {
	const char *os, *architecture, *variant; /* borrowed; variant may be "" */
};

struct pull_manifest {
	struct pull_desc config;
	struct pull_desc *layers;
	size_t n_layers;
	json_t *annotations; /* an object or NULL */
	char *artifact;      /* its type where it is one (pull/artifact.h), else NULL: an image */
};

struct pull_manifest *pull_manifest_free(struct pull_manifest *m);
void pull_manifest_freep(struct pull_manifest **m);

/* A document is a manifest or an index: by its own mediaType, else the transport's (may be NULL),
 * else by its members. One that could be both is refused. */
struct pull_doc {
	struct pull_manifest *manifest;
	struct pull_desc *entry; /* of an index: what fits the platform best */
};
void pull_doc_finish(struct pull_doc *d);
int pull_doc_parse(const char *text, size_t len, const char *media_type,
        const struct pull_platform *platform, struct pull_doc *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

int pull_desc_parse(
        const json_t *o, struct pull_desc *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* How well a descriptor's `platform` fits: 0 not at all, higher is better. */
unsigned int pull_platform_rank(const json_t *platform, const struct pull_platform *want);

/* A config's layers and the parts of the record that come from it. */
struct pull_config {
	char (*diff_ids)[PULL_DIGEST_SIZE];
	size_t n_diff_ids;
	json_t *record; /* "created", "os", "architecture", "variant", "config" */
};
void pull_config_finish(struct pull_config *c);
int pull_config_parse(const char *text, size_t len, struct pull_config *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
