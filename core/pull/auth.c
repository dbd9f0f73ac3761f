#include "pull/auth.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void pull_creds_finish(struct pull_creds *c)
{
	free(berth_take(c->username));
	free(berth_take(c->password));
	free(berth_take(c->identity_token));
	free(berth_take(c->registry_token));
}

bool pull_creds_any(const struct pull_creds *c)
{
	return c->username || c->identity_token || c->registry_token;
}

static const char *text_at(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s && *s ? s : NULL;
}

/* base64 of USER:PASSWORD. */
static int decode_pair(const char *b64, struct pull_creds *ret, struct berth_error **ret_err)
{
	size_t n = strlen(b64);
	_cleanup_free_ char *raw = berth_zalloc(n + 4);

	int len = n % 4 || n > 65536 ? -1
	                             : EVP_DecodeBlock((unsigned char *)raw,
	                                       (const unsigned char *)b64, (int)n);
	/* OpenSSL counts the padding as zero bytes. */
	char *colon = len < 0 ? NULL : strchr(raw, ':');
	if (!colon)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'auth' is not the base64 form of USER:PASSWORD");
	ret->username = berth_strndup(raw, (size_t)(colon - raw));
	ret->password = berth_strdup(colon + 1);
	return 0;
}

/* Of "https://HOST/v1/" or "HOST/v1/" only the host is meant; Docker Hub has several. */
static char *bare_host(const char *s)
{
	const char *scheme = strstr(s, "://");
	if (scheme)
		s = scheme + 3;
	char *host = berth_strndup(s, strcspn(s, "/"));
	if (strcmp(host, "index.docker.io") == 0 || strcmp(host, "registry-1.docker.io") == 0) {
		free(host);
		return berth_strdup("docker.io");
	}
	return host;
}

static bool same_host(const char *a, const char *b)
{
	_cleanup_free_ char *x = bare_host(a), *y = bare_host(b);
	return strcmp(x, y) == 0;
}

static int take_creds(const json_t *o, const char *identity, const char *registry,
        struct pull_creds *ret, struct berth_error **ret_err)
{
	const char *user = text_at(o, "username"), *pair = text_at(o, "auth");

	ret->identity_token = berth_strdup(text_at(o, identity));
	ret->registry_token = berth_strdup(text_at(o, registry));
	if (user) {
		const char *password = text_at(o, "password");
		ret->username = berth_strdup(user);
		ret->password = berth_strdup(password ? password : "");
	} else if (pair) {
		return decode_pair(pair, ret, ret_err);
	}
	return 0;
}

int pull_auth_of_request(const json_t *auth, const char *host, bool mirror, struct pull_creds *ret,
        struct berth_error **ret_err)
{
	const char *server = text_at(auth, "server_address");

	if (server ? !same_host(server, host) : mirror)
		return 0;
	if (take_creds(auth, "identity_token", "registry_token", ret, ret_err) < 0) {
		pull_creds_finish(ret);
		return berth_error_wrap(ret_err, "the request's credentials");
	}
	return 0;
}

/* A key with a scheme is an old form of its host. */
static const json_t *entry_of(const json_t *auths, const char *key)
{
	const json_t *v = json_object_get(auths, key);
	json_t *value;
	const char *k;

	if (v || strchr(key, '/'))
		return v;
	json_object_foreach ((json_t *)auths, k, value) {
		bool old_form = strstr(k, "://") || strcmp(key, "docker.io") == 0;
		if (old_form && same_host(k, key) && (strstr(k, "://") || !strchr(k, '/')))
			return value;
	}
	return NULL;
}

static int search(const json_t *auths, const char *host, const char *path, struct pull_creds *ret,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *key = berth_asprintf("%s/%s", host, path);

	for (;;) {
		const json_t *e = entry_of(auths, key);
		if (e && take_creds(e, "identitytoken", "registrytoken", ret, ret_err) < 0) {
			pull_creds_finish(ret);
			return berth_error_wrap(ret_err, "'%s'", key);
		}
		if (pull_creds_any(ret))
			return 0;
		char *slash = strrchr(key, '/');
		if (!slash)
			return 0;
		*slash = '\0';
	}
}

int pull_auth_of_file(const char *text, size_t len, const char *host, const char *path,
        struct pull_creds *ret, struct berth_error **ret_err)
{
	json_error_t je;
	json_t *root = json_loadb(text, len, 0, &je);

	if (!root)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "it is no JSON: line %d: %s", je.line, je.text);
	int r = search(json_object_get(root, "auths"), host, path, ret, ret_err);
	json_decref(root);
	return r;
}
