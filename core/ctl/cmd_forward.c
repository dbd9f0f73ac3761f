/* port-forward: a listener for each port, and a process for each connection, so that one that hangs
 * holds up no other. A connection is a SPDY stream of its own, which unlike a WebSocket's channel
 * can end in one direction and go on in the other. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl/wire.h"
#include "stream/spdy_wire.h"

#define LISTENERS_MAX 64
#define CHILDREN_MAX 256
#define BACKLOG 64
#define ERROR_ID 1u
#define DATA_ID 3u
#define ERROR_MAX 4096 /* of what the server says about a port */

struct listener {
	int fd;
	uint16_t remote;
};

struct forward {
	struct ctl *c;
	const char *pod;
	struct listener listeners[LISTENERS_MAX];
	size_t n, children;
};

/* ---- one connection ---- */

struct pair {
	struct ctl_wire wire;
	struct berth_spdy_in in;
	struct berth_spdy_out out;
	int fd;                 /* the local side */
	struct berth_buf local; /* to be written to it, from local_off on */
	size_t local_off;
	bool sent_fin, got_fin, shut, over;
	struct berth_buf error;
};

static int on_data(void *arg, uint32_t id, const char *p, size_t n, bool fin)
{
	struct pair *x = arg;

	if (id == ERROR_ID && x->error.len + n <= ERROR_MAX)
		berth_buf_add(&x->error, p, n);
	if (id != DATA_ID)
		return 0;
	berth_buf_add(&x->local, p, n);
	x->got_fin = x->got_fin || fin;
	return 0;
}

static int on_fin(void *arg, uint32_t id)
{
	return on_data(arg, id, NULL, 0, true);
}

static int on_rst(void *arg, uint32_t id, uint32_t status)
{
	struct pair *x = arg;
	(void)id;
	(void)status;
	x->over = true;
	return 0;
}

static int on_ping(void *arg, uint32_t id)
{
	struct pair *x = arg;
	if (id % 2 == 0) /* the server's; ours are odd */
		berth_spdy_put_ping(&x->wire.out, id);
	return 0;
}

static int on_goaway(void *arg)
{
	(void)arg; /* the streams that are there go on */
	return 0;
}

static int on_syn(
        void *arg, uint32_t id, bool fin, bool one_way, const struct berth_spdy_headers *h)
{
	(void)arg;
	(void)id;
	(void)fin;
	(void)one_way;
	(void)h;
	return -1; /* a server opens none here */
}

static int on_words(void *arg, uint32_t id, uint32_t v)
{
	(void)arg;
	(void)id;
	(void)v; /* windows: it is TCP that holds us back */
	return 0;
}

static const struct berth_spdy_events events = {.syn_stream = on_syn,
        .data = on_data,
        .fin = on_fin,
        .rst = on_rst,
        .setting = on_words,
        .ping = on_ping,
        .goaway = on_goaway,
        .window = on_words};

static int open_streams(struct pair *x, uint16_t port, struct berth_error **err)
{
	char number[8];
	struct berth_spdy_pair pairs[] = {
	        {"streamtype", "error"}, {"port", number}, {"requestid", "0"}};
	struct berth_buf *out = &x->wire.out;

	snprintf(number, sizeof(number), "%u", port);
	int r = berth_spdy_put_headers(&x->out, out, BERTH_SPDY_SYN_STREAM, ERROR_ID, pairs, 3);
	berth_spdy_put_data_head(out, ERROR_ID, 0, true);
	pairs[0].value = "data";
	if (r == 0)
		r = berth_spdy_put_headers(&x->out, out, BERTH_SPDY_SYN_STREAM, DATA_ID, pairs, 3);
	return r == 0 ? 0 : berth_error_set(err, BERTH_INTERNAL, "no memory for zlib");
}

static void read_local(struct pair *x)
{
	char buf[CTL_WIRE_READ];
	ssize_t n = recv(x->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		x->over = true;
		return;
	}
	x->sent_fin = n == 0;
	berth_spdy_put_data_head(&x->wire.out, DATA_ID, (size_t)n, n == 0);
	berth_buf_add(&x->wire.out, buf, (size_t)n);
}

static void write_local(struct pair *x)
{
	while (x->local_off < x->local.len) {
		ssize_t n = send(x->fd, x->local.data + x->local_off, x->local.len - x->local_off,
		        MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			x->over = errno != EAGAIN;
			return;
		}
		x->local_off += (size_t)n;
	}
	x->local_off = 0;
	x->local.len = 0;
	if (x->got_fin && !x->shut) {
		x->shut = true;
		(void)shutdown(x->fd, SHUT_WR); /* fails where the other side has gone */
	}
}

