#include "mount/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/aufs.h"
#include "mount/idmap.h"
#include "mount/options.h"
#include "mount/overlay.h"
#include "mount/program.h"
#include "mount/relabel.h"

#define RESTRICTED (MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)

static int set_attrs(int fd, const struct mount_plan *p, bool restricted)
{
	struct mount_attr a = {
	        .attr_set = p->attr_set | (restricted ? RESTRICTED : 0),
	        .attr_clr = p->attr_clr & ~(uint64_t)(restricted ? RESTRICTED : 0),
	        /* A copy of a shared mount would carry what is mounted in the container to the
	         * host, unless the description wants just that. */
	        .propagation = p->propagation ? p->propagation
	                       : p->bind      ? MS_PRIVATE
	                                      : 0,
	};

	if ((a.attr_set || a.attr_clr) &&
	        mount_setattr(fd, "", AT_EMPTY_PATH | (restricted ? AT_RECURSIVE : 0),
	                &(struct mount_attr){.attr_set = a.attr_set, .attr_clr = a.attr_clr},
	                sizeof(a)) < 0)
		return -errno;
	bool rec = p->propagation ? p->propagation_rec : p->rec;
	if (a.propagation &&
	        mount_setattr(fd, "", AT_EMPTY_PATH | (rec ? AT_RECURSIVE : 0),
	                &(struct mount_attr){.propagation = a.propagation}, sizeof(a)) < 0)
		return -errno;
	return 0;
}

static int open_bind(const struct berth_mount *m, const struct mount_plan *p, bool restricted,
        struct berth_error **ret_err)
{
	_cleanup_close_ int fd = open_tree(AT_FDCWD, m->source,
	        OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (p->rec ? AT_RECURSIVE : 0));

	if (fd < 0)
		return berth_error_errno(ret_err, errno, "bind '%s'", m->source);
	int r = set_attrs(fd, p, restricted);
	if (r < 0)
		return berth_error_errno(ret_err, r, "bind '%s': set attributes", m->source);
	return berth_take_fd(&fd);
}

static bool is_path_key(const char *key)
{
	return strcmp(key, "upperdir") == 0 || strcmp(key, "workdir") == 0 ||
	       strcmp(key, "source") == 0;
}

static bool is_aufs(const struct berth_mount *m)
{
	return strcmp(m->type, "aufs") == 0;
}

static int configure(int fsfd, const struct berth_mount *m, const struct mount_plan *p,
        struct aufs_branches *branches, int *keep, struct berth_error **ret_err)
{
	bool overlay = strcmp(m->type, "overlay") == 0;
	const char *source = m->source ? m->source : m->type;
	size_t k = 0;

