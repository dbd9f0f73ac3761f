#include "overlay.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A tree of a container's making may be deeper than any stack or table of files: what lies deeper
 * than this is moved up to the top of the trash and deleted from there. */
#define DEPTH_MAX 48
#define HARDLINKS_MAX 65536 /* remembered while usage is summed up; more are counted twice */

/* Follows no link and enters no other mount: a mount left in a snapshot must not be emptied. */
static int open_dir(int dirfd, const char *name)
{
	struct open_how how = {
	        .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
	        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
	};
	int fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));

	if (fd < 0)
		return errno == EXDEV ? -EBUSY : -errno;
	return fd;
}

static bool dots(const char *n)
{
	return strcmp(n, ".") == 0 || strcmp(n, "..") == 0;
}

static void trash_name(struct driver *d, char out[TRASH_NAME])
{
	snprintf(out, TRASH_NAME, "%llu",
	        (unsigned long long)__atomic_add_fetch(&d->serial, 1, __ATOMIC_RELAXED));
}

int trash_add(struct driver *d, int dirfd, const char *name, char ret_name[TRASH_NAME])
{
	char to[TRASH_NAME];

	do {
		trash_name(d, to);
		if (renameat2(dirfd, name, d->trash_fd, to, RENAME_NOREPLACE) == 0) {
			if (ret_name)
				memcpy(ret_name, to, sizeof(to));
			return 0;
		}
	} while (errno == EEXIST); /* of an earlier run */
	return -errno;
}

/* How long a deletion may go on. */
struct sweep {
	struct driver *d;
	struct berth_op *op;
	uint64_t until_ns; /* 0: to its end */
};

static int give_up(const struct sweep *s)
{
	if (s->d->host->op_cancelled(s->op) || __atomic_load_n(&s->d->stopping, __ATOMIC_RELAXED))
		return -ECANCELED;
	return s->until_ns && now_ns(CLOCK_MONOTONIC) > s->until_ns ? -ETIME : 0;
}

static int remove_dir(const struct sweep *s, int parent, const char *name, int depth);

static int remove_entry(const struct sweep *s, int dirfd, const struct dirent *e, int depth)
{
	int r = give_up(s);

	if (r < 0)
		return r;
	if (e->d_type != DT_DIR) {
		if (unlinkat(dirfd, e->d_name, 0) == 0 || errno == ENOENT)
			return 0;
		if (errno != EISDIR)
			return -errno;
	}
	return remove_dir(s, dirfd, e->d_name, depth);
}

static int remove_dir(const struct sweep *s, int parent, const char *name, int depth)
{
	if (depth > DEPTH_MAX) {
		int moved = trash_add(s->d, parent, name, NULL);
		return moved == -ENOENT ? 0 : moved;
	}
	int fd = open_dir(parent, name), r = 0;
	if (fd == -ENOENT)
		return 0;
	if (fd == -ENOTDIR || fd == -ELOOP)
		return unlinkat(parent, name, 0) < 0 && errno != ENOENT ? -errno : 0;
	if (fd < 0)
		return fd;
	DIR *dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	struct dirent *e;
	while (r == 0 && (e = readdir(dir)))
		if (!dots(e->d_name))
			r = remove_entry(s, fd, e, depth + 1);
	closedir(dir);
	if (r == 0 && unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

/* One look at everything in the trash. Returns how much of it was deleted. */
static uint64_t empty_once(const struct sweep *s, DIR *dir, int *err, char where[NAME_LIMIT + 1])
{
	uint64_t deleted = 0;
	struct dirent *e;

	*err = 0;
	rewinddir(dir);
	while ((e = readdir(dir)) && give_up(s) == 0) {
		if (dots(e->d_name))
			continue;
		int r = remove_dir(s, s->d->trash_fd, e->d_name, 0);
		if (r == 0) {
			deleted++;
		} else if (*err == 0) {
			*err = r;
			snprintf(where, NAME_LIMIT + 1, "%s", e->d_name);
		}
	}
	return deleted;
}

static int sweep_all(const struct sweep *s, char where[NAME_LIMIT + 1])
{
	int fd = openat(s->d->trash_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	where[0] = '\0';
	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	/* A deep tree comes back in pieces. */
	while (empty_once(s, dir, &r, where) > 0)
		;
	closedir(dir);
	return r == 0 ? give_up(s) : r;
}

int trash_empty(struct driver *d, struct berth_op *op, char where[NAME_LIMIT + 1])
{
	const struct sweep s = {.d = d, .op = op};

	return sweep_all(&s, where);
}

int trash_delete(struct driver *d, struct berth_op *op, const char *name, uint64_t budget_ns)
{
	char where[NAME_LIMIT + 1];
	uint64_t before = __atomic_load_n(&d->serial, __ATOMIC_RELAXED);
	const struct sweep s = {
	        .d = d, .op = op, .until_ns = budget_ns ? now_ns(CLOCK_MONOTONIC) + budget_ns : 0};
	int r = remove_dir(&s, d->trash_fd, name, 0);

	if (r == 0 && __atomic_load_n(&d->serial, __ATOMIC_RELAXED) != before)
		r = sweep_all(&s, where);
	return r;
}

/* ---- usage ---- */

struct walk {
	struct driver *d;
	struct berth_op *op;
	struct usage *u;
	uint64_t *links; /* inodes with several names that were counted: a hash table, 0 = free */
	size_t n_links, cap_links;
};

static bool put_link(uint64_t *table, size_t cap, uint64_t ino)
{
	size_t i = (size_t)(ino * 0x9E3779B97F4A7C15ull >> 32) & (cap - 1);

	for (; table[i]; i = (i + 1) & (cap - 1))
		if (table[i] == ino)
			return false;
	table[i] = ino;
	return true;
}

static bool seen_before(struct walk *w, uint64_t ino)
{
	if (w->n_links * 2 >= w->cap_links && w->n_links < HARDLINKS_MAX) {
		size_t cap = w->cap_links ? w->cap_links * 2 : 256;
		uint64_t *p = calloc(cap, sizeof(*p));
		if (p) {
			for (size_t i = 0; i < w->cap_links; i++)
				if (w->links[i])
					put_link(p, cap, w->links[i]);
			free(w->links);
			w->links = p;
			w->cap_links = cap;
		}
	}
	if (w->n_links * 2 > w->cap_links)
		return false;
	if (!put_link(w->links, w->cap_links, ino))
		return true;
	w->n_links++;
	return false;
}

static int walk_dir(struct walk *w, int parent, const char *name, int depth)
{
	int fd = open_dir(parent, name), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct stat st;

	if (fd < 0)
		return fd == -ENOENT || fd == -EBUSY ? 0 : fd;
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	while (r == 0 && (e = readdir(dir))) {
		if (dots(e->d_name))
			continue;
		if (w->d->host->op_cancelled(w->op))
			r = -ECANCELED;
		else if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			r = errno == ENOENT ? 0 : -errno; /* a container works there */
		else if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && seen_before(w, st.st_ino))
			continue;
		else {
			w->u->bytes += (uint64_t)st.st_blocks * 512;
			w->u->inodes++;
			if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
				r = walk_dir(w, fd, e->d_name, depth + 1);
		}
	}
	closedir(dir);
	return r;
}

int tree_usage(struct driver *d, struct berth_op *op, int dirfd, const char *name, struct usage *u)
{
	struct walk w = {.d = d, .op = op, .u = u};

	*u = (struct usage){0};
	int r = walk_dir(&w, dirfd, name, 0);
	free(w.links);
	return r;
}
