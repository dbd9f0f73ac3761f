/* Shared by shared.c (what is known of the stores) and shared_look.c (a look at one). [loop] */
#ifndef BERTH_IMAGE_SHARED_INTERNAL_H
#define BERTH_IMAGE_SHARED_INTERNAL_H

#include <jansson.h>

#include "image/shared.h"
#include "pull/shared.h"

struct shared_store {
	struct berth_shared *all;
	const char *dir;
	char generation[PULL_SHARED_GENERATION + 1];
	struct berth_image *by_id;
	json_t *layers;          /* ChainID -> true, or why it cannot be used (pull/protocol.h) */
	int told;                /* the same as it came, for the next look; -1 */
	bool known, up;          /* known: it was looked at, or did not answer */
	uint64_t looked_ns;      /* the last look was over */
	struct berth_error *why; /* it is not up */
	/* a look */
	bool looking, abandoned, starting;
	bool again; /* once the last child has ended */
	int sock, pidfd;
	uint64_t began_ns, heard_ns;     /* heard: the last sign of life */
	int index;                       /* came, its layers did not yet; -1 */
	struct berth_child_watch *child; /* maybe of an abandoned one */
	struct berth_fdwatch *watch;
	struct berth_timer *deadline;
};

struct shared_waiter;

struct berth_shared {
	struct berth_daemon *d;
	struct shared_store *v;
	size_t n;
	struct shared_waiter *waiters;
	struct berth_timer *timer;
	unsigned int starting; /* children, on workers */
	bool stopped;          /* it is freed once none is */
};

/* shared.c */
void shared_take_index(struct shared_store *s, json_t *doc); /* in place of what was known */
void shared_take_layers(struct shared_store *s, json_t *layers);
void shared_looked(struct berth_shared *all); /* a look is over: who waited for all is told */
void shared_free(struct berth_shared *all);

/* shared_look.c */
void shared_look(struct shared_store *s);        /* begins one, where none is under way */
void shared_look_end(struct shared_store *s);    /* gives one up and kills the child, at the stop */
void shared_look_forget(struct shared_store *s); /* what is left of the child */

#endif
