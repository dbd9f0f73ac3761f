/* What is mounted into the container: the kernel's file systems, the pod's files, the request's. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "spec/build.h"
#include "spec/podfiles.h"

#define PROC_INODE 1 /* of a procfs' root */
#define CONSOLE "/dev/console"

/* One mount on its way into config.mounts. */
struct item {
	char *dest;
	json_t *mount;
	size_t depth, order;
	bool shared; /* what is mounted beneath appears on the node, and stays there */
};
struct list {
	struct item *v;
	size_t n;
};

static void list_finish(struct list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].dest);
		json_decref(l->v[i].mount);
	}
	free(l->v);
}

/* Takes `options`. Strings are known to be UTF-8. */
static void add(
        struct list *l, const char *dest, const char *type, const char *source, json_t *options)
{
	struct item *it;

	if ((l->n & (l->n - 1)) == 0)
		l->v = berth_reallocarray(l->v, l->n ? l->n * 2 : 1, sizeof(*l->v));
	it = &l->v[l->n];
	it->dest = berth_strdup(dest);
	it->order = l->n++;
	it->depth = 0;
	it->shared = false;
	for (const char *p = dest; *p; p++)
		it->depth += *p == '/' && p[1];
	it->mount = json_pack("{s:s,s:s,s:s,s:o}", "destination", dest, "type", type, "source",
	        source, "options", options);
}

static json_t *words(const char *text)
{
	json_t *list = json_array();
	while (*text) {
		size_t n = strcspn(text, ",");
		json_array_append_new(list, json_stringn(text, n));
		text += n;
		text += *text == ',';
	}
	return list;
}

static bool holds(const char *dir, const char *path)
{
	size_t n = strlen(dir);
	return strncmp(dir, path, n) == 0 &&
	       (path[n] == '/' || !path[n] || (n && dir[n - 1] == '/'));
}

struct fixed {
	const char *dest, *type, *source, *options;
};

/* Who mounts a /dev has all of it from there; but for the pod's shm, which its IPC namespace goes
 * with. Above anything else of ours a request may mount what it likes, unless the node would see
 * ours in it. */
static bool requested(const struct item *it, const struct fixed *f)
{
	if (!holds(it->dest, f->dest))
		return false;
	return it->shared || strcmp(it->dest, f->dest) == 0 ||
	       (strcmp(it->dest, "/dev") == 0 && strcmp(f->dest, "/dev/shm") != 0);
}

static void add_own(struct list *l, size_t n_requested, const struct fixed *f)
{
	for (size_t i = 0; i < n_requested; i++)
		if (requested(&l->v[i], f))
			return;
	add(l, f->dest, f->type, f->source, words(f->options));
}

/* The file systems of the kernel and the pod's files; what the request mounts itself is left out.
 */
static void add_defaults(struct spec_build *b, struct list *l)
{
	const struct berth_spec_in *in = b->in;
	size_t n = l->n;
	const char *rw = b->privileged ? "rw" : "ro";
	_cleanup_free_ char *sysfs = berth_asprintf("nosuid,noexec,nodev,%s", rw);
	_cleanup_free_ char *cgroup = berth_asprintf("nosuid,noexec,nodev,relatime,%s", rw);
	_cleanup_free_ char *file = berth_asprintf(
	        "bind,rprivate,nosuid,nodev,noexec,%s", b->sec->readonly_rootfs ? "ro" : "rw");
	const char *shm = in->shm_path ? in->shm_path : b->host_ipc ? "/dev/shm" : NULL;
	_cleanup_free_ char *sys_bind = berth_asprintf("rbind,rprivate,nosuid,noexec,nodev,%s", rw);
	const struct fixed own[] = {
	        {"/proc", "proc", "proc", "nosuid,noexec,nodev"},
	        {"/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"},
	        {"/dev/pts", "devpts", "devpts",
	                "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"},
	        {"/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"},
	        {"/sys", in->sys_path ? "bind" : "sysfs", in->sys_path ? in->sys_path : "sysfs",
	                in->sys_path ? sys_bind : sysfs},
	        {"/sys/fs/cgroup", "cgroup", "cgroup", cgroup},
	        {"/dev/shm", shm ? "bind" : "tmpfs", shm ? shm : "shm",
	                shm ? "rbind,rprivate,nosuid,noexec,nodev,rw"
	                    : "nosuid,noexec,nodev,mode=1777,size=65536k"},
	};
	const struct fixed files[] = {
	        {"/etc/hostname", "bind", in->hostname_path, file},
	        {"/etc/resolv.conf", "bind", in->resolv_path, file},
	        {"/etc/hosts", "bind", in->hosts_path, file},
	};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(own); i++)
		add_own(l, n, &own[i]);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(files); i++)
		if (files[i].source)
			add_own(l, n, &files[i]);
}

