#include "ctl/wire.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "berth-config.h"
#include "stream/tls_load.h"

#define CONNECT_MS 30000 /* for the connection and the answer to the upgrade */
#define HEAD_MAX 16384   /* of that answer */
#define WS_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define KEY_BYTES 16

struct url {
	bool tls;
	char *host, *port, *authority, *path;
};

static void url_finish(struct url *u)
{
	free(u->host);
	free(u->port);
	free(u->authority);
	free(u->path);
}

/* http://HOST[:PORT]/PATH; also ws:// and wss://, as some servers say. */
static int parse_url(const char *s, struct url *u, struct berth_error **err)
{
	static const struct {
		const char *scheme, *port;
		bool tls;
	} schemes[] = {{"http://", "80", false}, {"https://", "443", true}, {"ws://", "80", false},
	        {"wss://", "443", true}};
	size_t k = 0;

	while (k < BERTH_ARRAY_LEN(schemes) &&
	        strncmp(s, schemes[k].scheme, strlen(schemes[k].scheme)) != 0)
		k++;
	if (k == BERTH_ARRAY_LEN(schemes))
		goto bad;
	const char *at = s + strlen(schemes[k].scheme);
	size_t n = strcspn(at, "/?#");
	u->tls = schemes[k].tls;
	u->authority = berth_strndup(at, n);
	u->path = berth_asprintf("%s%s", at[n] == '/' ? "" : "/", at + n);
	const char *end = at + n, *host_end, *host = at;
	if (*at == '[') {
		host = at + 1;
		host_end = memchr(at, ']', n);
		if (!host_end)
			goto bad;
		at = host_end + 1;
	} else {
		host_end = at = memchr(at, ':', n) ? memchr(at, ':', n) : end;
	}
	if (host_end == host || (at < end && *at != ':'))
		goto bad;
	u->host = berth_strndup(host, (size_t)(host_end - host));
	u->port = at < end ? berth_strndup(at + 1, (size_t)(end - at - 1))
	                   : berth_strdup(schemes[k].port);
	for (const char *p = u->path; *p; p++)
		if (!isgraph((unsigned char)*p))
			goto bad;
	return 0;
bad:
	return berth_error_set(err, BERTH_INTERNAL,
	        "the runtime answered '%.100s', which is no URL of a streaming server", s);
}

/* ---- the connection ---- */

static int wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};
	uint64_t now = berth_now_ns();
	int r;

	do
		r = poll(&p, 1, now < deadline ? (int)((deadline - now) / 1000000u) + 1 : 0);
	while (r < 0 && errno == EINTR);
	return r > 0 ? 0 : r == 0 ? -ETIMEDOUT : -errno;
}

static int connect_one(const struct addrinfo *ai, uint64_t deadline, int *ret_fd)
{
	int err = 0, on = 1;
	socklen_t len = sizeof(err);
	_cleanup_close_ int fd =
	        socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno != EINPROGRESS)
		return -errno;
	int r = wait_for(fd, POLLOUT, deadline);
	if (r == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		r = -errno;
	if (r < 0 || err)
		return r < 0 ? r : -err;
	*ret_fd = berth_take_fd(&fd);
	return 0;
}

static int dial(
        struct ctl_wire *w, const struct url *u, uint64_t deadline, struct berth_error **err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all = NULL;
	int r = getaddrinfo(u->host, u->port, &hints, &all);

	if (r != 0)
		return berth_error_set(
		        err, BERTH_UNAVAILABLE, "%s: %s", u->authority, gai_strerror(r));
	r = -ENOENT;
	for (const struct addrinfo *ai = all; ai && w->fd < 0; ai = ai->ai_next)
		r = connect_one(ai, deadline, &w->fd);
	freeaddrinfo(all);
	if (w->fd >= 0)
		return 0;
	return berth_error_set(err, BERTH_UNAVAILABLE, "the streaming server at %s: %s",
	        u->authority, strerror(-r));
}

static int start_tls(
        struct ctl *c, struct ctl_wire *w, const struct url *u, struct berth_error **err)
{
	const char *dir = getenv("BERTH_LIBEXECDIR");
	struct berth_tls_files f = {.cert = ctl_text(c, "tls-cert"),
	        .key = ctl_text(c, "tls-key"),
	        .ca = ctl_text(c, "tls-ca")};
	char why[512];

	if (!f.cert != !f.key)
		return berth_error_set(
		        err, BERTH_INVALID_ARGUMENT, "--tls-cert and --tls-key go together");
	w->tls_api = berth_tls_load(dir && *dir ? dir : BERTH_LIBEXECDIR, err);
	if (!w->tls_api)
		return -1;
	w->tls_ctx = w->tls_api->ctx_new(&f, false, NULL, why, sizeof(why));
	if (!w->tls_ctx)
		return berth_error_set(err, BERTH_INVALID_ARGUMENT, "%s", why);
	w->tls = w->tls_api->open(w->tls_ctx, w->fd, u->host);
	return w->tls ? 0 : berth_error_set(err, BERTH_INTERNAL, "no memory for TLS");
}

