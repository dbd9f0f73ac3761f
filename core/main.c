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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "berth-config.h"
#include "check.h"
#include "container/container.h"
#include "container/session.h"
#include "cri/service.h"
#include "image/image.h"
#include "loop/child.h"
#include "monitor/host.h"
#include "recover.h"
#include "stream/stream.h"

#define FLOW_THREADS 128
#define FLOW_QUEUE 4096
#define DRAIN_MS 10000

struct options {
	const char *config, *helpers, *plugins;
	const char *command; /* NULL = serve */
};

struct process {
	struct berth_daemon d;
	struct berth_pods pods;
	struct berth_containers containers;
	struct berth_images images;
	struct berth_grpc_server *server;
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
	if (ev->type == BERTH_EV_OOM)
		c->oom = true;
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
	char ms[32];
	(void)arg;
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
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0; /* kept open for ever */
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

static void notify(const char *text)
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

/* A plugin's own keys; its `path` names the file, while a handler's is the runtime's binary. */
static json_t *plugin_conf(const struct berth_config *c, const char *plugin, const char *handler)
{
	json_t *own = json_object_get(c->plugins, plugin);
	const char *name;
	json_t *merged = handler ? berth_config_handler(c, handler, &name)
	                 : own   ? json_incref(own)
	                         : json_object();
	json_t *conf = json_copy(merged);
	json_t *file = json_object_get(own, "path");
	json_t *handler_path =
	        handler ? json_object_get(json_object_get(c->runtimes.handlers, handler), "path")
	                : NULL;

	json_decref(merged);
	json_object_del(conf, "path");
	if (handler_path)
		json_object_set(conf, "path", handler_path);
	if (file)
		json_object_set(conf, "plugin_path", file);
	return conf;
}

static struct berth_instance *load(struct process *p, const char *plugin, const char *instance,
        const char *handler, struct berth_error **ret_err)
{
	if (!json_object_get(p->d.config->plugins, plugin)) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "plugin \"%s\" is not listed under plugins", plugin);
		return NULL;
	}
	json_t *conf = plugin_conf(p->d.config, plugin, handler);
	struct berth_instance *i =
	        berth_instance_new(p->d.plugins, plugin, instance, conf, ret_err);
	json_decref(conf);
	return i;
}

static bool list_has(const json_t *a, const char *s)
{
	size_t i;
	json_t *v;
	json_array_foreach (a, i, v) {
		if (json_is_string(v) && strcmp(json_string_value(v), s) == 0)
			return true;
	}
	return false;
}

static void read_info(struct berth_handler *h)
{
	struct berth_runtime_info info = {.size = sizeof(info)};
	struct berth_error *err = NULL;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(h->instance, BERTH_OP_RUNTIME_INFO, NULL);

	if (berth_call_run(c, NULL, &info, &err) < 0) {
		berth_log_warn("the runtime's features are not known", "handler", h->name, "error",
		        err->msg);
		berth_error_free(err);
		return;
	}
	h->info = berth_strdup(info.features_json);
	json_t *j = h->info ? json_loads(h->info, 0, NULL) : NULL;
	h->rro = list_has(json_object_get(j, "mountOptions"), "rro");
	json_decref(j);
}

static int load_handlers(struct process *p, struct berth_error **ret_err)
{
	json_t *all = p->d.config->runtimes.handlers;
	const char *name;
	json_t *conf;

	p->d.handlers = berth_new_array(struct berth_handler, json_object_size(all) + 1);
	json_object_foreach (all, name, conf) {
		struct berth_handler *h = &p->d.handlers[p->d.n_handlers];
		const char *plugin = json_string_value(json_object_get(conf, "plugin"));
		h->instance = load(p, plugin, name, name, ret_err);
		if (!h->instance)
			return berth_error_wrap(ret_err, "runtimes.handlers.%s", name);
		if (!berth_instance_has_runtime(h->instance))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "runtimes.handlers.%s: plugin %s is no runtime", name, plugin);
		h->name = berth_strdup(name);
		p->d.n_handlers++;
		read_info(h);
	}
	return berth_daemon_handler(&p->d, "") ? 0
	                                       : berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	                                                 "runtimes.default: no handler \"%s\"",
	                                                 p->d.config->runtimes.default_handler);
}

static int load_plugins(struct process *p, struct berth_error **ret_err)
{
	const struct berth_config *c = p->d.config;

	p->d.storage = load(p, c->storage.driver, c->storage.driver, NULL, ret_err);
	if (!p->d.storage)
		return berth_error_wrap(ret_err, "storage.driver");
	if (!berth_instance_has_storage(p->d.storage))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "storage.driver: plugin %s is no storage driver", c->storage.driver);
	if (*c->network.plugin) {
		p->d.network = load(p, c->network.plugin, c->network.plugin, NULL, ret_err);
		if (!p->d.network)
			return berth_error_wrap(ret_err, "network.plugin");
		if (!berth_instance_has_network(p->d.network))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "network.plugin: plugin %s is no network", c->network.plugin);
	}
	return load_handlers(p, ret_err);
}

