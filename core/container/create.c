/* CreateContainer and StartContainer as the loop sees them. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/container.h"
#include "cri/same.h"
#include "grpc/server.h"
#include "image/copy.h"
#include "image/image.h"
#include "image/shared.h"
#include "monitor/host.h"

struct waiter {
	struct waiter *next;
	struct berth_grpc_call *call;
	berth_pod_run_fn done;
	void *arg;
};

struct berth_ctr_create {
	struct berth_container *c;
	struct waiter *waiters;
	struct berth_error *err;
};

static void wait_for(
        struct berth_ctr_create *cr, struct berth_grpc_call *call, berth_pod_run_fn done, void *arg)
{
	struct waiter *w = berth_new(struct waiter);
	w->call = call;
	w->done = done;
	w->arg = arg;
	w->next = cr->waiters;
	cr->waiters = w;
}

static void create_work(void *arg)
{
	struct berth_ctr_create *cr = arg;
	if (berth_container_build(cr->c, &cr->err) < 0)
		return;
}

/* Forgotten, it would stay until the next start of the daemon, and its pod could go before it. So
 * it keeps its name, and its removal and its pod's undo it. */
static void keep(struct berth_container *c, const struct berth_error *why)
{
	c->failure = berth_strdup(why->msg);
	c->finished_ns = berth_realtime_ns();
	if (c->created_ns == 0)
		c->created_ns = c->finished_ns;
	c->phase = BERTH_CTR_EXITED;
	berth_changed(c->d, BERTH_CHANGE_STOPPED, c->id, c->pod);
}

static void create_end(struct berth_ctr_create *cr)
{
	struct berth_container *c = cr->c;
	struct berth_pod *pod = berth_pod_ref(c->pod);
	bool heard = false;

	c->creating = NULL;
	if (cr->err && c->undo_failed) {
		keep(c, cr->err);
	} else if (cr->err) {
		berth_containers_drop(c);
	} else {
		_cleanup_free_ char *bundle = berth_container_bundle(c);
		c->phase = BERTH_CTR_CREATED;
		berth_monitor_watch(c->pod->handler->instance, c->id, bundle);
		berth_container_check(c);
		berth_changed(c->d, BERTH_CHANGE_CREATED, c->id, c->pod);
		berth_log_info(
		        "container created", "container", c->id, "name", c->name, "pod", pod->id);
	}
	while (cr->waiters) {
		struct waiter *w = cr->waiters;
		cr->waiters = w->next;
		heard = heard || !berth_grpc_cancelled(w->call);
		w->done(c->id, cr->err, w->arg);
		free(w);
	}
	c->unclaimed = !heard;
	berth_gate_leave(&c->gate);
	berth_error_free(cr->err);
	berth_container_unref(c);
	berth_pod_unref(pod);
	free(cr);
}

static void create_done(void *arg)
{
	create_end(arg);
}

static void create_now(struct berth_ctr_create *cr)
{
	struct berth_daemon *d = cr->c->d;

	if (berth_work(d->flows, d->loop, create_work, create_done, cr) == 0)
		return;
	berth_error_set(&cr->err, BERTH_RESOURCE_EXHAUSTED,
	        "container %s: too many requests are under way", cr->c->name);
	create_end(cr);
}

static void relabel_work(void *arg)
{
	struct berth_ctr_create *cr = arg;
	if (berth_container_relabel(cr->c, &cr->err) < 0)
		berth_error_wrap(&cr->err, "container %s", cr->c->name);
}

static void relabel_done(void *arg)
{
	struct berth_ctr_create *cr = arg;

	if (cr->err && cr->err->code == BERTH_CANCELLED) {
		cr->err = berth_error_free(cr->err);
		if (berth_pod_check_ready(cr->c->pod, &cr->err) == 0)
			berth_error_set(&cr->err, BERTH_UNAVAILABLE, "berthd is shutting down");
		berth_error_wrap(&cr->err, "container %s", cr->c->name);
	}
	if (cr->err)
		create_end(cr);
	else
		create_now(cr);
}

