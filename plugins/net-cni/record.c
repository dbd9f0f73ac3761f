#include "cni.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR_NAME "attachments"
#define SUFFIX ".json"

int record_open_dir(struct cni *c)
{
	int root = open(c->host->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

	if (root < 0)
		return -errno;
	if (mkdirat(root, DIR_NAME, 0700) < 0 && errno != EEXIST)
		r = -errno;
	if (r == 0)
		c->records_fd =
		        openat(root, DIR_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (r == 0 && c->records_fd < 0)
		r = -errno;
	close(root);
	return r;
}

static bool plain(const char *s)
{
	for (; *s; s++)
		if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
		            (*s >= '0' && *s <= '9') || strchr("_.:-", *s)))
			return false;
	return true;
}

int record_name(const char *sandbox_id, const char *ifname, char *out, size_t size)
{
	if (!sandbox_id || !*sandbox_id || !plain(sandbox_id) || *sandbox_id == '.' || !ifname ||
	        !*ifname || !plain(ifname))
		return -EINVAL;
	int n = snprintf(out, size, "%s@%s" SUFFIX, sandbox_id, ifname);
	return n < 0 || (size_t)n >= size || n > 250 ? -ENAMETOOLONG : 0;
}

static int load_named(struct cni *c, const char *name, struct record *ret)
{
	struct stat st;
	int fd = openat(c->records_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	json_t *j = NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= RECORD_LIMIT)
		j = json_loadfd(fd, 0, NULL);
	close(fd);
	if (json_integer_value(json_object_get(j, "v")) != 1 ||
	        !json_is_object(json_object_get(j, "network")) ||
	        !json_is_string(json_object_get(j, "sandbox_id"))) {
		json_decref(j);
		return -EINVAL;
	}
	ret->json = j;
	return 0;
}

int record_load(struct cni *c, const char *sandbox_id, const char *ifname, struct record *ret)
{
	char name[256];
	int r = record_name(sandbox_id, ifname, name, sizeof(name));

	ret->json = NULL;
	return r < 0 ? r : load_named(c, name, ret);
}

/* Not synced: it must outlive this process, not a power cut, which would lose the plugins' own
 * state (addresses handed out, rules) just as well. */
int record_save(struct cni *c, const struct record *r)
{
	char name[256], tmp[264];
	int e = record_name(
	        record_str(r, "sandbox_id"), record_str(r, "ifname"), name, sizeof(name));

	if (e < 0)
		return e;
	snprintf(tmp, sizeof(tmp), ".%s", name);
	/* At once: json_dumpfd() writes each token by itself. */
	char *text = json_dumps(r->json, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	int fd = openat(
	        c->records_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		e = -errno;
		free(text);
		return e;
	}
	size_t len = strlen(text);
	ssize_t n = write(fd, text, len);
	if (n != (ssize_t)len)
		e = n < 0 ? -errno : -ENOSPC;
	free(text);
	if (close(fd) < 0 && e == 0)
		e = -errno;
	if (e == 0 && renameat(c->records_fd, tmp, c->records_fd, name) < 0)
		e = -errno;
	if (e < 0)
		unlinkat(c->records_fd, tmp, 0);
	return e;
}

int record_remove(struct cni *c, const char *sandbox_id, const char *ifname)
{
	char name[256];
	int r = record_name(sandbox_id, ifname, name, sizeof(name));

	if (r < 0)
		return r;
	return unlinkat(c->records_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

void record_finish(struct record *r)
{
	json_decref(r->json);
	r->json = NULL;
}

const char *record_str(const struct record *r, const char *key)
{
	const char *s = json_string_value(json_object_get(r->json, key));
	return s ? s : "";
}

void record_each(
        struct cni *c, struct berth_op *op, void (*fn)(struct record *r, void *arg), void *arg)
{
	int fd = openat(c->records_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		struct record r = {0};
		if (e->d_name[0] == '.')
			continue;
		if (load_named(c, e->d_name, &r) == 0) {
			fn(&r, arg);
			record_finish(&r);
			continue;
		}
		char msg[512];
		snprintf(msg, sizeof(msg), "net-cni: '%s/" DIR_NAME "/%s' cannot be read: ignored",
		        c->host->state_dir, e->d_name);
		c->host->log(c->host, op, BERTH_LOG_WARN, msg);
	}
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
}
