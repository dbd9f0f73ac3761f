#include "pull/token.h"

#include <ctype.h>
#include <curl/curl.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct pull_token {
	pthread_mutex_t lock;
	struct pull_creds creds;
	char *path;
	bool insecure;
	char *header;
	unsigned int generation;
};

struct pull_token *pull_token_new(struct pull_creds *creds, const char *path, bool insecure)
{
	struct pull_token *t = berth_new(struct pull_token);
	pthread_mutex_init(&t->lock, NULL);
	t->creds = *creds;
	*creds = (struct pull_creds){0};
	t->path = berth_strdup(path);
	t->insecure = insecure;
	return t;
}

struct pull_token *pull_token_free(struct pull_token *t)
{
	if (!t)
		return NULL;
	pull_creds_finish(&t->creds);
	free(t->path);
	free(t->header);
	pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

char *pull_token_header(struct pull_token *t, unsigned int *ret_generation)
{
	pthread_mutex_lock(&t->lock);
	char *h = berth_strdup(t->header);
	*ret_generation = t->generation;
	pthread_mutex_unlock(&t->lock);
	return h;
}

char *pull_challenge_scheme(const char *c)
{
	char *s = berth_strndup(c, strcspn(c, " \t"));
	for (char *p = s; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return s;
}

/* token or quoted-string, RFC 9110 */
static const char *read_value(const char *p, struct berth_buf *b)
{
	if (*p != '"') {
		size_t n = strcspn(p, ", \t");
		berth_buf_add(b, p, n);
		return p + n;
	}
	for (p++; *p && *p != '"'; p++) {
		if (*p == '\\' && p[1])
			p++;
		berth_buf_add(b, p, 1);
	}
	return *p ? p + 1 : p;
}

char *pull_challenge_param(const char *c, const char *name)
{
	const char *p = c + strcspn(c, " \t");

	for (;;) {
		struct berth_buf b = {0};
		p += strspn(p, " \t,");
		size_t n = strcspn(p, "= \t,");
		const char *key = p;
		p += n;
		p += strspn(p, " \t");
		if (*p != '=') {
			if (!*p)
				return NULL;
			continue;
		}
		p++;
		p += strspn(p, " \t");
		p = read_value(p, &b);
		if (strlen(name) == n && strncasecmp(key, name, n) == 0)
			return berth_buf_steal(&b);
		berth_buf_finish(&b);
	}
}

static void set_header(struct pull_token *t, char *header)
{
	free(t->header);
	t->header = header;
	t->generation++;
}

static char *basic(const struct pull_creds *c)
{
	_cleanup_free_ char *pair = berth_asprintf("%s:%s", c->username, c->password);
	size_t n = strlen(pair);
	_cleanup_free_ char *b64 = berth_zalloc(4 * (n / 3 + 1) + 1);
	EVP_EncodeBlock((unsigned char *)b64, (const unsigned char *)pair, (int)n);
	return berth_asprintf("Basic %s", b64);
}

static void add_param(struct berth_buf *b, char first, const char *name, const char *value)
{
	if (!value)
		return;
	char *escaped = curl_easy_escape(NULL, value, 0);
	berth_buf_addf(b, "%c%s=%s", first, name, escaped ? escaped : "");
	curl_free(escaped);
}

static int read_token(const struct pull_http_answer *a, const char *realm, char **ret,
        struct berth_error **ret_err)
{
	json_error_t je;

	if (a->status == 401 || a->status == 403 || a->status == 400)
		return berth_error_set(ret_err, BERTH_UNAUTHENTICATED,
		        "the token server %s refused the credentials (status %ld)", realm,
		        a->status);
	if (a->status == 429 || a->status >= 500)
		return berth_error_set(ret_err, BERTH_UNAVAILABLE,
		        "the token server %s answers with status %ld", realm, a->status);
	if (a->status != 200)
		return berth_error_set(ret_err, BERTH_UNAUTHENTICATED,
		        "the token server %s answers with status %ld", realm, a->status);
	json_t *doc = a->body_cut
	                      ? NULL
	                      : json_loadb(a->body.data ? a->body.data : "", a->body.len, 0, &je);
	const char *token = json_string_value(json_object_get(doc, "token"));
	if (!token || !*token)
		token = json_string_value(json_object_get(doc, "access_token"));
	int r = 0;
	/* What would break the header is no token. */
	if (!token || !*token || strpbrk(token, "\r\n"))
		r = berth_error_set(
		        ret_err, BERTH_UNAUTHENTICATED, "the token server %s sent no token", realm);
	else
		*ret = berth_asprintf("Bearer %s", token);
	json_decref(doc);
	return r;
}

static int ask_server(struct pull_token *t, struct pull_http *h, const char *realm,
        const char *service, const char *scope, struct berth_error **ret_err)
{
	const struct pull_creds *c = &t->creds;
	struct berth_buf q = {0};
	struct pull_http_answer a;
	enum pull_http_fault fault;
	bool refresh = c->identity_token != NULL;

	if (refresh)
		berth_buf_adds(&q, "grant_type=refresh_token&client_id=berth");
	else
		berth_buf_addf(&q, "%s%cclient_id=berth", realm, strchr(realm, '?') ? '&' : '?');
	add_param(&q, '&', "service", service);
	add_param(&q, '&', "scope", scope);
	add_param(&q, '&', "refresh_token", refresh ? c->identity_token : NULL);
	add_param(&q, '&', "account", refresh ? NULL : c->username);
	_cleanup_free_ char *text = berth_buf_steal(&q);
	_cleanup_free_ char *authorization = !refresh && c->username ? basic(c) : NULL;
	struct pull_http_request r = {.url = refresh ? realm : text,
	        .form = refresh ? text : NULL,
	        .authorization = authorization,
	        .insecure = t->insecure,
	        .max_body = BERTH_LIMIT_TOKEN};
	char *header = NULL;
	int result = pull_http_run(h, &r, &a, &fault, ret_err);
	if (result < 0)
		berth_error_wrap(ret_err, "ask for a token");
	else
		result = read_token(&a, realm, &header, ret_err);
	pull_http_answer_finish(&a);
	if (result == 0)
		set_header(t, header);
	return result;
}

static int bearer(struct pull_token *t, struct pull_http *h, const char *challenge,
        struct berth_error **ret_err)
{
	if (t->creds.registry_token) {
		if (t->header)
			return berth_error_set(ret_err, BERTH_UNAUTHENTICATED,
			        "the registry refused the registry token");
		set_header(t, berth_asprintf("Bearer %s", t->creds.registry_token));
		return 0;
	}
	_cleanup_free_ char *realm = pull_challenge_param(challenge, "realm");
	_cleanup_free_ char *service = pull_challenge_param(challenge, "service");
	_cleanup_free_ char *scope = pull_challenge_param(challenge, "scope");
	if (!realm)
		return berth_error_set(
		        ret_err, BERTH_UNAUTHENTICATED, "the registry names no token server");
	if (!t->insecure && strncasecmp(realm, "https://", 8) != 0 && pull_creds_any(&t->creds))
		return berth_error_set(ret_err, BERTH_UNAUTHENTICATED,
		        "the token server '%.200s' has no TLS: credentials are not sent to it",
		        realm);
	if (!scope)
		scope = berth_asprintf("repository:%s:pull", t->path);
	return ask_server(t, h, realm, service, scope, ret_err);
}

static int answer(struct pull_token *t, struct pull_http *h, char *const *challenges,
        struct berth_error **ret_err)
{
	bool has_basic = false;

	for (size_t i = 0; challenges && challenges[i]; i++) {
		_cleanup_free_ char *scheme = pull_challenge_scheme(challenges[i]);
		if (strcmp(scheme, "bearer") == 0)
			return bearer(t, h, challenges[i], ret_err);
		has_basic |= strcmp(scheme, "basic") == 0;
	}
	if (!has_basic)
		return berth_error_set(ret_err, BERTH_UNAUTHENTICATED,
		        "the registry wants an authentication that is not supported");
	if (!t->creds.username)
		return berth_error_set(
		        ret_err, BERTH_UNAUTHENTICATED, "the registry wants a user and password");
	if (t->header)
		return berth_error_set(
		        ret_err, BERTH_UNAUTHENTICATED, "the registry refused user and password");
	set_header(t, basic(&t->creds));
	return 0;
}

int pull_token_renew(struct pull_token *t, struct pull_http *h, char *const *challenges,
        unsigned int generation, struct berth_error **ret_err)
{
	pthread_mutex_lock(&t->lock);
	int r = generation != t->generation ? 0 : answer(t, h, challenges, ret_err);
	pthread_mutex_unlock(&t->lock);
	return r;
}