/* The source as the kernel will see it: without links, made where it is missing. */
static int resolve_source(
        const char *field, const char *host_path, char **ret, struct berth_error **ret_err)
{
	char *real = realpath(host_path, NULL);
	if (!real && errno == ENOENT) {
		int r = berth_mkdir_p(host_path, 0755);
		if (r < 0)
			return berth_error_errno(
			        ret_err, r, "%s: make host path %.256s", field, host_path);
		real = realpath(host_path, NULL);
	}
	if (!real)
		return berth_error_errno(ret_err, errno, "%s: host path %.256s", field, host_path);
	*ret = real;
	return 0;
}

/* The propagation option of a mount; checks that the source's own mount allows it. */
static int propagation(struct spec_build *b, const char *field, const Runtime__V1__Mount *m,
        const char *source, const char **ret, struct berth_error **ret_err)
{
	struct berth_propagation peers = {0};
	bool both = m->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL;
	bool down = m->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER;
	bool ours = holds(source, b->in->rootfs);

	*ret = "rprivate";
	if (!both && !down && m->propagation != RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: propagation %d is unknown", field, (int)m->propagation);
	if (!both && !down && !ours)
		return 0;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	if (berth_mount_propagation(source, &peers, &err) < 0 && (both || down)) {
		(void)berth_error_wrap(&err, "%s: propagation of %.256s", field, source);
		return berth_error_move(ret_err, &err);
	}
	if (both && !peers.shared)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "%s: PROPAGATION_BIDIRECTIONAL: the mount of %.256s is not shared", field,
		        source);
	if (down && !peers.shared && !peers.master)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "%s: PROPAGATION_HOST_TO_CONTAINER: the mount of %.256s is neither shared "
		        "nor a "
		        "slave",
		        field, source);
	if (both) {
		*ret = "rshared";
		b->propagation = "rshared";
	} else if (down || peers.shared || peers.master) {
		/* Also for a private mount of a directory above our own mounts: as a private copy
		 * it would hold every container's root file system until its end. */
		*ret = "rslave";
		if (down && !b->propagation)
			b->propagation = "rslave";
	}
	return 0;
}

static bool is_image(const Runtime__V1__Mount *m)
{
	return m->image && spec_is_set(m->image->image);
}

static int check_image(struct spec_build *b, const char *field, const Runtime__V1__Mount *m,
        struct berth_error **ret_err)
{
	const char *why = spec_is_set(m->host_path) ? "host_path is set, too"
	                  : !m->readonly ? "it is not readonly, and images are never written"
	                  : m->propagation != RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE
	                          ? "its propagation is not PRIVATE"
	                  : m->n_uidmappings && !berth_pod_userns(b->in->pod_config)
	                          ? "its owners are mapped, and the pod's are not"
	                          : NULL;
	return why ? berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	                     "ImageVolumeMountFailed: %s: image: %s", field, why)
	           : 0;
}

static int check_ranges(const char *field, const char *which, Runtime__V1__IDMapping *const *v,
        size_t n, struct berth_error **ret_err)
{
	if (n > BERTH_LIMIT_SPEC_RANGES)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: %s: more than %d ranges", field, which, BERTH_LIMIT_SPEC_RANGES);
	for (size_t i = 0; i < n; i++)
		if (v[i]->length == 0 || v[i]->host_id > UINT32_MAX - v[i]->length ||
		        v[i]->container_id > UINT32_MAX - v[i]->length)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: %s[%zu]: the range is empty or ends beyond the last id", field,
			        which, i);
	return 0;
}

static int check_kind(struct spec_build *b, const char *field, const Runtime__V1__Mount *m,
        struct berth_error **ret_err)
{
	bool image = is_image(m);

