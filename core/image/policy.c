#include "image/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

#define FAILED "SignatureValidationFailed: "

struct berth_policy {
	char *path;
	json_t *root;
};

static int bad(const char *path, const char *where, const char *why, struct berth_error **ret_err)
{
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s: %s%s%s", path,
	        where ? where : "", where ? ": " : "", why);
}

static int check_rules(
        const char *path, const char *where, const json_t *rules, struct berth_error **ret_err)
{
	size_t i;
	json_t *rule;

	if (!json_is_array(rules) || json_array_size(rules) == 0)
		return bad(path, where, "a list of at least one rule is expected", ret_err);
	json_array_foreach (rules, i, rule) {
		if (!json_is_string(json_object_get(rule, "type")))
			return bad(path, where, "a rule has no type", ret_err);
	}
	return 0;
}

static int check_form(const char *path, const json_t *root, struct berth_error **ret_err)
{
	const char *key, *scope;
	json_t *value, *rules;

	json_object_foreach ((json_t *)root, key, value) {
		if (strcmp(key, "default") != 0 && strcmp(key, "transports") != 0)
			return bad(path, key, "unknown key", ret_err);
	}
	if (check_rules(path, "default", json_object_get(root, "default"), ret_err) < 0)
		return -1;
	json_t *transports = json_object_get(root, "transports");
	if (transports && !json_is_object(transports))
		return bad(path, "transports", "an object is expected", ret_err);
	json_object_foreach (transports, key, value) {
		if (!json_is_object(value))
			return bad(path, key, "an object of scopes is expected", ret_err);
		json_object_foreach (value, scope, rules) {
			if (check_rules(path, scope, rules, ret_err) < 0)
				return -1;
		}
	}
	return 0;
}

int berth_policy_load(const char *path, struct berth_policy **ret, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL;
	json_error_t je;

	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, NULL);
	if (r == -ENOENT) {
		*ret = NULL;
		return 0;
	}
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", path);
	json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &je);
	if (!json_is_object(root)) {
		json_decref(root);
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s:%d: %s", path, je.line,
		        root ? "an object is expected" : je.text);
	}
	if (check_form(path, root, ret_err) < 0) {
		json_decref(root);
		return -1;
	}
	struct berth_policy *p = berth_new(struct berth_policy);
	p->path = berth_strdup(path);
	p->root = root;
	*ret = p;
	return 0;
}

struct berth_policy *berth_policy_free(struct berth_policy *p)
{
	if (p) {
		free(p->path);
		json_decref(p->root);
		free(p);
	}
	return NULL;
}

/* The most specific scope that is listed: the reference itself, its repository, each namespace
 * above, the registry, wildcards of the registry's domains, then "" for all of the transport. */
static const json_t *rules_for(const json_t *scopes, const struct berth_ref *ref)
{
	const json_t *found = NULL;

	if (ref && ref->repository) {
		_cleanup_free_ char *name = berth_ref_name(ref);
		_cleanup_free_ char *scope = berth_strdup(ref->repository);
		found = json_object_get(scopes, name);
		for (;;) {
			if (!found)
				found = json_object_get(scopes, scope);
			char *slash = strrchr(scope, '/');
			if (found || !slash)
				break;
			*slash = '\0';
		}
		for (char *dot = found ? NULL : strchr(scope, '.'); dot && !found;
		        dot = strchr(dot + 1, '.')) {
			_cleanup_free_ char *wild = berth_asprintf("*%s", dot);
			found = json_object_get(scopes, wild);
		}
	}
	return found ? found : json_object_get(scopes, "");
}

int berth_policy_check(const struct berth_policy *p, const char *transport,
        const struct berth_ref *ref, struct berth_error **ret_err)
{
	size_t i;
	json_t *rule;

	if (!p)
		return 0;
	const json_t *rules =
	        rules_for(json_object_get(json_object_get(p->root, "transports"), transport), ref);
	if (!rules)
		rules = json_object_get(p->root, "default");
	_cleanup_free_ char *name = ref && ref->repository
	                                    ? berth_ref_name(ref)
	                                    : berth_strdup("an image without a name");
	json_array_foreach (rules, i, rule) {
		const char *type = json_string_value(json_object_get(rule, "type"));
		if (strcmp(type, "insecureAcceptAnything") == 0)
			continue;
		if (strcmp(type, "reject") == 0)
			return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
			        FAILED "%s is rejected by %s", name, p->path);
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        FAILED "%s asks for \"%s\" of %s, and signatures are not verified yet",
		        p->path, type, name);
	}
	return 0;
}
