/* force_mask: files and directories of image layers have one mode on the disk, and their owner and
 * mode in an attribute that fuse-overlayfs shows instead. It looks for the attribute at the layer's
 * root, and then wants it of all in the layer. */
#include "overlay.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define STAT_XATTR "user.containers.override_stat"
#define FIELD "masked"
#define VALUE_MAX 64

enum { OPEN = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC };

bool mask_parse(const char *text, mode_t *ret)
{
	char *end;

	if (strcmp(text, "shared") == 0 || strcmp(text, "private") == 0) {
		*ret = text[0] == 's' ? 0755 : 0700;
		return true;
	}
	if (!*text || text[strspn(text, "01234567")])
		return false;
	unsigned long mode = strtoul(text, &end, 8);
	*ret = (mode_t)mode;
	return mode <= 0777;
}

bool mask_has(const struct snap *s)
{
	uint64_t yes;
	return own_u64(s->own, FIELD, &yes) && yes == 1;
}

/* The attribute comes first: where this is interrupted, it tells what the mode was. It may also be
 * there as a file has several names, or as the directory below was adopted with it; no image brings
 * it. */
static int mask_one(int fd, mode_t mask)
{
	char value[VALUE_MAX];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	int n = snprintf(value, sizeof(value), "%u:%u:0%o", (unsigned)st.st_uid,
	        (unsigned)st.st_gid, (unsigned)st.st_mode & 07777);
	if (fsetxattr(fd, STAT_XATTR, value, (size_t)n, XATTR_CREATE) < 0 && errno != EEXIST)
		return -errno;
	return fchmod(fd, mask) < 0 ? -errno : 0;
}

struct dir {
	struct dir *next;
	char path[];
};

static int later(struct dir **list, const char *path, const char *name)
{
	size_t n = strlen(path) + strlen(name) + 2;
	struct dir *d = malloc(sizeof(*d) + n);

	if (!d)
		return -ENOMEM;
	snprintf(d->path, n, "%s/%s", path, name);
	d->next = *list;
	*list = d;
	return 0;
}

/* Its directories are for later: layers nest deeper than files may be open. */
static int mask_names(int fd, const char *path, mode_t mask, struct dir **list)
{
	DIR *dir = fdopendir(fd);
	struct dirent *e;
	struct stat st;
	int r = 0;

	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	for (errno = 0; r == 0 && (e = readdir(dir)); errno = 0) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			r = -errno;
		} else if (S_ISDIR(st.st_mode)) {
			r = later(list, path, e->d_name);
		} else if (S_ISREG(st.st_mode)) {
			int file = openat(fd, e->d_name, OPEN);
			r = file < 0 ? -errno : mask_one(file, mask);
			if (file >= 0)
				close(file);
		}
	}
	if (r == 0)
		r = -errno;
	closedir(dir);
	return r;
}

int mask_layer(struct store *st, struct berth_op *op, struct snap *s, int dirfd)
{
	const struct overlay *o = st->self;
	struct dir *list = NULL;
	int r = 0;

	if (!o->mask || !s->layer || s->external)
		return 0;
	if (later(&list, ".", "fs") < 0)
		return -ENOMEM;
	while (list) {
		struct dir *d = list;
		list = d->next;
		if (r == 0 && st->host->op_cancelled(op))
			r = -ECANCELED;
		int fd = r < 0 ? -1 : openat(dirfd, d->path, OPEN | O_DIRECTORY);
		if (r == 0)
			r = fd < 0 ? -errno : mask_one(fd, *o->mask);
		if (r == 0)
			r = mask_names(fd, d->path, *o->mask, &list); /* it closes it */
		else if (fd >= 0)
			close(fd);
		free(d);
	}
	if (r == 0 && !mask_has(s)) {
		size_t n = strlen(s->own);
		snprintf(s->own + n, sizeof(s->own) - n, "%s" FIELD "=1", n ? " " : "");
	}
	return r;
}

int mask_root(struct store *st, int dirfd, const char *name, const struct snap *parent)
{
	char leaf[LEAF_PATH], value[VALUE_MAX + 1];
	unsigned int uid, gid, mode;

	if (!mask_has(parent))
		return 0;
	store_leaf(parent, "fs", leaf);
	int fd = openat(store_dirfd(st, parent->kind), leaf, OPEN | O_DIRECTORY);
	ssize_t n = fd < 0 ? -1 : fgetxattr(fd, STAT_XATTR, value, VALUE_MAX);
	int r = n < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (r < 0)
		return r;
	value[n] = '\0';
	if (sscanf(value, "%u:%u:%o", &uid, &gid, &mode) != 3)
		return -EINVAL;
	return fchownat(dirfd, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	                       fchmodat(dirfd, name, mode & 07777, 0) < 0
	               ? -errno
	               : 0;
}

/* The kernel's overlay would show every file with the mask's mode. */
const struct snap *mask_unshown(const struct overlay *o, const struct snap *top)
{
	for (const struct snap *s = top; s && !o->program; s = s->parent)
		if (mask_has(s))
			return s;
	return NULL;
}
