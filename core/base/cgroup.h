/* Cgroups of either version. [any] */
#ifndef BERTH_BASE_CGROUP_H
#define BERTH_BASE_CGROUP_H

/* Who makes cgroups: the kubelet's --cgroup-driver. */
enum berth_cgroup_driver { BERTH_CGROUPFS, BERTH_CGROUP_SYSTEMD };

/* The cgroup.procs files of a cgroup path: one on v2, one for each v1 hierarchy that has it.
 * NULL-terminated, the caller frees; NULL where there is none. */
char **berth_cgroup_procs(const char *cgroup);

#endif
