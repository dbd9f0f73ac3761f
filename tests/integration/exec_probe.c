/* What a process may do, by trying it: system calls with arguments that do no harm, and what the
 * kernel keeps for it that /proc does not show. For the tests of execs; static. */
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void try(const char *name, long nr, long a, long b)
{
	errno = 0;
	long r = syscall(nr, a, b, 0, 0, 0, 0);
	printf("%s: %s %s\n", name, r < 0 ? "-" : "done", r < 0 ? strerrorname_np(errno) : "");
}

int main(void)
{
	char text[512] = "";
	struct stat st;

	try("unknown", 1999, 0, 0);
	try("newest", 460, -1, -1);
	try("clone3", SYS_clone3, 0, 0);
	try("mount", SYS_mount, 0, 0);
	try("bpf", SYS_bpf, 999, 0);
	try("reboot", SYS_reboot, 1, 1);
	try("unshare", SYS_unshare, 0x7fffffff, 0);
	try("swapon", SYS_swapon, 0, 0);
	try("acct", SYS_acct, 1, 0);
	try("ptrace", SYS_ptrace, 9999, 0);
	try("personality", SYS_personality, 0x20000008, 0);
	try("socket vsock", SYS_socket, 40, 1);
	try("userfaultfd", SYS_userfaultfd, 0x7fffffff, 0);
	try("perf", SYS_perf_event_open, 0, 0);
	try("open_by_handle", SYS_open_by_handle_at, -1, 0);
	try("sethostname", SYS_sethostname, 1, 1000);
	long n = syscall(
	        SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, text, sizeof(text) - 1);
	printf("keyring: %s\n", n < 0 ? strerrorname_np(errno) : text);
	printf("personality %x dumpable %d keepcaps %d securebits %x pdeathsig ",
	        (unsigned int)personality(0xffffffff), prctl(PR_GET_DUMPABLE),
	        prctl(PR_GET_KEEPCAPS), (unsigned int)prctl(PR_GET_SECUREBITS));
	int sig = 0;
	prctl(PR_GET_PDEATHSIG, &sig);
	printf("%d slack %ld\n", sig, (long)prctl(PR_GET_TIMERSLACK));
	printf("leader %d group %d parent %s terminal %d\n", getsid(0) == getpid(),
	        getpgrp() == getpid(), getppid() ? "here" : "outside", isatty(0));
	for (int fd = 0; fd < 64; fd++)
		if (fstat(fd, &st) == 0)
			printf("fd %d: type %o mode %o owner %d:%d flags %o\n", fd,
			        st.st_mode & S_IFMT, st.st_mode & 07777, (int)st.st_uid,
			        (int)st.st_gid, fcntl(fd, F_GETFL));
	for (int s = 1; s < NSIG; s++) {
		struct sigaction sa;
		if (sigaction(s, NULL, &sa) == 0 && sa.sa_handler != SIG_DFL)
			printf("signal %d is handled\n", s);
	}
	/* The last one: a filter that does not know its architecture kills. */
	fflush(stdout);
	try("x32", 0x40000000 | 39, 0, 0);
	return 0;
}
