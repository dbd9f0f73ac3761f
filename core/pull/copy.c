#include "pull/copy.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "pull/each.h"
#include "pull/emit.h"
#include "pull/layer.h"
#include "pull/protocol.h"
#include "pull/queue.h"
#include "pull/unpack.h"

#define PROGRESS_NS 100000000u /* ten packets a second */
#define OPAQUE_BYTES BERTH_MIB(64)

struct run {
	const struct pull_session *s;
	size_t n;
	int dir; /* where it goes; -1: berthd says it */
	struct pull_queue *queue;
	char *out;
	size_t out_len, out_cap;
	uint64_t done, told_ns;
	struct pull_unpacked unpacked;
	struct berth_error *emit_err;
};

/* ---- the writing side ---- */

static int tell(struct run *r)
{
	uint64_t now = berth_now_ns();

	if (now - r->told_ns < PROGRESS_NS)
		return 0;
	r->told_ns = now;
	return pull_wire_send(r->s->wire,
	        json_pack("{s:s, s:I, s:I, s:I}", "t", "progress", "n", (json_int_t)r->n, "done",
	                (json_int_t)r->done, "total", (json_int_t)0),
	        -1, &r->emit_err);
}

static int into_queue(void *arg, const void *p, size_t n)
{
	struct run *r = arg;
	const char *from = p;

	r->done += n;
	while (n > 0) {
		if (r->out && r->out_len == r->out_cap) {
			pull_queue_commit(r->queue, r->out_len);
			r->out = NULL;
		}
		if (!r->out) {
			r->out = pull_queue_reserve(r->queue, &r->out_cap);
			r->out_len = 0;
		}
		if (!r->out)
			return -1;
		size_t part = r->out_cap - r->out_len < n ? r->out_cap - r->out_len : n;
		memcpy(r->out + r->out_len, from, part);
		r->out_len += part;
		from += part;
		n -= part;
	}
	return tell(r);
}

struct pull_pathset *pull_copy_paths(const char *text, size_t len)
{
	struct pull_pathset *set = pull_pathset_new();

	/* berth_read_fd() ends it with a NUL. */
	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		pull_pathset_add(set, p);
	return set;
}

static int read_layer(void *arg, struct berth_error **ret_err)
{
	struct run *r = arg;
	struct pull_layer_source src;
	_cleanup_free_ char *text = NULL;
	struct pull_pathset *opaque = NULL;
	size_t len = 0;
	int result = 0;

	pull_wire_wait_source(r->s->wire, r->n, &src);
	if (src.opaque >= 0) {
		result = berth_read_fd(src.opaque, OPAQUE_BYTES, &text, &len);
		if (result < 0)
			berth_error_errno(ret_err, result, "read the list of opaque directories");
		else
			opaque = pull_copy_paths(text, len);
	}
	struct pull_emit e = {
	        .top = src.top, .below = src.below, .opaque = opaque, .sink = into_queue, .arg = r};
	if (result == 0)
		result = pull_emit(&e, ret_err);
	if (result == 0 && r->out && r->out_len > 0)
		pull_queue_commit(r->queue, r->out_len);
	pull_pathset_free(opaque);
	/* The other driver may let go of it once the layer is reported. */
	berth_close(src.top);
	berth_close(src.below);
	berth_close(src.opaque);
	if (result < 0 && r->emit_err) {
		*ret_err = berth_error_free(*ret_err);
		return berth_error_move(ret_err, &r->emit_err);
	}
	return result;
}

/* ---- the unpacking side ---- */

static ssize_t next_piece(void *arg, const void **ret)
{
	struct run *r = arg;
	return pull_queue_read(r->queue, ret);
}

static int mark_opaque(void *arg, int dirfd, struct berth_error **ret_err)
{
	struct run *r = arg;
	return pull_wire_send(r->s->wire,
	        json_pack("{s:s, s:I}", "t", "opaque", "n", (json_int_t)r->n), dirfd, ret_err);
}

static int unpack(void *arg, struct berth_error **ret_err)
{
	struct run *r = arg;
	struct pull_unpack_opts o = {
	        .tree = {.whiteout = r->s->whiteout, .opaque = mark_opaque, .arg = r},
	        .read = next_piece,
	        .read_arg = r,
	};
	_cleanup_close_ int dir =
	        r->dir >= 0 ? berth_take_fd(&r->dir) : pull_wire_wait_dir(r->s->wire, r->n);
	const void *rest;

	if (pull_unpack(dir, &o, &r->unpacked, ret_err) < 0)
		return -1;
	while (pull_queue_read(r->queue, &rest) > 0)
		;
	return 0;
}

static int copy_to(const struct pull_session *s, size_t n, int dir, struct berth_error **ret_err)
{
	struct run r = {.s = s, .n = n, .dir = dir};

	int result = pull_layer_ask(s->wire, "source", n, ret_err);
	if (result == 0) {
		r.queue = pull_queue_new();
		result = pull_queue_run(r.queue, read_layer, unpack, &r, ret_err);
		pull_queue_free(r.queue);
	}
	if (result == 0 && dir < 0)
		result = pull_layer_report(s->wire, n, &r.unpacked, ret_err);
	berth_close(r.dir);
	free(r.unpacked.implied);
	berth_error_free(r.emit_err);
	return result < 0 ? berth_error_wrap(ret_err, "layer %zu", n + 1) : 0;
}

int pull_copy_into(const struct pull_session *s, size_t n, int dir, struct berth_error **ret_err)
{
	return copy_to(s, n, dir, ret_err);
}

static int copy_one(void *arg, size_t n, struct berth_error **ret_err)
{
	const struct pull_session *s = arg;
	return pull_layer_ask(s->wire, "open", n, ret_err) < 0 ? -1 : copy_to(s, n, -1, ret_err);
}

int pull_copy_run(const struct pull_session *s, size_t n, struct berth_error **ret_err)
{
	bool *have = NULL;

	if (n > BERTH_LIMIT_IMAGE_LAYERS)
		return berth_error_set(ret_err, BERTH_INTERNAL, "%zu layers to copy", n);
	if (pull_wire_send(s->wire, json_pack("{s:s}", "t", "layers"), -1, ret_err) < 0 ||
	        pull_wire_wait_have(s->wire, n, &have, ret_err) < 0)
		return -1;
	const struct pull_each each = {.wire = s->wire,
	        .parallel = s->parallel,
	        .n = n,
	        .have = have,
	        .run = copy_one,
	        .arg = (void *)(uintptr_t)s};
	int r = pull_each_run(&each, ret_err);
	free(have);
	if (r == 0)
		pull_wire_wait_stored(s->wire);
	return r;
}
