#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "pull/confine.h"

/* What name resolution, TLS and the loader of their modules need. Links are made as they are, files
 * copied, directories mounted: of /etc/ssl the part without private keys. */
static const char *const needed[] = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache",
        "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf",
        "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs",
        "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates/extracted",
        "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"};

enum kind { KIND_DIR, KIND_FILE, KIND_LINK };

struct item {
	const char *path;
	enum kind kind;
	int tree;   /* KIND_DIR: a detached clone of the mount */
	char *text; /* KIND_FILE, KIND_LINK */
	size_t len;
};

struct items {
	struct item *v;
	size_t n;
};

static void items_finish(struct items *l)
{
	for (size_t i = 0; i < l->n; i++) {
		berth_close(l->v[i].tree);
		free(l->v[i].text);
	}
	free(l->v);
}

static int set_flags(int fd, uint64_t attrs)
{
	struct mount_attr a = {.attr_set = attrs, .propagation = MS_PRIVATE};
	return mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof(a)) < 0 ? -errno : 0;
}

static bool is_library_dir(const char *path)
{
	return strncmp(path, "/lib", 4) == 0 || strncmp(path, "/usr/lib", 8) == 0;
}

static int take_dir(struct item *it)
{
	it->kind = KIND_DIR;
	it->tree = open_tree(AT_FDCWD, it->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (it->tree < 0)
		return -errno;
	return set_flags(it->tree, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
	                                   (is_library_dir(it->path) ? 0 : MOUNT_ATTR_NOEXEC));
}

/* Everything is opened before anything is covered. */
static int take(struct items *l, const char *path, bool follow, struct berth_error **ret_err)
{
	struct item it = {.path = path, .tree = -1};
	struct stat st;
	int r = 0;

	if (fstatat(AT_FDCWD, path, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || errno == ENOTDIR
		               ? 0
		               : berth_error_errno(ret_err, errno, "stat '%s'", path);
	if (S_ISDIR(st.st_mode)) {
		r = take_dir(&it);
	} else if (S_ISREG(st.st_mode)) {
		it.kind = KIND_FILE;
		r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &it.text, &it.len);
	} else if (S_ISLNK(st.st_mode)) {
		it.kind = KIND_LINK;
		it.text = berth_zalloc(PATH_MAX);
		r = readlink(path, it.text, PATH_MAX - 1) < 0 ? -errno : 0;
	} else {
		return 0;
	}
	if (r < 0) {
		berth_close(it.tree);
		free(it.text);
		return berth_error_errno(ret_err, r, "take over '%s'", path);
	}
	l->v = berth_reallocarray(l->v, l->n + 1, sizeof(*l->v));
	l->v[l->n++] = it;
	return 0;
}

static int take_all(
        const struct pull_confine_opts *o, struct items *l, struct berth_error **ret_err)
{
	for (size_t i = 0; o->network && i < BERTH_ARRAY_LEN(needed); i++) {
		/* /lib may be a link to usr/lib, which is taken itself. */
		bool follow = strncmp(needed[i], "/lib", 4) != 0;
		if (take(l, needed[i], follow, ret_err) < 0)
			return -1;
	}
	for (size_t i = 0; o->files && o->files[i]; i++)
		if (o->files[i][0] == '/' && take(l, o->files[i], true, ret_err) < 0)
			return -1;
	return 0;
}

static int make_parents(int root, const char *rel)
{
	_cleanup_free_ char *copy = berth_strdup(rel);

	for (char *p = strchr(copy, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdirat(root, copy, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return 0;
}

static int put(int root, const struct item *it)
{
	const char *rel = it->path + strspn(it->path, "/");

	int r = make_parents(root, rel);
	if (r < 0)
		return r;
	switch (it->kind) {
	case KIND_LINK:
		return symlinkat(it->text, root, rel) < 0 && errno != EEXIST ? -errno : 0;
	case KIND_FILE: {
		_cleanup_close_ int fd = openat(
		        root, rel, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
		/* A directory that was taken holds it already. */
		if (fd < 0)
			return errno == EROFS ? 0 : -errno;
		return berth_write_all(fd, it->text, it->len);
	}
	case KIND_DIR:
		break;
	}
	if (mkdirat(root, rel, 0755) < 0 && errno != EEXIST)
		return errno == EROFS ? 0 : -errno;
	return move_mount(it->tree, "", root, rel, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

static int make_tmpfs(void)
{
	_cleanup_close_ int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "size", "64m", 0) < 0 ||
	        fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0755", 0) < 0 ||
	        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	int fd = fsmount(
	        fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The new root is put over /proc, which each host has, becomes the root, and what was the root goes
 * with all its mounts. */
static int change_root(int root)
{
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
	        umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	return set_flags(root, MOUNT_ATTR_RDONLY);
}

int pull_confine_root(const struct pull_confine_opts *o, struct berth_error **ret_err)
{
	_cleanup_(items_finish) struct items l = {0};

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return berth_error_errno(ret_err, errno, "make the mounts private");
	if (take_all(o, &l, ret_err) < 0)
		return -1;
	_cleanup_close_ int root = make_tmpfs();
	if (root < 0)
		return berth_error_errno(ret_err, root, "make a tmpfs");
	if (move_mount(root, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return berth_error_errno(ret_err, errno, "mount a tmpfs");
	for (size_t i = 0; i < l.n; i++) {
		int r = put(root, &l.v[i]);
		if (r < 0)
			return berth_error_errno(ret_err, r, "put '%s' in place", l.v[i].path);
	}
	int r = change_root(root);
	if (r < 0)
		return berth_error_errno(ret_err, r, "change the root");
	return 0;
}
