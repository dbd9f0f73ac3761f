/* Writing an image store (shared.h): the layers that it lacks, then a new generation. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/copy.h"
#include "pull/digest.h"
#include "pull/protocol.h"
#include "pull/shared.h"
#include "pull/tree_impl.h"
#include "pull/wire.h"

#define GENERATIONS_KEPT 3

static int make_dir(int dir, const char *name, struct berth_error **ret_err)
{
	/* Nodes read as whom the file system makes them. */
	if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
		return berth_error_errno(ret_err, errno, "%s", name);
	return fchmodat(dir, name, 0755, 0) < 0 && errno != EPERM
	               ? berth_error_errno(ret_err, errno, "%s", name)
	               : 0;
}

/* One writer at a time. What an earlier one left half-made is nobody's then. */
static int prepare(int dir, int *ret_lock, struct berth_error **ret_err)
{
	static const char *const names[] = {"layers", "generations", "new"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++)
		if (make_dir(dir, names[i], ret_err) < 0)
			return -1;
	*ret_lock = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (*ret_lock < 0)
		return berth_error_errno(ret_err, errno, "lock");
	if (flock(*ret_lock, LOCK_EX | LOCK_NB) < 0)
		return berth_error_errno(ret_err, errno == EWOULDBLOCK ? EBUSY : errno,
		        "another writer is at work in it");
	int r = berth_rm_tree(dir, "new");
	if (r < 0)
		return berth_error_errno(ret_err, r, "new");
	return make_dir(dir, "new", ret_err);
}

/* ---- layers ---- */

/* The first file with a capability, and the first with an attribute of users. */
struct samples {
	json_t *capability, *user;
};

static void take_samples(struct samples *s, int fd, const char *path)
{
	char names[4096];
	ssize_t n = flistxattr(fd, names, sizeof(names));

	for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		json_t **to = strcmp(name, "security.capability") == 0 ? &s->capability
		              : strncmp(name, "user.", 5) == 0         ? &s->user
		                                                       : NULL;
		if (to && !*to)
			*to = json_pack("{s:s, s:s}", "path", path, "name", name);
	}
}

/* Until there is a capability. */
static void find_xattrs(struct samples *s, int root, const char *path)
{
	_cleanup_close_ int fd =
	        pull_tree_open_beneath(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	take_samples(s, fd, path);
	if (s->capability || !S_ISDIR(st.st_mode))
		return;
	DIR *d = fdopendir(berth_take_fd(&fd));
	for (struct dirent *e; !s->capability && d && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		        (e->d_type != DT_DIR && e->d_type != DT_REG && e->d_type != DT_UNKNOWN))
			continue;
		_cleanup_free_ char *sub =
		        berth_asprintf("%s%s%s", path, *path ? "/" : "", e->d_name);
		find_xattrs(s, root, sub);
	}
	if (d)
		closedir(d);
}

struct exporting {
	const struct pull_session *s;
	int dir;
	json_t *xattrs; /* of new layers */
};

static int publish_layer(
        struct exporting *x, const char *chain, const char *tmp, struct berth_error **ret_err)
{
	_cleanup_free_ char *to = berth_asprintf("layers/%s", chain + 7);
	_cleanup_free_ char *fs = berth_asprintf("%s/fs", tmp);
	_cleanup_close_ int fd = pull_tree_open_beneath(x->dir, fs, O_RDONLY | O_DIRECTORY);

	if (fd < 0 || syncfs(fd) < 0)
		return berth_error_errno(ret_err, fd < 0 ? fd : errno, "%s", fs);
	/* A file system may keep the one kind and lose the other: a capability counts for more. */
	struct samples found = {0};
	find_xattrs(&found, fd, "");
	if (found.capability || found.user)
		json_object_set(x->xattrs, chain, found.capability ? found.capability : found.user);
	json_decref(found.capability);
	json_decref(found.user);
	if (renameat(x->dir, tmp, x->dir, to) < 0)
		return berth_error_errno(ret_err, errno, "%s", to);
	return 0;
}

