#include "pull/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "pull/endpoint.h"
#include "pull/protocol.h"

#define ACCEPT                                                        \
	"application/vnd.oci.image.index.v1+json, "                   \
	"application/vnd.oci.image.manifest.v1+json, "                \
	"application/vnd.docker.distribution.manifest.list.v2+json, " \
	"application/vnd.docker.distribution.manifest.v2+json"

enum { STALL_MS = 30000, IDLE_CLIENTS = 16 };

struct pull_registry {
	struct pull_source source;
	struct pull_http_config http;
	char **certs_dirs;
	char *reference; /* tag or digest */
	char *digest;    /* that the reference names, or NULL */
	struct pull_endpoint **endpoints;
	size_t n_endpoints, chosen; /* chosen: has given the first manifest */
	void (*heard)(void *arg, const char *host, bool up);
	void *heard_arg;
	pthread_mutex_t lock;
	struct pull_http *idle[IDLE_CLIENTS];
	size_t n_idle;
};

static struct pull_http *take_client(struct pull_registry *r)
{
	struct pull_http *h = NULL;
	pthread_mutex_lock(&r->lock);
	if (r->n_idle > 0)
		h = r->idle[--r->n_idle];
	pthread_mutex_unlock(&r->lock);
	return h ? h : pull_http_new(&r->http);
}

static void give_client(struct pull_registry *r, struct pull_http *h)
{
	pthread_mutex_lock(&r->lock);
	if (r->n_idle < IDLE_CLIENTS)
		r->idle[r->n_idle++] = berth_take(h);
	pthread_mutex_unlock(&r->lock);
	pull_http_free(h);
}

/* The order in which the endpoints are asked: beginning with the one that had the manifest, and
 * those that are down at last. The caller frees it. */
static struct pull_endpoint **in_order(const struct pull_registry *r)
{
	struct pull_endpoint **v = berth_new_array(struct pull_endpoint *, r->n_endpoints);
	_cleanup_free_ bool *down = berth_new_array(bool, r->n_endpoints);
	size_t n = 0;

	for (size_t i = 0; i < r->n_endpoints; i++)
		down[i] = pull_endpoint_is_down(r->endpoints[i]);
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < r->n_endpoints; i++) {
			size_t at = (r->chosen + i) % r->n_endpoints;
			if (down[at] == (pass == 1))
				v[n++] = r->endpoints[at];
		}
	}
	return v;
}

/* A host is up where it answers, whatever its answer is. */
static void note(struct pull_registry *r, struct pull_endpoint *e, const struct berth_error *err)
{
	bool down = err && err->code == BERTH_UNAVAILABLE;

	if (pull_endpoint_set_down(e, down) && r->heard)
		r->heard(r->heard_arg, pull_endpoint_host(e), !down);
}

/* What all endpoints said that were asked in vain. */
struct refusals {
	struct berth_error *all;
	bool own; /* the registry itself is among them: its code counts, and no mirror's */
};

static void refused(struct pull_registry *r, struct pull_endpoint *e, struct refusals *f,
        struct berth_error **err)
{
	bool own = e == r->endpoints[r->n_endpoints - 1];

	if (f->all) {
		char *msg = berth_asprintf("%s; %s", f->all->msg, (*err)->msg);
		free((*err)->msg);
		(*err)->msg = msg;
		if (f->own)
			(*err)->code = f->all->code;
	}
	f->own |= own;
	berth_error_free(f->all);
	f->all = berth_take(*err);
}

static int check_manifest(const struct pull_http_answer *a, const char *want, struct pull_desc *d,
        const char *name, struct berth_error **ret_err)
{
	char digest[PULL_DIGEST_SIZE];

	if (a->body_cut)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "%s: the manifest is larger than %d bytes", name, BERTH_LIMIT_MANIFEST);
	pull_digest_of(a->body.data ? a->body.data : "", a->body.len, digest);
	if (want && *want && strcmp(want, digest) != 0)
		return berth_error_set(ret_err, BERTH_DATA_LOSS,
		        "%s: manifest %s: the content's digest is %s", name, want, digest);
	memcpy(d->digest, digest, sizeof(digest));
	return 0;
}

