/* Seeing exits: a pidfd of the monitor, the exit record it leaves, and where it died without one a
 * pidfd of the container's init as second witness. Everything here is on the loop. */
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>
#include <uthash.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/child.h"
#include "monitor/host_internal.h"

struct mon {
	char *dir, *id;
	pid_t monitor_pid, pid;
	uint64_t pid_start;
	int monitor_fd, init_fd;         /* pidfds, -1 = ended */
	struct berth_child_watch *child; /* a monitor of ours is reaped, */
	struct berth_fdwatch *adopted;   /* one of an earlier berthd is only seen */
	struct berth_fdwatch *init_watch;
	int wd; /* inotify, -1 = none */
	bool watched, oom_told;
	struct berth_instance *instance;
	berth_monitor_exit_fn fn;
	void *arg;
	UT_hash_handle hh;
};

static struct {
	struct mon *by_dir;
	int inotify;
	struct berth_fdwatch *watch;
	bool tried;
} all = {.inotify = -1};

static struct mon *find(const char *dir)
{
	struct mon *m;
	HASH_FIND_STR(all.by_dir, dir, m);
	return m;
}

static struct mon *add(const char *id, const char *dir)
{
	struct mon *m = berth_new(struct mon);
	m->dir = berth_strdup(dir);
	m->id = berth_strdup(id);
	m->monitor_fd = m->init_fd = m->wd = -1;
	HASH_ADD_KEYPTR(hh, all.by_dir, m->dir, strlen(m->dir), m);
	return m;
}

static void close_init(struct mon *m)
{
	m->init_watch = berth_fdwatch_free(m->init_watch);
	m->init_fd = berth_close(m->init_fd);
}

static void forget(struct mon *m)
{
	HASH_DEL(all.by_dir, m);
	berth_child_unwatch(m->child);
	berth_fdwatch_free(m->adopted);
	close_init(m);
	berth_close(m->monitor_fd);
	if (m->wd >= 0)
		inotify_rm_watch(all.inotify, m->wd);
	free(m->id);
	free(m->dir);
	free(m);
}

/* An entry lives while somebody wants its event, or while its monitor is to be reaped. */
static void maybe_forget(struct mon *m)
{
	if (!m->watched && !m->child)
		forget(m);
}

static void tell_oom(struct mon *m)
{
	if (!m->watched || m->oom_told || !m->instance)
		return;
	m->oom_told = true;
	struct berth_event ev = {.size = sizeof(ev),
	        .type = BERTH_EV_OOM,
	        .object_id = m->id,
	        .message = "a process was killed for memory",
	        .when_ns = berth_realtime_ns()};
	berth_instance_emit(m->instance, &ev);
}

static void tell_exit(struct mon *m, const struct berth_mon_exit *e)
{
	if (e->exit.flags & BERTH_EXIT_OOM)
		tell_oom(m);
	struct berth_instance *instance = m->instance;
	berth_monitor_exit_fn fn = m->fn;
	void *arg = m->arg;
	_cleanup_free_ char *id = berth_strdup(m->id);
	m->watched = false;
	close_init(m);
	maybe_forget(m);
	if (instance) {
		struct berth_event ev = {.size = sizeof(ev),
		        .type = BERTH_EV_EXIT,
		        .object_id = id,
		        .exit = e->exit,
		        .when_ns = e->finished_ns};
		berth_instance_emit(instance, &ev);
	}
	if (fn)
		fn(id, &e->exit, arg);
}

static void check(struct mon *m);

static void init_ended(int fd, int events, void *arg)
{
	(void)fd;
	(void)events;
	check(arg);
}

