/* A plugin's configuration subtree, looked up by dotted path. What is asked for is recorded, and as
 * what, so that a mistyped key or value is an error and not a silent default. */
#include <string.h>

#include <stdlib.h>

#include "base/nearest.h"
#include "plugin/host.h"
#include "plugin/internal.h"

/* What a key was asked for as; bits. */
enum conf_type { CONF_TEXT = 1, CONF_NUMBER = 2, CONF_BOOL = 4, CONF_ANY = 8, CONF_ALL = 15 };

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
	free(c->wanted);
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

static json_t *ask(const struct berth_conf *cc, const char *path, enum conf_type wanted)
{
	struct berth_conf *c =
	        (struct berth_conf *)cc; /* the record of questions is not its value */
	size_t i = 0;

	pthread_mutex_lock(&c->lock);
	while (c->asked && c->asked[i] && strcmp(c->asked[i], path) != 0)
		i++;
	if (!c->asked || !c->asked[i]) {
		c->asked = berth_strv_append(c->asked, path);
		c->wanted = berth_reallocarray(c->wanted, i + 1, sizeof(*c->wanted));
		c->wanted[i] = 0;
	}
	c->wanted[i] |= wanted;
	json_t *v = look_up(c->root, path);
	pthread_mutex_unlock(&c->lock);
	return v && !json_is_null(v) ? v : NULL;
}

const char *berth_conf_str(const struct berth_conf *c, const char *path, const char *dflt)
{
	const char *s = json_string_value(ask(c, path, CONF_TEXT));
	return s ? s : dflt;
}

int64_t berth_conf_i64(const struct berth_conf *c, const char *path, int64_t dflt)
{
	json_t *v = ask(c, path, CONF_NUMBER);
	return json_is_integer(v) ? json_integer_value(v) : dflt;
}

int32_t berth_conf_bool(const struct berth_conf *c, const char *path, int32_t dflt)
{
	json_t *v = ask(c, path, CONF_BOOL);
	return json_is_boolean(v) ? json_is_true(v) : dflt;
}

const char *berth_conf_json(const struct berth_conf *cc, const char *path)
{
	struct berth_conf *c = (struct berth_conf *)cc;
	json_t *v = ask(c, path, CONF_ANY);
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

/* Asked for as one of `wanted`: the path itself, or an object that holds it. */
static bool was_asked(const struct berth_conf *c, const char *path, unsigned int wanted)
{
	size_t n = strlen(path);
	for (size_t i = 0; c->asked && c->asked[i]; i++) {
		const char *p = c->asked[i];
		size_t m = strlen(p);
		if (!(c->wanted[i] & wanted))
			continue;
		if (m == 0 || strcmp(p, path) == 0)
			return true;
		if (m < n && strncmp(p, path, m) == 0 && path[m] == '.')
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
		if (was_asked(c, path, CONF_ALL) || strcmp(path, BERTH_CONF_HOST) == 0)
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

static unsigned int type_of(const json_t *v)
{
	return json_is_string(v)    ? CONF_TEXT
	       : json_is_integer(v) ? CONF_NUMBER
	       : json_is_boolean(v) ? CONF_BOOL
	                            : 0;
}

static const char *type_name(const json_t *v)
{
	return json_is_string(v)    ? "text"
	       : json_is_integer(v) ? "a number"
	       : json_is_real(v)    ? "a fraction"
	       : json_is_boolean(v) ? "a boolean"
	       : json_is_array(v)   ? "a list"
	                            : "a map";
}

static int wrong_type(const char *plugin, const char *path, const json_t *v, unsigned int wanted,
        struct berth_error **ret_err)
{
	static const char *const names[] = {"text", "a whole number", "true or false"};
	bool quote = (wanted & CONF_TEXT) && !json_is_array(v) && !json_is_object(v);
	_cleanup_free_ char *wants = NULL;

	for (unsigned int n = 0; n < BERTH_ARRAY_LEN(names); n++) {
		_cleanup_free_ char *before = wants;
		if (wanted & (1u << n))
			wants = berth_asprintf(
			        "%s%s%s", before ? before : "", before ? " or " : "", names[n]);
		else
			wants = berth_take(before);
	}
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "plugins.%s.%s must be %s, not %s%s", plugin, path, wants, type_name(v),
	        quote ? " (quote it to make it text)" : "");
}

static int check_types(const struct berth_conf *c, const char *plugin, struct berth_error **ret_err)
{
	for (size_t i = 0; c->asked && c->asked[i]; i++) {
		const json_t *v = look_up(c->root, c->asked[i]);
		/* Who took it as JSON has seen what it is. */
		if (v && !json_is_null(v) && !(c->wanted[i] & type_of(v)) &&
		        !was_asked(c, c->asked[i], CONF_ANY))
			return wrong_type(plugin, c->asked[i], v, c->wanted[i], ret_err);
	}
	return 0;
}

int berth_conf_check_types(struct berth_conf *c, const char *plugin, struct berth_error **ret_err)
{
	pthread_mutex_lock(&c->lock);
	int r = check_types(c, plugin, ret_err);
	pthread_mutex_unlock(&c->lock);
	return r;
}

int berth_conf_check(struct berth_conf *c, const char *plugin, struct berth_error **ret_err)
{
	pthread_mutex_lock(&c->lock);
	int r = check_types(c, plugin, ret_err);
	if (r == 0)
		r = check_object(c, c->root, NULL, plugin, ret_err);
	pthread_mutex_unlock(&c->lock);
	return r;
}
