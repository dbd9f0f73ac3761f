#include "systemd.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "cri.pb-c.h"
#include "grpc/client.h"
#include "loop/child.h"
#include "loop/pool.h"

#define OWN_CGROUP "/berth"
#define OWN_SLICE "system.slice"
#define OWN_SCOPE "berth-helpers.scope"
#define SCOPE_TRIES 500
#define SCOPE_WAIT_US 10000

/* ---- notifications ---- */

void berth_notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(a.sun_path))
		return;
	memcpy(a.sun_path, path, strlen(path));
	if (a.sun_path[0] == '@')
		a.sun_path[0] = '\0';
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (fd >= 0 && sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&a, len) < 0)
		berth_log_warn("the service manager was not told", "error", strerror(errno));
}

/* ---- watchdog ---- */

struct berth_watchdog {
	struct berth_loop *loop;
	struct berth_pool *pool; /* a thread of its own: flows may wait for a disk that hangs */
	struct berth_timer *timer;
	char *socket;
	uint64_t every_ms;
	struct berth_error *err; /* of the last call */
};

static void ask(void *arg)
{
	struct berth_watchdog *w = arg;
	Runtime__V1__VersionRequest q = RUNTIME__V1__VERSION_REQUEST__INIT;
	struct berth_grpc_client *c = berth_grpc_client_connect(w->socket, &w->err);
	ProtobufCMessage *m =
	        c ? berth_grpc_client_call(c, "/runtime.v1.RuntimeService/Version", &q.base,
	                    &runtime__v1__version_response__descriptor, w->every_ms, &w->err)
	          : NULL;
	if (m)
		protobuf_c_message_free_unpacked(m, NULL);
	berth_grpc_client_free(c);
}

static void due(void *arg);

static void answered(void *arg)
{
	struct berth_watchdog *w = arg;
	if (w->err && w->pool)
		berth_log_error("berthd does not answer its own call", "error", w->err->msg);
	else if (!w->err)
		berth_notify("WATCHDOG=1");
	berth_error_free(w->err);
	w->err = NULL;
	if (w->pool)
		w->timer = berth_timer_start(w->loop, w->every_ms, due, w);
}

static void due(void *arg)
{
	struct berth_watchdog *w = arg;
	w->timer = berth_timer_free(w->timer);
	if (berth_work(w->pool, w->loop, ask, answered, w) < 0)
		w->timer = berth_timer_start(w->loop, w->every_ms, due, w);
}

struct berth_watchdog *berth_watchdog_start(struct berth_loop *l, const char *socket)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	unsigned long long every = usec ? strtoull(usec, NULL, 10) / 1000 / 3 : 0;

	if (every == 0 || (pid && strtol(pid, NULL, 10) != (long)getpid()))
		return NULL;
	struct berth_watchdog *w = berth_new(struct berth_watchdog);
	w->loop = l;
	w->socket = berth_strdup(socket);
	w->every_ms = every;
	w->pool = berth_pool_new(&(struct berth_pool_opts){
	        .name = "watchdog", .max_threads = 1, .max_queued = 1, .stack_bytes = 128 << 10});
	due(w);
	return w;
}

struct berth_watchdog *berth_watchdog_stop(struct berth_watchdog *w)
{
	if (!w)
		return NULL;
	w->pool = berth_pool_free(w->pool);
	uv_run(berth_loop_uv(w->loop), UV_RUN_NOWAIT); /* the answer that the last call posted */
	berth_timer_free(w->timer);
	free(w->socket);
	free(w);
	return NULL;
}

/* ---- cgroups ---- */

/* A scope lives as long as a process is in it, so that one sleeps there: monitors come and go. It
 * is systemd's own tool that asks for the scope, once a boot. */
static bool make_scope(const char *path, struct berth_error **ret_err)
{
	static const char *const argv[] = {"/usr/bin/systemd-run", "--scope", "--quiet",
	        "--collect", "--unit=" OWN_SCOPE, "--slice=" OWN_SLICE,
	        "--description=Monitors of containers and downloads of berth", "-pDelegate=yes",
	        "-pTasksMax=infinity", "/bin/sleep", "infinity", NULL};
	struct berth_child_spec child = {.argv = argv, .stdio = {-1, -1, -1}, .new_session = 1};
	_cleanup_close_ int pidfd = -1;
	char **procs = berth_cgroup_procs(path);
	pid_t pid;

	if (!procs && berth_child_start(&child, &pid, &pidfd, ret_err) < 0)
		return false;
	for (int i = 0; !procs && i < SCOPE_TRIES; i++) {
		usleep(SCOPE_WAIT_US);
		procs = berth_cgroup_procs(path);
	}
	bool made = procs != NULL;
	berth_strv_free(procs);
	if (!made)
		berth_error_set(ret_err, BERTH_UNAVAILABLE, "systemd has not made it");
	return made;
}

char **berth_own_cgroup(const struct berth_config *c, const char *name)
{
	bool systemd = c->cri.cgroup_driver == BERTH_CGROUP_SYSTEMD;
	const char *parent = systemd ? "/" OWN_SLICE "/" OWN_SCOPE : OWN_CGROUP;
	_cleanup_free_ char *path = berth_asprintf("%s/%s", parent, name);
	struct berth_error *err = NULL;
	int r = 0;

	if ((!systemd || make_scope(parent, &err)) && (r = berth_cgroup_make(path)) == 0)
		return berth_cgroup_procs(path);
	berth_log_warn("a cgroup cannot be made; its processes stay in berthd's own", "cgroup",
	        path, "error", err ? err->msg : strerror(-r));
	berth_error_free(err);
	return NULL;
}
