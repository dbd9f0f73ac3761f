/* berth.admin.v1: what a node does with the images of its storage drivers. */
#include "cri/service.h"

#include <stdlib.h>
#include <string.h>

#include "admin.pb-c.h"
#include "base/fd.h"
#include "image/copy.h"
#include "mount/mount.h"

#define PROGRESS_MS 100

struct migration {
	struct berth_daemon *d;
	struct berth_grpc_call *call;
	struct berth_instance *from, *to; /* or NULL: */
	char *path;                       /* an image store */
	int dir;                          /* of the image at hand */
	bool opening, left;
	struct berth_error *err;
	struct berth_image **images;
	size_t n, at;
	struct berth_pull_part *part;
	uint64_t bytes[BERTH_LIMIT_IMAGE_LAYERS], done_bytes; /* of the image at hand */
	uint64_t told_ns;
};

static void migration_free(struct migration *m)
{
	for (size_t i = 0; i < m->n; i++)
		berth_image_unref(m->images[i]);
	free(m->images);
	berth_close(m->dir);
	berth_error_free(m->err);
	free(m->path);
	free(m);
}

static void tell(struct migration *m, enum _Berth__Admin__V1__MigrateState state)
{
	Berth__Admin__V1__MigrateProgress p = BERTH__ADMIN__V1__MIGRATE_PROGRESS__INIT;

	p.image_id = m->images[m->at]->id;
	p.reference = m->images[m->at]->tags ? m->images[m->at]->tags[0] : (char *)"";
	p.state = state;
	p.done_bytes = m->done_bytes;
	p.image = (uint32_t)m->at + 1;
	p.images = (uint32_t)m->n;
	/* A client that does not read gets fewer messages, not a longer queue. */
	if (state == BERTH__ADMIN__V1__MIGRATE_STATE__MIGRATE_COPYING &&
	        berth_grpc_queued(m->call) > 0)
		return;
	(void)!berth_grpc_send(m->call, &p.base);
}

static void on_progress(
        unsigned int layer, const char *digest, uint64_t done, uint64_t total, void *arg)
{
	struct migration *m = arg;
	uint64_t now = berth_now_ns();

	(void)digest;
	/* The last word on a layer has its compressed size, the others what was read of it. */
	if (layer >= BERTH_LIMIT_IMAGE_LAYERS || total || done < m->bytes[layer])
		return;
	m->done_bytes += done - m->bytes[layer];
	m->bytes[layer] = done;
	if (now - m->told_ns < PROGRESS_MS * 1000000ull)
		return;
	m->told_ns = now;
	tell(m, BERTH__ADMIN__V1__MIGRATE_STATE__MIGRATE_COPYING);
}

static void go_on(struct migration *m);

static void copied(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg)
{
	struct migration *m = arg;

	(void)images;
	(void)n;
	m->part = NULL;
	if (!err) {
		tell(m, BERTH__ADMIN__V1__MIGRATE_STATE__MIGRATE_COPIED);
		m->at++;
		go_on(m);
		return;
	}
	berth_grpc_on_cancel(m->call, NULL, NULL);
	berth_grpc_fail(m->call, err);
	migration_free(m);
}

/* Opening may wait for a file system: never on the loop. */
static void open_work(void *arg)
{
	struct migration *m = arg;
	m->dir = berth_mount_clone_path(m->path, true, &m->err);
}

static void give_up(struct migration *m)
{
	berth_grpc_on_cancel(m->call, NULL, NULL);
	berth_grpc_fail(m->call, m->err);
	migration_free(m);
}

static void opened(void *arg)
{
	struct migration *m = arg;

	m->opening = false;
	if (m->left && !m->err)
		berth_error_set(&m->err, BERTH_CANCELLED, "the export was given up");
	if (m->err) {
		give_up(m);
		return;
	}
	m->part = berth_image_export(
	        m->d, m->images[m->at], berth_take_fd(&m->dir), on_progress, copied, m);
}

static void export_one(struct migration *m)
{
	m->opening = true;
	if (berth_work(m->d->flows, m->d->loop, open_work, opened, m) == 0)
		return;
	berth_error_set(&m->err, BERTH_RESOURCE_EXHAUSTED,
	        "export to %s: too many requests are under way", m->path);
	berth_loop_post(m->d->loop, opened, m);
}

