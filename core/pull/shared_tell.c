/* What an image store has, told to berthd: the index where it is new, and which layers can be used.
 * Of what was found usable before, only that it is still in the listing is looked at. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"
#include "pull/each.h"
#include "pull/shared.h"
#include "pull/tree_impl.h"
#include "pull/wire.h"

/* Each layer is a few round trips, and a server answers many clients. */
#define PARALLEL 8
#define ALIVE_NS 500000000ull

struct look {
	struct pull_wire *wire;
	int dir;
	const char *generation;
	json_t *doc;    /* the index; NULL: nobody needed it yet */
	json_t *layers; /* ChainID -> true, or why it cannot be used */
	struct pull_shared_ear ear;
	pthread_mutex_t lock;
	uint64_t alive_ns; /* berthd was told */
	/* Those to look at, and what was found. */
	size_t n;
	const char **chains;
	json_t **found;
};

/* The store has answered. */
static void heard(void *arg)
{
	_cleanup_(berth_error_freep) struct berth_error *ignored = NULL;
	struct look *k = arg;
	uint64_t now = berth_now_ns();

	pthread_mutex_lock(&k->lock);
	bool due = now - k->alive_ns >= ALIVE_NS;
	if (due)
		k->alive_ns = now;
	pthread_mutex_unlock(&k->lock);
	/* Where berthd has gone the process ends anyway. */
	int r = due ? pull_wire_send(k->wire, json_pack("{s:s}", "t", "alive"), -1, &ignored) : 0;
	(void)r;
}

/* ---- one layer ---- */

static json_t *unusable(enum berth_code code, const char *msg)
{
	return json_pack("{s:i, s:s}", "code", (int)code, "msg", msg);
}

/* What is not there stays so until someone changes the store; anything else may pass. */
static json_t *failed(int r, const char *what)
{
	_cleanup_free_ char *msg =
	        r == -ENOENT ? berth_asprintf("%s is not there", what)
	                     : berth_asprintf("cannot look at %s: %s", what, strerror(-r));
	return unusable(r == -ENOENT ? BERTH_FAILED_PRECONDITION : BERTH_UNAVAILABLE, msg);
}

static json_t *look_at_attribute(int fs, const json_t *x)
{
	const char *in = json_string_value(json_object_get(x, "path"));
	const char *name = json_string_value(json_object_get(x, "name"));
	_cleanup_close_ int fd = pull_tree_open_beneath(fs, in, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	int r = fd < 0 ? fd : fgetxattr(fd, name, NULL, 0) < 0 ? -errno : 0;

	if (r == 0)
		return json_true();
	_cleanup_free_ char *what = berth_asprintf("%s of its '%s'", name, in);
	_cleanup_free_ char *lost =
	        berth_asprintf("the file system loses attributes, among them %s", what);
	return r == -ENODATA || r == -EOPNOTSUPP ? unusable(BERTH_FAILED_PRECONDITION, lost)
	                                         : failed(r, what);
}

static json_t *look_at_layer(const struct look *k, const char *chain)
{
	const json_t *x = json_object_get(json_object_get(k->doc, "xattrs"), chain);
	_cleanup_free_ char *path = berth_asprintf("layers/%s/fs", chain + 7);
	berth_fault_slow("shared-layer");
	_cleanup_close_ int fs = pull_tree_open_beneath(k->dir, path, O_RDONLY | O_DIRECTORY);

	if (fs < 0)
		return failed(fs, "it");
	return x ? look_at_attribute(fs, x) : json_true();
}

/* ---- all layers ---- */

/* Those of the index, none of them looked at: a layer of several images is there once. */
static json_t *name_layers(const json_t *doc)
{
	json_t *all = json_object(), *image, *l;
	size_t i, k;

	json_array_foreach (json_object_get(doc, "images"), i, image) {
		const json_t *record = json_object_get(image, "record");
		json_array_foreach (json_object_get(record, "layers"), k, l) {
			json_object_set_new(all, json_string_value(json_object_get(l, "chain_id")),
			        json_null());
		}
	}
	return all;
}

/* Those of k->layers that are in the listing: a few round trips, however many there are. */
static int list_layers(struct look *k, json_t **ret, struct berth_error **ret_err)
{
	int fd = openat(k->dir, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		int e = errno;
		berth_close(fd);
		return berth_error_errno(ret_err, e, "layers");
	}
	json_t *listed = json_object();
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0) {
		_cleanup_free_ char *chain = berth_asprintf("sha256:%s", e->d_name);
		if (json_object_get(k->layers, chain))
			json_object_set_new(listed, chain, json_true());
		heard(k);
	}
	int e = errno;
	closedir(d);
	if (e) {
		json_decref(listed);
		return berth_error_errno(ret_err, e, "layers");
	}
	*ret = listed;
	return 0;
}

