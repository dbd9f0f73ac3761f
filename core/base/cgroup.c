#include "base/cgroup.h"

#include <dirent.h>
#include <unistd.h>

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
