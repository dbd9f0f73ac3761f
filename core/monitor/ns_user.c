/* The namespaces of a pod with a user namespace of its own, which owns the others. A child makes
 * them, for who enters a user namespace has no rights over the host's mounts any more. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/ns.h"

#define MAP_MAX 4096 /* bytes that the kernel takes: one page */

int ns_add_map(const char *arg, char **map)
{
	unsigned int c, h, n;
	char end;
	size_t len = *map ? strlen(*map) : 0;
	if (strspn(arg, "0123456789:") != strlen(arg) ||
	        sscanf(arg, "%u:%u:%u%c", &c, &h, &n, &end) != 3) {
		(void)ns_fail(0, arg, "a map is given as CONTAINER:HOST:COUNT");
		return 2;
	}
	if (!*map)
		*map = calloc(1, MAP_MAX);
	if (!*map || MAP_MAX - len < 40) {
		(void)ns_fail(0, arg, "too many maps");
		return 2;
	}
	(void)snprintf(*map + len, MAP_MAX - len, "%u %u %u\n", c, h, n);
	return 0;
}

static int say(int fd)
{
	return send(fd, "", 1, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

static int await(int fd)
{
	char word;
	ssize_t n;
	while ((n = read(fd, &word, 1)) < 0 && errno == EINTR)
		;
	return n == 1 ? 0 : -1;
}

/* The child: a user namespace, then, once it is mapped, what belongs to it. It waits until all is
 * pinned. Returns the exit status. */
static int own(const struct ns_opts *o, int fd)
{
	int flags = 0;
	for (int k = 0; k < NS_USER; k++)
		flags |= o->pin[k] ? ns_names[k].flag : 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (unshare(CLONE_NEWUSER) < 0)
		return ns_fail(errno, "new user namespace", NULL);
	if (say(fd) < 0 || await(fd) < 0)
		return 1;
	/* Sysctls of namespaces belong to the root of their user namespace, and to nobody else. */
	if (flags && ns_become_root())
		return 1;
	if (unshare(flags) < 0)
		return ns_fail(errno, "new namespaces", NULL);
	int r = ns_fill(o);
	if (r == 0 && say(fd) == 0)
		(void)await(fd);
	return r;
}

static int write_map(pid_t pid, const char *name, const char *map)
{
	char path[48];
	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	/* The kernel takes it in one write. */
	ssize_t n = fd < 0 ? -1 : write(fd, map, strlen(map));
	int e = errno;
	if (fd >= 0)
		close(fd);
	if (n >= 0)
		return 0;
	(void)ns_fail(e, name, e == EINVAL ? "the ranges overlap or are too many" : NULL);
	return e == EINVAL ? 2 : 1;
}

static void path_of(char path[48], pid_t pid, int kind)
{
	(void)snprintf(path, 48, "/proc/%d/ns/%s", (int)pid, ns_names[kind].name);
}

static int pin_all(const struct ns_opts *o, pid_t pid)
{
	char path[48];
	for (int k = 0; k <= NS_USER; k++) {
		if (!o->pin[k])
			continue;
		path_of(path, pid, k);
		if (ns_pin_file(o->pin[k], path)) {
			while (k-- > 0)
				if (o->pin[k])
					(void)ns_unpin(o->pin[k]);
			return 1;
		}
	}
	return 0;
}

int ns_become_root(void)
{
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return ns_fail(errno, "root of the user namespace", NULL);
	return 0;
}

int ns_create_owned(const struct ns_opts *o)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return ns_fail(errno, "socket pair", NULL);
	pid_t pid = fork();
	if (pid < 0)
		return ns_fail(errno, "fork", NULL);
	if (pid == 0) {
		close(ends[0]);
		_exit(own(o, ends[1]));
	}
	close(ends[1]);
	int r = await(ends[0]) < 0;
	if (r == 0)
		r = write_map(pid, "uid_map", o->uid_map);
	if (r == 0)
		r = write_map(pid, "gid_map", o->gid_map);
	if (r == 0)
		r = say(ends[0]) == 0 && await(ends[0]) == 0 ? pin_all(o, pid) : 1;
	/* Where it ended by itself it has said why. */
	close(ends[0]);
	int status = 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return r && WIFEXITED(status) && WEXITSTATUS(status) > r ? WEXITSTATUS(status) : r;
}
