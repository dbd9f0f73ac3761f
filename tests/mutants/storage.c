/* The example storage driver, wrong on purpose in one way, -DMUTANT=NAME: berth-plugin-check must
 * notice (tests/checks/mutants.sh). What is not changed is sdk/example/storage_dir.c itself. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <stdbool.h>

enum {
	NONE,
	LEAKS_FD,
	LEAKS_THREAD,
	LEAKS_MEMORY,
	LEAKS_PROCESS,
	LEAKS_MOUNT,
	LEAVES_THREAD,
	LEAVES_FD,
	IS_MUTE,
	NAMES_NOTHING,
	SAYS_ANOTHER,
	WRITES_BEHIND_RESULT,
	FILLS_UNKNOWN_RESULT,
	READS_BEHIND_ARGS,
	WANTS_ITS_ARGS,
	READS_BEHIND_HOST,
	WANTS_ITS_HOST,
	SETS_UMASK,
	CHANGES_DIRECTORY,
	BLOCKS_SIGNALS,
	TAKES_SIGNAL,
	SETS_FSUID,
	LEAVES_NAMESPACE,
	NAMES_THREAD,
	NEEDS_STACK,
	KEEPS_MEMORY,
	OVERRUNS_MEMORY,
	KEEPS_ARGUMENT,
	WRITES_ARGUMENT,
	IGNORES_CANCEL,
	REMOVES_ONCE,
	TAKES_FLAGS,
	OVERWRITES,
	SHARES_PARENT,
	WRITES_VIEW,
	MAKES_HALF,
	FORGETS,
	TAKES_PATHS,
	ASKS_FOR_ALL,
	LISTS_TWICE,
	MISTAKES_KIND,
	SHARES_TEMPORARY,
	LIMITS_NOTHING,
	MARKS_TWICE,
	COUNTS_WRONG,
	ENDS_EARLY,
	HIDES_ROOT,
	LIVES_ONCE,
	LACKS_STAT,
	FAILS_LOUD,
	TAKES_NO_NAME,
	DROPS_CHILDREN,
	CRASHES,
};
#define IS(name) (MUTANT == (name))

#define berth_plugin_v0 original
#include "../../sdk/example/storage_dir.c"
#undef berth_plugin_v0

static char *kept;
static const char *kept_argument;

static void *sleeper(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void start_thread(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, sleeper, NULL) == 0)
		pthread_detach(t);
}

static void leak(struct dir_driver *d)
{
	static int n;
	char path[PATH_SIZE];
	pid_t pid;
	char *const argv[] = {(char *)"sleep", (char *)"100", NULL};

	if (IS(LEAKS_FD))
		(void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (IS(LEAKS_THREAD))
		start_thread();
	if (IS(LEAKS_MEMORY))
		memset(malloc(16384), 1, 16384);
	if (IS(LEAKS_PROCESS))
		posix_spawn(&pid, "/bin/sleep", NULL, NULL, argv, NULL);
	if (IS(LEAKS_MOUNT)) {
		snprintf(path, sizeof(path), "%s/m%d", d->host->state_dir, n++);
		mkdir(path, 0700);
		mount("none", path, "tmpfs", 0, NULL);
	}
}

static void on_signal(int number)
{
	(void)number;
}

static void disturb(void)
{
	sigset_t set;

	if (IS(SETS_UMASK))
		umask(0);
	if (IS(CHANGES_DIRECTORY))
		(void)!chdir("/tmp");
	if (IS(BLOCKS_SIGNALS)) {
		sigemptyset(&set);
		pthread_sigmask(SIG_SETMASK, &set, NULL);
	}
	if (IS(TAKES_SIGNAL))
		signal(SIGUSR2, on_signal);
	if (IS(SETS_FSUID))
		setfsuid(1000);
	if (IS(LEAVES_NAMESPACE))
		(void)!unshare(CLONE_NEWUTS);
	if (IS(NAMES_THREAD))
		prctl(PR_SET_NAME, "mine");
	if (IS(NEEDS_STACK)) {
		volatile char big[320 << 10];
		for (size_t i = 0; i < sizeof(big); i += 1024)
			big[i] = 1;
	}
}

static void misuse_memory(struct dir_driver *d, struct berth_op *op, const char *key)
{
	volatile char *p;

	if (IS(KEEPS_MEMORY)) {
		if (kept && *kept == 'x')
			d->host->log(d->host, op, BERTH_LOG_DEBUG, "x");
		kept = d->host->op_alloc(op, 32);
	}
	if (IS(OVERRUNS_MEMORY)) {
		p = d->host->op_alloc(op, 32);
		p[32] = 1;
	}
	if (IS(KEEPS_ARGUMENT)) {
		if (kept_argument && *kept_argument == 'x')
			d->host->log(d->host, op, BERTH_LOG_DEBUG, "x");
		kept_argument = key;
	}
	if (IS(WRITES_ARGUMENT) && key && *key)
		*(char *)(uintptr_t)key = *key;
}

/* ---- the ops, with something of the sort in each ---- */

