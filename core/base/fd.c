#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

int berth_close(int fd)
{
	if (fd >= 0) {
		int saved = errno;
		close(fd);
		errno = saved;
	}
	return -1;
}

void berth_closep(int *fd)
{
	*fd = berth_close(*fd);
}

int berth_write_all(int fd, const void *p, size_t n)
{
	const char *c = p;
	while (n > 0) {
		ssize_t w = write(fd, c, n);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		c += w;
		n -= (size_t)w;
	}
	return 0;
}

int berth_read_fd(int fd, size_t max, char **ret, size_t *ret_len)
{
	struct berth_buf b = {0};
	char chunk[16384];

	for (;;) {
		ssize_t r = read(fd, chunk, sizeof(chunk));
		if (r < 0) {
			if (errno == EINTR)
				continue;
			int e = -errno;
			berth_buf_finish(&b);
			return e;
		}
		if (r == 0)
			break;
		if (b.len + (size_t)r > max) {
			berth_buf_finish(&b);
			return -EFBIG;
		}
		berth_buf_add(&b, chunk, (size_t)r);
	}
	if (ret_len)
		*ret_len = b.len;
	*ret = berth_buf_steal(&b);
	return 0;
}

int berth_read_file(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	return berth_read_fd(fd, max, ret, ret_len);
}

static int write_temp(int dirfd, const char *temp, const void *p, size_t n, mode_t mode, bool sync)
{
	_cleanup_close_ int fd =
	        openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return -errno;
	int r = berth_write_all(fd, p, n);
	if (r < 0)
		return r;
	if (sync && fsync(fd) < 0)
		return -errno;
	return 0;
}

int berth_write_file_atomic(
        int dirfd, const char *name, const void *p, size_t n, mode_t mode, bool sync)
{
	char tag[17];
	berth_random_hex(tag, 8);
	const char *slash = strrchr(name, '/');
	size_t dir_len = slash ? (size_t)(slash - name) + 1 : 0;
	_cleanup_free_ char *temp =
	        berth_asprintf("%.*s.%s.%s.tmp", (int)dir_len, name, name + dir_len, tag);

	int r = write_temp(dirfd, temp, p, n, mode, sync);
	if (r == 0 && renameat(dirfd, temp, dirfd, name) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(dirfd, temp, 0);
		return r;
	}
	if (sync) {
		_cleanup_free_ char *dir =
		        dir_len ? berth_strndup(name, dir_len) : berth_strdup(".");
		_cleanup_close_ int fd = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || fsync(fd) < 0)
			return -errno;
	}
	return 0;
}

int berth_write_value(const char *path, const char *value)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		return -errno;
	return 0;
}

int berth_mkdir_p(const char *path, mode_t mode)
{
	_cleanup_free_ char *copy = berth_strdup(path);
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, mode) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(copy, mode) < 0) {
		if (errno != EEXIST)
			return -errno;
		struct stat st;
		if (stat(copy, &st) < 0)
			return -errno;
		if (!S_ISDIR(st.st_mode))
			return -ENOTDIR;
	}
	return 0;
}

static int remove_entries(int fd, dev_t dev)
{
	DIR *d = fdopendir(fd);
	if (!d) {
		int e = -errno;
		close(fd);
		return e;
	}
	int result = 0;
	for (struct dirent *e; (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(d), e->d_name, 0) == 0)
			continue;
		if (errno != EISDIR && errno != EPERM) {
			result = errno == ENOENT ? result : -errno;
			continue;
		}
		int sub = openat(
		        dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		struct stat st;
		if (sub < 0 || fstat(sub, &st) < 0) {
			result = -errno;
			berth_close(sub);
			continue;
		}
		if (st.st_dev != dev) {
			close(sub);
			result = -EBUSY;
			continue;
		}
		int r = remove_entries(sub, dev);
		if (r == 0 && unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			r = -errno;
		if (r < 0)
			result = r;
	}
	closedir(d);
	return result;
}

int berth_rm_tree(int dirfd, const char *name)
{
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	struct stat st;
	if (fstat(fd, &st) < 0) {
		int e = -errno;
		close(fd);
		return e;
	}
	int r = remove_entries(fd, st.st_dev);
	if (r < 0)
		return r;
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int berth_fsync_dir(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

int berth_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int berth_pidfd_open(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : fd;
}

int berth_pidfd_kill(int pidfd, int signum)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signum, NULL, 0) < 0 ? -errno : 0;
}

int berth_pid_start_time(pid_t pid, uint64_t *ret)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_free_ char *text = NULL;
	int r = berth_read_file(AT_FDCWD, path, 4096, &text, NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	/* The command name may hold anything, so count from its closing parenthesis: that is
	 * field 2. */
	char *p = strrchr(text, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p)
		return -EBADMSG;
	*ret = strtoull(p + 1, NULL, 10);
	return 0;
}

int berth_open_in_root(int rootfd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
	        .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
	        .mode = (flags & (O_CREAT | O_TMPFILE)) ? mode : 0,
	        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	for (;;) {
		int fd = (int)syscall(SYS_openat2, rootfd, path, &how, sizeof(how));
		if (fd >= 0)
			return fd;
		/* EAGAIN: a rename raced with the resolution of "..". */
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t berth_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t berth_realtime_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

void berth_random_hex(char *out, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	unsigned char raw[64];

	for (size_t done = 0; done < n;) {
		size_t want = n - done < sizeof(raw) ? n - done : sizeof(raw);
		ssize_t got = getrandom(raw, want, 0);
		if (got < 0)
			continue; /* EINTR alone: the pool is long initialised */
		for (size_t i = 0; i < (size_t)got; i++) {
			out[2 * (done + i)] = digits[raw[i] >> 4];
			out[2 * (done + i) + 1] = digits[raw[i] & 15];
		}
		done += (size_t)got;
	}
	out[2 * n] = '\0';
}
