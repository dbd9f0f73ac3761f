#include "grpc/server.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "grpc/internal.h"

#define LISTEN_BACKLOG 128

void grpc_server_ref(struct berth_grpc_server *s)
{
	s->refs++;
}

void grpc_server_unref(struct berth_grpc_server *s)
{
	if (--s->refs)
		return;
	while (s->services) {
		struct grpc_service *v = s->services;
		s->services = v->next;
		free(v->name);
		free(v);
	}
	nghttp2_session_callbacks_del(s->callbacks);
	nghttp2_option_del(s->option);
	free(s->read_buf);
	free(s->write_buf);
	free(s);
}

static void poll_no_longer(uv_idle_t *idle)
{
	(void)idle; /* that it is active keeps the loop from sleeping */
}

/* What becomes dirty meanwhile waits for the next turn of the loop, so that no connection keeps the
 * others from theirs. */
static void flush_dirty(uv_prepare_t *prepare)
{
	struct berth_grpc_server *s = prepare->data;
	s->flushing = s->dirty;
	s->dirty = NULL;
	while (s->flushing) {
		struct grpc_conn *c = s->flushing;
		s->flushing = c->dirty_next;
		c->is_dirty = false;
		grpc_conn_flush(c);
	}
	if (s->dirty)
		uv_idle_start(&s->idle, poll_no_longer);
	else
		uv_idle_stop(&s->idle);
}

struct berth_grpc_server *berth_grpc_server_new(
        struct berth_loop *l, const struct berth_grpc_opts *opts)
{
	berth_assert_loop();
	struct berth_grpc_server *s = berth_new(struct berth_grpc_server);

	/* A client may be gone before it is answered. */
	signal(SIGPIPE, SIG_IGN);
	s->refs = 1;
	s->loop = l;
	if (opts)
		s->opts = *opts;
	if (!s->opts.max_receive_bytes)
		s->opts.max_receive_bytes = BERTH_LIMIT_GRPC_MESSAGE;
	if (!s->opts.max_send_bytes)
		s->opts.max_send_bytes = BERTH_LIMIT_GRPC_MESSAGE;
	s->callbacks = grpc_session_callbacks();
	s->option = grpc_session_option();
	s->read_buf = berth_zalloc(GRPC_SCRATCH);
	s->write_buf = berth_zalloc(GRPC_SCRATCH);
	uv_prepare_init(berth_loop_uv(l), &s->prepare);
	s->prepare.data = s;
	uv_prepare_start(&s->prepare, flush_dirty);
	uv_unref((uv_handle_t *)&s->prepare);
	uv_idle_init(berth_loop_uv(l), &s->idle);
	s->idle.data = s;
	return s;
}

void berth_grpc_server_add(struct berth_grpc_server *s, const char *service,
        const struct berth_grpc_method *methods, void *arg)
{
	berth_assert_loop();
	struct grpc_service *v = berth_new(struct grpc_service);
	v->name = berth_strdup(service);
	v->methods = methods;
	v->arg = arg;
	LL_APPEND(s->services, v);
}

const struct berth_grpc_method *grpc_server_find(
        const struct berth_grpc_server *s, const char *path, bool *ret_service, void **ret_arg)
{
	const char *slash = path[0] == '/' ? strrchr(path + 1, '/') : NULL;

	*ret_service = false;
	if (!slash)
		return NULL;
	size_t n = (size_t)(slash - path) - 1;
	for (const struct grpc_service *v = s->services; v; v = v->next) {
		if (strlen(v->name) != n || strncmp(v->name, path + 1, n) != 0)
			continue;
		*ret_service = true;
		for (const struct berth_grpc_method *m = v->methods; m->name; m++) {
			if (strcmp(m->name, slash + 1) == 0) {
				*ret_arg = v->arg;
				return m;
			}
		}
	}
	return NULL;
}

static void accept_one(uv_stream_t *stream, int status)
{
	struct grpc_listener *l = stream->data;
	struct berth_grpc_server *s = l->server;
	if (status < 0) {
		berth_log_warn("cannot accept a connection", "socket", l->path, "cause",
		        uv_strerror(status));
		return;
	}
	struct grpc_conn *c = grpc_conn_new(s);
	if (uv_accept(stream, (uv_stream_t *)&c->pipe) < 0) {
		grpc_conn_close(c);
		return;
	}
	if (s->n_conns > BERTH_LIMIT_GRPC_CONNECTIONS) {
		berth_log_warn("too many connections, one more is refused", "socket", l->path);
		grpc_conn_close(c);
		return;
	}
	if (grpc_conn_start(c) < 0)
		grpc_conn_close(c);
}

/* Makes way for a socket at `path`: what is there must be a socket that nobody listens on. */
static int clear_stale(const struct sockaddr_un *addr, struct berth_error **ret_err)
{
	struct stat st;
	if (lstat(addr->sun_path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return berth_error_errno(ret_err, errno, "listen on %s", addr->sun_path);
	}
	if (!S_ISSOCK(st.st_mode))
		return berth_error_set(ret_err, BERTH_ALREADY_EXISTS,
		        "listen on %s: the file is there and is not a socket", addr->sun_path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "listen on %s: socket", addr->sun_path);
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
		return berth_error_set(ret_err, BERTH_ALREADY_EXISTS,
		        "listen on %s: another process listens there", addr->sun_path);
	if (errno != ECONNREFUSED)
		return berth_error_errno(ret_err, errno, "listen on %s: probe", addr->sun_path);
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return berth_error_errno(ret_err, errno, "listen on %s: unlink", addr->sun_path);
	return 0;
}

static int bind_socket(const struct sockaddr_un *addr, unsigned int mode, int *ret_fd,
        struct berth_error **ret_err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "listen on %s: socket", addr->sun_path);
	/* The file takes the mode of the unbound socket, less the umask: at no time is it open to
	 * more users than asked for. */
	if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return berth_error_errno(ret_err, errno, "listen on %s: bind", addr->sun_path);
	if (chmod(addr->sun_path, mode) < 0)
		return berth_error_errno(ret_err, errno, "listen on %s: chmod", addr->sun_path);
	*ret_fd = berth_take_fd(&fd);
	return 0;
}

