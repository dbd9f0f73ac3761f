#include "pull/layer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/artifact.h"
#include "pull/decode.h"
#include "pull/kept.h"
#include "pull/protocol.h"
#include "pull/queue.h"
#include "pull/unpack.h"

#define PROGRESS_NS 100000000u /* ten packets a second */

struct run {
	const struct pull_layer *l;
	struct pull_wire *wire;
	enum pull_whiteout whiteout;
	struct pull_queue *queue;
	/* the reading side */
	struct pull_source *source;
	struct pull_decoder *decoder;
	struct pull_hasher *blob;
	struct pull_kept *kept; /* or NULL */
	uint64_t done, told_ns;
	struct berth_error *feed_err;
	/* the unpacking side */
	struct pull_hasher *tar;
	struct pull_unpacked unpacked;
};

static int tell(struct run *r, struct berth_error **ret_err)
{
	uint64_t now = berth_now_ns();

	if (now - r->told_ns < PROGRESS_NS)
		return 0;
	r->told_ns = now;
	return pull_wire_send(r->wire,
	        json_pack("{s:s, s:I, s:I, s:I}", "t", "progress", "n", (json_int_t)r->l->n, "done",
	                (json_int_t)r->done, "total", (json_int_t)r->l->desc->size),
	        -1, ret_err);
}

/* The next bytes, from wherever they come. */
static int take(struct run *r, const void *p, size_t n, struct pull_kept *keep)
{
	const struct pull_desc *d = r->l->desc;

	r->done += n;
	if (!d->path && r->done > d->size)
		return berth_error_set(&r->feed_err, BERTH_DATA_LOSS,
		        "the blob is longer than the manifest's %llu bytes",
		        (unsigned long long)d->size);
	pull_hasher_update(r->blob, p, n);
	pull_kept_add(keep, p, n, r->blob);
	if (pull_decoder_feed(r->decoder, p, n, &r->feed_err) < 0)
		return -1;
	return tell(r, &r->feed_err);
}

static int take_kept(void *arg, const void *p, size_t n)
{
	return take(arg, p, n, NULL);
}

static int take_new(void *arg, const void *p, size_t n)
{
	struct run *r = arg;
	return take(r, p, n, r->kept);
}

static int check_blob(struct run *r, struct berth_error **ret_err)
{
	char digest[PULL_DIGEST_SIZE];
	const struct pull_desc *d = r->l->desc;

	if (d->path)
		return 0;
	if (r->done != d->size)
		return berth_error_set(ret_err, BERTH_DATA_LOSS,
		        "the blob has %llu bytes, the manifest says %llu",
		        (unsigned long long)r->done, (unsigned long long)d->size);
	pull_hasher_final(r->blob, digest);
	if (strcmp(digest, d->digest) != 0)
		return berth_error_set(
		        ret_err, BERTH_DATA_LOSS, "the content's digest is %s", digest);
	return 0;
}

static int stream_blob(struct run *r, struct pull_source *source, struct berth_error **ret_err)
{
	const struct pull_desc *d = r->l->desc;
	struct berth_error *err = NULL;
	int result = 0, fd;

	if (source->remote && pull_wire_wait_fetch(r->wire, r->l->n, &fd))
		r->kept = pull_kept_new(fd, d);
	int64_t from = pull_kept_replay(r->kept, take_kept, r);
	if (from < 0)
		result = -1;
	else if (d->path || from == 0 || (uint64_t)from < d->size)
		result = source->stream(source, d, (uint64_t)from, take_new, r, &err);
	if (result < 0 && r->feed_err) {
		berth_error_free(err);
		return berth_error_move(ret_err, &r->feed_err);
	}
	return result < 0 ? berth_error_move(ret_err, &err) : 0;
}

/* An artifact's blob is a file: a tar stream is made around it. */
static int wrap(struct run *r, bool before, struct berth_error **ret_err)
{
	size_t len;

	if (!r->l->file)
		return 0;
	if (before)
		pull_decoder_plain(r->decoder);
	_cleanup_free_ char *part = before ? pull_artifact_head(r->l->file, r->l->desc->size, &len)
	                                   : pull_artifact_tail(r->l->desc->size, &len);
	return pull_decoder_feed(r->decoder, part, len, ret_err);
}