static int get_manifest(struct pull_registry *r, struct pull_endpoint *e, bool last,
        const char *reference, const char *want, struct pull_desc *d, char **ret, size_t *ret_len,
        char **ret_type, struct berth_error **ret_err)
{
	_cleanup_free_ char *what = berth_asprintf("manifests/%s", reference);
	struct pull_ask ask = {
	        .what = what, .accept = ACCEPT, .max_body = BERTH_LIMIT_MANIFEST, .hurry = !last};
	struct pull_http_answer a;
	struct pull_http *h = take_client(r);

	int result = pull_endpoint_get(e, h, &ask, &a, ret_err);
	give_client(r, h);
	note(r, e, result < 0 ? *ret_err : NULL);
	if (result == 0)
		result = check_manifest(&a, want, d, pull_endpoint_name(e), ret_err);
	if (result == 0) {
		*ret_len = a.body.len;
		*ret = berth_buf_steal(&a.body);
		*ret_type = berth_take(a.content_type);
	}
	pull_http_answer_finish(&a);
	return result;
}

static int manifest(struct pull_source *s, struct pull_desc *d, char **ret, size_t *ret_len,
        char **ret_type, struct berth_error **ret_err)
{
	struct pull_registry *r = BERTH_CONTAINER_OF(s, struct pull_registry, source);
	bool first = !*d->digest;
	_cleanup_free_ char *reference = berth_strdup(first ? r->reference : d->digest);
	_cleanup_free_ char *want = berth_strdup(first ? r->digest : d->digest);
	_cleanup_free_ struct pull_endpoint **order = in_order(r);
	struct refusals all = {0};

	for (size_t i = 0; i < r->n_endpoints; i++) {
		struct berth_error *err = NULL;
		if (get_manifest(r, order[i], i + 1 == r->n_endpoints, reference, want, d, ret,
		            ret_len, ret_type, &err) == 0) {
			for (size_t k = 0; first && k < r->n_endpoints; k++)
				if (r->endpoints[k] == order[i])
					r->chosen = k;
			berth_error_free(all.all);
			return 0;
		}
		refused(r, order[i], &all, &err);
	}
	return berth_error_move(ret_err, &all.all);
}

struct transfer {
	pull_sink sink;
	void *arg;
	uint64_t done, skip;
	bool ended, odd_range;
};

/* Where a body begins: a 200 to a Range request begins at the start again. */
static void begin(struct transfer *t, const struct pull_http_answer *a)
{
	uint64_t start = 0;

	if (a->status == 206) {
		bool known = a->content_range && strncmp(a->content_range, "bytes ", 6) == 0;
		start = known ? strtoull(a->content_range + 6, NULL, 10) : UINT64_MAX;
	}
	t->odd_range = start > t->done;
	t->skip = t->odd_range ? 0 : t->done - start;
}

static int on_blob(void *arg, const struct pull_http_answer *a, bool first, const void *p, size_t n)
{
	struct transfer *t = arg;

	if (first)
		begin(t, a);
	if (t->odd_range)
		return -1;
	if (t->skip >= n) {
		t->skip -= n;
		return 0;
	}
	p = (const char *)p + t->skip;
	n -= t->skip;
	t->skip = 0;
	t->done += n;
	t->ended = t->sink(t->arg, p, n) < 0;
	return t->ended ? -1 : 0;
}

/* A blob that one endpoint does not have or cannot deliver to its end goes on at the next. */
static int stream(struct pull_source *s, const struct pull_desc *d, uint64_t from, pull_sink sink,
        void *arg, struct berth_error **ret_err)
{
	struct pull_registry *r = BERTH_CONTAINER_OF(s, struct pull_registry, source);
	struct transfer t = {.sink = sink, .arg = arg, .done = from};
	_cleanup_free_ char *what = berth_asprintf("blobs/%s", d->digest);
	struct pull_ask ask = {
	        .what = what, .done = &t.done, .size = d->size, .body = on_blob, .arg = &t};
	struct pull_http *h = take_client(r);
	_cleanup_free_ struct pull_endpoint **order = in_order(r);
	struct refusals all = {0};
	int result = -1;

	for (size_t i = 0; result < 0 && !t.ended && i < r->n_endpoints; i++) {
		struct berth_error *err = NULL;
		struct pull_http_answer a;
		struct pull_endpoint *e = order[i];
		ask.hurry = i + 1 < r->n_endpoints;
		result = pull_endpoint_get(e, h, &ask, &a, &err);
		pull_http_answer_finish(&a);
		if (!t.ended)
			note(r, e, err);
		if (result < 0 && t.odd_range) {
			berth_error_freep(&err);
			berth_error_set(&err, BERTH_DATA_LOSS,
			        "%s/%s: the answer is of another range than was asked for",
			        pull_endpoint_name(e), what);
		}
		if (result < 0)
			refused(r, e, &all, &err);
	}
	give_client(r, h);
	if (result == 0) {
		berth_error_free(all.all);
		return 0;
	}
	return berth_error_move(ret_err, &all.all);
}

