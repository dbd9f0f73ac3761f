#include "aufs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "berth/util.h"

#define SCRATCH "probe"
#define OVERLAY_MAGIC 0x794c7630
#define AUFS_MAGIC 0x61756673

static berth_status unfit(struct store *st, struct berth_op *op, int e, const char *why)
{
	return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s in '%s': %s%s%s",
	        st->host->plugin_name, st->root, why, e ? ": " : "", e ? strerror(e) : "");
}

/* One option as the mount takes it: "key=value" or "flag". */
static int give(int fs, const char *option)
{
	char key[64];
	size_t n = strcspn(option, "=");

	if (option[n] == '\0')
		return fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0) < 0 ? -errno : 0;
	if (n >= sizeof(key))
		return -EINVAL;
	memcpy(key, option, n);
	key[n] = '\0';
	return fsconfig(fs, FSCONFIG_SET_STRING, key, option + n + 1, 0) < 0 ? -errno : 0;
}

static int give_dir(int fs, const char *key, int dirfd, const char *mode)
{
	char option[96];

	if (dirfd < 0)
		return -errno;
	snprintf(option, sizeof(option), "%s=/proc/self/fd/%d%s", key, dirfd, mode);
	return give(fs, option);
}

/* 0, or a negative errno with what was refused in *what. */
static int give_all(int fs, const struct aufs *d, int upper, int lower, int xino, const char **what)
{
	int r = 0;

	*what = NULL;
	if ((r = give_dir(fs, "br", upper, "=rw")) < 0 ||
	        (r = give_dir(fs, "append", lower, "=ro+wh")) < 0)
		return r;
	*what = "xino_dir";
	r = give_dir(fs, "xino", xino, "/" SCRATCH);
	for (size_t i = 0; r == 0 && d->options[i]; i++) {
		*what = d->options[i];
		r = give(fs, d->options[i]);
	}
	if (r < 0)
		return r;
	*what = NULL;
	return fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -errno : 0;
}

/* Tries a mount that is attached nowhere. */
static berth_status try_mount(struct store *st, struct berth_op *op, int fs, int dirfd)
{
	const struct aufs *d = st->self;
	int upper = openat(dirfd, "upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int lower = openat(dirfd, "lower", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int xino = d->xino_dir ? open(d->xino_dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : dup(dirfd);
	const int fds[] = {upper, lower, xino};
	const char *what;
	char why[512];

	int r = give_all(fs, d, upper, lower, xino, &what);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (r == 0)
		return BERTH_OK;
	if (what)
		snprintf(why, sizeof(why), "aufs refuses '%s'", what);
	else
		snprintf(why, sizeof(why),
		        "the kernel does not mount an aufs there; its log may say why");
	return unfit(st, op, -r, why);
}

static berth_status probe_in(struct store *st, struct berth_op *op, int fs)
{
	(void)store_delete_tree(st, op, st->new_fd, SCRATCH); /* left by a crash */
	int fd = mkdirat(st->new_fd, SCRATCH, 0700) < 0
	                 ? -1
	                 : openat(st->new_fd, SCRATCH, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool made = fd >= 0 && mkdirat(fd, "upper", 0700) == 0 && mkdirat(fd, "lower", 0700) == 0;
	int e = errno;
	berth_status r = BERTH_OK;
	if (made)
		r = try_mount(st, op, fs, fd);
	else if (!store_lacks_room(st, op, e))
		r = unfit(st, op, e, "cannot make directories");
	if (fd >= 0)
		close(fd);
	return r;
}

static bool listed(void)
{
	char line[128];
	bool found = false;
	FILE *f = fopen("/proc/filesystems", "re");

	while (f && !found && fgets(line, sizeof(line), f))
		found = strcmp(line, "nodev\taufs\n") == 0;
	if (f)
		fclose(f);
	return found;
}

berth_status aufs_probe(struct store *st, struct berth_op *op)
{
	struct statfs on;

	/* Opening the type loads the module where there is one. */
	int fs = fsopen("aufs", FSOPEN_CLOEXEC);
	if (fs < 0 && (errno == ENODEV || !listed()))
		return unfit(st, op, 0,
		        "this kernel has no aufs file system (not in /proc/filesystems, and no "
		        "module 'aufs')");
	if (fs < 0)
		return unfit(st, op, errno, "aufs cannot be mounted (CAP_SYS_ADMIN is needed)");
	berth_status r = BERTH_OK;
	if (fstatfs(st->root_fd, &on) == 0 &&
	        (on.f_type == OVERLAY_MAGIC || on.f_type == AUFS_MAGIC))
		r = unfit(st, op, 0,
		        "the directory lies on a union of file systems, which aufs takes no branch "
		        "of");
	if (r == BERTH_OK)
		r = probe_in(st, op, fs);
	close(fs); /* and with it the mount that was tried */
	(void)store_delete_tree(st, op, st->new_fd, SCRATCH); /* else the next start does */
	return r;
}
