/* Sockets are born in the network namespace of the thread that makes them and stay there: a thread
 * of its own enters the pod's, makes two and ends. No other thread of the daemon ever changes its
 * namespace. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "stream/forward.h"

#define STACK (256 * 1024)
#define FAMILIES 2

struct forward_dial {
	struct berth_daemon *d;
	char *netns; /* NULL: the host's */
	uint16_t port;
	void (*done)(int fd, const char *why, void *arg);
	void *arg;
	bool at_work; /* a worker has it */
	bool dropped;
	int fds[FAMILIES], errs[FAMILIES];
	int ns_err;
	size_t turn;
	struct berth_fdwatch *watch;
};

static void dial_free(struct forward_dial *f)
{
	berth_fdwatch_free(f->watch);
	for (size_t i = 0; i < FAMILIES; i++)
		berth_close(f->fds[i]);
	free(f->netns);
	free(f);
}

void forward_dial_drop(struct forward_dial *f)
{
	if (!f)
		return;
	f->dropped = true;
	if (!f->at_work)
		dial_free(f);
}

static void make_sockets(struct forward_dial *f)
{
	static const int families[FAMILIES] = {AF_INET, AF_INET6};
	for (size_t i = 0; i < FAMILIES; i++) {
		f->fds[i] = socket(families[i], SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		f->errs[i] = f->fds[i] < 0 ? errno : 0;
	}
}

static void *in_namespace(void *arg)
{
	struct forward_dial *f = arg;
	int fd = open(f->netns, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		f->ns_err = errno;
	else
		make_sockets(f);
	berth_close(fd);
	return NULL;
}

static void work(void *arg)
{
	struct forward_dial *f = arg;
	pthread_attr_t attr;
	pthread_t thread;

	if (!f->netns) {
		make_sockets(f);
		return;
	}
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	f->ns_err = pthread_create(&thread, &attr, in_namespace, f);
	pthread_attr_destroy(&attr);
	if (f->ns_err == 0)
		pthread_join(thread, NULL);
}

static void give(struct forward_dial *f, int fd, const char *why)
{
	void (*done)(int, const char *, void *) = f->done;
	void *arg = f->arg;
	dial_free(f);
	done(fd, why, arg);
}

static void try_next(struct forward_dial *f);

static void tried(int fd, int events, void *arg)
{
	struct forward_dial *f = arg;
	int err = 0;
	socklen_t len = sizeof(err);
	(void)events;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	f->watch = berth_fdwatch_free(f->watch);
	if (err == 0) {
		give(f, berth_take_fd(&f->fds[f->turn]), NULL);
		return;
	}
	f->errs[f->turn++] = err;
	try_next(f);
}

static int start_connect(struct forward_dial *f)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET,
	        .sin_port = htons(f->port),
	        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
	        .sin6_port = htons(f->port),
	        .sin6_addr = IN6ADDR_LOOPBACK_INIT};

	if (f->turn == 0)
		return connect(f->fds[0], (const struct sockaddr *)&v4, sizeof(v4));
	return connect(f->fds[1], (const struct sockaddr *)&v6, sizeof(v6));
}

static void try_next(struct forward_dial *f)
{
	for (; f->turn < FAMILIES; f->turn++) {
		if (f->fds[f->turn] < 0)
			continue;
		if (start_connect(f) == 0 || errno == EINPROGRESS) {
			f->watch = berth_fdwatch_start(
			        f->d->loop, f->fds[f->turn], UV_WRITABLE, tried, f);
			return;
		}
		f->errs[f->turn] = errno;
	}
	_cleanup_free_ char *why = berth_asprintf("connecting to 127.0.0.1: %s; to ::1: %s",
	        strerrordesc_np(f->errs[0]), strerrordesc_np(f->errs[1]));
	give(f, -1, why);
}

static void work_done(void *arg)
{
	struct forward_dial *f = arg;

	f->at_work = false;
	if (f->dropped) {
		dial_free(f);
	} else if (f->ns_err) {
		_cleanup_free_ char *why = berth_asprintf("entering the network namespace %s: %s",
		        f->netns ? f->netns : "of the host", strerrordesc_np(f->ns_err));
		give(f, -1, why);
	} else {
		try_next(f);
	}
}

struct forward_dial *forward_dial(struct berth_pod *pod, uint16_t port,
        void (*done)(int fd, const char *why, void *arg), void *arg)
{
	struct forward_dial *f = berth_new(struct forward_dial);

	f->d = pod->d;
	f->netns = pod->host_network ? NULL : berth_pod_ns_path(pod, "net");
	f->port = port;
	f->done = done;
	f->arg = arg;
	f->fds[0] = f->fds[1] = -1;
	f->at_work = true;
	if (berth_work(f->d->flows, f->d->loop, work, work_done, f) < 0) {
		f->ns_err = EAGAIN;
		berth_loop_post(f->d->loop, work_done, f);
	}
	return f;
}
