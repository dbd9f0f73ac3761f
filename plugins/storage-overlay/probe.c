#include "overlay.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "berth/util.h"

#define SCRATCH "probe"
#define MARKS "opaque-marks"

static berth_status unfit(struct store *st, struct berth_op *op, const char *why)
{
	return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s in '%s': %s%s%s",
	        st->host->plugin_name, st->root, why, errno ? ": " : "",
	        errno ? strerror(errno) : "");
}

/* Tries a mount that is attached nowhere. Returns 0, or a negative errno with the kernel's words.
 */
static int set_options(int fs, const struct overlay *o, bool with_volatile)
{
	const char *const options[] = {o->redirect, o->metacopy};
	char key[32];

	if (with_volatile && fsconfig(fs, FSCONFIG_SET_FLAG, "volatile", NULL, 0) < 0)
		return -errno;
	if (o->userxattr && fsconfig(fs, FSCONFIG_SET_FLAG, "userxattr", NULL, 0) < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		if (!options[i])
			continue;
		size_t n = strcspn(options[i], "=");
		snprintf(key, sizeof(key), "%.*s", (int)n, options[i]);
		if (fsconfig(fs, FSCONFIG_SET_STRING, key, options[i] + n + 1, 0) < 0)
			return -errno;
	}
	return 0;
}

