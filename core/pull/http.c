#include "pull/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/fd.h"
#include "base/limits.h"
#include "berth-config.h"
#include "pull/http_certs.h"
#include "pull/ref.h"

enum { CONNECT_MS = 15000, RECEIVE_BUFFER = 512 * 1024 };

struct pull_http {
	const struct pull_http_config *c;
	CURL *curl;
	/* of the host that the handle was last set up for */
	char *host;
	struct pull_certs certs;
	char *ca;
};

struct exchange {
	const struct pull_http *h;
	const struct pull_http_request *r;
	struct pull_http_answer *a;
	uint64_t active_ns; /* the last byte, or the end of what was done with it */
	size_t header_bytes;
	bool started, ended, stalled;
};

int pull_http_global_init(struct berth_error **ret_err)
{
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
		return berth_error_set(ret_err, BERTH_INTERNAL, "libcurl does not start");
	return 0;
}

void pull_http_global_finish(void)
{
	curl_global_cleanup();
}

struct pull_http *pull_http_new(const struct pull_http_config *c)
{
	struct pull_http *h = berth_new(struct pull_http);
	h->c = c;
	h->curl = curl_easy_init();
	if (!h->curl)
		abort();
	return h;
}

struct pull_http *pull_http_free(struct pull_http *h)
{
	if (!h)
		return NULL;
	curl_easy_cleanup(h->curl);
	pull_certs_finish(&h->certs);
	free(h->host);
	free(h->ca);
	free(h);
	return NULL;
}

void pull_http_answer_finish(struct pull_http_answer *a)
{
	free(a->content_type);
	free(a->location);
	free(a->etag);
	free(a->content_range);
	berth_strv_free(a->challenges);
	berth_buf_finish(&a->body);
	*a = (struct pull_http_answer){0};
}

static uint64_t parse_retry_after(const char *v)
{
	if (isdigit((unsigned char)*v))
		return strtoull(v, NULL, 10) * 1000;
	time_t at = curl_getdate(v, NULL), now = time(NULL);
	return at > now ? (uint64_t)(at - now) * 1000 : 0;
}

static void take_header(struct pull_http_answer *a, const char *name, char *value)
{
	struct {
		const char *name;
		char **at;
	} known[] = {{"content-type", &a->content_type}, {"location", &a->location},
	        {"etag", &a->etag}, {"content-range", &a->content_range}};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(known); i++)
		if (strcasecmp(name, known[i].name) == 0) {
			free(*known[i].at);
			*known[i].at = berth_strdup(value);
		}
	if (strcasecmp(name, "www-authenticate") == 0)
		a->challenges = berth_strv_append(a->challenges, value);
	if (strcasecmp(name, "retry-after") == 0)
		a->retry_after_ms = parse_retry_after(value);
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * n;

	x->active_ns = berth_now_ns();
	x->header_bytes += len;
	if (x->header_bytes > BERTH_LIMIT_HTTP_HEADERS)
		return 0;
	_cleanup_free_ char *line = berth_strndup(p, len);
	if (strncmp(line, "HTTP/", 5) == 0) { /* of a 1xx or a proxy's answer nothing stays */
		pull_http_answer_finish(x->a);
		return len;
	}
	char *value = strchr(line, ':');
	if (!value)
		return len;
	*value++ = '\0';
	value += strspn(value, " \t");
	for (size_t end = strlen(value); end > 0 && isspace((unsigned char)value[end - 1]);)
		value[--end] = '\0';
	take_header(x->a, line, value);
	return len;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * n;

	if (x->a->status == 0)
		curl_easy_getinfo(x->h->curl, CURLINFO_RESPONSE_CODE, &x->a->status);
	if (x->r->body && (x->a->status == 200 || x->a->status == 206)) {
		x->ended = x->r->body(x->r->arg, x->a, !x->started, p, len) < 0;
		x->started = true;
		x->active_ns = berth_now_ns();
		return x->ended ? 0 : len;
	}
	x->active_ns = berth_now_ns();
	size_t room = x->r->max_body - x->a->body.len;
	x->a->body_cut |= len > room;
	berth_buf_add(&x->a->body, p, len < room ? len : room);
	return len;
}

