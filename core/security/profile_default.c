/* The built-in seccomp profile: what programs in containers use. Left out on purpose is what
 * reaches across containers (keyrings, kernel modules, clocks, swap, tracing of kernel internals),
 * what has a history of kernel holes and no ordinary user (io_uring, userfaultfd, vsock) and what
 * is dead. */
#include "security/profile.h"

/* New namespaces by clone(): CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}. */
#define CLONE_NEW_ANY 0x7E020000ULL
#define ERRNO_EPERM 1
#define ERRNO_ENOSYS 38
#define AF_VSOCK_NUMBER 40

#define ALLOW(n)             \
	{                    \
		.names = (n) \
	}
#define ALLOW_CAP(c, n)                   \
	{                                 \
		.names = (n), .caps = (c) \
	}
#define ALLOW_ARCH(a, n)                    \
	{                                   \
		.names = (n), .arches = (a) \
	}
#define ALLOW_PERSONALITY(v)                                                          \
	{                                                                             \
		.names = "personality", .op = "SCMP_CMP_EQ", .index = 0, .value = (v) \
	}

const struct berth_seccomp_rule berth_seccomp_rules[] = {
        /* Files by path or descriptor. */
        ALLOW("access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 "
              "dup3 "
              "faccessat faccessat2 fallocate fadvise64 fadvise64_64 fchdir fchmod fchmodat "
              "fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync flock fstat fstat64 "
              "fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents "
              "getdents64 lchown lchown32 link linkat lseek _llseek lstat lstat64 mkdir mkdirat "
              "mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv "
              "preadv2 "
              "pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat "
              "renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx "
              "symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink "
              "unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev cachestat"),
        ALLOW("fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr "
              "listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr "
              "setxattrat file_getattr file_setattr"),
        ALLOW("inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark ioctl "
              "ioprio_get ioprio_set listmount statmount"),
        /* Asynchronous I/O of the old kind. */
        ALLOW("io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup "
              "io_submit"),
        /* Memory. */
        ALLOW("brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock "
              "mlock2 "
              "mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap "
              "pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages"),
        /* Waiting for descriptors. */
        ALLOW("epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 "
              "epoll_wait "
              "epoll_wait_old eventfd eventfd2 _newselect poll ppoll ppoll_time64 pselect6 "
              "pselect6_time64 select pipe pipe2 signalfd signalfd4 timerfd_create timerfd_gettime "
              "timerfd_gettime64 timerfd_settime timerfd_settime64"),
        /* Sockets. */
        ALLOW("accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom "
              "recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown "
              "socketcall socketpair"),
        {.names = "socket", .op = "SCMP_CMP_NE", .index = 0, .value = AF_VSOCK_NUMBER},
        /* System V and POSIX IPC. */
        ALLOW("ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 "
              "shmat shmctl shmdt shmget mq_getsetattr mq_notify mq_open mq_timedreceive "
              "mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink"),
        /* Processes and threads. */
        ALLOW("arch_prctl capget capset execve execveat exit exit_group fork vfork futex "
              "futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list "
              "get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 "
              "getgroups "
              "getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 "
              "getresuid getresuid32 getrlimit ugetrlimit getrusage getsid gettid getuid getuid32 "
              "pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq seccomp "
              "set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid "
              "setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid "
              "setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 "
              "setrlimit "
              "setsid setuid setuid32 wait4 waitid waitpid landlock_add_rule "
              "landlock_create_ruleset landlock_restrict_self lsm_get_self_attr "
              "lsm_list_modules lsm_set_self_attr"),
        ALLOW("sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr "
              "sched_getparam sched_getscheduler sched_rr_get_interval "
              "sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam "
              "sched_setscheduler sched_yield"),
        /* Signals and time. */
        ALLOW("alarm getitimer setitimer kill tkill tgkill nanosleep pause rt_sigaction "
              "rt_sigpending "
              "rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
              "rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signal sigaction sigpending "
              "sigprocmask sigreturn sigsuspend"),
        ALLOW("adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 "
              "clock_gettime "
              "clock_gettime64 clock_nanosleep clock_nanosleep_time64 gettimeofday time times "
              "timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 "
              "timer_settime timer_settime64"),
        ALLOW("getrandom sysinfo uname ptrace"),
        /* The execution domains that mean nothing more than "Linux": plain, UNAME26 and the query.
         */
        ALLOW_PERSONALITY(0x0),
        ALLOW_PERSONALITY(0x8),
        ALLOW_PERSONALITY(0x20000),
        ALLOW_PERSONALITY(0x20008),
        ALLOW_PERSONALITY(0xffffffff),

        /* One architecture's own. */
        ALLOW_ARCH("x86_64 x32 x86", "modify_ldt"),
        ALLOW_ARCH("arm aarch64",
                "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint "
                "cacheflush set_tls"),
        ALLOW_ARCH("ppc64le", "sync_file_range2 swapcontext"),
        ALLOW_ARCH("s390 s390x",
                "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr s390_guarded_storage"),
        ALLOW_ARCH("riscv64", "riscv_flush_icache riscv_hwprobe"),

        /* New threads and processes, but no new namespaces. clone3 hides its flags behind a
         * pointer; ENOSYS makes the C library fall back to clone. */
        {.names = "clone",
                .without = "SYS_ADMIN",
                .op = "SCMP_CMP_MASKED_EQ",
                .index = 0,
                .value = CLONE_NEW_ANY,
                .value_two = 0},
        {.names = "clone3",
                .without = "SYS_ADMIN",
                .action = "SCMP_ACT_ERRNO",
                .errno_ret = ERRNO_ENOSYS},

        /* What a capability is for. */
        ALLOW_CAP("SYS_ADMIN",
                "clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount "
                "mount_setattr move_mount open_tree open_tree_attr quotactl quotactl_fd "
                "setdomainname "
                "sethostname setns umount umount2 unshare"),
        ALLOW_CAP("SYS_ADMIN BPF", "bpf"),
        ALLOW_CAP("SYS_ADMIN PERFMON", "perf_event_open"),
        ALLOW_CAP("SYS_ADMIN SYSLOG", "syslog"),
        ALLOW_CAP("DAC_READ_SEARCH", "open_by_handle_at"),
        ALLOW_CAP("SYS_BOOT", "reboot"),
        ALLOW_CAP("SYS_CHROOT", "chroot"),
        ALLOW_CAP("SYS_MODULE", "delete_module init_module finit_module"),
        ALLOW_CAP("SYS_PACCT", "acct"),
        ALLOW_CAP("SYS_PTRACE",
                "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev"),
        ALLOW_CAP("SYS_RAWIO", "iopl ioperm"),
        ALLOW_CAP("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
        ALLOW_CAP("SYS_TTY_CONFIG", "vhangup"),
        ALLOW_CAP("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
};
const size_t berth_seccomp_n_rules = BERTH_ARRAY_LEN(berth_seccomp_rules);
