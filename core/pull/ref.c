#include "pull/ref.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"

#define SHA256 "sha256:"

bool pull_digest_valid(const char *s)
{
	size_t n = sizeof(SHA256) - 1;
	return s && strncmp(s, SHA256, n) == 0 && strlen(s) == PULL_DIGEST_SIZE - 1 &&
	       strspn(s + n, "0123456789abcdef") == 64;
}

void pull_ref_finish(struct pull_ref *r)
{
	free(berth_take(r->host));
	free(berth_take(r->path));
	free(berth_take(r->tag));
	free(berth_take(r->digest));
}

/* What stands before the first slash is a host where it looks like one, as everywhere. */
static bool is_host(const char *s, size_t n)
{
	return (n == 9 && memcmp(s, "localhost", 9) == 0) || memchr(s, '.', n) || memchr(s, ':', n);
}

static bool all_of(const char *s, const char *more)
{
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr(more, *s))
			return false;
	return true;
}

/* Nothing that could change the meaning of a URL. */
static bool path_ok(const char *s)
{
	if (!*s || *s == '/' || s[strlen(s) - 1] == '/' || strstr(s, "//") || strstr(s, ".."))
		return false;
	for (const char *c = s; *c; c++)
		if (isupper((unsigned char)*c))
			return false;
	return all_of(s, "._-/");
}

static int bad(const char *text, struct pull_ref *r, struct berth_error **ret_err)
{
	pull_ref_finish(r);
	return berth_error_set(
	        ret_err, BERTH_INVALID_ARGUMENT, "'%.200s' is no image reference", text);
}

int pull_ref_parse(const char *text, struct pull_ref *ret, struct berth_error **ret_err)
{
	struct pull_ref r = {0};

	if (strlen(text) > BERTH_LIMIT_IMAGE_REF)
		return bad(text, &r, ret_err);
	_cleanup_free_ char *copy = berth_strdup(text);
	char *at = strchr(copy, '@');
	if (at) {
		*at = '\0';
		r.digest = berth_strdup(at + 1);
		if (!pull_digest_valid(r.digest))
			return bad(text, &r, ret_err);
	}
	char *slash = strchr(copy, '/'), *last = strrchr(copy, '/');
	char *colon = strchr(last ? last : copy, ':');
	if (colon) {
		*colon = '\0';
		r.tag = berth_strdup(colon + 1);
		if (!*r.tag || strlen(r.tag) > 128 || !all_of(r.tag, "_.-") || *r.tag == '.' ||
		        *r.tag == '-')
			return bad(text, &r, ret_err);
	}
	bool host = slash && is_host(copy, (size_t)(slash - copy));
	r.host = berth_strndup(copy, host ? (size_t)(slash - copy) : 0);
	r.path = berth_strdup(host ? slash + 1 : copy);
	if (!path_ok(r.path) || !all_of(r.host, ".-:[]_") || (host && !*r.host))
		return bad(text, &r, ret_err);
	if (!r.tag && !r.digest)
		r.tag = berth_strdup("latest");
	*ret = r;
	return 0;
}

char *pull_ref_name(const struct pull_ref *r)
{
	return berth_asprintf("%s%s%s", r->host, *r->host ? "/" : "", r->path);
}

bool pull_host_is_loopback(const char *host)
{
	size_t n = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");

	if (strlen(host) < n)
		return false;
	if ((n == 9 && strncmp(host, "localhost", 9) == 0) ||
	        (n == 5 && !strncmp(host, "[::1]", 5)))
		return true;
	if (strncmp(host, "127.", 4) != 0)
		return false;
	/* A name such as 127.example.com is not meant. */
	return strspn(host, "0123456789.") == n;
}