/* Volumes of millions of files are nothing that other requests shall wait for: this is no flow. */
static void relabel_first(struct berth_ctr_create *cr)
{
	struct berth_daemon *d = cr->c->d;

	if (berth_work(d->relabels, d->loop, relabel_work, relabel_done, cr) == 0)
		return;
	berth_error_set(&cr->err, BERTH_RESOURCE_EXHAUSTED,
	        "container %s: too many volumes are being relabelled", cr->c->name);
	create_end(cr);
}

static void create_turn(void *arg);

static void brought(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg)
{
	struct berth_ctr_create *cr = arg;

	(void)images;
	(void)n;
	if (!err) {
		create_turn(cr); /* there may be more */
		return;
	}
	berth_error_set(&cr->err, err->code, "container %s: %s", cr->c->name, err->msg);
	create_end(cr);
}

static struct berth_image *find_image(struct berth_daemon *d, const char *id)
{
	struct berth_image *i;

	HASH_FIND_STR(d->images->by_id, id, i);
	return i ? i : berth_shared_by_id(d, id);
}

/* Brings the image where it is not in the driver: it may lie in another one, or in an image store.
 * 1: it is on the way. */
static int want_image(struct berth_ctr_create *cr, const char *id, struct berth_instance *storage,
        struct berth_error **ret_err)
{
	struct berth_container *c = cr->c;
	struct berth_image *i = find_image(c->d, id);

	if (!i)
		return berth_error_set(
		        ret_err, BERTH_NOT_FOUND, "container %s: image %s is gone", c->name, id);
	if (!i->store && berth_image_in(c->d, i, storage))
		return berth_image_usable(c->d, i, storage, ret_err) < 0
		               ? berth_error_wrap(ret_err, "container %s", c->name)
		               : 0;
	berth_image_bring(c->d, i, NULL, storage, NULL, brought, cr);
	return 1;
}

static void create_turn(void *arg)
{
	struct berth_ctr_create *cr = arg;
	struct berth_container *c = cr->c;
	int r = berth_pod_check_ready(c->pod, &cr->err);

	/* An end of the pod waits for this: it shall not wait for work that is for nothing. */
	if (r < 0)
		berth_error_wrap(&cr->err, "container %s", c->name);
	else
		r = want_image(cr, c->image_id, c->storage, &cr->err);
	for (size_t i = 0; r == 0 && i < c->n_volumes; i++) {
		struct berth_ctr_volume *v = &c->volumes[i];
		if (!v->storage)
			v->storage = c->storage;
		r = want_image(cr, v->image_id, v->storage, &cr->err);
	}
	if (r == 0 && berth_container_relabels(c))
		relabel_first(cr);
	else if (r == 0)
		create_now(cr);
	else if (r < 0)
		create_end(cr);
}

static bool needs_stores(struct berth_ctr_create *cr)
{
	struct berth_container *c = cr->c;
	size_t n_volumes = c->n_volumes;

	for (size_t i = 0; i <= n_volumes; i++) {
		struct berth_image *im =
		        find_image(c->d, i == 0 ? c->image_id : c->volumes[i - 1].image_id);
		struct berth_instance *in = i == 0 ? c->storage : c->volumes[i - 1].storage;
		size_t n = im ? json_array_size(json_object_get(im->record, "layers")) : 0;
		bool own = im && !im->store && in && berth_image_in(c->d, im, in);
		for (size_t k = 0; own && k < n; k++)
			own = !berth_image_external(c->d, im, in, k);
		if (!own)
			return true;
	}
	return false;
}

/* A store that does not answer must not be touched: it is asked first, within a deadline. */
static void create_gated(void *arg)
{
	struct berth_ctr_create *cr = arg;

	if (needs_stores(cr))
		berth_shared_check(cr->c->d, create_turn, cr);
	else
		create_turn(cr);
}

static void meet(struct berth_container *have, struct berth_container *fresh,
        struct berth_grpc_call *call, berth_pod_run_fn done, void *arg)
{
	struct berth_error *err = NULL;
	bool same = berth_cri_same(&have->config->base, &fresh->config->base);

