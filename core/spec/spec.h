/* One container's OCI runtime configuration (config.json), written whole by the core from the CRI
 * request, the image's record and what the pod already has. Linux only. */
#ifndef BERTH_SPEC_SPEC_H
#define BERTH_SPEC_SPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cgroup.h"
#include "base/error.h"
#include "base/macros.h"
#include "cri.pb-c.h"

/* What this host and this daemon can do; read once by berth_spec_host_probe(), the same for every
 * container. */
struct berth_spec_host {
	bool cgroup_v2;           /* controllers live in the unified hierarchy (not the hybrid's) */
	bool swap_accounting;     /* v1: memory.memsw.limit_in_bytes; v2: memory.swap.max */
	bool hugetlb;             /* the hugetlb controller is there */
	bool apparmor;            /* the kernel enforces AppArmor */
	bool can_lower_oom;       /* CAP_SYS_RESOURCE */
	int oom_score_adj;        /* berthd's own: the floor without CAP_SYS_RESOURCE */
	uint64_t bounding;        /* berthd's bounding set, bit n = capability n */
	const char *seccomp_root; /* directory of Localhost profiles with relative names */
};
/* [any] Never fails: what cannot be read is taken as absent. seccomp_root is the kubelet's default.
 */
void berth_spec_host_probe(struct berth_spec_host *ret);

/* Everything is borrowed for the call. Paths are absolute host paths. NULL where not said. */
struct berth_spec_in {
	const Runtime__V1__ContainerConfig *config;      /* never NULL; validated by the callee */
	const Runtime__V1__PodSandboxConfig *pod_config; /* never NULL */
	const json_t
	        *image_config; /* "config" of the image record (core/pull/protocol.h) or NULL */
	const char *image_ref; /* for annotations; may be NULL */
	const char *container_id, *pod_id;
	const char *rootfs;  /* where the root file system is mounted */
	int rootfs_fd;       /* the same directory, open (O_PATH or O_DIRECTORY) */
	const char *handler; /* runtime handler's name, for messages; "" = default */
	bool handler_rro;    /* the handler mounts recursively read-only ("rro") */

	/* Puts what mounts[i] of the request shall show on a path of berth's own, *ret (the caller
	 * frees): an image (source NULL), or the directory or file `source` where a runtime need
	 * not be able to do what is asked. propagation: MS_PRIVATE, MS_SLAVE or MS_SHARED. NULL:
	 * such mounts are refused. */
	int (*stage)(void *arg, size_t i, const char *source, uint64_t propagation, char **ret,
	        struct berth_error **ret_err);
	void *stage_arg;

	/* Pinned namespaces of the pod. NULL: the pod uses the host's (net, ipc, uts) or has none
	 * (pid: only pods that share one have it). */
	struct {
		const char *net, *ipc, *uts, *pid, *user;
	} ns;
	/* Who owns what is made in the root file system: the container's root, on the host. */
	uint32_t root_uid, root_gid;
	const char *sys_path; /* a tree to show on /sys, where no sysfs can be mounted; NULL */
	pid_t target_pid;     /* NamespaceMode TARGET: the target container's init; else 0 */

	const char *hostname; /* effective, for HOSTNAME= */
	/* The pod's files, mounted on /etc/hostname, /etc/resolv.conf, /etc/hosts and /dev/shm
	 * unless the request mounts something there. NULL is left out; without shm a private tmpfs
	 * is mounted. */
	const char *hostname_path, *resolv_path, *hosts_path, *shm_path;

	const char *cgroup_parent; /* as the pod's config has it, "" = berth's own default parent */
	enum berth_cgroup_driver cgroup_driver;
	const char *const *cdi_dirs; /* of specifications of CDI devices, NULL-terminated or NULL */
	int64_t pids_limit;          /* of the configuration; 0 or negative = none */

	const char *selinux_process_label, *selinux_mount_label; /* NULL = none */
	const struct berth_spec_host *host;                      /* NULL = probe now */
};

/* A mount of the request as it was resolved, for ContainerStatus.mounts. */
struct berth_spec_mount {
	char *container_path, *host_path; /* host_path as requested */
	Runtime__V1__MountPropagation propagation;
	bool readonly, recursive_read_only, selinux_relabel;
};

struct berth_spec_out {
	json_t *config;     /* the whole config.json; one reference */
	json_t *resources;  /* effective resources in the form of spec/resources.h; one reference */
	char *cgroups_path; /* linux.cgroupsPath as written */
	uint32_t uid, gid;
	uint32_t *groups; /* supplemental groups, sorted, without duplicates */
	size_t n_groups;
	int stop_signal; /* Linux number, SIGTERM by default */
	struct berth_spec_mount *mounts;
	size_t n_mounts;
	bool privileged;
};

/* [worker] Builds the configuration. Effects on the file system, which die with their owner's
 * removal: the working directory and the image's volumes are created inside the rootfs, missing
 * host paths of mounts are created as directories (0755). On success *out is filled and freed by
 * berth_spec_out_finish(); on failure it is untouched and empty. Errors name the container and
 * the field: INVALID_ARGUMENT, NOT_FOUND (a device, a seccomp profile, a user that does not
 * exist), FAILED_PRECONDITION (the host cannot do it: propagation, AppArmor, "RROUnsupported:
 * ..."), UNIMPLEMENTED (mounts for which there is no stage()). Messages about images
 * begin with "ImageVolumeMountFailed". */
int berth_spec_container(const struct berth_spec_in *in, struct berth_spec_out *out,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
void berth_spec_out_finish(struct berth_spec_out *out);

/* [any] The OCI process object for an exec in a container with this config.json: its user,
 * environment, cwd, capabilities, limits and labels with other arguments and terminal. One
 * reference. INVALID_ARGUMENT where argv is empty or not UTF-8. `id` is for messages. */
int berth_spec_exec_process(const json_t *config, const char *id, size_t argc, char *const *argv,
        bool tty, json_t **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* [any] linux.cgroupsPath of an object under a pod's cgroup parent: "PARENT/ID" (cgroupfs) or
 * "SLICE:berth:ID" (systemd). An empty parent is "/berth" or "system.slice". The parent was checked
 * by berth_validate_pod(). Caller frees. */
char *berth_spec_cgroups_path(enum berth_cgroup_driver driver, const char *parent, const char *id);

#endif
