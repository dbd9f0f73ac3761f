/* What a process holds: descriptors, threads, children, mounts, memory. */
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "check.h"
#include "mount/mount.h"

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static char **sorted(char **v)
{
	if (v)
		qsort(v, berth_strv_len(v), sizeof(*v), by_text);
	return v;
}

static char **list_fds(void)
{
	char target[4096], **v = NULL;
	DIR *d = opendir("/proc/self/fd");

	for (struct dirent *e; d && (e = readdir(d));) {
		ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
		if (n < 0 || atoi(e->d_name) == dirfd(d))
			continue;
		target[n] = '\0';
		/* "socket:[123]" of one round is "socket:[456]" in the next. */
		if (strncmp(target, "anon_inode", 10) != 0 && strchr(target, '['))
			*strchr(target, '[') = '\0';
		v = berth_strv_append(v, target);
	}
	if (d)
		closedir(d);
	return sorted(v);
}

static int add_mount(const struct berth_mountinfo *mi, void *arg)
{
	char ***v = arg;

	*v = berth_strv_append(*v, mi->target);
	return 0;
}

static char **list_children(void)
{
	char path[64], comm[64], line[320], **v = NULL;
	DIR *d = opendir("/proc/self/task");

	for (struct dirent *e; d && (e = readdir(d));) {
		_cleanup_free_ char *text = NULL;
		char *save = NULL;
		snprintf(path, sizeof(path), "/proc/self/task/%.20s/children", e->d_name);
		if (berth_read_file(AT_FDCWD, path, BERTH_KIB(64), &text, NULL) < 0)
			continue;
		for (char *p = strtok_r(text, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
			_cleanup_free_ char *name = NULL;
			snprintf(path, sizeof(path), "/proc/%.20s/comm", p);
			if (berth_read_file(AT_FDCWD, path, sizeof(comm), &name, NULL) < 0)
				continue;
			snprintf(line, sizeof(line), "%.*s", (int)strcspn(name, "\n"), name);
			v = berth_strv_append(v, line);
		}
	}
	if (d)
		closedir(d);
	return sorted(v);
}

static unsigned int count_threads(void)
{
	unsigned int n = 0;
	DIR *d = opendir("/proc/self/task");

	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

void census_take(struct census *c, const char *dir)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	memset(c, 0, sizeof(*c));
	c->fds = list_fds();
	c->threads = count_threads();
	c->children = list_children();
	if (berth_mounts_under(dir, add_mount, &c->mounts, &err) < 0)
		note("%s", err->msg);
	c->heap = mallinfo2().uordblks;
}

void census_finish(struct census *c)
{
	berth_strv_free(c->fds);
	berth_strv_free(c->mounts);
	berth_strv_free(c->children);
}
