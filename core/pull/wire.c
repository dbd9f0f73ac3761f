#include "pull/wire.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "pull/protocol.h"

struct pull_wire {
	int fd;
	pthread_t reader;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t arrived;
	bool have_known, stored;
	int record; /* -1: it has not come */
	size_t n_have;
	bool *have;
	int dirs[BERTH_LIMIT_IMAGE_LAYERS], files[BERTH_LIMIT_IMAGE_LAYERS];
	bool may_fetch[BERTH_LIMIT_IMAGE_LAYERS];
	struct pull_layer_source sources[BERTH_LIMIT_IMAGE_LAYERS];
	char *buf;
};

struct pull_wire *pull_wire_new(int fd)
{
	struct pull_wire *w = berth_new(struct pull_wire);
	w->fd = fd;
	w->record = -1;
	w->buf = berth_zalloc(BERTH_PULL_PACKET + 1);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->arrived, NULL);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(w->dirs); i++) {
		w->dirs[i] = w->files[i] = -1;
		w->sources[i] = (struct pull_layer_source){-1, -1, -1};
	}
	return w;
}

struct pull_wire *pull_wire_free(struct pull_wire *w)
{
	if (!w)
		return NULL;
	if (w->started) {
		shutdown(w->fd, SHUT_RDWR);
		pthread_join(w->reader, NULL);
	}
	berth_close(w->fd);
	free(w->have);
	berth_close(w->record);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(w->dirs); i++) {
		berth_close(w->dirs[i]);
		berth_close(w->files[i]);
		berth_close(w->sources[i].top);
		berth_close(w->sources[i].below);
		berth_close(w->sources[i].opaque);
	}
	pthread_cond_destroy(&w->arrived);
	pthread_mutex_destroy(&w->lock);
	free(w->buf);
	free(w);
	return NULL;
}

/* 0: closed by the other side. */
static int receive(struct pull_wire *w, json_t **ret, int *ret_fd, struct berth_error **ret_err)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {w->buf, BERTH_PULL_PACKET};
	struct msghdr m = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = &control,
	        .msg_controllen = sizeof(control)};
	ssize_t n;

	do
		n = recvmsg(w->fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != ECONNRESET)
		return berth_error_errno(ret_err, errno, "read from berthd");
	*ret_fd = -1;
	if (n <= 0)
		return 0;
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
	json_error_t je;
	*ret = m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? NULL
	                                              : json_loadb(w->buf, (size_t)n, 0, &je);
	if (!*ret) {
		*ret_fd = berth_close(*ret_fd);
		return berth_error_set(ret_err, BERTH_INTERNAL, "malformed packet from berthd");
	}
	return 1;
}

int pull_wire_recv(struct pull_wire *w, json_t **ret, int *ret_fd, struct berth_error **ret_err)
{
	int r = receive(w, ret, ret_fd, ret_err);
	if (r == 0)
		return berth_error_set(ret_err, BERTH_CANCELLED, "berthd closed the socket");
	return r < 0 ? -1 : 0;
}

static void take_have(struct pull_wire *w, const json_t *list)
{
	free(w->have);
	w->n_have = json_array_size(list);
	w->have = berth_new_array(bool, w->n_have);
	for (size_t i = 0; i < w->n_have; i++)
		w->have[i] = json_is_true(json_array_get(list, i));
	w->have_known = true;
}

/* The top comes last. */
static void take_source(struct pull_layer_source *s, const char *part, int *fd)
{
	int *to = strcmp(part, "top") == 0     ? &s->top
	          : strcmp(part, "below") == 0 ? &s->below
	                                       : &s->opaque;
	berth_close(*to);
	*to = berth_take_fd(fd);
}

static void take_packet(struct pull_wire *w, json_t *p, int fd)
{
	const char *t = json_string_value(json_object_get(p, "t"));
	json_int_t n = json_integer_value(json_object_get(p, "n"));

	if (!t)
		t = "";
	pthread_mutex_lock(&w->lock);
	if (strcmp(t, "have") == 0) {
		take_have(w, json_object_get(p, "have"));
	} else if (strcmp(t, "stored") == 0) {
		w->stored = true;
	} else if (strcmp(t, "dir") == 0 && fd >= 0 && n >= 0 && n < BERTH_LIMIT_IMAGE_LAYERS) {
		berth_close(w->dirs[n]);
		w->dirs[n] = berth_take_fd(&fd);
	} else if (strcmp(t, "fetch") == 0 && n >= 0 && n < BERTH_LIMIT_IMAGE_LAYERS) {
		berth_close(w->files[n]);
		w->files[n] = berth_take_fd(&fd);
		w->may_fetch[n] = true;
	} else if (strcmp(t, "source") == 0 && fd >= 0 && n >= 0 && n < BERTH_LIMIT_IMAGE_LAYERS) {
		const char *part = json_string_value(json_object_get(p, "part"));
		take_source(&w->sources[n], part ? part : "", &fd);
	} else if (strcmp(t, "record") == 0 && fd >= 0) {
		berth_close(w->record);
		w->record = berth_take_fd(&fd);
	} else if (strcmp(t, "abort") == 0) {
		_exit(EXIT_FAILURE);
	} else {
		berth_log_warn("unexpected packet from berthd", "type", t);
	}
	pthread_cond_broadcast(&w->arrived);
	pthread_mutex_unlock(&w->lock);
	berth_close(fd);
}