/* One image at a time, of which several layers go at once. */
static void go_on(struct migration *m)
{
	for (; m->at < m->n; m->at++) {
		memset(m->bytes, 0, sizeof(m->bytes));
		m->done_bytes = 0;
		if (m->path) {
			export_one(m);
			return;
		}
		if (!berth_image_in(m->d, m->images[m->at], m->to)) {
			m->part = berth_image_bring(
			        m->d, m->images[m->at], m->from, m->to, on_progress, copied, m);
			return;
		}
		tell(m, BERTH__ADMIN__V1__MIGRATE_STATE__MIGRATE_PRESENT);
	}
	berth_grpc_on_cancel(m->call, NULL, NULL);
	berth_grpc_finish(m->call);
	migration_free(m);
}

static void left(void *arg)
{
	struct migration *m = arg;

	m->left = true;
	if (m->opening)
		return;
	berth_pull_leave(m->part);
	berth_grpc_failf(
	        m->call, BERTH_CANCELLED, "the %s was given up", m->path ? "export" : "migration");
	migration_free(m);
}

static void add(struct migration *m, struct berth_image *i)
{
	m->images = berth_reallocarray(m->images, m->n + 1, sizeof(struct berth_image *));
	m->images[m->n++] = berth_image_ref(i);
}

static int add_named(struct migration *m, const char *name, struct berth_error **ret_err)
{
	struct berth_image *i = berth_image_find(m->d, name, ret_err);

	if (!i && *ret_err)
		return -1;
	if (!i)
		return berth_error_set(
		        ret_err, BERTH_NOT_FOUND, "image \"%s\" is not on this node", name);
	if (m->from && !berth_image_in(m->d, i, m->from))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "image \"%s\" is not in %s", name, berth_instance_name(m->from));
	add(m, i);
	return 0;
}

static int driver(struct berth_daemon *d, const char *what, const char *name,
        struct berth_instance **ret, struct berth_error **ret_err)
{
	*ret = berth_daemon_storage(d, name);
	if (*ret)
		return 0;
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "%s: storage driver \"%.100s\" is not in use (storage.driver, storage.also, "
	        "runtimes.handlers)",
	        what, name);
}

/* Those of the names; without any, all that the driver has that they are taken from. */
static int add_chosen(
        struct migration *m, char *const *names, size_t n, struct berth_error **ret_err)
{
	struct berth_image *i, *tmp;

	for (size_t k = 0; k < n; k++)
		if (add_named(m, names[k], ret_err) < 0)
			return -1;
	if (n > 0)
		return 0;
	HASH_ITER (hh, m->d->images->by_id, i, tmp) {
		if (!m->from || berth_image_in(m->d, i, m->from))
			add(m, i);
	}
	return 0;
}

static int choose(struct migration *m, const Berth__Admin__V1__MigrateStorageRequest *q,
        struct berth_error **ret_err)
{
	if (driver(m->d, "from", q->from, &m->from, ret_err) < 0 ||
	        driver(m->d, "to", q->to, &m->to, ret_err) < 0)
		return -1;
	if (m->from == m->to)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "from and to are the same storage driver, %s", q->from);
	return add_chosen(m, q->images, q->n_images, ret_err);
}

HANDLER(berth_admin_migrate_storage)
{
	struct migration *m = berth_new(struct migration);
	struct berth_error *err = NULL;

	m->d = arg;
	m->call = call;
	m->dir = -1;
	if (choose(m, (const void *)request, &err) < 0) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		migration_free(m);
		return;
	}
	berth_grpc_on_cancel(call, left, m);
	go_on(m);
}

static int choose_exports(struct migration *m, const Berth__Admin__V1__ExportStoreRequest *q,
        struct berth_error **ret_err)
{
	if (q->path[0] != '/')
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "path \"%.200s\" is not absolute", q->path);
	return add_chosen(m, q->images, q->n_images, ret_err);
}

HANDLER(berth_admin_export_store)
{
	const Berth__Admin__V1__ExportStoreRequest *q = (const void *)request;
	struct migration *m = berth_new(struct migration);

	m->d = arg;
	m->call = call;
	m->dir = -1;
	if (choose_exports(m, q, &m->err) < 0) {
		give_up(m);
		return;
	}
	m->path = berth_strdup(q->path);
	berth_grpc_on_cancel(call, left, m);
	go_on(m);
}
