/* Hosts that are killed: processes of their own, each with a session. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "check.h"
#include "kill.h"

void *shared_alloc(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	expect(p != MAP_FAILED, "no memory");
	return p;
}

unsigned int any_number(unsigned int below)
{
	static uint64_t x;

	if (!x)
		x = berth_now_ns() | 1;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (unsigned int)(x >> 16) % below;
}

void host_dies(void)
{
	fflush(stdout);
	for (;;)
		kill(getpid(), SIGKILL);
}

/* Set in the host once it has started. */
static volatile bool *ready;

static void in_host(struct session *s, void (*fn)(struct session *s, void *arg), void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	session_start(s);
	*ready = true;
	fn(s, arg);
	session_stop(s);
	rules_hold(ALL_RULES);
	fflush(stdout);
	exit(0);
}

static void wait_until(pid_t pid, const volatile bool *flag, int *status)
{
	while (!*flag && waitpid(pid, status, WNOHANG) == 0)
		usleep(200);
}

/* Programs that the dead host was running for its plugin. A container goes on. */
static void end_orphans(const struct session *s)
{
	if (s->kind != KIND_RUNTIME)
		kill_children();
}

bool host_run(struct session *s, void (*fn)(struct session *s, void *arg), void *arg,
        unsigned int kill_us)
{
	int status = -1;

	if (!ready)
		ready = shared_alloc(sizeof(*ready));
	*ready = false;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fflush(stdout);
	pid_t pid = fork();
	expect(pid >= 0, "fork: %s", strerror(errno));
	if (pid == 0)
		in_host(s, fn, arg);
	if (kill_us)
		wait_until(pid, ready, &status);
	if (kill_us && status == -1) {
		usleep(kill_us);
		kill(pid, SIGKILL);
	}
	while (status == -1 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	end_orphans(s);
	if (WIFEXITED(status)) {
		if (WEXITSTATUS(status) != 0)
			_exit(WEXITSTATUS(status)); /* it has said what was wrong */
		return true;
	}
	if (WTERMSIG(status) != SIGKILL)
		fail("the plugin's process ended by signal %d (%s)", WTERMSIG(status),
		        strsignal(WTERMSIG(status)));
	return false;
}

void kill_children(void)
{
	char path[64];

	/* What they leave comes to us, so it may take some rounds. */
	for (int round = 0; round < 50; round++) {
		_cleanup_free_ char *text = NULL;
		char *save = NULL;
		bool any = false;
		snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
		if (berth_read_file(AT_FDCWD, path, BERTH_KIB(64), &text, NULL) < 0)
			return;
		for (char *p = strtok_r(text, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
			any = true;
			kill((pid_t)atoi(p), SIGKILL);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (!any)
			return;
		usleep(2000);
	}
}
