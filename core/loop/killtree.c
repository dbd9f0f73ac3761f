/* Killing a process with all that descends from it. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "loop/child.h"

#define MAX_TREE 65536
#define FIRST_MARK (UINT64_C(1) << 62) /* from here: 146,000 years */

struct tree {
	pid_t *pids;
	size_t n, cap;
	uint64_t mark;
};

static void tree_add(struct tree *t, pid_t pid)
{
	if (t->n == MAX_TREE)
		return;
	if (t->n == t->cap) {
		t->cap = t->cap ? t->cap * 2 : 16;
		t->pids = berth_reallocarray(t->pids, t->cap, sizeof(*t->pids));
	}
	/* A stopped process starts no children, so its list is complete once it was stopped. */
	kill(pid, SIGSTOP);
	t->pids[t->n++] = pid;
}

static void tree_add_listed(struct tree *t, int task_dir, const char *tid)
{
	char path[64];
	snprintf(path, sizeof(path), "%.32s/children", tid);
	_cleanup_free_ char *text = NULL;
	if (berth_read_file(task_dir, path, BERTH_MIB(1), &text, NULL) < 0)
		return;
	for (char *p = text, *end; *p; p = end) {
		long child = strtol(p, &end, 10);
		if (end == p)
			break;
		if (child > 0)
			tree_add(t, (pid_t)child);
	}
}

/* Children belong to the thread that forked them: a Go program's are seldom the first one's. */
static void tree_add_children(struct tree *t, pid_t pid)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *d = opendir(path);
	if (!d)
		return;
	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] != '.')
			tree_add_listed(t, dirfd(d), e->d_name);
	}
	closedir(d);
}

static bool tree_has(const struct tree *t, pid_t pid)
{
	for (size_t i = 0; i < t->n; i++) {
		if (t->pids[i] == pid)
			return true;
	}
	return false;
}

static bool has_mark(pid_t pid, uint64_t mark)
{
	char path[64];
	uint64_t hard = 0;

	if (!mark)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
	_cleanup_free_ char *text = NULL;
	if (berth_read_file(AT_FDCWD, path, BERTH_KIB(16), &text, NULL) < 0)
		return false;
	const char *line = strstr(text, "\nMax realtime timeout");
	return line && sscanf(line + 21, "%*s %" SCNu64, &hard) == 1 && hard == mark;
}

/* A zombie that is another's to reap: a container's first process may never do so. */
static bool is_others_zombie(pid_t pid)
{
	char path[64], state = 0;
	int ppid = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_free_ char *text = NULL;
	if (berth_read_file(AT_FDCWD, path, BERTH_KIB(4), &text, NULL) < 0)
		return false;
	const char *p = strrchr(text, ')');
	return p && sscanf(p + 1, " %c %d", &state, &ppid) == 2 && state == 'Z' && ppid != getpid();
}

/* Those whose parent has ended: they still bear the mark, or are of the session that one of the
 * tree began. */
static void tree_add_strays(struct tree *t)
{
	DIR *d = opendir("/proc");
	if (!d)
		return;
	for (struct dirent *e; (e = readdir(d));) {
		pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
		pid_t sid = pid > 1 ? getsid(pid) : -1;
		if (sid < 0 || pid == getpid() || tree_has(t, pid))
			continue;
		if ((sid > 1 && sid != pid && tree_has(t, sid)) ||
		        (has_mark(pid, t->mark) && !is_others_zombie(pid)))
			tree_add(t, pid);
	}
	closedir(d);
}

uint64_t berth_child_mark(const char *name)
{
	uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

	for (const unsigned char *p = (const unsigned char *)name; *p; p++)
		hash = (hash ^ *p) * UINT64_C(1099511628211);
	return (hash & (FIRST_MARK - 1)) | FIRST_MARK;
}

void berth_kill_tree(pid_t pid, uint64_t mark, unsigned int reap_wait_ms)
{
	struct tree t = {.mark = mark};
	size_t looked = 0, killed = 0;
	bool any = true;

	if (pid > 0)
		tree_add(&t, pid);
	/* A stop is lost where it meets a program of several threads in its execve(), as runtimes
	 * are just before the command; a kill never is. So what was started in spite of a stop is
	 * found by another look after the kill. */
	while (any) {
		do {
			for (; looked < t.n; looked++)
				tree_add_children(&t, t.pids[looked]);
			tree_add_strays(&t);
		} while (looked < t.n);
		any = killed < t.n;
		for (; killed < t.n; killed++)
			kill(t.pids[killed], SIGKILL);
	}
	/* The descendants are orphans now, and the sweeper's: until it has been there a container
	 * may still list them. The first one is its owner's to reap. */
	uint64_t until = berth_now_ns() + reap_wait_ms * 1000000ull;
	for (size_t i = pid > 0 ? 1 : 0; i < t.n; i++) {
		while (kill(t.pids[i], 0) == 0 && !is_others_zombie(t.pids[i]) &&
		        berth_now_ns() < until)
			usleep(1000);
	}
	free(t.pids);
}
