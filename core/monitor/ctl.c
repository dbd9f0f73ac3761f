/* The ctl socket: short requests, each answered once it is done. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor/mon.h"

void mon_ctl_accept(struct mon *m)
{
	int fd = accept4(m->ctl_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	int *slot = NULL;
	for (size_t i = 0; i < BERTH_MON_CTL_CLIENTS && !slot; i++)
		if (m->ctl_clients[i] < 0)
			slot = &m->ctl_clients[i];
	if (!slot) {
		/* All taken: the one that came first makes room, so that nobody can lock others
		 * out. */
		slot = &m->ctl_clients[m->ctl_next++ % BERTH_MON_CTL_CLIENTS];
		mon_close(slot);
	}
	*slot = fd;
}

static const char *resize(struct mon *m, const char *args)
{
	unsigned int w, h;
	char rest;
	if (sscanf(args, "%u %u%c", &w, &h, &rest) != 2 || w > 65535 || h > 65535)
		return "a size is WIDTH HEIGHT, each 0 to 65535";
	if (!m->o->tty)
		return "the container has no terminal";
	if (m->out_fd < 0)
		return "the terminal is closed";
	struct winsize ws = {.ws_col = (unsigned short)w, .ws_row = (unsigned short)h};
	return ioctl(m->out_fd, TIOCSWINSZ, &ws) < 0 ? strerrordesc_np(errno) : NULL;
}

static const char *serve(struct mon *m, const char *req)
{
	if (strcmp(req, "reopen") == 0) {
		int r = mon_log_reopen(&m->log);
		return r == -ENOENT && m->log.dirfd < 0 ? "the container has no log"
		       : r < 0                          ? strerrordesc_np(-r)
		                                        : NULL;
	}
	if (strncmp(req, "resize ", 7) == 0)
		return resize(m, req + 7);
	if (strcmp(req, "close-stdin") == 0) {
		mon_stdin_close(m);
		return NULL;
	}
	return "unknown request";
}

void mon_ctl_ready(struct mon *m, int *fd)
{
	char req[BERTH_MON_CTL_MAX + 1], ans[BERTH_MON_CTL_MAX];
	ssize_t n = recv(*fd, req, sizeof(req), MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || (size_t)n >= sizeof(req)) {
		mon_close(fd);
		return;
	}
	req[n] = '\0';
	const char *why = serve(m, req);
	int len = why ? snprintf(ans, sizeof(ans), "error %s", why)
	              : snprintf(ans, sizeof(ans), "ok");
	if (send(*fd, ans, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		mon_close(fd);
}
