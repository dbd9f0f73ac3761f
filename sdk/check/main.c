/* berth-plugin-check: options, the plan, one process for each test. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <berth/monitor.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "berth-config.h"
#include "check.h"
#include "config/tree.h"
#include "kill.h"
#include "plugin/crash.h"
#include "plugin/internal.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif
#define SKIPPED 77
#define SLOW_MS 1000

struct check check;
static const char *only, *only_kind;
static char *reason; /* shared: why a test was skipped */
#define REASON_MAX 512

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

static bool can_start(void)
{
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

static bool wanted(const struct test *t, const struct kind *k, unsigned int bit)
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

static int run_all(void)
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
					if (!wanted(t, kinds[k], 1u << k))
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

/* ---- the plugin ---- */

struct probe {
	char name[64];
	uint64_t features;
	uint32_t kinds;
};

/* In a process of its own: the one that runs tests knows nothing of the plugin's code. */
static void look(struct probe *p)
{
	void *dl = dlopen(check.so, RTLD_NOW | RTLD_LOCAL);
	const struct berth_plugin *(*entry)(uint32_t) = NULL;

	if (dl)
		*(void **)&entry = dlsym(dl, "berth_plugin_v0");
	const struct berth_plugin *d = entry ? entry(BERTH_ABI_MINOR) : NULL;
	if (!d || !d->name)
		fail("%s: %s", check.so, dl ? "it describes no plugin" : dlerror());
	snprintf(p->name, sizeof(p->name), "%s", d->name);
	p->features = d->features;
	p->kinds = (d->storage ? KIND_STORAGE : 0u) | (d->runtime ? KIND_RUNTIME : 0u) |
	           (d->network ? KIND_NETWORK : 0u);
	_exit(0);
}

static bool know_plugin(const char *path)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct probe *p = shared_alloc(sizeof(*p));
	int status = 1;

	char *real = realpath(path, NULL);
	if (!real) {
		printf("Bail out! %s: %s\n", path, strerror(errno));
		return false;
	}
	check.so = real;
	if (berth_plugin_file_check(real, &err) < 0) {
		printf("Bail out! %s\n", err->msg);
		return false;
	}
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		look(p);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0 || !p->kinds) {
		printf("Bail out! %s cannot be loaded\n", real);
		return false;
	}
	memcpy(check.name, p->name, sizeof(check.name));
	check.features = p->features;
	check.kinds = p->kinds;
	return true;
}

static json_t *read_config(const char *path)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *text = NULL;
	struct berth_arena *a = berth_arena_new();
	struct berth_yaml *y = NULL;
	json_t *j = NULL;
	size_t n;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, &n);

	if (r < 0)
		fprintf(stderr, "%s: %s\n", path, strerror(-r));
	else if (berth_yaml_parse(a, path, text, n, &y, &err) < 0)
		fprintf(stderr, "%s\n", err->msg);
	else
		j = y ? berth_yaml_to_json(y) : json_object();
	berth_arena_free(a);
	if (j && !json_is_object(j)) {
		fprintf(stderr, "%s: not a map of the plugin's keys\n", path);
		json_decref(j);
		j = NULL;
	}
	return j;
}

/* Those of the test's containers, where a runtime left them, and their parents, in each hierarchy.
 */
static void remove_cgroups(void)
{
	static const char *const patterns[] = {"/sys/fs/cgroup/%s/*/", "/sys/fs/cgroup/%s",
	        "/sys/fs/cgroup/*/%s/*/", "/sys/fs/cgroup/*/%s"};
	const char *name = strrchr(check.work, '/') + 1;
	char pattern[256];
	glob_t g;

	for (size_t n = 0; n < BERTH_ARRAY_LEN(patterns); n++) {
		const char *place = strstr(patterns[n], "%s");
		(void)snprintf(pattern, sizeof(pattern), "%.*s%s%s", (int)(place - patterns[n]),
		        patterns[n], name, place + 2);
		if (glob(pattern, 0, NULL, &g) != 0)
			continue;
		for (size_t i = 0; i < g.gl_pathc; i++)
			(void)rmdir(g.gl_pathv[i]);
		globfree(&g);
	}
}

/* ---- the command line ---- */

