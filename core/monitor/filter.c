#include "monitor/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <sys/mman.h>

#include "base/fd.h"

/* What a monitor does once its container is created: move bytes, reopen its log, reap, write its
 * exit. Nothing that starts a program, makes a socket, or traces. */
static const char *const allowed[] = {
        "read",
        "write",
        "writev",
        "pread64",
        "readv",
        "close",
        "openat",
        "fstat",
        "newfstatat",
        "statx",
        "ftruncate",
        "lseek",
        "fcntl",
        "ioctl",
        "renameat",
        "renameat2",
        "rename",
        "unlinkat",
        "unlink",
        "poll",
        "ppoll",
        "accept4",
        "recvfrom",
        "recvmsg",
        "sendto",
        "sendmsg",
        "wait4",
        "waitid",
        "kill",
        "mmap",
        "munmap",
        "madvise",
        "brk",
        "clock_gettime",
        "clock_gettime64",
        "gettimeofday",
        "getpid",
        "gettid",
        "futex",
        "rt_sigreturn",
        "rt_sigprocmask",
        "restart_syscall",
        "exit",
        "exit_group",
#ifdef __SANITIZE_ADDRESS__
        "sigaltstack",
        "mprotect",
        "sched_yield",
        "readlink",
        "getrandom",
#endif
};

int berth_monitor_filter(int *ret_fd, struct berth_error **ret_err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	if (!ctx)
		return berth_error_set(ret_err, BERTH_INTERNAL, "seccomp filter: no memory");
	int r = 0;
	const char *what = "seccomp filter of the monitor";
	for (size_t i = 0; i < BERTH_ARRAY_LEN(allowed) && r == 0; i++) {
		int nr = seccomp_syscall_resolve_name(allowed[i]);
		if (nr < 0)
			continue; /* this architecture does without it */
		if (nr == SCMP_SYS(ioctl))
			r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 1,
			        SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, 0x5414 /* TIOCSWINSZ */));
		else
			r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
		if (r < 0)
			what = allowed[i];
	}
	_cleanup_close_ int fd = -1;
	if (r == 0) {
		fd = memfd_create("berth-monitor-filter", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		r = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);
	}
	seccomp_release(ctx);
	if (r == 0 && fcntl(fd, F_ADD_SEALS,
	                      F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		r = -errno;
	if (r < 0)
		return berth_error_errno(ret_err, r, "seccomp filter: %s", what);
	*ret_fd = berth_take_fd(&fd);
	return 0;
}
