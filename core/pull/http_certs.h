/* certs.d: HOST[:PORT]/ directories with CAs and client certificates. containers-certs.d(5). */
#ifndef BERTH_PULL_HTTP_CERTS_H
#define BERTH_PULL_HTTP_CERTS_H

#include <stdbool.h>

#include "base/error.h"
#include "base/mem.h"

struct pull_certs {
	struct berth_buf ca;        /* PEM, empty where there is none */
	char *cert_path, *key_path; /* NULL where there is none */
};
void pull_certs_finish(struct pull_certs *c);
/* Of HOST:PORT; where the port is the scheme's own (`usual`) the directory may be without it. */
int pull_certs_find(char *const *dirs, const char *host, const char *port, bool usual,
        struct pull_certs *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
