#include "pull/registries.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "pull/toml.h"

enum when { WHEN_ALL, WHEN_DIGEST, WHEN_TAG };

struct location {
	char *location;
	bool insecure;
	enum when when;
};

struct rule {
	char *prefix;
	struct location own; /* location "" for a wildcard that rewrites nothing */
	bool blocked;
	struct location *mirrors;
	size_t n_mirrors;
};

struct pull_registries {
	struct rule *rules;
	size_t n_rules;
	char **search;
	json_t *aliases;
	bool enforcing;
};

static void rule_finish(struct rule *r)
{
	free(r->prefix);
	free(r->own.location);
	for (size_t i = 0; i < r->n_mirrors; i++)
		free(r->mirrors[i].location);
	free(r->mirrors);
}

struct pull_registries *pull_registries_new(void)
{
	return berth_new(struct pull_registries);
}

struct pull_registries *pull_registries_free(struct pull_registries *r)
{
	if (!r)
		return NULL;
	for (size_t i = 0; i < r->n_rules; i++)
		rule_finish(&r->rules[i]);
	free(r->rules);
	berth_strv_free(r->search);
	json_decref(r->aliases);
	free(r);
	return NULL;
}

static int get_bool(const json_t *o, const char *key, bool *ret, struct berth_error **ret_err)
{
	const json_t *v = json_object_get(o, key);
	if (v && !json_is_boolean(v))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "'%s' is neither true nor false", key);
	*ret = json_is_true(v);
	return 0;
}

static int get_string(const json_t *o, const char *key, char **ret, struct berth_error **ret_err)
{
	const json_t *v = json_object_get(o, key);
	if (v && !json_is_string(v))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "'%s' is no string", key);
	*ret = berth_strdup(v ? json_string_value(v) : "");
	return 0;
}

/* HOST[:PORT][/PATH], "" allowed. */
static int check_location(const char *s, struct berth_error **ret_err)
{
	if (strstr(s, "://"))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'%.200s': a registry is written without a scheme", s);
	size_t n = strlen(s);
	if (strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/[]") !=
	                n ||
	        *s == '/' || (n > 0 && s[n - 1] == '/') || strstr(s, "..") || strstr(s, "//"))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "'%.200s' is no registry", s);
	return 0;
}

static int read_mirror(
        const json_t *o, bool digest_only, struct location *m, struct berth_error **ret_err)
{
	_cleanup_free_ char *when = NULL;

	if (get_string(o, "location", &m->location, ret_err) < 0 ||
	        check_location(m->location, ret_err) < 0 ||
	        get_bool(o, "insecure", &m->insecure, ret_err) < 0 ||
	        get_string(o, "pull-from-mirror", &when, ret_err) < 0)
		return -1;
	if (!*m->location)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "a mirror without 'location'");
	if (*when && digest_only)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'pull-from-mirror' beside 'mirror-by-digest-only'");
	if (digest_only || strcmp(when, "digest-only") == 0)
		m->when = WHEN_DIGEST;
	else if (strcmp(when, "tag-only") == 0)
		m->when = WHEN_TAG;
	else if (*when && strcmp(when, "all") != 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'pull-from-mirror' is none of all, digest-only, tag-only");
	return 0;
}

static int read_rule(const json_t *o, struct rule *r, struct berth_error **ret_err)
{
	const json_t *mirrors = json_object_get(o, "mirror"), *e;
	bool digest_only = false;
	size_t i;

	if (!json_is_object(o))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "'registry' is no table");
	if (get_string(o, "prefix", &r->prefix, ret_err) < 0 ||
	        get_string(o, "location", &r->own.location, ret_err) < 0 ||
	        check_location(r->own.location, ret_err) < 0 ||
	        get_bool(o, "insecure", &r->own.insecure, ret_err) < 0 ||
	        get_bool(o, "blocked", &r->blocked, ret_err) < 0 ||
	        get_bool(o, "mirror-by-digest-only", &digest_only, ret_err) < 0)
		return -1;
	if (!*r->prefix) {
		free(r->prefix);
		r->prefix = berth_strdup(r->own.location);
	}
	bool wild = strncmp(r->prefix, "*.", 2) == 0;
	if (check_location(r->prefix + (wild ? 2 : 0), ret_err) < 0)
		return -1;
	if (!*r->prefix)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "a registry with neither 'prefix' nor 'location'");
	if (!*r->own.location && !wild) {
		free(r->own.location);
		r->own.location = berth_strdup(r->prefix);
	}
	r->mirrors = berth_new_array(struct location, json_array_size(mirrors));
	json_array_foreach (mirrors, i, e) {
		r->n_mirrors++;
		if (read_mirror(e, digest_only, &r->mirrors[i], ret_err) < 0)
			return -1;
	}
	return 0;
}

