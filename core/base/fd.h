/* File descriptors and files. Leaf helpers: they return 0 or a count, or a negative errno; the
 * caller knows the object's name and makes the berth_error. Every fd is O_CLOEXEC at birth. [any]
 */
#ifndef BERTH_BASE_FD_H
#define BERTH_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

void berth_closep(int *fd); /* for _cleanup_: closes *fd >= 0, sets it to -1, keeps errno */
#define _cleanup_close_ _cleanup_(berth_closep)
int berth_close(int fd); /* keeps errno; always returns -1: `fd = berth_close(fd)` */
static inline int berth_take_fd(int *fd)
{
	int v = *fd;
	*fd = -1;
	return v;
}

int berth_write_all(int fd, const void *p, size_t n) BERTH_MUST_CHECK;
/* Reads a whole file of at most `max` bytes into *ret (NUL-terminated, caller frees). -EFBIG when
 * it is larger. */
int berth_read_file(
        int dirfd, const char *path, size_t max, char **ret, size_t *ret_len) BERTH_MUST_CHECK;
/* The same from an open fd, from its current offset to EOF. */
int berth_read_fd(int fd, size_t max, char **ret, size_t *ret_len) BERTH_MUST_CHECK;

/* Replaces dirfd/name by writing a temporary beside it and renaming; with `sync` the file and its
 * directory reach the disk before the return. */
int berth_write_file_atomic(int dirfd, const char *name, const void *p, size_t n, mode_t mode,
        bool sync) BERTH_MUST_CHECK;
/* Plain write of an existing kernel file (cgroup, proc): open O_WRONLY, one write. */
int berth_write_value(const char *path, const char *value) BERTH_MUST_CHECK;

int berth_mkdir_p(
        const char *path, mode_t mode) BERTH_MUST_CHECK; /* an existing directory is fine */
/* Removes a tree without following links or crossing into other mounts (a mount point inside is
 * -EBUSY). A missing path is fine. */
int berth_rm_tree(int dirfd, const char *name) BERTH_MUST_CHECK;
int berth_fsync_dir(const char *path) BERTH_MUST_CHECK;

int berth_set_nonblock(int fd, bool on) BERTH_MUST_CHECK;
int berth_pidfd_open(pid_t pid);
int berth_pidfd_kill(int pidfd, int signum) BERTH_MUST_CHECK;
/* Field 22 of /proc/PID/stat in clock ticks: with the pid it names one process for ever. */
int berth_pid_start_time(pid_t pid, uint64_t *ret) BERTH_MUST_CHECK;

/* A path inside a root file system that the container controls: openat2 with RESOLVE_IN_ROOT and
 * RESOLVE_NO_MAGICLINKS. Returns the fd or a negative errno. */
int berth_open_in_root(int rootfd, const char *path, int flags, mode_t mode);

uint64_t berth_now_ns(void);      /* CLOCK_MONOTONIC */
uint64_t berth_realtime_ns(void); /* CLOCK_REALTIME */
/* 2*n hex digits of randomness, NUL-terminated; out holds 2*n+1. */
void berth_random_hex(char *out, size_t n);

#endif
