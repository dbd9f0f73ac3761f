#include "pull/endpoint.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum {
	TRIES = 5,
	TRIES_HURRY = 2,
	TRIES_CONNECT = 3,
	PAUSE_MS = 250,
	PAUSE_MAX_MS = 10000,
	RETRY_AFTER_MAX_MS = 60000
};
/* A try that brought so much counts as a success: the next failure is a first one again. */
#define PROGRESS_BYTES (64 * 1024)

struct pull_endpoint {
	struct pull_place_of place;
	char *name, *api_host;
	struct pull_token *token;
	atomic_int plain; /* 1: it speaks HTTP without TLS */
	atomic_int down;  /* -1: not known yet */
};

struct pull_endpoint *pull_endpoint_new(struct pull_place_of *place, struct pull_creds *creds)
{
	struct pull_endpoint *e = berth_new(struct pull_endpoint);
	e->place = *place;
	*place = (struct pull_place_of){0};
	e->place.insecure |= pull_host_is_loopback(e->place.host);
	e->name = berth_asprintf("%s/%s", e->place.host, e->place.path);
	bool hub = strcmp(e->place.host, "docker.io") == 0;
	e->api_host = berth_strdup(hub ? "registry-1.docker.io" : e->place.host);
	e->down = -1;
	e->token = pull_token_new(creds, e->place.path, e->place.insecure);
	return e;
}

struct pull_endpoint *pull_endpoint_free(struct pull_endpoint *e)
{
	if (!e)
		return NULL;
	pull_token_free(e->token);
	free(e->place.host);
	free(e->place.path);
	free(e->name);
	free(e->api_host);
	free(e);
	return NULL;
}

const char *pull_endpoint_name(const struct pull_endpoint *e)
{
	return e->name;
}

const char *pull_endpoint_host(const struct pull_endpoint *e)
{
	return e->place.host;
}

bool pull_endpoint_is_down(const struct pull_endpoint *e)
{
	return atomic_load(&e->down) == 1;
}

bool pull_endpoint_set_down(struct pull_endpoint *e, bool down)
{
	return atomic_exchange(&e->down, down) != down;
}

/* What the registry says about itself: {"errors":[{"code","message"}]}. */
static char *reason(const struct pull_http_answer *a)
{
	json_error_t je;
	json_t *doc = a->body.len ? json_loadb(a->body.data, a->body.len, 0, &je) : NULL;
	json_t *first = json_array_get(json_object_get(doc, "errors"), 0);
	const char *code = json_string_value(json_object_get(first, "code"));
	const char *msg = json_string_value(json_object_get(first, "message"));
	char *text = berth_asprintf("status %ld%s%.100s%s%.300s", a->status, code ? ", " : "",
	        code ? code : "", msg ? ": " : "", msg ? msg : "");
	json_decref(doc);
	return text;
}

static bool may_pass(long status)
{
	return status == 408 || status == 429 || status >= 500;
}

static enum berth_code code_of(long status)
{
	if (may_pass(status))
		return BERTH_UNAVAILABLE;
	switch (status) {
	case 401:
		return BERTH_UNAUTHENTICATED;
	case 403:
		return BERTH_PERMISSION_DENIED;
	case 404:
		return BERTH_NOT_FOUND;
	case 416:
		return BERTH_DATA_LOSS; /* the blob is shorter than the manifest says */
	default:
		return BERTH_UNKNOWN;
	}
}

static void pause_ms(uint64_t ms)
{
	struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
	nanosleep(&t, NULL);
}

/* Twice as long each time, and between half and all of it, so that many hosts do not come back at
 * once. What the server asks for is a lower bound. */
static void wait_before(unsigned int try, uint64_t retry_after_ms)
{
	uint64_t ms = (uint64_t)PAUSE_MS << (try < 10 ? try : 10);
	uint32_t dice = 0;

	if (ms > PAUSE_MAX_MS)
		ms = PAUSE_MAX_MS;
	if (getrandom(&dice, sizeof(dice), 0) != sizeof(dice))
		dice = 0;
	ms = ms / 2 + dice % (ms / 2 + 1);
	if (retry_after_ms > RETRY_AFTER_MAX_MS)
		retry_after_ms = RETRY_AFTER_MAX_MS;
	pause_ms(retry_after_ms > ms ? retry_after_ms : ms);
}

/* Headers of one try. If-Range wants a strong validator; without one the digest finds a change. */
static char **headers_of(const struct pull_ask *ask, const char *etag)
{
	char **v = NULL;

	if (ask->accept) {
		_cleanup_free_ char *line = berth_asprintf("Accept: %s", ask->accept);
		v = berth_strv_append(v, line);
	}
	if (ask->done && *ask->done > 0) {
		_cleanup_free_ char *line =
		        berth_asprintf("Range: bytes=%llu-", (unsigned long long)*ask->done);
		v = berth_strv_append(v, line);
		if (etag && *etag == '"') {
			_cleanup_free_ char *cond = berth_asprintf("If-Range: %s", etag);
			v = berth_strv_append(v, cond);
		}
	}
	return v;
}