/* Errors are no sign of life: a soft mount gives one for each layer of a server that is gone. */
static int run_layer(void *arg, size_t n, struct berth_error **ret_err)
{
	struct look *k = arg;

	(void)ret_err;
	k->found[n] = look_at_layer(k, k->chains[n]);
	if (json_integer_value(json_object_get(k->found[n], "code")) != BERTH_UNAVAILABLE)
		heard(k);
	return 0;
}

/* A listing may be older than what it lists: it says whom to look at, and the look what is so. */
static int look_at_layers(struct look *k, const json_t *listed, struct berth_error **ret_err)
{
	const size_t all = json_object_size(k->layers);
	_cleanup_free_ const char **chains = berth_new_array(const char *, all);
	_cleanup_free_ json_t **found = berth_new_array(json_t *, all);
	_cleanup_free_ bool *none = berth_new_array(bool, all);
	const char *chain;
	json_t *was;

	json_object_foreach (k->layers, chain, was) {
		if (!json_is_true(was) || !json_object_get(listed, chain))
			chains[k->n++] = chain;
	}
	if (k->n == 0)
		return 0;
	if (!k->doc && pull_shared_read(k->dir, k->generation, &k->ear, &k->doc, ret_err) < 0)
		return -1;
	k->chains = chains;
	k->found = found;
	const struct pull_each each = {.wire = k->wire,
	        .parallel = PARALLEL,
	        .n = k->n,
	        .have = none,
	        .run = run_layer,
	        .arg = k};
	int r = pull_each_run(&each, ret_err);
	for (size_t i = 0; i < k->n; i++)
		if (found[i])
			json_object_set_new(k->layers, chains[i], found[i]);
	return r;
}

/* ---- telling ---- */

static int send_json(
        struct pull_wire *w, json_t *packet, const json_t *what, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = json_dumps(what, JSON_COMPACT);
	if (!text) {
		json_decref(packet);
		return berth_error_set(ret_err, BERTH_INTERNAL, "cannot build what is told");
	}
	return pull_wire_send_memfd(w, packet, "berth-shared", text, strlen(text), ret_err);
}

static int tell(struct look *k, json_t *told, struct berth_error **ret_err)
{
	struct pull_wire *w = k->wire;
	json_t *listed = NULL;
	int r = 0;

	if (told)
		r = list_layers(k, &listed, ret_err);
	else
		r = pull_shared_read(k->dir, k->generation, &k->ear, &k->doc, ret_err);
	if (r == 0 && !told)
		k->layers = name_layers(k->doc);
	if (r == 0)
		r = look_at_layers(k, listed, ret_err);
	json_decref(listed);
	if (r == 0 && !told)
		r = send_json(w, json_pack("{s:s}", "t", "index"), k->doc, ret_err);
	if (r < 0)
		return -1;
	json_t *packet = json_pack("{s:s, s:s}", "t", "shared", "generation", k->generation);
	return told && json_equal(told, k->layers) ? pull_wire_send(w, packet, -1, ret_err)
	                                           : send_json(w, packet, k->layers, ret_err);
}

int pull_shared_tell(struct pull_wire *w, const char *path, const char *known, int fd,
        struct berth_error **ret_err)
{
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[PULL_SHARED_GENERATION + 1];

	if (dir < 0)
		return berth_error_errno(ret_err, errno, "open it");
	if (pull_shared_open(dir, name, ret_err) < 0)
		return -1;
	json_t *told = strcmp(name, known) == 0 ? pull_shared_told(fd) : NULL;
	struct look k = {.wire = w,
	        .dir = dir,
	        .generation = name,
	        .layers = json_copy(told),
	        .ear = {heard, &k},
	        .lock = PTHREAD_MUTEX_INITIALIZER};
	int r = tell(&k, told, ret_err);
	json_decref(told);
	json_decref(k.layers);
	json_decref(k.doc);
	return r;
}
