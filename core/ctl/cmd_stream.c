/* exec -i, exec -t and attach: a terminal, or pipes, at the other end of a WebSocket. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl/wire.h"

#define STATUS_MAX 65536 /* of the error channel */
#define DETACH_FIRST 16  /* Ctrl-P, then Ctrl-Q */
#define DETACH_THEN 17
#define EXIT_TRIES 40 /* until an ended container's state is told */
#define EXIT_PAUSE_US 50000

enum channel { CH_STDIN, CH_STDOUT, CH_STDERR, CH_ERROR, CH_RESIZE };

struct session {
	struct ctl *c;
	struct ctl_wire wire;
	struct ctl_ws ws;
	bool tty, in_open, can_detach, detached, after_first;
	struct berth_buf status;
	int winch; /* readable when the terminal has another size */
	uint64_t deadline;
};

/* ---- the terminal ---- */

static struct termios terminal;
static volatile sig_atomic_t is_raw;
static int winch_pipe[2] = {-1, -1};

static void cook(void)
{
	if (is_raw)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal);
	is_raw = 0;
}

static void on_winch(int sig)
{
	int saved = errno;
	(void)sig;
	(void)!write(winch_pipe[1], "", 1); /* full: there is one already */
	errno = saved;
}

static void on_end(int sig)
{
	cook();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void set_signals(void)
{
	static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	struct sigaction end = {.sa_handler = on_end}, winch = {.sa_handler = on_winch};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(ends); i++)
		sigaction(ends[i], &end, NULL);
	sigaction(SIGWINCH, &winch, NULL);
	signal(SIGPIPE, SIG_IGN); /* a server that goes is an error like others */
}

static int make_raw(struct berth_error **err)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &terminal) < 0)
		return 0; /* none here: then it is the other end's alone */
	raw = terminal;
	cfmakeraw(&raw);
	if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
		return berth_error_errno(err, errno, "setting the terminal");
	is_raw = 1;
	return 0;
}

static void send_size(struct session *s)
{
	struct winsize ws = {0};
	char text[64];

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) < 0 && ioctl(STDIN_FILENO, TIOCGWINSZ, &ws) < 0)
		return;
	int n = snprintf(
	        text, sizeof(text), "{\"Width\":%u,\"Height\":%u}\n", ws.ws_col, ws.ws_row);
	if (ws.ws_col && ws.ws_row)
		ctl_ws_send(&s->ws, CH_RESIZE, text, (size_t)n);
}

/* ---- what comes ---- */

static void put(int fd, const char *p, size_t n)
{
	int r = berth_write_all(fd, p, n);
	if (r == 0)
		return;
	cook();
	if (r == -EPIPE) {
		signal(SIGPIPE, SIG_DFL);
		raise(SIGPIPE);
	}
	fprintf(stderr, "berthctl: writing the output: %s\n", strerror(-r));
	_exit(CTL_EXEC_FAILED);
}

static void got(void *arg, unsigned int channel, const char *p, size_t n)
{
	struct session *s = arg;

	if (channel == CH_STDOUT)
		put(STDOUT_FILENO, p, n);
	else if (channel == CH_STDERR)
		put(STDERR_FILENO, p, n);
	else if (channel == CH_ERROR && s->status.len + n <= STATUS_MAX)
		berth_buf_add(&s->status, p, n);
}

/* ---- what goes ---- */

/* How much of the input is to be sent: it may end with the keys that detach. */
static size_t look_for_detach(struct session *s, const char *p, size_t n, bool *ret_hold)
{
	*ret_hold = false;
	for (size_t i = 0; i < n; i++) {
		if (s->after_first && p[i] == DETACH_THEN) {
			s->detached = true;
			return i ? i - 1 : 0;
		}
		s->after_first = p[i] == DETACH_FIRST;
	}
	*ret_hold = s->after_first;
	return n;
}