/* The monitor has gone and left no exit record. */
static void second_witness(struct mon *m)
{
	int status = -1;
	if (m->init_fd >= 0 && !berth_mon_pidfd_ended(m->init_fd)) {
		if (!m->init_watch)
			m->init_watch = berth_fdwatch_start(
			        berth_mon.loop, m->init_fd, UV_READABLE, init_ended, m);
		return;
	}
	if (m->init_fd < 0 || berth_mon_exit_status(m->pid, m->pid_start, m->init_fd, &status) < 0)
		status = -1;
	berth_mon_write_exit(m->dir, status);
	struct berth_mon_exit e = {0};
	if (berth_mon_read_exit(m->dir, &e) < 0)
		e = (struct berth_mon_exit){.finished_ns = berth_realtime_ns()};
	tell_exit(m, &e);
}

static void check(struct mon *m)
{
	struct berth_mon_exit e;
	if (!m->watched)
		return;
	if (berth_mon_was_oom(m->dir))
		tell_oom(m);
	int r = berth_mon_read_exit(m->dir, &e);
	if (r == 0) {
		tell_exit(m, &e);
	} else if (m->monitor_fd < 0) {
		if (r != -ENOENT)
			berth_log_warn("exit record cannot be read", "container", m->id, "error",
			        strerror(-r));
		second_witness(m);
	}
}

static void monitor_ended(struct mon *m)
{
	m->adopted = berth_fdwatch_free(m->adopted);
	m->monitor_fd = berth_close(m->monitor_fd);
	if (m->watched)
		check(m);
	else
		maybe_forget(m);
}

static void on_child(pid_t pid, int status, void *arg)
{
	struct mon *m = arg;
	(void)pid;
	(void)status;
	m->child = NULL;
	monitor_ended(m);
}

static void on_adopted(int fd, int events, void *arg)
{
	(void)fd;
	(void)events;
	monitor_ended(arg);
}

/* ---- started by this berthd ---- */

struct handover {
	char *id, *dir;
	struct berth_monitor_result res;
	int monitor_fd, init_fd;
};

static void take_over(void *arg)
{
	struct handover *h = arg;
	struct mon *m = berth_mon.loop ? find(h->dir) : NULL;
	if (m && (m->monitor_pid != h->res.monitor_pid || m->pid_start != h->res.pid_start_ns)) {
		forget(m); /* the directory was used before */
		m = NULL;
	}
	if (berth_mon.loop) {
		if (!m)
			m = add(h->id, h->dir);
		/* A watch that came first found the monitor by its record. */
		m->adopted = berth_fdwatch_free(m->adopted);
		close_init(m);
		berth_close(m->monitor_fd);
		m->monitor_pid = h->res.monitor_pid;
		m->pid = h->res.pid;
		m->pid_start = h->res.pid_start_ns;
		m->monitor_fd = h->monitor_fd;
		m->init_fd = h->init_fd;
		m->child = berth_child_watch(
		        berth_mon.loop, m->monitor_pid, m->monitor_fd, on_child, m);
	} else {
		berth_close(h->monitor_fd);
		berth_close(h->init_fd);
	}
	free(h->id);
	free(h->dir);
	free(h);
}

void berth_mon_adopt(const char *id, const char *dir, const struct berth_monitor_result *res,
        int monitor_pidfd, int init_pidfd)
{
	struct handover *h = berth_new(struct handover);
	*h = (struct handover){.id = berth_strdup(id),
	        .dir = berth_strdup(dir),
	        .res = *res,
	        .monitor_fd = monitor_pidfd,
	        .init_fd = init_pidfd};
	berth_loop_post(berth_mon.loop, take_over, h);
}

/* ---- inotify: the exit record is seen before the monitor has ended ---- */

static void on_inotify(int fd, int events, void *arg)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	(void)events;
	(void)arg;
	ssize_t n;
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *ev = (const void *)p;
			struct mon *m, *next;
			p += sizeof(*ev) + ev->len;
			if (!ev->len || (strcmp(ev->name, BERTH_MON_EXIT) != 0 &&
			                        strcmp(ev->name, BERTH_MON_OOM) != 0))
				continue;
			HASH_ITER (hh, all.by_dir, m, next) {
				if (m->wd == ev->wd) {
					check(m);
					break;
				}
			}
		}
	}
}

