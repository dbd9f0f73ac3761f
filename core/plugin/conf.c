/* A plugin's configuration subtree, looked up by dotted path. What is asked for is recorded, so
 * that a mistyped key is an error and not a silent default. */
#include <string.h>

#include <stdlib.h>

#include "base/nearest.h"
#include "plugin/host.h"
#include "plugin/internal.h"

/* JSON texts handed out live as long as the instance. */
struct conf_text {
	struct conf_text *next;
	char *text;
};

void berth_conf_init(struct berth_conf *c, json_t *root)
{
	memset(c, 0, sizeof(*c));
	c->root = root ? json_incref(root) : json_object();
	pthread_mutex_init(&c->lock, NULL);
}

void berth_conf_finish(struct berth_conf *c)
{
	while (c->texts) {
		struct conf_text *t = c->texts;
		c->texts = t->next;
		free(t->text);
		free(t);
	}
	c->asked = berth_strv_free(c->asked);
	json_decref(c->root);
	pthread_mutex_destroy(&c->lock);
}

static json_t *look_up(json_t *at, const char *path)
{
	_cleanup_free_ char *copy = berth_strdup(path);
	char *save = NULL;
	for (char *key = strtok_r(copy, ".", &save); key && at; key = strtok_r(NULL, ".", &save))
		at = json_object_get(at, key);
	return at;
}

static json_t *ask(const struct berth_conf *cc, const char *path)
{
	struct berth_conf *c =
	        (struct berth_conf *)cc; /* the record of questions is not its value */
	bool known = false;

	pthread_mutex_lock(&c->lock);
	for (char **p = c->asked; p && *p && !known; p++)
		known = strcmp(*p, path) == 0;
	if (!known)
		c->asked = berth_strv_append(c->asked, path);
	json_t *v = look_up(c->root, path);
	pthread_mutex_unlock(&c->lock);
	return v && !json_is_null(v) ? v : NULL;
}

const char *berth_conf_str(const struct berth_conf *c, const char *path, const char *dflt)
{
	const char *s = json_string_value(ask(c, path));
	return s ? s : dflt;
}

int64_t berth_conf_i64(const struct berth_conf *c, const char *path, int64_t dflt)
{
	json_t *v = ask(c, path);
	return json_is_integer(v) ? json_integer_value(v) : dflt;
}

int32_t berth_conf_bool(const struct berth_conf *c, const char *path, int32_t dflt)
{
	json_t *v = ask(c, path);
	return json_is_boolean(v) ? json_is_true(v) : dflt;
}

const char *berth_conf_json(const struct berth_conf *cc, const char *path)
{
	struct berth_conf *c = (struct berth_conf *)cc;
	json_t *v = ask(c, path);
	if (!v)
		return NULL;
	struct conf_text *t = berth_new(struct conf_text);
	t->text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
	pthread_mutex_lock(&c->lock);
	t->next = c->texts;
	c->texts = t;
	pthread_mutex_unlock(&c->lock);
	return t->text;
}

/* Asked: the path itself, or an object that holds it, or something below it. */
static bool was_asked(const struct berth_conf *c, const char *path)
{
	size_t n = strlen(path);
	for (char **p = c->asked; p && *p; p++) {
		size_t m = strlen(*p);
		if (m == 0 || strcmp(*p, path) == 0)
			return true;
		if (m < n && strncmp(*p, path, m) == 0 && path[m] == '.')
			return true;
	}
	return false;
}

static int check_object(const struct berth_conf *c, json_t *object, const char *prefix,
        const char *plugin, struct berth_error **ret_err)
{
	const char *key;
	json_t *value;

	json_object_foreach (object, key, value) {
		_cleanup_free_ char *path =
		        prefix ? berth_asprintf("%s.%s", prefix, key) : berth_strdup(key);
		if (was_asked(c, path) || strcmp(path, BERTH_CONF_HOST) == 0)
			continue;
		if (json_is_object(value) && json_object_size(value) > 0) {
			if (check_object(c, value, path, plugin, ret_err) < 0)
				return -1;
			continue;
		}
		const char *near =
		        c->asked ? berth_nearest(path, (const char *const *)(void *)c->asked)
		                 : NULL;
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "plugins.%s.%s: unknown key%s%s%s", plugin, path,
		        near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	}
	return 0;
}

int berth_conf_check(struct berth_conf *c, const char *plugin, struct berth_error **ret_err)
{
	pthread_mutex_lock(&c->lock);
	int r = check_object(c, c->root, NULL, plugin, ret_err);
	pthread_mutex_unlock(&c->lock);
	return r;
}
