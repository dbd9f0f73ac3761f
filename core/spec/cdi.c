/* Which devices are meant, and which files say what they are. */
#include "spec/cdi.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/tree.h"
#include "spec/build.h"

#define ANNOTATION "cdi.k8s.io/"

/* ---- names ---- */

/* Letters and digits at both ends, in between some more. */
static bool is_word(const char *s, size_t n, bool letter_first, const char *more)
{
	if (n == 0 || n > BERTH_LIMIT_CDI_NAME || !isalnum((unsigned char)s[0]) ||
	        !isalnum((unsigned char)s[n - 1]) ||
	        (letter_first && !isalpha((unsigned char)s[0])))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && !strchr(more, s[i]))
			return false;
	return true;
}

/* "VENDOR/CLASS" */
static bool is_kind(const char *s, size_t n)
{
	const char *slash = memchr(s, '/', n);
	size_t vendor = slash ? (size_t)(slash - s) : 0;

	return slash && is_word(s, vendor, true, "_-.") &&
	       is_word(slash + 1, n - vendor - 1, true, "_-.");
}

static bool is_device_name(const char *s)
{
	return is_word(s, strlen(s), false, "_-.:");
}

static bool is_qualified(const char *s)
{
	const char *eq = strchr(s, '=');
	return eq && is_kind(s, (size_t)(eq - s)) && is_device_name(eq + 1);
}

/* The names of a request, each once. */
static int add_name(
        char ***names, size_t *n, const char *field, const char *name, struct berth_error **ret_err)
{
	if (!is_qualified(name))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: \"%.256s\" is no name of a device: VENDOR/CLASS=NAME", field, name);
	for (char **have = *names; have && *have; have++)
		if (strcmp(*have, name) == 0)
			return 0;
	if (*n >= BERTH_LIMIT_CDI_DEVICES)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s: more than %d devices",
		        field, BERTH_LIMIT_CDI_DEVICES);
	*names = berth_strv_append(*names, name);
	(*n)++;
	return 0;
}

static int wanted(
        const Runtime__V1__ContainerConfig *c, char ***names, struct berth_error **ret_err)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n_cdi_devices; i++)
		if (add_name(names, &n, "CDI_devices", c->cdi_devices[i]->name, ret_err) < 0)
			return -1;
	for (size_t i = 0; i < c->n_annotations; i++) {
		const Runtime__V1__ContainerConfig__AnnotationsEntry *e = c->annotations[i];
		if (strncmp(e->key, ANNOTATION, strlen(ANNOTATION)) != 0)
			continue;
		_cleanup_free_ char *list = berth_strdup(e->value);
		char *save = NULL;
		for (char *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save))
			if (add_name(names, &n, e->key, one, ret_err) < 0)
				return -1;
	}
	return 0;
}

/* ---- files ---- */

struct file {
	char *path;
	size_t priority;
	json_t *spec;
	bool used;
};
struct files {
	struct file *v;
	size_t n;
	char *broken; /* why the first one that is none is none */
};

static void files_finish(struct files *f)
{
	for (size_t i = 0; i < f->n; i++) {
		free(f->v[i].path);
		json_decref(f->v[i].spec);
	}
	free(f->v);
	free(f->broken);
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), e = strlen(end);
	return n > e && strcmp(s + n - e, end) == 0;
}

json_t *berth_cdi_parse(
        const char *file, const char *text, size_t len, struct berth_error **ret_err)
{
	json_t *spec = NULL;

	if (ends_with(file, ".json")) {
		json_error_t e;
		spec = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
		if (!spec)
			berth_error_set(
			        ret_err, BERTH_INVALID_ARGUMENT, "%s:%d: %s", file, e.line, e.text);
	} else {
		struct berth_arena *a = berth_arena_new();
		struct berth_yaml *tree = NULL;
		if (berth_yaml_parse(a, file, text, len, &tree, ret_err) == 0)
			spec = tree ? berth_yaml_to_json(tree) : json_null();
		berth_arena_free(a);
	}
	if (spec && berth_cdi_check(file, spec, ret_err) < 0) {
		json_decref(spec);
		spec = NULL;
	}
	return spec;
}

