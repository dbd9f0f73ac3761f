#ifndef BERTH_STREAM_TLS_LOAD_H
#define BERTH_STREAM_TLS_LOAD_H

#include "base/error.h"
#include "stream/tls.h"

/* The module of the directory of helpers; it is never unloaded. NULL: FAILED_PRECONDITION. Blocks.
 * [any] */
const struct berth_tls_api *berth_tls_load(const char *dir, struct berth_error **ret_err);

#endif