static berth_status m_stat(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res)
{
	struct dir_driver *d = self;

	leak(d);
	disturb();
	misuse_memory(d, op, a->key);
	if (IS(CRASHES))
		*(volatile int *)(uintptr_t)4096 = 0;
	if (IS(READS_BEHIND_ARGS))
		(void)*((const volatile char *)a + a->size);
	if (IS(WANTS_ITS_ARGS) && a->size != sizeof(*a))
		return berth_fail(d->host, op, BERTH_E_INVALID,
		        "snapshot '%s': arguments of %u bytes", a->key, (unsigned)a->size);
	if (IS(IS_MUTE) && a->key && strcmp(a->key, "nobody") == 0)
		return BERTH_E_NOT_FOUND;
	if (IS(NAMES_NOTHING) && a->key && strcmp(a->key, "nobody") == 0)
		return berth_fail(d->host, op, BERTH_E_NOT_FOUND, "there is no such snapshot");
	if (IS(SAYS_ANOTHER) && a->key && strcmp(a->key, "nobody") == 0) {
		berth_fail(d->host, op, BERTH_E_NOT_FOUND, "snapshot '%s' is not there", a->key);
		return BERTH_E_INTERNAL;
	}
	berth_status st = dir_stat(op, self, a, res);
	if (IS(MISTAKES_KIND))
		res->kind = BERTH_SNAP_VIEW;
	if (IS(COUNTS_WRONG))
		res->bytes = res->inodes = 1;
	if (IS(WRITES_BEHIND_RESULT))
		*((volatile char *)res + res->size) = 1;
	if (IS(FILLS_UNKNOWN_RESULT) && res->size > sizeof(*res))
		memset((char *)res + sizeof(*res), 1, res->size - sizeof(*res));
	return st;
}

static berth_status share_parent(struct dir_driver *d, struct berth_op *op,
        const struct berth_snap_args *a, struct berth_mounts_result *res)
{
	struct berth_mount *m;

	if (res->n == 0 || !a->parent)
		return BERTH_OK;
	m = (struct berth_mount *)(uintptr_t)res->mounts[0];
	m->source = leaf_of(d, op, BERTH_SNAP_COMMITTED, a->parent, "/fs");
	return BERTH_OK;
}

static berth_status make_half(struct dir_driver *d, struct berth_op *op,
        const struct berth_snap_args *a, struct berth_mounts_result *res)
{
	char *to = leaf_of(d, op, BERTH_SNAP_ACTIVE, a->key, ""),
	     *fs = leaf_of(d, op, BERTH_SNAP_ACTIVE, a->key, "/fs");
	char *from = leaf_of(d, op, BERTH_SNAP_COMMITTED, a->parent, "/fs/.");
	const char *const argv[] = {d->cp, "-a", from, fs, NULL};

	if (mkdir(to, 0711) < 0 || mkdir(fs, 0755) < 0)
		return trouble(d, op, "make it", a->key);
	berth_status st = run(d, op, argv);
	if (st == BERTH_OK)
		describe(d, op, BERTH_SNAP_ACTIVE, a->key, res);
	return st;
}

/* An older host has less of them. */
static struct berth_snap_args copy_of(const struct berth_snap_args *a)
{
	struct berth_snap_args copy = {0};

	memcpy(&copy, a, a->size < sizeof(copy) ? a->size : sizeof(copy));
	return copy;
}

