/* What hooks use to describe mounts and to make content. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

uint64_t store_now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

berth_status store_fail(
        struct store *st, struct berth_op *op, int r, const char *what, const char *key)
{
	int e = r < 0 ? -r : r;
	berth_status status =
	        e == ENOSPC || e == EDQUOT || e == EMFILE || e == ENFILE || e == ENOMEM
	                ? BERTH_E_EXHAUSTED
	        : e == ECANCELED ? BERTH_E_CANCELLED
	                         : BERTH_E_INTERNAL;

	errno = e;
	return berth_fail(st->host, op, status, "snapshot '%s': %s in '%s': %s", key, what,
	        st->root, strerror(e));
}

const char *store_dir(uint32_t kind)
{
	return kind == BERTH_SNAP_COMMITTED ? "layers" : "active";
}

int store_dirfd(struct store *st, uint32_t kind)
{
	return kind == BERTH_SNAP_COMMITTED ? st->layers_fd : st->active_fd;
}

void store_leaf(const struct snap *s, const char *leaf, char out[LEAF_PATH])
{
	char name[NAME_LIMIT + 1];

	(void)name_encode(s->key, name); /* it was valid when it came in */
	snprintf(out, LEAF_PATH, "%s/%s", name, leaf);
}

char *store_path(struct store *st, struct berth_op *op, const struct snap *s, const char *leaf)
{
	char name[NAME_LIMIT + 1];
	size_t n = strlen(st->root) + NAME_LIMIT + strlen(leaf) + 32;
	char *path = st->host->op_alloc(op, n);

	(void)name_encode(s->key, name);
	snprintf(path, n, "%s/%s/%s/%s", st->root, store_dir(s->kind), name, leaf);
	return path;
}

uint32_t store_chain(const struct snap *s)
{
	uint32_t n = 0;

	for (; s; s = s->parent)
		n++;
	return n;
}

berth_status store_mount(struct store *st, struct berth_op *op, const char *type,
        const char *source, const char *const *options, struct berth_mounts_result *res)
{
	struct berth_mount *m = st->host->op_alloc(op, sizeof(*m));
	const struct berth_mount **v = st->host->op_alloc(op, sizeof(*v));

	m->size = sizeof(*m);
	m->type = type;
	m->source = source;
	m->options = options;
	v[0] = m;
	res->mounts = v;
	res->n = 1;
	return BERTH_OK;
}

berth_status store_bind(struct store *st, struct berth_op *op, const struct snap *s,
        const char *leaf, bool ro, struct berth_mounts_result *res)
{
	const char **options = st->host->op_alloc(op, 3 * sizeof(*options));

	options[0] = "bind";
	options[1] = ro ? "ro" : "rw";
	return store_mount(st, op, "bind", store_path(st, op, s, leaf), options, res);
}

/* -EOVERFLOW where no range holds the id. */
static int map_id(const struct berth_idmap *maps, uint32_t n, uint32_t *id)
{
	if (n == 0)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		if (*id >= maps[i].container_id && *id - maps[i].container_id < maps[i].count) {
			*id = maps[i].host_id + (*id - maps[i].container_id);
			return 0;
		}
	}
	return -EOVERFLOW;
}

int store_like_parent(struct store *st, int dirfd, const char *name, const struct snap *parent,
        const struct berth_snap_args *a)
{
	char path[LEAF_PATH];
	struct stat info;

	/* What lies elsewhere may not answer. */
	store_leaf(parent, parent->external ? "root" : "fs", path);
	if (fstatat(st->layers_fd, path, &info, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	struct timespec times[2] = {info.st_atim, info.st_mtim};
	int r = map_id(a->uid_maps, a->n_uid_maps, &info.st_uid);
	if (r == 0)
		r = map_id(a->gid_maps, a->n_gid_maps, &info.st_gid);
	if (r < 0)
		return r;
	if (fchownat(dirfd, name, info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	        fchmodat(dirfd, name, info.st_mode & 07777, 0) < 0 ||
	        utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}
