#include "base/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

#define MAX_HIERARCHIES 32
#define KILL_ROUNDS 20
#define MAX_DEPTH 16
#define REMOVE_TRIES 100
#define REMOVE_WAIT_US 10000

/* A runtime may have made directories and files where no hierarchy is mounted. */
static bool is_hierarchy(const char *path)
{
	struct statfs fs;
	return statfs(path, &fs) == 0 &&
	       (fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC);
}

char **berth_cgroup_procs(const char *cgroup)
{
	char **v = NULL;
	if (!cgroup)
		return NULL;
	while (*cgroup == '/')
		cgroup++;
	_cleanup_free_ char *unified = berth_asprintf(BERTH_CGROUP_ROOT "/%s/cgroup.procs", cgroup);
	if (access(unified, W_OK) == 0)
		return berth_strv_append(NULL, unified);
	DIR *d = opendir(BERTH_CGROUP_ROOT);
	if (!d)
		return NULL;
	for (struct dirent *e; (e = readdir(d)) && berth_strv_len(v) < MAX_HIERARCHIES;) {
		if (e->d_name[0] == '.' || e->d_type == DT_LNK)
			continue;
		_cleanup_free_ char *path =
		        berth_asprintf(BERTH_CGROUP_ROOT "/%s/%s/cgroup.procs", e->d_name, cgroup);
		if (access(path, W_OK) == 0 && is_hierarchy(path))
			v = berth_strv_append(v, path);
	}
	closedir(d);
	return v;
}

static const char *const own_hierarchies[] = {"memory", "pids", "cpu,cpuacct", "cpu", NULL};

/* Where the path is in each hierarchy that counts; NULL-terminated. */
static char **own_dirs(const char *cgroup)
{
	char **v = NULL;
	if (access(BERTH_CGROUP_ROOT "/cgroup.controllers", F_OK) == 0) {
		_cleanup_free_ char *path = berth_asprintf(BERTH_CGROUP_ROOT "%s", cgroup);
		return berth_strv_append(NULL, path);
	}
	for (const char *const *h = own_hierarchies; *h; h++) {
		_cleanup_free_ char *root =
		        berth_asprintf(BERTH_CGROUP_ROOT "/%s/cgroup.procs", *h);
		_cleanup_free_ char *path = berth_asprintf(BERTH_CGROUP_ROOT "/%s%s", *h, cgroup);
		if (access(root, F_OK) == 0)
			v = berth_strv_append(v, path);
	}
	return v;
}

int berth_cgroup_make(const char *cgroup)
{
	char **dirs = own_dirs(cgroup);
	int r = dirs ? 0 : -ENOENT;
	for (char **d = dirs; d && *d && r == 0; d++)
		r = berth_mkdir_p(*d, 0755);
	berth_strv_free(dirs);
	return r;
}

void berth_cgroup_restore(const char *const *procs)
{
	for (const char *const *p = procs; p && *p; p++) {
		if (access(*p, F_OK) == 0)
			continue;
		_cleanup_free_ char *dir = berth_strdup(*p);
		*strrchr(dir, '/') = '\0';
		(void)!berth_mkdir_p(dir, 0755); /* entering it tells what is wrong */
	}
}

int berth_cgroup_enter_thread(const char *const *procs)
{
	for (const char *const *p = procs; p && *p; p++) {
		_cleanup_free_ char *dir = berth_strdup(*p);
		*strrchr(dir, '/') = '\0';
		_cleanup_free_ char *tasks = berth_asprintf("%s/tasks", dir);
		_cleanup_close_ int fd = open(tasks, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			return errno == ENOENT ? -EOPNOTSUPP : -errno;
		if (write(fd, "0", 1) != 1)
			return -errno;
	}
	return 0;
}

static bool for_listed(const char *procs, void (*fn)(pid_t pid, void *arg), void *arg)
{
	_cleanup_free_ char *text = NULL;
	bool any = false;
	char *save = NULL;

	if (berth_read_file(AT_FDCWD, procs, BERTH_LIMIT_STATE_FILE, &text, NULL) < 0)
		return false;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		long pid = strtol(line, NULL, 10);
		if (pid <= 1)
			continue;
		fn((pid_t)pid, arg);
		any = true;
	}
	return any;
}

