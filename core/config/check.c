#include "config/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/nearest.h"
#include "config/keys.h"

#define MISTAKES_MAX 20
#define NAME_MAX_LEN 63

struct check {
	struct berth_config *c;
	const struct berth_yaml *root;
	struct berth_arena *arena; /* for the defaults */
	struct berth_buf text;
	size_t mistakes;
};

static void mistake(struct check *k, const struct berth_yaml *at, size_t line, const char *fmt, ...)
        BERTH_PRINTF(4, 5);
/* `at` NULL: a default, which stands in no line. */
static void mistake(struct check *k, const struct berth_yaml *at, size_t line, const char *fmt, ...)
{
	va_list ap;

	if (++k->mistakes > MISTAKES_MAX)
		return;
	if (k->mistakes > 1)
		berth_buf_adds(&k->text, "\n");
	if (at)
		berth_buf_addf(&k->text, "%s:%zu: ", at->file, line ? line : at->line);
	else
		berth_buf_addf(&k->text, "%s: ", k->c->file);
	va_start(ap, fmt);
	_cleanup_free_ char *what = berth_vasprintf(fmt, ap);
	va_end(ap);
	berth_buf_adds(&k->text, what);
}

static bool same_group(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static void unknown_key(struct check *k, const char *group, const struct berth_yaml_item *item)
{
	const char **words =
	        berth_arena_alloc(k->arena, (2 * berth_keys_count + 1) * sizeof(*words));
	const struct berth_key *elsewhere = NULL;
	size_t n = 0;

	for (size_t i = 0; i < berth_keys_count; i++) {
		const struct berth_key *key = &berth_keys[i];
		if (same_group(key->group, group))
			words[n++] = key->name;
		else if (strcmp(key->name, item->key) == 0)
			elsewhere = key;
		if (!group && key->group)
			words[n++] = key->group;
	}
	const char *dot = group ? "." : "", *in = group ? group : "";
	const char *best = berth_nearest(item->key, words);
	if (best)
		mistake(k, item->value, item->line,
		        "unknown key '%s%s%.100s'; did you mean '%s%s%s'?", in, dot, item->key, in,
		        dot, best);
	else if (elsewhere)
		mistake(k, item->value, item->line,
		        "unknown key '%s%s%.100s'; did you mean '%s%s%s'?", in, dot, item->key,
		        elsewhere->group ? elsewhere->group : "", elsewhere->group ? "." : "",
		        elsewhere->name);
	else
		mistake(k, item->value, item->line, "unknown key '%s%s%.100s'", in, dot, item->key);
}

static bool known(const char *group, const char *name)
{
	for (size_t i = 0; i < berth_keys_count; i++)
		if (same_group(berth_keys[i].group, group) && strcmp(berth_keys[i].name, name) == 0)
			return true;
	return false;
}

static bool is_group(const char *name)
{
	for (size_t i = 0; i < berth_keys_count; i++)
		if (berth_keys[i].group && strcmp(berth_keys[i].group, name) == 0)
			return true;
	return false;
}

static void find_unknown(struct check *k)
{
	const struct berth_yaml *root = k->root;
	for (const struct berth_yaml_item *i = root ? root->items : NULL; i; i = i->next) {
		if (known(NULL, i->key))
			continue;
		if (!is_group(i->key)) {
			unknown_key(k, NULL, i);
			continue;
		}
		if (berth_yaml_is_null(i->value))
			continue; /* all its keys are commented out */
		if (i->value->kind != BERTH_YAML_MAP) {
			mistake(k, i->value, 0, "%s must be a map of keys, not %s", i->key,
			        berth_yaml_kind_name(i->value));
			continue;
		}
		for (const struct berth_yaml_item *j = i->value->items; j; j = j->next)
			if (!known(i->key, j->key))
				unknown_key(k, i->key, j);
	}
}

static char *key_path(struct check *k, const struct berth_key *key)
{
	return berth_arena_printf(
	        k->arena, "%s%s%s", key->group ? key->group : "", key->group ? "." : "", key->name);
}

static void wrong_type(
        struct check *k, const struct berth_key *key, const struct berth_yaml *n, const char *want)
{
	const char *is = berth_yaml_kind_name(n);
	bool quote = n->kind == BERTH_YAML_SCALAR && n->plain && strcmp(want, "text") == 0 &&
	             !berth_yaml_is_null(n);
	mistake(k, n, 0, "%s must be %s, not %s%s", key_path(k, key), want, is,
	        quote ? " (quote it to make it text)" : "");
}

/* A scalar that reads as text, or NULL and a mistake. */
static const char *text_of(struct check *k, const struct berth_key *key, const struct berth_yaml *n)
{
	if (n->kind != BERTH_YAML_SCALAR || strcmp(berth_yaml_kind_name(n), "text") != 0) {
		wrong_type(k, key, n, "text");
		return NULL;
	}
	return n->text;
}

static bool good_path(
        struct check *k, const struct berth_key *key, const struct berth_yaml *n, const char *path)
{
	if (path[0] == '/' || (path[0] == '\0' && key->may_be_empty))
		return true;
	mistake(k, n, 0, "%s must be an absolute path, not '%.200s'", key_path(k, key), path);
	return false;
}

static void fill_text(struct check *k, const struct berth_key *key, const struct berth_yaml *n)
{
	const char *text = text_of(k, key, n);
	if (!text)
		return;
	if (text[0] == '\0' && !key->may_be_empty)
		mistake(k, n, 0, "%s is empty", key_path(k, key));
	else if (key->type == BERTH_KEY_TEXT || good_path(k, key, n, text))
		*(char **)((char *)k->c + key->offset) = berth_strdup(text);
}

static void fill_paths(struct check *k, const struct berth_key *key, const struct berth_yaml *n)
{
	char ***at = (char ***)((char *)k->c + key->offset);
	bool paths = key->type == BERTH_KEY_PATHS;
	if (n->kind != BERTH_YAML_LIST) {
		wrong_type(k, key, n, paths ? "a list of paths" : "a list of texts");
		return;
	}
	for (const struct berth_yaml_item *i = n->items; i; i = i->next) {
		const char *text = text_of(k, key, i->value);
		if (text && !paths && !*text)
			mistake(k, i->value, 0, "%s has an empty text", key_path(k, key));
		else if (text && (!paths || good_path(k, key, i->value, text)))
			*at = berth_strv_append(*at, text);
	}
}

static void fill_choice(struct check *k, const struct berth_key *key, const struct berth_yaml *n)
{
	const char *text = text_of(k, key, n);
	struct berth_buf all = {0};

	if (!text)
		return;
	for (int i = 0; key->choices[i]; i++) {
		if (strcmp(key->choices[i], text) == 0) {
			*(int *)((char *)k->c + key->offset) = i;
			berth_buf_finish(&all);
			return;
		}
		berth_buf_addf(&all, "%s%s", i ? ", " : "", key->choices[i]);
	}
	const char *best = berth_nearest(text, key->choices);
	mistake(k, n, 0, "%s is one of %s, not '%.100s'%s%s%s", key_path(k, key), all.data, text,
	        best ? "; did you mean '" : "", best ? best : "", best ? "'?" : "");
	berth_buf_finish(&all);
}

static bool parse_count(const char *text, bool bytes, uint64_t *ret)
{
	static const struct {
		const char *unit;
		int shift;
	} units[] = {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
	size_t digits = strspn(text, "0123456789");
	errno = 0;
	unsigned long long v = strtoull(text, NULL, 10);
	if (digits == 0 || errno != 0)
		return false;
	for (size_t i = 0; i < (bytes ? BERTH_ARRAY_LEN(units) : 1); i++) {
		if (strcmp(text + digits, units[i].unit) != 0)
			continue;
		if (v > UINT64_MAX >> units[i].shift)
			return false;
		*ret = (uint64_t)v << units[i].shift;
		return true;
	}
	return false;
}

static void fill_count(struct check *k, const struct berth_key *key, const struct berth_yaml *n)
{
	bool bytes = key->type == BERTH_KEY_BYTES;
	uint64_t v = 0;

	/* A size in quotes is what other programs' configuration has. */
	if (n->kind != BERTH_YAML_SCALAR || (!n->plain && !bytes) ||
	        !parse_count(n->text, bytes, &v)) {
		wrong_type(k, key, n, bytes ? "a size such as 16MiB" : "a whole number");
		return;
	}
	if (v < key->min || v > key->max) {
		mistake(k, n, 0, "%s must lie between %llu and %llu, not %.40s", key_path(k, key),
		        (unsigned long long)key->min, (unsigned long long)key->max, n->text);
		return;
	}
	*(uint64_t *)((char *)k->c + key->offset) = v;
}

/* Plugins and handlers become names of files and directories. */
static bool good_name(const char *name)
{
	size_t n =
	        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
	return n > 0 && n <= NAME_MAX_LEN && name[n] == '\0' && name[0] != '.' && name[0] != '-';
}

static void fill_objects(struct check *k, const struct berth_key *key, const struct berth_yaml *n)
{
	json_t *all = json_object();
	*(json_t **)((char *)k->c + key->offset) = all;
	if (berth_yaml_is_null(n))
		return;
	if (n->kind != BERTH_YAML_MAP) {
		wrong_type(k, key, n, "a map of names");
		return;
	}
	for (const struct berth_yaml_item *i = n->items; i; i = i->next) {
		if (!good_name(i->key))
			mistake(k, i->value, i->line,
			        "%s: '%.100s' is no name: up to %d letters, digits, '.', '_' and "
			        "'-'",
			        key_path(k, key), i->key, NAME_MAX_LEN);
		else if (berth_yaml_is_null(i->value))
			json_object_set_new(all, i->key, json_object());
		else if (i->value->kind != BERTH_YAML_MAP)
			mistake(k, i->value, 0, "%s.%s must be a map of keys, not %s",
			        key_path(k, key), i->key, berth_yaml_kind_name(i->value));
		else
			json_object_set_new(all, i->key, berth_yaml_to_json(i->value));
	}
}

static const struct berth_yaml *find(
        const struct berth_yaml *root, const char *group, const char *name)
{
	return berth_yaml_get(group ? berth_yaml_get(root, group) : root, name);
}

/* The default as if it were written in the file. */
static const struct berth_yaml *preset(struct check *k, const struct berth_key *key)
{
	struct berth_yaml *n = NULL;
	struct berth_error *err = NULL;
	const char *text = key->preset;

	if (strncmp(text, "${run}", 6) == 0) {
		n = berth_arena_alloc(k->arena, sizeof(*n));
		n->file = k->c->file;
		n->text =
		        berth_arena_printf(k->arena, "%s%s", k->c->run ? k->c->run : "/", text + 6);
		return n;
	}
	if (berth_yaml_parse(k->arena, "default", text, strlen(text), &n, &err)) {
		mistake(k, NULL, 0, "default of %s: %s", key_path(k, key), err->msg);
		berth_error_free(err);
	}
	return n;
}

static void fill_key(struct check *k, const struct berth_key *key)
{
	const struct berth_yaml *n = find(k->root, key->group, key->name);
	if (!n)
		n = preset(k, key);
	if (!n)
		return;
	switch (key->type) {
	case BERTH_KEY_TEXT:
	case BERTH_KEY_PATH:
		fill_text(k, key, n);
		break;
	case BERTH_KEY_PATHS:
	case BERTH_KEY_TEXTS:
		fill_paths(k, key, n);
		break;
	case BERTH_KEY_CHOICE:
		fill_choice(k, key, n);
		break;
	case BERTH_KEY_COUNT:
	case BERTH_KEY_BYTES:
		fill_count(k, key, n);
		break;
	case BERTH_KEY_OBJECTS:
		fill_objects(k, key, n);
		break;
	}
}

/* `name`, used by `what`, must be a key of `of`. */
static void check_reference(struct check *k, const struct berth_yaml *at, const char *what,
        const char *name, json_t *of, const char *of_name)
{
	const char *key;
	json_t *value;
	size_t n = 0;

	if (json_object_get(of, name))
		return;
	const char **words =
	        berth_arena_alloc(k->arena, (json_object_size(of) + 1) * sizeof(*words));
	json_object_foreach (of, key, value)
		words[n++] = key;
	const char *best = berth_nearest(name, words);
	mistake(k, at, 0, "%s: '%.100s' is not in %s%s%s%s", what, name, of_name,
	        best ? "; did you mean '" : "", best ? best : "", best ? "'?" : "");
}

/* The storage drivers that are named elsewhere than in storage.driver. */
static void check_storage(struct check *k)
{
	const struct berth_config *c = k->c;
	const char *handler;
	json_t *value;

	for (char **v = c->storage.also; v && *v; v++)
		check_reference(k, find(k->root, "storage", "also"), "storage.also", *v, c->plugins,
		        "plugins");
	json_object_foreach (c->runtimes.handlers, handler, value) {
		const struct berth_yaml *at =
		        berth_yaml_get(find(k->root, "runtimes", "handlers"), handler);
		const json_t *driver = json_object_get(value, "storage");
		_cleanup_free_ char *what = berth_asprintf("runtimes.handlers.%s.storage", handler);
		if (driver && !json_is_string(driver))
			mistake(k, at, 0, "%s must be text: the name of a storage plugin", what);
		else if (driver)
			check_reference(
			        k, at, what, json_string_value(driver), c->plugins, "plugins");
	}
}

/* Two keys of a group that make sense together alone. */
static void check_pair(struct check *k, const char *group, const char *name, const char *value,
        const char *needs, const char *needed)
{
	if (*value && !*needed)
		mistake(k, find(k->root, group, name), 0, "%s.%s needs %s.%s", group, name, group,
		        needs);
}

static void check_references(struct check *k)
{
	const struct berth_config *c = k->c;
	const char *handler, *name;
	json_t *value;

	check_reference(k, find(k->root, "storage", "driver"), "storage.driver", c->storage.driver,
	        c->plugins, "plugins");
	check_storage(k);
	json_object_foreach (c->plugins, name, value)
		if (json_object_get(value, "path") &&
		        !json_is_string(json_object_get(value, "path")))
			mistake(k, berth_yaml_get(find(k->root, NULL, "plugins"), name), 0,
			        "plugins.%s.path must be text: the plugin's file", name);
	if (c->network.plugin[0])
		check_reference(k, find(k->root, "network", "plugin"), "network.plugin",
		        c->network.plugin, c->plugins, "plugins");
	check_reference(k, find(k->root, "runtimes", "default"), "runtimes.default",
	        c->runtimes.default_handler, c->runtimes.handlers, "runtimes.handlers");
	check_pair(k, "cri", "stream_tls_cert", c->cri.stream_tls_cert, "stream_tls_key",
	        c->cri.stream_tls_key);
	check_pair(k, "cri", "stream_tls_key", c->cri.stream_tls_key, "stream_tls_cert",
	        c->cri.stream_tls_cert);
	check_pair(k, "cri", "stream_tls_client_ca", c->cri.stream_tls_client_ca, "stream_tls_cert",
	        c->cri.stream_tls_cert);
	json_object_foreach (c->runtimes.handlers, handler, value) {
		const struct berth_yaml *at =
		        berth_yaml_get(find(k->root, "runtimes", "handlers"), handler);
		const char *plugin = json_string_value(json_object_get(value, "plugin"));
		_cleanup_free_ char *what = berth_asprintf("runtimes.handlers.%s.plugin", handler);
		struct berth_error *err = NULL;
		uint64_t limit;
		if (berth_config_size_limit(c, handler, &limit, &err) < 0) {
			mistake(k, at, 0, "%s", err->msg);
			berth_error_free(err);
		}
		if (!plugin)
			mistake(k, at, 0, "%s is missing: the name of a runtime plugin", what);
		else
			check_reference(k, at, what, plugin, c->plugins, "plugins");
	}
}

int berth_config_check_map(const struct berth_yaml *root, struct berth_error **ret_err)
{
	if (!root || root->kind == BERTH_YAML_MAP || berth_yaml_is_null(root))
		return 0;
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "%s:%zu: the configuration must be a map of keys, not %s", root->file, root->line,
	        berth_yaml_kind_name(root));
}

int berth_config_fill(
        struct berth_config *c, const struct berth_yaml *root, struct berth_error **ret_err)
{
	struct check k = {.c = c, .arena = berth_arena_new()};

	if (root && root->kind == BERTH_YAML_MAP)
		k.root = root;
	find_unknown(&k);
	for (size_t i = 0; i < berth_keys_count; i++)
		fill_key(&k, &berth_keys[i]);
	if (k.mistakes == 0)
		check_references(&k);
	if (k.mistakes > MISTAKES_MAX)
		berth_buf_addf(&k.text, "\n%s: and %zu more", c->file, k.mistakes - MISTAKES_MAX);
	if (k.mistakes)
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s", k.text.data);
	berth_buf_finish(&k.text);
	berth_arena_free(k.arena);
	return k.mistakes ? -1 : 0;
}