	/* A source over the limit cannot go through an fd: it would be shown as such. */
	int r = mount_fsconfig_string(fsfd, "source", source, false, &keep[k++]);
	if (r < 0)
		return berth_error_errno(
		        ret_err, r, "mount of type '%s' from '%s'", m->type, source);
	for (size_t i = 0; i < p->n_params; i++) {
		const struct mount_param *q = &p->params[i];
		if (is_aufs(m) && aufs_is_branch(q))
			continue;
		if (!q->value)
			r = fsconfig(fsfd, FSCONFIG_SET_FLAG, q->key, NULL, 0) < 0 ? -errno : 0;
		else if (is_aufs(m) && strcmp(q->key, "xino") == 0)
			r = aufs_set_xino(fsfd, q->value, &keep[k++]);
		else
			r = mount_fsconfig_string(
			        fsfd, q->key, q->value, overlay && is_path_key(q->key), &keep[k++]);
		if (r < 0) {
			_cleanup_free_ char *said = mount_fs_log(fsfd, -r);
			return berth_error_set(ret_err, berth_code_from_errno(r),
			        "mount of type '%s' from '%s': option '%s%s%s': %s", m->type,
			        source, q->key, q->value ? "=" : "", q->value ? q->value : "",
			        said);
		}
	}
	if (p->super_ro && fsconfig(fsfd, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0)
		return berth_error_errno(ret_err, errno,
		        "mount of type '%s' from '%s': option 'ro'", m->type, source);
	if (overlay && overlay_add_lowers(fsfd, p, keep + k, ret_err) < 0)
		return -1;
	if (is_aufs(m) && aufs_give_branches(fsfd, branches, keep + k, ret_err) < 0)
		return -1;
	if (fsconfig(fsfd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
		int e = errno;
		_cleanup_free_ char *said = mount_fs_log(fsfd, e);
		return berth_error_set(ret_err, berth_code_from_errno(e),
		        "mount of type '%s' from '%s': %s%s", m->type, source, said,
		        is_aufs(m) ? AUFS_HINT : "");
	}
	return 0;
}

static int open_fs(const struct berth_mount *m, const struct mount_plan *p, bool restricted,
        struct berth_error **ret_err)
{
	/* aufs' branches are parameters, and looked at twice. */
	size_t n_keep = 1 + 2 * p->n_params + berth_strv_len(p->lowers);
	_cleanup_(aufs_finish) struct aufs_branches branches = {.plan = p, .lock = -1};
	_cleanup_close_ int fsfd = fsopen(m->type, FSOPEN_CLOEXEC);
	_cleanup_close_ int fd = -1;

	if (fsfd < 0)
		return berth_error_errno(ret_err, errno, "open file system type '%s'", m->type);
	_cleanup_free_ int *keep = berth_reallocarray(NULL, n_keep, sizeof(*keep));
	for (size_t i = 0; i < n_keep; i++)
		keep[i] = -1;
	int r = configure(fsfd, m, p, &branches, keep, ret_err);
	for (size_t i = 0; i < n_keep; i++)
		berth_close(keep[i]);
	if (r < 0)
		return -1;
	fd = fsmount(fsfd, FSMOUNT_CLOEXEC, restricted ? RESTRICTED : 0);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "make a mount of type '%s'", m->type);
	if (is_aufs(m) && aufs_append_rest(fsfd, &branches, ret_err) < 0)
		return -1;
	r = set_attrs(fd, p, restricted);
	if (r < 0)
		return berth_error_errno(ret_err, r, "mount of type '%s': set attributes", m->type);
	return berth_take_fd(&fd);
}

static bool needs_short_names(const struct berth_mount *m, const struct mount_plan *p)
{
	return !p->bind && !p->program && strcmp(m->type, "overlay") == 0 &&
	       !overlay_has_lowerdir_add();
}

static int open_short(const struct mount_plan *p, bool restricted, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = overlay_open_short(p, ret_err);

	if (fd < 0)
		return -1;
	int r = set_attrs(fd, p, restricted);
	if (r < 0)
		return berth_error_errno(ret_err, r, "overlay: set attributes");
	return berth_take_fd(&fd);
}

static int open_program(const struct mount_plan *p, bool restricted, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = mount_program_open(p, restricted ? RESTRICTED : 0, ret_err);

	if (fd < 0)
		return -1;
	int r = set_attrs(fd, p, restricted);
	if (r < 0)
		return berth_error_errno(ret_err, r, "overlay by '%s': set attributes", p->program);
	return berth_take_fd(&fd);
}

static int open_one(const struct berth_mount *m, const struct mount_plan *p, bool restricted,
        struct berth_error **ret_err)
{
	if (p->bind)
		return open_bind(m, p, restricted, ret_err);
	if (p->program)
		return open_program(p, restricted, ret_err);
	return needs_short_names(m, p) ? open_short(p, restricted, ret_err)
	                               : open_fs(m, p, restricted, ret_err);
}

int berth_mount_attach(int fd, const char *target, struct berth_error **ret_err)
{
	if (move_mount(fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return berth_error_errno(ret_err, errno, "mount on '%s'", target);
	return 0;
}

/* What lies beneath the target may be a container's own tree: no link is followed there. */
static int attach_beneath(int fd, const char *target, const char *sub, struct berth_error **ret_err)
{
	struct open_how how = {
	        .flags = O_PATH | O_CLOEXEC,
	        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	_cleanup_close_ int dir = open(target, O_PATH | O_CLOEXEC);

	if (dir < 0)
		return berth_error_errno(ret_err, errno, "mount on '%s'", target);
	while (*sub == '/')
		sub++;
	_cleanup_close_ int at = (int)syscall(SYS_openat2, dir, sub, &how, sizeof(how));
	if (at < 0)
		return berth_error_errno(ret_err, errno, "mount on '%s' in '%s'", sub, target);
	if (move_mount(fd, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return berth_error_errno(ret_err, errno, "mount on '%s' in '%s'", sub, target);
	return 0;
}

static int apply_short(const struct mount_plan *p, const char *target, struct berth_error **ret_err)
{
	if (overlay_mount_short(p, target, ret_err) < 0)
		return -1;
	_cleanup_close_ int fd = open(target, O_PATH | O_CLOEXEC);
	int r = fd < 0 ? -errno : set_attrs(fd, p, false);
	if (r < 0) {
		berth_error_errno(ret_err, r, "overlay on '%s': set attributes", target);
		umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW);
		return -1;
	}
	return 0;
}

static int attach_at(const struct berth_mount *m, int fd, const char *target, bool sub,
        struct berth_error **ret_err)
{
	return sub ? attach_beneath(fd, target, m->target, ret_err)
	           : berth_mount_attach(fd, target, ret_err);
}

static int apply_attached(const struct berth_mount *m, const struct mount_plan *p,
        const char *target, bool sub, struct berth_error **ret_err)
{
	/* An overlay that is given in one string is better mounted where it belongs at once. */
	if (!sub && needs_short_names(m, p))
		return apply_short(p, target, ret_err);
	_cleanup_close_ int fd = open_one(m, p, false, ret_err);
	return fd < 0 ? -1 : attach_at(m, fd, target, sub, ret_err);
}

/* Not every kernel that maps owners takes layers that are attached nowhere: those are attached for
 * the while. */
static int apply_mapped_overlay(const struct berth_mount *m, struct mount_plan *p,
        const struct mount_map *map, const char *target, bool sub, struct berth_error **ret_err)
{
	_cleanup_(mount_lowers_finish) struct mount_lowers lowers = {0};

	if (mount_lowers_map(&lowers, p, map, ret_err) < 0)
		return -1;
	if (!needs_short_names(m, p)) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		_cleanup_close_ int fd = open_fs(m, p, false, &err);
		if (fd >= 0)
			return attach_at(m, fd, target, sub, ret_err);
		if (err->code != BERTH_INVALID_ARGUMENT)
			return berth_error_move(ret_err, &err);
	}
	if (mount_lowers_attach(&lowers, p, map, ret_err) < 0)
		return -1;
	return apply_attached(m, p, target, sub, ret_err);
}

static int apply_plan(const struct berth_mount *m, struct mount_plan *p, const char *target,
        bool sub, const struct berth_mount_how *how, struct berth_error **ret_err)
{
	const struct mount_map map = {how->userns_fd, how->scratch};

	if (how->userns_fd < 0)
		return apply_attached(m, p, target, sub, ret_err);
	if (p->program)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "the mount program '%s' maps no owners", p->program);
	if (!p->bind && strcmp(m->type, "overlay") == 0)
		return apply_mapped_overlay(m, p, &map, target, sub, ret_err);
	_cleanup_close_ int fd = open_one(m, p, false, ret_err);
	if (fd < 0 || mount_map_fd(fd, p->rec, how->userns_fd, m->source ? m->source : m->type,
	                      ret_err) < 0)
		return -1;
	return attach_at(m, fd, target, sub, ret_err);
}

/* What is mounted on `target` seen through an overlay, for that is a file system of its own. It
 * wants a second layer, which is empty, and which has to stay: what is gone cannot be listed. */
static int cover(
        const char *target, const struct berth_mount_how *how, struct berth_error **ret_err)
{
	_cleanup_(mount_plan_finish) struct mount_plan p = {
	        .super_ro = true, .attr_set = MOUNT_ATTR_RDONLY};
	const struct berth_mount m = {.size = sizeof(m), .type = "overlay", .source = "overlay"};
	_cleanup_free_ char *empty = berth_asprintf("%s.empty", how->scratch);
	int r = berth_mkdir_p(empty, 0755);

	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", empty);
	p.lowers = berth_strv_append(berth_strv_append(NULL, target), empty);
	mount_plan_label(&p, how->context);
	return apply_attached(&m, &p, target, false, ret_err);
}

static int apply_labelled_bind(const struct berth_mount *m, struct mount_plan *p,
        const char *target, bool sub, const struct berth_mount_how *how,
        struct berth_error **ret_err)
{
	if (sub)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "bind mount of '%s' on '%s': it cannot have an SELinux label", m->source,
		        m->target);
	bool written = !(p->attr_set & MOUNT_ATTR_RDONLY);
	_cleanup_free_ char *source = written ? realpath(m->source, NULL) : NULL;
	if (written && !source)
		return berth_error_errno(ret_err, errno, "bind '%s'", m->source);
	if (written && berth_relabel(source, how->context, how->go_on, how->arg, ret_err) < 0)
		return -1;
	if (apply_plan(m, p, target, false, how, ret_err) < 0)
		return -1;
	if (written)
		return 0;
	if (cover(target, how, ret_err) == 0)
		return 0;
	umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW);
	return -1;
}

static int apply_one(const struct berth_mount *m, const char *target,
        const struct berth_mount_how *how, struct berth_error **ret_err)
{
	_cleanup_(mount_plan_finish) struct mount_plan p = {0};
	bool sub = m->target && *m->target && strcmp(m->target, "/") != 0;

	if (mount_plan_init(&p, m, ret_err) < 0)
		return -1;
	if (how->context && p.bind)
		return apply_labelled_bind(m, &p, target, sub, how, ret_err);
	if (how->context)
		mount_plan_label(&p, how->context);
	return apply_plan(m, &p, target, sub, how, ret_err);
}

static int check_count(const struct berth_mounts_result *m, struct berth_error **ret_err)
{
	if (m->n > BERTH_LIMIT_MOUNTS)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "the storage driver describes %u mounts, more than %d", m->n,
		        BERTH_LIMIT_MOUNTS);
	return 0;
}

