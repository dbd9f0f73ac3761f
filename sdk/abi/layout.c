/* Proof of the layout of every structure of the ABI, and of the value of every constant, for LP64.
 * A line here is never changed: an append to a structure adds a line and changes its SIZE, and
 * nothing else moves. */
#include <stddef.h>

#include <berth/monitor.h>
#include <berth/plugin.h>

#if defined(__LP64__)
#define SIZE(s, n) _Static_assert(sizeof(struct s) == (n), #s " has another size")
#define AT(s, m, offset, n)                                                        \
	_Static_assert(offsetof(struct s, m) == (offset), #s "." #m " has moved"); \
	_Static_assert(sizeof(((struct s *)0)->m) == (n), #s "." #m " has another size")
#define VALUE(name, n) _Static_assert((name) == (n), #name " has another value")

/* clang-format off */
/* berth_monitor_args */
SIZE(berth_monitor_args, 56);
AT(berth_monitor_args, size, 0, 4);
AT(berth_monitor_args, flags, 4, 4);
AT(berth_monitor_args, id, 8, 8);
AT(berth_monitor_args, bundle, 16, 8);
AT(berth_monitor_args, log_path, 24, 8);
AT(berth_monitor_args, argv, 32, 8);
AT(berth_monitor_args, pid_file, 40, 8);
AT(berth_monitor_args, console_socket, 48, 8);

/* berth_monitor_result */
SIZE(berth_monitor_result, 24);
AT(berth_monitor_result, size, 0, 4);
AT(berth_monitor_result, pid, 4, 4);
AT(berth_monitor_result, pid_start_ns, 8, 8);
AT(berth_monitor_result, monitor_pid, 16, 4);
AT(berth_monitor_result, reserved0, 20, 4);

/* berth_monitor_ext */
SIZE(berth_monitor_ext, 48);
AT(berth_monitor_ext, size, 0, 4);
AT(berth_monitor_ext, reserved0, 4, 4);
AT(berth_monitor_ext, start, 8, 8);
AT(berth_monitor_ext, state, 16, 8);
AT(berth_monitor_ext, resize, 24, 8);
AT(berth_monitor_ext, close_stdin, 32, 8);
AT(berth_monitor_ext, reopen_log, 40, 8);

/* berth_kv */
SIZE(berth_kv, 16);
AT(berth_kv, key, 0, 8);
AT(berth_kv, value, 8, 8);

/* berth_run */
SIZE(berth_run, 96);
AT(berth_run, size, 0, 4);
AT(berth_run, flags, 4, 4);
AT(berth_run, argv, 8, 8);
AT(berth_run, envp, 16, 8);
AT(berth_run, cwd, 24, 8);
AT(berth_run, cgroup, 32, 8);
AT(berth_run, in, 40, 8);
AT(berth_run, in_len, 48, 8);
AT(berth_run, out_max, 56, 8);
AT(berth_run, keep_fds, 64, 8);
AT(berth_run, n_keep_fds, 72, 4);
AT(berth_run, term_grace_ms, 76, 4);
AT(berth_run, pid_file, 80, 8);
AT(berth_run, console_socket, 88, 8);

/* berth_run_result */
SIZE(berth_run_result, 40);
AT(berth_run_result, size, 0, 4);
AT(berth_run_result, wait_status, 4, 4);
AT(berth_run_result, out, 8, 8);
AT(berth_run_result, err, 16, 8);
AT(berth_run_result, out_len, 24, 8);
AT(berth_run_result, err_len, 32, 8);

/* berth_stdio */
SIZE(berth_stdio, 16);
AT(berth_stdio, size, 0, 4);
AT(berth_stdio, in_fd, 4, 4);
AT(berth_stdio, out_fd, 8, 4);
AT(berth_stdio, err_fd, 12, 4);

/* berth_exit */
SIZE(berth_exit, 8);
AT(berth_exit, flags, 0, 4);
AT(berth_exit, code, 4, 4);

/* berth_event */
SIZE(berth_event, 48);
AT(berth_event, size, 0, 4);
AT(berth_event, type, 4, 4);
AT(berth_event, object_id, 8, 8);
AT(berth_event, exec_id, 16, 8);
AT(berth_event, message, 24, 8);
AT(berth_event, exit, 32, 8);
AT(berth_event, when_ns, 40, 8);

/* berth_host */
SIZE(berth_host, 208);
AT(berth_host, size, 0, 4);
AT(berth_host, abi_minor, 4, 4);
AT(berth_host, impl, 8, 8);
AT(berth_host, host_version, 16, 8);
AT(berth_host, plugin_name, 24, 8);
AT(berth_host, instance_name, 32, 8);
AT(berth_host, state_dir, 40, 8);
AT(berth_host, run_dir, 48, 8);
AT(berth_host, log, 56, 8);
AT(berth_host, fail, 64, 8);
AT(berth_host, op_cancelled, 72, 8);
AT(berth_host, op_cancel_fd, 80, 8);
AT(berth_host, op_deadline_ns, 88, 8);
AT(berth_host, op_alloc, 96, 8);
AT(berth_host, op_progress, 104, 8);
AT(berth_host, run, 112, 8);
AT(berth_host, spawn, 120, 8);
AT(berth_host, watch_fd, 128, 8);
AT(berth_host, watch_after, 136, 8);
AT(berth_host, rearm, 144, 8);
AT(berth_host, unwatch, 152, 8);
AT(berth_host, emit, 160, 8);
AT(berth_host, conf_str, 168, 8);
AT(berth_host, conf_i64, 176, 8);
AT(berth_host, conf_bool, 184, 8);
AT(berth_host, conf_json, 192, 8);
AT(berth_host, extension, 200, 8);

/* berth_mount */
SIZE(berth_mount, 40);
AT(berth_mount, size, 0, 4);
AT(berth_mount, flags, 4, 4);
AT(berth_mount, type, 8, 8);
AT(berth_mount, source, 16, 8);
AT(berth_mount, target, 24, 8);
AT(berth_mount, options, 32, 8);

/* berth_idmap */
SIZE(berth_idmap, 12);
AT(berth_idmap, container_id, 0, 4);
AT(berth_idmap, host_id, 4, 4);
AT(berth_idmap, count, 8, 4);

/* berth_snap_args */
SIZE(berth_snap_args, 96);
AT(berth_snap_args, size, 0, 4);
AT(berth_snap_args, flags, 4, 4);
AT(berth_snap_args, key, 8, 8);
AT(berth_snap_args, parent, 16, 8);
AT(berth_snap_args, name, 24, 8);
AT(berth_snap_args, labels, 32, 8);
AT(berth_snap_args, n_labels, 40, 4);
AT(berth_snap_args, reserved0, 44, 4);
AT(berth_snap_args, uid_maps, 48, 8);
AT(berth_snap_args, gid_maps, 56, 8);
AT(berth_snap_args, n_uid_maps, 64, 4);
AT(berth_snap_args, n_gid_maps, 68, 4);
AT(berth_snap_args, size_limit, 72, 8);
AT(berth_snap_args, inode_limit, 80, 8);
AT(berth_snap_args, external, 88, 8);

/* berth_mounts_result */
SIZE(berth_mounts_result, 16);
AT(berth_mounts_result, size, 0, 4);
AT(berth_mounts_result, n, 4, 4);
AT(berth_mounts_result, mounts, 8, 8);

/* berth_snap_info */
SIZE(berth_snap_info, 56);
AT(berth_snap_info, size, 0, 4);
AT(berth_snap_info, kind, 4, 4);
AT(berth_snap_info, key, 8, 8);
AT(berth_snap_info, parent, 16, 8);
AT(berth_snap_info, created_ns, 24, 8);
AT(berth_snap_info, bytes, 32, 8);
AT(berth_snap_info, inodes, 40, 8);
AT(berth_snap_info, external, 48, 8);

/* berth_snap_list */
SIZE(berth_snap_list, 16);
AT(berth_snap_list, size, 0, 4);
AT(berth_snap_list, n, 4, 4);
AT(berth_snap_list, snaps, 8, 8);

/* berth_storage_ops */
SIZE(berth_storage_ops, 72);
AT(berth_storage_ops, size, 0, 4);
AT(berth_storage_ops, reserved0, 4, 4);
AT(berth_storage_ops, prepare, 8, 8);
AT(berth_storage_ops, view, 16, 8);
AT(berth_storage_ops, mounts, 24, 8);
AT(berth_storage_ops, commit, 32, 8);
AT(berth_storage_ops, remove, 40, 8);
AT(berth_storage_ops, stat, 48, 8);
AT(berth_storage_ops, list, 56, 8);
AT(berth_storage_ops, cleanup, 64, 8);

/* berth_sandbox_args */
SIZE(berth_sandbox_args, 64);
AT(berth_sandbox_args, size, 0, 4);
AT(berth_sandbox_args, flags, 4, 4);
AT(berth_sandbox_args, id, 8, 8);
AT(berth_sandbox_args, netns, 16, 8);
AT(berth_sandbox_args, cgroup_parent, 24, 8);
AT(berth_sandbox_args, oci_resources_json, 32, 8);
AT(berth_sandbox_args, annotations, 40, 8);
AT(berth_sandbox_args, n_annotations, 48, 4);
AT(berth_sandbox_args, reserved0, 52, 4);
AT(berth_sandbox_args, state_json, 56, 8);

/* berth_ctr_args */
SIZE(berth_ctr_args, 80);
AT(berth_ctr_args, size, 0, 4);
AT(berth_ctr_args, flags, 4, 4);
AT(berth_ctr_args, id, 8, 8);
AT(berth_ctr_args, sandbox_id, 16, 8);
AT(berth_ctr_args, exec_id, 24, 8);
AT(berth_ctr_args, bundle, 32, 8);
AT(berth_ctr_args, log_path, 40, 8);
AT(berth_ctr_args, rootfs, 48, 8);
AT(berth_ctr_args, json, 56, 8);
AT(berth_ctr_args, signal, 64, 4);
AT(berth_ctr_args, width, 68, 2);
AT(berth_ctr_args, height, 70, 2);
AT(berth_ctr_args, sandbox_state_json, 72, 8);

/* berth_ctr_state */
SIZE(berth_ctr_state, 64);
AT(berth_ctr_state, size, 0, 4);
AT(berth_ctr_state, status, 4, 4);
AT(berth_ctr_state, id, 8, 8);
AT(berth_ctr_state, exec_id, 16, 8);
AT(berth_ctr_state, pid, 24, 4);
AT(berth_ctr_state, reserved0, 28, 4);
AT(berth_ctr_state, exit, 32, 8);
AT(berth_ctr_state, pid_start_ns, 40, 8);
AT(berth_ctr_state, started_ns, 48, 8);
AT(berth_ctr_state, finished_ns, 56, 8);

/* berth_sandbox_result */
SIZE(berth_sandbox_result, 16);
AT(berth_sandbox_result, size, 0, 4);
AT(berth_sandbox_result, reserved0, 4, 4);
AT(berth_sandbox_result, state_json, 8, 8);

/* berth_runtime_info */
SIZE(berth_runtime_info, 16);
AT(berth_runtime_info, size, 0, 4);
AT(berth_runtime_info, reserved0, 4, 4);
AT(berth_runtime_info, features_json, 8, 8);

/* berth_ctr_list */
SIZE(berth_ctr_list, 16);
AT(berth_ctr_list, size, 0, 4);
AT(berth_ctr_list, n, 4, 4);
AT(berth_ctr_list, ctrs, 8, 8);

/* berth_ctr_stats */
SIZE(berth_ctr_stats, 48);
AT(berth_ctr_stats, size, 0, 4);
AT(berth_ctr_stats, reserved0, 4, 4);
AT(berth_ctr_stats, cpu_ns, 8, 8);
AT(berth_ctr_stats, mem_usage, 16, 8);
AT(berth_ctr_stats, mem_working_set, 24, 8);
AT(berth_ctr_stats, pids, 32, 8);
AT(berth_ctr_stats, when_ns, 40, 8);

/* berth_checkpoint_args */
SIZE(berth_checkpoint_args, 40);
AT(berth_checkpoint_args, size, 0, 4);
AT(berth_checkpoint_args, flags, 4, 4);
AT(berth_checkpoint_args, id, 8, 8);
AT(berth_checkpoint_args, bundle, 16, 8);
AT(berth_checkpoint_args, image_dir, 24, 8);
AT(berth_checkpoint_args, work_dir, 32, 8);

/* berth_runtime_ops */
SIZE(berth_runtime_ops, 160);
AT(berth_runtime_ops, size, 0, 4);
AT(berth_runtime_ops, reserved0, 4, 4);
AT(berth_runtime_ops, info, 8, 8);
AT(berth_runtime_ops, sandbox_create, 16, 8);
AT(berth_runtime_ops, sandbox_remove, 24, 8);
AT(berth_runtime_ops, create, 32, 8);
AT(berth_runtime_ops, start, 40, 8);
AT(berth_runtime_ops, kill, 48, 8);
AT(berth_runtime_ops, remove, 56, 8);
AT(berth_runtime_ops, state, 64, 8);
AT(berth_runtime_ops, list, 72, 8);
AT(berth_runtime_ops, exec, 80, 8);
AT(berth_runtime_ops, close_stdin, 88, 8);
AT(berth_runtime_ops, attach, 96, 8);
AT(berth_runtime_ops, resize, 104, 8);
AT(berth_runtime_ops, update, 112, 8);
AT(berth_runtime_ops, pause, 120, 8);
AT(berth_runtime_ops, resume, 128, 8);
AT(berth_runtime_ops, reopen_log, 136, 8);
AT(berth_runtime_ops, stats, 144, 8);
AT(berth_runtime_ops, checkpoint, 152, 8);

/* berth_port */
SIZE(berth_port, 16);
AT(berth_port, host_port, 0, 2);
AT(berth_port, ctr_port, 2, 2);
AT(berth_port, proto, 4, 4);
AT(berth_port, host_ip, 8, 8);

/* berth_net_args */
SIZE(berth_net_args, 88);
AT(berth_net_args, size, 0, 4);
AT(berth_net_args, flags, 4, 4);
AT(berth_net_args, sandbox_id, 8, 8);
AT(berth_net_args, pod_name, 16, 8);
AT(berth_net_args, pod_namespace, 24, 8);
AT(berth_net_args, pod_uid, 32, 8);
AT(berth_net_args, netns, 40, 8);
AT(berth_net_args, ifname, 48, 8);
AT(berth_net_args, prev_result_json, 56, 8);
AT(berth_net_args, ports, 64, 8);
AT(berth_net_args, caps, 72, 8);
AT(berth_net_args, n_ports, 80, 4);
AT(berth_net_args, n_caps, 84, 4);

/* berth_net_result */
SIZE(berth_net_result, 24);
AT(berth_net_result, size, 0, 4);
AT(berth_net_result, n_ips, 4, 4);
AT(berth_net_result, ips, 8, 8);
AT(berth_net_result, result_json, 16, 8);

/* berth_net_gc_args */
SIZE(berth_net_gc_args, 16);
AT(berth_net_gc_args, size, 0, 4);
AT(berth_net_gc_args, n_valid, 4, 4);
AT(berth_net_gc_args, valid, 8, 8);

/* berth_network_ops */
SIZE(berth_network_ops, 48);
AT(berth_network_ops, size, 0, 4);
AT(berth_network_ops, reserved0, 4, 4);
AT(berth_network_ops, attach, 8, 8);
AT(berth_network_ops, detach, 16, 8);
AT(berth_network_ops, check, 24, 8);
AT(berth_network_ops, status, 32, 8);
AT(berth_network_ops, gc, 40, 8);

/* berth_features */
SIZE(berth_features, 32);
AT(berth_features, size, 0, 4);
AT(berth_features, reserved0, 4, 4);
AT(berth_features, features, 8, 8);
AT(berth_features, no_quota, 16, 8);
AT(berth_features, no_checkpoint, 24, 8);

/* berth_plugin */
SIZE(berth_plugin, 104);
AT(berth_plugin, size, 0, 4);
AT(berth_plugin, abi_minor, 4, 4);
AT(berth_plugin, flags, 8, 4);
AT(berth_plugin, reserved0, 12, 4);
AT(berth_plugin, features, 16, 8);
AT(berth_plugin, name, 24, 8);
AT(berth_plugin, version, 32, 8);
AT(berth_plugin, storage, 40, 8);
AT(berth_plugin, runtime, 48, 8);
AT(berth_plugin, network, 56, 8);
AT(berth_plugin, create, 64, 8);
AT(berth_plugin, start, 72, 8);
AT(berth_plugin, stop, 80, 8);
AT(berth_plugin, destroy, 88, 8);
AT(berth_plugin, extension, 96, 8);

/* berth_note */
SIZE(berth_note, 28);
AT(berth_note, namesz, 0, 4);
AT(berth_note, descsz, 4, 4);
AT(berth_note, type, 8, 4);
AT(berth_note, name, 12, 8);
AT(berth_note, major, 20, 4);
AT(berth_note, needs_minor, 24, 4);

/* constants */
VALUE(BERTH_OK, 0);
VALUE(BERTH_E_CANCELLED, -1);
VALUE(BERTH_E_UNKNOWN, -2);
VALUE(BERTH_E_INVALID, -3);
VALUE(BERTH_E_DEADLINE, -4);
VALUE(BERTH_E_NOT_FOUND, -5);
VALUE(BERTH_E_EXISTS, -6);
VALUE(BERTH_E_PERMISSION, -7);
VALUE(BERTH_E_EXHAUSTED, -8);
VALUE(BERTH_E_PRECONDITION, -9);
VALUE(BERTH_E_UNIMPLEMENTED, -12);
VALUE(BERTH_E_INTERNAL, -13);
VALUE(BERTH_E_UNAVAILABLE, -14);
VALUE(BERTH_F_DETACHED_LAYERS, 1);
VALUE(BERTH_F_WHITEOUT_OVERLAY, 2);
VALUE(BERTH_F_WHITEOUT_AUFS, 4);
VALUE(BERTH_F_IDMAP, 8);
VALUE(BERTH_F_QUOTA, 16);
VALUE(BERTH_F_XATTR_USER, 32);
VALUE(BERTH_F_EXTERNAL_LAYERS, 64);
VALUE(BERTH_F_CHECKPOINT, 128);
VALUE(BERTH_PLUGIN_SERIAL, 1);
VALUE(BERTH_RUN_F_TTY, 1);
VALUE(BERTH_RUN_F_STDIN, 2);
VALUE(BERTH_EXIT_KNOWN, 1);
VALUE(BERTH_EXIT_SIGNALLED, 2);
VALUE(BERTH_EXIT_OOM, 4);
VALUE(BERTH_EV_EXIT, 1);
VALUE(BERTH_EV_OOM, 2);
VALUE(BERTH_EV_STATE, 3);
VALUE(BERTH_EV_HEALTH, 4);
VALUE(BERTH_LOG_ERROR, 1);
VALUE(BERTH_LOG_WARN, 2);
VALUE(BERTH_LOG_INFO, 3);
VALUE(BERTH_LOG_DEBUG, 4);
VALUE(BERTH_WATCH_READ, 1);
VALUE(BERTH_WATCH_WRITE, 2);
VALUE(BERTH_WATCH_HUP, 4);
VALUE(BERTH_SNAP_F_LAYER, 1);
VALUE(BERTH_SNAP_ACTIVE, 1);
VALUE(BERTH_SNAP_VIEW, 2);
VALUE(BERTH_SNAP_COMMITTED, 3);
VALUE(BERTH_IO_TTY, 1);
VALUE(BERTH_IO_STDIN, 2);
VALUE(BERTH_IO_STDIN_ONCE, 4);
VALUE(BERTH_ST_CREATED, 1);
VALUE(BERTH_ST_RUNNING, 2);
VALUE(BERTH_ST_STOPPED, 3);
VALUE(BERTH_ST_PAUSED, 4);
VALUE(BERTH_ST_UNKNOWN, 5);
VALUE(BERTH_ABI_MAJOR, 0);
VALUE(BERTH_NOTE_ABI, 1);
/* clang-format on */
#endif

int main(void)
{
	return 0;
}
