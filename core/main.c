/* berthd: puts the parts together and takes them apart again. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "berth-config.h"
#include "check.h"
#include "container/checkpoint.h"
#include "container/container.h"
#include "container/session.h"
#include "cri/service.h"
#include "image/image.h"
#include "image/policy.h"
#include "image/shared.h"
#include "image/shortnames.h"
#include "loop/child.h"
#include "metrics/metrics.h"
#include "monitor/host.h"
#include "plugin/crash.h"
#include "plugins.h"
#include "recover.h"
#include "reload.h"
#include "repair.h"
#include "stats/sampler.h"
#include "stream/stream.h"
#include "systemd.h"

#define FLOW_THREADS 128
#define FLOW_QUEUE 4096
#define RELABEL_THREADS 8
#define DRAIN_MS 10000
#define LOCK_TRIES 100
#define LOCK_WAIT_US 20000

struct options {
	const char *config, *helpers, *plugins;
	const char *command; /* NULL = serve */
	bool repair;         /* check */
};

struct process {
	struct berth_daemon d;
	struct berth_pods pods;
	struct berth_containers containers;
	struct berth_images images;
	struct berth_grpc_server *server;
	struct berth_watchdog *watchdog;
	uv_signal_t signals[3];
	const struct options *options;
};

/* ---- events ---- */

static void on_plugin_event(struct berth_instance *i, const struct berth_event *ev, void *arg)
{
	struct process *p = arg;
	struct berth_container *c = NULL;

	if (i == p->d.network && ev->type == BERTH_EV_HEALTH) {
		berth_network_watch(&p->d);
		return;
	}
	/* A network is asked by its status op; a storage driver has none, and says it. */
	if (ev->type == BERTH_EV_HEALTH && berth_instance_has_storage(i)) {
		berth_instance_says(i, ev->message);
		return;
	}
	if (!ev->object_id)
		return;
	if (ev->exec_id && ev->type == BERTH_EV_EXIT) {
		berth_session_exited(&p->d, ev->object_id, ev->exec_id, &ev->exit);
		return;
	}
	if (strlen(ev->object_id) == BERTH_ID_LEN)
		HASH_FIND(hh, p->containers.by_id, ev->object_id, BERTH_ID_LEN, c);
	if (!c)
		return;
	if (ev->type == BERTH_EV_OOM) {
		p->d.counts.ooms += !c->oom;
		c->oom = true;
	}
	berth_container_check(c);
}

static void on_orphan(pid_t pid, int status, void *arg)
{
	(void)arg;
	(void)!berth_monitor_orphan(pid, status);
}

static void on_call(
        const char *path, const struct berth_error *err, uint64_t duration_ns, void *arg)
{
	struct process *p = arg;
	char ms[32];
	berth_metrics_rpc(p->d.metrics, path, err ? err->code : BERTH_OK_, duration_ns);
	snprintf(ms, sizeof(ms), "%.3f", (double)duration_ns / 1e6);
	if (!err)
		berth_log_debug("request", "rpc", path, "ms", ms);
	else
		berth_log(err->code == BERTH_INTERNAL ? BERTH_LOG_LVL_ERROR : BERTH_LOG_LVL_WARN,
		        "request failed", "rpc", path, "code", berth_code_name(err->code), "error",
		        err->msg, "ms", ms, (char *)0);
}

/* ---- start ---- */

static int make_dir(const char *path, struct berth_error **ret_err)
{
	/* 0711: a container's user must be able to pass through to its root file system. */
	int r = berth_mkdir_p(path, 0711);
	return r < 0 ? berth_error_errno(ret_err, r, "%s", path) : 0;
}

/* One berthd per run directory. The lock dies with the process. */
static int take_lock(const struct berth_config *c, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_path(c->run, "berthd.lock", NULL);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "%s", path);
	/* Kept open for ever. A child that a killed berthd had just forked holds it until its exec.
	 */
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		usleep(LOCK_WAIT_US);
	}
	close(fd);
	return berth_error_set(ret_err, BERTH_ALREADY_EXISTS,
	        "%s: another berthd works in this run directory", path);
}

