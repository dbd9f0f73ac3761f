/* core/stats: the sampler, over cgroups made up in a directory. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "stats/sampler.h"
#include "stats_fixture.h"

static char dir[] = "/tmp/berth-sampler-XXXXXX";
static struct berth_loop *loop;
static struct berth_pool *pool;
static struct berth_sampler *sampler;

static void put(const char *cgroup, const char *file, const char *text)
{
	_cleanup_free_ char *name = berth_asprintf("%s/%s", cgroup, file);
	put_at(dir, name, text);
}

static int set_up(void **state)
{
	(void)state;
	loop = berth_loop_new();
	pool = berth_pool_new(
	        &(struct berth_pool_opts){.name = "sampler", .max_threads = 4, .max_queued = 16});
	sampler = berth_sampler_new(&(struct berth_sampler_opts){
	        .loop = loop, .workers = pool, .mount = dir, .v2 = true});
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	berth_sampler_stop(sampler);
	berth_pool_free(pool);
	sampler = berth_sampler_free(sampler);
	loop = berth_loop_free(loop);
	return 0;
}

/* ---- asking ---- */

struct asked {
	struct berth_sampled *t;
	unsigned int *left;
	uint64_t began_ns, usage;
	bool detailed;
	enum berth_code code;
};

static void answered(const struct berth_error *err, void *arg)
{
	struct asked *a = arg;

	a->code = err ? err->code : BERTH_OK_;
	a->began_ns = berth_sampled_last(a->t)->began_ns;
	a->usage = berth_sampled_last(a->t)->usage.mem_usage;
	a->detailed = berth_sampled_last(a->t)->detail != NULL;
	if (--*a->left == 0)
		berth_loop_stop(loop);
}

static void ask(struct asked *a, struct berth_sampled *t, unsigned int *left, bool detailed)
{
	*a = (struct asked){.t = t, .left = left};
	berth_sampler_ask(sampler, &(struct berth_sampled_ask){.t = t}, 1, detailed, answered, a);
}

static struct asked ask_and_wait(struct berth_sampled *t, bool detailed)
{
	unsigned int left = 2; /* one for us: an answer may come before the return */
	struct asked a;

	ask(&a, t, &left, detailed);
	if (--left > 0)
		berth_loop_run(loop);
	return a;
}

static void let_it_age(const struct berth_sampled *t)
{
	while (berth_now_ns() - berth_sampled_last(t)->began_ns <= BERTH_SAMPLE_FRESH_NS)
		usleep(1000);
}

/* A cgroup whose sample does not end before go_on(). */
static struct berth_sampled *slow_one(void)
{
	_cleanup_free_ char *path = berth_asprintf("%s/slow/memory.current", dir);
	put("/slow", "memory.stat", "");
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	return berth_sampled_new(sampler, "/slow", NULL);
}

static void go_on(void)
{
	_cleanup_free_ char *path = berth_asprintf("%s/slow/memory.current", dir);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC); /* once it is read from */
	assert_true(fd >= 0);
	assert_int_equal(unlink(path), 0);
}

/* ---- tests ---- */

static void what_was_just_sampled_is_told_from_memory(void **state)
{
	unsigned int before = open_fds(), none = 2;
	struct berth_sampled *t = berth_sampled_new(sampler, "/a", NULL);
	struct asked a, b;
	(void)state;

	put("/a", "memory.current", "1\n");
	berth_sampled_keep(t, true);
	a = ask_and_wait(t, false);
	assert_int_equal(a.usage, 1);
	put("/a", "memory.current", "2\n");
	ask(&b, t, &none, false);
	if (none == 1) { /* at once, where this machine was not asleep meanwhile */
		assert_int_equal(b.usage, 1);
		assert_int_equal(b.began_ns, a.began_ns);
	} else {
		none--;
		berth_loop_run(loop);
	}
	assert_int_equal(berth_sampler_kept(sampler), 1);
	berth_sampled_keep(t, false);
	assert_int_equal(berth_sampler_kept(sampler), 0);
	let_it_age(t);
	b = ask_and_wait(t, false);
	assert_int_equal(b.usage, 2);
	assert_int_equal(berth_sampler_kept(sampler), 0);
	berth_sampled_free(t);
	/* The pool's thread has none of its own. */
	assert_int_equal(open_fds(), before);
}

