/* What stands in the Authorization header for one repository of one registry: nothing, Basic, or a
 * bearer token from its token server. distribution spec, "token authentication". [any] */
#ifndef BERTH_PULL_TOKEN_H
#define BERTH_PULL_TOKEN_H

#include "base/error.h"
#include "pull/auth.h"
#include "pull/http.h"

#define BERTH_LIMIT_TOKEN (256 * 1024) /* a token server's answer */

struct pull_token;

/* Takes what is in creds. path: the repository, for the scope. */
struct pull_token *pull_token_new(struct pull_creds *creds, const char *path, bool insecure);
struct pull_token *pull_token_free(struct pull_token *t);
/* The header's value, the caller's, or NULL. *ret_generation names it to pull_token_renew(). */
char *pull_token_header(struct pull_token *t, unsigned int *ret_generation);
/* After a 401: answers its challenges. Where another thread has done so since `generation`, there
 * is nothing to do. UNAUTHENTICATED where credentials are missing or were refused, UNAVAILABLE
 * where the token server cannot be reached. */
int pull_token_renew(struct pull_token *t, struct pull_http *h, char *const *challenges,
        unsigned int generation, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* One challenge: its scheme in lower case and a parameter's value (NULL where absent), both the
 * caller's. */
char *pull_challenge_scheme(const char *challenge);
char *pull_challenge_param(const char *challenge, const char *name);

#endif
