/* Cgroups of either version. [any] */
#ifndef BERTH_BASE_CGROUP_H
#define BERTH_BASE_CGROUP_H

#include <sys/types.h>

#define BERTH_CGROUP_ROOT "/sys/fs/cgroup" /* where the hierarchies are mounted */

/* Who makes cgroups: the kubelet's --cgroup-driver. */
enum berth_cgroup_driver { BERTH_CGROUPFS, BERTH_CGROUP_SYSTEMD };

/* Makes a cgroup path for processes of berth's own: on v2 in the one hierarchy, on v1 in those for
 * memory, pids and cpu. One that is there is fine. Negative errno. */
int berth_cgroup_make(const char *cgroup);
/* Makes cgroups of our own again, given their cgroup.procs files, where somebody took them away
 * while they were empty: another berthd at its end, or an operator. */
void berth_cgroup_restore(const char *const *procs);

/* Moves the calling thread alone, for children of it to be born there. Only v1 has that:
 * -EOPNOTSUPP where a file is v2's; negative errno. Once it has failed the thread may be in some of
 * them. */
int berth_cgroup_enter_thread(const char *const *procs);

/* The cgroup.procs files of a cgroup path: one on v2, one for each v1 hierarchy that has it.
 * NULL-terminated, the caller frees; NULL where there is none. */
char **berth_cgroup_procs(const char *cgroup);
/* fn(pid, arg) for each process of the cgroup and of those below it, in one hierarchy. */
void berth_cgroup_each(const char *cgroup, void (*fn)(pid_t pid, void *arg), void *arg);
/* SIGKILL to all processes of the cgroup and below it, and those that they fork meanwhile. Blocks
 * for reads of kernel files only. */
void berth_cgroup_kill(const char *cgroup);
/* The same, then removes it with all below it from every hierarchy; waits for the processes' end
 * for at most a second. Absent: fine. [worker] */
void berth_cgroup_destroy(const char *cgroup);

/* linux.cgroupsPath as the OCI runtime makes it: a path stays what it is; "SLICE:PREFIX:NAME" is
 * the slice's own path and PREFIX-NAME.scope. The caller frees. */
char *berth_cgroup_path_of(const char *cgroups_path);
/* The path of a pod's cgroup parent: itself, or where systemd has the slice that its last part
 * names. NULL where it names none; the caller frees. */
char *berth_cgroup_parent_path(enum berth_cgroup_driver driver, const char *parent);

#endif