struct attempt {
	struct pull_endpoint *e;
	struct pull_http *h;
	const struct pull_ask *ask;
	char *etag;
	unsigned int challenged; /* in a row */
	unsigned int tries, max_tries;
};

enum next { NEXT_DONE, NEXT_FAIL, NEXT_AT_ONCE, NEXT_LATER };

static enum next after_fault(
        struct attempt *at, enum pull_http_fault fault, struct berth_error **err)
{
	struct pull_endpoint *e = at->e;

	switch (fault) {
	case PULL_HTTP_TLS:
	case PULL_HTTP_CONNECT:
		/* With and without TLS by turns: both may be down, and come up again. */
		if (e->place.insecure && !atomic_fetch_xor(&e->plain, 1)) {
			berth_error_freep(err);
			return NEXT_AT_ONCE;
		}
		if (at->max_tries > TRIES_CONNECT)
			at->max_tries = TRIES_CONNECT;
		return fault == PULL_HTTP_TLS ? NEXT_FAIL : NEXT_LATER;
	case PULL_HTTP_BROKEN:
		return at->ask->done && at->ask->size && *at->ask->done >= at->ask->size
		               ? NEXT_DONE
		               : NEXT_LATER;
	case PULL_HTTP_ENDED:
	case PULL_HTTP_REFUSED:
	case PULL_HTTP_NONE:
		break;
	}
	return NEXT_FAIL;
}

static enum next after_answer(struct attempt *at, const struct pull_http_answer *a,
        unsigned int generation, struct berth_error **err)
{
	if (a->etag && *a->etag == '"' && a->status == 200) {
		free(at->etag);
		at->etag = berth_strdup(a->etag);
	}
	if (a->status == 200 || a->status == 206) {
		at->challenged = 0;
		if (!at->ask->done || !at->ask->size || *at->ask->done >= at->ask->size)
			return NEXT_DONE;
		berth_error_set(err, BERTH_UNAVAILABLE, "%s/%s: it ended after %llu of %llu bytes",
		        at->e->name, at->ask->what, (unsigned long long)*at->ask->done,
		        (unsigned long long)at->ask->size);
		return NEXT_LATER;
	}
	/* A token may run out in the middle; what a fresh one does not open, none does. */
	if (a->status == 401 && at->challenged++ < 2) {
		if (pull_token_renew(at->e->token, at->h, a->challenges, generation, err) == 0)
			return NEXT_AT_ONCE;
		at->challenged = 0;
		berth_error_wrap(err, "%s", at->e->name);
		return (*err)->code == BERTH_UNAVAILABLE ? NEXT_LATER : NEXT_FAIL;
	}
	_cleanup_free_ char *why = reason(a);
	berth_error_set(err, code_of(a->status), "%s/%s: %s", at->e->name, at->ask->what, why);
	return may_pass(a->status) ? NEXT_LATER : NEXT_FAIL;
}

static enum next try_once(struct attempt *at, struct pull_http_answer *a, struct berth_error **err)
{
	struct pull_endpoint *e = at->e;
	unsigned int generation;
	enum pull_http_fault fault;
	_cleanup_free_ char *authorization = pull_token_header(e->token, &generation);
	_cleanup_free_ char *url = berth_asprintf("http%s://%s/v2/%s/%s",
	        atomic_load(&e->plain) ? "" : "s", e->api_host, e->place.path, at->ask->what);
	_cleanup_(berth_strv_freep) char **headers = headers_of(at->ask, at->etag);
	struct pull_http_request r = {.url = url,
	        .authorization = authorization,
	        .headers = headers,
	        .insecure = e->place.insecure,
	        .max_body = at->ask->max_body ? at->ask->max_body : BERTH_LIMIT_HTTP_ERROR_BODY,
	        .body = at->ask->body,
	        .arg = at->ask->arg};

	if (pull_http_run(at->h, &r, a, &fault, err) < 0) {
		/* The etag of a body that broke off is what its rest is asked for with. */
		if (a->etag && a->status == 200 && !at->etag)
			at->etag = berth_strdup(a->etag);
		return after_fault(at, fault, err);
	}
	return after_answer(at, a, generation, err);
}

int pull_endpoint_get(struct pull_endpoint *e, struct pull_http *h, const struct pull_ask *ask,
        struct pull_http_answer *ret, struct berth_error **ret_err)
{
	struct attempt at = {
	        .e = e, .h = h, .ask = ask, .max_tries = ask->hurry ? TRIES_HURRY : TRIES};
	uint64_t mark = ask->done ? *ask->done : 0;
	int result = -1;

	*ret = (struct pull_http_answer){0};
	for (;;) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		pull_http_answer_finish(ret);
		enum next next = try_once(&at, ret, &err);
		if (next == NEXT_DONE) {
			result = 0;
			break;
		}
		if (next == NEXT_AT_ONCE)
			continue;
		if (ask->done && *ask->done - mark >= PROGRESS_BYTES) {
			mark = *ask->done;
			at.tries = 0;
		}
		if (next == NEXT_FAIL || ++at.tries >= at.max_tries) {
			berth_error_move(ret_err, &err);
			break;
		}
		wait_before(at.tries - 1, ret->retry_after_ms);
	}
	free(at.etag);
	return result;
}