short ctl_wire_events(const struct ctl_wire *w, bool read)
{
	bool write = ctl_wire_waits(w) > 0 || (read && w->read_wants_write);
	return (short)((read ? POLLIN : 0) | (write ? POLLOUT : 0));
}

static int broken(struct ctl_wire *w, const char *why, struct berth_error **err)
{
	return berth_error_set(err, BERTH_UNAVAILABLE, "the stream from %s: %s", w->host, why);
}

static int send_some(struct ctl_wire *w, struct berth_error **err)
{
	while (ctl_wire_waits(w) > 0) {
		const char *p = w->out.data + w->out_off;
		size_t len = ctl_wire_waits(w);
		ssize_t n = w->tls ? w->tls_api->write(w->tls, p, len)
		                   : send(w->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (w->tls && n == BERTH_TLS_FAILED)
			return broken(w, w->tls_api->why(w->tls), err);
		if (!w->tls && n < 0 && errno != EAGAIN && errno != EINTR)
			return broken(w, strerror(errno), err);
		if (n <= 0)
			return 0;
		w->out_off += (size_t)n;
		if (w->out_off == w->out.len || w->out_off > CTL_WIRE_OUT) {
			memmove(w->out.data, w->out.data + w->out_off, w->out.len - w->out_off);
			w->out.len -= w->out_off;
			w->out_off = 0;
		}
	}
	return 0;
}

/* As ctl_wire_ready(), without sending. */
static ssize_t take(struct ctl_wire *w, char *buf, size_t size, struct berth_error **err)
{
	ssize_t n;

	if (!w->tls) {
		n = recv(w->fd, buf, size, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n < 0)
			broken(w, strerror(errno), err);
		return n > 0 ? n : -1;
	}
	n = w->tls_api->read(w->tls, buf, size);
	w->read_wants_write = n == BERTH_TLS_WANT_WRITE;
	if (n == BERTH_TLS_WANT_READ || n == BERTH_TLS_WANT_WRITE)
		return 0;
	if (n == BERTH_TLS_FAILED || n == BERTH_TLS_PLAIN)
		broken(w, n == BERTH_TLS_PLAIN ? "it speaks no TLS" : w->tls_api->why(w->tls), err);
	return n > 0 ? n : -1;
}

ssize_t ctl_wire_ready(
        struct ctl_wire *w, short revents, char *buf, size_t size, struct berth_error **err)
{
	struct berth_error *sent = NULL;
	bool failed = send_some(w, &sent) < 0;
	bool read = (revents & (POLLIN | POLLHUP | POLLERR)) ||
	            (w->read_wants_write && (revents & POLLOUT));
	ssize_t n = read ? take(w, buf, size, err) : failed ? -1 : 0;

	/* What the server said last is worth more than that it takes nothing more. */
	if (failed && n < 0) {
		*err = berth_error_free(*err);
		berth_error_move(err, &sent);
	}
	berth_error_free(sent);
	return n;
}

void ctl_wire_close(struct ctl_wire *w)
{
	if (w->tls)
		w->tls_api->free(w->tls);
	if (w->tls_ctx)
		w->tls_api->ctx_free(w->tls_ctx);
	w->tls = NULL;
	w->tls_ctx = NULL;
	w->fd = berth_close(w->fd);
	berth_buf_finish(&w->out);
	berth_buf_finish(&w->in);
	free(w->protocol);
	free(w->host);
	w->protocol = w->host = NULL;
}

/* ---- the upgrade ---- */

static void base64(char *ret, const void *p, size_t n)
{
	base64_encode_raw(ret, n, p);
	ret[BASE64_ENCODE_RAW_LENGTH(n)] = '\0';
}

static void ws_accept(const char *key, char *ret)
{
	struct sha1_ctx sha;
	uint8_t digest[SHA1_DIGEST_SIZE];

	sha1_init(&sha);
	sha1_update(&sha, strlen(key), (const uint8_t *)key);
	sha1_update(&sha, sizeof(WS_GUID) - 1, (const uint8_t *)WS_GUID);
	sha1_digest(&sha, sizeof(digest), digest);
	base64(ret, digest, sizeof(digest));
}

static int ask(struct ctl_wire *w, const struct url *u, const char *upgrade,
        const char *const *protocols, char *ret_accept, struct berth_error **err)
{
	bool ws = strcmp(upgrade, "websocket") == 0;
	char raw[KEY_BYTES], key[BASE64_ENCODE_RAW_LENGTH(KEY_BYTES) + 1];

	berth_buf_addf(&w->out,
	        "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: berthctl/" BERTH_VERSION
	        "\r\nConnection: Upgrade\r\nUpgrade: %s\r\n",
	        ws ? "GET" : "POST", u->path, u->authority, upgrade);
	if (ws) {
		if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
			return berth_error_errno(err, errno, "random bytes");
		base64(key, raw, sizeof(raw));
		ws_accept(key, ret_accept);
		berth_buf_addf(&w->out,
		        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n"
		        "Sec-WebSocket-Protocol: ",
		        key);
		for (size_t i = 0; protocols[i]; i++)
			berth_buf_addf(&w->out, "%s%s", i ? ", " : "", protocols[i]);
		berth_buf_adds(&w->out, "\r\n");
	} else {
		for (size_t i = 0; protocols[i]; i++)
			berth_buf_addf(&w->out, "X-Stream-Protocol-Version: %s\r\n", protocols[i]);
		berth_buf_adds(&w->out, "Content-Length: 0\r\n");
	}
	berth_buf_adds(&w->out, "\r\n");
	return 0;
}

/* The value of a header of a NUL-terminated head; the caller frees; NULL where it is not there. */
static char *header(const char *head, const char *name)
{
	size_t n = strlen(name);

	for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
		line += 2;
		if (strncasecmp(line, name, n) != 0 || line[n] != ':')
			continue;
		const char *v = line + n + 1;
		v += strspn(v, " \t");
		size_t len = strcspn(v, "\r");
		while (len > 0 && (v[len - 1] == ' ' || v[len - 1] == '\t'))
			len--;
		return berth_strndup(v, len);
	}
	return NULL;
}

