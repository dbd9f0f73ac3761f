/* A root file system and a request to build configurations from. */
#ifndef BERTH_TESTS_SPEC_FIXTURE_H
#define BERTH_TESTS_SPEC_FIXTURE_H

#include "spec/spec.h"

struct fixture {
	char dir[64]; /* temporary; holds rootfs/ */
	char *rootfs;
	struct berth_spec_host host;
	struct berth_spec_in in;
	struct berth_spec_out out;
	struct berth_error *err;
	json_t *image;

	Runtime__V1__ContainerConfig c;
	Runtime__V1__ContainerMetadata meta;
	Runtime__V1__ImageSpec image_spec;
	Runtime__V1__LinuxContainerConfig lin;
	Runtime__V1__LinuxContainerResources res;
	Runtime__V1__LinuxContainerSecurityContext sec;
	Runtime__V1__NamespaceOption ns;
	Runtime__V1__SecurityProfile seccomp;
	Runtime__V1__Capability caps;
	Runtime__V1__PodSandboxConfig pod;
	Runtime__V1__PodSandboxMetadata pod_meta;
	Runtime__V1__LinuxPodSandboxConfig pod_linux;
	Runtime__V1__LinuxSandboxSecurityContext pod_sec;
	Runtime__V1__NamespaceOption pod_ns;
};

/* The request runs /bin/true on the host's network and IPC with a PID namespace of its own. */
struct fixture *fixture_new(void);
void fixture_free(struct fixture *f);
/* Builds; the former result is dropped. What berth_spec_container() returned. */
int fixture_build(struct fixture *f);
/* A value of the configuration by path: "process.args.0". NULL where there is none. */
json_t *fixture_get(const struct fixture *f, const char *path);
const char *fixture_str(const struct fixture *f, const char *path);
/* The value of NAME in process.env, NULL where it is not set. */
const char *fixture_env(const struct fixture *f, const char *name);
/* The mount on a destination, and whether it has an option. */
json_t *fixture_mount(const struct fixture *f, const char *dest);
int fixture_has(const json_t *list, const char *word);
/* Writes a file of the fixture's directory ("rootfs/etc/passwd"), with the directories above it. */
void fixture_write(const struct fixture *f, const char *name, const char *text);

#endif
