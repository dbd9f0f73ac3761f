/* berth-monitor: one for each container, its parent and reaper. It runs the runtime's create
 * command, reports, gives up its privileges, and then only moves bytes until the container ends.
 *
 *   berth-monitor --id ID --dir DIR --cwd DIR --pid-file FILE --sync-fd N [--seccomp-fd N]
 *                 [--log FILE] [--console-socket PATH] [--tty] [--stdin] [--stdin-once] --
 * COMMAND...
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "monitor/asan_options.h"
#include "monitor/mon.h"

#define DRAIN_MAX_NS 3000000000ll /* after the init's end, with output still coming */
#define DRAIN_IDLE_NS 100000000ll /* the same without output: a grandchild holds the pipe */
#define GOODBYE_NS 500000000ll    /* for attach clients to take what is queued */
#define OOM_AGAIN_NS 20000000ll
#define OOM_SETTLE_NS 2000000000ll
#define TTY_RETRY_NS 1000000000ll
#define REST_BYTES (BERTH_MON_READ / 2)
#define REST_BUSY_NS 1000000ll
#define REST_MAX_NS 300000ll

static struct mon mon; /* large buffers: pages that are not touched cost nothing */

int64_t mon_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

uint64_t mon_realtime_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void mon_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int number(const char *s)
{
	char *end;
	long v = strtol(s, &end, 10);
	return *s && !*end && v >= 3 && v < 1024 ? (int)v : -1;
}

static int parse(int argc, char **argv, struct mon_opts *o)
{
	static const struct option longs[] = {{"id", 1, NULL, 'i'}, {"dir", 1, NULL, 'd'},
	        {"cwd", 1, NULL, 'c'}, {"pid-file", 1, NULL, 'p'}, {"log", 1, NULL, 'l'},
	        {"console-socket", 1, NULL, 's'}, {"sync-fd", 1, NULL, 'y'},
	        {"seccomp-fd", 1, NULL, 'f'}, {"tty", 0, NULL, 't'}, {"stdin", 0, NULL, 'n'},
	        {"stdin-once", 0, NULL, 'o'}, {0}};
	int c;
	*o = (struct mon_opts){.sync_fd = -1, .seccomp_fd = -1};
	while ((c = getopt_long(argc, argv, "+", longs, NULL)) != -1) {
		switch (c) {
		case 'i':
			o->id = optarg;
			break;
		case 'd':
			o->dir = optarg;
			break;
		case 'c':
			o->cwd = optarg;
			break;
		case 'p':
			o->pid_file = optarg;
			break;
		case 'l':
			o->log_path = optarg;
			break;
		case 's':
			o->console_socket = optarg;
			break;
		case 'y':
			o->sync_fd = number(optarg);
			break;
		case 'f':
			o->seccomp_fd = number(optarg);
			break;
		case 't':
			o->tty = true;
			break;
		case 'n':
			o->use_stdin = true;
			break;
		case 'o':
			o->use_stdin = o->stdin_once = true;
			break;
		default:
			return -1;
		}
	}
	o->argv = argv + optind;
	return o->id && o->dir && o->cwd && o->pid_file && o->sync_fd >= 0 && argv[optind] &&
	                       (!o->tty || o->console_socket)
	               ? 0
	               : -1;
}

/* Binds NAME in the current directory, which keeps the path short. */
static int listen_at(const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	memcpy(sa.sun_path, name, strlen(name) + 1);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	(void)unlink(name);
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || chmod(name, 0600) < 0 ||
	        listen(fd, 64) < 0) {
		int e = errno;
		close(fd);
		errno = e;
		return -1;
	}
	return fd;
}

