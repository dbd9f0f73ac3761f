/* Errors that name their object and cause.
 *
 * A function that can fail returns int 0/-1 and fills `struct berth_error **ret_err`. The error is
 * made where the cause is known (with the gRPC status that fits) and wrapped at most once per
 * layer. `ret_err` is never NULL and *ret_err is NULL on entry: setting a set error asserts. [any]
 * thread.
 */
#ifndef BERTH_BASE_ERROR_H
#define BERTH_BASE_ERROR_H

#include "base/macros.h"

/* gRPC status codes, the numbers of grpc-status. */
enum berth_code {
	BERTH_OK_ = 0,
	BERTH_CANCELLED = 1,
	BERTH_UNKNOWN = 2,
	BERTH_INVALID_ARGUMENT = 3,
	BERTH_DEADLINE_EXCEEDED = 4,
	BERTH_NOT_FOUND = 5,
	BERTH_ALREADY_EXISTS = 6,
	BERTH_PERMISSION_DENIED = 7,
	BERTH_RESOURCE_EXHAUSTED = 8,
	BERTH_FAILED_PRECONDITION = 9,
	BERTH_ABORTED = 10,
	BERTH_OUT_OF_RANGE = 11,
	BERTH_UNIMPLEMENTED = 12,
	BERTH_INTERNAL = 13,
	BERTH_UNAVAILABLE = 14,
	BERTH_DATA_LOSS = 15,
	BERTH_UNAUTHENTICATED = 16,
	BERTH_CODES /* how many */
};

struct berth_error {
	enum berth_code code;
	int errnum; /* the errno behind it, 0 where there is none */
	char *msg;
};

/* Makes an error. Always returns -1, so that `return berth_fail(...)` reads well. */
int berth_error_set(struct berth_error **ret_err, enum berth_code code, const char *fmt, ...)
        BERTH_PRINTF(3, 4);
/* The same from an errno: appends ": strerror" and chooses the code (ENOENT = NOT_FOUND, EEXIST =
 * ALREADY_EXISTS, ENOSPC/EDQUOT/EMFILE/ENFILE/ENOMEM = RESOURCE_EXHAUSTED, EPERM/EACCES =
 * PERMISSION_DENIED, EINVAL = INVALID_ARGUMENT, ETIMEDOUT = DEADLINE_EXCEEDED, ECANCELED =
 * CANCELLED, else INTERNAL). `errnum` may be negative. Always returns -1. */
int berth_error_errno(struct berth_error **ret_err, int errnum, const char *fmt, ...)
        BERTH_PRINTF(3, 4);
/* Prepends "context: " to a set error. Always returns -1. */
int berth_error_wrap(struct berth_error **err, const char *fmt, ...) BERTH_PRINTF(2, 3);
/* Moves src into ret_err. Always returns -1. */
int berth_error_move(struct berth_error **ret_err, struct berth_error **src);

struct berth_error *berth_error_copy(const struct berth_error *err);
struct berth_error *berth_error_free(struct berth_error *err); /* NULL-safe, returns NULL */
void berth_error_freep(struct berth_error **err);              /* for _cleanup_ */
const char *berth_code_name(enum berth_code code);             /* "NOT_FOUND" */
enum berth_code berth_code_from_errno(int errnum);

#endif
