/* Cgroups of either version. [any] */
#ifndef BERTH_BASE_CGROUP_H
#define BERTH_BASE_CGROUP_H

/* Who makes cgroups: the kubelet's --cgroup-driver. */
enum berth_cgroup_driver { BERTH_CGROUPFS, BERTH_CGROUP_SYSTEMD };

/* Makes a cgroup path for processes of berth's own: on v2 in the one hierarchy, on v1 in those for
 * memory, pids and cpu. One that is there is fine. Negative errno. */
int berth_cgroup_make(const char *cgroup);
/* Removes it where it is empty; a parent that is empty then, too. */
void berth_cgroup_remove(const char *cgroup);

/* The cgroup.procs files of a cgroup path: one on v2, one for each v1 hierarchy that has it.
 * NULL-terminated, the caller frees; NULL where there is none. */
char **berth_cgroup_procs(const char *cgroup);

#endif
