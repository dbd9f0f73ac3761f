/* The streaming server's certificate: read at the start, and again when a file has changed. Streams
 * that are open keep what they began with. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "stream/internal.h"
#include "stream/tls_load.h"

#define LOOK_MS 10000 /* between two looks at the files */
#define SOON_S (14 * 24 * 3600)

/* What tells one content of the files from another. */
struct stamp {
	struct {
		dev_t dev;
		ino_t ino;
		off_t size;
		struct timespec modified, changed;
	} files[3];
};

struct strm_tls {
	struct berth_streams *server;
	const struct berth_tls_api *api;
	struct berth_tls_files files; /* of the configuration */
	struct stamp stamp;           /* of what was read last, good or bad */
	struct berth_tls_ctx *ctx;
	struct berth_timer *timer;
	struct look *look;
	bool again;
};

/* On its way through a worker. */
struct look {
	struct strm_tls *tls; /* NULL: the server has ended */
	const struct berth_tls_api *api;
	struct berth_tls_files files;
	struct stamp stamp, found;
	struct berth_tls_ctx *ctx;
	int64_t not_after;
	bool changed;
	char why[512];
};

static bool configured(const struct berth_config *c, struct berth_tls_files *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->cert = c->cri.stream_tls_cert;
	ret->key = c->cri.stream_tls_key;
	ret->ca = *c->cri.stream_tls_client_ca ? c->cri.stream_tls_client_ca : NULL;
	ret->no_1_2 = c->cri.stream_tls_min_version == BERTH_TLS_1_3;
	return *ret->cert;
}

static void stamp_of(const struct berth_tls_files *f, struct stamp *ret)
{
	const char *paths[] = {f->cert, f->key, f->ca};
	struct stat st;

	memset(ret, 0, sizeof(*ret));
	for (size_t i = 0; i < BERTH_ARRAY_LEN(paths); i++) {
		if (!paths[i] || stat(paths[i], &st) < 0)
			continue;
		ret->files[i].dev = st.st_dev;
		ret->files[i].ino = st.st_ino;
		ret->files[i].size = st.st_size;
		ret->files[i].modified = st.st_mtim;
		ret->files[i].changed = st.st_ctim;
	}
}

static void tell_end(int64_t not_after, const char *cert)
{
	int64_t left = not_after - (int64_t)time(NULL);

	if (not_after && left < 0)
		berth_log_warn("the certificate of the streaming server has expired", "file", cert);
	else if (not_after && left < SOON_S)
		berth_log_warn("the certificate of the streaming server ends soon", "file", cert);
}

/* ---- looking again ---- */

static void look_work(void *arg)
{
	struct look *k = arg;

	/* The stamp before the content: a change in between is found by the next look. */
	stamp_of(&k->files, &k->found);
	k->changed = memcmp(&k->found, &k->stamp, sizeof(k->found)) != 0;
	if (k->changed)
		k->ctx = k->api->ctx_new(&k->files, true, &k->not_after, k->why, sizeof(k->why));
}

static void look(struct strm_tls *t);

static void look_again(void *arg)
{
	struct strm_tls *t = arg;
	t->timer = berth_timer_free(t->timer);
	look(t);
}

static void look_done(void *arg)
{
	struct look *k = arg;
	struct strm_tls *t = k->tls;

	if (!t) {
		k->api->ctx_free(k->ctx);
		free(k);
		return;
	}
	t->look = NULL;
	t->stamp = k->found;
	if (k->ctx) {
		t->api->ctx_free(t->ctx);
		t->ctx = k->ctx;
		berth_log_info("the streaming server has a new certificate", "file", t->files.cert);
		tell_end(k->not_after, t->files.cert);
	} else if (k->changed) {
		berth_log_error("the streaming server keeps its old certificate", "error", k->why);
	}
	free(k);
	if (t->again) {
		t->again = false;
		look(t);
	} else {
		t->timer = berth_timer_start(t->server->d->loop, LOOK_MS, look_again, t);
	}
}