static void add_inotify(struct mon *m)
{
	if (!all.tried) {
		all.tried = true;
		all.inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
		if (all.inotify >= 0)
			all.watch = berth_fdwatch_start(
			        berth_mon.loop, all.inotify, UV_READABLE, on_inotify, NULL);
	}
	/* Where there is none the pidfd alone tells: later by what attach clients still read. */
	if (all.inotify >= 0 && m->wd < 0)
		m->wd = inotify_add_watch(
		        all.inotify, m->dir, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
}

/* ---- watching ---- */

static void first_check(void *arg)
{
	_cleanup_free_ char *dir = arg;
	struct mon *m = berth_mon.loop ? find(dir) : NULL;
	if (m)
		check(m);
}

static void find_processes(struct mon *m)
{
	struct berth_mon_record rec;
	if (berth_mon_read_record(m->dir, &rec) < 0 || !berth_mon_this_boot(&rec))
		return;
	m->monitor_pid = rec.monitor_pid;
	m->pid = rec.pid;
	m->pid_start = rec.pid_start;
	int fd = berth_mon_open_process(rec.pid, rec.pid_start);
	m->init_fd = fd < 0 ? -1 : fd;
	fd = berth_mon_open_process(rec.monitor_pid, rec.monitor_start);
	m->monitor_fd = fd < 0 ? -1 : fd;
	if (fd >= 0)
		m->adopted = berth_fdwatch_start(berth_mon.loop, fd, UV_READABLE, on_adopted, m);
}

static void watch(struct berth_instance *instance, const char *id, const char *dir,
        berth_monitor_exit_fn fn, void *arg)
{
	berth_assert_loop();
	struct mon *m = find(dir);
	if (!m) {
		m = add(id, dir);
		find_processes(m);
	}
	m->instance = instance;
	m->fn = fn;
	m->arg = arg;
	m->watched = true;
	m->oom_told = false;
	add_inotify(m);
	berth_loop_post(berth_mon.loop, first_check, berth_strdup(dir));
}

void berth_monitor_watch(struct berth_instance *instance, const char *id, const char *bundle)
{
	_cleanup_free_ char *dir = berth_mon_dir_of(bundle);
	watch(instance, id, dir, NULL, NULL);
}

void berth_monitor_watch_dir(const char *id, const char *dir, berth_monitor_exit_fn fn, void *arg)
{
	watch(NULL, id, dir, fn, arg);
}

void berth_monitor_unwatch(const char *dir)
{
	berth_assert_loop();
	struct mon *m = find(dir);
	if (!m)
		return;
	m->watched = false;
	m->instance = NULL;
	m->fn = NULL;
	close_init(m);
	maybe_forget(m);
}

bool berth_monitor_orphan(pid_t pid, int wait_status)
{
	berth_assert_loop();
	struct mon *m, *next;
	HASH_ITER (hh, all.by_dir, m, next) {
		struct berth_mon_exit e;
		/* A pid that is used again belongs to a process that our pidfd does not mean. */
		if (m->pid != pid || m->init_fd < 0 || !berth_mon_pidfd_ended(m->init_fd))
			continue;
		if (berth_mon_read_exit(m->dir, &e) == -ENOENT)
			berth_mon_write_exit(m->dir, wait_status);
		m->monitor_fd = m->child ? m->monitor_fd : berth_close(m->monitor_fd);
		check(m);
		return true;
	}
	return false;
}

void berth_mon_watch_finish(void)
{
	struct mon *m, *next;
	HASH_ITER (hh, all.by_dir, m, next) {
		forget(m);
	}
	all.watch = berth_fdwatch_free(all.watch);
	all.inotify = berth_close(all.inotify);
	all.tried = false;
}
