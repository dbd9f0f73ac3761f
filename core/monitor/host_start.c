/* Starting a monitor, and ending one by force. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/child.h"
#include "loop/pool.h"
#include "monitor/host_internal.h"

#define REPORT_MAX (BERTH_MON_STDERR_MAX * 6 + 4096) /* escaping makes \u00XX of a byte */
#define GONE_WAIT_MS 5000
/* Past the deadline or a cancel: a runtime that is killed leaves half a container, one that ends by
 * itself does not. */
#define GRACE_NS 1500000000ull

static char **command_line(const struct berth_monitor_spec *s)
{
	char **v = berth_strv_append(NULL, berth_mon.helper);
	const struct {
		const char *option, *value;
	} opts[] = {{"--id", s->id}, {"--dir", s->dir}, {"--cwd", s->cwd},
	        {"--pid-file", s->pid_file}, {"--log", s->log_path},
	        {"--console-socket", s->flags & BERTH_IO_TTY ? s->console_socket : NULL},
	        {"--sync-fd", "3"}, {"--seccomp-fd", "4"}};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(opts); i++) {
		if (!opts[i].value)
			continue;
		v = berth_strv_append(v, opts[i].option);
		v = berth_strv_append(v, opts[i].value);
	}
	if (s->flags & BERTH_IO_TTY)
		v = berth_strv_append(v, "--tty");
	if (s->flags & BERTH_IO_STDIN)
		v = berth_strv_append(v, "--stdin");
	if (s->flags & BERTH_IO_STDIN_ONCE)
		v = berth_strv_append(v, "--stdin-once");
	v = berth_strv_append(v, "--");
	for (size_t i = 0; s->argv[i]; i++)
		v = berth_strv_append(v, s->argv[i]);
	return v;
}

static int remaining_ms(uint64_t deadline_ns)
{
	uint64_t now = berth_now_ns();
	if (!deadline_ns)
		return -1;
	if (now >= deadline_ns)
		return 0;
	uint64_t ms = (deadline_ns - now) / 1000000 + 1;
	return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

static int too_late(
        const struct berth_monitor_spec *s, bool cancelled, struct berth_error **ret_err)
{
	return cancelled ? berth_error_set(ret_err, BERTH_CANCELLED, "%s: cancelled during %s",
	                           s->id, s->argv[0])
	                 : berth_error_set(ret_err, BERTH_DEADLINE_EXCEEDED,
	                           "%s: %s has not ended in time", s->id, s->argv[0]);
}

/* Reads the report up to EOF. One that comes within the grace counts: what was done is known then.
 */
static int await_report(const struct berth_monitor_spec *s, int fd, struct berth_buf *report,
        struct berth_error **ret_err)
{
	uint64_t until = s->deadline_ns ? s->deadline_ns + GRACE_NS : 0;
	bool cancelled = false, warned = false;
	char chunk[4096];

	for (;;) {
		struct pollfd p[2] = {{.fd = fd, .events = POLLIN},
		        {.fd = warned ? -1 : s->cancel_fd, .events = POLLIN}};
		int n = poll(p, 2, remaining_ms(until));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return berth_error_errno(
			        ret_err, errno, "%s: waiting for its monitor", s->id);
		if (p[0].revents) {
			ssize_t r = read(fd, chunk, sizeof(chunk));
			if (r < 0)
				return berth_error_errno(
				        ret_err, errno, "%s: report of its monitor", s->id);
			if (r == 0)
				return 0;
			if (report->len + (size_t)r > REPORT_MAX)
				return berth_error_set(ret_err, BERTH_INTERNAL,
				        "%s: the report of its monitor is too long", s->id);
			berth_buf_add(report, chunk, (size_t)r);
		} else if (until && berth_now_ns() >= until) {
			return too_late(s, cancelled, ret_err);
		} else if (p[1].revents) {
			/* An op's is readable past its deadline, too. */
			uint64_t now = berth_now_ns();
			warned = true;
			cancelled = !s->deadline_ns || now < s->deadline_ns;
			until = until && until < now + GRACE_NS ? until : now + GRACE_NS;
		}
	}
}

static int read_report(const struct berth_monitor_spec *s, const struct berth_buf *report,
        struct berth_monitor_result *ret, struct berth_error **ret_err)
{
	if (report->len == 0)
		return berth_error_set(
		        ret_err, BERTH_INTERNAL, "%s: its monitor ended without a report", s->id);
	json_t *j = json_loadb(report->data, report->len, 0, NULL);
	const char *words = json_string_value(json_object_get(j, "error"));
	json_int_t pid = json_integer_value(json_object_get(j, "pid"));
	int r = 0;
	if (words) {
		r = berth_error_set(ret_err, BERTH_UNKNOWN, "%s: %s", s->id, words);
	} else if (pid <= 1 || pid > INT32_MAX) {
		r = berth_error_set(
		        ret_err, BERTH_INTERNAL, "%s: its monitor made no sense", s->id);
	} else {
		ret->pid = (int32_t)pid;
		ret->pid_start_ns = (uint64_t)json_integer_value(json_object_get(j, "pid_start"));
	}
	json_decref(j);
	return r;
}

static int check_spec(const struct berth_monitor_spec *s, struct berth_error **ret_err)
{
	const char *why = NULL;
	if (!berth_mon.helper)
		return berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "no berth-monitor is set up");
	if (!s->argv || !s->argv[0] || s->argv[0][0] != '/')
		why = "the command needs an absolute path";
	else if (!s->pid_file || s->pid_file[0] != '/')
		why = "the pid file needs an absolute path";
	else if ((s->flags & BERTH_IO_TTY) && !s->console_socket)
		why = "a terminal needs a console socket";
	else if (s->log_path && s->log_path[0] != '/')
		why = "the log needs an absolute path";
	else if (s->flags & ~(uint32_t)(BERTH_IO_TTY | BERTH_IO_STDIN | BERTH_IO_STDIN_ONCE))
		why = "unknown flags";
	return why ? berth_error_set(
	                     ret_err, BERTH_INVALID_ARGUMENT, "monitor of %s: %s", s->id, why)
	           : 0;
}