static void listener_closed(uv_handle_t *h)
{
	struct grpc_listener *l = h->data;
	free(l->path);
	free(l);
}

int berth_grpc_server_listen(struct berth_grpc_server *s, const char *path, unsigned int mode,
        struct berth_error **ret_err)
{
	berth_assert_loop();
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st = {0};
	int fd = -1;

	if (strlen(path) >= sizeof(addr.sun_path))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "listen on %s: a socket's path has at most %zu bytes", path,
		        sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	if (clear_stale(&addr, ret_err) || bind_socket(&addr, mode, &fd, ret_err))
		return -1;

	struct grpc_listener *l = berth_new(struct grpc_listener);
	l->server = s;
	l->path = berth_strdup(path);
	if (lstat(path, &st) == 0) {
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	uv_pipe_init(berth_loop_uv(s->loop), &l->pipe, 0);
	l->pipe.data = l;
	int r = uv_pipe_open(&l->pipe, fd);
	if (r < 0)
		berth_close(fd);
	else
		r = uv_listen((uv_stream_t *)&l->pipe, LISTEN_BACKLOG, accept_one);
	if (r < 0) {
		(void)unlink(path); /* the failure itself is reported */
		uv_close((uv_handle_t *)&l->pipe, listener_closed);
		return berth_error_errno(ret_err, r, "listen on %s", path);
	}
	LL_PREPEND(s->listeners, l);
	return 0;
}

int berth_grpc_server_adopt(struct berth_grpc_server *s, int fd, struct berth_error **ret_err)
{
	berth_assert_loop();
	struct grpc_conn *c = grpc_conn_new(s);
	int r = uv_pipe_open(&c->pipe, fd);
	if (r < 0)
		berth_close(fd);
	else
		r = grpc_conn_start(c);
	if (r < 0) {
		grpc_conn_close(c);
		return berth_error_errno(ret_err, r, "serve a connection");
	}
	return 0;
}

static void stop_listening(struct berth_grpc_server *s)
{
	while (s->listeners) {
		struct grpc_listener *l = s->listeners;
		struct stat st;
		s->listeners = l->next;
		if (lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
			(void)unlink(l->path); /* a stale file is harmless */
		uv_close((uv_handle_t *)&l->pipe, listener_closed);
	}
}

static void check_drained(void *arg)
{
	struct berth_grpc_server *s = arg;
	berth_fn fn = s->drained;
	if (s->n_conns == 0 && fn) {
		s->drained = NULL;
		s->grace = berth_timer_free(s->grace);
		fn(s->drained_arg);
	}
	grpc_server_unref(s);
}

/* Never inside the caller: it may be in the middle of a connection. */
void grpc_server_conn_gone(struct berth_grpc_server *s)
{
	if (s->n_conns == 0 && s->drained) {
		grpc_server_ref(s);
		berth_loop_post(s->loop, check_drained, s);
	}
}

static void close_connections(struct berth_grpc_server *s)
{
	while (s->conns)
		grpc_conn_close(s->conns);
}

static void grace_over(void *arg)
{
	struct berth_grpc_server *s = arg;
	s->grace = berth_timer_free(s->grace);
	for (struct grpc_conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		for (struct berth_grpc_call *call = c->calls, *n; call; call = n) {
			n = call->next;
			grpc_call_cancel(call, BERTH_UNAVAILABLE, "the server is stopping");
		}
		grpc_conn_flush(c);
	}
	close_connections(s);
}

void berth_grpc_server_drain(
        struct berth_grpc_server *s, uint64_t grace_ms, berth_fn done, void *arg)
{
	berth_assert_loop();
	assert(!s->draining);
	s->draining = true;
	s->drained = done;
	s->drained_arg = arg;
	stop_listening(s);
	for (struct grpc_conn *c = s->conns; c; c = c->next)
		grpc_conn_goaway(c);
	s->grace = berth_timer_start(s->loop, grace_ms, grace_over, s);
	grpc_server_conn_gone(s);
}

static void handle_closed(uv_handle_t *h)
{
	grpc_server_unref(h->data);
}

struct berth_grpc_server *berth_grpc_server_free(struct berth_grpc_server *s)
{
	if (!s)
		return NULL;
	berth_assert_loop();
	s->drained = NULL;
	s->grace = berth_timer_free(s->grace);
	stop_listening(s);
	close_connections(s);
	grpc_server_ref(s); /* one for each handle */
	uv_close((uv_handle_t *)&s->prepare, handle_closed);
	uv_close((uv_handle_t *)&s->idle, handle_closed);
	return NULL;
}

void berth_grpc_server_counts(const struct berth_grpc_server *s, size_t *connections, size_t *calls)
{
	*connections = s->n_conns;
	*calls = s->n_calls;
}
