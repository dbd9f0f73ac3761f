#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/macros.h"
#include "pull/confine.h"

/* All that pulling needs. Anything else is ENOSYS, so that a library that tries something newer
 * falls back, as on an older kernel. */
static const int allowed[] = {
        /* files */
        SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
        SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(lseek), SCMP_SYS(close),
        SCMP_SYS(close_range), SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(fstat),
        SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(fstatfs),
        SCMP_SYS(statfs), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2),
        SCMP_SYS(getdents64), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(fcntl),
        SCMP_SYS(dup), SCMP_SYS(dup3), SCMP_SYS(mkdirat), SCMP_SYS(mknodat), SCMP_SYS(symlinkat),
        SCMP_SYS(linkat), SCMP_SYS(unlinkat), SCMP_SYS(fchmod), SCMP_SYS(fchmodat),
        SCMP_SYS(fchown), SCMP_SYS(fchownat), SCMP_SYS(ftruncate), SCMP_SYS(fallocate),
        SCMP_SYS(utimensat), SCMP_SYS(fsetxattr), SCMP_SYS(fgetxattr), SCMP_SYS(flistxattr),
        SCMP_SYS(fremovexattr), SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(syncfs),
        SCMP_SYS(fsync), SCMP_SYS(flock), SCMP_SYS(fadvise64), SCMP_SYS(sync_file_range),
        SCMP_SYS(memfd_create), SCMP_SYS(umask), SCMP_SYS(getcwd),
        /* memory, threads, time */
        SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise),
        SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq),
        SCMP_SYS(set_tid_address), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(sched_yield),
        SCMP_SYS(sched_getaffinity), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getuid),
        SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getppid),
        SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
        SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall), SCMP_SYS(nanosleep),
        SCMP_SYS(clock_nanosleep), SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres),
        SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom), SCMP_SYS(uname),
        SCMP_SYS(sysinfo), SCMP_SYS(getrlimit), SCMP_SYS(getrusage), SCMP_SYS(tgkill),
        SCMP_SYS(membarrier),
        /* waiting, and the socket to berthd */
        SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(pipe),
        SCMP_SYS(pipe2), SCMP_SYS(eventfd2), SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl),
        SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg),
        SCMP_SYS(shutdown), SCMP_SYS(socketpair), SCMP_SYS(ioctl)};

static const int network_calls[] = {SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(getsockname),
        SCMP_SYS(getpeername), SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmmsg),
        SCMP_SYS(recvmmsg), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt)};

/* What nobody tries by mistake. */
static const int deadly[] = {SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(ptrace),
        SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(mount), SCMP_SYS(umount2),
        SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(open_tree), SCMP_SYS(move_mount),
        SCMP_SYS(fsopen), SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(bpf),
        SCMP_SYS(perf_event_open), SCMP_SYS(init_module), SCMP_SYS(finit_module),
        SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(open_by_handle_at),
        SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key), SCMP_SYS(userfaultfd),
        SCMP_SYS(io_uring_setup), SCMP_SYS(reboot), SCMP_SYS(swapon)};

static int add_all(scmp_filter_ctx f, uint32_t action, const int *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int r = seccomp_rule_add(f, action, v[i], 0);
		/* A call that this architecture lacks needs no rule. */
		if (r < 0 && r != -EDOM && r != -EFAULT)
			return r;
	}
	return 0;
}

static int add_conditional(scmp_filter_ctx f, bool network)
{
	static const int families[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK};
	int r;

	/* Threads, but no processes and no namespaces; its newer form passes flags in memory. */
	r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
	        SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_NEWUSER | CLONE_NEWNS,
	                CLONE_THREAD));
	if (r == 0)
		r = seccomp_rule_add(
		        f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
	if (r == 0) /* reading limits: nothing to set */
		r = seccomp_rule_add(
		        f, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A2(SCMP_CMP_EQ, 0));
	for (size_t i = 0; r == 0 && network && i < BERTH_ARRAY_LEN(families); i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
		        SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
	return r;
}

int pull_confine_filter(bool network, struct berth_error **ret_err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	if (!f)
		return berth_error_set(ret_err, BERTH_INTERNAL, "seccomp: no filter");
	int r = add_all(f, SCMP_ACT_ALLOW, allowed, BERTH_ARRAY_LEN(allowed));
	if (r == 0 && network)
		r = add_all(f, SCMP_ACT_ALLOW, network_calls, BERTH_ARRAY_LEN(network_calls));
	if (r == 0)
		r = add_all(f, SCMP_ACT_KILL_PROCESS, deadly, BERTH_ARRAY_LEN(deadly));
	if (r == 0)
		r = add_conditional(f, network);
	/* libseccomp sets no_new_privs with it; here it is no default but a promise. */
	if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = -errno;
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r < 0 ? berth_error_errno(ret_err, r, "seccomp") : 0;
}
