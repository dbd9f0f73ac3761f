#include "loop/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "loop/child.h"

#define EXIT_BAD_ARGUMENT 2

/* Reads what the child says until it ends. False when the time is over. */
static bool listen_to(int pidfd, int fd, struct berth_buf *words, uint64_t until_ns)
{
	bool open = true;
	for (;;) {
		struct pollfd p[2] = {
		        {.fd = pidfd, .events = POLLIN}, {.fd = open ? fd : -1, .events = POLLIN}};
		uint64_t now = berth_now_ns();
		if (now >= until_ns)
			return false;
		if (poll(p, 2, (int)((until_ns - now) / 1000000u) + 1) <= 0)
			continue;
		if (p[1].revents) {
			char chunk[4096];
			ssize_t n = read(fd, chunk, sizeof(chunk));
			if (n > 0 && words->len + (size_t)n <= BERTH_LIMIT_RUN_OUTPUT)
				berth_buf_add(words, chunk, (size_t)n);
			open = n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
			continue; /* all that is there before the end counts */
		}
		if (p[0].revents)
			return true;
	}
}

int berth_run_helper(const char *const *argv, uint64_t timeout_ms, struct berth_error **ret_err)
{
	const struct berth_helper h = {.argv = argv, .timeout_ms = timeout_ms};

	return berth_run_helper_with(&h, ret_err);
}

int berth_run_helper_with(const struct berth_helper *h, struct berth_error **ret_err)
{
	const char *const *argv = h->argv;
	uint64_t timeout_ms = h->timeout_ms;
	int err[2], pidfd, status = 0;
	pid_t pid;
	const char *name = strrchr(argv[0], '/');

	name = name ? name + 1 : argv[0];
	if (pipe2(err, O_CLOEXEC) < 0)
		return berth_error_errno(ret_err, errno, "%s: a pipe", name);
	struct berth_child_spec spec = {.argv = argv,
	        .stdio = {-1, -1, err[1]},
	        .new_session = 1,
	        .keep_fds = h->keep_fds,
	        .n_keep_fds = h->n_keep_fds};
	int r = berth_child_start(&spec, &pid, &pidfd, ret_err);
	close(err[1]);
	if (r < 0) {
		close(err[0]);
		return -1;
	}
	struct berth_buf words = {0};
	(void)!berth_set_nonblock(err[0], true);
	bool ended = listen_to(pidfd, err[0], &words, berth_now_ns() + timeout_ms * 1000000u);
	if (!ended)
		berth_kill_tree(pid, 0, 0);
	r = berth_child_wait(pid, pidfd, &status);
	close(err[0]);
	close(pidfd);
	_cleanup_free_ char *text = berth_buf_steal(&words);
	size_t n = strlen(text);
	while (n > 0 && text[n - 1] == '\n')
		text[--n] = '\0';
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s: its exit was lost", name);
	if (!ended)
		return berth_error_set(ret_err, BERTH_DEADLINE_EXCEEDED,
		        "%s did not end within %llu ms", name, (unsigned long long)timeout_ms);
	if (status == 0)
		return 0;
	if (WIFSIGNALED(status))
		return berth_error_set(ret_err, BERTH_INTERNAL, "%s: killed by signal %d%s%s", name,
		        WTERMSIG(status), n ? ": " : "", text);
	return berth_error_set(ret_err,
	        WEXITSTATUS(status) == EXIT_BAD_ARGUMENT ? BERTH_INVALID_ARGUMENT : BERTH_INTERNAL,
	        "%s%s%s", n ? "" : name, n ? "" : " failed", text);
}