static void list_tests(void)
{
	for (size_t i = 0; i < BERTH_ARRAY_LEN(tables); i++)
		for (const struct test *t = tables[i]; t->name; t++)
			printf("%s\t%s%s%s%s\t%s\n", t->name,
			        t->kinds & KIND_STORAGE ? "storage " : "",
			        t->kinds & KIND_RUNTIME ? "runtime " : "",
			        t->kinds & KIND_NETWORK ? "network " : "", t->root ? "root" : "",
			        t->meaning);
}

static int usage(FILE *to)
{
	fprintf(to,
	        "usage: berth-plugin-check [OPTION...] PLUGIN.so\n"
	        "  --config FILE   YAML: the keys of the plugin, as under plugins: NAME: in "
	        "berth.yaml\n"
	        "  --kind KIND     storage, runtime or network alone\n"
	        "  --only TESTS    groups (\"leaks\") and tests (\"leaks.fds\"), by commas\n"
	        "  --brief         fewer rounds: seconds\n"
	        "  --dir DIR       where to work: a storage driver's file system (default: the "
	        "directory for temporary files)\n"
	        "  --state DIR     one state directory for all tests, which stays: for plugins "
	        "that "
	        "keep something outside of it\n"
	        "  --helpers DIR   where berth-monitor lies (default " BERTH_LIBEXECDIR ")\n"
	        "  --list          what is tested\n"
	        "Prints TAP. Exits with 0 where all holds, 1 where not, 77 where tests need root, "
	        "or the plugin what is not here.\n");
	return to == stdout ? 0 : 2;
}

static bool make_work(const char *dir)
{
	_cleanup_free_ char *work = berth_asprintf("%s/berth-check-XXXXXX", dir);
	char *real;

	if (!mkdtemp(work) || chmod(work, 0711) < 0 || !(real = realpath(work, NULL))) {
		fprintf(stderr, "berth-plugin-check: %s: %s\n", work, strerror(errno));
		return false;
	}
	check.work = real;
	return true;
}

static void prepare_process(void)
{
	struct rlimit files = {.rlim_cur = 1 << 16, .rlim_max = 1 << 16};

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	umask(022);
	(void)signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	berth_log_set_level(BERTH_LOG_LVL_WARN);
	berth_crash_init();
	check.root = geteuid() == 0;
	check.sanitized = SANITIZED;
	reason = shared_alloc(REASON_MAX);
}

int main(int argc, char **argv)
{
	enum { CONFIG = 1, KIND, ONLY, BRIEF, DIR_, STATE, HELPERS, LIST, HELP };
	static const struct option options[] = {{"config", 1, NULL, CONFIG},
	        {"kind", 1, NULL, KIND}, {"only", 1, NULL, ONLY}, {"brief", 0, NULL, BRIEF},
	        {"dir", 1, NULL, DIR_}, {"state", 1, NULL, STATE}, {"helpers", 1, NULL, HELPERS},
	        {"list", 0, NULL, LIST}, {"help", 0, NULL, HELP}, {NULL, 0, NULL, 0}};
	const char *config = NULL, *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";

	prepare_process();
	check.helpers = BERTH_LIBEXECDIR;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case CONFIG:
			config = optarg;
			break;
		case KIND:
			only_kind = optarg;
			break;
		case ONLY:
			only = optarg;
			break;
		case BRIEF:
			check.brief = true;
			break;
		case DIR_:
			dir = optarg;
			break;
		case STATE:
			check.state = optarg;
			break;
		case HELPERS:
			check.helpers = optarg;
			break;
		case LIST:
			list_tests();
			return 0;
		case HELP:
			return usage(stdout);
		default:
			return usage(stderr);
		}
	}
	if (optind + 1 != argc)
		return usage(stderr);
	check.config = config ? read_config(config) : json_object();
	if (!check.config)
		return 2;
	if (!know_plugin(argv[optind]) || !make_work(dir))
		return 1;
	_cleanup_free_ char *monitor = berth_asprintf("%s/berth-monitor", check.helpers);
	if ((check.kinds & KIND_RUNTIME) && access(monitor, X_OK) < 0)
		printf("# the plugin gets no " BERTH_MONITOR_EXT ": %s: %s\n", monitor,
		        strerror(errno));
	int r = SKIPPED;
	bool starts = can_start();
	printf("# %s (%s), features 0x%llx\n", check.so, check.name,
	        (unsigned long long)check.features);
	if (starts)
		r = run_all();
	else
		printf("1..0 # SKIP %s\n", reason);
	remove_cgroups();
	if (rmdir(check.work) < 0)
		printf("# %s stays: %s\n", check.work, strerror(errno));
	return r;
}
