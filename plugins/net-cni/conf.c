/* The configuration directory: .conf, .conflist and .json files, sorted; the first valid one is the
 * network, unless one is wanted by name. */
#include "cni.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const versions[] = {
        [V010] = "0.1.0",
        [V020] = "0.2.0",
        [V030] = "0.3.0",
        [V031] = "0.3.1",
        [V040] = "0.4.0",
        [V100] = "1.0.0",
        [V110] = "1.1.0",
};

enum cni_version version_parse(const char *s)
{
	for (int v = V010; v < V_NONE; v++)
		if (s && strcmp(s, versions[v]) == 0)
			return (enum cni_version)v;
	return V_NONE;
}

const char *version_name(enum cni_version v)
{
	return versions[v];
}

__attribute__((format(printf, 1, 2))) static char *text(const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return s;
}

void network_finish(struct network *n)
{
	json_decref(n->list);
	free(n->file);
	*n = (struct network){.version = V_NONE};
}

/* The spec: a letter or digit, then letters, digits, '_', '.', '-'. It becomes a file name of
 * plugins. */
static bool good_name(const char *s)
{
	if (!s || !*s || strlen(s) > 255)
		return false;
	for (const char *p = s; *p; p++) {
		bool alnum = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
		             (*p >= '0' && *p <= '9');
		if (!alnum && (p == s || !strchr("_.-", *p)))
			return false;
	}
	return true;
}

static bool good_type(const char *s)
{
	return s && *s && strlen(s) <= 255 && !strchr(s, '/') && strcmp(s, ".") != 0 &&
	       strcmp(s, "..") != 0;
}

/* cniVersions (since 1.1) names all that the configuration is written for: the newest we know. */
static enum cni_version choose_version(const json_t *list)
{
	const json_t *one = json_object_get(list, "cniVersion"),
	             *many = json_object_get(list, "cniVersions");
	enum cni_version best = V_NONE;

	for (size_t i = 0; i < json_array_size(many); i++) {
		enum cni_version v = version_parse(json_string_value(json_array_get(many, i)));
		if (v != V_NONE && (best == V_NONE || v > best))
			best = v;
	}
	if (best != V_NONE)
		return best;
	if (!one)
		return V010; /* files older than the key */
	return version_parse(json_string_value(one));
}

char *network_check(json_t *list, enum cni_version *ret)
{
	const json_t *plugins = json_object_get(list, "plugins");
	const char *name = json_string_value(json_object_get(list, "name"));
	enum cni_version v = choose_version(list);

	if (!good_name(name))
		return text("'name' is missing or not a name");
	if (v == V_NONE) {
		const char *s = json_string_value(json_object_get(list, "cniVersion"));
		return text("cniVersion '%s' is not known (0.1.0 to 1.1.0 are)", s ? s : "?");
	}
	if (!json_is_array(plugins) || json_array_size(plugins) == 0)
		return text("'plugins' is missing or empty");
	if (json_array_size(plugins) > PLUGINS_LIMIT)
		return text("more than %d plugins", PLUGINS_LIMIT);
	for (size_t i = 0; i < json_array_size(plugins); i++) {
		const json_t *p = json_array_get(plugins, i);
		if (!json_is_object(p) || !good_type(json_string_value(json_object_get(p, "type"))))
			return text("plugin %zu has no 'type' that names one", i + 1);
	}
	*ret = v;
	return NULL;
}

static bool has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n > m && strcmp(s + n - m, suffix) == 0;
}

