/* Into the container's cgroups and namespaces. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "join.h"

#define PLACES_MAX 32
#define PATH_SIZE 8300 /* of a mount and a cgroup */

static int start_time(pid_t pid, uint64_t *ret)
{
	char path[64], buf[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -1;
	buf[n] = '\0';
	const char *p = strrchr(buf, ')');
	return p && sscanf(p + 1,
	                    " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
	                    "%*d %*d %*d %" SCNu64,
	                    ret) == 1
	               ? 0
	               : -1;
}

int join_open_init(pid_t pid, uint64_t start)
{
	uint64_t at = 0;
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		return errno == ESRCH ? join_fail(0, JOIN_STOPPED, NULL)
		                      : join_refuse("this kernel's pids", strerror(errno));
	/* After the pidfd: the pid cannot be another's any more. */
	if (start_time(pid, &at) < 0 || at != start) {
		close(fd);
		return join_fail(0, JOIN_STOPPED, NULL);
	}
	return fd;
}

bool join_init_ended(int pidfd, int timeout_ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	return poll(&p, 1, timeout_ms) > 0;
}

/* ---- cgroups ---- */

/* Are all of `names`, separated by commas, among the options of a mounted hierarchy? */
static bool has_all(const char *options, const char *names)
{
	while (*names) {
		size_t n = strcspn(names, ",");
		bool found = false;
		for (const char *o = options; *o && !found;) {
			size_t len = strcspn(o, ",\n");
			found = len == n && strncmp(o, names, n) == 0;
			o += len + (o[len] == ',' ? 1 : 0);
			if (*o == '\n')
				break;
		}
		if (!found)
			return false;
		names += n + (names[n] == ',' ? 1 : 0);
	}
	return true;
}

/* Where the hierarchy of `controllers` ("": v2) is mounted as a whole. */
static bool find_hierarchy(const char *controllers, char *ret, size_t size)
{
	char *line = NULL, mount[4096], root[4096], type[64];
	size_t cap = 0;
	bool found = false;
	FILE *f = fopen("/proc/self/mountinfo", "re");

	while (f && !found && getline(&line, &cap, f) > 0) {
		char *dash = strstr(line, " - "), *options;
		if (!dash || sscanf(line, "%*d %*d %*s %4095s %4095s", root, mount) != 2 ||
		        sscanf(dash + 3, "%63s", type) != 1 || strcmp(root, "/") != 0)
			continue;
		options = strrchr(dash, ' ') + 1;
		found = *controllers ? strcmp(type, "cgroup") == 0 && has_all(options, controllers)
		                     : strcmp(type, "cgroup2") == 0;
		if (found)
			found = snprintf(ret, size, "%s", mount) < (int)size;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* How much of a process's cgroup is the container's own: init may have gone further down. 0: none,
 * it is in a hierarchy that the runtime does not use. `path` is "/a/b", or with systemd
 * "slice:prefix:name". */
static size_t own_part(const char *cgroup, const char *path)
{
	const char *prefix = strchr(path, ':'), *name = prefix ? strchr(prefix + 1, ':') : NULL,
	           *at;
	char unit[512];

	if (path[0] == '/') {
		size_t n = strlen(path);
		while (n && path[n - 1] == '/')
			n--;
		return strncmp(cgroup, path, n) == 0 && (!cgroup[n] || cgroup[n] == '/') ? n : 0;
	}
	if (!name || snprintf(unit, sizeof(unit), "/%.*s-%s.scope", (int)(name - prefix - 1),
	                     prefix + 1, name + 1) >= (int)sizeof(unit))
		return 0;
	size_t n = strlen(unit);
	for (at = cgroup; (at = strstr(at, unit)); at++)
		if (!at[n] || at[n] == '/')
			return (size_t)(at - cgroup) + n;
	return 0;
}

static ssize_t file_read(const char *dir, const char *name, char *ret, size_t size)
{
	char path[PATH_SIZE];
	int fd = snprintf(path, sizeof(path), "%s/%s", dir, name) < (int)sizeof(path)
	                 ? open(path, O_RDONLY | O_CLOEXEC)
	                 : -1;
	ssize_t n = fd < 0 ? -1 : read(fd, ret, size - 1);

	if (fd >= 0)
		close(fd);
	ret[n > 0 ? n : 0] = '\0';
	return n;
}

static bool file_says(const char *dir, const char *name, const char *words)
{
	char text[256];
	return file_read(dir, name, text, sizeof(text)) > 0 && strstr(text, words);
}

static int move_self(const char *dir)
{
	char path[PATH_SIZE];

	if (snprintf(path, sizeof(path), "%s/cgroup.procs", dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int r = fd < 0 || write(fd, "0", 1) != 1 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return r;
}

struct place {
	char mount[4096], cgroup[4096];
	size_t own;
	bool unified;
};

/* 1: it is a place, 0: the runtime does not use that hierarchy. */
static int read_place(char *line, const char *path, struct place *ret)
{
	char *controllers = strchr(line, ':'), *cgroup;

	if (!controllers || !(cgroup = strchr(++controllers, ':')))
		return 0;
	*cgroup++ = '\0';
	cgroup[strcspn(cgroup, "\n")] = '\0';
	if (!(ret->own = own_part(cgroup, path)))
		return 0;
	ret->unified = !*controllers;
	if (snprintf(ret->cgroup, sizeof(ret->cgroup), "%s", cgroup) >= (int)sizeof(ret->cgroup) ||
	        strstr(cgroup, "/../"))
		return join_refuse("the cgroup", cgroup);
	return find_hierarchy(controllers, ret->mount, sizeof(ret->mount))
	               ? 1
	               : join_refuse("a hierarchy of cgroups that is not mounted", controllers);
}

static int read_places(pid_t pid, const char *path, struct place *places, size_t *ret_n)
{
	char name[64], *line = NULL;
	size_t cap = 0, n = 0;
	int r = 0;

	snprintf(name, sizeof(name), "/proc/%d/cgroup", (int)pid);
	FILE *f = fopen(name, "re");
	if (!f)
		return join_fail(0, JOIN_STOPPED, NULL);
	while (r >= 0 && getline(&line, &cap, f) > 0) {
		if (n == PLACES_MAX)
			r = join_refuse("so many hierarchies of cgroups", NULL);
		else if ((r = read_place(line, path, &places[n])) > 0)
			n++;
	}
	free(line);
	fclose(f);
	*ret_n = n;
	return r < 0 ? -1 : 0;
}

/* ret: its directory, which is not frozen: what goes in there would stand still, and the caller
 * wait. */
static int check_place(const struct place *p, char *ret, size_t size)
{
	if (snprintf(ret, size, "%s%.*s", p->mount, (int)p->own, p->cgroup) >= (int)size)
		return join_refuse("the cgroup", p->cgroup);
	if (file_says(ret, "freezer.state", "FR") || file_says(ret, "cgroup.freeze", "1") ||
	        file_says(ret, "cgroup.events", "frozen 1"))
		return join_fail(0, "cannot exec in a paused container", NULL);
	return 0;
}

static int enter_place(const struct place *p)
{
	char dir[PATH_SIZE];

	if (check_place(p, dir, sizeof(dir)) < 0)
		return -1;
	int r = move_self(dir);
	/* v2: one that has been divided holds no processes itself. */
	if (r == -EBUSY && p->unified &&
	        snprintf(dir, sizeof(dir), "%s%s", p->mount, p->cgroup) < (int)sizeof(dir))
		r = move_self(dir);
	return r < 0 ? join_fail(-r, "entering its cgroup", dir) : 0;
}

/* Without what a move costs: it waits for all processors. */
static int open_place(const struct place *p)
{
	char dir[PATH_SIZE], subtree[16] = "";

	if (check_place(p, dir, sizeof(dir)) < 0)
		return -1;
	/* A divided one: as with a move. */
	if (file_read(dir, "cgroup.subtree_control", subtree, sizeof(subtree)) > 1)
		snprintf(dir, sizeof(dir), "%s%s", p->mount, p->cgroup);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? join_fail(errno, "its cgroup", dir) : fd;
}

int join_cgroups(pid_t pid, const char *path, int *ret_into)
{
	static struct place places[PLACES_MAX];
	size_t n = 0;

	*ret_into = -1;
	if (!path)
		return join_refuse("a container without a cgroupsPath", NULL);
	if (read_places(pid, path, places, &n) < 0)
		return -1;
	if (n == 0)
		return join_refuse("a container outside of its cgroupsPath", path);
	if (n == 1 && places[0].unified)
		return (*ret_into = open_place(&places[0])) < 0 ? -1 : 0;
	for (size_t i = 0; i < n; i++)
		if (enter_place(&places[i]) < 0)
			return -1;
	return 0;
}

/* ---- namespaces ---- */

static const struct {
	const char *name;
	int flag;
} kinds[] = {{"user", CLONE_NEWUSER}, {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC},
        {"uts", CLONE_NEWUTS}, {"net", CLONE_NEWNET}, {"pid", CLONE_NEWPID}, {"mnt", CLONE_NEWNS}};

/* 1: not ours; 0: ours, or a kind that this kernel lacks; -1: the process has ended, and has none.
 */
static int differs(pid_t pid, const char *name)
{
	char own[64], other[64];
	struct stat a, b;

	snprintf(own, sizeof(own), "/proc/self/ns/%s", name);
	snprintf(other, sizeof(other), "/proc/%d/ns/%s", (int)pid, name);
	if (stat(own, &a) < 0)
		return 0;
	if (stat(other, &b) < 0)
		return -1;
	return a.st_ino != b.st_ino || a.st_dev != b.st_dev;
}

static int enter_namespaces(int pidfd, int flags)
{
	if (setns(pidfd, flags) == 0)
		return 0;
	if (errno == ESRCH) /* it has begun to end */
		return join_fail(0, JOIN_STOPPED, NULL);
	return errno == EINVAL ? join_refuse("this kernel's namespaces", NULL) /* before 5.8 */
	                       : join_fail(errno, "joining its namespaces", NULL);
}

int join_namespaces(pid_t pid, int pidfd, int *ret_later)
{
	int flags = 0;

	int r = differs(pid, "time");
	if (r > 0)
		return join_refuse("a time namespace", NULL);
	for (size_t i = 0; r == 0 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		int other = differs(pid, kinds[i].name);
		if (other < 0)
			r = -1;
		else if (other)
			flags |= kinds[i].flag;
	}
	if (r < 0)
		return join_fail(0, JOIN_STOPPED, NULL);
	*ret_later = flags & (CLONE_NEWUSER | CLONE_NEWCGROUP);
	/* With it goes the way back, by the root and the working directory. */
	if (!(flags & CLONE_NEWNS))
		return join_refuse("a container without a mount namespace", NULL);
	return enter_namespaces(pidfd, flags & ~*ret_later);
}

int join_namespaces_later(int pidfd, int flags)
{
	return flags ? enter_namespaces(pidfd, flags) : 0;
}

pid_t join_fork(int into)
{
	struct clone_args a = {.flags = into >= 0 ? CLONE_INTO_CGROUP : 0,
	        .exit_signal = SIGCHLD,
	        .cgroup = into >= 0 ? (uint64_t)into : 0};
	return (pid_t)syscall(SYS_clone3, &a, sizeof(a));
}
