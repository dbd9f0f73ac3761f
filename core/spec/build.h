/* Inside core/spec: the pieces of berth_spec_container(). Their errors name the field; the caller
 * adds the container. [worker] */
#ifndef BERTH_SPEC_BUILD_H
#define BERTH_SPEC_BUILD_H

#include "security/caps.h"
#include "spec/spec.h"

/* Counts and lengths that a request may have. */
#define BERTH_LIMIT_SPEC_PATH 4096
#define BERTH_LIMIT_SPEC_STRINGS 65536 /* arguments, variables */
#define BERTH_LIMIT_SPEC_STRING (2 * 1024 * 1024)
#define BERTH_LIMIT_SPEC_MOUNTS 4096
#define BERTH_LIMIT_CDI_DEVICES 4096 /* named by one request */
#define BERTH_LIMIT_CDI_FILES 1024   /* of one directory */
#define BERTH_LIMIT_CDI_FILE (4 * 1024 * 1024)
#define BERTH_LIMIT_CDI_NAME 253
#define BERTH_LIMIT_SPEC_RANGES 340   /* of mapped ids: the kernel's own */
#define BERTH_LIMIT_SPEC_DEVICES 8192 /* after the expansion of directories */
#define BERTH_LIMIT_SPEC_GROUPS 65536 /* the kernel's NGROUPS_MAX */
#define BERTH_LIMIT_SPEC_PASSWD (4 * 1024 * 1024)

struct spec_build {
	const struct berth_spec_in *in;
	const Runtime__V1__ContainerConfig *c;
	const Runtime__V1__LinuxContainerSecurityContext *sec; /* never NULL */
	const Runtime__V1__NamespaceOption *ns;                /* never NULL */
	const struct berth_spec_host *host;
	bool privileged;
	berth_capset caps;       /* what the process has, for the seccomp profile */
	char *home;              /* of the user, from passwd; NULL = unknown */
	bool host_ipc;           /* joins the host's IPC namespace */
	const char *propagation; /* linux.rootfsPropagation that the mounts want, NULL = default */
	json_t *process, *oci_linux; /* borrowed from out->config */
	struct berth_spec_out *out;
};

/* user.c: out->uid, gid, groups, home */
int spec_user(struct spec_build *b, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* process.c: process.args, env, cwd, terminal */
int spec_process(struct spec_build *b, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* mounts.c: config.mounts, out->mounts */
int spec_mounts(struct spec_build *b, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* namespaces.c: linux.namespaces, hostname */
int spec_namespaces(struct spec_build *b, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* devices.c: linux.devices and the device rules in `resources` (OCI) */
int spec_devices(
        struct spec_build *b, json_t *resources, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* restrict.c: capabilities, seccomp, AppArmor, labels, masked and read-only paths */
int spec_security(struct spec_build *b, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* text.c. A JSON string of bounded UTF-8 text, or NULL with INVALID_ARGUMENT that names `field`. */
json_t *spec_string(const char *field, const char *s, size_t max, struct berth_error **ret_err);
/* Sets obj[key] so. */
int spec_set(json_t *obj, const char *key, const char *field, const char *s, size_t max,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* A list of absolute paths. NULL with an error. */
json_t *spec_paths(const char *field, char *const *paths, size_t n, struct berth_error **ret_err);
/* Without double slashes, "." and "..", always absolute, without a slash at the end but for "/".
 * Caller frees. */
char *spec_clean_path(const char *path);
bool spec_is_set(const char *s); /* neither NULL nor empty */

/* inroot.c: mkdir -p (0755) inside the root file system, which its image controls: links are
 * resolved in the root and nothing outside is touched. What is made belongs to the container's
 * root. `path` is clean. Negative errno. */
int spec_mkdir_in_root(const struct spec_build *b, const char *path);

#endif