	if (spec_is_set(m->image_sub_path) && !image)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "%s: image_sub_path without image", field);
	if (image && check_image(b, field, m, ret_err) < 0)
		return -1;
	if (check_ranges(field, "uidMappings", m->uidmappings, m->n_uidmappings, ret_err) < 0 ||
	        check_ranges(field, "gidMappings", m->gidmappings, m->n_gidmappings, ret_err) < 0)
		return -1;
	if (!m->n_uidmappings != !m->n_gidmappings)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: uidMappings and gidMappings go together", field);
	bool bad_dest = m->container_path[0] != '/';
	if (bad_dest || (!image && m->host_path[0] != '/'))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: %s \"%.256s\" is not an absolute path", field,
		        bad_dest ? "container_path" : "host_path",
		        bad_dest ? m->container_path : m->host_path);
	if (strnlen(m->host_path, BERTH_LIMIT_SPEC_PATH) >= BERTH_LIMIT_SPEC_PATH ||
	        strnlen(m->container_path, BERTH_LIMIT_SPEC_PATH) >= BERTH_LIMIT_SPEC_PATH ||
	        strnlen(m->image_sub_path, BERTH_LIMIT_SPEC_PATH) >= BERTH_LIMIT_SPEC_PATH)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: a path is longer than %d bytes", field, BERTH_LIMIT_SPEC_PATH - 1);
	return 0;
}

static int check_rro(struct spec_build *b, const char *field, const Runtime__V1__Mount *m,
        struct berth_error **ret_err)
{
	if (!m->recursive_read_only)
		return 0;
	if (!m->readonly)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: recursive_read_only without readonly", field);
	if (m->propagation != RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: recursive_read_only with a propagation other than PRIVATE", field);
	/* Clients look for this word at the beginning of the message. */
	if (!b->in->handler_rro && !b->in->stage)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "RROUnsupported: %s: the runtime handler \"%s\" cannot mount recursively "
		        "read-only",
		        field, b->in->handler ? b->in->handler : "");
	return 0;
}

/* Where the runtime shall bind from, and how. */
struct from {
	char *source;
	const char *propagation;
	bool staged;
};

static int stage(struct spec_build *b, size_t i, const char *field, struct from *f,
        struct berth_error **ret_err)
{
	uint64_t propagation = strcmp(f->propagation, "rshared") == 0  ? MS_SHARED
	                       : strcmp(f->propagation, "rslave") == 0 ? MS_SLAVE
	                                                               : MS_PRIVATE;
	char *staged = NULL;

	if (!b->in->stage)
		return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
		        "%s: a mount of this kind is not implemented here", field);
	if (b->in->stage(b->in->stage_arg, i, f->source, propagation, &staged, ret_err) < 0)
		return strncmp((*ret_err)->msg, "ImageVolumeMountFailed", 22) == 0
		               ? -1
		               : berth_error_wrap(ret_err, "%s", field);
	free(f->source);
	f->source = staged;
	f->staged = true;
	return 0;
}

static int find_source(struct spec_build *b, size_t i, const char *field, struct from *f,
        struct berth_error **ret_err)
{
	const Runtime__V1__Mount *m = b->c->mounts[i];

	f->propagation = "rprivate";
	if (is_image(m))
		return stage(b, i, field, f, ret_err);
	if (resolve_source(field, m->host_path, &f->source, ret_err) < 0 ||
	        propagation(b, field, m, f->source, &f->propagation, ret_err) < 0)
		return -1;
	if (m->n_uidmappings || (m->recursive_read_only && !b->in->handler_rro))
		return stage(b, i, field, f, ret_err);
	return 0;
}

static bool is_procfs(const char *path)
{
	struct statfs fs;
	struct stat st;
	return statfs(path, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC && stat(path, &st) == 0 &&
	       st.st_ino == PROC_INODE;
}

/* The runtime confines the container through its /proc: nobody puts another one in its place. What
 * runc lets by is what lxcfs emulates. */
static int check_proc(const char *field, const Runtime__V1__Mount *m, const char *dest,
        struct berth_error **ret_err)
{
	static const char *const allowed[] = {"cpuinfo", "diskstats", "meminfo", "stat", "swaps",
	        "uptime", "loadavg", "slabinfo", "net/dev", "sys/kernel/ns_last_pid",
	        "sys/crypto/fips_enabled"};

	if (!holds("/proc", dest))
		return 0;
	if (strcmp(dest, "/proc") == 0)
		return !is_image(m) && is_procfs(m->host_path)
		               ? 0
		               : berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		                         "%s: container_path /proc: only a proc file system can be "
		                         "mounted there",
		                         field);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(allowed); i++)
		if (strcmp(dest + strlen("/proc/"), allowed[i]) == 0)
			return 0;
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "%s: container_path %.256s lies inside /proc: only files that lxcfs emulates can "
	        "be "
	        "mounted there, as /proc/meminfo",
	        field, dest);
}

