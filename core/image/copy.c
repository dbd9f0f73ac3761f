/* Images brought from one storage driver of the node into another, without a registry. It is a pull
 * whose layers come from the other driver (core/pull/copy.h); what goes on here is the reading
 * side.
 */
#include "image/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/shared.h"
#include "mount/mount.h"

static char *view_key(const struct pull_job *j, bool below)
{
	return berth_asprintf("%s-%s", j->layer->key, below ? "source-below" : "source");
}

void pull_source_release(struct berth_pull *p, struct pull_layer *l)
{
	static const char *const suffixes[] = {"source", "source-below"};

	for (size_t i = 0; l->viewed && i < BERTH_ARRAY_LEN(suffixes); i++) {
		_cleanup_free_ char *key = berth_asprintf("%s-%s", l->key, suffixes[i]);
		pull_drop_snapshot(p->from, key);
	}
	l->viewed = false;
}

/* ---- [worker] ---- */

/* Returns an fd. The layer's own directory where the driver describes an overlay, else all that is
 * seen of it. */
static int open_view(struct pull_job *j, const char *chain_id, bool below, char **ret_own)
{
	struct berth_pull *p = j->p;
	_cleanup_free_ char *key = view_key(j, below);
	struct berth_snap_args args = {.size = sizeof(args), .key = key, .parent = chain_id};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(p->from, BERTH_OP_STORAGE_VIEW, key);

	if (berth_call_run(c, &args, &res, &j->err) < 0)
		return -1;
	berth_fault("layer-source-viewed");
	if (ret_own && berth_mount_top_layer(&res, ret_own, &j->err) < 0)
		return -1;
	return ret_own && *ret_own ? berth_mount_clone_path(*ret_own, true, &j->err)
	                           : berth_mount_clone(&res, true, &j->err);
}

static int list_opaque(struct pull_job *j, const char *own)
{
	struct berth_buf paths = {0};
	_cleanup_close_ int fd = -1;

	int r = pull_opaque_dirs(own, &paths, &j->err);
	if (r == 0 && paths.len > 0) {
		fd = memfd_create("berth-opaque", MFD_CLOEXEC);
		r = fd < 0 ? -errno : berth_write_all(fd, paths.data, paths.len);
		if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
			r = -errno;
		if (r < 0)
			berth_error_errno(&j->err, r, "a list of directories");
	}
	berth_buf_finish(&paths);
	j->opaque_fd = r == 0 ? berth_take_fd(&fd) : -1;
	return r;
}

static void source_work(void *arg)
{
	struct pull_job *j = arg;
	_cleanup_free_ char *own = NULL;

	j->layer->viewed = true;
	/* An image store's layers hold nothing but files: of an opaque mark is made what it means.
	 */
	j->fd = open_view(j, j->layer->chain_id, false, j->p->export ? NULL : &own);
	if (j->fd < 0) {
		berth_error_wrap(&j->err, "%s: layer %zu", j->p->key, j->n + 1);
		return;
	}
	int r = 0;
	if (own)
		r = list_opaque(j, own);
	else if (j->parent)
		r = j->below_fd = open_view(j, j->parent, true, NULL);
	if (r < 0)
		berth_error_wrap(&j->err, "%s: layer %zu", j->p->key, j->n + 1);
}

/* ---- [loop] ---- */

static void send_part(struct pull_job *j, const char *part, int fd)
{
	if (fd >= 0 && !j->p->over)
		pull_send(j->p,
		        json_pack("{s:s, s:I, s:s}", "t", "source", "n", (json_int_t)j->n, "part",
		                part),
		        fd);
}

static void source_done(void *arg)
{
	struct pull_job *j = arg;

	if (!j->err) {
		send_part(j, "below", j->below_fd);
		send_part(j, "opaque", j->opaque_fd);
		send_part(j, "top", j->fd);
	}
	berth_close(j->below_fd);
	berth_close(j->opaque_fd);
}

