/* Mounts, through the kernel's mount API of file descriptors. What a storage driver describes
 * becomes a mount here and nowhere else. Everything may block: [worker], unless said otherwise. */
#ifndef BERTH_MOUNT_MOUNT_H
#define BERTH_MOUNT_MOUNT_H

#include <berth/plugin.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/limits.h"

#define BERTH_LIMIT_MOUNTS 64         /* mounts that one driver may describe for one target */
#define BERTH_LIMIT_MOUNT_OPTIONS 256 /* options of one mount */
#define BERTH_LIMIT_MOUNTINFO_LINE BERTH_KIB(256)
#define BERTH_LIMIT_OVERLAY_LAYERS 500 /* the kernel's own */

/* How a description reads:
 *   type     "bind", "rbind" (or the options of these names), else a file system's type
 *   source   for binds the path; else what /proc/mounts shows or the file system demands
 *   target   NULL or "": the target itself; else a path beneath it, without ".."
 *   options  ro rw nosuid suid nodev dev noexec exec noatime atime nodiratime diratime relatime
 *            strictatime nosymfollow symfollow; [r]private [r]shared [r]slave [r]unbindable;
 *            any other "key=value" or "flag" belongs to the file system.
 *            overlay: lowerdir=TOP:...:BOTTOM with \: and \\ as escapes, or one lowerdir+=PATH per
 *            layer, top first; as many as the kernel takes.
 *            mount_program=PATH: that program serves it through FUSE, and knows the other options.
 *            aufs: br=PATH=MODE for the top branch and append=PATH=MODE for each below it, from the
 *            top down; MODE begins after the last '=', and there are no escapes. A branch of mode
 * rw is refused (FAILED_PRECONDITION) where another mount has it on top.
 */

/* Mounts all that `m` describes on `target`, an existing directory (or file, for a bind of a file),
 * in order; a driver that describes nothing wants nothing mounted. On failure nothing stays. */
int berth_mount_apply(const struct berth_mounts_result *m, const char *target,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* How else than it is described. */
struct berth_mount_how {
	/* Owners as this user namespace maps them: of an overlay the layers below, of which the
	 * upper directory is none (what is written there has the mapped owners on the disk, too);
	 * of anything else all. -1 = as they are. FAILED_PRECONDITION where a file system cannot.
	 */
	int userns_fd;
	/* The SELinux label of all that is there, or NULL = what the files have. A file system
	 * takes it as its option context=, unless the description has one. A bind that is only read
	 * gets an overlay above it that does; of one that is written to the files get the label,
	 * and go_on (may be NULL) is asked meanwhile. */
	const char *context;
	bool (*go_on)(void *arg);
	void *arg;
	/* A path for a directory that may be made and is gone afterwards; what a crash leaves there
	 * is berth_umount_tree()'s. With a context another, with the suffix ".empty", is made and
	 * needed for as long as the mount. */
	const char *scratch;
};
int berth_mount_apply_as(const struct berth_mounts_result *m, const char *target,
        const struct berth_mount_how *how, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* As berth_mount_apply() for a description of one mount, attached nowhere: an fd for files beneath
 * it, or for berth_mount_attach(). The mount ends with the last fd unless it was attached. Set
 * nodev, nosuid and noexec where `restricted`: for a process that must not gain anything from what
 * lies there. Returns the fd (owned by the caller) or -1. */
int berth_mount_clone(const struct berth_mounts_result *m, bool restricted,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* A clone of the directory `path`, without the mounts beneath it. */
int berth_mount_clone_path(
        const char *path, bool restricted, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Where a description is an overlay, the path of its topmost layer; else NULL. Caller frees. [any]
 */
int berth_mount_top_layer(const struct berth_mounts_result *m, char **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Likewise the path of what is written through it; NULL also where nothing can be, or where that
 * alone does not tell what was written, for it refers to what lies below. */
int berth_mount_upper_dir(const struct berth_mounts_result *m, char **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* A private bind of `source` (recursive with `rec`) on `target`; read-only with `ro`. */
int berth_mount_bind(const char *source, const char *target, bool rec, bool ro,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* A tmpfs with nosuid, nodev, noexec. size_bytes 0 = the kernel's default; `context`: an SELinux
 * label, or NULL. */
int berth_mount_tmpfs(const char *target, uint64_t size_bytes, mode_t mode, const char *context,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
int berth_mount_attach(int fd, const char *target, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Makes `dir` (0711) a place for berth_mount_stage(): what is mounted beneath it is in no recursive
 * copy of a directory above. berth_umount_tree() ends it. */
int berth_mount_stage_dir(const char *dir, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct berth_stage {
	bool rec;      /* with the mounts beneath it */
	bool readonly; /* all of them */
	int userns_fd; /* owners are shown as this user namespace maps them; -1 = as they are */
	uint64_t propagation; /* MS_PRIVATE, MS_SLAVE, MS_SHARED; 0 = as it is */
};
/* Attaches a clone of what `fd` (O_PATH will do) is open for on `target`, which must not be there
 * yet: it becomes a directory or a file as `fd` is. FAILED_PRECONDITION where the file system
 * cannot map ids; of mounts beneath that cannot, only the owners stay as they are. `what` is for
 * messages. */
int berth_mount_stage(int fd, const char *what, const char *target, const struct berth_stage *s,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Unmounts everything that is mounted on exactly `path`; a missing path or one that is no mount
 * point is fine. lazy: detached at once, gone when its last user is. Busy is FAILED_PRECONDITION.
 */
int berth_umount(const char *path, bool lazy, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* All mounts at and beneath `dir`, newest first. */
int berth_umount_tree(const char *dir, bool lazy, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* One line of mountinfo, names unescaped. Valid during the callback. */
struct berth_mountinfo {
	uint64_t id, parent_id;
	uint32_t major, minor;
	const char *root, *target, *options, *type, *source, *super_options;
	uint32_t shared; /* peer group, 0 = not shared */
	uint32_t master; /* peer group it receives from, 0 = no slave */
	bool unbindable;
};
/* Calls fn for each mount at or beneath `dir` (absolute, no trailing slash; NULL = all mounts) in
 * the order of mountinfo, until fn returns other than 0. Returns that value, or -1 with an error:
 * fn's own values are positive. [any] */
int berth_mounts_under(const char *dir, int (*fn)(const struct berth_mountinfo *mi, void *arg),
        void *arg, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Parses one line of mountinfo in place; 0, or -EINVAL. [any] */
int berth_mountinfo_parse(char *line, struct berth_mountinfo *ret) BERTH_MUST_CHECK;

struct berth_propagation {
	uint32_t shared, master; /* as in berth_mountinfo */
};
/* The propagation of the mount that `path` lies on. */
int berth_mount_propagation(const char *path, struct berth_propagation *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Is anything mounted on exactly `path`? 1, 0, or a negative errno; a missing path is 0. [any] */
int berth_is_mount_point(const char *path) BERTH_MUST_CHECK;

/* For tests: overlays are mounted as on a kernel without lowerdir+. */
void berth_mount_force_short_names(bool on);

#endif
