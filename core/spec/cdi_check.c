/* Is a file a CDI specification? What is applied later is known to have these forms. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "spec/cdi.h"

struct at {
	const char *file;
	struct berth_error **ret_err;
};

static int bad(const struct at *a, const char *where, const char *what)
{
	return berth_error_set(
	        a->ret_err, BERTH_INVALID_ARGUMENT, "%s: %s: %s", a->file, where, what);
}

enum form { TEXT, PATH, NUMBER, BOOLEAN, TEXTS, NUMBERS, OBJECT, OBJECTS };
struct member {
	const char *name;
	enum form form;
	bool needed;
};

static bool is_form(const json_t *v, enum form form)
{
	const char *s = json_string_value(v);
	json_t *one;
	size_t i;

	switch (form) {
	case TEXT:
		return s && *s;
	case PATH:
		return s && *s == '/';
	case NUMBER:
		return json_is_integer(v) && json_integer_value(v) >= 0 &&
		       json_integer_value(v) <= UINT32_MAX;
	case BOOLEAN:
		return json_is_boolean(v);
	case OBJECT:
		return json_is_object(v);
	case TEXTS:
	case NUMBERS:
	case OBJECTS:
		break;
	}
	json_array_foreach (v, i, one) {
		if (form == TEXTS         ? !json_is_string(one)
		        : form == NUMBERS ? !is_form(one, NUMBER)
		                          : !json_is_object(one))
			return false;
	}
	return json_is_array(v);
}

/* Only these members, in their forms: what is not understood would not be done. */
static int check_members(
        const struct at *a, const char *where, const json_t *o, const struct member *m, size_t n)
{
	static const char *const words[] = {[TEXT] = "text",
	        [PATH] = "an absolute path",
	        [NUMBER] = "a number",
	        [BOOLEAN] = "true or false",
	        [TEXTS] = "a list of texts",
	        [NUMBERS] = "a list of numbers",
	        [OBJECT] = "an object",
	        [OBJECTS] = "a list of objects"};
	const char *key;
	json_t *v;

	json_object_foreach ((json_t *)o, key, v) {
		size_t i = 0;
		while (i < n && strcmp(m[i].name, key) != 0)
			i++;
		_cleanup_free_ char *place = berth_asprintf("%s.%.64s", where, key);
		if (i == n)
			return bad(a, place, "this is not known here");
		if (!is_form(v, m[i].form)) {
			_cleanup_free_ char *what =
			        berth_asprintf("it is not %s", words[m[i].form]);
			return bad(a, place, what);
		}
	}
	for (size_t i = 0; i < n; i++) {
		if (!m[i].needed || json_object_get(o, m[i].name))
			continue;
		_cleanup_free_ char *place = berth_asprintf("%s.%s", where, m[i].name);
		return bad(a, place, "it is missing");
	}
	return 0;
}

static int check_list(const struct at *a, const char *where, const json_t *edits, const char *key,
        const struct member *m, size_t n)
{
	json_t *one;
	size_t i;

	json_array_foreach (json_object_get(edits, key), i, one) {
		_cleanup_free_ char *place = berth_asprintf("%s.%s[%zu]", where, key, i);
		if (check_members(a, place, one, m, n) < 0)
			return -1;
	}
	return 0;
}

static bool is_one_of(const char *s, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(s, words[i]) == 0)
			return true;
	return false;
}

static int check_words(const struct at *a, const char *where, const json_t *edits)
{
	static const char *const hooks[] = {"prestart", "createRuntime", "createContainer",
	        "startContainer", "poststart", "poststop"};
	static const char *const types[] = {"b", "c", "u", "p"};
	json_t *v;
	size_t i;

	json_array_foreach (json_object_get(edits, "env"), i, v) {
		const char *s = json_string_value(v), *eq = strchr(s, '=');
		if (!eq || eq == s)
			return bad(a, where, "env: an entry is not NAME=VALUE");
	}
	json_array_foreach (json_object_get(edits, "hooks"), i, v) {
		if (!is_one_of(json_string_value(json_object_get(v, "hookName")), hooks,
		            BERTH_ARRAY_LEN(hooks)))
			return bad(a, where, "hooks: a hookName is unknown");
	}
	json_array_foreach (json_object_get(edits, "deviceNodes"), i, v) {
		const char *type = json_string_value(json_object_get(v, "type"));
		const char *access = json_string_value(json_object_get(v, "permissions"));
		if (type && !is_one_of(type, types, BERTH_ARRAY_LEN(types)))
			return bad(a, where, "deviceNodes: a type is not one of b, c, u and p");
		if (access && strspn(access, "rwm") != strlen(access))
			return bad(a, where, "deviceNodes: permissions are not made of r, w and m");
	}
	return 0;
}

