#include "config/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/size.h"
#include "berth-config.h"
#include "config/check.h"
#include "config/keys.h"
#include "config/tree.h"

#define DROP_INS_MAX 256

static void release_value(struct berth_config *c, const struct berth_key *k)
{
	void *at = (char *)c + k->offset;
	switch (k->type) {
	case BERTH_KEY_TEXT:
	case BERTH_KEY_PATH:
		free(*(char **)at);
		break;
	case BERTH_KEY_PATHS:
	case BERTH_KEY_TEXTS:
		berth_strv_free(*(char ***)at);
		break;
	case BERTH_KEY_OBJECTS:
		json_decref(*(json_t **)at);
		break;
	case BERTH_KEY_CHOICE:
	case BERTH_KEY_COUNT:
	case BERTH_KEY_BYTES:
		break;
	}
}

struct berth_config *berth_config_free(struct berth_config *c)
{
	if (c) {
		for (size_t i = 0; i < berth_keys_count; i++)
			release_value(c, &berth_keys[i]);
		free(c->file);
		free(c);
	}
	return NULL;
}

void berth_config_freep(struct berth_config **c)
{
	*c = berth_config_free(*c);
}

static int read_file(struct berth_arena *a, int dirfd, const char *name, const char *shown,
        struct berth_yaml **ret, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = berth_read_file(dirfd, name, BERTH_LIMIT_CONFIG_FILE, &text, &len);
	if (r == -EFBIG)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "configuration %s: larger than %zu bytes", shown, BERTH_LIMIT_CONFIG_FILE);
	if (r < 0)
		return berth_error_errno(ret_err, r, "configuration %s", shown);
	return berth_yaml_parse(a, shown, text, len, ret, ret_err);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_drop_in(const char *name)
{
	size_t n = strlen(name);
	return name[0] != '.' && n > 5 && strcmp(name + n - 5, ".yaml") == 0;
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* The names of the drop-ins, sorted. A missing directory has none. */
static int list_drop_ins(const char *dir, char ***ret, struct berth_error **ret_err)
{
	_cleanup_(closedirp) DIR *d = opendir(dir);
	_cleanup_(berth_strv_freep) char **names = NULL;

	if (!d && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (!d)
		return berth_error_errno(ret_err, errno, "configuration %s", dir);
	for (;;) {
		errno = 0;
		const struct dirent *e = readdir(d);
		if (!e && errno != 0)
			return berth_error_errno(ret_err, errno, "configuration %s", dir);
		if (!e)
			break;
		if (!is_drop_in(e->d_name))
			continue;
		names = berth_strv_append(names, e->d_name);
		if (berth_strv_len(names) > DROP_INS_MAX)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "configuration %s: more than %d drop-ins", dir, DROP_INS_MAX);
	}
	if (names)
		qsort(names, berth_strv_len(names), sizeof(*names), by_name);
	*ret = berth_take(names);
	return 0;
}

static int merge_drop_ins(struct berth_arena *a, const char *path, struct berth_yaml **root,
        struct berth_error **ret_err)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir =
	        slash ? berth_asprintf("%.*sberth.d", (int)(slash + 1 - path), path)
	              : berth_strdup("berth.d");
	_cleanup_(berth_strv_freep) char **names = NULL;

	if (list_drop_ins(dir, &names, ret_err))
		return -1;
	for (size_t i = 0; i < berth_strv_len(names); i++) {
		_cleanup_free_ char *file = berth_asprintf("%s/%s", dir, names[i]);
		struct berth_yaml *over = NULL;
		if (read_file(a, AT_FDCWD, file, file, &over, ret_err))
			return -1;
		/* Before the merge: a list in place of the file's map must not hide it. */
		if (berth_config_check_map(over, ret_err))
			return -1;
		*root = berth_yaml_merge(a, *root, over);
	}
	return 0;
}

static int from_tree(const char *file, const struct berth_yaml *root, struct berth_config **ret,
        struct berth_error **ret_err)
{
	struct berth_config *c = berth_new(struct berth_config);
	c->file = berth_strdup(file);
	if (berth_config_fill(c, root, ret_err)) {
		berth_config_free(c);
		return -1;
	}
	*ret = c;
	return 0;
}

int berth_config_load(const char *path, struct berth_config **ret, struct berth_error **ret_err)
{
	const char *file = path ? path : BERTH_SYSCONFDIR "/berth.yaml";
	struct berth_yaml *root = NULL;
	struct berth_arena *a = berth_arena_new();
	int r = 0;

	if (path || access(file, F_OK) == 0 || errno != ENOENT)
		r = read_file(a, AT_FDCWD, file, file, &root, ret_err);
	if (r == 0)
		r = berth_config_check_map(root, ret_err);
	if (r == 0)
		r = merge_drop_ins(a, file, &root, ret_err);
	if (r == 0)
		r = from_tree(file, root, ret, ret_err);
	berth_arena_free(a);
	return r;
}

int berth_config_parse(const char *name, const char *text, size_t len, struct berth_config **ret,
        struct berth_error **ret_err)
{
	struct berth_yaml *root = NULL;
	struct berth_arena *a = berth_arena_new();
	int r = -1;

	if (len > BERTH_LIMIT_CONFIG_FILE)
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "configuration %s: larger than %zu bytes", name, BERTH_LIMIT_CONFIG_FILE);
	else
		r = berth_yaml_parse(a, name, text, len, &root, ret_err);
	if (r == 0)
		r = berth_config_check_map(root, ret_err);
	if (r == 0)
		r = from_tree(name, root, ret, ret_err);
	berth_arena_free(a);
	return r;
}

int berth_config_size_limit(const struct berth_config *c, const char *handler, uint64_t *ret,
        struct berth_error **ret_err)
{
	const json_t *v =
	        json_object_get(json_object_get(c->runtimes.handlers, handler), "size_limit");
	uint64_t limit = c->storage.size_limit;

	if (json_is_string(v)        ? berth_size_parse(json_string_value(v), &limit) < 0
	        : json_is_integer(v) ? json_integer_value(v) < 0
	                             : v != NULL)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "runtimes.handlers.%s.size_limit must be a size such as 10GiB", handler);
	*ret = json_is_integer(v) ? (uint64_t)json_integer_value(v) : limit;
	return 0;
}

json_t *berth_config_handler(
        const struct berth_config *c, const char *handler, const char **ret_plugin)
{
	const json_t *own = json_object_get(c->runtimes.handlers, handler);
	const char *plugin = json_string_value(json_object_get(own, "plugin"));
	if (!own || !plugin)
		return NULL;
	json_t *merged = json_deep_copy(json_object_get(c->plugins, plugin));
	const char *key;
	json_t *value;
	json_object_foreach ((json_t *)(uintptr_t)own, key, value)
		if (strcmp(key, "plugin") != 0 && strcmp(key, "storage") != 0 &&
		        strcmp(key, "size_limit") != 0)
			json_object_set_new(merged, key, json_deep_copy(value));
	if (ret_plugin)
		*ret_plugin = plugin;
	return merged;
}

const char *berth_config_storage(const struct berth_config *c, const char *handler)
{
	const json_t *own = json_object_get(c->runtimes.handlers, handler);
	const char *driver = json_string_value(json_object_get(own, "storage"));
	return driver ? driver : c->storage.driver;
}