static void put_rule(struct pull_registries *r, const struct rule *rule)
{
	for (size_t i = 0; i < r->n_rules; i++)
		if (strcmp(r->rules[i].prefix, rule->prefix) == 0) {
			rule_finish(&r->rules[i]);
			r->rules[i] = *rule;
			return;
		}
	r->rules = berth_reallocarray(r->rules, r->n_rules + 1, sizeof(*r->rules));
	r->rules[r->n_rules++] = *rule;
}

static int add_search(struct pull_registries *r, const json_t *list, struct berth_error **ret_err)
{
	const json_t *e;
	size_t i;

	if (!list)
		return 0;
	if (!json_is_array(list))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'unqualified-search-registries' is no list of registries");
	r->search = berth_strv_free(r->search);
	json_array_foreach (list, i, e) {
		const char *s = json_string_value(e);
		if (!s || !*s || check_location(s, ret_err) < 0) {
			berth_error_freep(ret_err);
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "'unqualified-search-registries' is no list of registries");
		}
		r->search = berth_strv_append(r->search, s);
	}
	return 0;
}

/* HOST/PATH, without tag and digest; "" takes an alias of an earlier file away. */
static int add_alias(struct pull_registries *r, const char *name, const json_t *value,
        struct berth_error **ret_err)
{
	_cleanup_(pull_ref_finish) struct pull_ref from = {0}, to = {0};
	const char *s = json_string_value(value);

	if (!s)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "it is no string");
	if (!*s) {
		json_object_del(r->aliases, name);
		return 0;
	}
	if (pull_ref_parse(name, &from, ret_err) < 0 || pull_ref_parse(s, &to, ret_err) < 0)
		return -1;
	if (*from.host || strlen(from.path) != strlen(name))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "a name with a registry, tag or digest is no short name");
	if (!*to.host || strlen(to.host) + 1 + strlen(to.path) != strlen(s))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'%.200s' is not of the form REGISTRY/PATH", s);
	json_object_set_new(r->aliases, name, json_string(s));
	return 0;
}

static int add_shortnames(
        struct pull_registries *r, const json_t *doc, struct berth_error **ret_err)
{
	json_t *aliases = json_object_get(doc, "aliases"), *value;
	_cleanup_free_ char *mode = NULL;
	const char *name;

	if (aliases && !json_is_object(aliases))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "'aliases' is no table");
	if (!r->aliases)
		r->aliases = json_object();
	json_object_foreach (aliases, name, value) {
		if (add_alias(r, name, value, ret_err) < 0)
			return berth_error_wrap(ret_err, "alias '%.200s'", name);
	}
	if (!json_object_get(doc, "short-name-mode"))
		return 0;
	if (get_string(doc, "short-name-mode", &mode, ret_err) < 0)
		return -1;
	r->enforcing = strcmp(mode, "enforcing") == 0;
	if (!r->enforcing && strcmp(mode, "permissive") != 0 && strcmp(mode, "disabled") != 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'short-name-mode' is none of enforcing, permissive, disabled");
	return 0;
}

static int add_doc(struct pull_registries *r, const json_t *doc, struct berth_error **ret_err)
{
	const json_t *list = json_object_get(doc, "registry"), *e;
	size_t i;

	if (json_object_get(doc, "registries"))
		return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
		        "it is of version 1 of the format, which is not supported");
	if (list && !json_is_array(list))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "'registry' is no array of tables");
	json_array_foreach (list, i, e) {
		struct rule rule = {0};
		if (read_rule(e, &rule, ret_err) < 0) {
			rule_finish(&rule);
			return berth_error_wrap(ret_err, "registry %zu", i + 1);
		}
		put_rule(r, &rule);
	}
	return add_search(r, json_object_get(doc, "unqualified-search-registries"), ret_err) < 0
	               ? -1
	               : add_shortnames(r, doc, ret_err);
}

int pull_registries_add(struct pull_registries *r, const char *name, const char *text, size_t len,
        struct berth_error **ret_err)
{
	json_t *doc = NULL;

	int result = pull_toml_parse(text, len, &doc, ret_err);
	if (result == 0)
		result = add_doc(r, doc, ret_err);
	json_decref(doc);
	return result < 0 ? berth_error_wrap(ret_err, "%s", name) : 0;
}

static int add_file(struct pull_registries *r, const char *path, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	int e = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, &len);
	if (e == -ENOENT)
		return 0;
	if (e < 0)
		return berth_error_errno(ret_err, e, "read '%s'", path);
	return pull_registries_add(r, path, text, len, ret_err);
}