/* curl's own low-speed limit would count the time that the body's receiver takes. */
static int on_progress(
        void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal, curl_off_t ulnow)
{
	struct exchange *x = arg;
	x->stalled = berth_now_ns() - x->active_ns > x->h->c->stall_ms * 1000000ull;
	return x->stalled;
}

/* CAs of certs.d are added to the system's, not put in their place. */
static void join_cas(struct pull_http *h)
{
	char *system = NULL;
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	free(berth_take(h->ca));
	if (h->certs.ca.len == 0)
		return;
	curl_easy_getinfo(h->curl, CURLINFO_CAINFO, &system);
	if (system && berth_read_file(AT_FDCWD, system, BERTH_MIB(4), &text, &len) == 0)
		berth_buf_adds(&h->certs.ca, text);
	h->ca = berth_strdup(h->certs.ca.data);
}

struct origin {
	char *scheme, *host, *port;
};

static int use_host(struct pull_http *h, const struct origin *o, struct berth_error **ret_err)
{
	_cleanup_free_ char *host = berth_asprintf("%s:%s", o->host, o->port);
	bool usual = strcmp(o->port, strcmp(o->scheme, "https") == 0 ? "443" : "80") == 0;

	if (h->host && strcmp(h->host, host) == 0)
		return 0;
	pull_certs_finish(&h->certs);
	free(berth_take(h->host));
	if (pull_certs_find(h->c->certs_dirs, o->host, o->port, usual, &h->certs, ret_err) < 0)
		return -1;
	h->host = berth_take(host);
	join_cas(h);
	return 0;
}

static void set_up(struct pull_http *h, const struct pull_http_request *r, const char *url,
        struct curl_slist *headers, struct exchange *x)
{
	CURL *c = h->curl;

	curl_easy_reset(c); /* keeps connections and sessions */
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "berth/" BERTH_VERSION);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
	curl_easy_setopt(c, CURLOPT_BUFFERSIZE, (long)RECEIVE_BUFFER);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(c, CURLOPT_XFERINFODATA, x);
	curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
	if (r->form)
		curl_easy_setopt(c, CURLOPT_POSTFIELDS, r->form);
	if (r->insecure) {
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (h->ca) {
		struct curl_blob blob = {h->ca, strlen(h->ca), CURL_BLOB_NOCOPY};
		curl_easy_setopt(c, CURLOPT_CAINFO_BLOB, &blob);
	}
	if (h->certs.cert_path) {
		curl_easy_setopt(c, CURLOPT_SSLCERT, h->certs.cert_path);
		curl_easy_setopt(c, CURLOPT_SSLKEY, h->certs.key_path);
	}
}

static enum pull_http_fault fault_of(CURLcode code, const struct exchange *x)
{
	if (x->ended)
		return PULL_HTTP_ENDED;
	switch ((int)code) {
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
		return PULL_HTTP_CONNECT;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
		return PULL_HTTP_TLS;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		return PULL_HTTP_REFUSED;
	default:
		return PULL_HTTP_BROKEN;
	}
}

static int run_once(struct pull_http *h, const struct pull_http_request *r, const char *url,
        bool local, bool with_auth, struct pull_http_answer *a, enum pull_http_fault *fault,
        struct berth_error **ret_err)
{
	struct exchange x = {.h = h, .r = r, .a = a, .active_ns = berth_now_ns()};
	struct curl_slist *headers = NULL;
	char text[CURL_ERROR_SIZE] = "";

	for (size_t i = 0; r->headers && r->headers[i]; i++)
		headers = curl_slist_append(headers, r->headers[i]);
	if (with_auth && r->authorization) {
		_cleanup_free_ char *line = berth_asprintf("Authorization: %s", r->authorization);
		headers = curl_slist_append(headers, line);
	}
	set_up(h, r, url, headers, &x);
	if (local)
		curl_easy_setopt(h->curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, text);
	CURLcode code = curl_easy_perform(h->curl);
	curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, NULL);
	curl_slist_free_all(headers);
	curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &a->status);
	if (code == CURLE_OK)
		return 0;
	*fault = fault_of(code, &x);
	const char *why = x.stalled ? "no data came any more"
	                  : *text   ? text
	                            : curl_easy_strerror(code);
	return berth_error_set(ret_err,
	        *fault == PULL_HTTP_ENDED ? BERTH_CANCELLED : BERTH_UNAVAILABLE, "%s: %s", url,
	        why);
}

