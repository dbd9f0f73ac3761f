#include "spec/inforce.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "spec/build.h"
#include "spec/cpuset.h"
#include "spec/resources.h"

#define HUGEPAGES "/sys/kernel/mm/hugepages"
#define POSSIBLE_CPUS "/sys/devices/system/cpu/possible"
#define POSSIBLE_MEMS "/sys/devices/system/node/possible"

/* Of two that depend on one another either may have to be first. */
#define RESTORE_PASSES 2

static bool present(const struct berth_cg_source *s)
{
	_cleanup_free_ char *dir =
	        berth_asprintf("%s%s%s", s->mount, s->v2 ? "" : "/memory", s->path);
	return access(dir, F_OK) == 0;
}

/* "CONTROLLER/FILE" on v1. */
static char *name_of(const struct berth_cg_source *s, const char *controller, const char *file)
{
	return s->v2 ? berth_strdup(file) : berth_asprintf("%s/%s", controller, file);
}

static char *path_of(const struct berth_cg_source *s, const char *name)
{
	const char *slash = strchr(name, '/');
	return slash ? berth_asprintf(
	                       "%s/%.*s%s%s", s->mount, (int)(slash - name), name, s->path, slash)
	             : berth_asprintf("%s%s/%s", s->mount, s->path, name);
}

/* The text without its last newline; NULL where there is no such file. */
static char *text_of(const struct berth_cg_source *s, const char *name)
{
	const char *slash = strchr(name, '/');
	_cleanup_free_ char *controller =
	        slash ? berth_strndup(name, (size_t)(slash - name)) : NULL;
	char *text = berth_cg_text(s, controller ? controller : "", slash ? slash + 1 : name);
	size_t n = text ? strlen(text) : 0;

	if (n && text[n - 1] == '\n')
		text[n - 1] = '\0';
	return text;
}

/* ---- check ---- */

static int check_hugepages(const struct berth_cg_source *s, const struct berth_spec_host *host,
        const char *size, struct berth_error **ret_err)
{
	_cleanup_free_ char *node = berth_asprintf(
	        HUGEPAGES "/hugepages-%llukB", (unsigned long long)berth_page_size(size) >> 10);
	_cleanup_free_ char *file =
	        berth_asprintf("hugetlb.%s.%s", size, s->v2 ? "max" : "limit_in_bytes");
	_cleanup_free_ char *name = name_of(s, "hugetlb", file);

	if (access(node, F_OK) < 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.hugepage_limits: this node has no pages of \"%.16s\"", size);
	_cleanup_free_ char *path = path_of(s, name);
	if (host->hugetlb && present(s) && access(path, F_OK) < 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "resources.hugepage_limits: %s: %s", path, strerror(errno));
	return 0;
}

/* Its permissions say what a file of a cgroup is for; root's own would let all pass. */
static bool holds_limit(const struct stat *st, const char *name)
{
	const char *dot = strrchr(name, '.');
	return (st->st_mode & 0600) == 0600 && !(dot && strcmp(dot, ".pressure") == 0);
}

static int check_unified(
        const struct berth_cg_source *s, const char *key, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = path_of(s, key);
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.unified: cgroup %s has no file \"%.128s\"", s->path, key);
	if (!holds_limit(&st, key))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.unified: \"%.128s\" holds no limit", key);
	return 0;
}

int berth_inforce_check(const struct berth_cg_source *s, const char *outer,
        const struct berth_spec_host *host, const Runtime__V1__LinuxContainerResources *change,
        struct berth_error **ret_err)
{
	const struct berth_cg_source o = {.mount = s->mount, .path = outer, .v2 = s->v2};

	if (spec_is_set(change->cpuset_cpus) &&
	        berth_cpuset_check(&o, "cpus", change->cpuset_cpus, ret_err) < 0)
		return -1;
	if (spec_is_set(change->cpuset_mems) &&
	        berth_cpuset_check(&o, "mems", change->cpuset_mems, ret_err) < 0)
		return -1;
	for (size_t i = 0; i < change->n_hugepage_limits; i++)
		if (check_hugepages(s, host, change->hugepage_limits[i]->page_size, ret_err) < 0)
			return -1;
	for (size_t i = 0; s->v2 && present(s) && i < change->n_unified; i++)
		if (check_unified(s, change->unified[i]->key, ret_err) < 0)
			return -1;
	return 0;
}

/* ---- read ---- */

struct file {
	const char *keys[2]; /* of the model */
	const char *v2, *controller, *v1;
};

static const struct file files_of[] = {
        {{"cpu_shares"}, "cpu.weight", "cpu", "cpu.shares"},
        {{"cpu_quota", "cpu_period"}, "cpu.max", "cpu", "cpu.cfs_period_us"},
        {{"cpu_quota", "cpu_period"}, NULL, "cpu", "cpu.cfs_quota_us"},
        {{"cpuset_cpus"}, "cpuset.cpus", "cpuset", "cpuset.cpus"},
        {{"cpuset_mems"}, "cpuset.mems", "cpuset", "cpuset.mems"},
        {{"memory_limit_in_bytes", "memory_swap_limit_in_bytes"}, "memory.swap.max", "memory",
                "memory.memsw.limit_in_bytes"},
        {{"memory_limit_in_bytes", "memory_swap_limit_in_bytes"}, "memory.max", "memory",
                "memory.limit_in_bytes"},
};

