/* An image store that several nodes read, as a rule over a network file system:
 *
 *   DIR/current                 a link to generations/N
 *   DIR/generations/N/index.json  what images there are
 *   DIR/layers/HEX/fs           a layer's content, HEX its ChainID: as overlay has it, whiteouts
 * without opaque marks, so that it takes no extended attributes
 *   DIR/new/...                 what is being written
 *
 * A layer never changes. A new generation names what there is from then on, and is there as a whole
 * or not at all. index.json: {"v":1, "images": [{"record", "tags", "digests"}...], "xattrs":
 * {CHAIN_ID: {"path","name"}...}}; a record as in protocol.h; of a layer that has extended
 * attributes one is named: where it does not show, the file system loses them, and the layer must
 * not be used. */
#ifndef BERTH_PULL_SHARED_H
#define BERTH_PULL_SHARED_H

#include <jansson.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

#define PULL_SHARED_INDEX BERTH_MIB(64)
#define PULL_SHARED_IMAGES 4096
#define PULL_SHARED_NAMES 1024                   /* tags, and digests, of one image */
#define PULL_SHARED_GENERATION 64                /* bytes of a generation's name */
#define PULL_SHARED_TOLD (2 * PULL_SHARED_INDEX) /* of what is told of one */

/* What it parsed, checked as far as that goes without looking at the layers: forms, limits, and
 * that each ChainID is that of its DiffIDs. A new reference. */
int pull_shared_parse(
        const char *text, size_t len, json_t **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Who is to know that the store answers; `heard` [any]. */
struct pull_shared_ear {
	void (*heard)(void *arg);
	void *arg;
};

/* Reads DIR/current and the index there. `name` is the generation's; `ear` may be NULL.
 * [berth-pull] */
int pull_shared_open(int dir, char name[PULL_SHARED_GENERATION + 1],
        struct berth_error **ret_err) BERTH_MUST_CHECK;
int pull_shared_read(int dir, const char *name, const struct pull_shared_ear *ear, json_t **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* What is told goes through memfds: reading one waits for nothing. NULL where fd is -1, or has no
 * JSON. A new reference. */
static inline json_t *pull_shared_told(int fd)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	if (fd < 0 || lseek(fd, 0, SEEK_SET) < 0 ||
	        berth_read_fd(fd, PULL_SHARED_TOLD, &text, &len) < 0)
		return NULL;
	return json_loadb(text, len, 0, NULL);
}

/* {"t":"shared"}: tells berthd what the store has. `fd`: what was told last, of the generation
 * `known`. */
struct pull_wire;
int pull_shared_tell(struct pull_wire *w, const char *path, const char *known, int fd,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

struct pull_session;
/* {"t":"export"}: writes an image into the store open as `dir`. */
int pull_export_run(const struct pull_session *s, int dir, const json_t *first,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
