/* The files of an image on disk: a directory, or a tar archive (plain, gzip or zstd), read in place
 * and never written out. */
#ifndef BERTH_PULL_FILES_H
#define BERTH_PULL_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "pull/source.h"

#define BERTH_LIMIT_IMPORT_FILES 65536 /* entries of an archive of images */

struct pull_files;

/* Owns fd, a directory or a regular file. */
int pull_files_open(int fd, struct pull_files **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct pull_files *pull_files_free(struct pull_files *f);
/* [any] The size of a regular file (links within are followed); -1 where there is none. */
int64_t pull_files_size(struct pull_files *f, const char *name);
/* [any] NOT_FOUND where there is none; CANCELLED where the sink ended it. */
int pull_files_stream(struct pull_files *f, const char *name, pull_sink sink, void *arg,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* A whole file of at most `max` bytes, NUL-terminated; the caller frees it. */
int pull_files_read(struct pull_files *f, const char *name, size_t max, char **ret, size_t *ret_len,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