static void origin_finish(struct origin *o)
{
	curl_free(o->scheme);
	curl_free(o->host);
	curl_free(o->port);
}

static int origin_of(const char *url, struct origin *ret)
{
	CURLU *u = curl_url();
	int r = -1;

	*ret = (struct origin){0};
	if (curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
	        curl_url_get(u, CURLUPART_SCHEME, &ret->scheme, 0) == CURLUE_OK &&
	        curl_url_get(u, CURLUPART_HOST, &ret->host, 0) == CURLUE_OK &&
	        curl_url_get(u, CURLUPART_PORT, &ret->port, CURLU_DEFAULT_PORT) == CURLUE_OK)
		r = 0;
	curl_url_cleanup(u);
	return r;
}

static char *resolve(const char *base, const char *location)
{
	CURLU *u = curl_url();
	char *out = NULL, *copy = NULL;

	if (curl_url_set(u, CURLUPART_URL, base, 0) == CURLUE_OK &&
	        curl_url_set(u, CURLUPART_URL, location, 0) == CURLUE_OK &&
	        curl_url_get(u, CURLUPART_URL, &out, 0) == CURLUE_OK)
		copy = berth_strdup(out);
	curl_free(out);
	curl_url_cleanup(u);
	return copy;
}

static bool is_redirect(const struct pull_http_answer *a)
{
	return (a->status == 301 || a->status == 302 || a->status == 303 || a->status == 307 ||
	               a->status == 308) &&
	       a->location;
}

int pull_http_run(struct pull_http *h, const struct pull_http_request *r,
        struct pull_http_answer *ret, enum pull_http_fault *ret_fault, struct berth_error **ret_err)
{
	_cleanup_(origin_finish) struct origin first = {0};
	_cleanup_free_ char *url = berth_strdup(r->url);

	*ret = (struct pull_http_answer){0};
	*ret_fault = PULL_HTTP_REFUSED;
	if (origin_of(url, &first) < 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "'%.200s' is no URL", url);
	for (int hop = 0;; hop++) {
		_cleanup_(origin_finish) struct origin o = {0};
		if (origin_of(url, &o) < 0 ||
		        (strcmp(o.scheme, "https") && strcmp(o.scheme, "http")))
			return berth_error_set(ret_err, BERTH_UNAVAILABLE,
			        "%s redirects to '%.200s', which is no http URL", r->url, url);
		if (!r->insecure && strcmp(first.scheme, "https") == 0 &&
		        strcmp(o.scheme, "https") != 0)
			return berth_error_set(ret_err, BERTH_PERMISSION_DENIED,
			        "%s redirects to '%.200s' without TLS", r->url, url);
		bool same = strcmp(first.host, o.host) == 0 && strcmp(first.port, o.port) == 0 &&
		            strcmp(first.scheme, o.scheme) == 0;
		pull_http_answer_finish(ret);
		if (use_host(h, &o, ret_err) < 0 ||
		        run_once(h, r, url, pull_host_is_loopback(o.host), same, ret, ret_fault,
		                ret_err) < 0)
			return -1;
		if (!is_redirect(ret) || r->form) { /* a secret is sent once */
			*ret_fault = PULL_HTTP_NONE;
			return 0;
		}
		if (hop == BERTH_LIMIT_HTTP_REDIRECTS)
			return berth_error_set(ret_err, BERTH_UNAVAILABLE,
			        "%s: more than %d redirects", r->url, BERTH_LIMIT_HTTP_REDIRECTS);
		char *next = resolve(url, ret->location);
		if (!next)
			return berth_error_set(ret_err, BERTH_UNAVAILABLE,
			        "%s redirects to '%.200s', which is no URL", r->url, ret->location);
		free(url);
		url = next;
		*ret_fault = PULL_HTTP_REFUSED;
	}
}