static int add_request(struct spec_build *b, struct list *l, size_t i, struct berth_error **ret_err)
{
	const Runtime__V1__Mount *m = b->c->mounts[i];
	_cleanup_free_ char *field = berth_asprintf("mounts[%zu]", i);

	if (check_kind(b, field, m, ret_err) < 0 || check_rro(b, field, m, ret_err) < 0)
		return -1;
	_cleanup_free_ char *dest = spec_clean_path(m->container_path);
	if (strcmp(dest, "/") == 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: container_path is the root file system", field);
	if (check_proc(field, m, dest, ret_err) < 0)
		return -1;
	/* Before anything is made on the host. */
	json_t *s = spec_string(field, m->host_path, BERTH_LIMIT_SPEC_PATH, ret_err);
	json_t *d = s ? spec_string(field, dest, BERTH_LIMIT_SPEC_PATH, ret_err) : NULL;
	json_decref(s);
	json_decref(d);
	if (!d)
		return -1;
	struct from f = {0};
	int r = find_source(b, i, field, &f, ret_err);
	_cleanup_free_ char *source = f.source;
	if (r < 0)
		return -1;
	s = spec_string(field, source, PATH_MAX, ret_err);
	if (!s)
		return -1;
	json_decref(s);

	json_t *options = json_pack("[s,s,s]", "rbind", f.propagation,
	        m->recursive_read_only && !f.staged ? "rro"
	        : m->readonly                       ? "ro"
	                                            : "rw");
	add(l, dest, "bind", source, options);
	l->v[l->n - 1].shared =
	        m->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL;
	b->out->mounts[b->out->n_mounts++] = (struct berth_spec_mount){
	        .container_path = berth_strdup(m->container_path),
	        .host_path = berth_strdup(m->host_path),
	        .propagation = m->propagation,
	        .readonly = m->readonly,
	        .recursive_read_only = m->recursive_read_only,
	        .selinux_relabel = m->selinux_relabel,
	};
	return 0;
}

static int check_path(
        const char *field, const char *dest, const char *path, struct berth_error **ret_err)
{
	if (!holds(dest, path))
		return 0;
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "%s: PROPAGATION_BIDIRECTIONAL at %.256s: what the runtime mounts on %.256s for "
	        "this container would be mounted on the node, and stay",
	        field, dest, path);
}

/* What the runtime mounts by itself: the terminal, and what hides and protects paths. */
static int check_runtime_mounts(
        struct spec_build *b, const struct list *l, size_t n, struct berth_error **ret_err)
{
	static const char *const lists[] = {"maskedPaths", "readonlyPaths"};
	const json_t *path;
	size_t k;

	for (size_t i = 0; i < n; i++) {
		const char *dest = l->v[i].dest;
		_cleanup_free_ char *field = berth_asprintf("mounts[%zu]", i);
		if (!l->v[i].shared)
			continue;
		if (b->c->tty && check_path(field, dest, CONSOLE, ret_err) < 0)
			return -1;
		for (size_t which = 0; which < BERTH_ARRAY_LEN(lists); which++)
			json_array_foreach (json_object_get(b->oci_linux, lists[which]), k, path) {
				if (check_path(field, dest, json_string_value(path), ret_err) < 0)
					return -1;
			}
	}
	return 0;
}

static int by_depth(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	if (x->depth != y->depth)
		return x->depth < y->depth ? -1 : 1;
	return x->order < y->order ? -1 : 1;
}

int spec_mounts(struct spec_build *b, struct berth_error **ret_err)
{
	_cleanup_(list_finish) struct list l = {0};
	json_t *mounts = json_array();

	json_object_set_new(b->out->config, "mounts", mounts);
	if (b->c->n_mounts > BERTH_LIMIT_SPEC_MOUNTS)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "mounts: more than %d",
		        BERTH_LIMIT_SPEC_MOUNTS);
	b->out->mounts = berth_new_array(struct berth_spec_mount, b->c->n_mounts + 1);
	for (size_t i = 0; i < b->c->n_mounts; i++)
		if (add_request(b, &l, i, ret_err) < 0)
			return -1;
	if (check_runtime_mounts(b, &l, l.n, ret_err) < 0)
		return -1;
	add_defaults(b, &l);
	qsort(l.v, l.n, sizeof(*l.v), by_depth);
	for (size_t i = 0; i < l.n; i++)
		json_array_append(mounts, l.v[i].mount);
	return 0;
}
