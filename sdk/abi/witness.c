/* A shared object through which tools see every structure of the ABI: what can only be reached
 * through a `void *`, as the tables of extensions, could change without their noticing. Compiled
 * for that alone, and never loaded. */
#include <berth/monitor.h>
#include <berth/plugin.h>

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return 0;
}

/* Every structure by its name; tests/checks/abi.sh compares the list with the headers. */
#define WITNESS(s)                                       \
	BERTH_EXPORT void witness_##s(const struct s *); \
	BERTH_EXPORT void witness_##s(const struct s *p) \
	{                                                \
		(void)p;                                 \
	}

WITNESS(berth_kv)
WITNESS(berth_run)
WITNESS(berth_run_result)
WITNESS(berth_stdio)
WITNESS(berth_exit)
WITNESS(berth_event)
WITNESS(berth_host)
WITNESS(berth_mount)
WITNESS(berth_idmap)
WITNESS(berth_snap_args)
WITNESS(berth_mounts_result)
WITNESS(berth_snap_info)
WITNESS(berth_snap_list)
WITNESS(berth_storage_ops)
WITNESS(berth_sandbox_args)
WITNESS(berth_ctr_args)
WITNESS(berth_ctr_state)
WITNESS(berth_sandbox_result)
WITNESS(berth_runtime_info)
WITNESS(berth_ctr_list)
WITNESS(berth_ctr_stats)
WITNESS(berth_checkpoint_args)
WITNESS(berth_runtime_ops)
WITNESS(berth_port)
WITNESS(berth_net_args)
WITNESS(berth_net_result)
WITNESS(berth_net_gc_args)
WITNESS(berth_network_ops)
WITNESS(berth_features)
WITNESS(berth_plugin)
WITNESS(berth_note)
WITNESS(berth_monitor_args)
WITNESS(berth_monitor_result)
WITNESS(berth_monitor_ext)

BERTH_EXPORT void witness_watch(berth_watch_fn fn);
BERTH_EXPORT void witness_watch(berth_watch_fn fn)
{
	(void)fn;
}