static void load(struct files *f, const char *dir, const char *name, size_t priority)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, name);
	_cleanup_free_ char *text = NULL;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	size_t len = 0;
	json_t *spec = NULL;

	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CDI_FILE, &text, &len);
	if (r < 0)
		(void)berth_error_errno(&err, r, "%s", path);
	else
		spec = berth_cdi_parse(path, text, len, &err);
	if (!spec) {
		berth_log_warn("a file is no CDI specification", "error", err->msg);
		if (!f->broken)
			f->broken = berth_strdup(err->msg);
		return;
	}
	f->v = berth_reallocarray(f->v, f->n + 1, sizeof(*f->v));
	f->v[f->n++] = (struct file){berth_take(path), priority, spec, false};
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int load_dir(struct files *f, const char *dir, size_t priority, struct berth_error **ret_err)
{
	_cleanup_(berth_strv_freep) char **names = NULL;
	size_t n = 0;
	DIR *d = opendir(dir);

	if (!d)
		return errno == ENOENT ? 0 : berth_error_errno(ret_err, errno, "CDI: %s", dir);
	for (struct dirent *e; n <= BERTH_LIMIT_CDI_FILES && (e = readdir(d));) {
		if (e->d_name[0] == '.' ||
		        (!ends_with(e->d_name, ".json") && !ends_with(e->d_name, ".yaml") &&
		                !ends_with(e->d_name, ".yml")))
			continue;
		names = berth_strv_append(names, e->d_name);
		n++;
	}
	closedir(d);
	if (n > BERTH_LIMIT_CDI_FILES)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "CDI: %s: more than %d specifications", dir, BERTH_LIMIT_CDI_FILES);
	if (n)
		qsort(names, n, sizeof(*names), by_name);
	for (size_t i = 0; i < n; i++)
		load(f, dir, names[i], priority);
	return 0;
}

/* ---- from names to edits ---- */

static json_t *device_in(const json_t *spec, const char *qualified)
{
	const char *eq = strchr(qualified, '=');
	const char *kind = json_string_value(json_object_get(spec, "kind"));
	json_t *d;
	size_t i;

	if (strlen(kind) != (size_t)(eq - qualified) || strncmp(kind, qualified, strlen(kind)) != 0)
		return NULL;
	json_array_foreach (json_object_get(spec, "devices"), i, d) {
		if (strcmp(json_string_value(json_object_get(d, "name")), eq + 1) == 0)
			return d;
	}
	return NULL;
}

static int find(struct files *f, const char *const *dirs, const char *name, struct file **ret,
        json_t **ret_device, struct berth_error **ret_err)
{
	struct file *best = NULL, *rival = NULL;

	for (size_t i = 0; i < f->n; i++) {
		json_t *d = device_in(f->v[i].spec, name);
		if (!d || (best && best->priority > f->v[i].priority))
			continue;
		rival = best && best->priority == f->v[i].priority ? best : NULL;
		best = &f->v[i];
		*ret_device = d;
	}
	if (rival)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "CDI device \"%.256s\" is both in %s and in %s", name, rival->path,
		        best->path);
	*ret = best;
	if (best)
		return 0;
	_cleanup_free_ char *where = berth_strdup("");
	for (size_t i = 0; dirs && dirs[i]; i++) {
		char *longer = berth_asprintf("%s%s%s", where, i ? ", " : "", dirs[i]);
		free(where);
		where = longer;
	}
	return berth_error_set(ret_err, BERTH_NOT_FOUND,
	        "CDI device \"%.256s\" is in no specification of %s%s%.512s%s", name,
	        *where ? where : "cri.cdi_spec_dirs, which is empty", f->broken ? " (" : "",
	        f->broken ? f->broken : "", f->broken ? ")" : "");
}

static void add_edits(json_t *list, const json_t *of)
{
	json_t *edits = json_object_get(of, "containerEdits");
	if (edits)
		json_array_append(list, edits);
}

int berth_cdi_resolve(const char *const *dirs, const Runtime__V1__ContainerConfig *c, json_t **ret,
        struct berth_error **ret_err)
{
	_cleanup_(berth_strv_freep) char **names = NULL;
	_cleanup_(files_finish) struct files files = {0};

	*ret = NULL;
	if (wanted(c, &names, ret_err) < 0)
		return -1;
	if (!names)
		return 0;
	for (size_t i = 0; dirs && dirs[i]; i++)
		if (load_dir(&files, dirs[i], i, ret_err) < 0)
			return -1;
	json_t *list = json_array();
	for (char **name = names; *name; name++) {
		struct file *f;
		json_t *device = NULL;
		if (find(&files, dirs, *name, &f, &device, ret_err) < 0) {
			json_decref(list);
			return -1;
		}
		if (!f->used) /* what all devices of a file want, once */
			add_edits(list, f->spec);
		f->used = true;
		add_edits(list, device);
	}
	*ret = list;
	return 0;
}