static int set_up(struct mon *m, const char **ret_what)
{
	const struct mon_opts *o = m->o;
	signal(SIGPIPE, SIG_IGN);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	*ret_what = "signals";
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 ||
	        (m->sigfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
		return -errno;
	*ret_what = "child subreaper";
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return -errno;
	*ret_what = o->dir;
	m->dirfd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (m->dirfd < 0 || fchdir(m->dirfd) < 0)
		return -errno;
	*ret_what = BERTH_MON_RECORD;
	(void)unlink(BERTH_MON_EXIT);
	(void)unlink(BERTH_MON_OOM);
	if (mon_write_record(m) < 0)
		return -errno;
	*ret_what = BERTH_MON_ATTACH;
	if ((m->attach_fd = listen_at(BERTH_MON_ATTACH)) < 0)
		return -errno;
	*ret_what = BERTH_MON_CTL;
	if ((m->ctl_fd = listen_at(BERTH_MON_CTL)) < 0)
		return -errno;
	if (o->log_path) {
		*ret_what = o->log_path;
		int r = mon_log_open(&m->log, o->log_path);
		if (r < 0)
			return r;
	}
	/* The console socket may be relative to the bundle. */
	*ret_what = o->cwd;
	return chdir(o->cwd) < 0 ? -errno : 0;
}

static void send_to_clients(struct mon *m, unsigned char id, const char *p, size_t n)
{
	while (n > 0) {
		size_t piece = n < BERTH_MON_ATTACH_OUT ? n : BERTH_MON_ATTACH_OUT;
		mon_attach_send(m, id, p, piece);
		p += piece;
		n -= piece;
	}
}

/* A container that writes many short lines wakes us for each of them, and we stand in its way:
 * where one read soon follows another and brings little, the next one waits for as long as half of
 * a pipe takes to fill at that pace. */
static void rest_a_little(struct mon *m, size_t n)
{
	int64_t now = mon_now_ns(), took = now - m->read_ns;
	if (n < REST_BYTES && took < REST_BUSY_NS) {
		int64_t rest = took * REST_BYTES / (int64_t)n;
		m->rest_ns = now + (rest < REST_MAX_NS ? rest : REST_MAX_NS);
	}
	m->read_ns = now;
}

/* True where the stream may have more. */
static bool pump(struct mon *m, int *fd, struct mon_stream *s, unsigned char id)
{
	ssize_t n = read(*fd, s->buf + s->len, BERTH_MON_READ);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		if (n < 0 && errno == EIO && m->o->tty && !m->init_ended) {
			/* No slave is open just now. */
			m->tty_retry_ns = mon_now_ns() + TTY_RETRY_NS;
			return false;
		}
		if (m->in.fd == *fd)
			m->in.fd = -1;
		mon_close(fd);
		return false;
	}
	send_to_clients(m, id, s->buf + s->len, (size_t)n);
	s->len += (size_t)n;
	mon_log_lines(&m->log, s, mon_realtime_ns(), false);
	rest_a_little(m, (size_t)n);
	return true;
}

static void reap(struct mon *m)
{
	struct signalfd_siginfo si;
	while (read(m->sigfd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		int sig = (int)si.ssi_signo;
		/* Whoever wants us to end means the container: we end with it. */
		if ((sig == SIGTERM || sig == SIGINT || sig == SIGQUIT) && !m->init_ended)
			kill(m->init, sig);
	}
	pid_t pid;
	int status;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == m->init && !m->init_ended) {
			m->init_ended = true;
			m->init_status = status;
			(void)mon_oom_check(m); /* while the cgroup is there */
		}
	}
}

static void oom_look(struct mon *m)
{
	int64_t now = mon_now_ns();
	bool before = m->oom.seen;
	m->oom.again_ns = 0;
	if (mon_oom_check(m)) {
		if (!before)
			mon_touch_oom(m);
	} else if (now < m->oom.until_ns) {
		m->oom.again_ns = now + OOM_AGAIN_NS;
	}
}

static void oom_event(struct mon *m)
{
	uint64_t n;
	if (m->oom.event_fd >= 0 && read(m->oom.event_fd, &n, sizeof(n)) < 0)
		mon_close(&m->oom.event_fd);
	m->oom.until_ns = mon_now_ns() + OOM_SETTLE_NS;
	oom_look(m);
}

enum {
	P_SIG,
	P_OUT,
	P_ERR,
	P_IN,
	P_ATTACH,
	P_CTL,
	P_OOM,
	P_OOM_ABOVE,
	P_CTLS,
	P_CLIENTS = P_CTLS + BERTH_MON_CTL_CLIENTS,
	P_COUNT = P_CLIENTS + BERTH_MON_CLIENTS
};

static void set_poll(struct pollfd *p, int fd, short events)
{
	p->fd = fd;
	p->events = events;
	p->revents = 0;
}

