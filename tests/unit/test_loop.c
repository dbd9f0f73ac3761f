/* core/loop: posting, timers, pools. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "loop/loop.h"
#include "loop/pool.h"

struct counts {
	struct berth_loop *loop;
	atomic_int worked;
	int done, wanted;
};

static void work(void *arg)
{
	struct counts *c = arg;
	assert_false(berth_on_loop());
	atomic_fetch_add(&c->worked, 1);
}

static void done(void *arg)
{
	struct counts *c = arg;
	assert_true(berth_on_loop());
	if (++c->done == c->wanted)
		berth_loop_stop(c->loop);
}

static void every_job_runs_and_reports(void **state)
{
	struct counts c = {.loop = berth_loop_new(), .wanted = 500};
	struct berth_pool *p = berth_pool_new(&(struct berth_pool_opts){
	        .name = "test", .max_threads = 4, .max_queued = 1000, .idle_ms = 10});
	for (int i = 0; i < c.wanted; i++)
		assert_int_equal(berth_work(p, c.loop, work, done, &c), 0);
	berth_loop_run(c.loop);
	assert_int_equal(c.worked, c.wanted);
	berth_pool_free(p);
	berth_loop_free(c.loop);
}

static void hold(void *arg)
{
	atomic_int *go = arg;
	while (!atomic_load(go))
		usleep(1000);
}

static void nothing(void *arg)
{
}

static void a_full_queue_refuses(void **state)
{
	atomic_int go = 0;
	struct berth_pool *p = berth_pool_new(
	        &(struct berth_pool_opts){.name = "test", .max_threads = 1, .max_queued = 2});
	assert_int_equal(berth_pool_run(p, hold, &go), 0);
	usleep(50000); /* the only thread has taken it */
	assert_int_equal(berth_pool_run(p, nothing, NULL), 0);
	assert_int_equal(berth_pool_run(p, nothing, NULL), 0);
	assert_int_equal(berth_pool_run(p, nothing, NULL), -EAGAIN);
	atomic_store(&go, 1);
	berth_pool_free(p);
}

static void a_stuck_worker_is_replaced_once(void **state)
{
	atomic_int go = 0;
	struct berth_pool *p = berth_pool_new(
	        &(struct berth_pool_opts){.name = "test", .max_threads = 1, .max_queued = 8});
	struct counts c = {.worked = 0};
	assert_int_equal(berth_pool_run(p, hold, &go), 0);
	usleep(50000);
	assert_int_equal(berth_pool_run(p, work, &c), 0);
	usleep(50000);
	assert_int_equal(c.worked, 0);
	assert_true(berth_pool_replace_stuck(p, 1));
	assert_false(berth_pool_replace_stuck(p, 1));
	for (int i = 0; i < 1000 && !c.worked; i++)
		usleep(1000);
	assert_int_equal(c.worked, 1);
	atomic_store(&go, 1);
	berth_pool_unstuck(p);
	berth_pool_free(p);
}

static struct berth_timer *timer;
static int fired;

static void stop(void *arg)
{
	fired++;
	timer = berth_timer_free(timer);
	berth_loop_stop(arg);
}

static void a_timer_fires_once_and_may_free_itself(void **state)
{
	struct berth_loop *l = berth_loop_new();
	timer = berth_timer_start(l, 5, stop, l);
	struct berth_timer *never = berth_timer_start(l, 1, stop, l);
	berth_timer_free(never);
	berth_loop_run(l);
	assert_int_equal(fired, 1);
	berth_loop_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(every_job_runs_and_reports),
	        cmocka_unit_test(a_full_queue_refuses),
	        cmocka_unit_test(a_stuck_worker_is_replaced_once),
	        cmocka_unit_test(a_timer_fires_once_and_may_free_itself),
	};
	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
