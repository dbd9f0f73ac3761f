#include "pull/http_certs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"

void pull_certs_finish(struct pull_certs *c)
{
	berth_buf_finish(&c->ca);
	free(berth_take(c->cert_path));
	free(berth_take(c->key_path));
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);
	return n > m && strcmp(s + n - m, end) == 0;
}

static int add_ca(struct pull_certs *c, const char *path, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	int e = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, &len);
	if (e < 0)
		return berth_error_errno(ret_err, e, "read '%s'", path);
	berth_buf_add(&c->ca, text, len);
	berth_buf_adds(&c->ca, "\n");
	return 0;
}

static int add_client(struct pull_certs *c, const char *path, struct berth_error **ret_err)
{
	if (c->cert_path)
		return 0;
	_cleanup_free_ char *key = berth_asprintf("%.*s.key", (int)strlen(path) - 5, path);
	if (access(key, R_OK) < 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "'%s' has no key beside it: '%s' is missing", path, key);
	c->cert_path = berth_strdup(path);
	c->key_path = berth_take(key);
	return 0;
}

static int add_dir(struct pull_certs *c, const char *dir, struct berth_error **ret_err)
{
	struct dirent **list;
	int result = 0, n = scandir(dir, &list, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, list[i]->d_name);
		if (result == 0 && ends_with(path, ".crt"))
			result = add_ca(c, path, ret_err);
		else if (result == 0 && ends_with(path, ".cert"))
			result = add_client(c, path, ret_err);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return result;
}

int pull_certs_find(char *const *dirs, const char *host, const char *port, bool usual,
        struct pull_certs *ret, struct berth_error **ret_err)
{
	*ret = (struct pull_certs){0};
	for (size_t i = 0; dirs && dirs[i]; i++) {
		_cleanup_free_ char *full = berth_asprintf("%s/%s:%s", dirs[i], host, port);
		_cleanup_free_ char *bare = berth_asprintf("%s/%s", dirs[i], host);
		if (add_dir(ret, full, ret_err) < 0 || (usual && add_dir(ret, bare, ret_err) < 0)) {
			pull_certs_finish(ret);
			return -1;
		}
	}
	return 0;
}