/* One round: waits at most wait_ns (-1 = for ever) and serves what is ready. True where the
 * container wrote something. */
static bool turn(struct mon *m, int64_t wait_ns)
{
	struct pollfd p[P_COUNT];
	int64_t now = mon_now_ns(), hold = mon_attach_hold_ns(m);
	bool retry = m->tty_retry_ns && now >= m->tty_retry_ns;
	if (retry)
		m->tty_retry_ns = 0;
	int64_t rest = m->rest_ns > now && !m->init_ended ? m->rest_ns - now : 0;
	bool read_err = hold == 0 && rest == 0;
	bool read_out = read_err && m->tty_retry_ns == 0;

	set_poll(&p[P_SIG], m->sigfd, POLLIN);
	set_poll(&p[P_OUT], read_out ? m->out_fd : -1, POLLIN);
	set_poll(&p[P_ERR], read_err ? m->err_fd : -1, POLLIN);
	/* A pipe without reader is POLLERR even where nothing is asked for. */
	set_poll(&p[P_IN], m->in.tty && !m->in.len ? -1 : m->in.fd, m->in.len ? POLLOUT : 0);
	set_poll(&p[P_ATTACH], m->attach_fd, POLLIN);
	set_poll(&p[P_CTL], m->ctl_fd, POLLIN);
	int oom_fd = m->oom.v2 ? m->oom.counter_fd : m->oom.event_fd;
	bool look = !m->oom.seen && m->oom.counter_fd >= 0;
	set_poll(&p[P_OOM], look ? oom_fd : -1, m->oom.v2 ? POLLPRI : POLLIN);
	set_poll(&p[P_OOM_ABOVE], look ? m->oom.parent_fd : -1, POLLPRI);
	for (int i = 0; i < BERTH_MON_CTL_CLIENTS; i++)
		set_poll(&p[P_CTLS + i], m->ctl_clients[i], POLLIN);
	for (int i = 0; i < BERTH_MON_CLIENTS; i++) {
		mon_client_events(m, &m->clients[i], &p[P_CLIENTS + i]);
		p[P_CLIENTS + i].revents = 0;
	}
	if (hold > 0 && (wait_ns < 0 || hold < wait_ns))
		wait_ns = hold;
	if (rest > 0 && (wait_ns < 0 || rest < wait_ns))
		wait_ns = rest;
	if (m->tty_retry_ns && (wait_ns < 0 || m->tty_retry_ns - now < wait_ns))
		wait_ns = m->tty_retry_ns - now;
	if (m->oom.again_ns && (wait_ns < 0 || m->oom.again_ns - now < wait_ns))
		wait_ns = m->oom.again_ns > now ? m->oom.again_ns - now : 0;
	struct timespec ts = {.tv_sec = wait_ns / 1000000000ll, .tv_nsec = wait_ns % 1000000000ll};
	int n = ppoll(p, P_COUNT, wait_ns < 0 ? NULL : &ts, NULL);
	if (hold > 0)
		mon_attach_held(m, mon_now_ns() - now + 1);
	if (m->oom.again_ns && mon_now_ns() >= m->oom.again_ns)
		oom_look(m);
	if (n <= 0)
		return false;

	bool wrote = false;
	if (p[P_OUT].revents)
		wrote |= pump(m, &m->out_fd, &m->out, BERTH_MON_STDOUT);
	if (p[P_ERR].revents)
		wrote |= pump(m, &m->err_fd, &m->err, BERTH_MON_STDERR);
	if (p[P_OOM].revents)
		oom_event(m);
	else if (p[P_OOM_ABOVE].revents)
		oom_look(m);
	if (p[P_IN].revents && m->in.fd >= 0) {
		if (m->in.len)
			mon_stdin_flush(m);
		else if (!m->in.tty)
			mon_close(&m->in.fd);
	}
	for (int i = 0; i < BERTH_MON_CLIENTS; i++)
		if (p[P_CLIENTS + i].revents && m->clients[i].fd == p[P_CLIENTS + i].fd)
			mon_client_ready(m, &m->clients[i], p[P_CLIENTS + i].revents);
	for (int i = 0; i < BERTH_MON_CTL_CLIENTS; i++)
		if (p[P_CTLS + i].revents && m->ctl_clients[i] == p[P_CTLS + i].fd)
			mon_ctl_ready(m, &m->ctl_clients[i]);
	if (p[P_ATTACH].revents)
		mon_attach_accept(m);
	if (p[P_CTL].revents)
		mon_ctl_accept(m);
	if (p[P_SIG].revents)
		reap(m); /* last: what came before the end is read before the end is known */
	return wrote;
}

