#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool plain(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '_' || c == '-' || c == '.';
}

int name_encode(const char *key, char out[NAME_LIMIT + 1])
{
	static const char hex[] = "0123456789ABCDEF";
	size_t n = 0;

	if (!key || !*key)
		return -EINVAL;
	for (const char *p = key; *p; p++) {
		unsigned char c = (unsigned char)*p;
		/* A control character would forge a line of a meta file. */
		if (c < 0x20 || c == 0x7f)
			return -EINVAL;
		bool keep = plain(c) && !(c == '.' && p == key);
		if (n + (keep ? 1 : 3) > NAME_LIMIT)
			return -ENAMETOOLONG;
		if (keep) {
			out[n++] = (char)c;
		} else {
			out[n++] = '%';
			out[n++] = hex[c >> 4];
			out[n++] = hex[c & 15];
		}
	}
	out[n] = '\0';
	return 0;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int name_decode(const char *name, char out[NAME_LIMIT + 1])
{
	char again[NAME_LIMIT + 1];
	size_t n = 0;

	if (strlen(name) > NAME_LIMIT)
		return -EINVAL;
	for (const char *p = name; *p; p++) {
		if (*p != '%') {
			out[n++] = *p;
			continue;
		}
		int hi = digit(p[1]), lo = hi < 0 ? -1 : digit(p[2]);
		if (lo < 0)
			return -EINVAL;
		out[n++] = (char)(hi * 16 + lo);
		p += 2;
	}
	out[n] = '\0';
	/* Only what we would have written ourselves. */
	return name_encode(out, again) == 0 && strcmp(again, name) == 0 ? 0 : -EINVAL;
}

int store_read_small(int dirfd, const char *path, char *buf, size_t size)
{
	int fd = openat(dirfd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	size_t n = 0;
	ssize_t r;

	if (fd < 0)
		return -errno;
	while (n < size && (r = read(fd, buf + n, size - n)) != 0) {
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			int e = -errno;
			close(fd);
			return e;
		}
		n += (size_t)r;
	}
	close(fd);
	if (n == size)
		return -EFBIG;
	buf[n] = '\0';
	return 0;
}

static int copy(char *to, size_t size, const char *value)
{
	if (strlen(value) >= size)
		return META_FOREIGN;
	memcpy(to, value, strlen(value) + 1);
	return 0;
}

/* What every meta file has, in this order; `own` may come before the last. */
static const char *const always[] = {"kind", "layer", "volatile", "parent", "boot", "created"};
#define ALL_OF_THEM ((1u << sizeof(always) / sizeof(always[0])) - 1)

static int set_field(struct meta *m, const char *key, const char *value, unsigned int *seen)
{
	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		if (strcmp(key, always[i]) == 0)
			*seen |= 1u << i;
	if (strcmp(key, "kind") == 0) {
		m->kind = strcmp(value, "active") == 0      ? BERTH_SNAP_ACTIVE
		          : strcmp(value, "view") == 0      ? BERTH_SNAP_VIEW
		          : strcmp(value, "committed") == 0 ? BERTH_SNAP_COMMITTED
		                                            : 0;
		return m->kind ? 0 : META_NEWER;
	}
	if (strcmp(key, "layer") == 0)
		m->layer = strcmp(value, "1") == 0;
	if (strcmp(key, "volatile") == 0)
		m->is_volatile = strcmp(value, "1") == 0;
	if (strcmp(key, "parent") == 0)
		return copy(m->parent, sizeof(m->parent), value);
	if (strcmp(key, "boot") == 0)
		return copy(m->boot, sizeof(m->boot), value);
	if (strcmp(key, "own") == 0)
		return copy(m->own, sizeof(m->own), value);
	if (strcmp(key, "created") == 0) {
		char *end = NULL;
		errno = 0;
		m->created_ns = strtoull(value, &end, 10);
		if (errno || *end)
			return META_FOREIGN;
	}
	return 0;
}

/* The first line, which says what the others are. */
static int check_version(const char *line, bool cut)
{
	size_t n = strlen(line);

	if (strncmp(line, "v=", n < 2 ? n : 2) != 0 || (n < 3 && !cut))
		return META_FOREIGN;
	if (cut)
		return META_CUT;
	return strcmp(line, "v=1") == 0 ? 0 : META_NEWER;
}

/* Whatever was cut off its end shows: each line ends, and the last one is always there. */
static int parse(char *text, struct meta *m)
{
	unsigned int seen = 0;
	char *line = text, *end = strchr(line, '\n');
	bool cut = !end;

	if (end)
		*end = '\0';
	int r = check_version(line, cut);
	while (r == 0 && *(line = end + 1)) {
		end = strchr(line, '\n');
		char *eq = strchr(line, '=');
		if (!end)
			return META_CUT;
		*end = '\0';
		if (!eq || eq > end)
			return META_FOREIGN;
		*eq = '\0';
		r = set_field(m, line, eq + 1, &seen);
	}
	return r == 0 && seen != ALL_OF_THEM ? META_CUT : r;
}

bool meta_is_none(int r)
{
	return r == -ENOENT || r == META_CUT;
}

bool meta_is_strange(int r)
{
	return r == META_NEWER || r == META_FOREIGN;
}

int meta_read(int dirfd, struct meta *ret)
{
	char text[META_LIMIT + 1];
	struct meta m = {0};

	int r = store_read_small(dirfd, "meta", text, sizeof(text));
	if (r == 0)
		r = parse(text, &m);
	if (r == 0)
		*ret = m;
	/* No file of ours; one that is longer than ours are. */
	return r == -ELOOP || r == -EISDIR ? META_FOREIGN : r == -EFBIG ? META_NEWER : r;
}

void meta_of(const struct snap *s, struct meta *ret)
{
	*ret = (struct meta){.kind = s->kind,
	        .layer = s->layer,
	        .is_volatile = s->is_volatile,
	        .created_ns = s->created_ns};
	memcpy(ret->boot, s->boot, sizeof(ret->boot));
	memcpy(ret->own, s->own, sizeof(ret->own));
	if (s->parent)
		snprintf(ret->parent, sizeof(ret->parent), "%s", s->parent->key);
}

static int write_text(int dirfd, const char *text, size_t n, bool sync)
{
	int fd = openat(
	        dirfd, "meta.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	ssize_t w = write(fd, text, n);
	int r = w < 0 ? -errno : (size_t)w != n ? -ENOSPC : 0;
	if (r == 0 && sync && fsync(fd) < 0)
		r = -errno;
	if (close(fd) < 0 && r == 0)
		r = -errno;
	return r;
}

int meta_write(int dirfd, const struct meta *m, bool sync)
{
	static const char *const kinds[] = {"", "active", "view", "committed"};
	char text[META_LIMIT];

	int n = snprintf(text, sizeof(text),
	        "v=1\nkind=%s\nlayer=%d\nvolatile=%d\nparent=%s\nboot=%s\n%s%s%screated=%llu\n",
	        kinds[m->kind], m->layer, m->is_volatile, m->parent, m->boot,
	        m->own[0] ? "own=" : "", m->own, m->own[0] ? "\n" : "",
	        (unsigned long long)m->created_ns);
	if (n < 0 || (size_t)n >= sizeof(text))
		return -ENAMETOOLONG;
	int r = write_text(dirfd, text, (size_t)n, sync);
	if (r == 0 && renameat(dirfd, "meta.tmp", dirfd, "meta") < 0)
		r = -errno;
	if (r == 0 && sync && fsync(dirfd) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(dirfd, "meta.tmp", 0);
	return r;
}

/* ---- the driver's own fields ---- */

static const char *own_find(const char *own, const char *key, size_t *len)
{
	size_t n = strlen(key);

	while (*own) {
		size_t field = strcspn(own, " ");
		if (field > n && strncmp(own, key, n) == 0 && own[n] == '=') {
			*len = field - n - 1;
			return own + n + 1;
		}
		own += field;
		own += strspn(own, " ");
	}
	return NULL;
}

bool own_text(const char *own, const char *key, char *ret, size_t size)
{
	size_t len;
	const char *v = own_find(own, key, &len);

	if (!v || len >= size)
		return false;
	memcpy(ret, v, len);
	ret[len] = '\0';
	return true;
}

bool own_u64(const char *own, const char *key, uint64_t *ret)
{
	char text[24], *end = NULL;

	if (!own_text(own, key, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	if (errno || *end)
		return false;
	*ret = v;
	return true;
}