static void send_input(struct session *s, const char *p, size_t n)
{
	static const char first = DETACH_FIRST;
	bool held = s->after_first, hold = false;

	if (!s->can_detach) {
		ctl_ws_send(&s->ws, CH_STDIN, p, n);
		return;
	}
	size_t len = look_for_detach(s, p, n, &hold);
	/* The first key of the two was held back until what follows is known. */
	if (held && !(s->detached && p[0] == DETACH_THEN))
		ctl_ws_send(&s->ws, CH_STDIN, &first, 1);
	ctl_ws_send(&s->ws, CH_STDIN, p, hold ? len - 1 : len);
}

static void read_input(struct session *s)
{
	char buf[CTL_WIRE_READ];
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n > 0) {
		send_input(s, buf, (size_t)n);
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	s->in_open = false;
	if (!ctl_ws_end(&s->ws, CH_STDIN) && !s->tty)
		fprintf(stderr,
		        "berthctl: the input has ended, and this server cannot be told so\n");
}

/* ---- the loop ---- */

static int deadline_ms(const struct session *s)
{
	uint64_t now = berth_now_ns();
	if (!s->deadline)
		return -1;
	return now < s->deadline ? (int)((s->deadline - now) / 1000000u) + 1 : 0;
}

/* One round; 1 where the server has said or done its last. */
static int turn(struct session *s, struct berth_error **err)
{
	char buf[CTL_WIRE_READ];
	bool take = s->in_open && ctl_wire_waits(&s->wire) < CTL_WIRE_OUT;
	struct pollfd p[3] = {{.fd = take ? STDIN_FILENO : -1, .events = POLLIN},
	        {.fd = s->wire.fd, .events = ctl_wire_events(&s->wire, true)},
	        {.fd = s->winch, .events = POLLIN}};

	int ready = poll(p, 3, deadline_ms(s));
	if (ready < 0 && errno != EINTR)
		return berth_error_errno(err, errno, "poll");
	if (ready == 0)
		return berth_error_set(err, BERTH_DEADLINE_EXCEEDED, "not within --timeout");
	if (ready < 0)
		return 0;
	if (p[2].revents) {
		while (read(s->winch, buf, sizeof(buf)) > 0)
			;
		send_size(s);
	}
	if (p[0].revents)
		read_input(s);
	/* Always: what was queued just now may go at once. */
	ssize_t n =
	        ctl_wire_ready(&s->wire, (short)(p[1].revents | POLLOUT), buf, sizeof(buf), err);
	if (n < 0)
		return *err ? -1 : 1;
	if (n > 0 && ctl_ws_feed(&s->ws, buf, (size_t)n, err) < 0)
		return -1;
	return s->ws.ended || s->detached;
}

