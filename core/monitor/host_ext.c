/* The extension "berth.monitor/1" for runtime plugins, and the set-up. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "loop/pool.h"
#include "monitor/filter.h"
#include "monitor/host_internal.h"

#define STARTERS 2
#define STARTS 1024 /* that wait */

struct berth_mon_global berth_mon = {.filter_fd = -1};

static berth_status failed(struct berth_op *op, const struct berth_host *h, struct berth_error *err)
{
	berth_status st = h->fail(op, -(berth_status)err->code, err->errnum, err->msg);
	berth_error_free(err);
	return st;
}

static berth_status ext_start(struct berth_op *op, const struct berth_host *h,
        const struct berth_monitor_args *a, struct berth_monitor_result *res)
{
	struct berth_error *err = NULL;
	if (!BERTH_HAS(struct berth_monitor_args, a, console_socket) || !a->id || !a->bundle)
		return h->fail(op, BERTH_E_INVALID, 0, "berth.monitor/1: arguments are missing");
	_cleanup_free_ char *dir = berth_mon_dir_of(a->bundle);
	struct berth_monitor_spec s = {.id = a->id,
	        .dir = dir,
	        .cwd = a->bundle,
	        .log_path = a->log_path,
	        .argv = a->argv,
	        .pid_file = a->pid_file,
	        .console_socket = a->console_socket,
	        .flags = a->flags,
	        .cancel_fd = h->op_cancel_fd(op),
	        .deadline_ns = h->op_deadline_ns(op)};
	struct berth_monitor_result r;
	if (berth_monitor_start(&s, &r, &err) < 0)
		return failed(op, h, err);
	uint32_t size = res->size;
	memcpy((char *)res + sizeof(size), (char *)&r + sizeof(size),
	        (size < sizeof(r) ? size : sizeof(r)) - sizeof(size));
	return BERTH_OK;
}

static berth_status ext_state(struct berth_op *op, const struct berth_host *h, const char *id,
        const char *bundle, struct berth_ctr_state *res)
{
	struct berth_error *err = NULL;
	struct berth_monitor_state s;
	_cleanup_free_ char *dir = berth_mon_dir_of(bundle);
	if (berth_monitor_state(id, dir, &s, &err) < 0)
		return failed(op, h, err);
	char *name = h->op_alloc(op, strlen(id) + 1);
	memcpy(name, id, strlen(id));
	struct berth_ctr_state r = {.size = res->size,
	        .status = s.status,
	        .id = name,
	        .pid = s.pid,
	        .pid_start_ns = s.pid_start,
	        .exit = s.exit,
	        .finished_ns = s.finished_ns};
	memcpy(res, &r, res->size < sizeof(r) ? res->size : sizeof(r));
	return BERTH_OK;
}

static berth_status ext_resize(struct berth_op *op, const struct berth_host *h, const char *bundle,
        uint16_t width, uint16_t height)
{
	struct berth_error *err = NULL;
	_cleanup_free_ char *dir = berth_mon_dir_of(bundle);
	return berth_monitor_resize(dir, width, height, &err) < 0 ? failed(op, h, err) : BERTH_OK;
}

static berth_status ext_close_stdin(
        struct berth_op *op, const struct berth_host *h, const char *bundle)
{
	struct berth_error *err = NULL;
	_cleanup_free_ char *dir = berth_mon_dir_of(bundle);
	return berth_monitor_close_stdin(dir, &err) < 0 ? failed(op, h, err) : BERTH_OK;
}

static berth_status ext_reopen_log(
        struct berth_op *op, const struct berth_host *h, const char *bundle)
{
	struct berth_error *err = NULL;
	_cleanup_free_ char *dir = berth_mon_dir_of(bundle);
	return berth_monitor_reopen_log(dir, &err) < 0 ? failed(op, h, err) : BERTH_OK;
}

const struct berth_monitor_ext berth_mon_ext = {.size = sizeof(berth_mon_ext),
        .start = ext_start,
        .state = ext_state,
        .resize = ext_resize,
        .close_stdin = ext_close_stdin,
        .reopen_log = ext_reopen_log};

int berth_monitor_init(const struct berth_monitor_opts *opts, struct berth_error **ret_err)
{
	berth_assert_loop();
	_cleanup_free_ char *helper = berth_asprintf("%s/berth-monitor", opts->helpers_dir);
	if (access(helper, X_OK) < 0)
		return berth_error_errno(ret_err, errno, "helper %s", helper);
	if (berth_monitor_filter(&berth_mon.filter_fd, ret_err) < 0)
		return -1;
	berth_mon.loop = opts->loop;
	berth_mon.helper = berth_take(helper);
	berth_mon.cgroup_procs = berth_strv_copy((char *const *)(const void *)opts->cgroup_procs);
	berth_mon.starters = berth_pool_new(&(struct berth_pool_opts){.name = "monitors",
	        .max_threads = STARTERS,
	        .max_queued = STARTS,
	        .stack_bytes = 256 * 1024,
	        .idle_ms = UINT_MAX}); /* they have moved; they wait */
	if (opts->plugins)
		berth_plugin_host_extension(opts->plugins, BERTH_MONITOR_EXT, &berth_mon_ext);
	return 0;
}

void berth_monitor_finish(void)
{
	berth_assert_loop();
	berth_mon_watch_finish();
	berth_mon.filter_fd = berth_close(berth_mon.filter_fd);
	berth_freep(&berth_mon.helper);
	berth_mon.helper = NULL;
	berth_mon.starters = berth_pool_free(berth_mon.starters);
	berth_mon.cgroup_procs = berth_strv_free(berth_mon.cgroup_procs);
	berth_mon.loop = NULL;
}
