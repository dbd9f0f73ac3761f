#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "monitor/host.h"

#define BUSYBOX "/bin/busybox"
#define BUSYBOX_MAX BERTH_MIB(16)
#define STOP_MS 10000

void runtime_files(struct session *s)
{
	static const char *const names[] = {
	        "busybox", "sh", "sleep", "cat", "echo", "true", "stty"};
	_cleanup_free_ char *bin = berth_asprintf("%s/rootfs/bin", s->dir);
	_cleanup_free_ char *first = berth_asprintf("%s/busybox", bin), *text = NULL;
	size_t n;

	if (access(first, X_OK) == 0)
		return;
	if (berth_read_file(AT_FDCWD, BUSYBOX, BUSYBOX_MAX, &text, &n) < 0)
		skip(BUSYBOX " is not there (busybox-static)");
	int r = berth_mkdir_p(bin, 0755);
	if (r == 0)
		r = berth_write_file_atomic(AT_FDCWD, first, text, n, 0755, false);
	expect(r == 0, "%s: %s", first, strerror(-r));
	for (size_t i = 1; i < BERTH_ARRAY_LEN(names); i++) {
		_cleanup_free_ char *to = berth_asprintf("%s/%s", bin, names[i]);
		expect(link(first, to) == 0, "%s: %s", to, strerror(errno));
	}
}

static json_t *config_of(struct session *s, const char *id, const char *script)
{
	_cleanup_free_ char *root = berth_asprintf("%s/rootfs", s->dir);
	_cleanup_free_ char *cgroup = berth_asprintf("%s/%s", strrchr(check.work, '/'), id);

	/* /dev is each one's own: they share the root file system. */
	return json_pack("{s:s, s:{s:b, s:{s:i,s:i}, s:[s,s,s], s:[s], s:s}, s:{s:s}, s:s,"
	                 "s:[{s:s,s:s,s:s},{s:s,s:s,s:s}], s:{s:s, s:[{s:s},{s:s},{s:s},{s:s}]}}",
	        "ociVersion", "1.0.2", "process", "terminal", 0, "user", "uid", 0, "gid", 0, "args",
	        "/bin/sh", "-c", script, "env", "PATH=/bin", "cwd", "/", "root", "path", root,
	        "hostname", "check", "mounts", "destination", "/proc", "type", "proc", "source",
	        "proc", "destination", "/dev", "type", "tmpfs", "source", "tmpfs", "linux",
	        "cgroupsPath", cgroup, "namespaces", "type", "pid", "type", "ipc", "type", "uts",
	        "type", "mount");
}

static char *bundle_of(struct session *s, const char *id)
{
	return berth_asprintf("%s/ctrs/%s/bundle", s->dir, id);
}

void ctr_bundle(struct session *s, const char *id, const char *script)
{
	_cleanup_free_ char *dir = bundle_of(s, id), *path = berth_asprintf("%s/config.json", dir);
	json_t *j = config_of(s, id, script);
	_cleanup_free_ char *text = j ? json_dumps(j, 0) : NULL;
	int r = berth_mkdir_p(dir, 0711);

	json_decref(j);
	expect(text, "a bundle's configuration");
	if (r == 0)
		r = berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0600, false);
	expect(r == 0, "%s: %s", path, strerror(-r));
}

struct berth_ctr_args ctr_args(struct session *s, const char *id)
{
	static char bundle[4096], log_path[4096];

	/* The arguments are copied before the next call. */
	snprintf(bundle, sizeof(bundle), "%s/ctrs/%s/bundle", s->dir, id ? id : "none");
	snprintf(log_path, sizeof(log_path), "%s/ctrs/%s/log", s->dir, id ? id : "none");
	return (struct berth_ctr_args){.size = sizeof(struct berth_ctr_args),
	        .id = id,
	        .sandbox_id = "pod",
	        .bundle = bundle,
	        .log_path = log_path};
}

/* What the host does after a remove: its own files of the container go. */
static void forget(struct session *s, const char *id)
{
	_cleanup_free_ char *dir = berth_asprintf("%s/ctrs/%s", s->dir, id);

	if (s->monitor)
		berth_monitor_unwatch(dir);
	int r = berth_rm_tree(AT_FDCWD, dir);
	expect(r == 0, "%s: %s", dir, strerror(-r));
}

void ctr_abort(struct session *s, const char *id)
{
	_cleanup_free_ char *dir = berth_asprintf("%s/ctrs/%s", s->dir, id);

	if (s->monitor)
		berth_monitor_abort(dir);
}