/* One start, on a thread that lives in the monitors' cgroups: what it starts is born there. A move
 * waits until all processors have seen it, 5 to 20 ms with each container. */
struct birth {
	struct berth_child_spec child;
	pid_t pid;
	int pidfd, result;
	struct berth_error **ret_err;
	sem_t over;
};

static void give_birth(void *arg)
{
	static _Thread_local bool tried, at_home;
	struct birth *b = arg;

	if (!tried) {
		tried = true;
		at_home = berth_cgroup_enter_thread(b->child.cgroup_procs) == 0;
	}
	if (at_home)
		b->child.cgroup_procs = NULL;
	b->result = berth_child_start(&b->child, &b->pid, &b->pidfd, b->ret_err);
	sem_post(&b->over);
}

static int start_process(struct birth *b)
{
	berth_cgroup_restore(b->child.cgroup_procs);
	sem_init(&b->over, 0, 0);
	if (berth_pool_run(berth_mon.starters, give_birth, b) < 0) {
		b->result = berth_error_set(b->ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "too many monitors are being started");
	} else {
		while (sem_wait(&b->over) < 0 && errno == EINTR)
			;
	}
	sem_destroy(&b->over);
	return b->result;
}

int berth_monitor_start(const struct berth_monitor_spec *s, struct berth_monitor_result *ret,
        struct berth_error **ret_err)
{
	if (check_spec(s, ret_err) < 0)
		return -1;
	char **argv __attribute__((cleanup(berth_strv_freep))) = command_line(s);
	int sync[2];
	if (pipe2(sync, O_CLOEXEC) < 0)
		return berth_error_errno(ret_err, errno, "%s: pipe to its monitor", s->id);
	_cleanup_close_ int sync_r = sync[0], sync_w = sync[1], pidfd = -1;
	const int keep[] = {sync_w, berth_mon.filter_fd};
	struct birth birth = {.child = {.argv = (const char *const *)argv,
	                              .stdio = {-1, -1, -1},
	                              .keep_fds = keep,
	                              .n_keep_fds = 2,
	                              .cgroup_procs = (const char *const *)berth_mon.cgroup_procs,
	                              .new_session = 1},
	        .ret_err = ret_err};
	if (start_process(&birth) < 0)
		return berth_error_wrap(ret_err, "%s", s->id);
	pid_t pid = birth.pid;
	pidfd = birth.pidfd;
	sync_w = berth_close(sync_w);

	struct berth_buf report = {0};
	struct berth_monitor_result res = {.size = sizeof(res), .monitor_pid = pid};
	int r = await_report(s, sync_r, &report, ret_err);
	if (r < 0)
		berth_kill_tree(pid, 0, 0);
	else
		r = read_report(s, &report, &res, ret_err);
	berth_buf_finish(&report);
	_cleanup_close_ int init = -1;
	if (r == 0) {
		/* Its monitor does not reap it before we have looked, or it is gone and recorded.
		 */
		init = berth_mon_open_process(res.pid, res.pid_start_ns);
		*ret = res;
		berth_mon_adopt(s->id, s->dir, &res, berth_take_fd(&pidfd),
		        init >= 0 ? berth_take_fd(&init) : -1);
		return 0;
	}
	int status;
	(void)!berth_child_wait(pid, pidfd, &status);
	berth_mon_remove_files(s->dir);
	return -1;
}

static void wait_gone(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	while (poll(&p, 1, GONE_WAIT_MS) < 0 && errno == EINTR)
		;
}

void berth_monitor_abort(const char *dir)
{
	struct berth_mon_record rec;
	if (berth_mon_read_record(dir, &rec) < 0 || rec.pid != 0)
		return;
	if (berth_mon_this_boot(&rec)) {
		_cleanup_close_ int fd = berth_mon_open_process(rec.monitor_pid, rec.monitor_start);
		if (fd >= 0) {
			berth_kill_tree(rec.monitor_pid, 0, 0);
			wait_gone(fd);
		}
	}
	/* It may have made its container in the moment before it was killed. */
	if (berth_mon_read_record(dir, &rec) == 0 && rec.pid == 0)
		berth_mon_remove_files(dir);
}

void berth_monitor_destroy(const char *dir)
{
	struct berth_mon_record rec;
	berth_monitor_abort(dir);
	if (berth_mon_read_record(dir, &rec) < 0)
		return;
	if (berth_mon_this_boot(&rec)) {
		_cleanup_close_ int init = berth_mon_open_process(rec.pid, rec.pid_start);
		_cleanup_close_ int mon =
		        berth_mon_open_process(rec.monitor_pid, rec.monitor_start);
		if (init >= 0) {
			(void)!berth_pidfd_kill(init, SIGKILL);
			wait_gone(init);
		}
		/* It ends by itself once it has seen that. */
		if (mon >= 0) {
			wait_gone(mon);
			(void)!berth_pidfd_kill(mon, SIGKILL);
		}
	}
	berth_mon_remove_files(dir);
}
