/* SELinux labels of files that others may be changing meanwhile: nothing is followed, nothing that
 * is mounted beneath is entered, and each file is held open while its label is set. */
#include "mount/relabel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define XATTR "security.selinux"
#define LABEL_MAX 4096

/* The node's own: with a container's label on them it would not boot, or let anybody in. */
static const char *const kept[] = {"/", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow",
        "/etc/ssl", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var",
        "/var/cache", "/var/lib", "/var/log", "/var/run", "/var/spool", "/var/tmp"};
static const char *const kept_trees[] = {
        "/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"};

static bool beneath(const char *dir, const char *path)
{
	size_t n = strlen(dir);
	return strncmp(path, dir, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

static bool same(const struct stat *st, const char *path)
{
	struct stat other;
	return stat(path, &other) == 0 && st->st_dev == other.st_dev && st->st_ino == other.st_ino;
}

bool berth_relabel_allowed(const char *path)
{
	struct stat st;
	bool there = stat(path, &st) == 0;

	/* Also where it has been mounted under another name. */
	for (size_t i = 0; i < BERTH_ARRAY_LEN(kept); i++)
		if (strcmp(path, kept[i]) == 0 || (there && same(&st, kept[i])))
			return false;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(kept_trees); i++)
		if (beneath(kept_trees[i], path) || (there && same(&st, kept_trees[i])))
			return false;
	return true;
}

/* ---- one file ---- */

/* An O_PATH fd has no xattr calls of its own, and its link in /proc leads to the file itself, also
 * where that is a symbolic link. */
static void link_to(int fd, char out[32])
{
	snprintf(out, 32, "/proc/self/fd/%d", fd);
}

static bool has_label(int fd, const char *label)
{
	char at[32], now[LABEL_MAX];

	link_to(fd, at);
	ssize_t n = getxattr(at, XATTR, now, sizeof(now));
	size_t want = strlen(label);
	return n >= (ssize_t)want && memcmp(now, label, want) == 0 &&
	       ((size_t)n == want || ((size_t)n == want + 1 && now[want] == '\0'));
}

/* 0; 1 where the file system keeps no labels; or a negative errno. */
static int set_label(int fd, const char *label)
{
	char at[32];

	if (has_label(fd, label))
		return 0;
	link_to(fd, at);
	if (setxattr(at, XATTR, label, strlen(label) + 1, 0) == 0)
		return 0;
	return errno == ENOTSUP ? 1 : -errno;
}

static int not_labelled(const char *path, int r, struct berth_error **ret_err)
{
	berth_error_errno(ret_err, r, "label %s", path);
	if (r == -EROFS)
		(*ret_err)->code = BERTH_FAILED_PRECONDITION;
	return -1;
}

int berth_label_file(const char *path, const char *label, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : set_label(fd, label);

	return r < 0 ? not_labelled(path, r, ret_err) : 0;
}

/* ---- a tree ---- */

struct level {
	DIR *dir;
	int fd; /* the same directory, for its label */
	char *name;
};

struct walk {
	struct level v[BERTH_LIMIT_RELABEL_DEPTH];
	size_t n;
	const char *top, *label;
	bool (*go_on)(void *arg);
	void *arg;
	bool unlabelled; /* the file system keeps none */
	struct berth_error **ret_err;
};

static char *path_of(const struct walk *w, const char *name)
{
	struct berth_buf b = {0};

	berth_buf_adds(&b, w->top);
	for (size_t i = 1; i < w->n; i++)
		berth_buf_addf(&b, "/%s", w->v[i].name);
	if (name)
		berth_buf_addf(&b, "/%s", name);
	return berth_buf_steal(&b);
}

static int failed(const struct walk *w, int r, const char *name)
{
	_cleanup_free_ char *path = path_of(w, name);
	return not_labelled(path, r, w->ret_err);
}

static int put_label(struct walk *w, int fd, const char *name)
{
	int r = set_label(fd, w->label);

	w->unlabelled = r > 0;
	return r < 0 ? failed(w, r, name) : 0;
}

/* Takes `fd`. */
static int enter(struct walk *w, int fd, const char *name)
{
	if (w->n == BERTH_LIMIT_RELABEL_DEPTH) {
		berth_close(fd);
		return berth_error_set(w->ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "label %s: its directories go deeper than %d", w->top,
		        BERTH_LIMIT_RELABEL_DEPTH);
	}
	int list = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = list < 0 ? NULL : fdopendir(list);
	if (!dir) {
		int r = -errno;
		berth_close(list);
		berth_close(fd);
		return failed(w, r, name);
	}
	w->v[w->n++] = (struct level){.dir = dir, .fd = fd, .name = berth_strdup(name)};
	return 0;
}

static void leave(struct walk *w)
{
	struct level *l = &w->v[--w->n];

	closedir(l->dir);
	berth_close(l->fd);
	free(l->name);
}

static int open_entry(const struct level *l, const char *name)
{
	const struct open_how how = {
	        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
	        .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS,
	};
	int fd = (int)syscall(SYS_openat2, dirfd(l->dir), name, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

static int entry(struct walk *w, const char *name)
{
	struct stat st;
	_cleanup_close_ int fd = open_entry(&w->v[w->n - 1], name);

	/* It is gone, or something is mounted there, which is not of this volume. */
	if (fd == -ENOENT || fd == -EXDEV) {
		fd = -1;
		return 0;
	}
	if (fd < 0) {
		int r = fd;
		fd = -1;
		return failed(w, r, name);
	}
	if (fstat(fd, &st) < 0)
		return failed(w, -errno, name);
	if (S_ISDIR(st.st_mode))
		return enter(w, berth_take_fd(&fd), name);
	return put_label(w, fd, name);
}

/* A directory after all that is in it: so the topmost one tells that a walk came to its end. */
static int step(struct walk *w)
{
	struct level *l = &w->v[w->n - 1];

	if (w->go_on && !w->go_on(w->arg))
		return berth_error_set(
		        w->ret_err, BERTH_CANCELLED, "label %s: not wanted any more", w->top);
	errno = 0;
	const struct dirent *e = readdir(l->dir);
	if (e) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			return 0;
		return entry(w, e->d_name);
	}
	int r = errno ? failed(w, -errno, NULL) : put_label(w, l->fd, NULL);
	leave(w);
	return r;
}

int berth_relabel(const char *path, const char *label, bool (*go_on)(void *arg), void *arg,
        struct berth_error **ret_err)
{
	/* Where a link has come meanwhile, it is not the tree that was asked for. */
	const struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
	        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	_cleanup_close_ int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return berth_error_errno(ret_err, errno, "label %s", path);
	if (has_label(fd, label))
		return 0;
	if (!S_ISDIR(st.st_mode)) {
		int r = set_label(fd, label);
		return r < 0 ? not_labelled(path, r, ret_err) : 0;
	}
	struct walk *w = berth_new(struct walk);
	*w = (struct walk){
	        .top = path, .label = label, .go_on = go_on, .arg = arg, .ret_err = ret_err};
	int r = enter(w, berth_take_fd(&fd), NULL);
	/* One mount, one file system: what holds for one file does for all. */
	while (r == 0 && w->n > 0 && !w->unlabelled)
		r = step(w);
	while (w->n > 0)
		leave(w);
	free(w);
	return r;
}
