/* The listener, and the requests that CRI calls leave for it. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "stream/internal.h"

#define BACKLOG 128
#define ACCEPTS 16 /* in one go */
#define BREATH_MS 100

void strm_request_free(void *request)
{
	struct strm_request *q = request;

	if (!q)
		return;
	if (q->c)
		berth_container_unref(q->c);
	if (q->pod)
		berth_pod_unref(q->pod);
	berth_strv_free(q->argv);
	free(q->ports);
	free(q);
}

/* ---- the listener ---- */

static void listen_again(void *arg)
{
	struct berth_streams *s = arg;
	s->breath = berth_timer_free(s->breath);
	if (s->watch)
		berth_fdwatch_change(s->watch, UV_READABLE);
}

/* Left alone the kernel would take megabytes for a client that does not read, and let a monitor
 * believe that it does. Refused, it stays as it is. */
static void bound_output(int client)
{
	int bytes = STREAM_SOCKET_OUT;
	(void)setsockopt(client, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static void on_client(int fd, int events, void *arg)
{
	struct berth_streams *s = arg;
	(void)events;

	for (int i = 0; i < ACCEPTS; i++) {
		int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (client < 0) {
			if (errno != EMFILE && errno != ENFILE && errno != ENOMEM &&
			        errno != ENOBUFS)
				return;
			berth_log_warn("cannot accept a stream", "cause", strerror(errno));
			berth_fdwatch_change(s->watch, 0);
			if (!s->breath)
				s->breath =
				        berth_timer_start(s->d->loop, BREATH_MS, listen_again, s);
			return;
		}
		if (s->n_conns >= STREAM_CONNECTIONS) {
			berth_log_warn("too many streams, one more is refused");
			berth_close(client);
			continue;
		}
		bound_output(client);
		strm_conn_accept(s, client);
	}
}

static int bind_to(const char *scheme, const char *address, uint16_t port, int *ret_fd,
        char **ret_url, struct berth_error **ret_err)
{
	char service[8], host[INET6_ADDRSTRLEN];
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
	        .ai_socktype = SOCK_STREAM};
	struct addrinfo *ai = NULL;
	struct sockaddr_storage own = {0};
	socklen_t len = sizeof(own);

	snprintf(service, sizeof(service), "%u", port);
	int r = getaddrinfo(address, service, &hints, &ai);
	if (r != 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "cri.stream_address: \"%s\" is no IP address", address);
	_cleanup_close_ int fd =
	        socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	        bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ||
	        getsockname(fd, (struct sockaddr *)&own, &len) < 0) {
		freeaddrinfo(ai);
		return berth_error_errno(
		        ret_err, errno, "cri.stream_address %s, port %u", address, port);
	}
	freeaddrinfo(ai);
	/* Clients of a server on all addresses are told the one that works from here: the
	 * kubelet's. */
	if (own.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)&own;
		bool any = memcmp(&in6->sin6_addr, &in6addr_any, sizeof(in6addr_any)) == 0;
		inet_ntop(AF_INET6, any ? &in6addr_loopback : &in6->sin6_addr, host, sizeof(host));
		*ret_url = berth_asprintf("%s://[%s]:%u", scheme, host, ntohs(in6->sin6_port));
	} else {
		const struct sockaddr_in *in4 = (const void *)&own;
		struct in_addr a = in4->sin_addr;
		if (a.s_addr == htonl(INADDR_ANY))
			a.s_addr = htonl(INADDR_LOOPBACK);
		inet_ntop(AF_INET, &a, host, sizeof(host));
		*ret_url = berth_asprintf("%s://%s:%u", scheme, host, ntohs(in4->sin_port));
	}
	*ret_fd = berth_take_fd(&fd);
	return 0;
}