/* The init has ended: what it wrote is still in the pipes. */
static void drain(struct mon *m)
{
	int64_t now = mon_now_ns(), end = now + DRAIN_MAX_NS, idle = now + DRAIN_IDLE_NS;
	m->tty_retry_ns = 0;
	while ((m->out_fd >= 0 || m->err_fd >= 0) && now < end && now < idle) {
		int64_t until = idle < end ? idle : end;
		bool wrote = turn(m, until - now);
		now = mon_now_ns();
		if (wrote)
			idle = now + DRAIN_IDLE_NS;
	}
	mon_log_lines(&m->log, &m->out, mon_realtime_ns(), true);
	mon_log_lines(&m->log, &m->err, mon_realtime_ns(), true);
}

static void say_goodbye(struct mon *m)
{
	int64_t now = mon_now_ns(), end = now + GOODBYE_NS;
	if (m->in.fd != m->out_fd)
		mon_close(&m->out_fd);
	m->in.fd = -1;
	mon_close(&m->err_fd);
	while (mon_attach_pending(m) && now < end) {
		(void)turn(m, end - now);
		now = mon_now_ns();
	}
}

int main(int argc, char **argv)
{
	struct mon *m = &mon;
	static struct mon_opts o;
	if (parse(argc, argv, &o) < 0) {
		dprintf(2, "berth-monitor: it is started by berthd\n");
		return 2;
	}
	m->o = &o;
	m->sync_fd = o.sync_fd;
	m->dirfd = m->sigfd = m->out_fd = m->err_fd = m->attach_fd = m->ctl_fd = m->in.fd = -1;
	m->log.fd = m->log.dirfd = m->oom.counter_fd = m->oom.event_fd = m->oom.parent_fd = -1;
	m->out.name = "stdout";
	m->err.name = "stderr";
	m->in.once = o.stdin_once;
	m->in.tty = o.tty;
	for (int i = 0; i < BERTH_MON_CLIENTS; i++)
		m->clients[i].fd = -1;
	for (int i = 0; i < BERTH_MON_CTL_CLIENTS; i++)
		m->ctl_clients[i] = -1;
	(void)fcntl(o.sync_fd, F_SETFD, FD_CLOEXEC);
	if (o.seccomp_fd >= 0)
		(void)fcntl(o.seccomp_fd, F_SETFD, FD_CLOEXEC);

	const char *what = "";
	int r = set_up(m, &what);
	if (r < 0) {
		char words[512];
		int n = snprintf(words, sizeof(words), "%s: %s", what, strerror(-r));
		mon_report_error(m, words, n < (int)sizeof(words) ? (size_t)n : sizeof(words) - 1);
		return 1;
	}
	if (mon_create(m, &what) < 0) {
		mon_report_error(m, what, strlen(what));
		return 1;
	}
	if (chdir("/") < 0)
		return 1;
	mon_oom_open(m);
	/* A rest of microseconds is to be one; no child inherits it. */
	(void)prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	/* After the runtime has run: a container inherits nothing of it. Refused where we lack the
	 * privilege. */
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)!write(fd, "-998", 4);
	mon_close(&fd);
	if (mon_write_record(m) < 0 || mon_confine(o.seccomp_fd) < 0) {
		char words[160];
		int n = snprintf(words, sizeof(words), "the monitor could not be set up: %s",
		        strerror(errno));
		mon_report_error(m, words, (size_t)n);
		kill(m->init, SIGKILL);
		return 1;
	}
	mon_close(&o.seccomp_fd);
	mon_report_ok(m);
	mon_log_lines(&m->log, &m->err, mon_realtime_ns(), false);

	reap(m);
	while (!m->init_ended)
		(void)turn(m, -1);
	drain(m);
	(void)mon_write_exit(m);
	say_goodbye(m);
	return 0;
}