static int loop(struct session *s, struct berth_error **err)
{
	int r = 0;

	if (pipe2(winch_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return berth_error_errno(err, errno, "pipe");
	s->winch = winch_pipe[0];
	set_signals();
	if (s->tty && s->in_open && make_raw(err) < 0)
		return -1;
	if (s->tty)
		send_size(s);
	while (r == 0)
		r = turn(s, err);
	cook();
	return r < 0 ? -1 : 0;
}

/* ---- the end ---- */

/* The exit status by what the error channel said. */
static int judge(struct session *s, struct berth_error **err)
{
	json_t *j = s->status.len ? json_loadb(s->status.data, s->status.len, 0, NULL) : NULL;
	const char *status = json_string_value(json_object_get(j, "status"));
	const char *message = json_string_value(json_object_get(j, "message"));
	const char *reason = json_string_value(json_object_get(j, "reason"));
	json_t *causes = json_object_get(json_object_get(j, "details"), "causes"), *cause;
	int code = -1;
	size_t i;

	if (status && strcmp(status, "Success") == 0)
		code = CTL_OK;
	json_array_foreach (causes, i, cause) {
		const char *kind = json_string_value(json_object_get(cause, "reason"));
		const char *text = json_string_value(json_object_get(cause, "message"));
		if (reason && strcmp(reason, "NonZeroExitCode") == 0 && kind && text &&
		        strcmp(kind, "ExitCode") == 0)
			code = atoi(text) & 255;
	}
	if (code < 0 && message)
		berth_error_set(err, BERTH_UNKNOWN, "%s", message);
	else if (code < 0)
		berth_error_set(err, BERTH_UNAVAILABLE,
		        "the stream from %s ended, and how the command ended was not told",
		        s->wire.host);
	json_decref(j);
	return code;
}

static int stream(struct session *s, const char *url, struct berth_error **err)
{
	int code = -1;

	s->ws.got = got;
	s->ws.arg = s;
	s->wire.fd = -1;
	if (s->c->have_timeout && s->c->timeout_ms)
		s->deadline = berth_now_ns() + s->c->timeout_ms * 1000000u;
	if (ctl_ws_open(s->c, &s->ws, &s->wire, url, err) == 0 && loop(s, err) == 0)
		code = s->detached ? CTL_OK : judge(s, err);
	if (s->ws.ctx && !*err) {
		struct berth_error *ignored = NULL;
		ctl_ws_bye(&s->ws);
		(void)!ctl_wire_ready(&s->wire, POLLOUT, NULL, 0, &ignored);
		berth_error_free(ignored);
	}
	ctl_ws_free(&s->ws);
	ctl_wire_close(&s->wire);
	berth_buf_finish(&s->status);
	return code;
}

/* ---- commands ---- */

static char *text(const char *s)
{
	return (char *)(uintptr_t)s;
}

int ctl_stream_exec(struct ctl *c, const char *id, struct berth_error **err)
{
	Runtime__V1__ExecRequest req = RUNTIME__V1__EXEC_REQUEST__INIT;
	struct session s = {.c = c, .tty = ctl_flag(c, "tty"), .in_open = ctl_flag(c, "stdin")};

	req.container_id = text(id);
	req.cmd = c->args + 1;
	req.n_cmd = (size_t)c->n_args - 1;
	req.tty = s.tty;
	req.stdin = s.in_open;
	req.stdout = true;
	req.stderr = !s.tty;
	Runtime__V1__ExecResponse *res = ctl_call(c, "RuntimeService/Exec", &req.base,
	        &runtime__v1__exec_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	int code = stream(&s, res->url, err);
	ctl_free_message(res);
	return code;
}

/* The status of a container whose streams have ended, if it has ended, too. */
static int exit_status(struct ctl *c, const char *id)
{
	Runtime__V1__ContainerStatusRequest req = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	struct berth_error *ignored = NULL;
	int code = -1;

	req.container_id = text(id);
	for (int i = 0; i < EXIT_TRIES && code < 0 && !ignored; i++) {
		Runtime__V1__ContainerStatusResponse *res =
		        ctl_call(c, "RuntimeService/ContainerStatus", &req.base,
		                &runtime__v1__container_status_response__descriptor, CTL_SHORT_MS,
		                &ignored);
		if (res && res->status &&
		        res->status->state == RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED)
			code = res->status->exit_code & 255;
		else if (res)
			usleep(EXIT_PAUSE_US);
		ctl_free_message(res);
	}
	berth_error_free(ignored);
	return code < 0 ? CTL_OK : code;
}

int ctl_cmd_attach(struct ctl *c, struct berth_error **err)
{
	Runtime__V1__AttachRequest req = RUNTIME__V1__ATTACH_REQUEST__INIT;
	struct session s = {.c = c, .tty = ctl_flag(c, "tty"), .in_open = ctl_flag(c, "stdin")};

	s.can_detach = s.tty && s.in_open && isatty(STDIN_FILENO);
	req.container_id = text(ctl_find_container(c, c->args[0], err));
	if (!req.container_id)
		return -1;
	req.tty = s.tty;
	req.stdin = s.in_open;
	req.stdout = true;
	req.stderr = !s.tty;
	Runtime__V1__AttachResponse *res = ctl_call(c, "RuntimeService/Attach", &req.base,
	        &runtime__v1__attach_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	int code = stream(&s, res->url, err);
	ctl_free_message(res);
	if (s.detached)
		fputs("\r\n", stderr);
	else if (code == CTL_OK)
		code = exit_status(c, req.container_id);
	return code;
}
