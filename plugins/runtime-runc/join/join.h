/* berth-join: starts one more process in a container, without the OCI runtime: the parts of the
 * program. No function prints; a failure is told by join_fail() or join_refuse() and -1. */
#ifndef BERTH_JOIN_H
#define BERTH_JOIN_H

#include <jansson.h>
#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define JOIN_WORDS 1024
#define JOIN_JSON_MAX (16u << 20) /* of the process and of config.json */
#define JOIN_FILTER_MAX 4096      /* instructions: the kernel's own limit */
#define JOIN_GROUPS_MAX 65536
#define JOIN_STOPPED "cannot exec in a stopped container"

/* What went wrong, for the one line that is told; the first one stays. Returns -1. */
int join_fail(int errnum, const char *what, const char *detail);
/* The same for what this program does not do: the runtime is to do it. Only before the fork. */
int join_refuse(const char *what, const char *detail);
extern char join_words[JOIN_WORDS];

/* ---- enter.c: before the fork ---- */

/* The container's init by pid and start time (clock ticks): a pidfd, or -1. */
int join_open_init(pid_t pid, uint64_t start);
bool join_init_ended(int pidfd, int timeout_ms);
/* The caller moves into the container's cgroups: those of its init, and of these the part that
 * `path`, the configuration's cgroupsPath, names. Where there is one hierarchy alone (v2) it does
 * not, but *ret_into is the directory, for join_fork(); else -1. */
int join_cgroups(pid_t pid, const char *path, int *ret_into);
/* The caller joins the namespaces of a process that are not its own, children alone the PID
 * namespace; but for those which take its rights, *ret_later, which are the child's to join:
 * nobody who is within can do anything to it before. */
int join_namespaces(pid_t pid, int pidfd, int *ret_later);
int join_namespaces_later(int pidfd, int flags);
/* fork(), into a cgroup where `into` is not -1; -1 with errno. */
pid_t join_fork(int into);

/* ---- filter.c ---- */

/* Compiles linux.seccomp; .len 0 where there is none. The filter is the caller's. */
int join_filter_compile(const json_t *seccomp, struct sock_fprog *ret);
/* What a compile has made for the same config, in a file that only root can write: true where it
 * was there. Making one takes as long as all the rest. */
bool join_filter_read(const char *path, struct sock_fprog *ret);
void join_filter_keep(const char *path, const struct sock_fprog *filter);
int join_filter_load(const struct sock_fprog *filter);

/* ---- process.c ---- */

/* What the OCI process says, read before anything is joined. */
struct join_process {
	char **argv, **env;
	const char *cwd, *apparmor;
	uid_t uid;
	gid_t gid, *groups;
	size_t n_groups;
	mode_t umask;
	bool terminal, no_new_privs, has_oom_score_adj;
	int oom_score_adj;
	uint16_t width, height;
	uint64_t bounding, effective, permitted, inheritable, ambient;
	bool has_caps;
	json_t *rlimits; /* borrowed */
};
/* *ret refers to `process`. */
int join_process_read(const json_t *process, struct join_process *ret);
/* What takes the node's rights, for the caller and the child that it forks: room for the limits,
 * oom_score_adj, the AppArmor profile of what is executed next. */
int join_process_prepare(const struct join_process *p);
/* The limits themselves, in the child. */
int join_process_limits(const struct join_process *p);

/* ---- become.c ---- */

/* In the child, within the container; returns only on failure. */
int join_become(const struct join_process *p, const char *id, bool user_namespace,
        const struct sock_fprog *filter, int console);

#endif
