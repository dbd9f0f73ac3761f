#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/build.h"

bool spec_is_set(const char *s)
{
	return s && s[0];
}

json_t *spec_string(const char *field, const char *s, size_t max, struct berth_error **ret_err)
{
	if (strnlen(s, max + 1) > max) {
		(void)berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "%s: longer than %zu bytes", field, max);
		return NULL;
	}
	json_t *v = json_string(s);
	if (!v)
		(void)berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: not UTF-8, which config.json cannot carry", field);
	return v;
}

int spec_set(json_t *obj, const char *key, const char *field, const char *s, size_t max,
        struct berth_error **ret_err)
{
	json_t *v = spec_string(field, s, max, ret_err);
	if (!v)
		return -1;
	json_object_set_new(obj, key, v);
	return 0;
}

json_t *spec_paths(const char *field, char *const *paths, size_t n, struct berth_error **ret_err)
{
	json_t *list = json_array();

	if (n > BERTH_LIMIT_SPEC_MOUNTS) {
		(void)berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s: more than %d paths",
		        field, BERTH_LIMIT_SPEC_MOUNTS);
		goto fail;
	}
	for (size_t i = 0; i < n; i++) {
		if (paths[i][0] != '/') {
			(void)berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s[%zu]: \"%.256s\" is not an absolute path", field, i, paths[i]);
			goto fail;
		}
		json_t *v = spec_string(field, paths[i], BERTH_LIMIT_SPEC_PATH, ret_err);
		if (!v)
			goto fail;
		json_array_append_new(list, v);
	}
	return list;
fail:
	json_decref(list);
	return NULL;
}

char *spec_clean_path(const char *path)
{
	char *out = berth_zalloc(strlen(path) + 2);
	size_t n = 0;

	for (const char *p = path; *p;) {
		size_t len = strcspn(p, "/");
		if (len == 2 && p[0] == '.' && p[1] == '.') {
			while (n && out[--n] != '/')
				;
		} else if (len && !(len == 1 && p[0] == '.')) {
			out[n++] = '/';
			memcpy(out + n, p, len);
			n += len;
		}
		p += len;
		p += *p == '/';
	}
	if (!n)
		out[n++] = '/';
	out[n] = '\0';
	return out;
}