static int is_conf(const struct dirent *e)
{
	size_t n = strlen(e->d_name);
	return e->d_name[0] != '.' && n > 5 && strcmp(e->d_name + n - 5, ".conf") == 0;
}

static int add_drop_ins(struct pull_registries *r, const char *path, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_asprintf("%s.d", path);
	struct dirent **list;
	int result = 0, n = scandir(dir, &list, is_conf, alphasort);

	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *file = berth_asprintf("%s/%s", dir, list[i]->d_name);
		free(list[i]);
		if (result == 0)
			result = add_file(r, file, ret_err);
	}
	if (n >= 0)
		free(list);
	return result;
}

int pull_registries_load(
        const char *path, struct pull_registries **ret, struct berth_error **ret_err)
{
	struct pull_registries *r = pull_registries_new();

	if (path && *path &&
	        (add_file(r, path, ret_err) < 0 || add_drop_ins(r, path, ret_err) < 0)) {
		pull_registries_free(r);
		return -1;
	}
	*ret = r;
	return 0;
}

/* How many characters of HOST/PATH the prefix stands for; 0: none. */
static size_t match(const char *prefix, const char *name)
{
	if (strncmp(prefix, "*.", 2) == 0) {
		size_t host = strcspn(name, "/:"), tail = strlen(prefix) - 1;
		if (host <= tail || strchr(prefix + 1, '/'))
			return 0;
		return strncmp(name + host - tail, prefix + 1, tail) == 0 ? host : 0;
	}
	size_t n = strlen(prefix);
	return strncmp(name, prefix, n) == 0 && (name[n] == '\0' || name[n] == '/') ? n : 0;
}

static const struct rule *find(const struct pull_registries *r, const char *name, size_t *ret_len)
{
	const struct rule *best = NULL;
	size_t best_len = 0;

	for (size_t i = 0; i < r->n_rules; i++) {
		size_t n = match(r->rules[i].prefix, name);
		bool wild = r->rules[i].prefix[0] == '*';
		/* Among wildcards for one host the longer is closer; a plain one goes before all.
		 */
		if (n > best_len ||
		        (n > 0 && n == best_len && best && best->prefix[0] == '*' &&
		                (!wild || strlen(r->rules[i].prefix) > strlen(best->prefix)))) {
			best = &r->rules[i];
			best_len = n;
		}
	}
	*ret_len = best_len;
	return best;
}

static void add_place(struct pull_place_of **v, size_t *n, const char *location, const char *rest,
        bool insecure, bool mirror)
{
	_cleanup_free_ char *whole = berth_asprintf("%s%s", location, rest);
	size_t host = strcspn(whole, "/");

	*v = berth_reallocarray(*v, *n + 1, sizeof(**v));
	(*v)[(*n)++] = (struct pull_place_of){.host = berth_strndup(whole, host),
	        .path = berth_strdup(whole[host] ? whole + host + 1 : ""),
	        .insecure = insecure,
	        .mirror = mirror};
}

int pull_registries_places(const struct pull_registries *r, const struct pull_ref *ref,
        struct pull_place_of **ret, size_t *ret_n, struct berth_error **ret_err)
{
	_cleanup_free_ char *name = pull_ref_name(ref);
	size_t len;
	const struct rule *rule = find(r, name, &len);

	*ret = NULL;
	*ret_n = 0;
	if (!rule) {
		add_place(ret, ret_n, "", name, false, false);
		return 0;
	}
	if (rule->blocked)
		return berth_error_set(ret_err, BERTH_PERMISSION_DENIED,
		        "registry '%s' is blocked by the registries configuration", rule->prefix);
	for (size_t i = 0; i < rule->n_mirrors; i++) {
		const struct location *m = &rule->mirrors[i];
		if ((m->when == WHEN_DIGEST && !ref->digest) ||
		        (m->when == WHEN_TAG && ref->digest))
			continue;
		add_place(ret, ret_n, m->location, name + len, m->insecure, true);
	}
	bool same = !*rule->own.location;
	add_place(ret, ret_n, same ? "" : rule->own.location, same ? name : name + len,
	        rule->own.insecure, false);
	return 0;
}

void pull_places_free(struct pull_place_of *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(v[i].host);
		free(v[i].path);
	}
	free(v);
}

const char *pull_registries_alias(const struct pull_registries *r, const char *name)
{
	return json_string_value(json_object_get(r->aliases, name));
}

bool pull_registries_enforcing(const struct pull_registries *r)
{
	return r->enforcing;
}

char *const *pull_registries_search(const struct pull_registries *r)
{
	return r->search;
}