static bool for_tree(const char *dir, int depth, void (*fn)(pid_t pid, void *arg), void *arg)
{
	_cleanup_free_ char *procs = berth_asprintf("%s/cgroup.procs", dir);
	bool any = for_listed(procs, fn, arg);
	DIR *d = depth < MAX_DEPTH ? opendir(dir) : NULL;
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		_cleanup_free_ char *sub = berth_asprintf("%s/%s", dir, e->d_name);
		any = for_tree(sub, depth + 1, fn, arg) || any;
	}
	if (d)
		closedir(d);
	return any;
}

void berth_cgroup_each(const char *cgroup, void (*fn)(pid_t pid, void *arg), void *arg)
{
	char **procs = berth_cgroup_procs(cgroup);
	if (procs && *procs) {
		*strrchr(*procs, '/') = '\0';
		(void)for_tree(*procs, 0, fn, arg);
	}
	berth_strv_free(procs);
}

static void kill_one(pid_t pid, void *arg)
{
	(void)arg;
	(void)kill(pid, SIGKILL);
}

/* Version 2 since Linux 5.14: one write, and no fork escapes it. */
static bool kill_at_once(const char *dir)
{
	_cleanup_free_ char *path = berth_asprintf("%s/cgroup.kill", dir);
	return berth_write_value(path, "1") == 0;
}

void berth_cgroup_kill(const char *cgroup)
{
	char **procs = berth_cgroup_procs(cgroup);
	bool any = true;

	for (char **p = procs; p && *p; p++) {
		*strrchr(*p, '/') = '\0';
		if (kill_at_once(*p))
			any = false;
	}
	for (int round = 0; any && round < KILL_ROUNDS; round++) {
		any = false;
		for (char **p = procs; p && *p; p++)
			any = for_tree(*p, 0, kill_one, NULL) || any;
	}
	berth_strv_free(procs);
}

static int remove_tree(const char *path, int depth)
{
	DIR *d = depth < MAX_DEPTH ? opendir(path) : NULL;
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_type != DT_DIR || strcmp(e->d_name, ".") == 0 ||
		        strcmp(e->d_name, "..") == 0)
			continue;
		_cleanup_free_ char *sub = berth_asprintf("%s/%s", path, e->d_name);
		_cleanup_free_ char *procs = berth_asprintf("%s/cgroup.procs", sub);
		(void)for_listed(procs, kill_one, NULL);
		(void)remove_tree(sub, depth + 1);
	}
	if (d)
		closedir(d);
	return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

void berth_cgroup_destroy(const char *cgroup)
{
	char **procs = berth_cgroup_procs(cgroup);

	if (procs)
		berth_cgroup_kill(cgroup);
	for (char **p = procs; p && *p; p++) {
		*strrchr(*p, '/') = '\0';
		for (int i = 0; i < REMOVE_TRIES && remove_tree(*p, 0) == -EBUSY; i++)
			usleep(REMOVE_WAIT_US);
	}
	berth_strv_free(procs);
}

#define SLICE_SUFFIX ".slice"

/* "a-b.slice" lies in "a.slice". */
static void add_slices(struct berth_buf *b, const char *slice, size_t n)
{
	size_t suffix = strlen(SLICE_SUFFIX);
	size_t stem = n > suffix && memcmp(slice + n - suffix, SLICE_SUFFIX, suffix) == 0
	                      ? n - suffix
	                      : n;
	for (size_t i = 1; i <= stem; i++) {
		if (i == stem || slice[i] == '-')
			berth_buf_addf(b, "/%.*s" SLICE_SUFFIX, (int)i, slice);
	}
}

char *berth_cgroup_path_of(const char *cgroups_path)
{
	const char *prefix = strchr(cgroups_path, ':');
	const char *name = prefix ? strchr(prefix + 1, ':') : NULL;
	struct berth_buf b = {0};

	if (!name)
		return berth_strdup(cgroups_path);
	add_slices(&b, cgroups_path, (size_t)(prefix - cgroups_path));
	berth_buf_addf(&b, "/%.*s-%s.scope", (int)(name - prefix - 1), prefix + 1, name + 1);
	return berth_buf_steal(&b);
}

char *berth_cgroup_parent_path(enum berth_cgroup_driver driver, const char *parent)
{
	struct berth_buf b = {0};

	if (!parent || !*parent)
		return NULL;
	if (driver == BERTH_CGROUPFS)
		return parent[0] == '/' ? berth_strdup(parent) : NULL;
	const char *slash = strrchr(parent, '/'), *slice = slash ? slash + 1 : parent;
	if (!*slice)
		return NULL;
	add_slices(&b, slice, strlen(slice));
	return berth_buf_steal(&b);
}