void pull_source(struct berth_pull *p, size_t n)
{
	struct pull_layer *l = &p->layers[n];

	if (!p->from || l->sourced || l->state >= LAYER_UNPACKED) {
		struct berth_error *err = NULL;
		berth_error_set(&err, BERTH_INTERNAL,
		        "%s: berth-pull wants to read layer %zu, which it may not", p->key, n + 1);
		pull_fail(p, err);
		return;
	}
	l->sourced = true;
	pull_start_job(p, n, source_work, source_done, -1);
}

json_t *pull_copy_packet(const struct berth_pull *p)
{
	return json_pack("{s:s, s:I}", "t", "copy", "layers", (json_int_t)p->n_layers);
}

/* ---- joining ---- */

static struct berth_pull *find_same(
        struct berth_daemon *d, const struct berth_image *i, const struct berth_instance *to)
{
	for (struct berth_pull *p = d->images->pulls; p; p = p->next)
		if (!p->over && !p->export && p->copied == i && p->storage == to)
			return p;
	return NULL;
}

static void advance(void *arg)
{
	struct berth_pull *p = arg;
	p->jobs--;
	pull_advance(p);
}

/* Of what an image store has, nothing is to be read. */
static bool all_here(struct berth_pull *p)
{
	bool all = true;

	for (size_t i = 0; i < p->n_layers; i++)
		all = pull_layer_here(p, &p->layers[i]) && all;
	return all;
}

/* Why an image that only a store has cannot be used here. */
static int refuse_shared(const struct berth_pull *p, struct berth_error **ret_err)
{
	const struct berth_image *i = p->copied;

	for (size_t n = 0; n < p->n_layers; n++) {
		const char *chain = p->layers[n].chain_id;
		_cleanup_free_ char *at = berth_shared_layer(p->d, chain);
		if (at || berth_layer_known(p->d, p->storage, chain))
			continue;
		(void)!berth_shared_why_not(p->d, chain, ret_err);
		return berth_error_wrap(ret_err, "image %s", i->id);
	}
	if (p->d->images->removals > 0)
		return berth_error_set(ret_err, BERTH_UNAVAILABLE,
		        "image %s: images are being removed from this node", i->id);
	return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
	        "image %s lies in the image store %s, and %s takes no layers that lie elsewhere",
	        i->id, i->store, berth_instance_name(p->storage));
}

static int begin(struct berth_pull *p, struct berth_error **ret_err)
{
	p->copied->copies++;
	if (p->d->draining)
		return berth_error_set(ret_err, BERTH_UNAVAILABLE, "berthd is shutting down");
	if (pull_set_layers(p, json_object_get(p->copied->record, "layers"), ret_err) < 0)
		return -1;
	p->record = json_incref(p->copied->record);
	if (p->d->images->removals == 0 && all_here(p)) {
		p->ended = p->have_asked = true; /* no process is needed */
		p->jobs++;
		berth_loop_post(p->d->loop, advance, p);
		return 0;
	}
	if (!p->from && p->copied->store)
		return refuse_shared(p, ret_err);
	if (!p->from)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "%s: no storage driver has all of its layers", p->key);
	for (size_t i = 0; i < p->n_layers; i++) { /* asked again by the process */
		free(berth_take(p->layers[i].external));
		p->layers[i].state = LAYER_WAITING;
	}
	if (pull_start(p, ret_err) < 0)
		return -1;
	const struct berth_pull_request none = {.import_fd = -1};
	pull_send(p, pull_first_packet(p, &none), -1);
	return 0;
}

struct berth_pull_part *berth_image_bring(struct berth_daemon *d, struct berth_image *i,
        struct berth_instance *from, struct berth_instance *to, berth_pull_progress_fn progress,
        berth_image_fn fn, void *arg)
{
	struct berth_error *err = NULL;
	struct berth_pull *p = find_same(d, i, to);

	if (!p) {
		p = pull_new(d, to);
		p->copied = berth_image_ref(i);
		p->from = from ? from : i->store ? NULL : berth_image_home(d, i, NULL);
		p->key = berth_asprintf("copy of %s from %s to %s", i->id,
		        p->from ? berth_instance_name(p->from) : "nowhere",
		        berth_instance_name(to));
		if (begin(p, &err) < 0) {
			pull_discard(p);
			return berth_pull_refuse(d, err, fn, arg);
		}
	}
	return pull_take_part(p, progress, fn, arg);
}
