#include "fake.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Everything but letters, digits, '-' and '_' as %XX, so that any id is one file name. */
static int encode(const char *id, char out[NAME_LIMIT + 1])
{
	size_t n = 0;

	if (!id || !*id)
		return -EINVAL;
	for (const unsigned char *p = (const unsigned char *)id; *p; p++) {
		bool keep = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
		            (*p >= '0' && *p <= '9') || *p == '-' || *p == '_';
		if (n + 3 > NAME_LIMIT)
			return -ENAMETOOLONG;
		if (keep)
			out[n++] = (char)*p;
		else
			n += (size_t)snprintf(out + n, 4, "%%%02X", *p);
	}
	out[n] = '\0';
	return 0;
}

static void decode(const char *name, char out[NAME_LIMIT + 1])
{
	size_t n = 0;
	unsigned int byte;

	for (; *name && n < NAME_LIMIT; name++) {
		if (*name == '%' && sscanf(name + 1, "%2x", &byte) == 1) {
			out[n++] = (char)byte;
			name += 2;
		} else {
			out[n++] = *name;
		}
	}
	out[n] = '\0';
}

int row_path(const char *dir, const char *table, const char *id, char *out, uint64_t size)
{
	char name[NAME_LIMIT + 1];
	int r = encode(id, name);

	if (r < 0)
		return r;
	int n = snprintf(out, size, "%s/%s/%s", dir, table, name);
	return n < 0 || (uint64_t)n >= size ? -ENAMETOOLONG : 0;
}

static int load_path(const char *path, struct row *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, ret->text, sizeof(ret->text) - 1);
	int e = n < 0 ? -errno : 0;
	close(fd);
	ret->text[n > 0 ? n : 0] = '\0';
	return e;
}

int row_load(const char *dir, const char *table, const char *id, struct row *ret)
{
	char path[4096];
	int r = row_path(dir, table, id, path, sizeof(path));

	return r < 0 ? r : load_path(path, ret);
}

static int save(
        const char *dir, const char *table, const char *id, const struct row *r, bool is_new)
{
	static unsigned int serial;
	char path[4096], tmp[4200];
	int e = row_path(dir, table, id, path, sizeof(path));

	if (e < 0)
		return e;
	snprintf(tmp, sizeof(tmp), "%s/%s", dir, table);
	if (mkdir(tmp, 0700) < 0 && errno != EEXIST)
		return -errno;
	/* Ops on other objects may write the same row at the same time. */
	snprintf(tmp, sizeof(tmp), "%s.%u.tmp", path,
	        __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED));
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	size_t n = strlen(r->text);
	if (write(fd, r->text, n) != (ssize_t)n)
		e = errno ? -errno : -EIO;
	close(fd);
	if (e == 0 && (is_new ? link(tmp, path) : rename(tmp, path)) < 0)
		e = -errno;
	if (is_new || e < 0)
		unlink(tmp);
	return e;
}

int row_save(const char *dir, const char *table, const char *id, const struct row *r)
{
	return save(dir, table, id, r, false);
}

int row_create(const char *dir, const char *table, const char *id, const struct row *r)
{
	return save(dir, table, id, r, true);
}

int row_remove(const char *dir, const char *table, const char *id)
{
	char path[4096];
	int r = row_path(dir, table, id, path, sizeof(path));

	if (r == 0 && unlink(path) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

const char *row_get(const struct row *r, const char *key, char out[VALUE_LIMIT])
{
	size_t n = strlen(key);

	out[0] = '\0';
	for (const char *p = r->text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		if (strncmp(p, key, n) != 0 || p[n] != '=')
			continue;
		snprintf(out, VALUE_LIMIT, "%.*s", (int)strcspn(p + n + 1, "\n"), p + n + 1);
		break;
	}
	return out;
}

void row_set(struct row *r, const char *key, const char *value)
{
	struct row *next = calloc(1, sizeof(*next));
	size_t n = strlen(key), used;

	if (!next)
		abort();
	used = (size_t)snprintf(next->text, sizeof(next->text), "%s=%s\n", key, value ? value : "");
	for (const char *p = r->text; *p;) {
		size_t len = strcspn(p, "\n") + 1;
		if ((strncmp(p, key, n) != 0 || p[n] != '=') && used + len < sizeof(next->text)) {
			memcpy(next->text + used, p, len);
			used += len;
		}
		p += len;
	}
	next->text[used] = '\0';
	*r = *next;
	free(next);
}

void row_each(const char *dir, const char *table,
        void (*fn)(const char *id, const struct row *r, void *arg), void *arg)
{
	char path[4096], id[NAME_LIMIT + 1];
	struct row *r = calloc(1, sizeof(*r));
	struct dirent *e;

	snprintf(path, sizeof(path), "%s/%s", dir, table);
	DIR *d = opendir(path);
	while (d && r && (e = readdir(d))) {
		size_t n = strlen(e->d_name);
		if (e->d_name[0] == '.' || (n > 4 && strcmp(e->d_name + n - 4, ".tmp") == 0))
			continue;
		snprintf(path, sizeof(path), "%s/%s/%s", dir, table, e->d_name);
		decode(e->d_name, id);
		if (load_path(path, r) == 0)
			fn(id, r, arg);
	}
	if (d)
		closedir(d);
	free(r);
}
