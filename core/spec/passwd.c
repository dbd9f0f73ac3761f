#include "spec/passwd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

struct field {
	const char *p;
	size_t len;
};

enum { PASSWD_FIELDS = 7, GROUP_FIELDS = 4 };

void berth_passwd_entry_finish(struct berth_passwd_entry *e)
{
	free(e->name);
	free(e->home);
	*e = (struct berth_passwd_entry){0};
}

int berth_passwd_read(int rootfd, const char *path, size_t max, char **ret, size_t *ret_len,
        struct berth_error **ret_err)
{
	struct stat st;

	*ret = NULL;
	*ret_len = 0;
	/* O_NONBLOCK: an image may put a FIFO there. */
	_cleanup_close_ int fd =
	        berth_open_in_root(rootfd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	/* ELOOP, EACCES and the like: the image's fault, not the daemon's. */
	if (fd < 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION, "%s of the image: %s",
		        path, strerror(-fd));
	if (fstat(fd, &st) < 0)
		return berth_error_errno(ret_err, errno, "%s of the image", path);
	if (!S_ISREG(st.st_mode))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "%s of the image is not a regular file", path);
	int r = berth_read_fd(fd, max, ret, ret_len);
	if (r == -EFBIG)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "%s of the image is larger than %zu bytes", path, max);
	return r < 0 ? berth_error_errno(ret_err, r, "%s of the image", path) : 0;
}

int64_t berth_parse_id(const char *s, size_t len)
{
	int64_t v = 0;
	if (!len || len > 10)
		return -1;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -1;
		v = v * 10 + (s[i] - '0');
	}
	return v > INT32_MAX ? -1 : v;
}

/* The next line into *line; false at the end. */
static bool next_line(const char **text, size_t *len, struct field *line)
{
	if (!*len)
		return false;
	const char *end = memchr(*text, '\n', *len);
	line->p = *text;
	line->len = end ? (size_t)(end - *text) : *len;
	size_t used = line->len + (end ? 1 : 0);
	*text += used;
	*len -= used;
	return true;
}

/* Splits at ':' into at most max fields, the last of which takes the rest. The number of fields; 0
 * for a line that is none. */
static size_t split(struct field line, struct field *out, size_t max)
{
	size_t n = 0;
	if (!line.len || memchr(line.p, '\0', line.len) || line.p[0] == '#')
		return 0;
	while (n < max) {
		const char *colon = n + 1 < max ? memchr(line.p, ':', line.len) : NULL;
		out[n].p = line.p;
		out[n++].len = colon ? (size_t)(colon - line.p) : line.len;
		if (!colon)
			break;
		line.len -= (size_t)(colon - line.p) + 1;
		line.p = colon + 1;
	}
	return n;
}

static bool field_is(struct field f, const char *s)
{
	return strlen(s) == f.len && memcmp(f.p, s, f.len) == 0;
}

bool berth_passwd_find(const char *text, size_t len, const char *name, uint32_t uid,
        struct berth_passwd_entry *ret)
{
	struct field line, f[PASSWD_FIELDS] = {0};

	while (next_line(&text, &len, &line)) {
		size_t n = split(line, f, PASSWD_FIELDS);
		if (n < 4)
			continue;
		int64_t u = berth_parse_id(f[2].p, f[2].len), g = berth_parse_id(f[3].p, f[3].len);
		if (u < 0 || g < 0 || (name ? !field_is(f[0], name) : u != uid))
			continue;
		ret->name = berth_strndup(f[0].p, f[0].len);
		ret->home = n > 5 ? berth_strndup(f[5].p, f[5].len) : NULL;
		ret->uid = (uint32_t)u;
		ret->gid = (uint32_t)g;
		return true;
	}
	return false;
}

bool berth_group_find(const char *text, size_t len, const char *name, uint32_t *ret_gid)
{
	struct field line, f[GROUP_FIELDS];

	while (next_line(&text, &len, &line)) {
		if (split(line, f, GROUP_FIELDS) < 3 || !field_is(f[0], name))
			continue;
		int64_t g = berth_parse_id(f[2].p, f[2].len);
		if (g < 0)
			continue;
		*ret_gid = (uint32_t)g;
		return true;
	}
	return false;
}

static bool is_member(struct field list, const char *member)
{
	while (list.len) {
		const char *comma = memchr(list.p, ',', list.len);
		struct field one = {list.p, comma ? (size_t)(comma - list.p) : list.len};
		if (field_is(one, member))
			return true;
		size_t used = one.len + (comma ? 1 : 0);
		list.p += used;
		list.len -= used;
	}
	return false;
}

bool berth_group_members(
        const char *text, size_t len, const char *member, size_t max, uint32_t **gids, size_t *n)
{
	struct field line, f[GROUP_FIELDS];

	if (!member[0])
		return true;
	while (next_line(&text, &len, &line)) {
		if (split(line, f, GROUP_FIELDS) < GROUP_FIELDS || !is_member(f[3], member))
			continue;
		int64_t g = berth_parse_id(f[2].p, f[2].len);
		if (g < 0)
			continue;
		if (*n >= max)
			return false;
		/* Doubling keeps a group file of a million lines linear. */
		if ((*n & (*n - 1)) == 0)
			*gids = berth_reallocarray(*gids, *n ? *n * 2 : 1, sizeof(**gids));
		(*gids)[(*n)++] = (uint32_t)g;
	}
	return true;
}