int ctr_op(struct session *s, enum berth_opcode opcode, const char *id)
{
	const struct berth_ctr_args a = ctr_args(s, id);
	int code = op(s, opcode, id ? id : "none", &a, NULL);

	if (code == 0 && id && opcode == BERTH_OP_RUNTIME_CREATE && s->monitor)
		berth_monitor_watch(s->instance, id, a.bundle);
	if (code == 0 && id && opcode == BERTH_OP_RUNTIME_REMOVE)
		forget(s, id);
	return code;
}

int ctr_kill(struct session *s, const char *id, int signum)
{
	struct berth_ctr_args a = ctr_args(s, id);

	a.signal = signum;
	return op(s, BERTH_OP_RUNTIME_KILL, id ? id : "none", &a, NULL);
}

int ctr_state(struct session *s, const char *id, struct berth_ctr_state *ret)
{
	const struct berth_ctr_args a = ctr_args(s, id);

	*ret = (struct berth_ctr_state){.size = sizeof(*ret)};
	return op(s, BERTH_OP_RUNTIME_STATE, id ? id : "none", &a, ret);
}

uint32_t ctr_status(struct session *s, const char *id)
{
	struct berth_ctr_state st;
	int code = ctr_state(s, id, &st);

	ended(s, code, OK | BIT(BERTH_NOT_FOUND), id, "state");
	return code ? 0 : st.status;
}

bool ctr_wait(struct session *s, const char *id, uint32_t status, unsigned int ms)
{
	uint64_t end = berth_now_ns() + ms * 1000000ull;

	while (ctr_status(s, id) != status) {
		if (berth_now_ns() >= end)
			return false;
		session_idle(s, 10);
	}
	return true;
}

static uint32_t list(struct session *s, const struct berth_ctr_state *const **ret)
{
	struct berth_ctr_list l = {.size = sizeof(l)};

	ended(s, op(s, BERTH_OP_RUNTIME_LIST, NULL, NULL, &l), OK, NULL, "list");
	for (uint32_t i = 0; i < l.n; i++)
		expect(l.ctrs[i] && l.ctrs[i]->id && l.ctrs[i]->size,
		        "list: element %u has no id or no size", i);
	*ret = l.ctrs;
	return l.n;
}

bool ctr_listed(struct session *s, const char *id)
{
	const struct berth_ctr_state *const *v;
	uint32_t n = list(s, &v), found = 0;

	for (uint32_t i = 0; i < n; i++)
		found += strcmp(v[i]->id, id) == 0;
	expect(found < 2, "list has '%s' %u times", id, found);
	return found == 1;
}

void ctr_run(struct session *s, const char *id, const char *script)
{
	ctr_bundle(s, id, script);
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_CREATE, id), OK, id, "create");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_START, id), OK, id, "start");
}

bool ctr_real(struct session *s, const char *id)
{
	struct berth_ctr_state st;

	return ctr_state(s, id, &st) == 0 && st.pid > 0;
}

void ctr_end(struct session *s, const char *id)
{
	ended(s, ctr_kill(s, id, SIGKILL), OK, id, "kill");
	expect(ctr_wait(s, id, BERTH_ST_STOPPED, STOP_MS),
	        "%d s after SIGKILL '%s' has not stopped", STOP_MS / 1000, id);
}

/* A container that was killed half made may know no better than UNKNOWN. */
static void sweep_one(struct session *s, const char *id)
{
	struct berth_ctr_state st;
	uint64_t end = berth_now_ns() + STOP_MS * 1000000ull;

	while (ctr_state(s, id, &st) == 0 && st.status != BERTH_ST_STOPPED &&
	        st.status != BERTH_ST_UNKNOWN && berth_now_ns() < end) {
		(void)ctr_kill(s, id, SIGKILL);
		session_idle(s, 10);
	}
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, id), OK, id, "remove");
}

void runtime_sweep(struct session *s)
{
	for (int rounds = 0; rounds < 100; rounds++) {
		const struct berth_ctr_state *const *v;
		uint32_t n = list(s, &v);
		if (n == 0)
			return;
		_cleanup_free_ char *id = berth_strdup(v[0]->id);
		sweep_one(s, id);
	}
	fail("list is not empty after 100 removals");
}

void runtime_begin(struct session *s)
{
	runtime_files(s);
	session_start(s);
	runtime_sweep(s);
}

void runtime_end(struct session *s)
{
	runtime_sweep(s);
	session_stop(s);
}
