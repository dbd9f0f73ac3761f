/* berth-ns: the parts of the program. */
#ifndef BERTH_MONITOR_NS_H
#define BERTH_MONITOR_NS_H

#include <stddef.h>

#define NS_MAX 64 /* of each option */

/* In the order in which a process joins them: with the user namespace it loses its power over the
 * others' owners, and the PID namespace is entered by children alone. */
enum ns_kind { NS_NET, NS_IPC, NS_UTS, NS_USER, NS_PID, NS_KINDS };
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
	/* "CONTAINER_ID HOST_ID COUNT\n" each, for a new user namespace, which owns the others */
	char *uid_map, *gid_map;
};

/* Prints one line on stderr; returns 1, the program's exit status. errnum 0 = none. */
int ns_fail(int errnum, const char *what, const char *detail);
int ns_pin_file(const char *path, const char *source);
int ns_unpin(const char *path);

/* Sets host name, sysctls and loopback in the namespaces of the caller. */
int ns_fill(const struct ns_opts *o);
/* ns_user.c: the same as ns_create(), for namespaces that a new user namespace owns. */
int ns_create_owned(const struct ns_opts *o);
/* Of the caller's user namespace; before, it is nobody there. */
int ns_become_root(void);
/* "C:H:N" is appended to a map. */
int ns_add_map(const char *arg, char **map);
int ns_create(const struct ns_opts *o);
int ns_pod_pid(const struct ns_opts *o);

#endif
