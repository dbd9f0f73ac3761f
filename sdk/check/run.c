/* One process for each test, and what becomes of it. */
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "check.h"
#include "kill.h"

#define SLOW_MS 1000
#define REASON_MAX 512

static char *reason; /* shared: why a test was skipped */

static const struct test *const tables[] = {life_tests, storage_tests, storage_bad_tests,
        storage_feature_tests, storage_kill_tests, runtime_tests, runtime_bad_tests, network_tests,
        network_bad_tests, all_kinds_tests};
static const struct kind *const kinds[] = {&kind_storage, &kind_runtime, &kind_network};

/* ---- what a test says ---- */

static void BERTH_PRINTF(2, 0) say(const char *head, const char *fmt, va_list ap)
{
	_cleanup_free_ char *text = berth_vasprintf(fmt, ap);

	printf("%s%s\n", head, text);
	fflush(stdout);
}

void fail(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say("", fmt, ap);
	va_end(ap);
	rules_noted(); /* which may be why */
	_exit(1);
}

void note(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say("note: ", fmt, ap);
	va_end(ap);
}

void skip(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(reason, REASON_MAX, fmt, ap);
	va_end(ap);
	for (char *end = reason; (end = strchr(end, '\n'));)
		*end = ' '; /* the report has a line for each test */
	_exit(SKIPPED);
}

/* ---- one test ---- */

static void own_namespaces(const struct kind *k)
{
	/* What the host mounts is seen, what a test mounts stays here and ends with it. A network
	 * plugin works on a host's network of its own. */
	if (unshare(CLONE_NEWNS | (k == &kind_network ? CLONE_NEWNET : 0)) < 0 ||
	        mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		fail("namespaces: %s", strerror(errno));
}

static void make_dir(const char *path)
{
	int r = berth_mkdir_p(path, 0711);

	expect(r == 0, "%s: %s", path, strerror(-r));
}

static void run_test(const struct test *t, const struct kind *k, const char *dir, bool alone)
{
	struct session s = {.test = t, .alone = alone, .ops = k, .dir = berth_strdup(dir)};

	if (check.root)
		own_namespaces(k);
	for (unsigned int i = 0; i < BERTH_ARRAY_LEN(kinds); i++)
		if (kinds[i] == k)
			s.kind = 1u << i;
	s.state_root = check.state ? berth_strdup(check.state) : berth_asprintf("%s/state", dir);
	s.run_root = berth_asprintf("%s/run", dir);
	s.mnt = berth_asprintf("%s/mnt", dir);
	make_dir(s.state_root);
	make_dir(s.run_root);
	make_dir(s.mnt);
	guard_init();
	t->fn(&s);
	if (!t->shared)
		rules_hold(ALL_RULES);
	free(s.dir);
	free(s.state_root);
	free(s.run_root);
	free(s.mnt);
	s.err = berth_error_free(s.err);
	fflush(stdout);
	exit(0); /* with a leak check, where there is one */
}

/* What a test prints, as comments, until it has ended. False after too long a time. */
static bool relay(int fd)
{
	uint64_t end = berth_now_ns() + TEST_SECONDS * 1000000000ull;
	FILE *f = fdopen(fd, "r");
	char line[8192];
	bool in_time = true;

	if (!f)
		return false;
	for (;;) {
		struct pollfd p = {fd, POLLIN, 0};
		uint64_t now = berth_now_ns();
		if (now >= end) {
			in_time = false;
			break;
		}
		if (poll(&p, 1, (int)((end - now) / 1000000) + 1) <= 0)
			continue;
		if (!fgets(line, sizeof(line), f))
			break;
		printf("# %s%s", line, strchr(line, '\n') ? "" : "\n");
	}
	(void)fclose(f);
	return in_time;
}

static bool verdict(unsigned int n, const char *name, int status, bool in_time)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		printf("ok %u - %s\n", n, name);
		return true;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		printf("ok %u - %s # SKIP %s\n", n, name, reason);
		return true;
	}
	if (!in_time)
		printf("# not ended after %d s\n", TEST_SECONDS);
	else if (WIFSIGNALED(status))
		printf("# ended by signal %d (%s)\n", WTERMSIG(status),
		        strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) != 1)
		printf("# ended with status %d\n", WEXITSTATUS(status));
	printf("not ok %u - %s\n", n, name);
	return false;
}