static void raise_nofile(void)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static int load_policy(struct process *p, struct berth_error **ret_err)
{
	struct berth_policy *fresh = NULL;
	if (berth_policy_load(p->d.config->images.policy, &fresh, ret_err) < 0)
		return -1;
	berth_policy_free(p->d.policy);
	p->d.policy = fresh;
	/* No pull gets by a damaged one, and says why; all else works without it. */
	struct berth_error *err = NULL;
	if (berth_shortnames_load(p->d.config->images.registries, &p->d.shortnames, &err) < 0) {
		berth_log_warn("short names of images mean docker.io", "error", err->msg);
		berth_error_free(err);
	}
	return 0;
}

/* Everything that lasts, as an earlier process left it. */
static int take_over(struct process *p, struct berth_error **ret_err)
{
	struct berth_config *c = p->d.config;
	_cleanup_free_ char *pods = berth_path(c->run, "pods", NULL);
	_cleanup_free_ char *containers = berth_path(c->run, "containers", NULL);

	if (make_dir(c->root, ret_err) < 0 || make_dir(c->run, ret_err) < 0 ||
	        take_lock(c, ret_err) < 0 || make_dir(pods, ret_err) < 0 ||
	        make_dir(containers, ret_err) < 0)
		return -1;
	p->d.plugins = berth_plugin_host_new(&(struct berth_plugin_host_opts){.loop = p->d.loop,
	        .plugin_dir = p->options->plugins,
	        .state_root = c->root,
	        .run_root = c->run,
	        .host_version = BERTH_VERSION,
	        .on_event = on_plugin_event,
	        .event_arg = p});
	char **monitors = berth_own_cgroup(c, "monitors");
	p->d.pull_cgroup = berth_own_cgroup(c, "pull");
	struct berth_monitor_opts mo = {.loop = p->d.loop,
	        .helpers_dir = p->d.helpers_dir,
	        .cgroup_procs = (const char *const *)(void *)monitors,
	        .plugins = p->d.plugins};
	int r = berth_monitor_init(&mo, ret_err);
	berth_strv_free(monitors);
	return r < 0 || load_policy(p, ret_err) < 0 || berth_load_plugins(&p->d, ret_err) < 0 ||
	                       berth_images_load(&p->d, ret_err) < 0 ||
	                       berth_recover(&p->d, p->options->repair, ret_err) < 0
	               ? -1
	               : 0;
}

static int open_up(struct process *p, struct berth_error **ret_err)
{
	struct berth_config *c = p->d.config;

	if (berth_streams_start(&p->d, ret_err) < 0)
		return -1;
	p->server = berth_grpc_server_new(p->d.loop,
	        &(struct berth_grpc_opts){.max_receive_bytes = (size_t)c->cri.max_receive_bytes,
	                .max_send_bytes = (size_t)c->cri.max_send_bytes,
	                .observe = on_call,
	                .observe_arg = p});
	berth_cri_load_pod_cidr(&p->d);
	berth_grpc_server_add(p->server, "runtime.v1.RuntimeService", berth_runtime_service, &p->d);
	berth_grpc_server_add(p->server, "runtime.v1.ImageService", berth_image_service, &p->d);
	berth_grpc_server_add(p->server, "berth.admin.v1.Admin", berth_admin_service, &p->d);
	static const struct berth_metrics_service services[] = {
	        {"runtime.v1.RuntimeService", berth_runtime_service},
	        {"runtime.v1.ImageService", berth_image_service},
	        {"berth.admin.v1.Admin", berth_admin_service}, {NULL, NULL}};
	if (berth_metrics_start(&p->d, services, ret_err) < 0)
		return -1;
	_cleanup_free_ char *dir = berth_strdup(c->cri.listen);
	*strrchr(dir, '/') = '\0';
	if (*dir && make_dir(dir, ret_err) < 0)
		return -1;
	return berth_grpc_server_listen(p->server, c->cri.listen, 0660, ret_err);
}

/* ---- the end ---- */

static void drained(void *arg)
{
	struct process *p = arg;
	berth_loop_stop(p->d.loop);
}

static void on_signal(uv_signal_t *h, int signum)
{
	struct process *p = h->data;

	if (p->d.draining)
		return;
	if (signum == SIGHUP) {
		berth_reload(&p->d, p->options->config);
		return;
	}
	p->d.draining = true;
	berth_notify("STOPPING=1");
	berth_log_info("shutting down; containers go on");
	berth_network_finish(&p->d);
	berth_pulls_end(&p->d);
	berth_checkpoints_end(&p->d);
	berth_streams_drain(&p->d);
	berth_cri_end_events(&p->d);
	berth_grpc_server_drain(p->server, DRAIN_MS, drained, p);
}

