/* What runs: arguments, environment, working directory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/build.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static int append_strings(
        json_t *list, const char *field, char *const *v, size_t n, struct berth_error **ret_err)
{
	if (n > BERTH_LIMIT_SPEC_STRINGS)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s: more than %d strings",
		        field, BERTH_LIMIT_SPEC_STRINGS);
	for (size_t i = 0; i < n; i++) {
		json_t *s = spec_string(field, v[i], BERTH_LIMIT_SPEC_STRING, ret_err);
		if (!s)
			return -1;
		json_array_append_new(list, s);
	}
	return 0;
}

static int set_args(struct spec_build *b, struct berth_error **ret_err)
{
	const Runtime__V1__ContainerConfig *c = b->c;
	json_t *args = json_array();
	json_t *entrypoint = json_object_get(b->in->image_config, "entrypoint");
	json_t *cmd = json_object_get(b->in->image_config, "cmd");

	json_object_set_new(b->process, "args", args);
	/* A command replaces the entrypoint and with it the image's arguments, which were made for
	 * that entrypoint. */
	if (c->n_command) {
		if (append_strings(args, "command", c->command, c->n_command, ret_err) < 0)
			return -1;
	} else if (json_is_array(entrypoint)) {
		json_array_extend(args, entrypoint);
	}
	if (c->n_args) {
		if (append_strings(args, "args", c->args, c->n_args, ret_err) < 0)
			return -1;
	} else if (!c->n_command && json_is_array(cmd)) {
		json_array_extend(args, cmd);
	}
	json_t *v;
	size_t i;
	json_array_foreach (args, i, v) {
		if (!json_is_string(v))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "command: argument %zu of the image is no string", i);
	}
	if (!json_array_size(args))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "command: nothing to run: neither the request nor the image names one");
	if (!json_string_length(json_array_get(args, 0)))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "command: the program's name is empty");
	return 0;
}

/* Variables are kept in an object, which keeps the order in which names came first. */
static void put_default(json_t *env, const char *name, const char *value)
{
	if (!json_object_get(env, name))
		json_object_set_new(env, name, json_string(value));
}

static void put_image_env(json_t *env, const json_t *list)
{
	json_t *v;
	size_t i;

	json_array_foreach (list, i, v) {
		const char *s = json_string_value(v), *eq = s ? strchr(s, '=') : NULL;
		/* An entry without a value or a name is no variable. */
		if (!eq || eq == s)
			continue;
		_cleanup_free_ char *name = berth_strndup(s, (size_t)(eq - s));
		json_object_set_new(env, name, json_string(eq + 1));
	}
}

static int put_request_env(
        json_t *env, const Runtime__V1__ContainerConfig *c, struct berth_error **ret_err)
{
	if (c->n_envs > BERTH_LIMIT_SPEC_STRINGS)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "envs: more than %d variables", BERTH_LIMIT_SPEC_STRINGS);
	for (size_t i = 0; i < c->n_envs; i++) {
		const char *key = c->envs[i]->key, *value = (const char *)c->envs[i]->value.data;
		size_t len = c->envs[i]->value.len;
		if (!key[0] || strchr(key, '='))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "envs[%zu]: \"%.64s\" is no name of a variable", i, key);
		if (strlen(key) > BERTH_LIMIT_SPEC_STRING || len > BERTH_LIMIT_SPEC_STRING)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "envs[%zu]: longer than %d bytes", i, BERTH_LIMIT_SPEC_STRING);
		if (len && memchr(value, '\0', len))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "envs[%zu]: the value of %.64s has a zero byte", i, key);
		json_t *v = json_stringn(len ? value : "", len);
		if (!v || json_object_set_new(env, key, v) < 0)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "envs[%zu]: %.64s is not UTF-8, which config.json cannot carry", i,
			        key);
	}
	return 0;
}

static int fill_env(struct spec_build *b, json_t *env, struct berth_error **ret_err)
{
	put_image_env(env, json_object_get(b->in->image_config, "env"));
	if (spec_is_set(b->in->hostname))
		json_object_set_new(env, "HOSTNAME", json_string(b->in->hostname));
	if (put_request_env(env, b->c, ret_err) < 0)
		return -1;
	put_default(env, "PATH", DEFAULT_PATH);
	if (b->c->tty)
		put_default(env, "TERM", "xterm");
	/* A home that is no text is left to the default: it came from the image, not from the user.
	 */
	json_t *home = b->home && b->home[0] == '/' ? json_string(b->home) : NULL;
	put_default(env, "HOME", home ? b->home : "/");
	json_decref(home);
	return 0;
}

static int set_env(struct spec_build *b, struct berth_error **ret_err)
{
	json_t *env = json_object(), *list = json_array(), *v;
	const char *name;
	int r = fill_env(b, env, ret_err);

	json_object_set_new(b->process, "env", list);
	json_object_foreach (env, name, v) {
		_cleanup_free_ char *text = berth_asprintf("%s=%s", name, json_string_value(v));
		json_array_append_new(list, json_string(text));
	}
	json_decref(env);
	return r;
}

static int set_cwd(struct spec_build *b, struct berth_error **ret_err)
{
	const char *own = b->c->working_dir;
	const char *image = json_string_value(json_object_get(b->in->image_config, "working_dir"));
	const char *want = spec_is_set(own) ? own : spec_is_set(image) ? image : "/";

	if (spec_is_set(own) && own[0] != '/')
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "working_dir: \"%.256s\" is not an absolute path", own);
	if (strnlen(want, BERTH_LIMIT_SPEC_PATH + 1) > BERTH_LIMIT_SPEC_PATH)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "working_dir: longer than %d bytes", BERTH_LIMIT_SPEC_PATH);
	_cleanup_free_ char *cwd = spec_clean_path(want);
	if (spec_set(b->process, "cwd", "working_dir", cwd, BERTH_LIMIT_SPEC_PATH, ret_err) < 0)
		return -1;
	int r = spec_mkdir_in_root(b, cwd);
	if (r == -ENOTDIR || r == -ELOOP)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "working_dir: \"%.256s\" is not a directory in the image", cwd);
	/* A read-only root file system that lacks it: a mount may still bring it. */
	if (r < 0 && r != -EROFS)
		return berth_error_errno(ret_err, r, "working_dir: make \"%.256s\"", cwd);
	return 0;
}

/* The image's volumes become directories of the root file system, which each container has alone.
 */
static int make_volumes(struct spec_build *b, struct berth_error **ret_err)
{
	json_t *v, *list = json_object_get(b->in->image_config, "volumes");
	size_t i;

	json_array_foreach (list, i, v) {
		const char *s = json_string_value(v);
		if (!spec_is_set(s) || strlen(s) > BERTH_LIMIT_SPEC_PATH)
			continue;
		_cleanup_free_ char *path = spec_clean_path(s);
		int r = spec_mkdir_in_root(b, path);
		/* A file or a device may be named as a volume: it is there already. */
		if (r < 0 && r != -ENOTDIR && r != -ELOOP && r != -EROFS)
			return berth_error_errno(
			        ret_err, r, "volume of the image: make \"%.256s\"", path);
	}
	return 0;
}

int spec_process(struct spec_build *b, struct berth_error **ret_err)
{
	if (set_args(b, ret_err) < 0 || set_env(b, ret_err) < 0 || set_cwd(b, ret_err) < 0 ||
	        make_volumes(b, ret_err) < 0)
		return -1;
	json_object_set_new(b->process, "terminal", json_boolean(b->c->tty));
	return 0;
}
