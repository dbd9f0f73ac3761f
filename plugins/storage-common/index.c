#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t bucket(const char *key)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (; *key; key++)
		h = (h ^ (unsigned char)*key) * 16777619u;
	return h % INDEX_BUCKETS;
}

void index_init(struct index *x)
{
	memset(x, 0, sizeof(*x));
	pthread_mutex_init(&x->lock, NULL);
	pthread_cond_init(&x->settled, NULL);
}

void index_finish(struct index *x)
{
	for (size_t i = 0; i < INDEX_BUCKETS; i++) {
		while (x->buckets[i]) {
			struct snap *s = x->buckets[i];
			x->buckets[i] = s->next;
			index_let_go(s);
			free(s->key);
			free(s->external);
			free(s);
		}
	}
	pthread_mutex_destroy(&x->lock);
	pthread_cond_destroy(&x->settled);
}

struct snap *index_find(struct index *x, const char *key)
{
	for (struct snap *s = x->buckets[bucket(key)]; s; s = s->next)
		if (strcmp(s->key, key) == 0)
			return s;
	return NULL;
}

struct snap *index_find_settled(struct index *x, const char *key)
{
	struct snap *s;

	while ((s = index_find(x, key)) && s->phase != PHASE_READY)
		pthread_cond_wait(&x->settled, &x->lock);
	return s;
}

void index_unpin(struct index *x, struct snap *s)
{
	pthread_mutex_lock(&x->lock);
	s->pins--; /* who waits may have a pin of its own */
	pthread_cond_broadcast(&x->settled);
	pthread_mutex_unlock(&x->lock);
}

char *index_text(const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		abort();
	return copy;
}

struct snap *index_add(struct index *x, const char *key, uint32_t kind)
{
	struct snap *s = calloc(1, sizeof(*s)), **b = &x->buckets[bucket(key)];

	if (!s)
		abort();
	s->key = index_text(key);
	s->kind = kind;
	s->fd = -1;
	s->phase = PHASE_MAKING;
	s->next = *b;
	*b = s;
	x->n++;
	return s;
}

void index_let_go(struct snap *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

void index_set_parent(struct snap *s, struct snap *parent)
{
	if (s->parent)
		s->parent->children--;
	s->parent = parent;
	if (parent)
		parent->children++;
}

void index_remove(struct index *x, struct snap *s)
{
	struct snap **p = &x->buckets[bucket(s->key)];

	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	x->n--;
	index_set_parent(s, NULL);
	free(s->key);
	free(s->external);
	free(s);
	pthread_cond_broadcast(&x->settled);
}
