#include "base/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define MAX_HIERARCHIES 32

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

void berth_cgroup_remove(const char *cgroup)
{
	char **dirs = own_dirs(cgroup);
	for (char **d = dirs; d && *d; d++) {
		if (rmdir(*d) < 0)
			continue;
		*strrchr(*d, '/') = '\0';
		rmdir(*d);
	}
	berth_strv_free(dirs);
}
