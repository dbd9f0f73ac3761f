/* What devices want, put into a configuration. The edits were checked. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/mem.h"
#include "spec/build.h"
#include "spec/cdi.h"

/* obj[key], made where it is not there. Borrowed. */
static json_t *child(json_t *obj, const char *key, json_t *(*make)(void))
{
	json_t *v = json_object_get(obj, key);
	if (!v) {
		v = make();
		json_object_set_new(obj, key, v);
	}
	return v;
}

/* A new element takes the place of one with the same obj[key]. Takes `v`. */
static void put(json_t *list, const char *key, json_t *v)
{
	const char *name = json_string_value(json_object_get(v, key));
	json_t *have;
	size_t i;

	json_array_foreach (list, i, have) {
		const char *other = json_string_value(json_object_get(have, key));
		if (other && strcmp(other, name) == 0) {
			json_array_remove(list, i);
			break;
		}
	}
	json_array_append_new(list, v);
}

static void copy(json_t *to, const char *key, const json_t *from, const char *from_key)
{
	json_t *v = json_object_get(from, from_key);
	if (v)
		json_object_set(to, key, v);
}

/* ---- environment ---- */

static void apply_env(json_t *config, const json_t *edits)
{
	json_t *env = child(child(config, "process", json_object), "env", json_array), *v, *have;
	size_t i, n;

	json_array_foreach (json_object_get(edits, "env"), i, v) {
		const char *s = json_string_value(v);
		size_t len = (size_t)(strchr(s, '=') - s) + 1;
		json_array_foreach (env, n, have) {
			if (strncmp(json_string_value(have), s, len) == 0) {
				json_array_remove(env, n);
				break;
			}
		}
		json_array_append(env, v);
	}
}

/* ---- device nodes ---- */

/* What a specification does not tell is as on the host. */
static int fill_node(json_t *node, const json_t *from, struct berth_error **ret_err)
{
	const char *path = json_string_value(json_object_get(from, "hostPath"));
	struct stat st;

	copy(node, "path", from, "path");
	copy(node, "type", from, "type");
	copy(node, "major", from, "major");
	copy(node, "minor", from, "minor");
	copy(node, "fileMode", from, "fileMode");
	copy(node, "uid", from, "uid");
	copy(node, "gid", from, "gid");
	const char *type = json_string_value(json_object_get(node, "type"));
	bool fifo = type && strcmp(type, "p") == 0;
	if (type && (fifo || json_object_get(node, "major")))
		return 0;
	if (!path)
		path = json_string_value(json_object_get(from, "path"));
	if (stat(path, &st) < 0)
		return berth_error_errno(ret_err, errno, "host device %.256s", path);
	if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISFIFO(st.st_mode))
		return berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "%.256s is no device", path);
	const char *is = S_ISBLK(st.st_mode) ? "b" : S_ISCHR(st.st_mode) ? "c" : "p";
	if (type && strcmp(type, "u") != 0 && strcmp(type, is) != 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "host device %.256s is of type %s, not %s", path, is, type);
	if (!type)
		json_object_set_new(node, "type", json_string(is));
	if (*is != 'p' && !json_object_get(node, "major")) {
		json_object_set_new(node, "major", json_integer(major(st.st_rdev)));
		json_object_set_new(node, "minor", json_integer(minor(st.st_rdev)));
	}
	if (!json_object_get(node, "fileMode"))
		json_object_set_new(node, "fileMode", json_integer(st.st_mode & 07777));
	return 0;
}

/* Without an owner it is the container's user's. */
static void own_node(json_t *node, const json_t *config)
{
	const json_t *user = json_object_get(json_object_get(config, "process"), "user");
	static const char *const ids[] = {"uid", "gid"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(ids); i++)
		if (!json_object_get(node, ids[i]) &&
		        json_integer_value(json_object_get(user, ids[i])) > 0)
			copy(node, ids[i], user, ids[i]);
}

static void allow_node(json_t *linux_, const json_t *node, const char *access)
{
	const char *type = json_string_value(json_object_get(node, "type"));

	if (*type == 'p')
		return;
	json_t *rule = json_pack("{s:b, s:s, s:s}", "allow", 1, "type", *type == 'b' ? "b" : "c",
	        "access", access && *access ? access : "rwm");
	copy(rule, "major", node, "major");
	copy(rule, "minor", node, "minor");
	json_array_append_new(
	        child(child(linux_, "resources", json_object), "devices", json_array), rule);
}