static int try_mount(const struct overlay *o, int dirfd, bool with_volatile, char said[256])
{
	static const char *const keys[] = {"lowerdir", "upperdir", "workdir"};
	static const char *const dirs[] = {"lower", "upper", "work"};
	int fds[3] = {-1, -1, -1}, r = 0, mnt = -1;
	char value[64];

	said[0] = '\0';
	int fs = fsopen("overlay", FSOPEN_CLOEXEC);
	if (fs < 0)
		return -errno;
	for (int i = 0; i < 3 && r == 0; i++) {
		fds[i] = openat(dirfd, dirs[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		snprintf(value, sizeof(value), "/proc/self/fd/%d", fds[i]);
		if (fds[i] < 0 || fsconfig(fs, FSCONFIG_SET_STRING, keys[i], value, 0) < 0)
			r = -errno;
	}
	if (r == 0)
		r = set_options(fs, o, with_volatile);
	if (r == 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		r = -errno;
	if (r == 0 && (mnt = fsmount(fs, FSMOUNT_CLOEXEC, 0)) < 0)
		r = -errno;
	if (r < 0) {
		ssize_t n = read(fs, said, 255);
		said[n > 0 ? n : 0] = '\0';
		said[strcspn(said, "\n")] = '\0';
	}
	if (mnt >= 0)
		close(mnt);
	close(fs);
	for (int i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return r;
}

/* Entry types in directory listings: without them overlay hides whiteouts wrongly. */
static bool lists_types(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	bool ok = dir != NULL;
	struct dirent *e;

	while (ok && (e = readdir(dir)))
		if (e->d_type == DT_UNKNOWN)
			ok = false;
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
	return ok;
}

static berth_status probe_in(struct store *st, struct berth_op *op, int fd)
{
	struct overlay *o = st->self;
	char path[64], said[256], why[512];

	errno = 0;
	if (!lists_types(fd))
		return unfit(st, op,
		        "the file system does not tell types of directory entries "
		        "(for XFS: ftype=1)");
	if (mknodat(fd, "upper/whiteout", S_IFCHR, 0) < 0)
		return unfit(st, op, "cannot make whiteouts (character devices)");
	snprintf(path, sizeof(path), "/proc/self/fd/%d/upper", fd);
	if (setxattr(path, o->userxattr ? "user.overlay.opaque" : "trusted.overlay.opaque", "y", 1,
	            0) < 0)
		return unfit(st, op,
		        o->userxattr ? "cannot set user.* attributes"
		                     : "cannot set trusted.* attributes (userxattr: true does "
		                       "without)");
	if (o->mask && setxattr(path, "user.containers.probe", "y", 1, 0) < 0)
		return unfit(st, op, "cannot set user.* attributes, which force_mask needs");
	if (o->program)
		return BERTH_OK;
	int r = try_mount(o, fd, false, said);
	if (r < 0) {
		snprintf(why, sizeof(why), "the kernel does not mount an overlay there%s%s",
		        said[0] ? ": " : "", said[0] ? said + 2 : "");
		errno = -r;
		return unfit(st, op, why);
	}
	if (o->use_volatile && try_mount(o, fd, true, said) < 0)
		o->use_volatile = false; /* Linux 5.10 has it */
	return BERTH_OK;
}

/* Which attributes mark opaque directories is the same for all layers: the kernel knows but one
 * kind of them in a mount. */
static berth_status check_marks(struct store *st, struct berth_op *op)
{
	const struct overlay *o = st->self;
	const char *want = o->userxattr ? "user\n" : "trusted\n";
	char have[16] = "";

	int r = store_read_small(st->root_fd, MARKS, have, sizeof(have));
	if (r == 0 && strcmp(have, want) == 0)
		return BERTH_OK;
	/* Before there was a choice they were trusted; a note that was torn had no layers yet. */
	bool user = strcmp(have, "user\n") == 0;
	r = user == o->userxattr ? 0 : store_in_use(st);
	if (r > 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s in '%s': there are layers that were made with userxattr %s: remove all "
		        "images first",
		        st->host->plugin_name, st->root, user ? "true" : "false");
	int fd = r < 0 ? -1
	               : openat(st->root_fd, MARKS,
	                         O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (r == 0 && (fd < 0 || write(fd, want, strlen(want)) < 0))
		r = -errno;
	if (fd >= 0)
		close(fd);
	errno = -r;
	return r < 0 ? unfit(st, op, "cannot note which attributes are used")
	             : (berth_status)BERTH_OK;
}

static bool listed(void)
{
	char line[128];
	bool found = false;
	FILE *f = fopen("/proc/filesystems", "re");

	while (f && !found && fgets(line, sizeof(line), f))
		found = strcmp(line, "nodev\toverlay\n") == 0;
	if (f)
		fclose(f);
	return found;
}

/* Opening the type loads the module where there is one. */
static berth_status check_kernel(struct store *st, struct berth_op *op)
{
	int fs = fsopen("overlay", FSOPEN_CLOEXEC);

	if (fs >= 0) {
		close(fs);
		return BERTH_OK;
	}
	if (errno != ENODEV && listed())
		return unfit(st, op, "overlays cannot be mounted (CAP_SYS_ADMIN is needed)");
	errno = 0;
	return unfit(st, op,
	        "this kernel has no overlay file system (not in /proc/filesystems, and no module "
	        "'overlay')");
}

/* Directories to try with: an fd of the one that holds them, or a negative errno. */
static int make_scratch(struct store *st)
{
	static const char *const dirs[] = {"lower", "upper", "work"};
	int fd = mkdirat(st->new_fd, SCRATCH, 0700) < 0
	                 ? -1
	                 : openat(st->new_fd, SCRATCH, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		if (mkdirat(fd, dirs[i], 0700) < 0) {
			int r = -errno;
			close(fd);
			return r;
		}
	}
	return fd;
}

berth_status probe_overlay(struct store *st, struct berth_op *op)
{
	struct overlay *o = st->self;
	berth_status status = o->program ? (berth_status)BERTH_OK : check_kernel(st, op);

	if (status != BERTH_OK)
		return status;
	int r = store_discard(st, st->new_fd, SCRATCH); /* left by a crash */
	if (r < 0 && r != -ENOENT) {
		errno = -r;
		return unfit(st, op, "cannot rename directories");
	}
	int fd = make_scratch(st);
	if (fd >= 0) {
		status = probe_in(st, op, fd);
		close(fd);
	} else if (store_lacks_room(st, op, fd)) {
		o->use_volatile = false;
	} else {
		errno = -fd;
		status = unfit(st, op, "cannot make directories");
	}
	(void)store_delete_tree(st, op, st->new_fd, SCRATCH); /* else the next start does */
	return status == BERTH_OK ? check_marks(st, op) : status;
}