static void undo(const struct berth_mounts_result *m, uint32_t done, const char *target)
{
	while (done-- > 0) {
		const char *sub = m->mounts[done]->target;
		_cleanup_free_ char *path =
		        berth_asprintf("%s%s%s", target, sub && *sub ? "/" : "", sub ? sub : "");
		umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
	}
}

int berth_mount_apply_as(const struct berth_mounts_result *m, const char *target,
        const struct berth_mount_how *how, struct berth_error **ret_err)
{
	if (check_count(m, ret_err) < 0)
		return -1;
	for (uint32_t i = 0; i < m->n; i++) {
		if (apply_one(m->mounts[i], target, how, ret_err) < 0) {
			undo(m, i, target);
			return -1;
		}
	}
	return 0;
}

int berth_mount_apply(
        const struct berth_mounts_result *m, const char *target, struct berth_error **ret_err)
{
	const struct berth_mount_how as_described = {.userns_fd = -1};
	return berth_mount_apply_as(m, target, &as_described, ret_err);
}

int berth_mount_clone(
        const struct berth_mounts_result *m, bool restricted, struct berth_error **ret_err)
{
	_cleanup_(mount_plan_finish) struct mount_plan p = {0};

	if (check_count(m, ret_err) < 0)
		return -1;
	if (m->n != 1)
		return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
		        "the storage driver describes %u mounts where one is wanted", m->n);
	if (mount_plan_init(&p, m->mounts[0], ret_err) < 0)
		return -1;
	return open_one(m->mounts[0], &p, restricted, ret_err);
}

