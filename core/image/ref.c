#include "image/ref.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"

#define DEFAULT_REGISTRY "docker.io"
#define DEFAULT_TAG "latest"
#define TAG_MAX 128
#define SHA256_HEX 64

static int bad(const char *text, const char *why, struct berth_error **ret_err)
{
	return berth_error_set(
	        ret_err, BERTH_INVALID_ARGUMENT, "image reference \"%.200s\": %s", text, why);
}

static bool is_word(char c)
{
	return islower((unsigned char)c) || isdigit((unsigned char)c);
}

/* Path components: lower-case words joined by one '.', one or two '_', or any number of '-'. */
static bool component_ok(const char *s, size_t n)
{
	if (n == 0 || !is_word(s[0]) || !is_word(s[n - 1]))
		return false;
	for (size_t i = 0; i < n;) {
		if (is_word(s[i])) {
			i++;
			continue;
		}
		size_t run = strspn(s + i, "-");
		if (run == 0)
			run = strspn(s + i, "_") <= 2 ? strspn(s + i, "_") : 0;
		if (run == 0)
			run = s[i] == '.' && is_word(s[i + 1]) ? 1 : 0;
		if (run == 0)
			return false;
		i += run;
	}
	return true;
}

static bool path_ok(const char *path)
{
	for (;;) {
		size_t n = strcspn(path, "/");
		if (!component_ok(path, n))
			return false;
		if (!path[n])
			return true;
		path += n + 1;
	}
}

static bool host_ok(const char *s, size_t n)
{
	if (n == 0 || s[0] == '-' || s[0] == '.')
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!isalnum((unsigned char)s[i]) && !strchr(".-:[]", s[i]))
			return false;
	}
	return true;
}

static bool is_host(const char *s, size_t n)
{
	return memchr(s, '.', n) || memchr(s, ':', n) || (n == 9 && memcmp(s, "localhost", 9) == 0);
}

bool berth_digest_ok(const char *d)
{
	return d && strncmp(d, "sha256:", 7) == 0 && strlen(d + 7) == SHA256_HEX &&
	       strspn(d + 7, "0123456789abcdef") == SHA256_HEX;
}

static bool tag_ok(const char *t)
{
	size_t n = strlen(t);
	if (n == 0 || n > TAG_MAX || t[0] == '.' || t[0] == '-')
		return false;
	for (; *t; t++) {
		if (!isalnum((unsigned char)*t) && !strchr("_.-", *t))
			return false;
	}
	return true;
}

int berth_ref_parse(const char *text, struct berth_ref *ret, struct berth_error **ret_err)
{
	if (!*text)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "image reference is empty");
	if (strlen(text) > BERTH_LIMIT_IMAGE_REF)
		return bad(text, "too long", ret_err);
	_cleanup_free_ char *name = berth_strdup(text);
	char *digest = strchr(name, '@');
	if (digest) {
		*digest++ = '\0';
		if (!berth_digest_ok(digest))
			return bad(text, "its digest is not sha256: and 64 hex digits", ret_err);
	}
	char *slash = strrchr(name, '/');
	char *tag = strchr(slash ? slash : name, ':');
	if (tag) {
		*tag++ = '\0';
		if (!tag_ok(tag))
			return bad(text, "its tag is not well-formed", ret_err);
	}
	size_t first = strcspn(name, "/");
	bool host = name[first] == '/' && is_host(name, first);
	const char *path = host ? name + first + 1 : name;
	if (host && !host_ok(name, first))
		return bad(text, "its registry is not well-formed", ret_err);
	if (!path_ok(path))
		return bad(
		        text, "its repository must be lower-case words joined by . _ - /", ret_err);
	bool docker = !host || (first == 9 && memcmp(name, DEFAULT_REGISTRY, 9) == 0) ||
	              (first == 15 && memcmp(name, "index.docker.io", 15) == 0);
	if (docker)
		ret->repository = berth_asprintf(
		        DEFAULT_REGISTRY "/%s%s", strchr(path, '/') ? "" : "library/", path);
	else
		ret->repository = berth_strdup(name);
	ret->digest = berth_strdup(digest);
	ret->tag = berth_strdup(tag ? tag : digest ? NULL : DEFAULT_TAG);
	return 0;
}

void berth_ref_finish(struct berth_ref *r)
{
	free(r->repository);
	free(r->tag);
	free(r->digest);
	*r = (struct berth_ref){0};
}

char *berth_ref_name(const struct berth_ref *r)
{
	return r->digest ? berth_asprintf("%s@%s", r->repository, r->digest)
	                 : berth_asprintf("%s:%s", r->repository, r->tag);
}
