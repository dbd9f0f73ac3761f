/* In the child, within the container's namespaces: from a process with all rights to the one that
 * the container's config describes. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "join.h"

/* glibc has 0 for it; the command sees what an open() would have left. */
#ifdef __x86_64__
#define LARGEFILE 0100000
#else
#define LARGEFILE O_LARGEFILE
#endif

/* ---- terminal ---- */

static int send_master(int console, int master)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl = {{0}};
	char name[] = "/dev/ptmx";
	struct iovec iov = {.iov_base = name, .iov_len = sizeof(name) - 1};
	struct msghdr msg = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = ctl.buf,
	        .msg_controllen = sizeof(ctl.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &master, sizeof(int));
	return sendmsg(console, &msg, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int set_terminal(const struct join_process *p, int console)
{
	struct winsize ws = {.ws_col = p->width, .ws_row = p->height};
	int zero = 0, master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), slave = -1;

	if (master >= 0 && ioctl(master, TIOCSPTLCK, &zero) == 0)
		slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | LARGEFILE);
	if (slave < 0 || (ws.ws_col && ioctl(master, TIOCSWINSZ, &ws) < 0) ||
	        send_master(console, master) < 0)
		return join_fail(errno, "a terminal", NULL);
	close(console);
	close(master);
	for (int i = 0; i < 3; i++)
		if (dup2(slave, i) < 0)
			return join_fail(errno, "a terminal", NULL);
	if (ioctl(0, TIOCSCTTY, 0) < 0)
		return join_fail(errno, "taking its terminal", NULL);
	close(slave);
	return 0;
}

/* The user may open what it has as /dev/stdout again. */
static void own_stdio(uid_t uid)
{
	struct stat st, null = {0};
	bool have_null = stat("/dev/null", &null) == 0;

	for (int fd = 0; fd < 3; fd++)
		if (fstat(fd, &st) == 0 && st.st_uid != uid &&
		        !(have_null && st.st_rdev == null.st_rdev && S_ISCHR(st.st_mode)))
			(void)!fchown(fd, uid, (gid_t)-1);
}

/* ---- identity ---- */

/* A change of the user makes a process what the sysctl fs.suid_dumpable says. */
static int stay_hidden(void)
{
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? join_fail(errno, "not dumpable", NULL) : 0;
}

static int join_keyring(const char *id)
{
	char name[300];

	snprintf(name, sizeof(name), "_ses.%s", id);
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) < 0 && errno != ENOSYS)
		return join_fail(errno, "its session keyring", NULL);
	return 0;
}

static int drop_bounding(const struct join_process *p)
{
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(p->bounding >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return join_fail(errno, "dropping a capability", NULL);
	return 0;
}

static int set_caps(const struct join_process *p)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2];

	for (int i = 0; i < 2; i++) {
		d[i].effective = (uint32_t)(p->effective >> (32 * i));
		d[i].permitted = (uint32_t)(p->permitted >> (32 * i));
		d[i].inheritable = (uint32_t)(p->inheritable >> (32 * i));
	}
	if (syscall(SYS_capset, &h, d) < 0)
		return join_fail(errno, "its capabilities", NULL);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return join_fail(errno, "its ambient capabilities", NULL);
	for (unsigned int cap = 0; cap < 64; cap++)
		if ((p->ambient >> cap & 1) &&
		        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return join_fail(errno, "its ambient capabilities", NULL);
	return 0;
}

static int set_user(const struct join_process *p)
{
	if (p->has_caps && drop_bounding(p) < 0)
		return -1;
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return join_fail(errno, "its capabilities", NULL);
	if (setgroups(p->n_groups, p->groups) < 0 || setresgid(p->gid, p->gid, p->gid) < 0 ||
	        setresuid(p->uid, p->uid, p->uid) < 0)
		return join_fail(errno, "its user and groups", NULL);
	if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
		return join_fail(errno, "its capabilities", NULL);
	umask(p->umask);
	return stay_hidden();
}

/* ---- the command ---- */

/* The working directory must be the container's: a path can lead out of it by what was open. */
static int set_cwd(const char *cwd)
{
	char here[4097];

	if (chdir(cwd) < 0)
		return -1;
	if (syscall(SYS_getcwd, here, sizeof(here) - 1) < 0)
		return -1;
	if (here[0] != '/') {
		errno = ENOENT;
		return -1;
	}
	return 0;
}

static const char *path_of(char *const *env)
{
	for (; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return "";
}

static int check_command(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) || !(st.st_mode & 0111) ? -EACCES : 0;
}

/* As the runtime looks for it: the first of that name which is a file that somebody may execute;
 * that the kernel will not have it is no reason to look further. */
static int find_command(const struct join_process *p, char *ret, size_t size)
{
	const char *name = p->argv[0];
	int r;

	if (strchr(name, '/')) {
		r = snprintf(ret, size, "%s", name) < (int)size ? check_command(ret)
		                                                : -ENAMETOOLONG;
		return r < 0 ? join_fail(-r, "exec", name) : 0;
	}
	for (const char *d = path_of(p->env); *d;) {
		size_t n = strcspn(d, ":");
		int len = snprintf(ret, size, "%.*s/%s", n ? (int)n : 1, n ? d : ".", name);
		if (len < (int)size && check_command(ret) == 0)
			return ret[0] == '/' ? 0
			                     : join_fail(0,
			                               "cannot run executable found relative to "
			                               "current directory",
			                               ret);
		d += n + (d[n] == ':');
	}
	return join_fail(0, "executable file not found in $PATH", name);
}

/* The command has begun for the runtime when the kernel is asked, so what it answers is the
 * command's failure; in the runtime's words. */
static void run_command(const struct join_process *p, const char *path)
{
	execve(path, p->argv, p->env);
	char words[128];
	snprintf(words, sizeof(words), "%s", strerror(errno));
	words[0] = (char)tolower((unsigned char)words[0]);
	dprintf(STDERR_FILENO, "exec %s: %s\n", path, words);
	_exit(1);
}

int join_become(const struct join_process *p, const char *id, bool user_namespace,
        const struct sock_fprog *filter, int console)
{
	char path[8192];

	if (setsid() < 0)
		return join_fail(errno, "setsid", NULL);
	if (user_namespace && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0))
		return join_fail(errno, "becoming root of its user namespace", NULL);
	if (stay_hidden() < 0 || join_keyring(id) < 0 ||
	        (p->terminal && set_terminal(p, console) < 0) || join_process_limits(p) < 0)
		return -1;
	own_stdio(p->uid);
	if (p->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return join_fail(errno, "no_new_privs", NULL);
	bool there = set_cwd(p->cwd) == 0;
	if (!there && errno != EACCES && errno != EPERM)
		return join_fail(errno, "its working directory", p->cwd);
	/* Without no_new_privs a filter takes a right that is about to go. */
	if (!p->no_new_privs && join_filter_load(filter) < 0)
		return -1;
	if (set_user(p) < 0)
		return -1;
	if (!there && set_cwd(p->cwd) < 0)
		return join_fail(errno, "its working directory", p->cwd);
	if (p->has_caps && set_caps(p) < 0)
		return -1;
	if (find_command(p, path, sizeof(path)) < 0 ||
	        (p->no_new_privs && join_filter_load(filter) < 0))
		return -1;
	run_command(p, path);
	return -1;
}