/* 1 where m is one overlay, 0 where it is anything else. */
static int overlay_plan(
        const struct berth_mounts_result *m, struct mount_plan *p, struct berth_error **ret_err)
{
	if (m->n != 1 || strcmp(m->mounts[0]->type, "overlay") != 0)
		return 0;
	return mount_plan_init(p, m->mounts[0], ret_err) < 0 ? -1 : 1;
}

int berth_mount_top_layer(
        const struct berth_mounts_result *m, char **ret, struct berth_error **ret_err)
{
	_cleanup_(mount_plan_finish) struct mount_plan p = {0};
	int r = overlay_plan(m, &p, ret_err);

	*ret = r > 0 && p.lowers ? berth_strdup(p.lowers[0]) : NULL;
	return r < 0 ? -1 : 0;
}

/* Of a mount that does not say it. */
static bool overlay_default(const char *name)
{
	_cleanup_free_ char *path = berth_asprintf("/sys/module/overlay/parameters/%s", name);
	_cleanup_free_ char *value = NULL;
	return berth_read_file(AT_FDCWD, path, 64, &value, NULL) == 0 && *value == 'Y';
}

static bool overlay_has(const struct mount_plan *p, const char *name)
{
	const char *value = mount_plan_param(p, name);
	return value ? strcmp(value, "off") != 0 && strcmp(value, "nofollow") != 0
	             : overlay_default(name);
}