	if (have->creating && same) {
		wait_for(have->creating, call, done, arg);
		return;
	}
	if (have->phase == BERTH_CTR_CREATED && have->unclaimed && same) {
		have->unclaimed = false;
		done(have->id, NULL, arg);
		return;
	}
	berth_error_set(&err, BERTH_ALREADY_EXISTS,
	        "container name \"%s\" is used in pod sandbox %s by %s", have->name, have->pod->id,
	        have->id);
	done(NULL, err, arg);
	berth_error_free(err);
}

static int resolve_image(struct berth_container *c, struct berth_error **ret_err)
{
	const Runtime__V1__ImageSpec *spec = c->config->image;
	struct berth_image *image = berth_image_find(c->d, spec->image, ret_err);

	if (!image)
		return *ret_err ? -1
		                : berth_error_set(ret_err, BERTH_NOT_FOUND,
		                          "container %s: image \"%s\" is not on this node", c->name,
		                          spec->image);
	const char *artifact = json_string_value(json_object_get(image->record, "artifact"));
	if (artifact)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "container %s: \"%s\" is an artifact (%.100s), not an image: it can be "
		        "mounted, not run",
		        c->name, spec->image, artifact);
	c->image_id = berth_strdup(image->id);
	c->parent = berth_strdup(berth_image_chain_id(image));
	c->image_ref = berth_strdup(spec->user_specified_image && *spec->user_specified_image
	                                    ? spec->user_specified_image
	                            : image->tags    ? image->tags[0]
	                            : image->digests ? image->digests[0]
	                                             : spec->image);
	return 0;
}

void berth_container_create(struct berth_pod *pod, const Runtime__V1__ContainerConfig *config,
        struct berth_grpc_call *call, berth_pod_run_fn done, void *arg)
{
	char id[BERTH_ID_LEN + 1];
	struct berth_error *err = NULL;

	berth_random_hex(id, BERTH_ID_LEN / 2);
	struct berth_container *c = berth_container_new(pod, id, config);
	if (berth_pod_check_ready(pod, &err) < 0) {
		berth_error_wrap(&err, "container %s", c->name);
		done(NULL, err, arg);
		berth_error_free(err);
		berth_container_unref(c);
		return;
	}
	for (struct berth_container *have = pod->containers; have; have = have->next) {
		if (strcmp(have->name, c->name) == 0) {
			meet(have, c, call, done, arg);
			berth_container_unref(c);
			return;
		}
	}
	if (!pod->handler)
		berth_error_set(&err, BERTH_FAILED_PRECONDITION,
		        "pod sandbox %s: its runtime handler \"%s\" is not configured any more",
		        pod->id, pod->handler_name);
	else
		c->storage = pod->handler->storage;
	if (err || berth_container_resolve_target(c, &err) < 0 || resolve_image(c, &err) < 0 ||
	        berth_container_resolve_volumes(c, &err) < 0 ||
	        berth_container_label(c, &err) < 0) {
		done(NULL, err, arg);
		berth_error_free(err);
		berth_container_unref(c);
		return;
	}
	struct berth_ctr_create *cr = berth_new(struct berth_ctr_create);
	cr->c = c; /* the reference of berth_container_new() */
	c->creating = cr;
	wait_for(cr, call, done, arg);
	berth_containers_add(c);
	berth_gate_enter(&c->gate, create_gated, cr);
}

/* ---- start ---- */

struct start {
	struct berth_container *c;
	struct berth_error *err;
	berth_done_fn done;
	void *arg;
};

/* A start that failed may have come as far as the program, or leaves the runtime's own init
 * waiting: the container is told to have ended, so nothing of it may run on. [worker] */
static void end_half_started(struct berth_container *c, const char *bundle)
{
	struct berth_ctr_args args = {
	        .size = sizeof(args), .id = c->id, .bundle = bundle, .signal = SIGKILL};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_KILL, c->id);
	struct berth_error *err = NULL;

	if (berth_call_run(call, &args, NULL, &err) == 0)
		return;
	if (err->code != BERTH_NOT_FOUND)
		berth_log_warn("what a failed start may have left was not killed", "container",
		        c->id, "error", err->msg);
	berth_error_free(err);
}

