#include "mount/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"

#define MOUNTINFO "/proc/self/mountinfo"

/* \040 and the like; the text only shrinks. */
static void unescape(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
		        s[3] >= '0' && s[3] <= '7') {
			*out++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
}

/* Cuts the next field; fields are parted by exactly one space, and a source may be empty. */
static char *field(char **p)
{
	char *start = *p;

	if (!start)
		return NULL;
	char *end = strchr(start, ' ');
	if (end) {
		*end = '\0';
		*p = end + 1;
	} else {
		*p = NULL;
	}
	return start;
}

static int number(const char *s, uint64_t max, uint64_t *ret)
{
	char *end = NULL;

	if (!s || *s < '0' || *s > '9')
		return -EINVAL;
	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (errno || *end || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}

static int group(const char *tag, const char *prefix, uint32_t *ret)
{
	size_t n = strlen(prefix);
	uint64_t v = 0;

	if (strncmp(tag, prefix, n) != 0)
		return 0;
	if (number(tag + n, UINT32_MAX, &v) < 0)
		return -EINVAL;
	*ret = (uint32_t)v;
	return 0;
}

int berth_mountinfo_parse(char *line, struct berth_mountinfo *ret)
{
	struct berth_mountinfo mi = {0};
	uint64_t major = 0, minor = 0;
	char *p = line;

	line[strcspn(line, "\n")] = '\0';
	if (number(field(&p), UINT64_MAX, &mi.id) < 0 ||
	        number(field(&p), UINT64_MAX, &mi.parent_id) < 0)
		return -EINVAL;
	char *dev = field(&p);
	char *colon = dev ? strchr(dev, ':') : NULL;
	if (!colon)
		return -EINVAL;
	*colon = '\0';
	if (number(dev, UINT32_MAX, &major) < 0 || number(colon + 1, UINT32_MAX, &minor) < 0)
		return -EINVAL;
	mi.major = (uint32_t)major;
	mi.minor = (uint32_t)minor;
	char *root = field(&p), *target = field(&p), *options = field(&p), *tag;
	if (!options)
		return -EINVAL;
	while ((tag = field(&p)) && strcmp(tag, "-") != 0) {
		if (group(tag, "shared:", &mi.shared) < 0 || group(tag, "master:", &mi.master) < 0)
			return -EINVAL;
		if (strcmp(tag, "unbindable") == 0)
			mi.unbindable = true;
	}
	char *type = field(&p), *source = field(&p), *super = field(&p);
	if (!tag || !super)
		return -EINVAL;
	unescape(root);
	unescape(target);
	unescape(type);
	unescape(source);
	unescape(super);
	mi.root = root;
	mi.target = target;
	mi.options = options;
	mi.type = type;
	mi.source = source;
	mi.super_options = super;
	*ret = mi;
	return 0;
}

static bool beneath(const char *dir, const char *path)
{
	size_t n = strlen(dir);

	if (n == 1 && dir[0] == '/')
		return true;
	return strncmp(dir, path, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

static void closef(FILE **f)
{
	if (*f)
		fclose(*f);
}

int berth_mounts_under(const char *dir, int (*fn)(const struct berth_mountinfo *mi, void *arg),
        void *arg, struct berth_error **ret_err)
{
	_cleanup_(closef) FILE *f = fopen(MOUNTINFO, "re");
	_cleanup_free_ char *line = berth_zalloc(BERTH_LIMIT_MOUNTINFO_LINE);
	struct berth_mountinfo mi;

	if (!f)
		return berth_error_errno(ret_err, errno, "open '%s'", MOUNTINFO);
	while (fgets(line, (int)BERTH_LIMIT_MOUNTINFO_LINE, f)) {
		if (!strchr(line, '\n') && !feof(f))
			return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
			        "'%s': a line has more than %zu bytes", MOUNTINFO,
			        BERTH_LIMIT_MOUNTINFO_LINE);
		if (berth_mountinfo_parse(line, &mi) < 0)
			return berth_error_set(ret_err, BERTH_INTERNAL,
			        "'%s': a line is not understood: '%.200s'", MOUNTINFO, line);
		if (dir && !beneath(dir, mi.target))
			continue;
		int r = fn(&mi, arg);
		if (r != 0)
			return r;
	}
	if (ferror(f))
		return berth_error_errno(ret_err, errno, "read '%s'", MOUNTINFO);
	return 0;
}

struct by_id {
	uint64_t id;
	struct berth_propagation *ret;
};

static int match_id(const struct berth_mountinfo *mi, void *arg)
{
	struct by_id *b = arg;

	if (mi->id != b->id)
		return 0;
	b->ret->shared = mi->shared;
	b->ret->master = mi->master;
	return 1;
}

int berth_mount_propagation(
        const char *path, struct berth_propagation *ret, struct berth_error **ret_err)
{
	struct berth_propagation found = {0};
	struct statx st;

	if (statx(AT_FDCWD, path, AT_NO_AUTOMOUNT, STATX_MNT_ID, &st) < 0)
		return berth_error_errno(ret_err, errno, "look up the mount of '%s'", path);
	if (!(st.stx_mask & STATX_MNT_ID))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "look up the mount of '%s': the kernel does not tell mount ids (5.8 does)",
		        path);
	struct by_id b = {st.stx_mnt_id, &found};
	int r = berth_mounts_under(NULL, match_id, &b, ret_err);
	if (r < 0)
		return -1;
	if (r == 0)
		return berth_error_set(ret_err, BERTH_NOT_FOUND,
		        "look up the mount of '%s': mount %llu is not in '%s'", path,
		        (unsigned long long)st.stx_mnt_id, MOUNTINFO);
	*ret = found;
	return 0;
}

int berth_is_mount_point(const char *path)
{
	struct statx st;

	if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, 0, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (!(st.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT))
		return -EOPNOTSUPP;
	return (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}
