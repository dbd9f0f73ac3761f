"""Pod metrics: cadvisor's names and labels, and values that mean something."""
import os

from daemon import needs_cni, needs_daemon, pb, wait_for

pytestmark = needs_daemon
BASE = ["id", "name", "image", "container", "pod", "namespace"]


def descriptors(d):
    return {x.name: x for x in d.rt.ListMetricDescriptors(pb().ListMetricDescriptorsRequest(), timeout=10).descriptors}


def listed(d):
    return {m.pod_sandbox_id: m for m in d.rt.ListPodSandboxMetrics(pb().ListPodSandboxMetricsRequest(), timeout=20).pod_metrics}


def values(metrics, keys):
    """{name: {(own labels): value}}"""
    out = {}
    for m in metrics:
        assert len(m.label_values) == len(keys[m.name].label_keys), m
        out.setdefault(m.name, {})[tuple(m.label_values[len(BASE):])] = m.value.value
    return out


def test_descriptors(real):
    got = descriptors(real)
    assert len(got) == 56
    for d in got.values():
        assert d.help and list(d.label_keys[:len(BASE)]) == BASE
    assert list(got["container_memory_failures_total"].label_keys[len(BASE):]) == ["failure_type", "scope"]
    assert list(got["container_blkio_device_usage_total"].label_keys[len(BASE):]) == ["device", "major", "minor", "operation"]


@needs_cni
def test_what_a_container_does_is_seen(real):
    pod = real.run_pod(host_network=False)
    script = "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; " \
        "exec 7</dev/null; sleep 1000 & sleep 1000 & echo up; wait"
    cid = real.run_ctr(pod, "sh", "-c", script)
    wait_for(lambda: real.log_lines(pod) == [("stdout", "up")], 60)
    keys = descriptors(real)
    mine = listed(real)[pod[0]]
    ctr, = mine.container_metrics
    assert ctr.container_id == cid
    for m in ctr.metrics:
        base = dict(zip(BASE, m.label_values))
        assert base["pod"] == pod[1].metadata.name and base["namespace"] == pod[1].metadata.namespace
        assert base["name"] == cid and base["container"] == "ctr" and base["image"] and base["id"].endswith(cid)
        assert m.timestamp > 1_600_000_000 * 10**9
    v = values(ctr.metrics, keys)
    plain = {k: x[()] for k, x in v.items() if () in x}
    assert plain["container_processes"] == 3 and plain["container_threads"] == 3
    assert plain["container_file_descriptors"] >= 9
    assert 3 << 20 <= list(v["container_fs_usage_bytes"].values())[0] < 64 << 20
    fs = os.statvfs(real.root)
    assert list(v["container_fs_limit_bytes"].values()) == [fs.f_blocks * fs.f_frsize]
    assert 0 < plain["container_memory_rss"] < plain["container_memory_usage_bytes"] < 1 << 30
    assert plain["container_memory_max_usage_bytes"] >= plain["container_memory_working_set_bytes"] > 0
    assert v["container_memory_failures_total"][("pgfault", "container")] > 100
    assert v["container_ulimits_soft"][("max_open_files",)] > 0
    assert 0 <= plain["container_last_seen"] - plain["container_start_time_seconds"] < 120
    assert plain["container_spec_cpu_shares"] > 0
    net = values(mine.metrics, keys)
    assert set(net["container_network_receive_bytes_total"]) == {("eth0",)}
    before = net["container_network_transmit_packets_total"][("eth0",)]
    real.sh(cid, "ping -c 3 -W 1 10.255.255.254 || true")
    real.sh(cid, "wget -T 1 -O - http://10.255.255.254/ || true")
    wait_for(lambda: values(listed(real)[pod[0]].metrics, keys)["container_network_transmit_packets_total"][("eth0",)] > before)


def test_limits_are_told(real):
    pb_ = pb()
    pod = real.run_pod()
    config = real.ctr_config("sleep", "100")
    config.linux.resources.CopyFrom(pb_.LinuxContainerResources(cpu_period=100000, cpu_quota=25000, cpu_shares=512,
                                                                memory_limit_in_bytes=64 << 20))
    cid = real.create(pod, config=config)
    real.start_ctr(cid)
    v = values(listed(real)[pod[0]].container_metrics[0].metrics, descriptors(real))
    assert v["container_spec_cpu_quota"][()] == 25000 and v["container_spec_cpu_period"][()] == 100000
    assert abs(v["container_spec_cpu_shares"][()] - 512) <= 26  # version 2's weights are coarser
    assert v["container_spec_memory_limit_bytes"][()] == 64 << 20


def test_the_stream_tells_the_same(real):
    pods = [real.run_pod() for _ in range(3)]
    for p in pods:
        real.run_ctr(p, "sleep", "100")
    got = [m for r in real.rt.StreamPodSandboxMetrics(pb().StreamPodSandboxMetricsRequest(), timeout=20)
           for m in r.pod_sandbox_metrics]
    assert sorted(m.pod_sandbox_id for m in got) == sorted(listed(real)) and {p[0] for p in pods} <= set(listed(real))
    real.stop_pod(pods[0])
    assert pods[0][0] not in listed(real)
