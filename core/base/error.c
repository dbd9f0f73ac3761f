#include "base/error.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static void set_text(struct berth_error **ret_err, enum berth_code code, int errnum, char *msg)
{
	assert(ret_err && !*ret_err);
	struct berth_error *e = berth_new(struct berth_error);
	e->code = code;
	e->errnum = errnum;
	e->msg = msg;
	*ret_err = e;
}

int berth_error_set(struct berth_error **ret_err, enum berth_code code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	set_text(ret_err, code, 0, berth_vasprintf(fmt, ap));
	va_end(ap);
	return -1;
}

enum berth_code berth_code_from_errno(int errnum)
{
	switch (errnum < 0 ? -errnum : errnum) {
	case ENOENT:
		return BERTH_NOT_FOUND;
	case EEXIST:
		return BERTH_ALREADY_EXISTS;
	case ENOSPC:
	case EDQUOT:
	case EMFILE:
	case ENFILE:
	case ENOMEM:
		return BERTH_RESOURCE_EXHAUSTED;
	case EPERM:
	case EACCES:
		return BERTH_PERMISSION_DENIED;
	case EINVAL:
		return BERTH_INVALID_ARGUMENT;
	case ETIMEDOUT:
		return BERTH_DEADLINE_EXCEEDED;
	case ECANCELED:
		return BERTH_CANCELLED;
	default:
		return BERTH_INTERNAL;
	}
}

int berth_error_errno(struct berth_error **ret_err, int errnum, const char *fmt, ...)
{
	va_list ap;
	int positive = errnum < 0 ? -errnum : errnum;

	va_start(ap, fmt);
	char *context = berth_vasprintf(fmt, ap);
	va_end(ap);
	set_text(ret_err, berth_code_from_errno(positive), positive,
	        berth_asprintf("%s: %s", context, strerror(positive)));
	free(context);
	return -1;
}

int berth_error_wrap(struct berth_error **err, const char *fmt, ...)
{
	va_list ap;

	assert(err && *err);
	va_start(ap, fmt);
	char *context = berth_vasprintf(fmt, ap);
	va_end(ap);
	char *whole = berth_asprintf("%s: %s", context, (*err)->msg);
	free(context);
	free((*err)->msg);
	(*err)->msg = whole;
	return -1;
}

int berth_error_move(struct berth_error **ret_err, struct berth_error **src)
{
	assert(ret_err && !*ret_err && *src);
	*ret_err = *src;
	*src = NULL;
	return -1;
}

struct berth_error *berth_error_copy(const struct berth_error *err)
{
	if (!err)
		return NULL;
	struct berth_error *e = berth_new(struct berth_error);
	e->code = err->code;
	e->errnum = err->errnum;
	e->msg = berth_strdup(err->msg);
	return e;
}

struct berth_error *berth_error_free(struct berth_error *err)
{
	if (err) {
		free(err->msg);
		free(err);
	}
	return NULL;
}

void berth_error_freep(struct berth_error **err)
{
	int saved = errno;
	*err = berth_error_free(*err);
	errno = saved;
}

const char *berth_code_name(enum berth_code code)
{
	static const char *const names[] = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT",
	        "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	        "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	        "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};
	if ((size_t)code >= BERTH_ARRAY_LEN(names))
		return "UNKNOWN";
	return names[code];
}