static berth_status m_prepare(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	struct dir_driver *d = self;
	struct berth_snap_args copy = copy_of(a);
	bool there = a->key && *a->key && kind_of(d, op, a->key) == BERTH_SNAP_ACTIVE;

	if (IS(IGNORES_CANCEL) && a->parent && strcmp(a->parent, "sha256:big") == 0)
		sleep(3);
	if (IS(TAKES_FLAGS))
		copy.flags = 0;
	if (IS(TAKES_NO_NAME) && (!a->key || !*a->key))
		copy.key = "unnamed";
	if (IS(ENDS_EARLY) && a->key && strstr(a->key, "deep-30"))
		return berth_fail(
		        d->host, op, BERTH_E_EXHAUSTED, "snapshot '%s': too deep", a->key);
	if (IS(OVERWRITES) && there) {
		describe(d, op, BERTH_SNAP_ACTIVE, a->key, res);
		return BERTH_OK;
	}
	if (IS(MAKES_HALF) && a->parent && kind_of(d, op, a->parent) && !there)
		return make_half(d, op, a, res);
	if (IS(TAKES_PATHS) && a->key && strchr(a->key, '/')) {
		char *p = path_of(d, op, "a", a->key, "");
		mkdir(p, 0711);
		describe(d, op, BERTH_SNAP_ACTIVE, a->key, res);
		return BERTH_OK;
	}
	if (IS(SHARES_TEMPORARY) && !there && a->key && *a->key) {
		char *p = path_of(d, op, "new", "all", "");
		if (mkdir(p, 0711) < 0)
			return trouble(d, op, "make its directory", a->key);
		usleep(2000);
		rmdir(p);
	}
	berth_status st = dir_prepare(op, self, &copy, res);
	if (IS(SHARES_PARENT) && st == BERTH_OK)
		st = share_parent(d, op, a, res);
	if (IS(HIDES_ROOT) && st == BERTH_OK)
		chmod(leaf_of(d, op, BERTH_SNAP_ACTIVE, a->key, "/fs"), 0700);
	return st;
}

static berth_status m_view(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	static const char *const options[] = {"rw", NULL};
	berth_status st = dir_view(op, self, a, res);

	if (IS(WRITES_VIEW) && st == BERTH_OK)
		((struct berth_mount *)(uintptr_t)res->mounts[0])->options = options;
	return st;
}

static berth_status m_remove(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct dir_driver *d = self;

	if (IS(REMOVES_ONCE) && a->key && *a->key && !strchr(a->key, '/') &&
	        !kind_of(d, op, a->key))
		return berth_fail(
		        d->host, op, BERTH_E_NOT_FOUND, "snapshot '%s' is not there", a->key);
	if (IS(DROPS_CHILDREN) && a->key && strncmp(a->key, "sha256:parent", 13) == 0) {
		struct berth_snap_args child = copy_of(a);
		child.key = "ctr";
		(void)dir_remove(op, self, &child);
	}
	return dir_remove(op, self, a);
}

static berth_status m_list(struct berth_op *op, void *self, struct berth_snap_list *res)
{
	berth_status st = dir_list(op, self, res);

	if (IS(LISTS_TWICE) && st == BERTH_OK && res->n > 1) {
		const struct berth_snap_info **v = (void *)(uintptr_t)res->snaps;
		v[res->n - 1] = v[0];
	}
	return st;
}

static berth_status m_create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	static int lives;

	if (IS(LIVES_ONCE) && lives++)
		return berth_fail(h, op, BERTH_E_PRECONDITION, "storage-dir: it had its life");
	if (IS(ASKS_FOR_ALL))
		(void)h->conf_json(c, "");
	if (IS(READS_BEHIND_HOST))
		(void)*((const volatile char *)h + h->size);
	if (IS(WANTS_ITS_HOST) && h->size != sizeof(*h))
		return berth_fail(h, op, BERTH_E_PRECONDITION, "storage-dir: another host");
	if (IS(FAILS_LOUD))
		return 7;
	if (IS(LEAVES_THREAD))
		start_thread();
	if (IS(LEAVES_FD))
		(void)!open("/dev/zero", O_RDONLY | O_CLOEXEC);
	berth_status st = dir_create(op, h, c, self);
	if (IS(FORGETS) && st == BERTH_OK) {
		const char *const argv[] = {"/bin/sh", "-c", "rm -rf \"$0\"/*", h->state_dir, NULL};
		st = run(*self, op, argv);
	}
	return st;
}

static struct berth_storage_ops mutant_ops;
static struct berth_plugin mutant;

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	mutant = *original(host_minor);
	mutant_ops = ops;
	mutant_ops.prepare = m_prepare;
	mutant_ops.view = m_view;
	mutant_ops.remove = m_remove;
	mutant_ops.list = m_list;
	mutant_ops.stat = IS(LACKS_STAT) ? NULL : m_stat;
	mutant.storage = &mutant_ops;
	mutant.create = m_create;
	if (IS(SHARES_TEMPORARY))
		mutant.flags = 0;
	if (IS(LIMITS_NOTHING))
		mutant.features = BERTH_F_QUOTA;
	if (IS(MARKS_TWICE))
		mutant.features = BERTH_F_WHITEOUT_OVERLAY | BERTH_F_WHITEOUT_AUFS;
	return &mutant;
}
