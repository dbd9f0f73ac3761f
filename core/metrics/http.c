/* The HTTP side: one request on a connection, one answer, the end. Each client has a bounded time,
 * whatever it does with it. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "metrics/internal.h"
#include "stream/upgrade.h"

#define BACKLOG 16
#define CLIENT_MS 10000
#define BREATH_MS 100
#define WHERE "metrics.listen: "

struct metrics_client {
	struct metrics_client *next;
	struct berth_metrics *m;
	int fd;
	struct berth_fdwatch *watch;
	struct berth_timer *timer;
	char *head;
	size_t n;
	struct berth_buf out;
	size_t sent;
	bool answered, ended; /* ended: all is sent, the client is to close */
};

static void client_free(struct metrics_client *c)
{
	struct metrics_client **q = &c->m->clients;
	while (*q != c)
		q = &(*q)->next;
	*q = c->next;
	c->m->n_clients--;
	berth_fdwatch_free(c->watch);
	berth_timer_free(c->timer);
	berth_close(c->fd);
	berth_buf_finish(&c->out);
	free(c->head);
	free(c);
}

static void client_late(void *arg)
{
	client_free(arg);
}

static bool text_is(const struct berth_http_text *t, const char *s)
{
	return t->n == strlen(s) && memcmp(t->p, s, t->n) == 0;
}

static void answer(struct metrics_client *c, const char *status, const char *type,
        const struct berth_buf *body, bool with_body)
{
	berth_buf_addf(&c->out,
	        "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n%s"
	        "\r\n",
	        status, type, body->len, strncmp(status, "405", 3) ? "" : "Allow: GET, HEAD\r\n");
	if (with_body)
		berth_buf_add(&c->out, body->data, body->len);
	c->answered = true;
}

static void refuse(struct metrics_client *c, const char *status)
{
	struct berth_buf body = {0};
	berth_buf_addf(&body, "%s\n", status);
	answer(c, status, "text/plain; charset=utf-8", &body, true);
	berth_buf_finish(&body);
}

static void serve(struct metrics_client *c, const struct berth_http_head *h)
{
	struct berth_http_text path = h->target;
	const char *query = memchr(path.p, '?', path.n);
	struct berth_buf body = {0};
	bool get = text_is(&h->method, "GET");

	if (query)
		path.n = (size_t)(query - path.p);
	if (!text_is(&path, "/metrics")) {
		refuse(c, "404 Not Found");
	} else if (!get && !text_is(&h->method, "HEAD")) {
		refuse(c, "405 Method Not Allowed");
	} else {
		metrics_expose(c->m, &body);
		answer(c, "200 OK", "text/plain; version=0.0.4; charset=utf-8", &body, get);
		berth_buf_finish(&body);
	}
}

/* False: the client is to go. */
static bool client_read(struct metrics_client *c)
{
	struct berth_http_head h;
	char waste[4096];
	ssize_t n = c->answered ? read(c->fd, waste, sizeof(waste))
	                        : read(c->fd, c->head + c->n, BERTH_LIMIT_METRICS_HEAD - c->n);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return c->answered && !c->ended;
	if (c->answered)
		return true;
	c->n += (size_t)n;
	int r = berth_http_parse(c->head, c->n, &h);
	if (r > 0)
		serve(c, &h);
	else if (r < 0)
		refuse(c, "400 Bad Request");
	else if (c->n == BERTH_LIMIT_METRICS_HEAD)
		refuse(c, "431 Request Header Fields Too Large");
	return true;
}

static bool client_write(struct metrics_client *c)
{
	ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	c->sent += (size_t)n;
	if (c->sent < c->out.len)
		return true;
	/* Closed with something unread, the kernel would take back what the client has yet to
	 * read. */
	c->ended = true;
	return shutdown(c->fd, SHUT_WR) == 0;
}

static void on_ready(int fd, int events, void *arg)
{
	struct metrics_client *c = arg;
	(void)fd;

	bool stay = true;
	/* While an answer is on its way nothing is read: a closed half would be ready for ever. */
	if ((events & ~UV_WRITABLE) || !c->answered)
		stay = client_read(c);
	if (stay && c->answered && !c->ended)
		stay = client_write(c);
	if (!stay)
		client_free(c);
	else
		berth_fdwatch_change(
		        c->watch, c->answered && !c->ended ? UV_WRITABLE : UV_READABLE);
}

static void listen_again(void *arg)
{
	struct berth_metrics *m = arg;
	m->breath = berth_timer_free(m->breath);
	berth_fdwatch_change(m->watch, UV_READABLE);
}

