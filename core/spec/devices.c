/* Device nodes and the rules of the device cgroup. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "spec/build.h"

enum { DEPTH_MAX = 16 };

struct devices {
	json_t *nodes, *rules;
	const char *permissions; /* of the nodes that are added; NULL = no rule */
};

static int add_node(struct devices *d, const char *field, const char *path, const struct stat *st,
        struct berth_error **ret_err)
{
	const char *type = S_ISBLK(st->st_mode) ? "b" : "c";

	if (json_array_size(d->nodes) >= BERTH_LIMIT_SPEC_DEVICES)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s: more than %d devices",
		        field, BERTH_LIMIT_SPEC_DEVICES);
	json_t *p = spec_string(field, path, BERTH_LIMIT_SPEC_PATH, ret_err);
	if (!p)
		return -1;
	json_array_append_new(d->nodes,
	        json_pack("{s:o,s:s,s:I,s:I,s:I,s:I,s:I}", "path", p, "type", type, "major",
	                (json_int_t)major(st->st_rdev), "minor", (json_int_t)minor(st->st_rdev),
	                "fileMode", (json_int_t)(st->st_mode & 07777), "uid",
	                (json_int_t)st->st_uid, "gid", (json_int_t)st->st_gid));
	if (d->permissions)
		json_array_append_new(d->rules,
		        json_pack("{s:b,s:s,s:I,s:I,s:s}", "allow", 1, "type", type, "major",
		                (json_int_t)major(st->st_rdev), "minor",
		                (json_int_t)minor(st->st_rdev), "access", d->permissions));
	return 0;
}

/* What a directory of devices has beside devices: the container gets its own of these. */
static bool passed_over(const char *name)
{
	static const char *const names[] = {
	        ".", "..", "pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* Takes fd. */
static int add_dir(struct devices *d, const char *field, int fd, const char *path, int depth,
        struct berth_error **ret_err)
{
	DIR *dir = fdopendir(fd);
	int result = 0;

	if (!dir) {
		int saved = errno;
		close(fd);
		return berth_error_errno(ret_err, saved, "%s: %.256s", field, path);
	}
	for (struct dirent *e; result == 0 && (e = readdir(dir));) {
		struct stat st;
		if (passed_over(e->d_name) ||
		        fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		_cleanup_free_ char *sub = berth_asprintf("%s/%s", path, e->d_name);
		if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
			result = add_node(d, field, sub, &st, ret_err);
		} else if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX) {
			int subfd = openat(dirfd(dir), e->d_name,
			        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (subfd >= 0)
				result = add_dir(d, field, subfd, sub, depth + 1, ret_err);
		}
	}
	closedir(dir);
	return result;
}

static int check_permissions(const char *field, const char *p, struct berth_error **ret_err)
{
	bool seen[128] = {false};
	for (const char *c = p; *c; c++) {
		if ((*c != 'r' && *c != 'w' && *c != 'm') || seen[(unsigned char)*c])
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: permissions \"%.16s\" are not made of r, w and m", field, p);
		seen[(unsigned char)*c] = true;
	}
	return 0;
}

static int add_request(
        struct devices *d, const Runtime__V1__Device *dev, size_t i, struct berth_error **ret_err)
{
	_cleanup_free_ char *field = berth_asprintf("devices[%zu]", i);
	const char *inside =
	        spec_is_set(dev->container_path) ? dev->container_path : dev->host_path;
	struct stat st;

	if (dev->host_path[0] != '/' || inside[0] != '/' ||
	        strnlen(dev->host_path, BERTH_LIMIT_SPEC_PATH) >= BERTH_LIMIT_SPEC_PATH ||
	        strnlen(inside, BERTH_LIMIT_SPEC_PATH) >= BERTH_LIMIT_SPEC_PATH)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: \"%.256s\" is not an absolute path of less than %d bytes", field,
		        dev->host_path[0] != '/' ? dev->host_path : inside, BERTH_LIMIT_SPEC_PATH);
	if (check_permissions(field, dev->permissions, ret_err) < 0)
		return -1;
	d->permissions = spec_is_set(dev->permissions) ? dev->permissions : "rwm";
	_cleanup_free_ char *path = spec_clean_path(inside);
	if (stat(dev->host_path, &st) < 0)
		return berth_error_errno(
		        ret_err, errno, "%s: host device %.256s", field, dev->host_path);
	if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
		return add_node(d, field, path, &st, ret_err);
	if (!S_ISDIR(st.st_mode))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: %.256s is neither a device nor a directory", field, dev->host_path);
	int fd = open(dev->host_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return berth_error_errno(
		        ret_err, errno, "%s: host directory %.256s", field, dev->host_path);
	return add_dir(d, field, fd, strcmp(path, "/") == 0 ? "" : path, 0, ret_err);
}

static bool mounts_dev(const Runtime__V1__ContainerConfig *c)
{
	for (size_t i = 0; i < c->n_mounts; i++) {
		_cleanup_free_ char *dest = spec_clean_path(c->mounts[i]->container_path);
		if (strcmp(dest, "/dev") == 0)
			return true;
	}
	return false;
}

static int fill(struct spec_build *b, struct devices *d, struct berth_error **ret_err)
{
	const Runtime__V1__ContainerConfig *c = b->c;

	json_array_append_new(
	        d->rules, json_pack("{s:b,s:s}", "allow", b->privileged ? 1 : 0, "access", "rwm"));
	/* A /dev of the request's has its nodes already. */
	if (b->privileged && !mounts_dev(c)) {
		int fd = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return berth_error_errno(ret_err, errno, "privileged: /dev");
		if (add_dir(d, "privileged", fd, "/dev", 0, ret_err) < 0)
			return -1;
	}
	for (size_t i = 0; i < c->n_devices; i++)
		if (add_request(d, c->devices[i], i, ret_err) < 0)
			return -1;
	return 0;
}

/* A later node of the same path replaces an earlier one. */
static json_t *without_doubles(const json_t *nodes)
{
	json_t *by_path = json_object(), *list = json_array(), *v;
	const char *key;
	size_t i;

	json_array_foreach (nodes, i, v) {
		json_object_set(by_path, json_string_value(json_object_get(v, "path")), v);
	}
	json_object_foreach (by_path, key, v) {
		json_array_append(list, v);
	}
	json_decref(by_path);
	return list;
}

int spec_devices(struct spec_build *b, json_t *resources, struct berth_error **ret_err)
{
	struct devices d = {.nodes = json_array(), .rules = json_array()};
	int r = fill(b, &d, ret_err);

	if (r == 0) {
		json_object_set_new(b->oci_linux, "devices", without_doubles(d.nodes));
		json_object_set(resources, "devices", d.rules);
	}
	json_decref(d.nodes);
	json_decref(d.rules);
	return r;
}
