/* berth-init: the first process of a PID namespace that the containers of a pod share. It reaps,
 * and has nothing that would be worth taking: no capability, no file, an empty read-only file
 * system.
 *
 *   berth-init FD      started by berth-ns: FD is a socket where it says "ok" or an error, and
 * waits for the word to go on; EOF instead means that nobody knows of it
 *
 * SIGTERM or SIGINT from outside the namespace ends it; from inside they mean nothing, so that no
 * container can end its pod. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH AUDIT_ARCH_RISCV64
#elif defined(__powerpc64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ARCH AUDIT_ARCH_PPC64LE
#elif defined(__s390x__)
#define ARCH AUDIT_ARCH_S390X
#else
#error "berth-init: name this architecture's AUDIT_ARCH"
#endif

static int failed(int fd, const char *what)
{
	dprintf(fd, "%s: %s", what, strerror(errno));
	return 1;
}

static int empty_root(void)
{
	/* /proc is a directory that every host has; nothing of it is seen afterwards. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	        mount("berth-init", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
	                "size=4k,nr_inodes=1,mode=0555") < 0 ||
	        chdir("/proc") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
	        umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -1;
	return mount(
	        NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		if (prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
			return -1;
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return (int)syscall(SYS_capset, &h, none);
}

static int filter(void)
{
#define ALLOW(name)                                            \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), \
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter code[] = {
	        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
	        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	        ALLOW(wait4),
	        ALLOW(rt_sigtimedwait),
	        ALLOW(rt_sigreturn),
	        ALLOW(restart_syscall),
	        ALLOW(read),
	        ALLOW(write),
	        ALLOW(close),
	        ALLOW(exit_group),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	};
#undef ALLOW
	struct sock_fprog prog = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0);
}

static int close_others(int keep)
{
	if (keep > 0 && close_range(0, (unsigned int)keep - 1, 0) < 0)
		return -1;
	return close_range((unsigned int)keep + 1, ~0u, 0);
}

int main(int argc, char **argv)
{
	int ready = argc == 2 ? atoi(argv[1]) : -1;
	if (ready < 3 || getpid() != 1) {
		dprintf(2, "berth-init: it is started by berth-ns\n");
		return 2;
	}
	sigset_t set;
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	(void)setsid();
	(void)prctl(PR_SET_NAME, "berth-init", 0, 0, 0); /* not that of the memfd */
	/* The node's last resort under memory pressure, where we may say so. */
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!write(fd, "-998", 4);
		close(fd);
	}
	if (close_others(ready) < 0)
		return failed(ready, "closing files");
	if (empty_root() < 0)
		return failed(ready, "empty root");
	if (setgroups(0, NULL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	        drop_capabilities() < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return failed(ready, "giving up privileges");
	if (filter() < 0)
		return failed(ready, "seccomp");
	char go;
	if (write(ready, "ok", 2) != 2 || read(ready, &go, 1) != 1)
		return 1;
	close(ready);

	for (;;) {
		siginfo_t si;
		int sig = sigwaitinfo(&set, &si);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		/* The kernel shows senders outside the namespace as pid 0. */
		if ((sig == SIGTERM || sig == SIGINT) && si.si_code == SI_USER && si.si_pid == 0)
			return 0;
	}
}