static int check_answer(struct ctl_wire *w, const char *head, const char *body, const char *upgrade,
        const char *accept, struct berth_error **err)
{
	_cleanup_free_ char *got = NULL;

	if (strncmp(head, "HTTP/1.1 101", 12) != 0) {
		int status = strncmp(head, "HTTP/1.", 7) == 0 ? atoi(head + 9) : 0;
		size_t n = strcspn(body, "\r\n");
		return berth_error_set(err, BERTH_FAILED_PRECONDITION,
		        "the streaming server at %s refuses the stream: %d %.*s", w->host, status,
		        (int)(n < 500 ? n : 500), body);
	}
	bool ws = strcmp(upgrade, "websocket") == 0;
	if (ws) {
		got = header(head, "Sec-WebSocket-Accept");
		if (!got || strcmp(got, accept) != 0)
			return broken(w, "it answered to another request's key", err);
	}
	w->protocol = header(head, ws ? "Sec-WebSocket-Protocol" : "X-Stream-Protocol-Version");
	return 0;
}

/* Is a refusal's text there, too? */
static bool has_all(const char *head, const char *end)
{
	_cleanup_free_ char *length = header(head, "Content-Length");
	if (strncmp(head, "HTTP/1.1 101", 12) == 0)
		return true;
	return length && strlen(end + 4) >= strtoul(length, NULL, 10);
}

/* Reads the head of the answer; of a refusal its text, too. */
static int take_answer(struct ctl_wire *w, uint64_t deadline, const char *upgrade,
        const char *accept, struct berth_error **err)
{
	char chunk[CTL_WIRE_READ];
	struct berth_buf all = {0};
	char *end = NULL;
	ssize_t n = 0;
	int r = -1;

	for (;;) {
		end = all.len ? strstr(all.data, "\r\n\r\n") : NULL;
		bool part = end && !has_all(all.data, end);
		if ((end && (!part || n < 0)) || all.len > HEAD_MAX || (n < 0 && !end))
			break;
		int ready = wait_for(w->fd, ctl_wire_events(w, true), deadline);
		if (ready < 0) {
			broken(w, strerror(-ready), err);
			goto done;
		}
		/* Both directions are tried: neither of them blocks. */
		n = ctl_wire_ready(w, POLLIN | POLLOUT, chunk, sizeof(chunk), err);
		if (*err && !end)
			goto done;
		*err = berth_error_free(*err); /* a refusal whose text is cut off */
		if (n > 0)
			berth_buf_add(&all, chunk, (size_t)n);
	}
	if (!end) {
		broken(w, "no answer of HTTP came", err);
		goto done;
	}
	*end = '\0';
	end += 4;
	r = check_answer(w, all.data, end, upgrade, accept, err);
	berth_buf_add(&w->in, end, all.len - (size_t)(end - all.data));
done:
	berth_buf_finish(&all);
	return r;
}

int ctl_wire_open(struct ctl *c, struct ctl_wire *w, const char *url, const char *upgrade,
        const char *const *protocols, struct berth_error **err)
{
	uint64_t deadline = berth_now_ns() + CONNECT_MS * 1000000ull;
	char accept[BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) + 1] = "";
	struct url u = {0};
	int r = -1;

	*w = (struct ctl_wire){.fd = -1};
	if (parse_url(url, &u, err) < 0)
		goto done;
	w->host = berth_strdup(u.authority);
	if (dial(w, &u, deadline, err) < 0 || (u.tls && start_tls(c, w, &u, err) < 0) ||
	        ask(w, &u, upgrade, protocols, accept, err) < 0)
		goto done;
	r = take_answer(w, deadline, upgrade, accept, err);
done:
	url_finish(&u);
	return r;
}
