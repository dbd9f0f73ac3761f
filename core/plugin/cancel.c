#include "plugin/cancel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mem.h"

struct berth_cancel {
	atomic_int refs;
	atomic_bool set;
	pthread_mutex_t lock; /* guards fd */
	int fd;
};

struct berth_cancel *berth_cancel_new(void)
{
	struct berth_cancel *c = berth_new(struct berth_cancel);
	atomic_init(&c->refs, 1);
	pthread_mutex_init(&c->lock, NULL);
	c->fd = -1;
	return c;
}

struct berth_cancel *berth_cancel_ref(struct berth_cancel *c)
{
	if (c)
		atomic_fetch_add(&c->refs, 1);
	return c;
}

struct berth_cancel *berth_cancel_unref(struct berth_cancel *c)
{
	if (c && atomic_fetch_sub(&c->refs, 1) == 1) {
		if (c->fd >= 0)
			close(c->fd);
		pthread_mutex_destroy(&c->lock);
		free(c);
	}
	return NULL;
}

static void wake(int fd)
{
	/* It can only fail where the counter is full, and then the fd is readable already. */
	if (eventfd_write(fd, 1) < 0)
		return;
}

void berth_cancel_set(struct berth_cancel *c)
{
	atomic_store(&c->set, true);
	pthread_mutex_lock(&c->lock);
	if (c->fd >= 0)
		wake(c->fd);
	pthread_mutex_unlock(&c->lock);
}

bool berth_cancel_is_set(struct berth_cancel *c)
{
	return c && atomic_load(&c->set);
}

int berth_cancel_fd(struct berth_cancel *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->fd < 0) {
		c->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (c->fd >= 0 && atomic_load(&c->set))
			wake(c->fd);
	}
	int fd = c->fd;
	pthread_mutex_unlock(&c->lock);
	return fd;
}
