/* berth-ns: creates and pins the namespaces of a pod.
 *
 *   berth-ns --pin net=PATH --pin ipc=PATH --pin uts=PATH [--hostname NAME] [--sysctl KEY=VALUE]...
 *            [--pin user=PATH --uid-map CONTAINER:HOST:COUNT... --gid-map ...]
 *   berth-ns --unpin PATH...
 *   berth-ns --pod-pid --pin pid=PATH --pid-file FILE --init FILE [--ns net=PATH]...
 *            [--cgroup-procs FILE]...
 *
 * Exit status 1 with one line on stderr; 2 where an argument is wrong. It never makes a mount
 * namespace: a copy of the mount table would hold what others unmount. */
#include "monitor/ns.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor/asan_options.h"
#include "monitor/sysctl.h"

const struct ns_name ns_names[NS_KINDS] = {[NS_NET] = {"net", "/proc/self/ns/net", CLONE_NEWNET},
        [NS_IPC] = {"ipc", "/proc/self/ns/ipc", CLONE_NEWIPC},
        [NS_UTS] = {"uts", "/proc/self/ns/uts", CLONE_NEWUTS},
        [NS_USER] = {"user", "/proc/self/ns/user", CLONE_NEWUSER},
        [NS_PID] = {"pid", "/proc/self/ns/pid_for_children", CLONE_NEWPID}};

int ns_fail(int errnum, const char *what, const char *detail)
{
	fprintf(stderr, "%s%s%s%s%s\n", what, detail ? ": " : "", detail ? detail : "",
	        errnum ? ": " : "", errnum ? strerror(errnum) : "");
	return 1;
}

static int bad(const char *what, const char *why)
{
	(void)ns_fail(0, what, why);
	return 2;
}

int ns_pin_file(const char *path, const char *source)
{
	int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0400);
	if (fd < 0)
		return ns_fail(errno, "pin", path);
	close(fd);
	if (mount(source, path, NULL, MS_BIND, NULL) < 0) {
		int e = errno;
		(void)unlink(path);
		return ns_fail(e, "pin", path);
	}
	return 0;
}

int ns_unpin(const char *path)
{
	/* More than one mount may lie on it after an interrupted start. */
	while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		;
	if (errno != EINVAL && errno != ENOENT)
		return ns_fail(errno, "unpin", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return ns_fail(errno, "unpin", path);
	return 0;
}

static int loopback_up(void)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return ns_fail(errno, "loopback", NULL);
	int e = ioctl(fd, SIOCSIFFLAGS, &r) < 0 ? errno : 0;
	close(fd);
	return e ? ns_fail(e, "loopback", NULL) : 0;
}

static unsigned int own_kinds(const struct ns_opts *o)
{
	return (o->pin[NS_NET] ? BERTH_SYSCTL_NET : 0) | (o->pin[NS_IPC] ? BERTH_SYSCTL_IPC : 0);
}

/* /proc/sys shows the namespaces of who opens it. */
static int set_sysctl(const struct ns_opts *o, const char *setting)
{
	char key[BERTH_SYSCTL_PATH_MAX], path[BERTH_SYSCTL_PATH_MAX];
	const char *eq = strchr(setting, '=');
	memcpy(key, setting, (size_t)(eq - setting));
	key[eq - setting] = '\0';
	if (berth_sysctl_path(key, own_kinds(o), path))
		return 2; /* checked before */
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? bad(setting, "this kernel has no such sysctl")
		                       : ns_fail(errno, "sysctl", setting);
	ssize_t n = write(fd, eq + 1, strlen(eq + 1));
	int e = errno;
	close(fd);
	if (n < 0)
		return e == EINVAL || e == ERANGE ? bad(setting, "the kernel refuses this value")
		                                  : ns_fail(e, "sysctl", setting);
	return 0;
}

int ns_fill(const struct ns_opts *o)
{
	int r = 0;
	if (o->pin[NS_NET])
		r = loopback_up();
	if (r == 0 && o->hostname && sethostname(o->hostname, strlen(o->hostname)) < 0)
		r = ns_fail(errno, "hostname", o->hostname);
	for (size_t i = 0; r == 0 && i < o->n_sysctls; i++)
		r = set_sysctl(o, o->sysctls[i]);
	return r;
}

int ns_create(const struct ns_opts *o)
{
	int flags = 0, r = 0, pinned = 0;
	if (o->pin[NS_USER])
		return ns_create_owned(o);
	for (int k = 0; k < NS_PID; k++)
		flags |= o->pin[k] ? ns_names[k].flag : 0;
	if (unshare(flags) < 0)
		return ns_fail(errno, "new namespaces", NULL);
	r = ns_fill(o);
	for (; r == 0 && pinned < NS_PID; pinned++) {
		if (o->pin[pinned])
			r = ns_pin_file(o->pin[pinned], ns_names[pinned].proc);
		if (r)
			break;
	}
	for (int k = 0; r && k < pinned; k++)
		if (o->pin[k])
			(void)ns_unpin(o->pin[k]);
	return r;
}

