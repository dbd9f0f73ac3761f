/* Memory: allocations of fixed, small sizes abort when there is none (containers live on and the
 * service manager restarts us); a size that a peer, a file or a plugin chose uses berth_try_* under
 * a named limit. [any] */
#ifndef BERTH_BASE_MEM_H
#define BERTH_BASE_MEM_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/macros.h"

void *berth_zalloc(size_t n); /* zeroed; aborts */
void *berth_realloc(void *p, size_t n);
/* Grows an array to n elements of `size`; checks the product. Aborts. */
void *berth_reallocarray(void *p, size_t n, size_t size);
char *berth_strdup(const char *s); /* NULL gives NULL */
char *berth_strndup(const char *s, size_t n);
void *berth_memdup(const void *p, size_t n);
char *berth_asprintf(const char *fmt, ...) BERTH_PRINTF(1, 2);
char *berth_vasprintf(const char *fmt, va_list ap) BERTH_PRINTF(1, 0);

#define berth_new(type) ((type *)berth_zalloc(sizeof(type)))
#define berth_new_array(type, n) ((type *)berth_reallocarray_zero((n), sizeof(type)))
void *berth_reallocarray_zero(size_t n, size_t size);
void *berth_try_zalloc(size_t n); /* NULL where there is none */

void berth_freep(void *p); /* for _cleanup_: frees *(void **)p */
#define _cleanup_free_ _cleanup_(berth_freep)

/* Moves a pointer out of a variable: `return berth_take(p);` */
#define berth_take(p)                                 \
	({                                            \
		__typeof__(p) *take_ptr_ = &(p);      \
		__typeof__(p) take_val_ = *take_ptr_; \
		*take_ptr_ = NULL;                    \
		take_val_;                            \
	})

/* NULL-terminated string vectors; NULL is an empty one. */
size_t berth_strv_len(char *const *v);
char **berth_strv_append(char **v, const char *s); /* copies s; returns the moved vector */
char **berth_strv_copy(char *const *v);
char **berth_strv_free(char **v);
void berth_strv_freep(char ***v);

/* An arena: everything dies together. Not thread-safe. Allocations are zeroed, 16-aligned, and
 * never NULL. */
struct berth_arena;
struct berth_arena *berth_arena_new(void);
struct berth_arena *berth_arena_free(struct berth_arena *a);
void *berth_arena_alloc(struct berth_arena *a, size_t n);
char *berth_arena_strdup(struct berth_arena *a, const char *s); /* NULL gives NULL */
char *berth_arena_printf(struct berth_arena *a, const char *fmt, ...) BERTH_PRINTF(2, 3);

/* A growing byte buffer, always NUL-terminated once something was added. */
struct berth_buf {
	char *data;
	size_t len, cap;
};
void berth_buf_add(struct berth_buf *b, const void *p, size_t n);
void berth_buf_adds(struct berth_buf *b, const char *s);
void berth_buf_addf(struct berth_buf *b, const char *fmt, ...) BERTH_PRINTF(2, 3);
char *berth_buf_steal(struct berth_buf *b); /* never NULL; the buffer is empty afterwards */
void berth_buf_finish(struct berth_buf *b);

#endif