static int turn(struct pair *x, struct berth_error **err)
{
	char buf[CTL_WIRE_READ];
	bool take = !x->sent_fin && ctl_wire_waits(&x->wire) < CTL_WIRE_OUT;
	bool full = x->local.len - x->local_off >= CTL_WIRE_OUT;
	short local = (short)((take ? POLLIN : 0) | (x->local.len > 0 ? POLLOUT : 0));
	struct pollfd p[2] = {{.fd = local ? x->fd : -1, .events = local},
	        {.fd = x->wire.fd, .events = ctl_wire_events(&x->wire, !full)}};

	if (poll(p, 2, -1) < 0)
		return errno == EINTR ? 0 : berth_error_errno(err, errno, "poll");
	if (take && (p[0].revents & (POLLIN | POLLHUP | POLLERR)))
		read_local(x);
	ssize_t n = ctl_wire_ready(&x->wire,
	        (short)((full ? 0 : p[1].revents & (POLLIN | POLLHUP | POLLERR)) | POLLOUT), buf,
	        sizeof(buf), err);
	if (n < 0)
		return *err ? -1 : 1;
	if (n > 0 && berth_spdy_in_feed(&x->in, buf, (size_t)n) < 0)
		return berth_error_set(err, BERTH_INTERNAL, "the stream from %s: %s", x->wire.host,
		        x->in.why ? x->in.why : "it breaks the rules of SPDY");
	write_local(x);
	return x->over || (x->shut && x->sent_fin && ctl_wire_waits(&x->wire) == 0);
}