static void add(const struct berth_cg_source *s, const char *name, json_t *to)
{
	_cleanup_free_ char *path = path_of(s, name), *text = NULL;
	struct stat st;

	if (stat(path, &st) == 0 && holds_limit(&st, name) && (text = text_of(s, name)))
		json_object_set_new(to, name, json_string(text));
}

/* Its limit, and that of what is reserved, which newer runtimes set with it. */
static char *hugetlb_name(const struct berth_cg_source *s, const json_t *limit, bool reserved)
{
	_cleanup_free_ char *file = berth_asprintf("hugetlb.%s.%s%s",
	        json_string_value(json_object_get(limit, "page_size")), reserved ? "rsvd." : "",
	        s->v2 ? "max" : "limit_in_bytes");
	return name_of(s, "hugetlb", file);
}

json_t *berth_inforce_read(const struct berth_cg_source *s, const json_t *after)
{
	json_t *files = json_object(), *v;
	const char *key;
	size_t i;

	for (i = 0; i < BERTH_ARRAY_LEN(files_of); i++) {
		const struct file *f = &files_of[i];
		if (!json_object_get(after, f->keys[0]) &&
		        !(f->keys[1] && json_object_get(after, f->keys[1])))
			continue;
		_cleanup_free_ char *name =
		        s->v2 ? berth_strdup(f->v2) : name_of(s, f->controller, f->v1);
		if (name)
			add(s, name, files);
	}
	json_array_foreach (json_object_get(after, "hugepage_limits"), i, v) {
		_cleanup_free_ char *limit = hugetlb_name(s, v, false),
		                    *reserved = hugetlb_name(s, v, true);
		add(s, limit, files);
		add(s, reserved, files);
	}
	if (s->v2)
		json_object_foreach (json_object_get(after, "unified"), key, v)
			add(s, key, files);
	return files;
}

/* ---- back again ---- */

static json_t *part(json_t *oci, const char *key)
{
	if (!json_object_get(oci, key))
		json_object_set_new(oci, key, json_object());
	return json_object_get(oci, key);
}

void berth_inforce_tell(const struct berth_cg_source *s, json_t *files, json_t *oci)
{
	const char *name, *text;
	json_t *v;

	json_object_foreach (files, name, v) {
		text = json_string_value(v);
		/* A set that is empty has no words, and a list of devices is more than one. */
		if (!text || !*text || strchr(text, '\n'))
			continue;
		if (s->v2 && strncmp(name, "hugetlb.", 8) != 0)
			json_object_set(part(oci, "unified"), name, v);
		else if (strcmp(name, "cpuset/cpuset.cpus") == 0)
			json_object_set(part(oci, "cpu"), "cpus", v);
		else if (strcmp(name, "cpuset/cpuset.mems") == 0)
			json_object_set(part(oci, "cpu"), "mems", v);
		else if (strcmp(name, "cpu/cpu.shares") == 0)
			json_object_set_new(part(oci, "cpu"), "shares", json_integer(atoll(text)));
	}
}

/* "8:0 rbps=1 wbps=max": such a file takes a line at a time, and a device is in it as long as
 * something is limited. */
static int write_line(const char *path, const char *line, size_t n)
{
	_cleanup_free_ char *text = berth_asprintf("%.*s\n", (int)n, line);
	return berth_write_value(path, text);
}

/* The line of a device that had none. */
static int clear_line(const char *path, const char *line, size_t n)
{
	_cleanup_free_ char *copy = berth_strndup(line, n);
	struct berth_buf b = {0};
	char *save = NULL, *word = strtok_r(copy, " ", &save);

	berth_buf_adds(&b, word);
	while ((word = strtok_r(NULL, " ", &save))) {
		size_t key = strcspn(word, "=");
		if (!word[key])
			berth_buf_adds(&b, " default"); /* a weight */
		else
			berth_buf_addf(&b, " %.*s=%s", (int)key, word,
			        strncmp(word, "target=", 7) == 0 ? "0" : "max");
	}
	_cleanup_free_ char *text = berth_buf_steal(&b);
	return write_line(path, text, strlen(text));
}

static bool has_line(const char *text, const char *line)
{
	size_t n = strcspn(line, " ");
	for (const char *p = text; p; p = (p = strchr(p, '\n')) ? p + 1 : NULL)
		if (strncmp(p, line, n) == 0 && p[n] == ' ')
			return true;
	return false;
}

