#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void out_of_memory(void)
{
	static const char msg[] = "berth: out of memory\n";
	fputs(msg, stderr);
	abort();
}

void *berth_try_zalloc(size_t n)
{
	return calloc(1, n ? n : 1);
}

void *berth_zalloc(size_t n)
{
	void *p = berth_try_zalloc(n);
	if (!p)
		out_of_memory();
	return p;
}

void *berth_realloc(void *p, size_t n)
{
	void *q = realloc(p, n ? n : 1);
	if (!q)
		out_of_memory();
	return q;
}

void *berth_reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(n, size, &bytes))
		out_of_memory();
	return berth_realloc(p, bytes);
}

void *berth_reallocarray_zero(size_t n, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(n, size, &bytes))
		out_of_memory();
	return berth_zalloc(bytes);
}

char *berth_strdup(const char *s)
{
	return s ? berth_memdup(s, strlen(s) + 1) : NULL;
}

char *berth_strndup(const char *s, size_t n)
{
	size_t len = strnlen(s, n);
	char *p = berth_zalloc(len + 1);
	memcpy(p, s, len);
	return p;
}

void *berth_memdup(const void *p, size_t n)
{
	void *q = berth_zalloc(n);
	if (n)
		memcpy(q, p, n);
	return q;
}

char *berth_vasprintf(const char *fmt, va_list ap)
{
	char *s = NULL;
	if (vasprintf(&s, fmt, ap) < 0)
		out_of_memory();
	return s;
}

char *berth_asprintf(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	char *s = berth_vasprintf(fmt, ap);
	va_end(ap);
	return s;
}

void berth_freep(void *p)
{
	int saved = errno;
	free(*(void **)p);
	*(void **)p = NULL;
	errno = saved;
}

size_t berth_strv_len(char *const *v)
{
	size_t n = 0;
	while (v && v[n])
		n++;
	return n;
}

char **berth_strv_append(char **v, const char *s)
{
	size_t n = berth_strv_len(v);
	v = berth_reallocarray(v, n + 2, sizeof(*v));
	v[n] = berth_strdup(s);
	v[n + 1] = NULL;
	return v;
}

char **berth_strv_copy(char *const *v)
{
	char **copy = berth_new_array(char *, berth_strv_len(v) + 1);
	for (size_t i = 0; v && v[i]; i++)
		copy[i] = berth_strdup(v[i]);
	return copy;
}

char **berth_strv_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
	return NULL;
}

void berth_strv_freep(char ***v)
{
	int saved = errno;
	*v = berth_strv_free(*v);
	errno = saved;
}

struct arena_block {
	struct arena_block *next;
	size_t used, cap;
	_Alignas(16) char data[];
};

struct berth_arena {
	struct arena_block *head;
};

enum { ARENA_BLOCK = 4000 };

struct berth_arena *berth_arena_new(void)
{
	return berth_new(struct berth_arena);
}

struct berth_arena *berth_arena_free(struct berth_arena *a)
{
	if (!a)
		return NULL;
	for (struct arena_block *b = a->head, *next; b; b = next) {
		next = b->next;
		free(b);
	}
	free(a);
	return NULL;
}

void *berth_arena_alloc(struct berth_arena *a, size_t n)
{
	if (n > SIZE_MAX / 2)
		out_of_memory();
	n = (n + 15) & ~(size_t)15;
	struct arena_block *b = a->head;
	if (!b || b->cap - b->used < n) {
		size_t cap = n > ARENA_BLOCK ? n : ARENA_BLOCK;
		b = berth_zalloc(sizeof(*b) + cap);
		b->cap = cap;
		b->next = a->head;
		a->head = b;
	}
	void *p = b->data + b->used;
	b->used += n;
	return p;
}

char *berth_arena_strdup(struct berth_arena *a, const char *s)
{
	if (!s)
		return NULL;
	size_t n = strlen(s) + 1;
	return memcpy(berth_arena_alloc(a, n), s, n);
}

char *berth_arena_printf(struct berth_arena *a, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	_cleanup_free_ char *s = berth_vasprintf(fmt, ap);
	va_end(ap);
	return berth_arena_strdup(a, s);
}

void berth_buf_add(struct berth_buf *b, const void *p, size_t n)
{
	size_t need;
	if (__builtin_add_overflow(b->len, n + 1, &need))
		out_of_memory();
	if (need > b->cap) {
		size_t cap = b->cap ? b->cap : 64;
		while (cap < need)
			cap *= 2;
		b->data = berth_realloc(b->data, cap);
		b->cap = cap;
	}
	if (n)
		memcpy(b->data + b->len, p, n);
	b->len += n;
	b->data[b->len] = '\0';
}

void berth_buf_adds(struct berth_buf *b, const char *s)
{
	berth_buf_add(b, s, strlen(s));
}

void berth_buf_addf(struct berth_buf *b, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	_cleanup_free_ char *s = berth_vasprintf(fmt, ap);
	va_end(ap);
	berth_buf_adds(b, s);
}

char *berth_buf_steal(struct berth_buf *b)
{
	char *s = b->data ? b->data : berth_strdup("");
	*b = (struct berth_buf){0};
	return s;
}

void berth_buf_finish(struct berth_buf *b)
{
	free(b->data);
	*b = (struct berth_buf){0};
}
