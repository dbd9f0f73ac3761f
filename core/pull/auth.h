/* Credentials for a registry: the request's, else auth.json files. containers-auth.json(5). */
#ifndef BERTH_PULL_AUTH_H
#define BERTH_PULL_AUTH_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

struct pull_creds {
	char *username, *password; /* NULL where there are none */
	char *identity_token;      /* a refresh token */
	char *registry_token;      /* a bearer token, used as it is */
};
void pull_creds_finish(struct pull_creds *c);
bool pull_creds_any(const struct pull_creds *c);

/* The CRI request's AuthConfig (an object, may be NULL) where it is meant for this host. With a
 * server_address it is for that host alone, without one for the registry that the image names: not
 * for a mirror. */
int pull_auth_of_request(const json_t *auth, const char *host, bool mirror, struct pull_creds *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* From one auth.json: the key HOST/PATH, then its parents up to HOST. Nothing found is no error. */
int pull_auth_of_file(const char *text, size_t len, const char *host, const char *path,
        struct pull_creds *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