static void look(struct strm_tls *t)
{
	struct berth_daemon *d = t->server->d;
	struct look *k = berth_new(struct look);

	k->tls = t;
	k->api = t->api;
	k->files = t->files;
	k->stamp = t->stamp;
	if (berth_work(d->flows, d->loop, look_work, look_done, k) < 0) {
		free(k);
		t->timer = berth_timer_start(d->loop, LOOK_MS, look_again, t);
		return;
	}
	t->look = k;
}

void strm_tls_look(struct strm_tls *t)
{
	if (!t)
		return;
	t->timer = berth_timer_free(t->timer);
	if (t->look)
		t->again = true;
	else
		look(t);
}

/* ---- the beginning and the end ---- */

static struct berth_tls_ctx *load(const struct berth_config *c, const char *helpers,
        const struct berth_tls_files *f, const struct berth_tls_api **ret_api, int64_t *ret_end,
        struct berth_error **ret_err)
{
	char why[512];
	const struct berth_tls_api *api = berth_tls_load(helpers, ret_err);
	struct berth_tls_ctx *ctx = api ? api->ctx_new(f, true, ret_end, why, sizeof(why)) : NULL;

	if (api && !ctx)
		berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "TLS of the streaming server: %s", why);
	*ret_api = api;
	return ctx;
}

int strm_tls_start(struct berth_streams *s, struct strm_tls **ret, struct berth_error **ret_err)
{
	struct berth_tls_files files;
	struct stamp stamp;
	const struct berth_tls_api *api;
	int64_t end = 0;

	*ret = NULL;
	if (!configured(s->d->config, &files))
		return 0;
	stamp_of(&files, &stamp);
	struct berth_tls_ctx *ctx =
	        load(s->d->config, s->d->helpers_dir, &files, &api, &end, ret_err);
	if (!ctx)
		return -1;
	tell_end(end, files.cert);
	struct strm_tls *t = berth_new(struct strm_tls);
	t->server = s;
	t->api = api;
	t->files = files;
	t->stamp = stamp;
	t->ctx = ctx;
	t->timer = berth_timer_start(s->d->loop, LOOK_MS, look_again, t);
	*ret = t;
	return 0;
}

struct strm_tls *strm_tls_free(struct strm_tls *t)
{
	if (!t)
		return NULL;
	if (t->look)
		t->look->tls = NULL;
	berth_timer_free(t->timer);
	t->api->ctx_free(t->ctx);
	free(t);
	return NULL;
}

const struct berth_tls_api *strm_tls_open(struct strm_tls *t, int fd, struct berth_tls **ret)
{
	*ret = t->api->open(t->ctx, fd, NULL);
	return t->api;
}

int berth_streams_check_tls(const struct berth_config *c, const char *helpers, char **ret_what,
        const char **ret_warning, struct berth_error **ret_err)
{
	struct berth_tls_files files;
	const struct berth_tls_api *api;
	struct stat st;
	int64_t end = 0;

	*ret_what = NULL;
	*ret_warning = NULL;
	if (!configured(c, &files))
		return 0;
	struct berth_tls_ctx *ctx = load(c, helpers, &files, &api, &end, ret_err);
	if (!ctx)
		return -1;
	api->ctx_free(ctx);
	char date[32] = "";
	time_t when = (time_t)end;
	struct tm tm;
	if (gmtime_r(&when, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d", &tm);
	if (end < (int64_t)time(NULL))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "TLS of the streaming server: certificate %s: it has expired (%s)",
		        files.cert, date);
	*ret_what = berth_asprintf(
	        "TLS of the streaming server: certificate %s, good until %s", files.cert, date);
	if (end - (int64_t)time(NULL) < SOON_S)
		*ret_warning = "it ends soon";
	else if (stat(files.key, &st) == 0 && (st.st_mode & 07))
		*ret_warning = "everybody may read its key";
	return 0;
}