int berth_mount_upper_dir(
        const struct berth_mounts_result *m, char **ret, struct berth_error **ret_err)
{
	_cleanup_(mount_plan_finish) struct mount_plan p = {0};
	int r = overlay_plan(m, &p, ret_err);
	bool plain = r > 0 && !p.program && !overlay_has(&p, "redirect_dir") &&
	             !overlay_has(&p, "metacopy");

	*ret = plain ? berth_strdup(mount_plan_param(&p, "upperdir")) : NULL;
	return r < 0 ? -1 : 0;
}

int berth_mount_clone_path(const char *path, bool restricted, struct berth_error **ret_err)
{
	const struct berth_mount m = {.size = sizeof(m), .type = "bind", .source = path};
	const struct berth_mount *v[] = {&m};
	const struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};

	return berth_mount_clone(&r, restricted, ret_err);
}

int berth_mount_bind(
        const char *source, const char *target, bool rec, bool ro, struct berth_error **ret_err)
{
	const char *options[] = {rec ? "rbind" : "bind", ro ? "ro" : NULL, NULL};
	const struct berth_mount m = {
	        .size = sizeof(m), .type = "bind", .source = source, .options = options};
	const struct berth_mount *v[] = {&m};
	const struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};

	return berth_mount_apply(&r, target, ret_err);
}

int berth_mount_tmpfs(const char *target, uint64_t size_bytes, mode_t mode, const char *context,
        struct berth_error **ret_err)
{
	char size_opt[48], mode_opt[32];
	_cleanup_free_ char *context_opt = context ? berth_asprintf("context=%s", context) : NULL;
	const char *options[7] = {"nosuid", "nodev", "noexec"};
	size_t n = 3;

	snprintf(mode_opt, sizeof(mode_opt), "mode=%o", (unsigned int)(mode & 07777));
	options[n++] = mode_opt;
	if (size_bytes) {
		snprintf(size_opt, sizeof(size_opt), "size=%llu", (unsigned long long)size_bytes);
		options[n++] = size_opt;
	}
	if (context_opt)
		options[n++] = context_opt;
	const struct berth_mount m = {
	        .size = sizeof(m), .type = "tmpfs", .source = "tmpfs", .options = options};
	const struct berth_mount *v[] = {&m};
	const struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};
	return berth_mount_apply(&r, target, ret_err);
}
