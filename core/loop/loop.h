/* The event loop: one thread owns all state and never blocks. Wraps libuv; modules of the core may
 * use uv handles on berth_loop_uv() directly. */
#ifndef BERTH_LOOP_LOOP_H
#define BERTH_LOOP_LOOP_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct berth_loop;
typedef void (*berth_fn)(void *arg);

/* The thread that calls berth_loop_new() is the loop thread. Aborts where there is no memory or no
 * fd. */
struct berth_loop *berth_loop_new(void);
struct berth_loop *berth_loop_free(
        struct berth_loop *l); /* after run returned and all handles closed */
uv_loop_t *berth_loop_uv(struct berth_loop *l);
/* [loop] Lets the scheduler prefer this thread, which always has little to do, to all the threads
 * and children that work for it; those do not inherit it. Where that is not allowed nothing
 * changes. */
void berth_loop_prefer(void);
void berth_loop_run(struct berth_loop *l);  /* until berth_loop_stop() */
void berth_loop_stop(struct berth_loop *l); /* [loop] */
/* [any] Runs fn(arg) on the loop thread, in order of posting, never inside this call. */
void berth_loop_post(struct berth_loop *l, berth_fn fn, void *arg);
bool berth_on_loop(void);
/* In the body of every [loop] function that others call. */
#define berth_assert_loop() assert(berth_on_loop())

/* One-shot timers. [loop] */
struct berth_timer;
struct berth_timer *berth_timer_start(struct berth_loop *l, uint64_t ms, berth_fn fn, void *arg);
/* Cancels or forgets; NULL-safe; returns NULL. After it fn never runs. A timer that fired must be
 * freed, too; fn itself may do that. */
struct berth_timer *berth_timer_free(struct berth_timer *t);

/* fd readiness: level-triggered uv_poll. events: UV_READABLE | UV_WRITABLE | UV_DISCONNECT. The fd
 * stays the caller's and must stay open until berth_fdwatch_free(). A pidfd is readable once its
 * process has ended. [loop] */
struct berth_fdwatch;
typedef void (*berth_fdwatch_fn)(int fd, int events, void *arg);
struct berth_fdwatch *berth_fdwatch_start(
        struct berth_loop *l, int fd, int events, berth_fdwatch_fn fn, void *arg);
void berth_fdwatch_change(struct berth_fdwatch *w, int events); /* 0 pauses */
struct berth_fdwatch *berth_fdwatch_free(
        struct berth_fdwatch *w); /* NULL-safe; afterwards the fd may be closed */

#endif
