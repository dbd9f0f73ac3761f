/* sdk/example/storage_dir.c, which notes what it asks of the disk, in the order in which it does.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <berth/util.h>

BERTH_EXPORT extern char noted_calls[1024];
BERTH_EXPORT extern int noted_fsync_fails;
char noted_calls[1024];
int noted_fsync_fails; /* the errno, 0 = it does not */

static const char *name_of(const char *path)
{
	return strrchr(path, '/') + 1;
}

static void note(const char *what, const char *a, const char *b)
{
	size_t n = strlen(noted_calls);

	(void)snprintf(noted_calls + n, sizeof(noted_calls) - n, "%s %s%s%s\n", what, a,
	        b ? " " : "", b ? b : "");
}

static void note_fd(const char *what, int fd)
{
	char link[32], path[4096];

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	note(what, n > 0 ? name_of(path) : "?", NULL);
}

static int noted_rename(const char *from, const char *to)
{
	note("rename", name_of(from), name_of(to));
	return rename(from, to);
}

static int noted_fsync(int fd)
{
	note_fd("fsync", fd);
	errno = noted_fsync_fails;
	return noted_fsync_fails ? -1 : fsync(fd);
}

static int noted_syncfs(int fd)
{
	note_fd("syncfs", fd);
	return syncfs(fd);
}

#define rename noted_rename
#define fsync noted_fsync
#define syncfs noted_syncfs
#include "../../sdk/example/storage_dir.c"