static void forget_objects(struct process *p)
{
	struct berth_container *c, *ctmp;
	struct berth_pod *pod, *ptmp;
	HASH_ITER (hh, p->containers.by_id, c, ctmp) {
		berth_containers_drop(c);
	}
	HASH_ITER (hh_id, p->pods.by_id, pod, ptmp) {
		berth_pods_drop(pod);
	}
	berth_images_free(&p->d);
}

static void tear_down(struct process *p)
{
	p->d.draining = true;
	p->server = berth_grpc_server_free(p->server);
	p->d.metrics = berth_metrics_stop(p->d.metrics);
	p->watchdog = berth_watchdog_stop(p->watchdog);
	berth_streams_stop(&p->d);
	berth_pulls_end(&p->d);
	berth_shared_stop(&p->d);
	berth_sessions_end(&p->d);
	for (int ms = 0; (p->d.images->pulls || !berth_sessions_over(&p->d)) && ms < DRAIN_MS;
	        ms++) {
		uv_run(berth_loop_uv(p->d.loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	berth_sampler_stop(p->d.sampler);
	p->d.relabels = berth_pool_free(p->d.relabels);
	p->d.flows = berth_pool_free(p->d.flows);
	berth_monitor_finish();
	berth_network_finish(&p->d);
	uv_run(berth_loop_uv(p->d.loop), UV_RUN_NOWAIT); /* what the flows posted at their end */
	struct berth_container *c, *tmp;
	HASH_ITER (hh, p->containers.by_id, c, tmp) {
		berth_container_forsake(c);
	}
	p->d.plugins = berth_plugin_host_free(p->d.plugins);
	berth_sessions_finish(&p->d);
	forget_objects(p);
	p->d.sampler = berth_sampler_free(p->d.sampler);
	berth_child_finish();
	for (size_t i = 0; i < BERTH_ARRAY_LEN(p->signals); i++)
		uv_close((uv_handle_t *)&p->signals[i], NULL);
	berth_loop_free(p->d.loop);
	for (size_t i = 0; i < p->d.n_handlers; i++) {
		free(p->d.handlers[i].name);
		free(p->d.handlers[i].info);
		free(p->d.handlers[i].userns_why);
	}
	free(p->d.handlers);
	free(p->d.pod_cidr);
	berth_strv_free(p->d.pull_cgroup);
	berth_policy_free(p->d.policy);
	berth_shortnames_free(p->d.shortnames);
	berth_selinux_finish(&p->d.selinux);
	berth_config_free(p->d.config);
}

static int serve(const struct options *o, struct berth_config *config)
{
	static struct process p;
	struct berth_error *err = NULL;
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};

	signal(SIGPIPE, SIG_IGN);
	berth_crash_init();
	umask(022);
	raise_nofile();
	berth_log_set_level((enum berth_log_level)config->log.level);
	p.options = o;
	p.d.config = config;
	p.d.helpers_dir = o->helpers;
	p.d.loop = berth_loop_new();
	p.d.pods = &p.pods;
	p.d.containers = &p.containers;
	p.d.images = &p.images;
	p.d.on_change = berth_cri_on_change;
	berth_child_init(p.d.loop, on_orphan, &p);
	p.d.flows = berth_pool_new(&(struct berth_pool_opts){.name = "flow",
	        .max_threads = FLOW_THREADS,
	        .max_queued = FLOW_QUEUE,
	        .stack_bytes = 512 * 1024});
	p.d.relabels = berth_pool_new(&(struct berth_pool_opts){
	        .name = "relabel", .max_threads = RELABEL_THREADS, .max_queued = FLOW_QUEUE});
	berth_spec_host_probe(&p.d.host);
	p.d.sampler = berth_sampler_new(&(struct berth_sampler_opts){.loop = p.d.loop,
	        .workers = p.d.flows,
	        .mount = BERTH_CGROUP_ROOT,
	        .v2 = p.d.host.cgroup_v2});
	berth_selinux_probe(&p.d.selinux);
	if (p.d.selinux.why)
		berth_log_warn("SELinux is on, and containers are not confined by it", "why",
		        p.d.selinux.why);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(signals); i++) {
		uv_signal_init(berth_loop_uv(p.d.loop), &p.signals[i]);
		p.signals[i].data = &p;
		uv_signal_start(&p.signals[i], on_signal, signals[i]);
	}
	int r = take_over(&p, &err);
	bool damaged = r == 0 && o->repair && berth_repair(&p.d);
	if (r == 0 && !o->repair)
		r = open_up(&p, &err);
	if (r == 0 && !o->repair) {
		berth_network_watch(&p.d);
		berth_shared_start(&p.d);
		berth_import_dir(&p.d);
		berth_notify("READY=1");
		berth_network_sweep(&p.d);
		p.watchdog = berth_watchdog_start(p.d.loop, config->cri.listen);
		berth_log_info(
		        "berthd serves", "version", BERTH_VERSION, "socket", config->cri.listen);
		berth_loop_prefer();
		berth_loop_run(p.d.loop);
	} else if (r < 0) {
		berth_log_error("berthd cannot start", "error", err->msg);
		berth_error_free(err);
	}
	tear_down(&p);
	return r < 0 || damaged ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- the command line ---- */

static const char help[] =
        "Usage: berthd [--config FILE] [--helpers DIR] [--plugins DIR] [COMMAND]\n"
        "\n"
        "A Kubernetes container runtime host. Without a command it serves CRI in the foreground.\n"
        "\n"
        "  config           print the effective configuration with comments\n"
        "  check            look for mistakes and for what this machine lacks\n"
        "      --repair     while no berthd runs: also try each image; undo and remove what is\n"
        "                   damaged, half done or nobody's\n"
        "\n"
        "  -c, --config FILE  default " BERTH_SYSCONFDIR "/berth.yaml\n"
        "      --helpers DIR  default " BERTH_LIBEXECDIR "\n"
        "      --plugins DIR  default " BERTH_PLUGINDIR "\n"
        "      --version\n"
        "      --help\n";

static int parse(int argc, char **argv, struct options *o)
{
	enum { OPT_HELPERS = 256, OPT_PLUGINS, OPT_REPAIR, OPT_VERSION, OPT_HELP };
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
	        {"helpers", required_argument, NULL, OPT_HELPERS},
	        {"plugins", required_argument, NULL, OPT_PLUGINS},
	        {"repair", no_argument, NULL, OPT_REPAIR},
	        {"version", no_argument, NULL, OPT_VERSION}, {"help", no_argument, NULL, OPT_HELP},
	        {NULL, 0, NULL, 0}};
	for (int c; (c = getopt_long(argc, argv, "c:h", longs, NULL)) != -1;) {
		switch (c) {
		case 'c':
			o->config = optarg;
			break;
		case OPT_HELPERS:
			o->helpers = optarg;
			break;
		case OPT_PLUGINS:
			o->plugins = optarg;
			break;
		case OPT_REPAIR:
			o->repair = true;
			break;
		case OPT_VERSION:
			puts("berthd " BERTH_VERSION);
			exit(EXIT_SUCCESS);
		case OPT_HELP:
		case 'h':
			fputs(help, stdout);
			exit(EXIT_SUCCESS);
		default:
			return -1;
		}
	}
	if (argc - optind > 1)
		return -1;
	o->command = optind < argc ? argv[optind] : NULL;
	bool check = o->command && strcmp(o->command, "check") == 0;
	return (o->command && !check && strcmp(o->command, "config") != 0) || (o->repair && !check)
	               ? -1
	               : 0;
}

int main(int argc, char **argv)
{
	struct options o = {.helpers = BERTH_LIBEXECDIR, .plugins = BERTH_PLUGINDIR};
	struct berth_config *config = NULL;
	struct berth_error *err = NULL;

	/* What a large message or many workers took goes back to the kernel: glibc would raise the
	 * threshold after the first one, and keep an arena for each thread. */
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
	mallopt(M_ARENA_MAX, 2);
	if (parse(argc, argv, &o) < 0) {
		fputs(help, stderr);
		return 2;
	}
	if (berth_config_load(o.config, &config, &err) < 0) {
		fprintf(stderr, "%s\n", err->msg);
		berth_error_free(err);
		return EXIT_FAILURE;
	}
	if (!o.command)
		return serve(&o, config);
	int result = EXIT_SUCCESS;
	if (strcmp(o.command, "config") == 0)
		berth_config_print(stdout, config);
	else
		result = berth_check(config, o.helpers, o.plugins, !o.repair);
	fflush(stdout);
	if (o.repair)
		return serve(&o, config) | result;
	berth_config_free(config);
	return result;
}