static void on_client(int fd, int events, void *arg)
{
	struct berth_metrics *m = arg;
	int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	(void)events;

	if (client < 0) {
		if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS)
			return;
		berth_log_warn("cannot accept a client of metrics", "cause", strerror(errno));
		berth_fdwatch_change(m->watch, 0);
		if (!m->breath)
			m->breath = berth_timer_start(m->d->loop, BREATH_MS, listen_again, m);
		return;
	}
	if (m->n_clients >= BERTH_LIMIT_METRICS_CLIENTS) {
		berth_close(client);
		return;
	}
	struct metrics_client *c = berth_new(struct metrics_client);
	c->m = m;
	c->fd = client;
	c->head = berth_zalloc(BERTH_LIMIT_METRICS_HEAD);
	c->next = m->clients;
	m->clients = c;
	m->n_clients++;
	c->timer = berth_timer_start(m->d->loop, CLIENT_MS, client_late, c);
	c->watch = berth_fdwatch_start(m->d->loop, client, UV_READABLE, on_ready, c);
}

static int bad_address(const char *address, struct berth_error **ret_err)
{
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        WHERE "\"%s\" is neither IP:PORT nor an absolute path", address);
}

static int tcp_address(const char *address, struct addrinfo **ret, struct berth_error **ret_err)
{
	struct addrinfo hints = {
	        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	_cleanup_free_ char *host = berth_strdup(address);
	char *colon = strrchr(host, ':'), *name = host;

	if (!colon || strspn(colon + 1, "0123456789") != strlen(colon + 1) || !colon[1] ||
	        strlen(colon + 1) > 5 || atoi(colon + 1) < 1 || atoi(colon + 1) > 65535)
		return bad_address(address, ret_err);
	*colon = '\0';
	if (*name == '[' && colon[-1] == ']') {
		colon[-1] = '\0';
		name++;
	} else if (strchr(name, ':')) {
		return bad_address(address, ret_err);
	}
	if (!*name || getaddrinfo(name, colon + 1, &hints, ret) != 0)
		return bad_address(address, ret_err);
	return 0;
}

static int listen_at(struct berth_metrics *m, const struct sockaddr *a, socklen_t len,
        const char *address, struct berth_error **ret_err)
{
	int on = 1;
	m->fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (m->fd < 0 || setsockopt(m->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	        bind(m->fd, a, len) < 0)
		return berth_error_errno(ret_err, errno, WHERE "%s", address);
	if (a->sa_family == AF_UNIX) {
		m->path = berth_strdup(address);
		if (chmod(address, 0660) < 0)
			return berth_error_errno(ret_err, errno, WHERE "%s", address);
	}
	if (listen(m->fd, BACKLOG) < 0)
		return berth_error_errno(ret_err, errno, WHERE "%s", address);
	m->watch = berth_fdwatch_start(m->d->loop, m->fd, UV_READABLE, on_client, m);
	return 0;
}

/* A socket of a berthd that was killed; no other file, and none that is listened on. */
static int clear_stale(const struct sockaddr_un *un, struct berth_error **ret_err)
{
	struct stat st;
	if (lstat(un->sun_path, &st) < 0)
		return 0; /* bind tells what else is wrong */
	if (!S_ISSOCK(st.st_mode))
		return berth_error_set(ret_err, BERTH_ALREADY_EXISTS,
		        WHERE "%s is there and is no socket", un->sun_path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 &&
	        (connect(fd, (const struct sockaddr *)un, sizeof(*un)) == 0 || errno == EAGAIN))
		return berth_error_set(ret_err, BERTH_ALREADY_EXISTS,
		        WHERE "another process listens on %s", un->sun_path);
	if (unlink(un->sun_path) < 0 && errno != ENOENT)
		return berth_error_errno(ret_err, errno, WHERE "%s", un->sun_path);
	return 0;
}

int metrics_listen(struct berth_metrics *m, const char *address, struct berth_error **ret_err)
{
	if (address[0] == '/') {
		struct sockaddr_un un = {.sun_family = AF_UNIX};
		if (strlen(address) >= sizeof(un.sun_path))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        WHERE "%s is too long for a socket", address);
		strcpy(un.sun_path, address);
		if (clear_stale(&un, ret_err) < 0)
			return -1;
		return listen_at(m, (struct sockaddr *)&un, sizeof(un), address, ret_err);
	}
	struct addrinfo *ai = NULL;
	if (tcp_address(address, &ai, ret_err) < 0)
		return -1;
	int r = listen_at(m, ai->ai_addr, ai->ai_addrlen, address, ret_err);
	freeaddrinfo(ai);
	return r;
}

void metrics_unlisten(struct berth_metrics *m)
{
	while (m->clients)
		client_free(m->clients);
	m->breath = berth_timer_free(m->breath);
	m->watch = berth_fdwatch_free(m->watch);
	m->fd = berth_close(m->fd);
	if (m->path)
		(void)unlink(m->path); /* a stale file is harmless */
	free(m->path);
}