static int read_blob(void *arg, struct berth_error **ret_err)
{
	struct run *r = arg;
	int result = wrap(r, true, ret_err);

	if (result == 0)
		result = stream_blob(r, r->source, ret_err);
	if (result < 0)
		pull_kept_mark(r->kept, r->blob);
	/* A wrong digest is the cause, a stream that does not decompress its effect. */
	else if (check_blob(r, ret_err) == 0)
		return wrap(r, false, ret_err) < 0 ? -1 : pull_decoder_finish(r->decoder, ret_err);
	if ((*ret_err)->code == BERTH_DATA_LOSS)
		pull_kept_forget(r->kept);
	return -1;
}

static ssize_t next_piece(void *arg, const void **ret)
{
	struct run *r = arg;
	ssize_t n = pull_queue_read(r->queue, ret);

	if (n > 0)
		pull_hasher_update(r->tar, *ret, (size_t)n);
	return n;
}

static int mark_opaque(void *arg, int dirfd, struct berth_error **ret_err)
{
	struct run *r = arg;
	return pull_wire_send(r->wire,
	        json_pack("{s:s, s:I}", "t", "opaque", "n", (json_int_t)r->l->n), dirfd, ret_err);
}

static int unpack(void *arg, struct berth_error **ret_err)
{
	struct run *r = arg;
	struct pull_unpack_opts o = {
	        .tree = {.whiteout = r->whiteout, .opaque = mark_opaque, .arg = r},
	        .read = next_piece,
	        .read_arg = r,
	};
	_cleanup_close_ int dir = pull_wire_wait_dir(r->wire, r->l->n);
	const void *rest;
	ssize_t n;

	if (pull_unpack(dir, &o, &r->unpacked, ret_err) < 0)
		return -1;
	/* The DiffID is of the whole stream, with what follows the archive's end. */
	while ((n = next_piece(r, &rest)) > 0)
		;
	if (n < 0)
		return berth_error_set(ret_err, BERTH_CANCELLED, "the stream ended too early");
	char diff_id[PULL_DIGEST_SIZE];
	if (r->l->file)
		return 0; /* the blob's digest says it all */
	pull_hasher_final(r->tar, diff_id);
	if (strcmp(diff_id, r->l->diff_id) != 0)
		return berth_error_set(ret_err, BERTH_DATA_LOSS,
		        "the unpacked content's digest is %s, the image's config says %s", diff_id,
		        r->l->diff_id);
	return 0;
}

int pull_layer_report(struct pull_wire *wire, size_t n, const struct pull_unpacked *u,
        struct berth_error **ret_err)
{
	json_t *p = json_pack("{s:s, s:I, s:I, s:I, s:I}", "t", "unpacked", "n", (json_int_t)n,
	        "bytes", (json_int_t)u->bytes, "inodes", (json_int_t)u->inodes, "implied",
	        (json_int_t)u->n_implied);

	if (u->n_implied == 0)
		return pull_wire_send(wire, p, -1, ret_err);
	return pull_wire_send_memfd(wire, p, "berth-implied", u->implied, u->implied_len, ret_err);
}

int pull_layer_ask(struct pull_wire *wire, const char *what, size_t n, struct berth_error **ret_err)
{
	return pull_wire_send(
	        wire, json_pack("{s:s, s:I}", "t", what, "n", (json_int_t)n), -1, ret_err);
}

int pull_layer_run(const struct pull_layer *l, struct pull_source *source, struct pull_wire *wire,
        enum pull_whiteout whiteout, struct berth_error **ret_err)
{
	struct run r = {.l = l, .wire = wire, .whiteout = whiteout, .source = source};

	int result = pull_layer_ask(wire, "open", l->n, ret_err);
	if (result == 0 && source->remote)
		result = pull_layer_ask(wire, "fetch", l->n, ret_err);
	if (result == 0) {
		r.queue = pull_queue_new();
		r.decoder = pull_decoder_new(r.queue);
		r.blob = pull_hasher_new();
		r.tar = pull_hasher_new();
		result = pull_queue_run(r.queue, read_blob, unpack, &r, ret_err);
		if (result == 0)
			result = pull_layer_report(wire, l->n, &r.unpacked, ret_err);
		pull_decoder_free(r.decoder);
		pull_kept_free(r.kept);
		pull_hasher_free(r.blob);
		pull_hasher_free(r.tar);
		pull_queue_free(r.queue);
	}
	free(r.unpacked.implied);
	berth_error_free(r.feed_err);
	if (result < 0)
		berth_error_wrap(ret_err, "layer %zu %s", l->n + 1,
		        l->desc->path ? l->desc->path : l->desc->digest);
	return result;
}