static char *read_conf(int dirfd, const char *name, json_t **ret)
{
	json_error_t e;
	struct stat st;
	int fd = openat(dirfd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return text("%s", strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > CONF_FILE_LIMIT) {
		close(fd);
		return text("not a regular file of at most %u bytes", CONF_FILE_LIMIT);
	}
	*ret = json_loadfd(fd, JSON_REJECT_DUPLICATES, &e);
	close(fd);
	if (!*ret)
		return text("line %d: %s", e.line, e.text);
	if (!json_is_object(*ret)) {
		json_decref(*ret);
		*ret = NULL;
		return text("not an object");
	}
	return NULL;
}

static json_t *as_list(json_t *single)
{
	json_t *list = json_object(), *plugin = json_deep_copy(single);
	const json_t *version = json_object_get(single, "cniVersion");

	json_object_set(list, "name", json_object_get(single, "name"));
	if (version)
		json_object_set(list, "cniVersion", (json_t *)(uintptr_t)version);
	json_object_set_new(list, "plugins", json_pack("[o]", plugin));
	return list;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_plugin_conf(const struct dirent *e)
{
	return e->d_name[0] != '.' && has_suffix(e->d_name, ".conf");
}

/* Since 1.1 a network's plugins may also lie one by one in a directory of its name, unless it says
 * loadOnlyInlinedPlugins. */
static char *add_from_directory(struct cni *c, json_t *list)
{
	const char *name = json_string_value(json_object_get(list, "name"));
	json_t *plugins = json_object_get(list, "plugins");
	struct dirent **v = NULL;
	char *why = NULL;

	if (!good_name(name) || json_is_true(json_object_get(list, "loadOnlyInlinedPlugins")))
		return NULL;
	char *dir = text("%s/%s", c->conf_dir, name);
	int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int n = fd < 0 ? 0 : scandir(dir, &v, is_plugin_conf, by_bytes);
	if (n > 0 && !json_is_array(plugins)) {
		plugins = json_array();
		json_object_set_new(list, "plugins", plugins);
	}
	for (int i = 0; i < n; i++) {
		json_t *plugin = NULL;
		char *bad = !why && i < PLUGINS_LIMIT ? read_conf(fd, v[i]->d_name, &plugin) : NULL;
		if (bad && !why)
			why = text("'%s/%s': %s", dir, v[i]->d_name, bad);
		if (plugin)
			json_array_append_new(plugins, plugin);
		free(bad);
		free(v[i]);
	}
	free(v);
	if (fd >= 0)
		close(fd);
	free(dir);
	return why;
}

static char *load_file(struct cni *c, int dirfd, const char *name, struct network *ret)
{
	json_t *json = NULL;
	char *why = read_conf(dirfd, name, &json);

	if (why)
		return why;
	if (!has_suffix(name, ".conflist") && !json_object_get(json, "plugins") &&
	        json_object_get(json, "type")) {
		json_t *list = as_list(json);
		json_decref(json);
		json = list;
	} else {
		why = add_from_directory(c, json);
	}
	if (!why)
		why = network_check(json, &ret->version);
	const char *own = json_string_value(json_object_get(json, "name"));
	if (!why && c->want && strcmp(own, c->want) != 0)
		why = text("it is network '%s', and '%s' is wanted", own, c->want);
	if (why) {
		json_decref(json);
		return why;
	}
	ret->list = json;
	ret->file = strdup(name);
	return NULL;
}

static int is_conf(const struct dirent *e)
{
	return has_suffix(e->d_name, ".conf") || has_suffix(e->d_name, ".conflist") ||
	       has_suffix(e->d_name, ".json");
}

/* NULL with a network in *ret, or why there is none. */
static char *scan(struct cni *c, struct network *ret)
{
	struct dirent **v = NULL;
	char *first = NULL; /* what is wrong with the first candidate says most */
	int fd = open(c->conf_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int n = fd < 0 ? -1 : scandir(c->conf_dir, &v, is_conf, by_bytes);
	int e = errno;

	for (int i = 0; i < n; i++) {
		if (!ret->list && i < CONF_FILES_LIMIT) {
			char *why = load_file(c, fd, v[i]->d_name, ret);
			if (why && !first)
				first = text("'%s/%s': %s", c->conf_dir, v[i]->d_name, why);
			free(why);
		}
		free(v[i]);
	}
	free(v);
	if (fd >= 0)
		close(fd);
	if (ret->list) {
		free(first);
		return NULL;
	}
	if (first)
		return first;
	if (n < 0)
		return text("'%s': %s", c->conf_dir, strerror(e));
	return text("no configuration in '%s'", c->conf_dir);
}

bool conf_reload(struct cni *c)
{
	struct network found = {.version = V_NONE}, old;
	char *why = scan(c, &found), *old_why;

	pthread_mutex_lock(&c->lock);
	bool same = found.list && c->net.list ? json_equal(found.list, c->net.list)
	                                      : !found.list && !c->net.list && why && c->why &&
	                                                strcmp(why, c->why) == 0;
	old = c->net;
	old_why = c->why;
	c->net = found;
	c->why = why;
	pthread_mutex_unlock(&c->lock);
	network_finish(&old);
	free(old_why);
	return !same;
}

bool conf_get(struct cni *c, struct network *ret, char **ret_why)
{
	*ret = (struct network){.version = V_NONE};
	*ret_why = NULL;
	pthread_mutex_lock(&c->lock);
	if (c->net.list) {
		/* A copy: references of one value are not counted across threads. */
		ret->list = json_deep_copy(c->net.list);
		ret->version = c->net.version;
		ret->file = strdup(c->net.file);
	} else {
		*ret_why = strdup(c->why ? c->why : "not read yet");
	}
	pthread_mutex_unlock(&c->lock);
	return ret->list != NULL;
}
