#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "monitor/mon.h"

#define FILTER_MAX 1024 /* instructions */

static int load_filter(int fd)
{
	static struct sock_filter code[FILTER_MAX];
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -1;
	if (st.st_size <= 0 || (size_t)st.st_size > sizeof(code) ||
	        (size_t)st.st_size % sizeof(code[0])) {
		errno = EBADMSG;
		return -1;
	}
	/* pread: the memfd is shared with other monitors, and so is its offset. */
	if (pread(fd, code, (size_t)st.st_size, 0) != st.st_size) {
		errno = EIO;
		return -1;
	}
	struct sock_fprog prog = {
	        .len = (unsigned short)((size_t)st.st_size / sizeof(code[0])), .filter = code};
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0);
}

void mon_confine_bounds(void)
{
	capng_clear(CAPNG_SELECT_ALL);
	/* It needs SETPCAP, which a restricted berthd may lack; without it the process has nothing
	 * but KILL in the end all the same. */
	(void)capng_apply(CAPNG_SELECT_BOUNDS);
}

int mon_confine(int seccomp_fd)
{
	capng_clear(CAPNG_SELECT_ALL);
	capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_KILL);
	if (capng_apply(CAPNG_SELECT_CAPS) < 0) {
		errno = EPERM;
		return -1;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return -1;
	return seccomp_fd < 0 ? 0 : load_filter(seccomp_fd);
}
