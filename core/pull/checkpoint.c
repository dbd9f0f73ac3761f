#include "pull/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "pull/copy.h"
#include "pull/emit.h"
#include "pull/pathset.h"
#include "pull/protocol.h"

#define OPAQUE_BYTES BERTH_MIB(64)
#define BUFFER BERTH_KIB(256)
#define MAPS_MAX 4096

/* Where a stream goes. */
struct file {
	int fd;
	char *buf;
	size_t n;
	int errnum;
	json_t *deleted;
};

static int flush(struct file *f)
{
	int r = berth_write_all(f->fd, f->buf, f->n);
	f->n = 0;
	if (r < 0)
		f->errnum = -r;
	return r < 0 ? -1 : 0;
}

static int write_piece(void *arg, const void *p, size_t n)
{
	struct file *f = arg;

	for (const char *from = p; n > 0;) {
		size_t part = BUFFER - f->n < n ? BUFFER - f->n : n;
		memcpy(f->buf + f->n, from, part);
		f->n += part;
		from += part;
		n -= part;
		if (f->n == BUFFER && flush(f) < 0)
			return -1;
	}
	return 0;
}

/* Paths as others write them: from the container's root on. */
static int note_deleted(void *arg, const char *path, struct berth_error **ret_err)
{
	struct file *f = arg;
	_cleanup_free_ char *whole = berth_asprintf("/%s", path);
	json_t *name = json_string(whole);

	if (!name)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "a name that is no UTF-8 was deleted, and cannot be written down");
	json_array_append_new(f->deleted, name);
	return 0;
}

static int emit_into(
        struct file *f, struct pull_emit *e, const char *what, struct berth_error **ret_err)
{
	e->sink = write_piece;
	e->arg = f;
	f->buf = berth_zalloc(BUFFER);
	int r = pull_emit(e, ret_err);
	if (r == 0)
		r = flush(f);
	free(berth_take(f->buf));
	if (f->errnum) { /* then the error at hand says no more than that the stream ended */
		*ret_err = berth_error_free(*ret_err);
		return berth_error_errno(ret_err, f->errnum, "write %s", what);
	}
	return r < 0 ? berth_error_wrap(ret_err, "%s", what) : 0;
}

static int write_deleted(int work, const json_t *list, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = json_dumps(list, JSON_COMPACT);

	if (json_array_size(list) == 0)
		return 0;
	if (!text)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED, "deleted.files");
	_cleanup_close_ int fd =
	        openat(work, "deleted.files", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : berth_write_all(fd, text, strlen(text));
	return r < 0 ? berth_error_errno(ret_err, r, "write deleted.files") : 0;
}

static size_t read_maps(const json_t *list, struct pull_owners **ret)
{
	size_t i, n = json_array_size(list);
	json_t *m;

	if (n > MAPS_MAX)
		n = MAPS_MAX;
	*ret = berth_new_array(struct pull_owners, n + 1);
	json_array_foreach ((json_t *)(uintptr_t)list, i, m) {
		if (i == n)
			break;
		uint32_t *to[] = {&(*ret)[i].inside, &(*ret)[i].outside, &(*ret)[i].count};
		for (size_t k = 0; k < BERTH_ARRAY_LEN(to); k++)
			*to[k] = (uint32_t)json_integer_value(json_array_get(m, k));
	}
	return n;
}

static int read_opaque(int fd, struct pull_pathset **ret, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = berth_read_fd(fd, OPAQUE_BYTES, &text, &len);

	if (r < 0)
		return berth_error_errno(ret_err, r, "read the list of opaque directories");
	*ret = pull_copy_paths(text, len);
	return 0;
}

static int write_diff(int work, struct pull_emit *e, struct berth_error **ret_err)
{
	struct file f = {.deleted = json_array()};

	f.fd = openat(work, "rootfs-diff.tar", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = f.fd < 0 ? berth_error_errno(ret_err, errno, "rootfs-diff.tar")
	                 : emit_into(&f, e, "rootfs-diff.tar", ret_err);
	berth_close(f.fd);
	if (r == 0)
		r = write_deleted(work, f.deleted, ret_err);
	json_decref(f.deleted);
	return r;
}

/* The layer as the driver has it, less what is mounted over. */
static int diff(
        const struct pull_session *s, int work, const json_t *first, struct berth_error **ret_err)
{
	struct pull_pathset *skip = pull_pathset_new(), *opaque = NULL;
	struct pull_owners *uids, *gids;
	struct pull_layer_source src;
	size_t i;
	json_t *path;

	json_array_foreach (json_object_get(first, "skip"), i, path)
		pull_pathset_add(skip, json_string_value(path));
	struct pull_emit e = {.skip = skip, .deleted = note_deleted};
	e.n_uids = read_maps(json_object_get(first, "uids"), &uids);
	e.n_gids = read_maps(json_object_get(first, "gids"), &gids);
	e.uids = uids;
	e.gids = gids;
	pull_wire_wait_source(s->wire, 0, &src);
	int r = src.opaque < 0 ? 0 : read_opaque(src.opaque, &opaque, ret_err);
	e.top = src.top;
	e.opaque = opaque;
	/* Its own directory says what was changed; else that is what differs from the image. */
	bool own = json_is_true(json_object_get(first, "own"));
	e.below = own ? -1 : src.below;
	e.hidden = own ? src.below : -1;
	if (r == 0)
		r = write_diff(work, &e, ret_err);
	berth_close(src.top);
	berth_close(src.below);
	berth_close(src.opaque);
	pull_pathset_free(skip);
	pull_pathset_free(opaque);
	free(uids);
	free(gids);
	return r;
}

static int pack(int work, int to, struct berth_error **ret_err)
{
	_cleanup_close_ int own = to;
	struct file f = {.fd = own};
	struct pull_emit e = {.top = work, .below = -1};

	if (emit_into(&f, &e, "the archive", ret_err) < 0)
		return -1;
	return fsync(own) < 0 ? berth_error_errno(ret_err, errno, "write the archive") : 0;
}

int pull_checkpoint_run(
        const struct pull_session *s, int work, const json_t *first, struct berth_error **ret_err)
{
	if (diff(s, work, first, ret_err) < 0 ||
	        pull_wire_send(s->wire, json_pack("{s:s}", "t", "diffed"), -1, ret_err) < 0 ||
	        pack(work, pull_wire_wait_dir(s->wire, 0), ret_err) < 0)
		return -1;
	return pull_wire_send(s->wire, json_pack("{s:s}", "t", "exported"), -1, ret_err);
}