/* The first file that knows the place counts. A missing file is an empty one. */
static int file_creds(const json_t *files, const struct pull_place_of *place,
        struct pull_creds *creds, struct berth_error **ret_err)
{
	const json_t *f;
	size_t i;

	json_array_foreach (files, i, f) {
		const char *path = json_string_value(f);
		_cleanup_free_ char *text = NULL;
		size_t len = 0;
		int e = path ? berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, &len)
		             : -ENOENT;
		if (e == -ENOENT)
			continue;
		if (e < 0)
			return berth_error_errno(ret_err, e, "read '%s'", path);
		if (pull_auth_of_file(text, len, place->host, place->path, creds, ret_err) < 0)
			return berth_error_wrap(ret_err, "%s", path);
		if (pull_creds_any(creds))
			return 0;
	}
	return 0;
}

static int add_endpoint(struct pull_registry *r, const json_t *request, struct pull_place_of *place,
        struct berth_error **ret_err)
{
	struct pull_creds creds = {0};
	const json_t *host;
	size_t i;

	if (pull_auth_of_request(json_object_get(request, "auth"), place->host, place->mirror,
	            &creds, ret_err) < 0)
		return -1;
	if (!pull_creds_any(&creds) &&
	        file_creds(json_object_get(request, "auth_files"), place, &creds, ret_err) < 0)
		return -1;
	r->endpoints = berth_reallocarray(r->endpoints, r->n_endpoints + 1, sizeof(*r->endpoints));
	struct pull_endpoint *e = pull_endpoint_new(place, &creds);
	r->endpoints[r->n_endpoints++] = e;
	json_array_foreach (json_object_get(request, "down"), i, host)
		if (json_is_string(host) &&
		        strcmp(json_string_value(host), pull_endpoint_host(e)) == 0)
			pull_endpoint_set_down(e, true);
	return 0;
}

static int add_endpoints(struct pull_registry *r, const json_t *request, const struct pull_ref *ref,
        struct berth_error **ret_err)
{
	struct pull_registries *conf = NULL;
	struct pull_place_of *places = NULL;
	size_t n = 0;

	if (pull_registries_load(
	            json_string_value(json_object_get(request, "registries")), &conf, ret_err) < 0)
		return -1;
	int result = pull_registries_places(conf, ref, &places, &n, ret_err);
	for (size_t i = 0; result == 0 && i < n; i++)
		result = add_endpoint(r, request, &places[i], ret_err);
	pull_places_free(places, n);
	pull_registries_free(conf);
	return result;
}

int pull_registry_open(const json_t *request, const struct pull_ref *ref,
        struct pull_registry **ret, struct berth_error **ret_err)
{
	struct pull_registry *r = berth_new(struct pull_registry);
	const json_t *dir;
	json_int_t stall = json_integer_value(json_object_get(request, "stall_ms"));
	size_t i;

	pthread_mutex_init(&r->lock, NULL);
	r->source = (struct pull_source){.remote = true, .stream = stream, .manifest = manifest};
	r->reference = berth_strdup(ref->digest ? ref->digest : ref->tag);
	r->digest = berth_strdup(ref->digest);
	json_array_foreach (json_object_get(request, "certs_dirs"), i, dir)
		if (json_is_string(dir))
			r->certs_dirs = berth_strv_append(r->certs_dirs, json_string_value(dir));
	r->http.certs_dirs = r->certs_dirs;
	r->http.stall_ms = stall > 0 && stall < 3600000 ? (unsigned int)stall : STALL_MS;
	if (add_endpoints(r, request, ref, ret_err) < 0) {
		pull_registry_free(r);
		return -1;
	}
	*ret = r;
	return 0;
}

struct pull_registry *pull_registry_free(struct pull_registry *r)
{
	if (!r)
		return NULL;
	for (size_t i = 0; i < r->n_idle; i++)
		pull_http_free(r->idle[i]);
	for (size_t i = 0; i < r->n_endpoints; i++)
		pull_endpoint_free(r->endpoints[i]);
	free(r->endpoints);
	berth_strv_free(r->certs_dirs);
	free(r->reference);
	free(r->digest);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return NULL;
}

void pull_registry_watch(
        struct pull_registry *r, void (*heard)(void *arg, const char *host, bool up), void *arg)
{
	r->heard = heard;
	r->heard_arg = arg;
}

struct pull_source *pull_registry_source(struct pull_registry *r)
{
	return &r->source;
}