static void *read_packets(void *arg)
{
	struct pull_wire *w = arg;
	bool done = false;

	for (;;) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		json_t *p = NULL;
		int fd = -1;
		int r = receive(w, &p, &fd, &err);
		if (r == 0 && done)
			return NULL; /* after `stored` berthd may go */
		if (r <= 0)
			_exit(EXIT_FAILURE);
		const char *t = json_string_value(json_object_get(p, "t"));
		done = t && strcmp(t, "stored") == 0;
		take_packet(w, p, fd);
		json_decref(p);
	}
}

int pull_wire_start(struct pull_wire *w, struct berth_error **ret_err)
{
	int r = pthread_create(&w->reader, NULL, read_packets, w);
	if (r != 0)
		return berth_error_errno(ret_err, r, "start the reader thread");
	w->started = true;
	return 0;
}

static int send_text(
        struct pull_wire *w, const char *text, size_t n, int fd, struct berth_error **ret_err)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(char *)text, n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	ssize_t sent;
	do
		sent = sendmsg(w->fd, &m, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return berth_error_errno(ret_err, errno, "write to berthd");
	return 0;
}

int pull_wire_send(struct pull_wire *w, json_t *packet, int fd, struct berth_error **ret_err)
{
	if (!packet)
		return berth_error_set(ret_err, BERTH_INTERNAL, "cannot build a packet for berthd");
	_cleanup_free_ char *text = json_dumps(packet, JSON_COMPACT);
	json_decref(packet);
	if (!text || strlen(text) > BERTH_PULL_PACKET)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "a packet for berthd is larger than %d bytes", BERTH_PULL_PACKET);
	return send_text(w, text, strlen(text), fd, ret_err);
}

int pull_wire_send_memfd(struct pull_wire *w, json_t *packet, const char *name, const void *text,
        size_t n, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC);
	if (fd < 0) {
		int e = errno;
		json_decref(packet);
		return berth_error_errno(ret_err, e, "memfd_create '%s'", name);
	}
	int r = berth_write_all(fd, text, n);
	if (r < 0 || lseek(fd, 0, SEEK_SET) < 0) {
		json_decref(packet);
		return berth_error_errno(ret_err, r ? r : errno, "write memfd '%s'", name);
	}
	return pull_wire_send(w, packet, fd, ret_err);
}

/* Longer messages are cut: what an error quotes may come from a registry. */
enum { ERROR_TEXT = 8192 };

void pull_wire_send_error(struct pull_wire *w, const struct berth_error *err)
{
	_cleanup_(berth_error_freep) struct berth_error *ignored = NULL;
	_cleanup_free_ char *whole = berth_asprintf(
	        "%s%s", err->code == BERTH_UNAVAILABLE ? BERTH_PULL_UNAVAILABLE : "", err->msg);
	_cleanup_free_ char *msg = berth_strndup(whole, ERROR_TEXT);
	json_t *text = json_string(msg);

	/* A name from an archive may be anything, a JSON string is UTF-8. */
	for (char *c = msg; !text && *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	if (!text)
		text = json_string(msg);
	int r = pull_wire_send(w,
	        json_pack("{s:s, s:i, s:o}", "t", "error", "code", (int)err->code, "msg", text), -1,
	        &ignored);
	(void)r;
}

int pull_wire_wait_have(struct pull_wire *w, size_t n, bool **ret, struct berth_error **ret_err)
{
	pthread_mutex_lock(&w->lock);
	while (!w->have_known)
		pthread_cond_wait(&w->arrived, &w->lock);
	w->have_known = false;
	_cleanup_free_ bool *have = berth_take(w->have);
	bool ok = w->n_have == n;
	pthread_mutex_unlock(&w->lock);
	if (!ok)
		return berth_error_set(ret_err, BERTH_INTERNAL, "malformed `have` from berthd");
	*ret = berth_take(have);
	return 0;
}

int pull_wire_wait_dir(struct pull_wire *w, size_t layer)
{
	assert(layer < BERTH_LIMIT_IMAGE_LAYERS);
	pthread_mutex_lock(&w->lock);
	while (w->dirs[layer] < 0)
		pthread_cond_wait(&w->arrived, &w->lock);
	int fd = berth_take_fd(&w->dirs[layer]);
	pthread_mutex_unlock(&w->lock);
	return fd;
}

bool pull_wire_wait_fetch(struct pull_wire *w, size_t layer, int *ret_fd)
{
	assert(layer < BERTH_LIMIT_IMAGE_LAYERS);
	pthread_mutex_lock(&w->lock);
	while (!w->may_fetch[layer])
		pthread_cond_wait(&w->arrived, &w->lock);
	w->may_fetch[layer] = false;
	*ret_fd = berth_take_fd(&w->files[layer]);
	pthread_mutex_unlock(&w->lock);
	return *ret_fd >= 0;
}

void pull_wire_wait_source(struct pull_wire *w, size_t layer, struct pull_layer_source *ret)
{
	assert(layer < BERTH_LIMIT_IMAGE_LAYERS);
	struct pull_layer_source *s = &w->sources[layer];
	pthread_mutex_lock(&w->lock);
	while (s->top < 0)
		pthread_cond_wait(&w->arrived, &w->lock);
	*ret = *s;
	*s = (struct pull_layer_source){-1, -1, -1};
	pthread_mutex_unlock(&w->lock);
}

int pull_wire_wait_record(struct pull_wire *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->record < 0)
		pthread_cond_wait(&w->arrived, &w->lock);
	int fd = berth_take_fd(&w->record);
	pthread_mutex_unlock(&w->lock);
	return fd;
}

void pull_wire_wait_stored(struct pull_wire *w)
{
	pthread_mutex_lock(&w->lock);
	while (!w->stored)
		pthread_cond_wait(&w->arrived, &w->lock);
	w->stored = false;
	pthread_mutex_unlock(&w->lock);
}