static void start_work(void *arg)
{
	struct start *s = arg;
	struct berth_container *c = s->c;
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_ctr_args args = {.size = sizeof(args), .id = c->id, .bundle = bundle};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_START, c->id);

	berth_fault("ctr-start-before");
	if (berth_call_run(call, &args, NULL, &s->err) < 0) {
		berth_error_wrap(&s->err, "container %s: start", c->id);
		end_half_started(c, bundle);
		return;
	}
	berth_fault("ctr-start-after");
	/* It runs, and that is what is told: killed, it would be lost for a record that nobody
	 * misses. The old one, "created", is whole, and a daemon that finds it asks the runtime, as
	 * it does where its predecessor died just above. */
	struct berth_error *err = NULL;
	if (berth_container_save(c, BERTH_CTR_RUNNING, &err) < 0) {
		berth_log_warn(
		        "a start was not written down", "container", c->id, "error", err->msg);
		berth_error_free(err);
	}
	berth_fault("ctr-started-after");
}

static void start_over(void *arg)
{
	struct start *s = arg;
	struct berth_container *c = s->c;
	s->done(s->err, s->arg);
	berth_gate_leave(&c->gate);
	berth_container_unref(c);
	berth_error_free(s->err);
	free(s);
}

static void save_failure(void *arg)
{
	struct start *s = arg;
	struct berth_error *err = NULL;
	if (berth_container_save(s->c, BERTH_CTR_EXITED, &err) < 0) {
		berth_log_warn("a failed start was not written down", "container", s->c->id,
		        "error", err->msg);
		berth_error_free(err);
	}
}

static void start_worked(void *arg)
{
	struct start *s = arg;
	struct berth_container *c = s->c;

	c->starting = false;
	if (s->err) {
		c->failure = berth_strdup(s->err->msg);
		c->finished_ns = berth_realtime_ns();
		c->phase = BERTH_CTR_EXITED;
		berth_changed(c->d, BERTH_CHANGE_STOPPED, c->id, c->pod);
		berth_container_check(c); /* who waits for its end */
		if (berth_work(c->d->flows, c->d->loop, save_failure, start_over, s) == 0)
			return;
	} else if (c->phase == BERTH_CTR_CREATED) {
		c->phase = BERTH_CTR_RUNNING;
		berth_changed(c->d, BERTH_CHANGE_STARTED, c->id, c->pod);
		berth_log_info("container started", "container", c->id, "name", c->name);
	}
	berth_container_check(c); /* a short one has ended meanwhile */
	start_over(s);
}

static void start_turn(void *arg)
{
	struct start *s = arg;
	struct berth_container *c = s->c;

	if (c->phase != BERTH_CTR_CREATED || !c->in_table)
		berth_error_set(&s->err, c->in_table ? BERTH_FAILED_PRECONDITION : BERTH_NOT_FOUND,
		        "container %s is %s: only a created one can be started", c->id,
		        !c->in_table                    ? "gone"
		        : c->phase == BERTH_CTR_RUNNING ? "running"
		                                        : "exited");
	else if (berth_pod_check_ready(c->pod, &s->err) < 0)
		berth_error_wrap(&s->err, "container %s", c->id);
	if (!s->err) {
		c->started_ns = berth_realtime_ns();
		c->starting = true;
		if (berth_work(c->d->flows, c->d->loop, start_work, start_worked, s) == 0)
			return;
		c->starting = false;
		berth_error_set(&s->err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: too many requests are under way", c->id);
	}
	start_over(s);
}

void berth_container_start(struct berth_container *c, berth_done_fn done, void *arg)
{
	struct start *s = berth_new(struct start);
	s->c = berth_container_ref(c);
	s->done = done;
	s->arg = arg;
	berth_gate_enter(&c->gate, start_turn, s);
}
