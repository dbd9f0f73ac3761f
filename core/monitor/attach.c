/* The attach socket and the container's stdin. A client costs a bounded buffer and nobody's time:
 * one that reads may slow the container down for as long as its reading has earned, one that does
 * not is cut off. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "monitor/mon.h"

#define CREDIT_FIRST_NS 20000000ll
#define CREDIT_MAX_NS 250000000ll
/* Buffers between us and who reads: what fills them was not read yet, and earns nothing. */
#define CREDIT_FROM_BYTES (2 * 1024 * 1024)
#define CREDIT_NS_PER_BYTE 244ll /* 1 ms for 4 KiB: a reader of 4 MB/s is waited for */

struct entry {
	uint16_t len;
	unsigned char stream, reserved;
};

void mon_attach_accept(struct mon *m)
{
	int fd = accept4(m->attach_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	for (size_t i = 0; i < BERTH_MON_CLIENTS; i++) {
		struct mon_client *c = &m->clients[i];
		if (c->fd < 0) {
			*c = (struct mon_client){.fd = fd, .credit_ns = CREDIT_FIRST_NS};
			return;
		}
	}
	close(fd);
}

static void unqueue(struct mon_client *c)
{
	if (c->q)
		munmap(c->q, BERTH_MON_CLIENT_BUF);
	c->q = NULL;
	c->head = c->tail = c->last = 0;
}

static void drop(struct mon *m, struct mon_client *c)
{
	unqueue(c);
	mon_close(&c->fd);
	if (c->was_input && m->in.once)
		mon_stdin_close(m);
}

/* Sends one packet: its size, 0 where the socket is full, -1 where the client is gone. */
static int send_packet(int fd, unsigned char stream, const char *p, size_t n)
{
	struct iovec iov[2] = {{.iov_base = &stream, .iov_len = 1},
	        {.iov_base = (void *)(uintptr_t)p, .iov_len = n}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t r;
	do
		r = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r >= 0)
		return (int)r;
	return errno == EAGAIN || errno == ENOBUFS ? 0 : -1;
}

static void earn(struct mon_client *c, size_t n)
{
	if (c->taken < CREDIT_FROM_BYTES) {
		c->taken += n;
		return;
	}
	c->credit_ns += (int64_t)n * CREDIT_NS_PER_BYTE;
	if (c->credit_ns > CREDIT_MAX_NS)
		c->credit_ns = CREDIT_MAX_NS;
}

static bool enqueue(struct mon_client *c, unsigned char stream, const char *p, size_t n)
{
	if (!c->q) {
		void *q = mmap(NULL, BERTH_MON_CLIENT_BUF, PROT_READ | PROT_WRITE,
		        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (q == MAP_FAILED)
			return false;
		c->q = q;
		c->head = c->tail = c->last = 0;
	}
	struct entry e;
	if (c->tail > c->head) {
		memcpy(&e, c->q + c->last, sizeof(e));
		if (e.stream == stream && e.len + n <= BERTH_MON_ATTACH_OUT &&
		        c->tail + n <= BERTH_MON_CLIENT_BUF) {
			memcpy(c->q + c->tail, p, n);
			c->tail += n;
			e.len = (uint16_t)(e.len + n);
			memcpy(c->q + c->last, &e, sizeof(e));
			return true;
		}
	}
	size_t need = sizeof(e) + n;
	if (c->tail + need > BERTH_MON_CLIENT_BUF && c->head > 0) {
		memmove(c->q, c->q + c->head, c->tail - c->head);
		c->tail -= c->head;
		c->head = 0;
	}
	if (c->tail + need > BERTH_MON_CLIENT_BUF)
		return false;
	e = (struct entry){.len = (uint16_t)n, .stream = stream};
	c->last = c->tail;
	memcpy(c->q + c->tail, &e, sizeof(e));
	memcpy(c->q + c->tail + sizeof(e), p, n);
	c->tail += need;
	return true;
}

void mon_attach_send(struct mon *m, unsigned char stream, const char *p, size_t n)
{
	for (size_t i = 0; i < BERTH_MON_CLIENTS; i++) {
		struct mon_client *c = &m->clients[i];
		if (c->fd < 0 || c->out_dead)
			continue;
		int r = c->q ? 0 : send_packet(c->fd, stream, p, n);
		if (r > 0)
			earn(c, n);
		else if (r < 0)
			c->out_dead = true; /* its last input may still wait in the socket */
		else if (!enqueue(c, stream, p, n))
			drop(m, c);
	}
}

static void flush_client(struct mon_client *c)
{
	while (c->q) {
		struct entry e;
		memcpy(&e, c->q + c->head, sizeof(e));
		int r = send_packet(c->fd, e.stream, c->q + c->head + sizeof(e), e.len);
		if (r == 0)
			return;
		if (r < 0) {
			c->out_dead = true;
			unqueue(c);
			return;
		}
		earn(c, e.len);
		c->head += sizeof(e) + e.len;
		if (c->head == c->tail)
			unqueue(c); /* gives the memory back */
	}
}

static bool stdin_busy(const struct mon *m)
{
	return m->in.fd >= 0 && m->in.len > 0;
}

void mon_client_events(struct mon *m, struct mon_client *c, struct pollfd *p)
{
	p->fd = c->fd;
	p->events = 0;
	if (c->q)
		p->events |= POLLOUT;
	/* A client that hung up is always "ready": it is asked only when its input can be taken. */
	if (!stdin_busy(m)) {
		if (!c->in_eof)
			p->events |= POLLIN;
	} else if (!c->q) {
		p->fd = -1;
	}
}

static void read_client(struct mon *m, struct mon_client *c)
{
	struct mon_stdin *in = &m->in;
	ssize_t n = recv(c->fd, in->buf, sizeof(in->buf), MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0 || (size_t)n > sizeof(in->buf)) {
		drop(m, c);
		return;
	}
	if (n == 0) {
		struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
		if (poll(&p, 1, 0) != 1)
			return; /* an empty packet */
		c->in_eof = true;
		if (p.revents & (POLLHUP | POLLERR)) {
			drop(m, c);
		} else if (in->once) {
			c->was_input = false;
			mon_stdin_close(m);
		}
		return;
	}
	c->was_input = true;
	if (in->fd < 0 || in->closing)
		return; /* nobody reads it */
	in->off = 0;
	in->len = (size_t)n;
	mon_stdin_flush(m);
}

void mon_client_ready(struct mon *m, struct mon_client *c, short revents)
{
	if (revents & POLLOUT)
		flush_client(c);
	if (c->fd >= 0 && !stdin_busy(m) && !c->in_eof && (revents & (POLLIN | POLLHUP | POLLERR)))
		read_client(m, c);
	else if (c->fd >= 0 && c->in_eof && (c->out_dead || (revents & (POLLHUP | POLLERR))))
		drop(m, c);
}

bool mon_attach_pending(const struct mon *m)
{
	for (size_t i = 0; i < BERTH_MON_CLIENTS; i++)
		if (m->clients[i].fd >= 0 && m->clients[i].q)
			return true;
	return false;
}

static bool lags(const struct mon_client *c)
{
	return c->fd >= 0 && c->q && c->tail - c->head > BERTH_MON_CLIENT_BUF / 2;
}

int64_t mon_attach_hold_ns(const struct mon *m)
{
	int64_t most = 0;
	for (size_t i = 0; i < BERTH_MON_CLIENTS; i++)
		if (lags(&m->clients[i]) && m->clients[i].credit_ns > most)
			most = m->clients[i].credit_ns;
	return most;
}

void mon_attach_held(struct mon *m, int64_t ns)
{
	for (size_t i = 0; i < BERTH_MON_CLIENTS; i++)
		if (lags(&m->clients[i]))
			m->clients[i].credit_ns -= ns;
}

static void stdin_gone(struct mon *m)
{
	/* A terminal's master stays open for its output. */
	if (m->in.tty)
		m->in.fd = -1;
	else
		mon_close(&m->in.fd);
	m->in.len = 0;
}

void mon_stdin_flush(struct mon *m)
{
	struct mon_stdin *in = &m->in;
	while (in->fd >= 0 && in->len > 0) {
		ssize_t n = write(in->fd, in->buf + in->off, in->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			stdin_gone(m);
			return;
		}
		in->off += (size_t)n;
		in->len -= (size_t)n;
	}
	if (in->closing && in->fd >= 0)
		stdin_gone(m);
}

void mon_stdin_close(struct mon *m)
{
	m->in.closing = true;
	if (m->in.len == 0 && m->in.fd >= 0)
		stdin_gone(m);
}
