/* The driver: its configuration, its hooks. */
#include "btrfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

#define FEATURES (BERTH_F_IDMAP | BERTH_F_QUOTA)

static berth_status no_memory(struct store *st, struct berth_op *op)
{
	return berth_fail(st->host, op, BERTH_E_EXHAUSTED, "%s: no memory", st->host->plugin_name);
}

static long long mount_id(int fd)
{
	char path[64], text[1024];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (store_read_small(AT_FDCWD, path, text, sizeof(text)) < 0)
		return -1;
	const char *at = strstr(text, "mnt_id:");
	return at ? atoll(at + strlen("mnt_id:")) : -1;
}

/* The type of the mount that a directory lies in, in the kernel's words. */
static void fs_type(int fd, char *ret, size_t size)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	long long id = mount_id(fd);
	char *line = NULL;
	size_t room = 0;

	snprintf(ret, size, "another file system");
	while (f && getline(&line, &room, f) > 0) {
		char *at = strstr(line, " - ");
		if (atoll(line) != id || !at)
			continue;
		at += 3;
		snprintf(ret, size, "%.*s", (int)strcspn(at, " "), at);
		break;
	}
	free(line);
	if (f)
		fclose(f);
}

static berth_status check_fs(struct store *st, struct berth_op *op)
{
	char type[64];
	int fd = open(st->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

	if (fd < 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s: directory '%s': %s",
		        st->host->plugin_name, st->root, strerror(errno));
	r = fs_is_btrfs(fd);
	if (r == 0)
		fs_type(fd, type, sizeof(type));
	close(fd);
	if (r < 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s: directory '%s': %s",
		        st->host->plugin_name, st->root, strerror(-r));
	errno = 0;
	if (r == 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: directory '%s' lies on %s, and not on btrfs", st->host->plugin_name,
		        st->root, type);
	return BERTH_OK;
}

static berth_status set_root(struct store *st, struct berth_op *op, const char *root)
{
	if (!root || !*root)
		return BERTH_OK;
	if (*root != '/')
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "%s: root '%s' is no absolute path", st->host->plugin_name, root);
	if (mkdir(root, 0700) < 0 && errno != EEXIST)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s: directory '%s': %s",
		        st->host->plugin_name, root, strerror(errno));
	free(st->root);
	st->root = strdup(root);
	return st->root ? (berth_status)BERTH_OK : no_memory(st, op);
}

static berth_status set_quota(struct store *st, struct berth_op *op, const char *quota)
{
	static const struct {
		const char *name;
		enum quota_mode mode;
	} modes[] = {{"auto", QUOTA_OFF}, {"full", QUOTA_FULL}, {"simple", QUOTA_SIMPLE},
	        {"off", QUOTA_OFF}};
	struct btrfs *b = st->self;

	b->no_quota = strcmp(quota, "off") == 0;

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		b->wanted = modes[i].mode;
		if (strcmp(quota, modes[i].name) == 0)
			return BERTH_OK;
	}
	return berth_fail(st->host, op, BERTH_E_INVALID,
	        "%s: quota '%s' is none of auto, full, simple, off", st->host->plugin_name, quota);
}

static berth_status btrfs_configure(
        struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	const char *root = st->host->conf_str(c, "root", NULL);
	const char *quota = st->host->conf_str(c, "quota", "auto");
	struct btrfs *b = st->self = calloc(1, sizeof(*b));

	if (!b)
		return no_memory(st, op);
	b->atime = st->host->conf_bool(c, "atime", 0) != 0;
	berth_status r = set_quota(st, op, quota);
	if (r == BERTH_OK)
		r = set_root(st, op, root);
	return r == BERTH_OK ? check_fs(st, op) : r;
}

static berth_status btrfs_start(struct store *st, struct berth_op *op)
{
	btrfs_quota_tend(st, op, true);
	return BERTH_OK;
}

static void btrfs_finish(struct store *st)
{
	free(st->self);
}

static const struct store_driver driver = {
        .features = FEATURES,
        .chain_limit = CHAIN_LIMIT,
        .configure = btrfs_configure,
        .probe = btrfs_quota_begin,
        .start = btrfs_start,
        .finish = btrfs_finish,
        .plan = btrfs_plan,
        .make = btrfs_make,
        .seal = btrfs_seal,
        .describe = btrfs_describe,
        .destroy = btrfs_destroy,
        .usage = btrfs_usage,
};

STORE_PLUGIN("storage-btrfs", FEATURES)
