#include "pull/each.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"

struct work {
	const struct pull_each *e;
	pthread_mutex_t lock;
	size_t next;
};

/* Told to berthd, it ends the process here and now: other threads may wait for what never comes,
 * and there is nothing to undo on this side. The lock lets the first error alone be told. */
static void fail(struct work *w, const struct berth_error *err)
{
	pthread_mutex_lock(&w->lock);
	pull_wire_send_error(w->e->wire, err);
	_exit(EXIT_FAILURE);
}

static bool take_next(struct work *w, size_t *ret)
{
	bool found = false;

	pthread_mutex_lock(&w->lock);
	while (!found && w->next < w->e->n) {
		*ret = w->next++;
		found = !w->e->have[*ret];
	}
	pthread_mutex_unlock(&w->lock);
	return found;
}

static void *run_layers(void *arg)
{
	struct work *w = arg;
	size_t n;

	while (take_next(w, &n)) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		if (w->e->run(w->e->arg, n, &err) < 0)
			fail(w, err);
	}
	return NULL;
}

int pull_each_run(const struct pull_each *e, struct berth_error **ret_err)
{
	unsigned int count = e->parallel < e->n ? e->parallel : (unsigned int)e->n, started = 0;
	_cleanup_free_ pthread_t *threads = berth_new_array(pthread_t, count);
	struct work w = {.e = e};
	int r = 0;

	pthread_mutex_init(&w.lock, NULL);
	while (started < count && r == 0) {
		r = pthread_create(&threads[started], NULL, run_layers, &w);
		started += r == 0;
	}
	for (unsigned int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&w.lock);
	return r && started == 0 ? berth_error_errno(ret_err, r, "start a thread") : 0;
}
