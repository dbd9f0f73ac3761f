/* The time before the container exists: the monitor runs the runtime's create command with the
 * container's streams as stdio and learns the init's pid. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include <unistd.h>

#include "monitor/mon.h"

/* What the command says on stderr. The same pipe is the container's stderr. */
static struct {
	char text[BERTH_MON_STDERR_MAX];
	size_t len;
} words;
static char message[512];

struct pipes {
	int in_r, in_w, out_r, out_w, err_r, err_w;
	int console; /* listening */
};

static int failed(const char **ret_err, const char *what, int errnum)
{
	(void)snprintf(message, sizeof(message), "%s: %s", what, strerror(errnum));
	*ret_err = message;
	return -1;
}

static int make_pipe(int *r, int *w)
{
	int fd[2];
	if (pipe2(fd, O_CLOEXEC) < 0)
		return -1;
	/* /dev/stdout opens it anew, and who does may be of a user namespace in which we are
	 * nobody. Others cannot reach it. */
	(void)fchmod(fd[0], 0666);
	*r = fd[0];
	*w = fd[1];
	return 0;
}

static int nonblock(int fd)
{
	int fl = fcntl(fd, F_GETFL);
	return fl < 0 ? -1 : fcntl(fd, F_SETFL, fl | O_NONBLOCK);
}

static int listen_console(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(sa.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(sa.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	(void)unlink(path);
	mode_t old = umask(0077);
	int r = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	umask(old);
	if (r < 0 || listen(fd, 1) < 0) {
		int e = errno;
		close(fd);
		errno = e;
		return -1;
	}
	return fd;
}

static int open_pipes(struct mon *m, struct pipes *p)
{
	const struct mon_opts *o = m->o;
	*p = (struct pipes){-1, -1, -1, -1, -1, -1, -1};
	if (make_pipe(&p->err_r, &p->err_w) < 0)
		return -1;
	if (o->tty) {
		p->console = listen_console(o->console_socket);
		return p->console < 0 ? -1 : nonblock(p->err_r);
	}
	if (make_pipe(&p->out_r, &p->out_w) < 0 || nonblock(p->out_r) < 0 || nonblock(p->err_r) < 0)
		return -1;
	if (o->use_stdin && (make_pipe(&p->in_r, &p->in_w) < 0 || nonblock(p->in_w) < 0))
		return -1;
	return 0;
}

static void close_pipes(struct pipes *p)
{
	int *all[] = {&p->in_r, &p->in_w, &p->out_r, &p->out_w, &p->err_r, &p->err_w, &p->console};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		mon_close(all[i]);
}

static void run_command(const struct mon *m, const struct pipes *p)
{
	/* If we are killed now, the command must not go on without us. */
	pid_t parent = getppid();
	(void)parent;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigaction(SIGPIPE, &dfl, NULL);

	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int in = p->in_r >= 0 ? p->in_r : null;
	int out = p->out_w >= 0 ? p->out_w : null;
	if (null < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(p->err_w, 2) < 0)
		_exit(127);
	if (chdir(m->o->cwd) < 0)
		dprintf(2, "%s: %s", m->o->cwd, strerror(errno));
	else {
		execv(m->o->argv[0], m->o->argv);
		dprintf(2, "%s: %s", m->o->argv[0], strerror(errno));
	}
	_exit(127);
}

/* Keeps the end of what is said: there the cause stands. */
static void read_words(int fd)
{
	for (;;) {
		if (words.len == sizeof(words.text)) {
			memmove(words.text, words.text + sizeof(words.text) / 2,
			        sizeof(words.text) / 2);
			words.len = sizeof(words.text) / 2;
		}
		ssize_t n = read(fd, words.text + words.len, sizeof(words.text) - words.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		words.len += (size_t)n;
	}
}

/* The runtime sends the master of the pty that it made. */
static int receive_master(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return -1;
	struct timeval patience = {.tv_sec = 10};
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl;
	char name[256];
	struct iovec iov = {.iov_base = name, .iov_len = sizeof(name)};
	struct msghdr msg = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = ctl.buf,
	        .msg_controllen = sizeof(ctl.buf)};
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	int master = -1;
	struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	        c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&master, CMSG_DATA(c), sizeof(int));
	close(fd);
	if (master >= 0 && nonblock(master) < 0)
		mon_close(&master);
	return master;
}

void mon_kill_descendants(void)
{
	/* As the subreaper we inherit each grandchild when its parent is killed. */
	for (;;) {
		DIR *d = opendir("/proc");
		if (!d)
			return;
		struct dirent *e;
		bool any = false;
		while ((e = readdir(d))) {
			pid_t pid = (pid_t)strtol(e->d_name, NULL, 10), ppid;
			uint64_t start;
			if (pid > 0 && mon_proc_stat(pid, &ppid, &start) == 0 && ppid == getpid()) {
				any = true;
				kill(pid, SIGKILL);
				while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
					;
			}
		}
		closedir(d);
		if (!any)
			return;
	}
}

/* Waits for the command; 0 with its status, -1 where berthd has gone. */
static int wait_command(struct mon *m, pid_t pid, struct pipes *p, int *ret_status)
{
	for (;;) {
		struct pollfd pf[4] = {
		        {.fd = m->sigfd, .events = POLLIN}, {.fd = p->err_r, .events = POLLIN},
		        {.fd = p->console, .events = POLLIN},
		        {.fd = m->sync_fd, .events = 0}, /* POLLERR: nobody reads it any more */
		};
		if (poll(pf, 4, -1) < 0 && errno != EINTR)
			return -1;
		if (pf[1].revents)
			read_words(p->err_r);
		if (pf[2].revents && m->out_fd < 0) {
			m->out_fd = receive_master(p->console);
			mon_close(&p->console);
		}
		if (pf[0].revents) {
			struct signalfd_siginfo si;
			(void)!read(m->sigfd, &si, sizeof(si));
			pid_t r = waitpid(pid, ret_status, WNOHANG);
			if (r == pid)
				break;
			if (r < 0 && errno != EINTR)
				return -1;
		}
		if (pf[3].revents)
			return -1;
	}
	read_words(p->err_r);
	return 0;
}

static int read_pid(const char *path, pid_t *ret)
{
	char buf[32], *end;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0) {
		errno = EBADMSG;
		return -1;
	}
	buf[n] = '\0';
	long v = strtol(buf, &end, 10);
	if (v <= 1 || v > INT32_MAX || (*end && *end != '\n')) {
		errno = EBADMSG;
		return -1;
	}
	*ret = (pid_t)v;
	return 0;
}