static int apply_devices(json_t *config, const json_t *edits, struct berth_error **ret_err)
{
	json_t *linux_ = child(config, "linux", json_object);
	json_t *nodes = child(linux_, "devices", json_array), *v;
	size_t i;

	json_array_foreach (json_object_get(edits, "deviceNodes"), i, v) {
		json_t *node = json_object();
		if (fill_node(node, v, ret_err) < 0) {
			json_decref(node);
			return -1;
		}
		own_node(node, config);
		allow_node(linux_, node, json_string_value(json_object_get(v, "permissions")));
		put(nodes, "path", node);
		if (json_array_size(nodes) > BERTH_LIMIT_SPEC_DEVICES)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "more than %d devices", BERTH_LIMIT_SPEC_DEVICES);
	}
	return 0;
}

/* ---- mounts ---- */

static size_t depth(const json_t *m)
{
	const char *p = json_string_value(json_object_get(m, "destination"));
	size_t n = 0;
	for (; p && *p; p++)
		n += *p == '/' && p[1];
	return n;
}

/* Before the first that lies deeper: those of the same depth keep their order. */
static void insert_by_depth(json_t *mounts, json_t *m)
{
	json_t *have;
	size_t i;

	json_array_foreach (mounts, i, have) {
		if (depth(have) > depth(m))
			break;
	}
	json_array_insert_new(mounts, i, m);
}

static bool is_bind(const json_t *options)
{
	json_t *v;
	size_t i;

	json_array_foreach (options, i, v) {
		const char *s = json_string_value(v);
		if (strcmp(s, "bind") == 0 || strcmp(s, "rbind") == 0)
			return true;
	}
	return false;
}

static int apply_mounts(json_t *config, const json_t *edits, struct berth_error **ret_err)
{
	json_t *mounts = child(config, "mounts", json_array), *v;
	size_t i, n;

	json_array_foreach (json_object_get(edits, "mounts"), i, v) {
		const char *type = json_string_value(json_object_get(v, "type"));
		json_t *options = json_object_get(v, "options"), *have;
		_cleanup_free_ char *dest =
		        spec_clean_path(json_string_value(json_object_get(v, "containerPath")));
		options = options ? json_copy(options) : json_array();
		if ((!type || strcmp(type, "bind") == 0) && !is_bind(options))
			json_array_insert_new(options, 0, json_string("rbind"));
		json_t *m = json_pack("{s:s, s:s, s:O, s:o}", "destination", dest, "type",
		        type ? type : "bind", "source", json_object_get(v, "hostPath"), "options",
		        options);
		json_array_foreach (mounts, n, have) {
			if (strcmp(json_string_value(json_object_get(have, "destination")), dest) ==
			        0) {
				json_array_remove(mounts, n);
				break;
			}
		}
		insert_by_depth(mounts, m);
		if (json_array_size(mounts) > 2 * BERTH_LIMIT_SPEC_MOUNTS)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "more than %d mounts", 2 * BERTH_LIMIT_SPEC_MOUNTS);
	}
	return 0;
}

/* ---- the rest ---- */

static void apply_hooks(json_t *config, const json_t *edits)
{
	json_t *v;
	size_t i;

	json_array_foreach (json_object_get(edits, "hooks"), i, v) {
		json_t *h = json_object();
		copy(h, "path", v, "path");
		copy(h, "args", v, "args");
		copy(h, "env", v, "env");
		copy(h, "timeout", v, "timeout");
		json_array_append_new(
		        child(child(config, "hooks", json_object),
		                json_string_value(json_object_get(v, "hookName")), json_array),
		        h);
	}
}

static int apply_gids(json_t *config, const json_t *edits, struct berth_error **ret_err)
{
	json_t *user = child(child(config, "process", json_object), "user", json_object);
	json_t *v, *have;
	size_t i, n;

	json_array_foreach (json_object_get(edits, "additionalGids"), i, v) {
		json_t *gids = child(user, "additionalGids", json_array);
		bool there = json_integer_value(v) == 0; /* nobody becomes root by a device */
		json_array_foreach (gids, n, have) {
			there = there || json_integer_value(have) == json_integer_value(v);
		}
		if (!there)
			json_array_append(gids, v);
		if (json_array_size(gids) > BERTH_LIMIT_SPEC_GROUPS)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "more than %d groups", BERTH_LIMIT_SPEC_GROUPS);
	}
	return 0;
}

int berth_cdi_apply(json_t *config, const json_t *edits, struct berth_error **ret_err)
{
	json_t *e;
	size_t i;

	json_array_foreach (edits, i, e) {
		apply_env(config, e);
		if (apply_devices(config, e, ret_err) < 0 || apply_mounts(config, e, ret_err) < 0 ||
		        apply_gids(config, e, ret_err) < 0)
			return berth_error_wrap(ret_err, "CDI devices");
		apply_hooks(config, e);
		json_t *rdt = json_object_get(e, "intelRdt");
		if (rdt)
			json_object_set(child(config, "linux", json_object), "intelRdt", rdt);
	}
	return 0;
}
