#include "pull/confine.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

enum { NICE = 10, MAX_FDS = 1024 };

static void drop_all_caps(void)
{
	capng_clear(CAPNG_SELECT_BOTH);
	(void)capng_apply(CAPNG_SELECT_BOTH);
}

/* The process that berthd knows: it has nothing left but the child to wait for. */
static void wait_for(pid_t child)
{
	int status = 0;

	drop_all_caps();
	close_range(0, ~0u, 0);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status)) {
		/* As the child ended, but without a core of its own. */
		signal(WTERMSIG(status), SIG_DFL);
		raise(WTERMSIG(status));
	}
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
}

static int enter_pid_namespace(struct berth_error **ret_err)
{
	if (unshare(CLONE_NEWPID) < 0)
		return berth_error_errno(ret_err, errno, "make a PID namespace");
	pid_t child = fork();
	if (child < 0)
		return berth_error_errno(ret_err, errno, "fork");
	if (child > 0)
		wait_for(child);
	/* Started by a process with a single thread, which stays: its end is berth-pull's. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return berth_error_errno(ret_err, errno, "set the parent's death signal");
	return 0;
}

/* Pulls are no one's wait: they leave the processor and the memory to containers and daemon. */
static int be_modest(struct berth_error **ret_err)
{
	const struct sched_param none = {0};
	const struct rlimit no_core = {0, 0}, fds = {MAX_FDS, MAX_FDS};

	if (sched_setscheduler(0, SCHED_BATCH, &none) < 0 || setpriority(PRIO_PROCESS, 0, NICE) < 0)
		return berth_error_errno(ret_err, errno, "lower the priority");
	if (setrlimit(RLIMIT_CORE, &no_core) < 0 || setrlimit(RLIMIT_NOFILE, &fds) < 0)
		return berth_error_errno(ret_err, errno, "set the limits");
	int r = berth_write_value("/proc/self/oom_score_adj", "500");
	if (r < 0 && r != -EACCES && r != -ENOENT) /* it may be higher already */
		return berth_error_errno(ret_err, r, "set oom_score_adj");
	return 0;
}

static int drop_caps(struct berth_error **ret_err)
{
	capng_clear(CAPNG_SELECT_BOTH);
	capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET, CAP_CHOWN,
	        CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_SETFCAP, CAP_MKNOD, -1);
	int r = capng_apply(CAPNG_SELECT_BOTH);
	if (r != 0)
		return berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "drop capabilities: error %d", r);
	return 0;
}

int pull_confine(const struct pull_confine_opts *o, struct berth_error **ret_err)
{
	int flags = CLONE_NEWNS | CLONE_NEWIPC | (o->network ? 0 : CLONE_NEWNET);

	if (geteuid() != 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "berth-pull confines itself, for which it must be root");
	capng_get_caps_process(); /* it looks into /proc, once */
	if (be_modest(ret_err) < 0 || enter_pid_namespace(ret_err) < 0)
		return -1;
	if (unshare(flags) < 0)
		return berth_error_errno(ret_err, errno, "make namespaces");
	if (pull_confine_root(o, ret_err) < 0 || drop_caps(ret_err) < 0)
		return -1;
	return pull_confine_filter(o->network, ret_err);
}
