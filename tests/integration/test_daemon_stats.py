"""Statistics of pods, as a kubelet takes them that asks the CRI alone."""
import os
import threading
import time

from daemon import needs_cni, needs_daemon, pb, wait_for

pytestmark = needs_daemon


def listed(d):
    return {s.attributes.id: s for s in d.rt.ListPodSandboxStats(pb().ListPodSandboxStatsRequest(), timeout=20).stats}


def stats(d, pod):
    one = d.rt.PodSandboxStats(pb().PodSandboxStatsRequest(pod_sandbox_id=pod[0]), timeout=20).stats
    assert one.linux.HasField("network") == listed(d)[pod[0]].linux.HasField("network")
    return one.linux


@needs_cni
def test_a_pod_has_its_network_while_nothing_runs_in_it(real):
    """In a back-off, say."""
    pod = real.run_pod(host_network=False)
    before = stats(real, pod)
    assert before.network.default_interface.name == "eth0"
    assert [i.name for i in before.network.interfaces] == ["eth0"]
    cid = real.run_ctr(pod, "sh", "-c", "ping -c 2 -W 1 10.255.255.254; wget -T 1 -O - http://10.255.255.254/")
    real.wait_exit(cid)
    after = stats(real, pod)
    assert not after.containers
    assert after.network.default_interface.tx_bytes.value > before.network.default_interface.tx_bytes.value
    pid = real.run_pod(host_network=False, pid=0)
    real.run_ctr(pid, "sleep", "100", pid=0)
    assert stats(real, pid).network.default_interface.name == "eth0"


def test_without_an_interface_there_is_no_network(real):
    """A kubelet crashes by a network that names no default interface."""
    pod = real.run_pod()
    assert not stats(real, pod).HasField("network")
    real.run_ctr(pod, "sleep", "100")
    assert not stats(real, pod).HasField("network")


@needs_cni
def test_a_pod_that_was_stopped_is_not_listed(real):
    pod = real.run_pod(host_network=False)
    assert pod[0] in listed(real)
    real.stop_pod(pod)
    assert pod[0] not in listed(real)


