/* ROOT/partial/sha256-HEX: what came of a blob whose download has not ended. berth-pull writes what
 * is in it (core/pull/kept.h), here is decided which there may be. A file has its whole blob's
 * length from the beginning, as holes: that is the space that it may come to need. An flock on it,
 * shared with the puller, says that it is in use. [worker] */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/pull.h"

#define DIR_NAME "partial"
#define PREFIX "sha256-"
/* A smaller blob is fetched anew sooner than it is looked after. */
#define SMALLEST BERTH_MIB(1)
/* So much of the file system stays free of them. */
#define FREE_PERCENT 10
/* A try that has not come by then does not come. */
#define OLDEST_S (24 * 3600)

/* One at a time looks at what there is and adds to it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int open_dir(struct berth_daemon *d)
{
	_cleanup_free_ char *path = berth_path(d->config->root, DIR_NAME, NULL);
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -1;
	return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* digest: "sha256:HEX". The caller frees it. */
static char *name_of(const char *digest)
{
	return berth_asprintf(PREFIX "%s", digest + 7);
}

static bool in_use(int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;
}

struct survey {
	uint64_t bytes;
	char *oldest; /* that nobody uses */
	struct timespec mtime;
};

static bool older(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

static int survey(int dir, const char *but, struct survey *ret)
{
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *it = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	struct stat st;

	if (!it) {
		berth_close(copy);
		return -1;
	}
	while ((e = readdir(it))) {
		if (e->d_name[0] == '.' || strcmp(e->d_name, but) == 0 ||
		        fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		bool used = in_use(dir, e->d_name);
		if (!used && st.st_mtim.tv_sec < time(NULL) - OLDEST_S &&
		        unlinkat(dir, e->d_name, 0) == 0)
			continue;
		ret->bytes += (uint64_t)st.st_size;
		if (used || (ret->oldest && !older(&st.st_mtim, &ret->mtime)))
			continue;
		free(ret->oldest);
		ret->oldest = berth_strdup(e->d_name);
		ret->mtime = st.st_mtim;
	}
	closedir(it);
	return 0;
}

/* Makes room for `size` more beside the file `but`, which may be there already. */
static bool make_room(int dir, const char *but, uint64_t size, uint64_t max)
{
	struct statvfs fs;

	if (size > max)
		return false;
	for (;;) {
		struct survey s = {0};
		if (survey(dir, but, &s) < 0 || fstatvfs(dir, &fs) < 0) {
			free(s.oldest);
			return false;
		}
		uint64_t avail = (uint64_t)fs.f_bavail * fs.f_frsize;
		uint64_t keep = (uint64_t)fs.f_blocks * fs.f_frsize / 100 * FREE_PERCENT;
		bool fits = s.bytes + size <= max && avail > keep && avail - keep > size;
		bool gone = !fits && s.oldest && unlinkat(dir, s.oldest, 0) == 0;
		if (gone)
			berth_log_debug("a partial blob goes", "file", s.oldest);
		free(s.oldest);
		if (fits || !gone)
			return fits;
	}
}

static int open_file(int dir, const char *name, uint64_t size)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0 ||
	        !S_ISREG(st.st_mode) || st.st_nlink == 0 ||
	        ftruncate(fd, (off_t)(BERTH_PULL_PARTIAL_HEAD + size)) < 0)
		return -1;
	return berth_take_fd(&fd);
}

int pull_partial_open(struct berth_daemon *d, const char *digest, uint64_t size)
{
	uint64_t max = d->config->images.partial_bytes;
	int fd = -1;

	if (size < SMALLEST || max == 0 || size > max)
		return -1;
	_cleanup_free_ char *name = name_of(digest);
	pthread_mutex_lock(&lock);
	int dir = open_dir(d);
	if (dir >= 0 && make_room(dir, name, size + BERTH_PULL_PARTIAL_HEAD, max))
		fd = open_file(dir, name, size);
	berth_close(dir);
	pthread_mutex_unlock(&lock);
	return fd;
}

void pull_partial_remove(struct berth_daemon *d, const char *digest)
{
	_cleanup_free_ char *name = name_of(digest);
	_cleanup_free_ char *path = berth_path(d->config->root, DIR_NAME, name, NULL);
	unlink(path);
}
