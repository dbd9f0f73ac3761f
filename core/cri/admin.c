/* berth.admin.v1: what CRI lacks. */
#include "cri/service.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admin.pb-c.h"
#include "base/fd.h"
#include "base/log.h"

/* Opening may wait for a file system: never on the loop. */
struct import {
	struct berth_daemon *d;
	struct berth_grpc_call *call; /* NULL: from images.import_dir */
	struct berth_pull_part *part;
	char *path, *reference;
	struct berth_instance *storage;
	int fd, errnum;
	bool left;
};

static void import_free(struct import *i)
{
	berth_close(i->fd);
	free(i->path);
	free(i->reference);
	free(i);
}

static void reply_import(struct berth_grpc_call *call, struct berth_image *const *images, size_t n)
{
	struct berth_arena *a = berth_grpc_arena(call);
	Berth__Admin__V1__ImportImageResponse r = BERTH__ADMIN__V1__IMPORT_IMAGE_RESPONSE__INIT;

	r.images = berth_arena_alloc(a, (n + 1) * sizeof(*r.images));
	for (size_t i = 0; i < n; i++) {
		Berth__Admin__V1__ImportedImage *m = berth_arena_alloc(a, sizeof(*m));
		berth__admin__v1__imported_image__init(m);
		m->image_id = images[i]->id;
		m->references = images[i]->tags;
		m->n_references = berth_strv_len(images[i]->tags);
		r.images[r.n_images++] = m;
	}
	berth_grpc_reply(call, &r.base);
}

static void imported(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg)
{
	struct import *i = arg;

	if (!i->call) {
		if (err)
			berth_log_error("import failed", "path", i->path, "error", err->msg);
	} else {
		berth_grpc_on_cancel(i->call, NULL, NULL);
		if (err)
			berth_grpc_fail(i->call, err);
		else
			reply_import(i->call, images, n);
	}
	import_free(i);
}

static void import_left(void *arg)
{
	struct import *i = arg;

	i->left = true;
	if (!i->part)
		return; /* it is being opened */
	berth_pull_leave(i->part);
	berth_grpc_failf(i->call, BERTH_CANCELLED, "the import was given up");
	import_free(i);
}

static void open_work(void *arg)
{
	struct import *i = arg;
	struct stat st;

	i->fd = open(i->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (i->fd < 0 || fstat(i->fd, &st) < 0)
		i->errnum = errno;
	else if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		i->errnum = EINVAL;
}

static void opened(void *arg)
{
	struct import *i = arg;
	struct berth_error *err = NULL;

	if (i->errnum == 0 && !i->left) {
		struct berth_pull_request r = {.ref = i->reference,
		        .import_fd = berth_take_fd(&i->fd),
		        .storage = i->storage};
		i->part = berth_pull_join(i->d, &r, NULL, imported, i);
		return;
	}
	if (i->left)
		berth_error_set(&err, BERTH_CANCELLED, "the import was given up");
	else
		berth_error_errno(&err, i->errnum, "import of %s", i->path);
	imported(NULL, 0, err, i);
	berth_error_free(err);
}

static struct import *import_begin(struct berth_daemon *d, struct berth_grpc_call *call,
        const char *path, const char *reference, struct berth_instance *storage)
{
	struct import *i = berth_new(struct import);
	i->d = d;
	i->call = call;
	i->path = berth_strdup(path);
	i->reference = reference && *reference ? berth_strdup(reference) : NULL;
	i->storage = storage;
	i->fd = -1;
	if (call)
		berth_grpc_on_cancel(call, import_left, i);
	if (berth_work(d->flows, d->loop, open_work, opened, i) < 0) {
		i->errnum = EAGAIN;
		berth_loop_post(d->loop, opened, i);
	}
	return i;
}

static HANDLER(import_image)
{
	const Berth__Admin__V1__ImportImageRequest *q = (const void *)request;
	struct berth_daemon *d = arg;

	const struct berth_handler *h = berth_cri_handler(call, d, q->runtime_handler);

	if (h && q->path[0] != '/')
		berth_grpc_failf(
		        call, BERTH_INVALID_ARGUMENT, "path \"%.200s\" is not absolute", q->path);
	else if (h)
		import_begin(d, call, q->path, q->reference, h->storage);
}

void berth_import_dir(struct berth_daemon *d)
{
	const char *path = d->config->images.import_dir;
	DIR *dir = *path ? opendir(path) : NULL;

	if (*path && !dir && errno != ENOENT)
		berth_log_error("images.import_dir", "path", path, "error", strerror(errno));
	for (struct dirent *e; dir && (e = readdir(dir));) {
		if (e->d_name[0] == '.')
			continue;
		_cleanup_free_ char *one = berth_path(path, e->d_name, NULL);
		import_begin(d, NULL, one, NULL, NULL);
	}
	if (dir)
		closedir(dir);
}

/* ---- pull with progress ---- */

#define PROGRESS_MS 100
#define MAX_LAYERS 512

struct pulling {
	struct berth_daemon *d;
	struct berth_grpc_call *call;
	struct berth_image_pull *pull;
	Berth__Admin__V1__LayerProgress layers[MAX_LAYERS], *list[MAX_LAYERS];
	char *digests[MAX_LAYERS];
	size_t n;
	uint64_t told_ns;
};

static void pulling_free(struct pulling *p)
{
	for (size_t i = 0; i < p->n; i++)
		free(p->digests[i]);
	free(p);
}

static void tell(struct pulling *p, const char *image_id)
{
	Berth__Admin__V1__PullProgress m = BERTH__ADMIN__V1__PULL_PROGRESS__INIT;
	m.layers = p->list;
	m.n_layers = p->n;
	m.image_id = (char *)(image_id ? image_id : "");
	/* A client that does not read gets fewer messages, not a longer queue. */
	if (!image_id && berth_grpc_queued(p->call) > 0)
		return;
	(void)!berth_grpc_send(p->call, &m.base);
}

static void on_progress(
        unsigned int layer, const char *digest, uint64_t done, uint64_t total, void *arg)
{
	struct pulling *p = arg;

	if (layer >= MAX_LAYERS)
		return;
	for (; p->n <= layer; p->n++) {
		berth__admin__v1__layer_progress__init(&p->layers[p->n]);
		p->list[p->n] = &p->layers[p->n];
	}
	Berth__Admin__V1__LayerProgress *l = &p->layers[layer];
	bool first = !p->digests[layer];
	if (first)
		l->digest = p->digests[layer] = berth_strdup(digest);
	/* A layer whose first word is that it is complete was there before. */
	if (total && done >= total)
		l->state = first ? BERTH__ADMIN__V1__LAYER_STATE__LAYER_PRESENT
		                 : BERTH__ADMIN__V1__LAYER_STATE__LAYER_UNPACKED;
	else
		l->state = done ? BERTH__ADMIN__V1__LAYER_STATE__LAYER_DOWNLOADING
		                : BERTH__ADMIN__V1__LAYER_STATE__LAYER_WAITING;
	l->done_bytes = done;
	l->total_bytes = total;
	uint64_t now = berth_now_ns();
	/* The first word on each layer comes for all of them at once. */
	if (first || now - p->told_ns < PROGRESS_MS * 1000000ull)
		return;
	p->told_ns = now;
	tell(p, NULL);
}

static void pulled(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg)
{
	struct pulling *p = arg;

	berth_grpc_on_cancel(p->call, NULL, NULL);
	if (err) {
		berth_grpc_fail(p->call, err);
	} else {
		tell(p, n > 0 ? images[0]->id : "");
		berth_grpc_finish(p->call);
	}
	pulling_free(p);
}

static void pull_left(void *arg)
{
	struct pulling *p = arg;
	berth_image_pull_leave(p->pull);
	berth_grpc_failf(p->call, BERTH_CANCELLED, "the pull was given up");
	pulling_free(p);
}

static HANDLER(pull_image)
{
	const Berth__Admin__V1__AdminPullRequest *q = (const void *)request;
	const Berth__Admin__V1__AdminAuth *a = q->auth;
	const struct berth_handler *h = berth_cri_handler(call, arg, q->runtime_handler);
	json_t *auth = NULL;

	if (!h)
		return;
	struct pulling *p = berth_new(struct pulling);
	p->d = arg;
	p->call = call;
	if (a)
		auth = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "username", a->username,
		        "password", a->password, "auth", a->auth, "identity_token",
		        a->identity_token, "registry_token", a->registry_token, "server_address",
		        a->server_address);
	struct berth_pull_request r = {
	        .ref = q->image, .auth = auth, .import_fd = -1, .storage = h->storage};
	p->pull = berth_image_pull(p->d, &r, on_progress, pulled, p);
	json_decref(auth);
	berth_grpc_on_cancel(call, pull_left, p);
}