static bool of_devices(const char *name)
{
	static const char *const names[] = {"io.max", "io.latency", "io.weight"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* Linux 6.1, for one, empties no set that somebody is in. All that there could ever be is as good:
 * what is in force is what the cgroup above has of it. */
static int write_empty_set(const char *path, const char *name)
{
	const char *source = strcmp(name, "cpuset.mems") == 0 ? POSSIBLE_MEMS : POSSIBLE_CPUS;
	_cleanup_free_ char *all = NULL;

	int r = write_line(path, "", 0);
	if (r != -ENOSPC)
		return r;
	r = berth_read_file(AT_FDCWD, source, BERTH_KIB(64), &all, NULL);
	return r < 0 ? r : berth_write_value(path, all);
}

static int write_back(const char *path, const char *name, const char *was, const char *now)
{
	int r = 0;

	if (!*was && strncmp(name, "cpuset.", 7) == 0)
		return write_empty_set(path, name);
	if (!of_devices(name) && !strchr(was, '\n'))
		return write_line(path, was, strlen(was));
	for (const char *p = now; of_devices(name) && r == 0 && *p;
	        p += p[strcspn(p, "\n")] != '\0') {
		size_t n = strcspn(p, "\n");
		if (n && !has_line(was, p))
			r = clear_line(path, p, n);
		p += n;
	}
	for (const char *p = was; r == 0 && *p;) {
		size_t n = strcspn(p, "\n");
		r = write_line(path, p, n);
		p += n + (p[n] == '\n');
	}
	return r;
}

int berth_inforce_restore(
        const struct berth_cg_source *s, json_t *files, struct berth_error **ret_err)
{
	struct berth_error *first = NULL;
	const char *name;
	json_t *v;

	for (int pass = 0; pass < RESTORE_PASSES; pass++) {
		first = berth_error_free(first);
		json_object_foreach (files, name, v) {
			_cleanup_free_ char *now = text_of(s, name), *path = path_of(s, name);
			const char *was = json_string_value(v);
			int r = !now || !was            ? -ENOENT
			        : strcmp(now, was) == 0 ? 0
			                                : write_back(path, name, was, now);
			if (r < 0 && !first)
				berth_error_errno(&first, r, "%s: \"%.128s\"", path, was);
		}
	}
	if (first) {
		*ret_err = first;
		return -1;
	}
	return 0;
}

/* ---- beside the runtime ---- */

/* Who says it in the kernel's own words has the last one. */
static bool in_unified(const json_t *after, const char *name)
{
	return json_object_get(json_object_get(after, "unified"), name) != NULL;
}

static int write_hugepages(const struct berth_cg_source *s, const json_t *after,
        const json_t *limit, bool reserved, struct berth_error **ret_err)
{
	_cleanup_free_ char *name = hugetlb_name(s, limit, reserved), *path = path_of(s, name),
	                    *now = text_of(s, name);
	json_int_t bytes = json_integer_value(json_object_get(limit, "limit"));
	char value[24];

	if (in_unified(after, name))
		return 0;
	/* Who does not limit what is reserved does not begin with it. */
	if (reserved &&
	        (!now || strcmp(now, "max") == 0 || berth_cg_limit(strtoull(now, NULL, 10)) == 0))
		return 0;
	if (bytes == INT64_MAX)
		snprintf(value, sizeof(value), "%s", s->v2 ? "max" : "-1");
	else
		snprintf(value, sizeof(value), "%lld", (long long)bytes);
	if (now && strcmp(now, value) == 0)
		return 0;
	int r = berth_write_value(path, value);
	if (r == -EBUSY)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "resources.hugepage_limits: %s: more than %s bytes are in use", path,
		        value);
	return r < 0 ? berth_error_errno(ret_err, r, "resources.hugepage_limits: %s", path) : 0;
}

static int lift_quota(
        const struct berth_cg_source *s, const json_t *after, struct berth_error **ret_err)
{
	const char *none = s->v2 ? "max" : "-1";
	_cleanup_free_ char *name = name_of(s, "cpu", s->v2 ? "cpu.max" : "cpu.cfs_quota_us"),
	                    *path = path_of(s, name), *now = text_of(s, name);

	if (json_integer_value(json_object_get(after, "cpu_quota")) >= 0 || !now ||
	        strncmp(now, none, strlen(none)) == 0 || in_unified(after, name))
		return 0;
	int r = berth_write_value(path, none); /* the period stays */
	return r < 0 ? berth_error_errno(ret_err, r, "resources.cpu_quota: %s", path) : 0;
}

int berth_inforce_write(
        const struct berth_cg_source *s, const json_t *after, struct berth_error **ret_err)
{
	json_t *v;
	size_t i;

	if (!present(s))
		return 0;
	if (lift_quota(s, after, ret_err) < 0)
		return -1;
	json_array_foreach (json_object_get(after, "hugepage_limits"), i, v) {
		if (write_hugepages(s, after, v, true, ret_err) < 0 ||
		        write_hugepages(s, after, v, false, ret_err) < 0)
			return -1;
	}
	return 0;
}
