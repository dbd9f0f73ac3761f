/* Walks through trees of a container's making: deep, with mounts and links in them. */
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HARDLINKS_MAX 65536 /* remembered while usage is summed up; more are counted twice */

/* A mount left in a snapshot must not be emptied. */
int tree_open(int dirfd, const char *name)
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

bool tree_dots(const char *n)
{
	return strcmp(n, ".") == 0 || strcmp(n, "..") == 0;
}

struct walk {
	struct store *st;
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
	int fd = tree_open(parent, name), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	bool (*skips)(const char *name) = w->st->driver->skips;
	struct dirent *e;
	struct stat info;

	if (fd < 0)
		return fd == -ENOENT || fd == -EBUSY ? 0 : fd;
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	while (r == 0 && (e = readdir(dir))) {
		if (tree_dots(e->d_name) || (depth == 0 && skips && skips(e->d_name)))
			continue;
		if (w->st->host->op_cancelled(w->op))
			r = -ECANCELED;
		else if (fstatat(fd, e->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0)
			r = errno == ENOENT ? 0 : -errno; /* a container works there */
		else if (!S_ISDIR(info.st_mode) && info.st_nlink > 1 && seen_before(w, info.st_ino))
			continue;
		else {
			w->u->bytes += (uint64_t)info.st_blocks * 512;
			w->u->inodes++;
			if (S_ISDIR(info.st_mode) && depth < DEPTH_MAX)
				r = walk_dir(w, fd, e->d_name, depth + 1);
		}
	}
	closedir(dir);
	return r;
}

int store_tree_usage(
        struct store *st, struct berth_op *op, int dirfd, const char *name, struct usage *u)
{
	struct walk w = {.st = st, .op = op, .u = u};

	*u = (struct usage){0};
	int r = walk_dir(&w, dirfd, name, 0);
	free(w.links);
	return r;
}