/* ---- plugins ---- */

static HANDLER(plugins)
{
	struct berth_daemon *d = arg;
	struct berth_arena *a = berth_grpc_arena(call);
	Berth__Admin__V1__PluginsResponse r = BERTH__ADMIN__V1__PLUGINS_RESPONSE__INIT;
	size_t n = berth_plugin_host_count(d->plugins);

	(void)request;
	r.plugins = berth_arena_alloc(a, (n + 1) * sizeof(*r.plugins));
	for (size_t i = 0; i < n; i++) {
		struct berth_instance *in = berth_plugin_host_at(d->plugins, i);
		Berth__Admin__V1__Plugin *m = berth_arena_alloc(a, sizeof(*m));
		const char *why = "";
		berth__admin__v1__plugin__init(m);
		m->instance = (char *)berth_instance_name(in);
		m->plugin = (char *)berth_instance_plugin(in);
		m->version = (char *)berth_instance_descriptor(in)->version;
		m->kinds = berth_arena_alloc(a, 3 * sizeof(char *));
		if (berth_instance_has_storage(in))
			m->kinds[m->n_kinds++] = (char *)"storage";
		if (berth_instance_has_runtime(in))
			m->kinds[m->n_kinds++] = (char *)"runtime";
		if (berth_instance_has_network(in))
			m->kinds[m->n_kinds++] = (char *)"network";
		m->healthy = berth_instance_healthy(in, &why);
		m->message = (char *)why;
		r.plugins[r.n_plugins++] = m;
	}
	berth_grpc_reply(call, &r.base);
}

const struct berth_grpc_method berth_admin_service[] = {
        {"ImportImage", &berth__admin__v1__import_image_request__descriptor,
                &berth__admin__v1__import_image_response__descriptor, false, import_image},
        {"PullImage", &berth__admin__v1__admin_pull_request__descriptor,
                &berth__admin__v1__pull_progress__descriptor, true, pull_image},
        {"MigrateStorage", &berth__admin__v1__migrate_storage_request__descriptor,
                &berth__admin__v1__migrate_progress__descriptor, true, berth_admin_migrate_storage},
        {"ExportStore", &berth__admin__v1__export_store_request__descriptor,
                &berth__admin__v1__migrate_progress__descriptor, true, berth_admin_export_store},
        {"Plugins", &berth__admin__v1__plugins_request__descriptor,
                &berth__admin__v1__plugins_response__descriptor, false, plugins},
        {NULL, NULL, NULL, false, NULL},
};
