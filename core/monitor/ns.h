/* berth-ns: the parts of the program. */
#ifndef BERTH_MONITOR_NS_H
#define BERTH_MONITOR_NS_H

#include <stddef.h>

#define NS_MAX 64 /* of each option */

enum ns_kind { NS_NET, NS_IPC, NS_UTS, NS_PID, NS_KINDS };
struct ns_name {
	const char *name, *proc;
	int flag;
};
extern const struct ns_name ns_names[NS_KINDS];

struct ns_opts {
	const char *pin[NS_KINDS];  /* where new ones are pinned */
	const char *join[NS_KINDS]; /* --pod-pid: those of the pod */
	const char *hostname;
	const char *sysctls[NS_MAX];
	size_t n_sysctls;
	const char *cgroup_procs[NS_MAX];
	size_t n_cgroup_procs;
	const char *init, *pid_file;
};

/* Prints one line on stderr; returns 1, the program's exit status. errnum 0 = none. */
int ns_fail(int errnum, const char *what, const char *detail);
int ns_pin_file(const char *path, const char *source);
int ns_unpin(const char *path);

int ns_create(const struct ns_opts *o);
int ns_pod_pid(const struct ns_opts *o);

#endif