/* "net=PATH" */
static int parse_ns(const char *arg, const char **into)
{
	for (int k = 0; k < NS_KINDS; k++) {
		size_t n = strlen(ns_names[k].name);
		if (strncmp(arg, ns_names[k].name, n) == 0 && arg[n] == '=' && arg[n + 1] == '/') {
			if (into[k])
				return bad(arg, "this kind was given before");
			into[k] = arg + n + 1;
			return 0;
		}
	}
	return bad(arg, "a namespace is given as KIND=/PATH, KIND one of net, ipc, uts, user, pid");
}

static int add(const char *arg, const char **list, size_t *n)
{
	if (*n == NS_MAX)
		return bad(arg, "too many of this option");
	list[(*n)++] = arg;
	return 0;
}

static int check_create(const struct ns_opts *o)
{
	char key[BERTH_SYSCTL_PATH_MAX], path[BERTH_SYSCTL_PATH_MAX];
	bool any = o->pin[NS_NET] || o->pin[NS_IPC] || o->pin[NS_UTS] || o->pin[NS_USER];
	if (!any || o->pin[NS_PID])
		return bad("--pin",
		        "give at least one of net, ipc, uts and user; pid goes with --pod-pid");
	if (!o->pin[NS_USER] != !o->uid_map || !o->pin[NS_USER] != !o->gid_map)
		return bad("--pin user", "it goes with --uid-map and --gid-map");
	if (o->hostname && !o->pin[NS_UTS])
		return bad("--hostname", "it needs a UTS namespace of the pod's own");
	if (o->hostname && (!o->hostname[0] || strlen(o->hostname) > 64))
		return bad("--hostname", "a host name has 1 to 64 bytes");
	for (size_t i = 0; i < o->n_sysctls; i++) {
		const char *eq = strchr(o->sysctls[i], '=');
		if (!eq || (size_t)(eq - o->sysctls[i]) >= sizeof(key))
			return bad(o->sysctls[i], "a sysctl is given as KEY=VALUE");
		memcpy(key, o->sysctls[i], (size_t)(eq - o->sysctls[i]));
		key[eq - o->sysctls[i]] = '\0';
		const char *why = berth_sysctl_path(key, own_kinds(o), path);
		if (why) {
			fprintf(stderr, "sysctl %s: %s\n", key, why);
			return 2;
		}
	}
	return 0;
}

static int check_pod_pid(const struct ns_opts *o)
{
	if (!o->pin[NS_PID] || !o->pid_file || !o->init || o->init[0] != '/')
		return bad("--pod-pid", "it needs --pin pid=PATH, --pid-file and --init");
	if (o->pin[NS_NET] || o->pin[NS_IPC] || o->pin[NS_UTS] || o->pin[NS_USER] ||
	        o->join[NS_PID])
		return bad("--pod-pid", "other namespaces are given by --ns, the PID one by --pin");
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {{"pin", 1, NULL, 'p'}, {"ns", 1, NULL, 'n'},
	        {"hostname", 1, NULL, 'h'}, {"sysctl", 1, NULL, 's'}, {"unpin", 0, NULL, 'u'},
	        {"pod-pid", 0, NULL, 'P'}, {"init", 1, NULL, 'i'}, {"pid-file", 1, NULL, 'f'},
	        {"cgroup-procs", 1, NULL, 'c'}, {"uid-map", 1, NULL, 'U'},
	        {"gid-map", 1, NULL, 'G'}, {0}};
	static struct ns_opts o;
	bool unpin = false, pod_pid = false;
	int c, r = 0;
	while (r == 0 && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'p':
			r = parse_ns(optarg, o.pin);
			break;
		case 'n':
			r = parse_ns(optarg, o.join);
			break;
		case 'h':
			o.hostname = optarg;
			break;
		case 's':
			r = add(optarg, o.sysctls, &o.n_sysctls);
			break;
		case 'c':
			r = add(optarg, o.cgroup_procs, &o.n_cgroup_procs);
			break;
		case 'U':
			r = ns_add_map(optarg, &o.uid_map);
			break;
		case 'G':
			r = ns_add_map(optarg, &o.gid_map);
			break;
		case 'i':
			o.init = optarg;
			break;
		case 'f':
			o.pid_file = optarg;
			break;
		case 'u':
			unpin = true;
			break;
		case 'P':
			pod_pid = true;
			break;
		default:
			r = 2; /* getopt has said why */
			break;
		}
	}
	if (r)
		return r;
	if (unpin) {
		for (int i = optind; i < argc; i++)
			r |= ns_unpin(argv[i]);
		return r;
	}
	if (optind < argc)
		return bad(argv[optind], "not an option");
	r = pod_pid ? check_pod_pid(&o) : check_create(&o);
	if (r)
		return r;
	return pod_pid ? ns_pod_pid(&o) : ns_create(&o);
}
