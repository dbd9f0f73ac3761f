/* The image config: OCI image-spec, config.md. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pull/image.h"
#include "pull/protocol.h"

void pull_config_finish(struct pull_config *c)
{
	free(berth_take(c->diff_ids));
	json_decref(c->record);
	c->record = NULL;
}

/* NULL and absent are the same everywhere in a config. */
static const json_t *member(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_is_null(v) ? NULL : v;
}

static int fail_type(const char *key, const char *want, struct berth_error **ret_err)
{
	return berth_error_set(
	        ret_err, BERTH_INVALID_ARGUMENT, "config: '%s' is not %s", key, want);
}

static int copy_string(const json_t *from, const char *key, json_t *to, const char *name,
        struct berth_error **ret_err)
{
	const json_t *v = member(from, key);

	if (v && !json_is_string(v))
		return fail_type(key, "a string", ret_err);
	if (v)
		json_object_set_new(to, name, json_string(json_string_value(v)));
	return 0;
}

static int copy_strings(const json_t *from, const char *key, json_t *to, const char *name,
        struct berth_error **ret_err)
{
	const json_t *v = member(from, key), *e;
	json_t *list = json_array();
	size_t i;

	json_object_set_new(to, name, list);
	/* Docker once wrote a command as one string. */
	if (json_is_string(v)) {
		json_array_append_new(list, json_string(json_string_value(v)));
		return 0;
	}
	if (v && !json_is_array(v))
		return fail_type(key, "a list of strings", ret_err);
	json_array_foreach (v, i, e) {
		if (!json_is_string(e))
			return fail_type(key, "a list of strings", ret_err);
		json_array_append_new(list, json_string(json_string_value(e)));
	}
	return 0;
}

/* The keys of an object, which is how a config writes a set. */
static int copy_set(const json_t *from, const char *key, json_t *to, const char *name,
        struct berth_error **ret_err)
{
	json_t *v = (json_t *)member(from, key), *list = json_array(), *value;
	const char *k;

	json_object_set_new(to, name, list);
	if (v && !json_is_object(v))
		return fail_type(key, "an object", ret_err);
	json_object_foreach (v, k, value)
		json_array_append_new(list, json_string(k));
	return 0;
}

static int copy_labels(const json_t *from, json_t *to, struct berth_error **ret_err)
{
	json_t *v = (json_t *)member(from, "Labels"), *labels = json_object(), *value;
	const char *k;

	json_object_set_new(to, "labels", labels);
	if (v && !json_is_object(v))
		return fail_type("Labels", "an object", ret_err);
	json_object_foreach (v, k, value) {
		if (!json_is_string(value))
			return fail_type("Labels", "an object of strings", ret_err);
		json_object_set_new(labels, k, json_string(json_string_value(value)));
	}
	return 0;
}

static int parse_run(const json_t *c, json_t *to, struct berth_error **ret_err)
{
	if (c && !json_is_object(c))
		return fail_type("config", "an object", ret_err);
	if (copy_string(c, "User", to, "user", ret_err) < 0 ||
	        copy_strings(c, "Env", to, "env", ret_err) < 0 ||
	        copy_strings(c, "Entrypoint", to, "entrypoint", ret_err) < 0 ||
	        copy_strings(c, "Cmd", to, "cmd", ret_err) < 0 ||
	        copy_string(c, "WorkingDir", to, "working_dir", ret_err) < 0 ||
	        copy_set(c, "Volumes", to, "volumes", ret_err) < 0 ||
	        copy_string(c, "StopSignal", to, "stop_signal", ret_err) < 0 ||
	        copy_set(c, "ExposedPorts", to, "exposed_ports", ret_err) < 0)
		return -1;
	return copy_labels(c, to, ret_err);
}

static int parse_diff_ids(const json_t *root, struct pull_config *ret, struct berth_error **ret_err)
{
	const json_t *rootfs = json_object_get(root, "rootfs"), *e;
	const json_t *ids = member(rootfs, "diff_ids");
	size_t i, n = json_array_size(ids);

	if (ids && !json_is_array(ids))
		return fail_type("rootfs.diff_ids", "a list", ret_err);
	if (n > BERTH_LIMIT_IMAGE_LAYERS)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "config: it has %zu layers, at most %d are accepted", n,
		        BERTH_LIMIT_IMAGE_LAYERS);
	ret->diff_ids = berth_reallocarray_zero(n, sizeof(*ret->diff_ids));
	json_array_foreach (ids, i, e) {
		const char *id = json_string_value(e);
		if (!pull_digest_valid(id))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "config: diff_id %zu is no sha256 digest", i + 1);
		memcpy(ret->diff_ids[ret->n_diff_ids++], id, PULL_DIGEST_SIZE);
	}
	return 0;
}

static int parse(const json_t *root, struct pull_config *ret, struct berth_error **ret_err)
{
	json_t *run = json_object();

	ret->record = json_object();
	json_object_set_new(ret->record, "config", run);
	if (!json_is_object(root))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "config: it is no JSON object");
	if (copy_string(root, "created", ret->record, "created", ret_err) < 0 ||
	        copy_string(root, "os", ret->record, "os", ret_err) < 0 ||
	        copy_string(root, "architecture", ret->record, "architecture", ret_err) < 0 ||
	        copy_string(root, "variant", ret->record, "variant", ret_err) < 0 ||
	        parse_run(member(root, "config"), run, ret_err) < 0)
		return -1;
	return parse_diff_ids(root, ret, ret_err);
}

int pull_config_parse(
        const char *text, size_t len, struct pull_config *ret, struct berth_error **ret_err)
{
	json_error_t je;
	json_t *root = json_loadb(text, len, 0, &je);

	*ret = (struct pull_config){0};
	if (!root)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "config: it is no JSON: line %d: %s", je.line, je.text);
	int r = parse(root, ret, ret_err);
	json_decref(root);
	if (r < 0)
		pull_config_finish(ret);
	return r;
}
