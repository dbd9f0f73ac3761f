/* Compiler helpers shared by the whole core. */
#ifndef BERTH_BASE_MACROS_H
#define BERTH_BASE_MACROS_H

#include <stddef.h>

#define BERTH_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define BERTH_MUST_CHECK __attribute__((warn_unused_result))
#define BERTH_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define BERTH_CONTAINER_OF(ptr, type, member) \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Release at the end of scope: `_cleanup_(closep) int fd = -1;` */
#define _cleanup_(fn) __attribute__((cleanup(fn)))

#endif
