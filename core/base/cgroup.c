#include "base/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

#define MAX_HIERARCHIES 32
#define KILL_ROUNDS 20
#define MAX_DEPTH 16
#define REMOVE_TRIES 100
#define REMOVE_WAIT_US 10000

char **berth_cgroup_procs(const char *cgroup)
{
	char **v = NULL;
	if (!cgroup)
		return NULL;
	while (*cgroup == '/')
		cgroup++;
	_cleanup_free_ char *unified = berth_asprintf("/sys/fs/cgroup/%s/cgroup.procs", cgroup);
	if (access(unified, W_OK) == 0)
		return berth_strv_append(NULL, unified);
	DIR *d = opendir("/sys/fs/cgroup");
	if (!d)
		return NULL;
	for (struct dirent *e; (e = readdir(d)) && berth_strv_len(v) < MAX_HIERARCHIES;) {
		if (e->d_name[0] == '.' || e->d_type == DT_LNK)
			continue;
		_cleanup_free_ char *path =
		        berth_asprintf("/sys/fs/cgroup/%s/%s/cgroup.procs", e->d_name, cgroup);
		if (access(path, W_OK) == 0)
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
	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0) {
		_cleanup_free_ char *path = berth_asprintf("/sys/fs/cgroup%s", cgroup);
		return berth_strv_append(NULL, path);
	}
	for (const char *const *h = own_hierarchies; *h; h++) {
		_cleanup_free_ char *root = berth_asprintf("/sys/fs/cgroup/%s/cgroup.procs", *h);
		_cleanup_free_ char *path = berth_asprintf("/sys/fs/cgroup/%s%s", *h, cgroup);
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

static bool kill_listed(const char *procs)
{
	_cleanup_free_ char *text = NULL;
	bool any = false;
	char *save = NULL;

	if (berth_read_file(AT_FDCWD, procs, BERTH_LIMIT_STATE_FILE, &text, NULL) < 0)
		return false;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		long pid = strtol(line, NULL, 10);
		if (pid > 1)
			any = kill((pid_t)pid, SIGKILL) == 0 || any;
	}
	return any;
}

void berth_cgroup_kill(const char *cgroup)
{
	char **procs = berth_cgroup_procs(cgroup);
	bool any = true;

	for (int round = 0; any && round < KILL_ROUNDS; round++) {
		any = false;
		for (char **p = procs; p && *p; p++)
			any = kill_listed(*p) || any;
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
		(void)kill_listed(procs);
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
