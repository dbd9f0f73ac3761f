/* berth-plugin-check: options, and what is done before and after all tests. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
#include "plugin/crash.h"
#include "plugin/internal.h"
#include "run.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

struct check check;

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
}

int main(int argc, char **argv)
{
	enum { CONFIG = 1, KIND, ONLY, BRIEF, DIR_, STATE, HELPERS, LIST, HELP };
	static const struct option options[] = {{"config", 1, NULL, CONFIG},
	        {"kind", 1, NULL, KIND}, {"only", 1, NULL, ONLY}, {"brief", 0, NULL, BRIEF},
	        {"dir", 1, NULL, DIR_}, {"state", 1, NULL, STATE}, {"helpers", 1, NULL, HELPERS},
	        {"list", 0, NULL, LIST}, {"help", 0, NULL, HELP}, {NULL, 0, NULL, 0}};
	const char *config = NULL, *only = NULL, *only_kind = NULL;
	const char *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";

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
	const char *reason;
	bool starts = can_start(&reason);
	printf("# %s (%s), features 0x%llx\n", check.so, check.name,
	        (unsigned long long)check.features);
	if (starts)
		r = run_all(only, only_kind);
	else
		printf("1..0 # SKIP %s\n", reason);
	remove_cgroups();
	if (rmdir(check.work) < 0)
		printf("# %s stays: %s\n", check.work, strerror(errno));
	return r;
}
