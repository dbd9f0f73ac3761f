/* What a CRI client sends to make pods and containers: unpacked, checked, and built into a
 * configuration over a small root file system. Input: two bytes of length, a CreateContainerRequest
 * of that length, the image's configuration as JSON. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "spec/podfiles.h"
#include "spec/resources.h"
#include "spec/spec.h"
#include "spec/validate.h"

#define PASSWD "root:x:0:0:root:/root:/bin/sh\nu:x:1:1::/home/u:\n"
#define GROUP "root:x:0:\nu:x:1:u\nv:x:2:root,u\n"
enum { REFRESH = 500 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/berth-fuzz-XXXXXX";
static char rootfs[64];
static int rootfs_fd = -1;

static void remove_all(void)
{
	rootfs_fd = berth_close(rootfs_fd);
	if (berth_rm_tree(AT_FDCWD, dir) < 0)
		fprintf(stderr, "%s is left\n", dir);
}

static void make_rootfs(void)
{
	char path[96];
	snprintf(rootfs, sizeof(rootfs), "%s/rootfs", dir);
	snprintf(path, sizeof(path), "%s/etc", rootfs);
	if (berth_mkdir_p(path, 0755) < 0 ||
	        (rootfs_fd = open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0 ||
	        berth_write_file_atomic(
	                AT_FDCWD, strcat(path, "/passwd"), PASSWD, strlen(PASSWD), 0644, false) < 0)
		abort();
	snprintf(path, sizeof(path), "%s/etc/group", rootfs);
	if (berth_write_file_atomic(AT_FDCWD, path, GROUP, strlen(GROUP), 0644, false) < 0)
		abort();
}

/* Directories pile up in the root file system: a new one now and then. */
static void refresh(void)
{
	static unsigned round;
	if (round == 0) {
		if (!mkdtemp(dir))
			abort();
		atexit(remove_all);
	} else if (round % REFRESH == 0) {
		rootfs_fd = berth_close(rootfs_fd);
		if (berth_rm_tree(AT_FDCWD, rootfs) < 0)
			abort();
	}
	if (round++ % REFRESH == 0)
		make_rootfs();
}

static void replace(char **s, const char *with)
{
	if ((*s)[0] != '/')
		return;
	free(*s);
	*s = strdup(with);
}

/* The host's paths are made where they are missing, and walked: nothing for a fuzzer. */
static void tame(Runtime__V1__ContainerConfig *c)
{
	for (size_t i = 0; i < c->n_mounts; i++)
		replace(&c->mounts[i]->host_path, i % 2 ? dir : "/");
	for (size_t i = 0; i < c->n_devices; i++)
		replace(&c->devices[i]->host_path, i % 2 ? "/dev/null" : dir);
}

static void pod(const Runtime__V1__PodSandboxConfig *p)
{
	struct berth_error *err = NULL;
	struct berth_port_mapping *ports;
	struct berth_sysctl *sysctls;
	size_t n;

	for (int driver = 0; driver < 2; driver++) {
		if (berth_validate_pod(p, (enum berth_cgroup_driver)driver, &err) < 0) {
			err = berth_error_free(err);
			continue;
		}
		/* What was found good can be used. */
		if (berth_pod_port_mappings(p, &ports, &n, &err) < 0)
			abort();
		json_t *list = berth_port_mappings_json(ports, n);
		if (json_array_size(list) != n)
			abort();
		json_decref(list);
		berth_port_mappings_free(ports, n);
		if (berth_pod_sysctls(p, &sysctls, &n, &err) < 0)
			abort();
		berth_sysctls_free(sysctls, n);
		_cleanup_free_ char *name = berth_pod_hostname(p, "0123456789abcdef");
		if (berth_pod_files_write(dir, p, "0123456789abcdef", name, NULL, 0, &err) < 0)
			abort();
	}
}

static void container(const Runtime__V1__CreateContainerRequest *r, const json_t *image)
{
	const struct berth_spec_host host = {.cgroup_v2 = true,
	        .swap_accounting = true,
	        .hugetlb = true,
	        .bounding = UINT64_MAX >> 23,
	        .seccomp_root = dir};
	const struct berth_spec_in in = {.config = r->config,
	        .pod_config = r->sandbox_config,
	        .image_config = image,
	        .image_ref = "i",
	        .container_id = "c0ffee",
	        .pod_id = r->pod_sandbox_id,
	        .rootfs = rootfs,
	        .rootfs_fd = rootfs_fd,
	        .handler_rro = true,
	        .ns = {.net = "/n", .ipc = "/i", .uts = "/u", .pid = "/p"},
	        .target_pid = 1,
	        .hostname = r->sandbox_config->hostname,
	        .cgroup_parent =
	                r->sandbox_config->linux ? r->sandbox_config->linux->cgroup_parent : "",
	        .host = &host};
	struct berth_spec_out out;
	struct berth_error *err = NULL;
	json_error_t je;

	if (berth_spec_container(&in, &out, &err) < 0) {
		/* Nothing that a client sends is a fault of ours. */
		if (err->code == BERTH_INTERNAL && !strstr(err->msg, "working_dir") &&
		        !strstr(err->msg, "volume of the image"))
			abort();
		berth_error_free(err);
		return;
	}
	char *text = json_dumps(out.config, JSON_COMPACT);
	json_t *back = text ? json_loads(text, 0, &je) : NULL;
	if (!back)
		abort();
	json_decref(back);
	free(text);
	struct berth_arena *arena = berth_arena_new();
	Runtime__V1__LinuxContainerResources res;
	json_t *again;
	berth_resources_to_cri(arena, out.resources, &res);
	if (berth_resources_merge("c", out.resources, &res, &again, &err) < 0 ||
	        !json_equal(again, out.resources))
		abort();
	json_decref(again);
	berth_arena_free(arena);
	berth_spec_out_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return -1;
	size_t n = (size_t)data[0] << 8 | data[1];
	if (n > size - 2)
		n = size - 2;
	Runtime__V1__CreateContainerRequest *r =
	        runtime__v1__create_container_request__unpack(NULL, n, data + 2);
	if (!r)
		return -1;
	json_t *image = json_loadb((const char *)data + 2 + n, size - 2 - n, 0, NULL);

	refresh();
	if (r->sandbox_config)
		pod(r->sandbox_config);
	if (r->config && r->sandbox_config) {
		tame(r->config);
		container(r, image);
	}
	json_decref(image);
	runtime__v1__create_container_request__free_unpacked(r, NULL);
	return 0;
}