/* The wait status of the test's process. */
static int run_process(
        const struct test *t, const struct kind *k, const char *dir, bool alone, bool *ret_in_time)
{
	int out[2], status = 0;

	expect(pipe2(out, O_CLOEXEC) == 0, "pipe: %s", strerror(errno));
	*reason = '\0';
	fflush(stdout);
	uint64_t began = berth_now_ns();
	pid_t pid = fork();
	if (pid == 0) {
		if (dup2(out[1], 1) < 0 || dup2(out[1], 2) < 0)
			_exit(1);
		close(out[0]);
		close(out[1]);
		run_test(t, k, dir, alone);
	}
	close(out[1]);
	*ret_in_time = relay(out[0]);
	if (!*ret_in_time)
		kill(pid, SIGKILL);
	(void)waitpid(pid, &status, 0);
	uint64_t ms = (berth_now_ns() - began) / 1000000;
	if (ms >= SLOW_MS)
		printf("# took %llu ms\n", (unsigned long long)ms);
	kill_children(); /* what it left runs no longer, so that the next finds nothing of it */
	int r = berth_rm_tree(AT_FDCWD, dir);
	if (r < 0)
		printf("# %s stays: %s\n", dir, strerror(-r));
	return status;
}

static bool run_one(unsigned int n, const struct test *t, const struct kind *k)
{
	static const struct kind *group_kind;
	static void (*group)(struct session * s);
	static int group_status;
	static bool in_time;
	_cleanup_free_ char *name = berth_asprintf("%s %s", k->name, t->name);
	_cleanup_free_ char *dir = berth_asprintf("%s/%u", check.work, n);

	if (t->root && !check.root) {
		printf("ok %u - %s # SKIP needs root\n", n, name);
		return true;
	}
	if (group != t->fn || group_kind != k || !t->shared)
		group_status = run_process(t, k, dir, false, &in_time);
	group = t->fn;
	group_kind = k;
	int status = group_status;
	if (status != 0 && t->shared)
		status = run_process(t, k, dir, true, &in_time);
	bool good = verdict(n, name, status, in_time);
	fflush(stdout);
	return good;
}

static uint64_t *features; /* shared: of an instance on this machine */

/* What the plugin lacks here, it says at its first create(): then there is nothing to test. */
static void try_start(struct session *s)
{
	if (session_try(s, NULL)) {
		*features = berth_instance_features(s->instance);
		session_stop(s);
	} else if (s->err->code == BERTH_FAILED_PRECONDITION) {
		skip("%s", s->err->msg);
	}
}

bool can_start(const char **ret_why)
{
	*ret_why = reason = shared_alloc(REASON_MAX);
	features = shared_alloc(sizeof(*features));
	*features = check.features;
	static const struct test t = {.name = "start", .fn = try_start};
	_cleanup_free_ char *dir = berth_asprintf("%s/0", check.work);
	bool in_time;

	for (unsigned int k = 0; k < BERTH_ARRAY_LEN(kinds); k++) {
		if (!(check.kinds & 1u << k))
			continue;
		int status = run_process(&t, kinds[k], dir, false, &in_time);
		check.features = *features;
		return !(WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED);
	}
	return true;
}

/* ---- all tests ---- */

static bool wanted(const struct test *t, const struct kind *k, unsigned int bit, const char *only,
        const char *only_kind)
{
	if (!(t->kinds & bit) || !(check.kinds & bit) ||
	        (only_kind && strcmp(only_kind, k->name) != 0))
		return false;
	bool any = !only;
	for (const char *p = only; p && !any; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		size_t len = strcspn(p, ",");
		any = strncmp(t->name, p, len) == 0 && (t->name[len] == '.' || !t->name[len]);
	}
	return any;
}

int run_all(const char *only, const char *only_kind)
{
	unsigned int n = 0, bad = 0;
	bool unrooted = false;

	for (int counting = 1; counting >= 0; counting--) {
		unsigned int planned = n;
		n = 0;
		if (!counting)
			printf("1..%u\n", planned);
		for (unsigned int k = 0; k < BERTH_ARRAY_LEN(kinds); k++) {
			for (size_t i = 0; i < BERTH_ARRAY_LEN(tables); i++) {
				for (const struct test *t = tables[i]; t->name; t++) {
					if (!wanted(t, kinds[k], 1u << k, only, only_kind))
						continue;
					n++;
					unrooted = unrooted || (t->root && !check.root);
					bad += !counting && !run_one(n, t, kinds[k]);
				}
			}
		}
	}
	if (n == 0) {
		fprintf(stderr, "berth-plugin-check: no such tests\n");
		return 1;
	}
	return bad ? 1 : unrooted ? SKIPPED : 0;
}

void list_tests(void)
{
	for (size_t i = 0; i < BERTH_ARRAY_LEN(tables); i++)
		for (const struct test *t = tables[i]; t->name; t++)
			printf("%s\t%s%s%s%s\t%s\n", t->name,
			        t->kinds & KIND_STORAGE ? "storage " : "",
			        t->kinds & KIND_RUNTIME ? "runtime " : "",
			        t->kinds & KIND_NETWORK ? "network " : "", t->root ? "root" : "",
			        t->meaning);
}
