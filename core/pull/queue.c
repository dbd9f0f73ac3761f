#include "pull/queue.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/mem.h"

/* Big enough that a hand-over costs nothing beside the work on it, small enough that the reader
 * finds it in the second-level cache. */
enum { N_BUFFERS = 8, BUFFER_SIZE = 256 * 1024 };

struct pull_queue {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct {
		char *data;
		size_t len;
	} slot[N_BUFFERS];
	size_t head, tail; /* read and written so far */
	bool reading;      /* the slot at head is in the reader's hands */
	bool ended, failed, stopped;
};

struct pull_queue *pull_queue_new(void)
{
	struct pull_queue *q = berth_new(struct pull_queue);
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->changed, NULL);
	return q;
}

struct pull_queue *pull_queue_free(struct pull_queue *q)
{
	if (!q)
		return NULL;
	for (size_t i = 0; i < N_BUFFERS; i++)
		free(q->slot[i].data);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
	free(q);
	return NULL;
}

void *pull_queue_reserve(struct pull_queue *q, size_t *ret_cap)
{
	pthread_mutex_lock(&q->lock);
	while (!q->stopped && q->tail - q->head == N_BUFFERS)
		pthread_cond_wait(&q->changed, &q->lock);
	bool stopped = q->stopped;
	pthread_mutex_unlock(&q->lock);
	if (stopped)
		return NULL;
	char **data = &q->slot[q->tail % N_BUFFERS].data;
	if (!*data)
		*data = berth_reallocarray(NULL, 1, BUFFER_SIZE);
	*ret_cap = BUFFER_SIZE;
	return *data;
}

void pull_queue_commit(struct pull_queue *q, size_t n)
{
	pthread_mutex_lock(&q->lock);
	q->slot[q->tail % N_BUFFERS].len = n;
	q->tail++;
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

void pull_queue_end(struct pull_queue *q, bool failed)
{
	pthread_mutex_lock(&q->lock);
	q->ended = true;
	q->failed = failed;
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

ssize_t pull_queue_read(struct pull_queue *q, const void **ret)
{
	ssize_t n;

	pthread_mutex_lock(&q->lock);
	if (q->reading) {
		q->reading = false;
		q->head++;
		pthread_cond_signal(&q->changed);
	}
	while (q->head == q->tail && !q->ended)
		pthread_cond_wait(&q->changed, &q->lock);
	if (q->failed) {
		n = -1;
	} else if (q->head == q->tail) {
		n = 0;
	} else {
		*ret = q->slot[q->head % N_BUFFERS].data;
		n = (ssize_t)q->slot[q->head % N_BUFFERS].len;
		q->reading = true;
	}
	pthread_mutex_unlock(&q->lock);
	return n;
}

void pull_queue_stop(struct pull_queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->stopped = true;
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

struct reader {
	struct pull_queue *queue;
	int (*drain)(void *arg, struct berth_error **ret_err);
	void *arg;
	struct berth_error *err;
};

static void *reader_thread(void *arg)
{
	struct reader *r = arg;
	(void)!r->drain(r->arg, &r->err); /* told by err */
	pull_queue_stop(r->queue);
	return NULL;
}

int pull_queue_run(struct pull_queue *q, int (*fill)(void *arg, struct berth_error **ret_err),
        int (*drain)(void *arg, struct berth_error **ret_err), void *arg,
        struct berth_error **ret_err)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct reader r = {.queue = q, .drain = drain, .arg = arg};
	pthread_t thread;

	int e = pthread_create(&thread, NULL, reader_thread, &r);
	if (e != 0)
		return berth_error_errno(ret_err, e, "start a thread");
	int result = fill(arg, &err);
	pull_queue_end(q, result < 0);
	pthread_join(thread, NULL);
	/* What ended the other side is the cause; that it was ended is not. */
	if (r.err && (!err || (err->code == BERTH_CANCELLED && r.err->code != BERTH_CANCELLED)))
		return berth_error_move(ret_err, &r.err);
	berth_error_free(r.err);
	return err ? berth_error_move(ret_err, &err) : 0;
}