static int told(const char **ret_err, int status)
{
	while (words.len && strchr(" \t\r\n", words.text[words.len - 1]))
		words.len--;
	if (words.len) {
		words.text[words.len < sizeof(words.text) ? words.len : words.len - 1] = '\0';
		*ret_err = words.text;
		return -1;
	}
	if (WIFSIGNALED(status))
		(void)snprintf(message, sizeof(message), "the command was killed by signal %d",
		        WTERMSIG(status));
	else
		(void)snprintf(message, sizeof(message),
		        "the command ended with status %d and said nothing", WEXITSTATUS(status));
	*ret_err = message;
	return -1;
}

static int find_init(struct mon *m, const char **ret_err)
{
	pid_t ppid;
	if (read_pid(m->o->pid_file, &m->init) < 0)
		return failed(ret_err, m->o->pid_file, errno);
	int r = mon_proc_stat(m->init, &ppid, &m->init_start);
	if (r < 0)
		return failed(ret_err, "the container's init", -r);
	if (ppid != getpid()) {
		m->init = 0;
		*ret_err = "the container's init did not become a child of the monitor";
		return -1;
	}
	return 0;
}

int mon_create(struct mon *m, const char **ret_err)
{
	struct pipes p;
	int status = 0;

	(void)unlink(m->o->pid_file);
	if (open_pipes(m, &p) < 0) {
		int e = errno;
		close_pipes(&p);
		return failed(ret_err, "streams of the container", e);
	}
	pid_t pid = fork();
	if (pid == 0)
		run_command(m, &p);
	if (pid < 0) {
		int e = errno;
		close_pipes(&p);
		return failed(ret_err, "fork", e);
	}
	mon_close(&p.in_r);
	mon_close(&p.out_w);
	mon_close(&p.err_w);
	mon_confine_bounds();
	int r = wait_command(m, pid, &p, &status);
	if (m->o->tty)
		(void)unlink(m->o->console_socket);
	mon_close(&p.console);
	if (r < 0)
		*ret_err = "the host went away";
	else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		r = told(ret_err, status);
	else
		r = find_init(m, ret_err);
	if (r == 0 && m->o->tty && m->out_fd < 0) {
		*ret_err = "the runtime sent no terminal";
		r = -1;
	}
	if (r < 0) {
		mon_kill_descendants();
		close_pipes(&p);
		return -1;
	}
	if (m->o->tty) {
		mon_close(&p.err_r); /* it was the command's alone */
		m->in.fd = m->o->use_stdin ? m->out_fd : -1;
	} else {
		m->out_fd = p.out_r;
		m->err_fd = p.err_r;
		m->in.fd = p.in_w;
	}
	/* Warnings of the runtime belong to the log: they came by the container's stderr. */
	if (!m->o->tty && words.len) {
		size_t n = words.len < sizeof(m->err.buf) ? words.len : sizeof(m->err.buf);
		memcpy(m->err.buf, words.text + words.len - n, n);
		m->err.len = n;
	}
	return 0;
}