static void a_hundred_who_ask_share_a_sample(void **state)
{
	struct berth_sampled *slow = slow_one(), *t = berth_sampled_new(sampler, "/b", NULL);
	struct asked first, of_t, v[100];
	unsigned int left = 102;
	(void)state;

	put("/b", "memory.current", "1\n");
	assert_int_equal(ask_and_wait(t, false).usage, 1);
	let_it_age(t);
	ask(&first, slow, &left, false);
	put("/b", "memory.current", "2\n");
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++)
		ask(&v[i], t, &left, false);
	assert_int_equal(left, 102);    /* all of them wait */
	ask(&of_t, slow, &left, false); /* joins the one that runs, or takes the next */
	go_on();
	berth_loop_run(loop);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++) {
		assert_int_equal(v[i].usage, 2);
		assert_int_equal(v[i].began_ns, v[0].began_ns);
		assert_true(v[i].began_ns > first.began_ns);
	}
	berth_sampled_free(t);
	berth_sampled_free(slow);
}

/* Of both: the sample that is under way began too long ago, and is not joined. */
static void who_asks_gets_nothing_that_is_old(void **state)
{
	struct berth_sampled *slow = slow_one();
	struct asked first, second;
	unsigned int left = 2;
	uint64_t begin = berth_now_ns();
	(void)state;

	ask(&first, slow, &left, false);
	while (berth_now_ns() - begin <= 2 * BERTH_SAMPLE_FRESH_NS)
		usleep(1000);
	ask(&second, slow, &left, false);
	go_on();
	put("/slow", "memory.current", "5\n");
	berth_loop_run(loop);
	assert_int_equal(first.usage, 0);
	assert_int_equal(second.usage, 5);
	assert_true(second.began_ns - first.began_ns > BERTH_SAMPLE_FRESH_NS);
	berth_sampled_free(slow);
}

/* Its container is removed while a worker reads from it. */
static void one_that_goes_during_its_sample(void **state)
{
	unsigned int before = open_fds();
	struct berth_sampled *slow = slow_one(), *t = berth_sampled_new(sampler, "/gone", NULL);
	struct berth_sampled_ask both[] = {{.t = slow}, {.t = t}};
	unsigned int left = 1;
	struct asked a = {.t = slow, .left = &left};
	(void)state;

	put("/gone", "memory.current", "1\n");
	put("/gone", "cpu.stat", "usage_usec 1\n");
	berth_sampled_keep(t, true);
	berth_sampler_ask(sampler, both, 2, true, answered, &a);
	berth_sampled_free(t);
	go_on();
	berth_loop_run(loop);
	assert_int_equal(berth_sampler_kept(sampler), 0);
	assert_int_equal(open_fds(), before);
	berth_sampled_free(slow);
}

static void details_are_told_and_forgotten(void **state)
{
	struct berth_sampled *t = berth_sampled_new(sampler, "/d", NULL);
	(void)state;

	put("/d", "memory.current", "1\n");
	put("/d", "memory.events", "oom_kill 3\n");
	berth_sampled_keep(t, true);
	assert_false(ask_and_wait(t, false).detailed);
	assert_true(ask_and_wait(t, true).detailed); /* fresh as it is */
	assert_null(berth_sampled_last(t)->detail);
	assert_int_equal(berth_sampler_kept(sampler), 2);
	berth_sampled_free(t);
	assert_int_equal(berth_sampler_kept(sampler), 0);
}

/* Of one that is in the sample under way, and one that is not: from the same. */
static void details_of_several_come_together(void **state)
{
	struct berth_sampled *slow = slow_one(), *t = berth_sampled_new(sampler, "/d", NULL),
	                     *late = berth_sampled_new(sampler, "/late", NULL);
	struct berth_sampled_ask first[] = {{.t = slow}, {.t = t}},
	                         second[] = {{.t = t}, {.t = late}};
	unsigned int left = 2;
	struct asked a = {.t = t, .left = &left}, b = {.t = t, .left = &left};
	(void)state;

	put("/d", "memory.current", "1\n");
	put("/late", "memory.current", "1\n");
	berth_sampler_ask(sampler, first, 2, true, answered, &a);
	berth_sampler_ask(sampler, second, 2, true, answered, &b);
	go_on();
	berth_loop_run(loop);
	assert_true(a.detailed);
	assert_true(b.detailed);
	assert_true(b.began_ns > a.began_ns);
	berth_sampled_free(slow);
	berth_sampled_free(late);
	berth_sampled_free(t);
}

