/* Was a process of the container killed for memory? The kernel's notifications are a hint (on v1
 * they come for the removal of the cgroup, too); only a counter that has risen counts. */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "monitor/mon.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define CGROUP_TEXT_MAX 8192

static int read_counter(int fd, uint64_t *ret)
{
	char buf[512];
	ssize_t n = fd < 0 ? -1 : pread(fd, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return -1; /* ENODEV: the cgroup is gone */
	buf[n] = '\0';
	for (char *line = strtok(buf, "\n"); line; line = strtok(NULL, "\n")) {
		if (strncmp(line, "oom_kill ", 9) == 0) {
			*ret = strtoull(line + 9, NULL, 10);
			return 0;
		}
	}
	return -1;
}

static bool is_fs(const char *path, unsigned long magic)
{
	struct statfs fs;
	return statfs(path, &fs) == 0 && (unsigned long)fs.f_type == magic;
}

static bool lists_memory(const char *controllers)
{
	for (const char *p = controllers; *p;) {
		size_t n = strcspn(p, ",:");
		if (n == 6 && memcmp(p, "memory", 6) == 0)
			return true;
		if (p[n] != ',')
			return false;
		p += n + 1;
	}
	return false;
}

static int open_v1(struct mon_oom *o, const char *dir)
{
	char path[CGROUP_TEXT_MAX + 64], req[48];
	(void)snprintf(path, sizeof(path), CGROUP_ROOT "/memory%s/memory.oom_control", dir);
	o->counter_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (o->counter_fd < 0)
		return -1;
	(void)snprintf(path, sizeof(path), CGROUP_ROOT "/memory%s/cgroup.event_control", dir);
	int ctl = open(path, O_WRONLY | O_CLOEXEC);
	int efd = ctl < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Without the event the counter is still read at the end. */
	if (efd >= 0) {
		int n = snprintf(req, sizeof(req), "%d %d", efd, o->counter_fd);
		if (write(ctl, req, (size_t)n) != n)
			mon_close(&efd);
	}
	mon_close(&ctl);
	o->event_fd = efd;
	return 0;
}

/* The cgroup above what the runtime made for the container: it outlives that. False: the root. */
static bool to_parent(char *dir)
{
	size_t n;
	do {
		char *slash = strrchr(dir, '/');
		if (!slash)
			return false;
		*slash = '\0';
		n = strlen(dir);
	} while (n > 6 && strcmp(dir + n - 6, ".scope") == 0);
	return n > 0;
}

static int open_v2(struct mon_oom *o, char *dir)
{
	char path[CGROUP_TEXT_MAX + 64];
	(void)snprintf(path, sizeof(path), CGROUP_ROOT "%s/memory.events", dir);
	o->counter_fd = open(path, O_RDONLY | O_CLOEXEC);
	o->v2 = true;
	if (o->counter_fd >= 0 && to_parent(dir)) {
		(void)snprintf(path, sizeof(path), CGROUP_ROOT "%s/memory.events", dir);
		o->parent_fd = open(path, O_RDONLY | O_CLOEXEC);
		if (read_counter(o->parent_fd, &o->parent_base) < 0)
			mon_close(&o->parent_fd);
	}
	return o->counter_fd < 0 ? -1 : 0;
}

void mon_oom_open(struct mon *m)
{
	struct mon_oom *o = &m->oom;
	char path[40], text[CGROUP_TEXT_MAX];

	(void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)m->init);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	size_t len = 0;
	ssize_t r;
	while (len < sizeof(text) - 1 && (r = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)r;
	close(fd);
	text[len] = '\0';

	bool unified = is_fs(CGROUP_ROOT, CGROUP2_SUPER_MAGIC);
	bool legacy = is_fs(CGROUP_ROOT "/memory", CGROUP_SUPER_MAGIC);
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); line && o->counter_fd < 0;
	        line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':');
		char *dir = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!dir)
			continue;
		if (unified && dir == controllers + 1)
			(void)open_v2(o, dir + 1);
		else if (legacy && lists_memory(controllers + 1))
			(void)open_v1(o, dir + 1);
	}
	if (o->counter_fd >= 0 && read_counter(o->counter_fd, &o->base) < 0)
		mon_close(&o->counter_fd);
}

/* systemd removes a scope at the moment in which its last process ends, often before we read what
 * the kernel counted there. It counted the same in all cgroups above; what came there since we
 * last looked, and looked at ours too, is ours but for one case: another container of the pod lost
 * a process within that time. */
static bool counted_above(struct mon_oom *o)
{
	uint64_t now;
	bool risen = read_counter(o->parent_fd, &now) == 0 && now > o->parent_base;
	mon_close(&o->parent_fd);
	return risen;
}

bool mon_oom_check(struct mon *m)
{
	struct mon_oom *o = &m->oom;
	uint64_t now, above = 0;
	if (o->counter_fd < 0 || o->seen)
		return o->seen;
	bool parent = read_counter(o->parent_fd, &above) == 0; /* before ours, which is in it */
	if (!parent)
		mon_close(&o->parent_fd);
	if (read_counter(o->counter_fd, &now) < 0) {
		mon_close(&o->counter_fd); /* gone: it would be "ready" for ever */
		o->seen = counted_above(o);
	} else {
		o->seen = now > o->base;
		if (parent)
			o->parent_base = above;
	}
	return o->seen;
}
