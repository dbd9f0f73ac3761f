/* The monitor's attach and ctl sockets, with clients that do what the input says: they come, send
 * packets of any size, end one direction, read or do not, and go, while the container writes and
 * reads or does not. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "monitor/mon.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
	CLIENTS = 20,
	CTLS = 10,
	TURNS = 400,
	TURNS_LEAST = 40,
	STEPS = 200,
	PACKET_UNIT = 300,
	OUTPUT_UNIT = 128
};

struct client {
	int fd;
	size_t sent;
	bool in_step[2]; /* its place in the output is known */
	size_t at[2];
};

static struct mon mon;
static struct mon_opts opts;
static struct client clients[CLIENTS];
static int ctls[CTLS];
static int listeners[2], names[2];
static struct sockaddr_un addresses[2];
static socklen_t address_len[2];
static int stdin_r, master;
static size_t written[2], stdin_from[CLIENTS]; /* bytes of stdout and stderr; by their sender */

void mon_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Sockets whose names the kernel chooses. */
static void listen_once(void)
{
	if (names[0])
		return;
	for (int i = 0; i < 2; i++) {
		struct sockaddr_un sa = {.sun_family = AF_UNIX};
		listeners[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		address_len[i] = sizeof(addresses[i]);
		if (bind(listeners[i], (struct sockaddr *)&sa, sizeof(sa_family_t)) < 0 ||
		        listen(listeners[i], 64) < 0 ||
		        getsockname(listeners[i], (struct sockaddr *)&addresses[i],
		                &address_len[i]) < 0)
			abort();
	}
	master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC); /* -1 is fine, too */
	names[0] = 1;
}

static int dial(int which)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addresses[which], address_len[which]) < 0)
		abort();
	return fd;
}

/* One round of the monitor's loop. */
static void turn(void)
{
	enum { IN, ATTACH, CTL, CTL_0, CLIENT_0 = CTL_0 + BERTH_MON_CTL_CLIENTS };
	struct pollfd p[CLIENT_0 + BERTH_MON_CLIENTS];
	struct mon *m = &mon;

	memset(p, 0, sizeof(p));
	p[IN] = (struct pollfd){.fd = m->in.fd, .events = m->in.len ? POLLOUT : 0};
	p[ATTACH] = (struct pollfd){.fd = m->attach_fd, .events = POLLIN};
	p[CTL] = (struct pollfd){.fd = m->ctl_fd, .events = POLLIN};
	for (int i = 0; i < BERTH_MON_CTL_CLIENTS; i++)
		p[CTL_0 + i] = (struct pollfd){.fd = m->ctl_clients[i], .events = POLLIN};
	for (int i = 0; i < BERTH_MON_CLIENTS; i++)
		mon_client_events(m, &m->clients[i], &p[CLIENT_0 + i]);
	if (poll(p, sizeof(p) / sizeof(p[0]), 0) < 0)
		return;
	if (p[IN].revents & (POLLOUT | POLLERR))
		mon_stdin_flush(m);
	for (int i = 0; i < BERTH_MON_CLIENTS; i++)
		if (p[CLIENT_0 + i].revents && m->clients[i].fd == p[CLIENT_0 + i].fd)
			mon_client_ready(m, &m->clients[i], p[CLIENT_0 + i].revents);
	for (int i = 0; i < BERTH_MON_CTL_CLIENTS; i++)
		if (p[CTL_0 + i].revents && m->ctl_clients[i] == p[CTL_0 + i].fd)
			mon_ctl_ready(m, &m->ctl_clients[i]);
	if (p[ATTACH].revents)
		mon_attach_accept(m);
	if (p[CTL].revents)
		mon_ctl_accept(m);
	if (m->in.off > sizeof(m->in.buf) || m->in.len > sizeof(m->in.buf) - m->in.off)
		abort();
}

/* Output is a sequence that tells its place: whatever a client sees has neither holes nor doubles.
 */
static void put_output(unsigned int which, size_t n)
{
	char buf[BERTH_MON_ATTACH_OUT];

	while (n > 0) {
		size_t piece = n < sizeof(buf) ? n : sizeof(buf);
		for (size_t i = 0; i < piece; i++)
			buf[i] = (char)((written[which] + i) % 251);
		written[which] += piece;
		mon_attach_send(&mon, which ? BERTH_MON_STDERR : BERTH_MON_STDOUT, buf, piece);
		n -= piece;
	}
}

static void read_output(struct client *c, int packets)
{
	unsigned char buf[BERTH_MON_ATTACH_OUT + 2];

	while (packets-- > 0 && c->fd >= 0) {
		ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT | MSG_TRUNC);
		if (n <= 0)
			return;
		if (n < 2 || n > BERTH_MON_ATTACH_OUT + 1 ||
		        (buf[0] != BERTH_MON_STDOUT && buf[0] != BERTH_MON_STDERR))
			abort();
		unsigned int which = buf[0] == BERTH_MON_STDERR;
		if (!c->in_step[which])
			c->at[which] = buf[1];
		c->in_step[which] = true;
		for (ssize_t i = 1; i < n; i++)
			if (buf[i] != c->at[which]++ % 251)
				abort();
	}
}

