/* The images of an OCI layout (a directory, or oci-archive) or a docker-archive. */
#ifndef BERTH_PULL_IMPORT_H
#define BERTH_PULL_IMPORT_H

#include "base/error.h"
#include "pull/image.h"
#include "pull/source.h"

/* One image to be taken; a docker-archive's config is read here, its manifest made up. */
struct pull_found {
	char *ref;                      /* as the archive writes it, or NULL */
	struct pull_desc desc;          /* OCI: manifest or index */
	struct pull_manifest *manifest; /* docker-archive, else NULL */
	char digest[PULL_DIGEST_SIZE];  /* docker-archive: of the manifest */
};

struct pull_import;

/* Owns fd. The error says what the directory or file lacks. */
int pull_import_open(
        int fd, struct pull_import **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct pull_import *pull_import_free(struct pull_import *im);
struct pull_source *pull_import_source(struct pull_import *im); /* borrowed */
/* ref: takes the only image, or those of several that have this name; NULL takes all. */
int pull_import_list(struct pull_import *im, const char *ref, const struct pull_platform *platform,
        struct pull_found **ret, size_t *ret_n, struct berth_error **ret_err) BERTH_MUST_CHECK;
void pull_found_free(struct pull_found *v, size_t n);

#endif