static void without_a_worker_it_is_said(void **state)
{
	struct berth_sampled *t = berth_sampled_new(sampler, "/e", NULL);
	(void)state;

	berth_sampler_stop(sampler);
	assert_int_equal(ask_and_wait(t, false).code, BERTH_RESOURCE_EXHAUSTED);
	berth_sampled_free(t);
}

/* The end of the daemon: what is under way ends, what was to follow is refused, nothing leaks. */
static void the_end_during_a_sample(void **state)
{
	struct berth_sampled *slow = slow_one(), *t = berth_sampled_new(sampler, "/b", NULL);
	struct asked first, second;
	unsigned int left = 3;
	(void)state;

	ask(&first, slow, &left, false);
	ask(&second, t, &left, false);
	berth_sampler_stop(sampler);
	go_on();
	pool = berth_pool_free(pool);
	sampler = berth_sampler_free(sampler);
	uv_run(berth_loop_uv(loop), UV_RUN_NOWAIT);
	assert_int_equal(left, 1);
	assert_int_equal(first.code, BERTH_OK_);
	assert_int_equal(second.code, BERTH_RESOURCE_EXHAUSTED);
	berth_sampled_free(t);
	berth_sampled_free(slow);
}

/* ---- networks ---- */

static int over[2];

static void *has_a_network(void *arg)
{
	char *ns = arg, c;

	*ns = '\0';
	if (unshare(CLONE_NEWNET) < 0 ||
	        system("ip link add one type veth peer name two >/dev/null 2>&1"))
		return NULL;
	sprintf(ns, "/proc/self/task/%d/ns/net", (int)syscall(SYS_gettid));
	(void)!write(over[1], "r", 1);
	while (read(over[1], &c, 1) < 0 && errno == EINTR)
		;
	return NULL;
}

static void a_network_is_entered_once(void **state)
{
	unsigned int before = open_fds();
	pthread_t thread;
	char ns[64], c;
	(void)state;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, over), 0);
	assert_int_equal(pthread_create(&thread, NULL, has_a_network, ns), 0);
	struct pollfd p = {.fd = over[0], .events = POLLIN};
	while (poll(&p, 1, 100) == 0 && pthread_tryjoin_np(thread, NULL) != 0)
		;
	if (!(p.revents & POLLIN)) {
		close(over[0]);
		close(over[1]);
		skip(); /* not root, or no ip(8) */
	}
	assert_int_equal(read(over[0], &c, 1), 1);
	struct berth_sampled *t = berth_sampled_new(sampler, NULL, ns);
	berth_sampled_keep(t, true);
	ask_and_wait(t, false);
	assert_int_equal(berth_sampled_last(t)->n_interfaces, 2);
	assert_int_equal(berth_sampler_kept(sampler), 1);
	/* The path has gone; what was opened there tells of it. */
	close(over[0]);
	pthread_join(thread, NULL);
	close(over[1]);
	assert_int_not_equal(access(ns, F_OK), 0);
	let_it_age(t);
	ask_and_wait(t, false);
	assert_int_equal(berth_sampled_last(t)->n_interfaces, 2);
	berth_sampled_keep(t, false);
	let_it_age(t);
	ask_and_wait(t, false);
	assert_int_equal(berth_sampled_last(t)->n_interfaces, 0);
	berth_sampled_free(t);
	assert_int_equal(open_fds(), before);
}

int main(void)
{
#define WITH_LOOP(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        WITH_LOOP(what_was_just_sampled_is_told_from_memory),
	        WITH_LOOP(a_hundred_who_ask_share_a_sample),
	        WITH_LOOP(who_asks_gets_nothing_that_is_old),
	        WITH_LOOP(one_that_goes_during_its_sample),
	        WITH_LOOP(details_are_told_and_forgotten),
	        WITH_LOOP(details_of_several_come_together),
	        WITH_LOOP(without_a_worker_it_is_said),
	        WITH_LOOP(the_end_during_a_sample),
	        WITH_LOOP(a_network_is_entered_once),
	};
	assert_non_null(mkdtemp(dir));
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	return berth_rm_tree(AT_FDCWD, dir) < 0 || failed;
}