static int set_up(struct process *p, struct berth_error **ret_err)
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
	struct berth_monitor_opts mo = {
	        .loop = p->d.loop, .helpers_dir = p->d.helpers_dir, .plugins = p->d.plugins};
	if (berth_monitor_init(&mo, ret_err) < 0 || load_plugins(p, ret_err) < 0 ||
	        berth_images_load(&p->d, ret_err) < 0 || berth_recover(&p->d, ret_err) < 0 ||
	        berth_streams_start(&p->d, ret_err) < 0)
		return -1;
	p->server = berth_grpc_server_new(p->d.loop,
	        &(struct berth_grpc_opts){.max_receive_bytes = (size_t)c->cri.max_receive_bytes,
	                .max_send_bytes = (size_t)c->cri.max_send_bytes,
	                .observe = on_call});
	berth_grpc_server_add(p->server, "runtime.v1.RuntimeService", berth_runtime_service, &p->d);
	berth_grpc_server_add(p->server, "runtime.v1.ImageService", berth_image_service, &p->d);
	berth_grpc_server_add(p->server, "berth.admin.v1.Admin", berth_admin_service, &p->d);
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

	if (signum == SIGHUP) {
		berth_log_info("SIGHUP: nothing of the configuration is read again while running");
		return;
	}
	if (p->d.draining)
		return;
	p->d.draining = true;
	notify("STOPPING=1");
	berth_log_info("shutting down; containers go on");
	berth_network_finish(&p->d);
	berth_pulls_end(&p->d);
	berth_streams_drain(&p->d);
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
	berth_streams_stop(&p->d);
	berth_pulls_end(&p->d);
	berth_sessions_end(&p->d);
	for (int ms = 0; (p->d.images->pulls || !berth_sessions_over(&p->d)) && ms < DRAIN_MS;
	        ms++) {
		uv_run(berth_loop_uv(p->d.loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
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
	berth_child_finish();
	for (size_t i = 0; i < BERTH_ARRAY_LEN(p->signals); i++)
		uv_close((uv_handle_t *)&p->signals[i], NULL);
	berth_loop_free(p->d.loop);
	for (size_t i = 0; i < p->d.n_handlers; i++) {
		free(p->d.handlers[i].name);
		free(p->d.handlers[i].info);
	}
	free(p->d.handlers);
	free(p->d.pod_cidr);
	berth_config_free(p->d.config);
}

static int serve(const struct options *o, struct berth_config *config)
{
	static struct process p;
	struct berth_error *err = NULL;
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};

	signal(SIGPIPE, SIG_IGN);
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
	berth_child_init(p.d.loop, on_orphan, &p);
	p.d.flows = berth_pool_new(&(struct berth_pool_opts){.name = "flow",
	        .max_threads = FLOW_THREADS,
	        .max_queued = FLOW_QUEUE,
	        .stack_bytes = 512 * 1024});
	berth_spec_host_probe(&p.d.host);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(signals); i++) {
		uv_signal_init(berth_loop_uv(p.d.loop), &p.signals[i]);
		p.signals[i].data = &p;
		uv_signal_start(&p.signals[i], on_signal, signals[i]);
	}
	int r = set_up(&p, &err);
	if (r == 0) {
		berth_network_watch(&p.d);
		berth_import_dir(&p.d);
		notify("READY=1");
		berth_log_info(
		        "berthd serves", "version", BERTH_VERSION, "socket", config->cri.listen);
		berth_loop_run(p.d.loop);
	} else {
		berth_log_error("berthd cannot start", "error", err->msg);
		berth_error_free(err);
	}
	tear_down(&p);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- the command line ---- */

static const char help[] =
        "Usage: berthd [--config FILE] [--helpers DIR] [--plugins DIR] [COMMAND]\n"
        "\n"
        "A Kubernetes container runtime host. Without a command it serves CRI in the foreground.\n"
        "\n"
        "  config           print the effective configuration with comments\n"
        "  check            look for mistakes and for what this machine lacks\n"
        "\n"
        "  -c, --config FILE  default " BERTH_SYSCONFDIR "/berth.yaml\n"
        "      --helpers DIR  default " BERTH_LIBEXECDIR "\n"
        "      --plugins DIR  default " BERTH_PLUGINDIR "\n"
        "      --version\n"
        "      --help\n";

static int parse(int argc, char **argv, struct options *o)
{
	enum { OPT_HELPERS = 256, OPT_PLUGINS, OPT_VERSION, OPT_HELP };
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
	        {"helpers", required_argument, NULL, OPT_HELPERS},
	        {"plugins", required_argument, NULL, OPT_PLUGINS},
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
	return o->command && strcmp(o->command, "config") != 0 && strcmp(o->command, "check") != 0
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
		result = berth_check(config, o.helpers, o.plugins);
	berth_config_free(config);
	return result;
}