int berth_streams_start(struct berth_daemon *d, struct berth_error **ret_err)
{
	struct berth_streams *s = berth_new(struct berth_streams);

	s->d = d;
	if (strm_tls_start(s, &s->tls, ret_err) < 0 ||
	        bind_to(s->tls ? "https" : "http", d->config->cri.stream_address,
	                (uint16_t)d->config->cri.stream_port, &s->fd, &s->url, ret_err) < 0) {
		strm_tls_free(s->tls);
		free(s);
		return -1;
	}
	s->tokens = berth_tokens_new(d->loop, STREAM_TOKENS, STREAM_TOKEN_MS, strm_request_free);
	s->watch = berth_fdwatch_start(d->loop, s->fd, UV_READABLE, on_client, s);
	d->streams = s;
	berth_log_info("streams are served", "url", s->url);
	return 0;
}

void berth_streams_reload(struct berth_daemon *d)
{
	if (d->streams)
		strm_tls_look(d->streams->tls);
}

void berth_streams_drain(struct berth_daemon *d)
{
	struct berth_streams *s = d->streams;

	if (!s)
		return;
	s->breath = berth_timer_free(s->breath);
	s->watch = berth_fdwatch_free(s->watch);
	s->fd = berth_close(s->fd);
}

void berth_streams_stop(struct berth_daemon *d)
{
	struct berth_streams *s = d->streams;

	if (!s)
		return;
	berth_streams_drain(d);
	/* What was closed already is freed by a call that the loop has yet to make. */
	uv_run(berth_loop_uv(d->loop), UV_RUN_NOWAIT);
	while (s->conns)
		strm_conn_free(s->conns);
	s->tls = strm_tls_free(s->tls);
	berth_tokens_free(s->tokens);
	free(s->url);
	free(s);
	d->streams = NULL;
}

/* ---- requests ---- */

static char *leave(struct berth_daemon *d, struct strm_request *q, struct berth_error **ret_err)
{
	static const char *const names[] = {"exec", "attach", "portforward"};
	const char *token = NULL;

	if (!d->streams || !d->streams->watch)
		berth_error_set(ret_err, BERTH_UNAVAILABLE, "the streaming server does not run");
	else
		token = berth_tokens_put(d->streams->tokens, q, ret_err);
	if (!token) {
		strm_request_free(q);
		return NULL;
	}
	return berth_asprintf("%s/%s/%s", d->streams->url, names[q->kind], token);
}

static char *leave_term(struct berth_container *c, enum berth_stream_kind kind,
        const struct berth_stream_term *t, struct berth_error **ret_err)
{
	struct strm_request *q = berth_new(struct strm_request);

	q->kind = kind;
	q->c = berth_container_ref(c);
	for (size_t i = 0; i < t->argc; i++)
		q->argv = berth_strv_append(q->argv, t->argv[i]);
	q->tty = t->tty;
	q->want[STRM_STDIN] = t->in;
	q->want[STRM_STDOUT] = t->out;
	q->want[STRM_STDERR] = t->err;
	q->want[STRM_ERROR] = true;
	q->want[STRM_RESIZE] = t->tty;
	return leave(c->d, q, ret_err);
}

char *berth_stream_exec(
        struct berth_container *c, const struct berth_stream_term *t, struct berth_error **ret_err)
{
	return leave_term(c, BERTH_STREAM_EXEC, t, ret_err);
}

char *berth_stream_attach(
        struct berth_container *c, const struct berth_stream_term *t, struct berth_error **ret_err)
{
	return leave_term(c, BERTH_STREAM_ATTACH, t, ret_err);
}

char *berth_stream_forward(
        struct berth_pod *p, const int32_t *ports, size_t n_ports, struct berth_error **ret_err)
{
	struct strm_request *q = berth_new(struct strm_request);

	q->kind = BERTH_STREAM_FORWARD;
	q->pod = berth_pod_ref(p);
	q->ports = berth_new_array(uint16_t, n_ports + 1);
	for (size_t i = 0; i < n_ports; i++)
		q->ports[q->n_ports++] = (uint16_t)ports[i];
	return leave(p->d, q, ret_err);
}