static int check_edits(const struct at *a, const char *where, const json_t *edits)
{
	static const struct member all[] = {{"env", TEXTS, false}, {"deviceNodes", OBJECTS, false},
	        {"hooks", OBJECTS, false}, {"mounts", OBJECTS, false},
	        {"additionalGids", NUMBERS, false}, {"intelRdt", OBJECT, false}};
	static const struct member node[] = {{"path", PATH, true}, {"hostPath", PATH, false},
	        {"type", TEXT, false}, {"major", NUMBER, false}, {"minor", NUMBER, false},
	        {"fileMode", NUMBER, false}, {"permissions", TEXT, false}, {"uid", NUMBER, false},
	        {"gid", NUMBER, false}};
	static const struct member mount[] = {{"hostPath", TEXT, true},
	        {"containerPath", PATH, true}, {"options", TEXTS, false}, {"type", TEXT, false}};
	static const struct member hook[] = {{"hookName", TEXT, true}, {"path", PATH, true},
	        {"args", TEXTS, false}, {"env", TEXTS, false}, {"timeout", NUMBER, false}};
	static const struct member rdt[] = {{"closID", TEXT, false}, {"l3CacheSchema", TEXT, false},
	        {"memBwSchema", TEXT, false}, {"enableCMT", BOOLEAN, false},
	        {"enableMBM", BOOLEAN, false}};

	if (!edits)
		return 0;
	if (!json_is_object(edits))
		return bad(a, where, "it is not an object");
	if (check_members(a, where, edits, all, BERTH_ARRAY_LEN(all)) < 0 ||
	        check_list(a, where, edits, "deviceNodes", node, BERTH_ARRAY_LEN(node)) < 0 ||
	        check_list(a, where, edits, "mounts", mount, BERTH_ARRAY_LEN(mount)) < 0 ||
	        check_list(a, where, edits, "hooks", hook, BERTH_ARRAY_LEN(hook)) < 0)
		return -1;
	const json_t *intel = json_object_get(edits, "intelRdt");
	_cleanup_free_ char *place = berth_asprintf("%s.intelRdt", where);
	if (intel && check_members(a, place, intel, rdt, BERTH_ARRAY_LEN(rdt)) < 0)
		return -1;
	return check_words(a, where, edits);
}

static int check_devices(const struct at *a, const json_t *spec)
{
	static const struct member members[] = {{"name", TEXT, true},
	        {"annotations", OBJECT, false}, {"containerEdits", OBJECT, true}};
	json_t *d;
	size_t i;

	json_array_foreach (json_object_get(spec, "devices"), i, d) {
		_cleanup_free_ char *place = berth_asprintf("devices[%zu]", i);
		_cleanup_free_ char *edits = berth_asprintf("%s.containerEdits", place);
		if (check_members(a, place, d, members, BERTH_ARRAY_LEN(members)) < 0 ||
		        check_edits(a, edits, json_object_get(d, "containerEdits")) < 0)
			return -1;
	}
	return 0;
}

int berth_cdi_check(const char *file, const json_t *spec, struct berth_error **ret_err)
{
	static const struct member members[] = {{"cdiVersion", TEXT, true}, {"kind", TEXT, true},
	        {"annotations", OBJECT, false}, {"devices", OBJECTS, true},
	        {"containerEdits", OBJECT, false}};
	const struct at a = {file, ret_err};

	if (!json_is_object(spec))
		return bad(&a, "the file", "it is not an object");
	if (check_members(&a, "the file", spec, members, BERTH_ARRAY_LEN(members)) < 0)
		return -1;
	const char *version = json_string_value(json_object_get(spec, "cdiVersion"));
	if (strncmp(version, "0.", 2) != 0 && strncmp(version, "1.", 2) != 0)
		return bad(&a, "cdiVersion", "it is neither 0.x nor 1.x");
	if (check_edits(&a, "containerEdits", json_object_get(spec, "containerEdits")) < 0)
		return -1;
	return check_devices(&a, spec);
}