static int export_layer(
        struct exporting *x, size_t n, const char *chain, struct berth_error **ret_err)
{
	_cleanup_free_ char *there = berth_asprintf("layers/%s/fs", chain + 7);
	_cleanup_free_ char *tmp = berth_asprintf("new/%s", chain + 7);
	_cleanup_free_ char *fs = berth_asprintf("%s/fs", tmp);
	struct stat st;

	if (fstatat(x->dir, there, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	if (make_dir(x->dir, tmp, ret_err) < 0 || make_dir(x->dir, fs, ret_err) < 0)
		return -1;
	int to = pull_tree_open_beneath(x->dir, fs, O_RDONLY | O_DIRECTORY);
	if (to < 0)
		return berth_error_errno(ret_err, to, "%s", fs);
	if (pull_copy_into(x->s, n, to, ret_err) < 0) /* it closes it */
		return -1;
	return publish_layer(x, chain, tmp, ret_err);
}

/* ---- the index ---- */

static json_t *names_of(const json_t *first, const char *key)
{
	json_t *v = json_object_get(first, key);
	return json_is_array(v) ? json_incref(v) : json_array();
}

static bool names_any(const json_t *list, const json_t *name)
{
	size_t i;
	json_t *e;
	json_array_foreach ((json_t *)(uintptr_t)list, i, e) {
		if (json_equal(e, (json_t *)(uintptr_t)name))
			return true;
	}
	return false;
}

/* A tag names one image. */
static void take_tags(json_t *image, const json_t *tags)
{
	json_t *own = json_object_get(image, "tags");

	for (size_t i = json_array_size(own); i > 0; i--)
		if (names_any(tags, json_array_get(own, i - 1)))
			json_array_remove(own, i - 1);
}

static void merge(struct exporting *x, json_t *doc, const json_t *first, json_t *record)
{
	json_t *images = json_object_get(doc, "images"), *tags = names_of(first, "tags");
	json_t *xattrs = json_object_get(doc, "xattrs");
	const char *id = json_string_value(json_object_get(record, "id"));

	for (size_t i = json_array_size(images); i > 0; i--) {
		json_t *image = json_array_get(images, i - 1);
		const char *other =
		        json_string_value(json_object_get(json_object_get(image, "record"), "id"));
		take_tags(image, tags);
		if (other && strcmp(other, id) == 0)
			json_array_remove(images, i - 1);
	}
	json_array_append_new(images, json_pack("{s:O, s:o, s:o}", "record", record, "tags", tags,
	                                      "digests", names_of(first, "digests")));
	if (!json_is_object(xattrs)) {
		json_object_set_new(doc, "xattrs", json_object());
		xattrs = json_object_get(doc, "xattrs");
	}
	json_object_update(xattrs, x->xattrs);
}

static int by_age(const void *a, const void *b)
{
	unsigned long long x = strtoull(*(char *const *)a, NULL, 10),
	                   y = strtoull(*(char *const *)b, NULL, 10);
	return (x > y) - (x < y);
}

/* Readers that have an older one under way may go on with it. */
static void drop_old(int dir)
{
	int fd = openat(dir, "generations", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	char **v = NULL;

	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.')
			v = berth_strv_append(v, e->d_name);
	size_t n = berth_strv_len(v);
	if (n > GENERATIONS_KEPT)
		qsort(v, n, sizeof(*v), by_age);
	for (size_t i = 0; n > GENERATIONS_KEPT && i < n - GENERATIONS_KEPT; i++)
		(void)!berth_rm_tree(dirfd(d), v[i]);
	berth_strv_free(v);
	if (d)
		closedir(d);
}

static int publish(struct exporting *x, const char *old, json_t *doc, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = json_dumps(doc, JSON_COMPACT);
	unsigned long long n = strtoull(old, NULL, 10) + 1;
	_cleanup_free_ char *name = berth_asprintf("generations/%llu", n);
	_cleanup_free_ char *path = berth_asprintf("%s/index.json", name);
	json_t *again = NULL;

	/* What is written must be what readers take. */
	if (!text || pull_shared_parse(text, strlen(text), &again, ret_err) < 0)
		return text ? -1 : berth_error_set(ret_err, BERTH_INTERNAL, "the index is no JSON");
	json_decref(again);
	int r = berth_rm_tree(x->dir, name); /* of a writer that was killed */
	if (r < 0 || make_dir(x->dir, name, ret_err) < 0)
		return r < 0 ? berth_error_errno(ret_err, r, "%s", name) : -1;
	int fd = openat(x->dir, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	r = fd < 0 ? -errno : berth_write_all(fd, text, strlen(text));
	if (r == 0 && (fchmod(fd, 0644) < 0 || syncfs(fd) < 0))
		r = -errno;
	berth_close(fd);
	(void)unlinkat(x->dir, "new/current", 0);
	if (r == 0 && (symlinkat(name, x->dir, "new/current") < 0 ||
	                      renameat(x->dir, "new/current", x->dir, "current") < 0))
		r = -errno;
	if (r == 0 && syncfs(x->dir) < 0)
		r = -errno;
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", path);
	drop_old(x->dir);
	return 0;
}

static int read_old(
        int dir, char old[PULL_SHARED_GENERATION + 1], json_t **ret, struct berth_error **ret_err)
{
	struct stat st;

	strcpy(old, "0");
	if (fstatat(dir, "current", &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT) {
		*ret = json_pack("{s:i, s:[], s:{}}", "v", 1, "images", "xattrs");
		return 0;
	}
	return pull_shared_open(dir, old, ret_err) < 0
	               ? -1
	               : pull_shared_read(dir, old, NULL, ret, ret_err);
}

static int run(
        struct exporting *x, const json_t *first, json_t *record, struct berth_error **ret_err)
{
	char old[PULL_SHARED_GENERATION + 1];
	json_t *doc = NULL, *l;
	size_t i;

	if (read_old(x->dir, old, &doc, ret_err) < 0)
		return -1;
	int r = 0;
	json_array_foreach (json_object_get(record, "layers"), i, l) {
		const char *chain = json_string_value(json_object_get(l, "chain_id"));
		if (r == 0 && (!chain || !pull_digest_valid(chain)))
			r = berth_error_set(ret_err, BERTH_INTERNAL, "a malformed record");
		if (r == 0)
			r = export_layer(x, i, chain, ret_err);
	}
	if (r == 0) {
		merge(x, doc, first, record);
		r = publish(x, old, doc, ret_err);
	}
	json_decref(doc);
	return r;
}

int pull_export_run(
        const struct pull_session *s, int dir, const json_t *first, struct berth_error **ret_err)
{
	/* What came is a mount, not open for syncing. */
	_cleanup_close_ int own = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct exporting x = {.s = s, .dir = own, .xattrs = json_object()};
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int lock = -1;
	size_t len = 0;
	json_t *record = NULL;

	int fd = pull_wire_wait_record(s->wire);
	int r = berth_read_fd(fd, BERTH_PULL_RECORD, &text, &len);
	berth_close(fd);
	if (r == 0)
		record = json_loadb(text, len, 0, NULL);
	r = record && own >= 0
	            ? prepare(own, &lock, ret_err)
	            : berth_error_set(ret_err, BERTH_INTERNAL, "no readable record, or no store");
	if (r == 0)
		r = run(&x, first, record, ret_err);
	json_decref(record);
	json_decref(x.xattrs);
	if (r < 0)
		return -1;
	return pull_wire_send(s->wire, json_pack("{s:s}", "t", "exported"), -1, ret_err);
}