def test_what_a_pod_uses_is_what_its_containers_use(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=3; while :; do :; done")
    wait_for(lambda: stats(real, pod).cpu.usage_nano_cores.value > 0 and
             stats(real, pod).containers[0].writable_layer.used_bytes.value >= 3 << 20, 60, 0.2)
    s = stats(real, pod)
    ctr, = s.containers
    assert ctr.attributes.id == cid
    assert ctr.writable_layer.used_bytes.value >= 3 << 20
    # where ImageFsInfo says that they lie: a driver may have a place of its own, and clients match the two
    fs, = real.img.ImageFsInfo(pb().ImageFsInfoRequest()).container_filesystems
    assert ctr.writable_layer.fs_id.mountpoint == fs.fs_id.mountpoint
    assert 0 < ctr.memory.working_set_bytes.value < 64 << 20
    assert s.cpu.usage_core_nano_seconds.value > 0 and s.memory.working_set_bytes.value > 0
    assert s.process.process_count.value >= 1


def container(d, cid):
    return d.rt.ContainerStats(pb().ContainerStatsRequest(container_id=cid), timeout=20).stats


def test_lists_are_of_running_containers(real):
    """One that is not started yet would be listed as one that uses nothing."""
    m = pb()
    pod = real.run_pod()
    real.create(pod, "sleep", "100", name="created")
    ended = real.run_ctr(pod, "true", name="ended")
    real.run_ctr(pod, "sleep", "100", name="running")
    real.wait_exit(ended)
    names = [[s.attributes.metadata.name for s in listed] for listed in (
        real.rt.ListContainerStats(m.ListContainerStatsRequest(), timeout=20).stats,
        [s for r in real.rt.StreamContainerStats(m.StreamContainerStatsRequest(), timeout=20) for s in r.container_stats],
        stats(real, pod).containers)]
    assert names == [["running"]] * 3


def test_what_a_container_wrote_is_told_after_its_end(real):
    cid = real.run_ctr(real.run_pod(), "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=3")
    real.wait_exit(cid)
    for hierarchy in ("", "/memory"):  # cgroupfs: they stay until the container is removed
        path = f"/sys/fs/cgroup{hierarchy}{real.cgroup_path}/{cid}"
        if os.path.exists(path):
            os.rmdir(path)
    wait_for(lambda: not container(real, cid).HasField("memory"))
    assert container(real, cid).writable_layer.used_bytes.value >= 3 << 20


def test_a_layer_whose_size_is_not_known_is_not_told(fake):
    """0 would be a size."""
    cid = fake.create(fake.run_pod(), "sh")
    assert container(fake, cid).HasField("writable_layer")
    fake.inject(fail_op="storage.stat", fail_status=14)
    wait_for(lambda: not container(fake, cid).HasField("writable_layer"))


def test_a_driver_that_hangs_holds_up_nobody(make_daemon):
    d = make_daemon(fake=True)
    pod = d.run_pod()
    ids = [d.create(pod, "sh", name=f"ctr{i}") for i in range(4)]
    layer = lambda cid: container(d, cid).writable_layer
    assert all(layer(cid).timestamp for cid in ids)
    d.inject(delay_op="storage.stat", delay_ms=25000)  # longer than container() waits for an answer
    for cid in ids:  # the last that is known, of when it was known
        wait_for(lambda: time.time_ns() - layer(cid).timestamp > 2e9)
        assert container(d, cid).HasField("writable_layer")
    unknown = d.create(pod, "sh", name="unknown")
    assert not container(d, unknown).HasField("writable_layer")
    d.inject()
    wait_for(lambda: all(time.time_ns() - layer(cid).timestamp < 2e9 for cid in ids + [unknown]), 60, 0.2)


def test_a_daemon_ends_after_what_its_driver_does(make_daemon):
    """Nobody waits for the op any more, but the driver is at work with what its end would take away."""
    d = make_daemon(fake=True)
    cid = d.create(d.run_pod(), "sh")
    d.inject(delay_op="storage.stat", delay_ms=4000, delay_hard=1)
    assert not container(d, cid).HasField("writable_layer")
    d.inject()
    d.restart()
    assert container(d, cid).HasField("writable_layer")


def test_the_rate_of_a_pod_counts_what_has_ended_meanwhile(real):
    pod = real.run_pod()
    real.run_ctr(pod, "sleep", "1000")
    one = lambda: real.rt.PodSandboxStats(pb().PodSandboxStatsRequest(pod_sandbox_id=pod[0]), timeout=20).stats.linux.cpu
    a = one()
    burn = real.run_ctr(pod, "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", name="burn")
    real.wait_exit(burn)
    b = wait_for(lambda: (lambda c: c if c.HasField("usage_nano_cores") else None)(one()))
    used = b.usage_core_nano_seconds.value - a.usage_core_nano_seconds.value
    rate = used * 1e9 / (b.timestamp - a.timestamp)
    assert used > 50e6 and abs(b.usage_nano_cores.value - rate) < rate / 100


def test_what_is_left_is_told_where_there_is_a_limit(real):
    pod = real.run_pod()
    real.run_ctr(pod, "sleep", "100", name="free")
    real.run_ctr(pod, "sleep", "100", name="bound", resources=pb().LinuxContainerResources(
        memory_limit_in_bytes=64 << 20, memory_swap_limit_in_bytes=80 << 20))
    ctrs = stats(real, pod).containers
    m = {c.attributes.metadata.name: c.memory for c in ctrs}
    assert not m["free"].HasField("available_bytes")
    assert m["bound"].available_bytes.value == (64 << 20) - m["bound"].working_set_bytes.value
    swap = {c.attributes.metadata.name: c.swap for c in ctrs if c.HasField("swap")}  # where the kernel counts it
    if swap:
        assert swap["free"].HasField("swap_usage_bytes") and not swap["free"].HasField("swap_available_bytes")
        assert swap["bound"].swap_available_bytes.value == (16 << 20) - swap["bound"].swap_usage_bytes.value


# ---- the sampler ----

def kept(d):
    """What berthd has open between two samples: {fd: file}."""
    found = {}
    for fd in os.listdir(f"/proc/{d.proc.pid}/fd"):
        try:
            to = os.readlink(f"/proc/{d.proc.pid}/fd/{fd}")
        except FileNotFoundError:
            continue  # closed meanwhile
        if to.startswith("/sys/fs/cgroup") or "/net/dev" in to:  # "(deleted)", if its thread has opened others
            found[fd] = to
    return found


def settled(d):
    """The same once a sample that was under way has ended: twice in a row."""
    last = [None]

    def twice():
        last.append(kept(d))
        return last[-1] == last[-2]
    wait_for(twice, step=0.2)
    return last[-1]


def networks(files):
    return [f for f in files.values() if "/net/dev" in f]


def aged(d, cid):
    """A sample of the container that is not the one that is told now."""
    old = container(d, cid).cpu.timestamp
    return wait_for(lambda: (lambda s: s if s.cpu.timestamp > old else None)(container(d, cid)))


@needs_cni
def test_files_are_kept_from_start_to_end(real):
    assert not kept(real)
    pods = [real.run_pod(host_network=False), real.run_pod(host_network=False), real.run_pod()]
    ids = [real.run_ctr(p, "sleep", "1000") for p in pods]
    created = real.create(pods[0], "sleep", "1000", name="created")
    container(real, created)
    assert not kept(real)  # it does not run
    listed(real)
    open_ones = settled(real)
    assert len(networks(open_ones)) == 2
    for cid in ids:
        assert len([f for f in open_ones.values() if cid in f]) >= 4
    pod_files = [f for f in open_ones.values() if os.path.dirname(f).endswith(real.cgroup_path)]
    assert len(pod_files) >= 4 * len(pods)
    aged(real, ids[0])
    listed(real)
    assert settled(real) == open_ones  # none was opened anew
    real.stop_ctr(ids[0])
    assert not any(ids[0] in f for f in settled(real).values())
    assert container(real, ids[0]).HasField("writable_layer")
    real.stop_pod(pods[1])
    assert len(networks(settled(real))) == 1
    real.rt.PodSandboxStats(pb().PodSandboxStatsRequest(pod_sandbox_id=pods[1][0]), timeout=20)
    assert len(networks(settled(real))) == 1  # of a stopped pod nothing is kept
    for p in pods:
        real.remove_pod(p)
    assert not settled(real)


@needs_cni
def test_an_adopted_pod_is_sampled_as_before(real):
    pod = real.run_pod(host_network=False)
    cid = real.run_ctr(pod, "sleep", "1000")
    listed(real)
    real.restart()
    assert not kept(real)
    s = stats(real, pod)
    assert s.network.default_interface.name == "eth0" and s.containers[0].memory.usage_bytes.value > 0
    assert networks(settled(real)) and any(cid in f for f in settled(real).values())
    real.remove_pod(pod)
    assert not settled(real)


def test_rates_do_not_depend_on_who_asks(real):
    """One asks ten times a second, one every second; the container works for a moment and then rests."""
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000")
    first, answers, over = container(real, cid).cpu, {"often": [], "seldom": []}, threading.Event()

    def poll(who, pause):
        while not over.wait(pause):
            answers[who].append(container(real, cid).cpu)
    threads = [threading.Thread(target=poll, args=a) for a in (("often", 0.1), ("seldom", 1))]
    for t in threads:
        t.start()
    try:
        wait_for(lambda: len(answers["seldom"]) >= 3 and len(answers["often"]) >= 10)
    finally:
        over.set()
        for t in threads:
            t.join()
    for who, cpus in answers.items():
        known = [c for c in cpus if c.HasField("usage_nano_cores") and c.timestamp - first.timestamp < 9e9]
        assert known, who
        for c in known:
            rate = (c.usage_core_nano_seconds.value - first.usage_core_nano_seconds.value) * 1e9 / (c.timestamp - first.timestamp)
            assert abs(c.usage_nano_cores.value - rate) < 1e6 + rate / 50, (who, c, first)


def test_a_hundred_requests_share_samples(real):
    m = pb()
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sleep", "1000")
    ask = [real.rt.ListContainerStats.future(m.ListContainerStatsRequest(), timeout=30) if i % 2 else
           real.rt.ListPodSandboxStats.future(m.ListPodSandboxStatsRequest(), timeout=30) for i in range(100)]
    times = set()
    for r in (f.result() for f in ask):
        ctr, = r.stats if isinstance(r, m.ListContainerStatsResponse) else r.stats[0].linux.containers
        assert ctr.attributes.id == cid and ctr.memory.usage_bytes.value > 0
        times.add(ctr.cpu.timestamp)
    assert len(times) < 50  # 100, did each read for itself


def test_descriptors_are_left_for_the_rest(make_daemon):
    d = make_daemon()
    d.stop()
    d.start(nofile=256)
    pods = [d.run_pod(), d.run_pod()]
    ids = [d.run_ctr(pods[i % 2], "sleep", "1000", name=f"ctr{i}") for i in range(12)]
    for _ in range(2):
        aged(d, ids[0])
        found = {c.attributes.id: c for p in listed(d).values() for c in p.linux.containers}
        assert set(found) == set(ids)
        assert all(c.memory.usage_bytes.value > 0 and c.cpu.usage_core_nano_seconds.value > 0 for c in found.values())
        assert len(settled(d)) == 64
    d.remove_pod(pods[0])
    aged(d, ids[1])
    listed(d)
    assert 32 < len(settled(d)) <= 64  # room that others left was taken
    d.remove_pod(pods[1])
    assert not settled(d)