static int run_pair(struct pair *x, struct forward *f, uint16_t port, struct berth_error **err)
{
	static const char *const protocols[] = {"portforward.k8s.io", NULL};
	Runtime__V1__PortForwardRequest req = RUNTIME__V1__PORT_FORWARD_REQUEST__INIT;
	int32_t ports[] = {port};
	int r = 0;

	req.pod_sandbox_id = (char *)(uintptr_t)f->pod;
	req.port = ports;
	req.n_port = 1;
	Runtime__V1__PortForwardResponse *res = ctl_call(f->c, "RuntimeService/PortForward",
	        &req.base, &runtime__v1__port_forward_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	berth_spdy_in_init(&x->in, &events, x);
	if (ctl_wire_open(f->c, &x->wire, res->url, "SPDY/3.1", protocols, err) < 0 ||
	        open_streams(x, port, err) < 0)
		r = -1;
	else if (x->wire.in.len && berth_spdy_in_feed(&x->in, x->wire.in.data, x->wire.in.len) < 0)
		r = berth_error_set(
		        err, BERTH_INTERNAL, "the stream from %s is broken", x->wire.host);
	ctl_free_message(res);
	while (r == 0)
		r = turn(x, err);
	if (r > 0 && x->error.len) {
		r = -1;
		berth_error_set(err, BERTH_UNAVAILABLE, "%.*s", (int)x->error.len, x->error.data);
	}
	return r < 0 ? -1 : 0;
}

/* In a process of its own; the sockets go with it. */
_Noreturn static void serve(struct forward *f, int fd, uint16_t port)
{
	struct pair x = {.fd = fd, .wire = {.fd = -1}};
	struct berth_error *err = NULL;

	signal(SIGPIPE, SIG_IGN);
	if (run_pair(&x, f, port, &err) < 0)
		fprintf(stderr, "berthctl: port %u: %s\n", port, err->msg);
	_exit(err ? CTL_FAILED : CTL_OK);
}

/* ---- the listeners ---- */

static void reap(struct forward *f, int flags)
{
	while (f->children > 0 && waitpid(-1, NULL, flags) > 0)
		f->children--;
}

static void on_child(int sig)
{
	(void)sig; /* interrupts poll() */
}

static void take_client(struct forward *f, const struct listener *l, const sigset_t *mask)
{
	pid_t parent = getpid();
	_cleanup_close_ int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	pid_t pid = fork();
	if (pid < 0)
		fprintf(stderr, "berthctl: port %u: %s\n", l->remote, strerror(errno));
	if (pid > 0)
		f->children++;
	if (pid != 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(CTL_FAILED);
	sigprocmask(SIG_SETMASK, mask, NULL);
	for (size_t i = 0; i < f->n; i++)
		berth_close(f->listeners[i].fd);
	serve(f, fd, l->remote);
}

static int serve_all(struct forward *f, struct berth_error **err)
{
	struct pollfd p[LISTENERS_MAX];
	struct sigaction sa = {.sa_handler = on_child};
	sigset_t block, mask;

	sigaction(SIGCHLD, &sa, NULL);
	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	sigprocmask(SIG_BLOCK, &block, &mask);
	for (;;) {
		reap(f, WNOHANG);
		for (size_t i = 0; i < f->n; i++)
			p[i] = (struct pollfd){
			        .fd = f->children < CHILDREN_MAX ? f->listeners[i].fd : -1,
			        .events = POLLIN};
		if (ppoll(p, f->n, NULL, &mask) < 0) {
			if (errno != EINTR)
				return berth_error_errno(err, errno, "poll");
			continue;
		}
		for (size_t i = 0; i < f->n; i++)
			if (p[i].revents & POLLIN)
				take_client(f, &f->listeners[i], &mask);
	}
}

static void announce(const struct listener *l)
{
	struct sockaddr_storage own = {0};
	socklen_t len = sizeof(own);
	char host[INET6_ADDRSTRLEN] = "", port[8] = "";

	if (getsockname(l->fd, (struct sockaddr *)&own, &len) == 0)
		getnameinfo((struct sockaddr *)&own, len, host, sizeof(host), port, sizeof(port),
		        NI_NUMERICHOST | NI_NUMERICSERV);
	bool v6 = own.ss_family == AF_INET6;
	printf("Forwarding from %s%s%s:%s to port %u\n", v6 ? "[" : "", host, v6 ? "]" : "", port,
	        l->remote);
}

static int listen_at(struct forward *f, const char *address, const char *local, uint16_t remote,
        struct berth_error **err)
{
	struct addrinfo hints = {
	        .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	struct addrinfo *ai = NULL;
	int on = 1, r = getaddrinfo(address, local, &hints, &ai);

	if (r != 0)
		return berth_error_set(
		        err, BERTH_INVALID_ARGUMENT, "--address %s: %s", address, gai_strerror(r));
	if (f->n == LISTENERS_MAX) {
		freeaddrinfo(ai);
		return berth_error_set(
		        err, BERTH_INVALID_ARGUMENT, "more than %d ports", LISTENERS_MAX);
	}
	struct listener *l = &f->listeners[f->n];
	l->remote = remote;
	l->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool good = l->fd >= 0 &&
	            setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
	            bind(l->fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(l->fd, BACKLOG) == 0;
	int saved = errno;
	freeaddrinfo(ai);
	if (!good) {
		l->fd = berth_close(l->fd);
		return berth_error_errno(err, saved, "%s, port %s", address, local);
	}
	f->n++;
	return 0;
}

static bool port_number(const char *s, bool zero, uint16_t *ret)
{
	char *end = NULL;
	unsigned long v = *s >= '0' && *s <= '9' ? strtoul(s, &end, 10) : UINT16_MAX + 1ul;

	if (v > UINT16_MAX || *end || (v == 0 && !zero))
		return false;
	*ret = (uint16_t)v;
	return true;
}

/* "REMOTE", "LOCAL:REMOTE", ":REMOTE" for any port that is free. */
static int add_port(struct forward *f, const char *arg, struct berth_error **err)
{
	static char loopback[] = "127.0.0.1";
	static char *const usual[] = {loopback, NULL};
	char *const *addresses = ctl_list(f->c, "address");
	const char *colon = strchr(arg, ':');
	_cleanup_free_ char *local =
	        colon ? berth_strndup(arg, (size_t)(colon - arg)) : berth_strdup(arg);
	uint16_t number, remote;

	if (!port_number(colon ? colon + 1 : arg, false, &remote) ||
	        (*local && !port_number(local, colon != NULL, &number)) || (!colon && !*local))
		return berth_error_set(
		        err, BERTH_INVALID_ARGUMENT, "'%s' must be PORT, LOCAL:PORT or :PORT", arg);
	for (char *const *a = addresses ? addresses : usual; *a; a++)
		if (listen_at(f, *a, *local ? local : "0", remote, err) < 0)
			return -1;
	return 0;
}

int ctl_cmd_port_forward(struct ctl *c, struct berth_error **err)
{
	struct forward f = {.c = c, .pod = ctl_find_pod(c, c->args[0], err)};
	int r = f.pod ? 0 : -1;

	/* Each connection makes calls of its own. */
	berth_grpc_client_free(c->client);
	c->client = NULL;
	for (int i = 1; i < c->n_args && r == 0; i++)
		r = add_port(&f, c->args[i], err);
	for (size_t i = 0; i < f.n && r == 0; i++)
		announce(&f.listeners[i]);
	fflush(stdout);
	if (r == 0)
		r = serve_all(&f, err);
	for (size_t i = 0; i < f.n; i++)
		berth_close(f.listeners[i].fd);
	return r;
}