static void read_stdin(size_t most)
{
	char buf[4096];

	while (most > 0) {
		ssize_t n = read(stdin_r, buf, most < sizeof(buf) ? most : sizeof(buf));
		if (n <= 0)
			return;
		most -= (size_t)n;
		for (ssize_t i = 0; i < n; i++) {
			unsigned int from = (unsigned char)buf[i];
			if (from >= CLIENTS || ++stdin_from[from] > clients[from].sent)
				abort();
		}
	}
}

static void send_packet(int i, size_t n)
{
	static char buf[256 * PACKET_UNIT];
	struct client *c = &clients[i];

	if (c->fd < 0)
		return;
	memset(buf, i, n);
	if (send(c->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL) > 0 && n <= BERTH_MON_ATTACH_IN)
		c->sent += n;
}

static void ask(int *fd, const uint8_t *req, size_t n)
{
	char ans[BERTH_MON_CTL_MAX + 1];

	if (*fd < 0)
		*fd = dial(1);
	turn();
	if (send(*fd, req, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		mon_close(fd);
	turn();
	ssize_t got = *fd >= 0 ? recv(*fd, ans, sizeof(ans), MSG_DONTWAIT) : -1;
	bool ok = got == 2 && memcmp(ans, "ok", 2) == 0;
	bool error = got > 6 && got <= BERTH_MON_CTL_MAX && memcmp(ans, "error ", 6) == 0;
	if (got > 0 && !ok && !error)
		abort();
	if (got == 0)
		mon_close(fd);
}

static void begin(uint8_t flags)
{
	int p[2];

	memset(&mon, 0, sizeof(mon));
	memset(clients, 0, sizeof(clients));
	memset(written, 0, sizeof(written));
	memset(stdin_from, 0, sizeof(stdin_from));
	opts = (struct mon_opts){.tty = flags & 1, .use_stdin = true, .stdin_once = flags & 2};
	mon.o = &opts;
	mon.log.fd = mon.log.dirfd = -1;
	mon.attach_fd = listeners[0];
	mon.ctl_fd = listeners[1];
	mon.err_fd = -1;
	mon.out_fd = opts.tty ? master : -1;
	mon.in.once = opts.stdin_once;
	if (pipe2(p, O_NONBLOCK | O_CLOEXEC) < 0)
		abort();
	stdin_r = p[0];
	mon.in.fd = p[1];
	for (int i = 0; i < BERTH_MON_CLIENTS; i++)
		mon.clients[i].fd = -1;
	for (int i = 0; i < BERTH_MON_CTL_CLIENTS; i++)
		mon.ctl_clients[i] = -1;
	for (int i = 0; i < CLIENTS; i++)
		clients[i].fd = -1;
	for (int i = 0; i < CTLS; i++)
		ctls[i] = -1;
}

static bool anybody(void)
{
	bool any = false;

	for (int i = 0; i < BERTH_MON_CLIENTS; i++)
		any = any || mon.clients[i].fd >= 0 || mon.clients[i].q;
	for (int i = 0; i < BERTH_MON_CTL_CLIENTS; i++)
		any = any || mon.ctl_clients[i] >= 0;
	return any;
}

/* Once all have gone (those too that waited to be accepted), the monitor has forgotten them. */
static void end(void)
{
	for (int i = 0; i < CLIENTS; i++)
		mon_close(&clients[i].fd);
	for (int i = 0; i < CTLS; i++)
		mon_close(&ctls[i]);
	for (int i = 0; i < TURNS && (i < TURNS_LEAST || anybody()); i++) {
		read_stdin(SIZE_MAX);
		turn();
	}
	if (anybody())
		abort();
	mon_close(&mon.in.fd);
	mon_close(&stdin_r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	listen_once();
	if (size < 1)
		return 0;
	begin(data[0]);
	for (size_t i = 1, step = 0; i + 1 < size && step < STEPS; i += 2, step++) {
		unsigned int op = data[i] & 7, who = data[i] >> 3;
		struct client *c = &clients[who % CLIENTS];
		size_t n = data[i + 1];
		switch (op) {
		case 0:
			if (c->fd < 0) {
				c->fd = dial(0);
				c->in_step[0] = c->in_step[1] = false;
			}
			break;
		case 1:
			send_packet((int)(who % CLIENTS), n * PACKET_UNIT);
			break;
		case 2:
			if (c->fd >= 0)
				(void)shutdown(c->fd, n & 1 ? SHUT_RD : SHUT_WR);
			break;
		case 3:
			mon_close(&c->fd);
			break;
		case 4:
			put_output(who & 1, n * OUTPUT_UNIT);
			break;
		case 5:
			read_output(c, (int)n);
			break;
		case 6:
			n = n * 3 < size - i - 2 ? n * 3 : size - i - 2;
			ask(&ctls[who % CTLS], data + i + 2, n);
			i += n;
			break;
		default:
			read_stdin(n * PACKET_UNIT);
			break;
		}
		turn();
	}
	end();
	return 0;
}
