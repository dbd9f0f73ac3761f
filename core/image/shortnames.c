#include "image/shortnames.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/ref.h"
#include "pull/ref.h"
#include "pull/registries.h"

struct berth_shortnames {
	struct pull_registries *conf;
};

int berth_shortnames_load(
        const char *path, struct berth_shortnames **ret, struct berth_error **ret_err)
{
	struct pull_registries *conf = NULL;
	if (pull_registries_load(path, &conf, ret_err) < 0)
		return -1;
	*ret = berth_new(struct berth_shortnames);
	(*ret)->conf = conf;
	return 0;
}

struct berth_shortnames *berth_shortnames_free(struct berth_shortnames *s)
{
	if (s)
		pull_registries_free(s->conf);
	free(s);
	return NULL;
}

static char **expand(const struct berth_shortnames *s, const char *text, const char *path,
        bool local, struct berth_error **ret_err)
{
	const char *alias = pull_registries_alias(s->conf, path);
	char *const *search = pull_registries_search(s->conf);
	char **v = NULL;

	if (alias) {
		_cleanup_free_ char *whole = berth_asprintf("%s%s", alias, text + strlen(path));
		return berth_strv_append(v, whole);
	}
	if (!local && search && search[0] && search[1] && pull_registries_enforcing(s->conf)) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "image reference \"%.200s\" names no registry, several are configured for "
		        "such names, and short-name-mode is enforcing: an alias is needed",
		        text);
		return NULL;
	}
	for (; search && *search; search++) {
		_cleanup_free_ char *whole = berth_asprintf("%s/%s", *search, text);
		v = berth_strv_append(v, whole);
	}
	return v && !local ? v : berth_strv_append(v, text);
}

char **berth_shortnames_of(const struct berth_shortnames *s, const char *text, bool local,
        struct berth_error **ret_err)
{
	_cleanup_(pull_ref_finish) struct pull_ref parts = {0};
	struct berth_ref ref = {0};

	if (berth_ref_parse(text, &ref, ret_err) < 0)
		return NULL;
	berth_ref_finish(&ref);
	if (!s || pull_ref_parse(text, &parts, ret_err) < 0 || *parts.host)
		return *ret_err ? NULL : berth_strv_append(NULL, text);
	return expand(s, text, parts.path, local, ret_err);
}
