"""Limits of living containers are changed, whole or not at all; and what the kubelet says of a pod's."""
import glob
import json
import os
import subprocess

import grpc
import pytest

import daemon
from daemon import fails, needs_daemon, needs_faults, pb, wait_for

pytestmark = needs_daemon
RUNTIMES = ["runc", "crun"]
V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
MIB = 1 << 20
PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


def update(d, cid, **kw):
    d.rt.UpdateContainerResources(pb().UpdateContainerResourcesRequest(
        container_id=cid, linux=pb().LinuxContainerResources(**kw)), timeout=60)


def told(d, cid):
    return d.status(cid).resources.linux


def pid_of(d, cid):
    return json.loads(d.status(cid, verbose=True).info["info"])["pid"]


def online(kind):
    with open(f"/sys/devices/system/{kind}/online") as f:
        return f.read().strip()


def quota_of_the_pod(d, value):
    """v1 refuses a container's quota beyond its parent's: when CPU sets and memory are written already."""
    for path in glob.glob(f"/sys/fs/cgroup/cpu{d.cgroup_path}/cpu.cfs_quota_us"):
        with open(path, "w") as f:
            f.write(str(value))


def unit(d, cid):
    """What systemd would set again, at its next look at the container's scope."""
    if not daemon.SYSTEMD:
        return None
    (at,) = glob.glob(f"/sys/fs/cgroup{d.cgroup_path}/*{cid}*.scope")
    got = subprocess.run(["systemctl", "show", "-p", "CPUQuotaPerSecUSec,AllowedCPUs,AllowedMemoryNodes,MemoryMax", os.path.basename(at)],
                         stdout=subprocess.PIPE, text=True, check=True)
    return got.stdout


@pytest.fixture
def refused(real):
    """What makes an update fail once a runtime has written all else: by the kernel, not by a check of ours."""
    if V2:
        yield real, dict(unified={"memory.high": "lots"})
    else:
        real.run_ctr(real.run_pod(), "sleep", "1000", name="holder")
        quota_of_the_pod(real, 20000)
        yield real, dict(cpu_quota=90000, cpu_period=100000)
        quota_of_the_pod(real, -1)


def test_what_was_never_set_comes_back(refused):
    d, bad = refused
    cid = d.run_ctr(d.run_pod(), "sleep", "1000")
    before, status, scope = d.limits(cid), told(d, cid), unit(d, cid)
    with fails("INVALID_ARGUMENT", cid):
        update(d, cid, cpuset_cpus="0", cpuset_mems="0", cpu_shares=300, memory_limit_in_bytes=64 * MIB,
               oom_score_adj=700, **bad)
    assert d.limits(cid) == before and told(d, cid) == status and unit(d, cid) == scope
    assert d.sh(cid, "cat /proc/1/oom_score_adj").strip() == "0"
    # Nor does a later update of something else bring it.
    quota_of_the_pod(d, -1)
    update(d, cid, oom_score_adj=300)
    assert d.limits(cid) == before


def test_what_was_set_comes_back(refused):
    d, bad = refused
    cid = d.run_ctr(d.run_pod(), "sleep", "1000", resources=pb().LinuxContainerResources(
        cpuset_cpus="0", cpu_shares=512, cpu_quota=10000, cpu_period=100000, memory_limit_in_bytes=96 * MIB))
    before, status = d.limits(cid), told(d, cid)
    with fails("INVALID_ARGUMENT", cid):
        update(d, cid, **{**dict(cpuset_cpus=online("cpu"), cpu_shares=300, memory_limit_in_bytes=64 * MIB), **bad})
    assert d.limits(cid) == before and told(d, cid) == status


def test_limits_are_lifted(real):
    cid = real.run_ctr(real.run_pod(), "sleep", "1000", resources=pb().LinuxContainerResources(
        cpu_quota=10000, cpu_period=100000, memory_limit_in_bytes=96 * MIB, memory_swap_limit_in_bytes=96 * MIB))
    free = real.limits(real.run_ctr(real.run_pod(), "sleep", "1000", name="free"))
    update(real, cid, cpu_quota=-1, memory_limit_in_bytes=-1, memory_swap_limit_in_bytes=-1)
    now = real.limits(cid)
    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        assert now[name] == free[name], name
    got = told(real, cid)
    assert (got.cpu_quota, got.memory_limit_in_bytes) == (-1, -1)
    update(real, cid, cpu_shares=300)
    assert real.limits(cid)["cpu.cfs_quota_us"] == free["cpu.cfs_quota_us"]


def test_sets_of_what_is_not_there(real):
    cid = real.run_ctr(real.run_pod(), "sleep", "1000")
    before = real.limits(cid)
    for kind, at in (("cpus", "cpu"), ("mems", "node")):
        for bad in ("60000", f"0,{int(online(at).split('-')[-1]) + 1}"):
            with fails("INVALID_ARGUMENT", cid, f'resources.cpuset_{kind}: "{bad}" is not within "', f'"{online(at)}"'):
                update(real, cid, cpu_shares=300, **{f"cpuset_{kind}": bad})
            assert real.limits(cid) == before
    update(real, cid, cpuset_cpus=online("cpu"), cpuset_mems=online("node"))
    assert real.limits(cid)["cpuset.cpus"] == online("cpu")


def test_swap(real):
    d = real
    if not V2 and not os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"):
        pytest.skip("swap is not accounted here")
    cid = d.run_ctr(d.run_pod(), "sleep", "1000", resources=pb().LinuxContainerResources(memory_limit_in_bytes=64 * MIB))
    update(d, cid, memory_limit_in_bytes=96 * MIB, memory_swap_limit_in_bytes=128 * MIB)
    assert d.limits(cid)["memory.memsw.limit_in_bytes"] == str(32 * MIB if V2 else 128 * MIB)
    assert told(d, cid).memory_swap_limit_in_bytes == 128 * MIB
    with fails("INVALID_ARGUMENT", "memory_swap_limit_in_bytes", "less than the memory limit"):
        update(d, cid, memory_limit_in_bytes=256 * MIB)
    other = d.run_ctr(d.run_pod(), "sleep", "1000", name="other")
    with fails("INVALID_ARGUMENT", "memory_swap_limit_in_bytes", "without a memory limit"):
        update(d, other, memory_swap_limit_in_bytes=64 * MIB)
    assert told(d, cid).memory_limit_in_bytes == 96 * MIB and told(d, other).memory_swap_limit_in_bytes == 0


@pytest.mark.skipif(not V2, reason="needs cgroup v2")
def test_unified(real):
    cid = real.run_ctr(real.run_pod(), "sleep", "1000")

    def high():
        return real.cgroup_file(cid, "-", "memory.high"), real.cgroup_file(cid, "-", "memory.low")
    update(real, cid, unified={"memory.high": str(64 * MIB)})
    assert high() == (str(64 * MIB), "0") and dict(told(real, cid).unified) == {"memory.high": str(64 * MIB)}
    for key in ("memory.current", "memory.none", "cpu.pressure", "memory.reclaim"):
        with fails("INVALID_ARGUMENT", cid, f'"{key}"'):
            update(real, cid, cpu_shares=300, unified={"memory.high": "max", key: "1"})
    # The runtime goes through them in an order of its own: what it got to is taken back.
    for key in ("cpu.max", "pids.max"):
        with fails("INVALID_ARGUMENT", cid):
            update(real, cid, unified={"memory.high": str(32 * MIB), "memory.low": str(MIB), key: "lots"})
    assert high() == (str(64 * MIB), "0") and dict(told(real, cid).unified) == {"memory.high": str(64 * MIB)}


@pytest.mark.skipif(V2, reason="of cgroup v1")
def test_unified_is_of_v2(real):
    cid = real.run_ctr(real.run_pod(), "sleep", "1000")
    with fails("FAILED_PRECONDITION", cid, "resources.unified"):
        update(real, cid, cpu_shares=300, unified={"memory.high": "max"})
    assert real.limits(cid)["cpu.shares"] == "1024"


def test_the_score(real):
    cid = real.run_ctr(real.run_pod(), "sh", "-c", "sleep 1000 & sleep 1001 & echo 900 > /proc/$!/oom_score_adj; echo up; wait",
                       resources=pb().LinuxContainerResources(oom_score_adj=100))

    def scores():
        return sorted(real.sh(cid, "for p in $(pidof sleep) 1; do cat /proc/$p/oom_score_adj; done").split())
    wait_for(lambda: scores() == ["100", "100", "900"])
    update(real, cid, cpu_shares=300)
    assert scores() == ["100", "100", "900"], "nobody spoke of it"
    update(real, cid, oom_score_adj=400)
    assert scores() == ["400"] * 3 and told(real, cid).oom_score_adj == 400
    update(real, cid, oom_score_adj=5000)
    assert scores() == ["1000"] * 3 and told(real, cid).oom_score_adj == 1000


@pytest.mark.skipif(not daemon.built("plugins/runtime-runc/berth-join"), reason="no berth-join")
def test_the_score_of_a_later_command(make_daemon):
    d = make_daemon(config={"runtimes": {"default": "runc", "handlers": {"runc": {
        "plugin": "runtime-runc", "path": daemon.RUNC, "exec_helper": daemon.built("plugins/runtime-runc/berth-join")}}}})
    cid = d.run_ctr(d.run_pod(), "sleep", "1000", resources=pb().LinuxContainerResources(oom_score_adj=100))
    assert d.sh(cid, "cat /proc/self/oom_score_adj").strip() == "100"
    update(d, cid, oom_score_adj=400)
    assert d.sh(cid, "cat /proc/self/oom_score_adj").strip() == "400"


def test_a_container_that_is_not_started(real):
    cid = real.create(real.run_pod(), "sleep", "1000")
    update(real, cid, cpu_shares=300, oom_score_adj=400, cpuset_cpus="0")
    real.start_ctr(cid)
    assert real.limits(cid)["cpuset.cpus"] == "0"
    assert real.sh(cid, "cat /proc/1/oom_score_adj").strip() == "400"
    real.stop_ctr(cid)
    with fails("FAILED_PRECONDITION", cid):
        update(real, cid, cpu_shares=500)


@pytest.fixture
def pages():
    """A few huge pages for who wants them."""
    if not os.path.exists(PAGES):
        pytest.skip("no huge pages of 2 MiB")
    with open(PAGES) as f:
        was = int(f.read())
    with open(PAGES, "w") as f:
        f.write(str(was + 4))
    with open(PAGES) as f:
        got = int(f.read())
    if got == was + 4:
        yield
    with open(PAGES, "w") as f:
        f.write(str(was))
    if got != was + 4:
        pytest.skip("no memory for huge pages")


MAP = """import mmap, time
m = mmap.mmap(-1, 2 << 21, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
m[0] = m[2 << 20] = 1
"""


# Beside the hierarchies that are there, and nobody else sees it.
MOUNT_HUGETLB = """
at=/sys/fs/cgroup; aside=$(mktemp -d) && mount --rbind $at "$aside" && mount -t tmpfs -o mode=755 cgroup $at || exit 1
for h in "$aside"/*; do mkdir "$at/${h##*/}" && mount --rbind "$h" "$at/${h##*/}" || exit 1; done
umount -R -l "$aside"; rmdir "$aside"
mkdir $at/hugetlb && mount -t cgroup -o hugetlb hugetlb $at/hugetlb || exit 1"""


class Huge:
    """A daemon with the controller of huge pages, on v1 in a hierarchy that is made for it."""

    def __init__(self, d):
        self.d = d
        if not V2 and not os.path.exists("/sys/fs/cgroup/hugetlb/cgroup.procs"):
            d.prepare = MOUNT_HUGETLB
            if subprocess.run(["unshare", "-m", "sh", "-c", d.prepare], stderr=subprocess.DEVNULL).returncode:
                pytest.skip("no hugetlb controller")
        d.start()
        d.image_id = d.import_image()

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        """Nobody else sees what is left in that hierarchy."""
        self.d.remove_all()
        for top in glob.glob(f"/proc/{self.d.proc.pid}/root/sys/fs/cgroup/hugetlb/berth-test"):
            for at, _, _ in os.walk(top, topdown=False):
                os.rmdir(at)

    def file(self, cid):
        root = f"/proc/{self.d.proc.pid}/root/sys/fs/cgroup"
        at = f"{self.d.cgroup_path}/*{cid}*"
        v2 = "hugetlb.2MB.max"
        got = (glob.glob(f"{root}/hugetlb{at}/hugetlb.2MB.limit_in_bytes") or glob.glob(f"{root}{at}/container/{v2}") or
               glob.glob(f"{root}{at}/{v2}"))
        assert len(got) == 1, got
        return got[0]

    def limit(self, cid):
        with open(self.file(cid)) as f:
            return f.read().strip()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_huge_pages(make_daemon, pages, runtime):
    if not os.path.exists(daemon.RUNTIMES[runtime]):
        pytest.skip(f"no {runtime}")
    d = make_daemon(start=False, runtime=runtime)
    with Huge(d) as h:
        change_huge_pages(d, h)
    d.check_clean()


def change_huge_pages(d, h):
    m = pb()

    def two(limit, size="2MB"):
        return [m.HugepageLimit(page_size=size, limit=limit)]
    cid = d.run_ctr(d.run_pod(), "sleep", "1000", resources=m.LinuxContainerResources(hugepage_limits=two(4 * MIB)))
    assert h.limit(cid) == str(4 * MIB)
    update(d, cid, hugepage_limits=two(6 * MIB + 5))
    assert h.limit(cid) == str(6 * MIB) and told(d, cid).hugepage_limits[0].limit == 6 * MIB
    update(d, cid, cpu_shares=300)
    assert h.limit(cid) == str(6 * MIB), "an update of something else brought the limit of the creation back"
    shares = d.limits(cid)["cpu.shares"]
    for size in ("3MB", "2048KB", "2mb"):
        with fails("INVALID_ARGUMENT", cid, "resources.hugepage_limits", size):
            update(d, cid, cpu_shares=400, hugepage_limits=two(8 * MIB) + two(0, size))
    assert h.limit(cid) == str(6 * MIB) and d.limits(cid)["cpu.shares"] == shares and told(d, cid).cpu_shares == 300
    # What is in use cannot be limited any more, and the kernel says so when all else is written.
    before, status, scope = d.limits(cid), told(d, cid), unit(d, cid)
    procs = os.path.join(os.path.dirname(h.file(cid)), "cgroup.procs")
    user = subprocess.Popen(["/usr/bin/python3", "-c", f"import os\nopen({procs!r}, 'w').write(str(os.getpid()))\n{MAP}"
                             "print('up', flush=True)\ntime.sleep(1000)"], stdout=subprocess.PIPE, text=True)
    try:
        assert user.stdout.readline() == "up\n"
        with fails("FAILED_PRECONDITION", cid, "hugetlb.2MB"):
            update(d, cid, cpuset_cpus="0", cpu_shares=500, memory_limit_in_bytes=256 * MIB, hugepage_limits=two(2 * MIB))
    finally:
        user.kill()
        user.wait()
    assert h.limit(cid) == str(6 * MIB) and d.limits(cid) == before and told(d, cid) == status
    assert unit(d, cid) == scope
    d.restart()
    assert told(d, cid) == status
    update(d, cid, hugepage_limits=two((1 << 64) - 1))
    assert h.limit(cid) == "max" or int(h.limit(cid)) > 1 << 60


# ---- who ends in the middle, and who comes after it ----

def test_what_a_later_daemon_tells(make_daemon):
    d = make_daemon()
    cid = d.run_ctr(d.run_pod(), "sleep", "1000")
    update(d, cid, cpu_shares=300, memory_limit_in_bytes=64 * MIB, oom_score_adj=400, cpuset_cpus="0")
    before = told(d, cid)
    with fails("INVALID_ARGUMENT"):
        update(d, cid, cpu_shares=500, cpuset_cpus="60000")
    d.kill9()
    d.start()
    assert told(d, cid) == before and before.cpuset_cpus == "0"
    assert d.limits(cid)["memory.limit_in_bytes"] == str(64 * MIB)


def test_what_cannot_be_written_down_is_not_done(make_daemon):
    d = make_daemon()
    cid = d.run_ctr(d.run_pod(), "sleep", "1000")
    before = d.limits(cid)
    at = f"{d.run}/containers/{cid}"
    subprocess.run(f"mount --bind {at} {at} && mount -o remount,bind,ro {at}", shell=True, check=True)
    try:
        with fails("INTERNAL", cid, "ctr.json"):
            update(d, cid, cpu_shares=300, cpuset_cpus="0")
    finally:
        subprocess.run(["umount", at], check=True)
    assert d.limits(cid) == before and told(d, cid).cpu_shares == 0


@needs_faults
@pytest.mark.parametrize("point,done", [("ctr-update-before", False), ("ctr-update-after", False), ("ctr-updated-after", True)])
def test_killed_in_an_update(make_daemon, point, done):
    d = make_daemon(start=False)
    d.start()
    d.image_id = d.import_image()
    cid = d.run_ctr(d.run_pod(), "sleep", "1000")
    before, status = d.limits(cid), told(d, cid)
    d.stop()
    d.start(env={"BERTH_FAULT": point})
    with pytest.raises(grpc.RpcError):
        update(d, cid, cpu_shares=300, memory_limit_in_bytes=64 * MIB, cpuset_cpus="0", oom_score_adj=400)
    d.dead()
    d.start()
    now, score = d.limits(cid), d.sh(cid, "cat /proc/1/oom_score_adj").strip()
    if done:
        assert now["memory.limit_in_bytes"] == str(64 * MIB) and told(d, cid).memory_limit_in_bytes == 64 * MIB
        assert score == "400"
    else:
        assert now == before and told(d, cid) == status and score == "0"
    with open(f"{d.run}/containers/{cid}/ctr.json") as f:
        assert "update" not in json.load(f)
    update(d, cid, cpu_shares=400)
    assert told(d, cid).cpu_shares == 400


# ---- pods ----

def info(d, pod):
    return json.loads(d.rt.PodSandboxStatus(pb().PodSandboxStatusRequest(pod_sandbox_id=pod[0], verbose=True)).info["info"])


def update_pod(d, pod, **kw):
    d.rt.UpdatePodSandboxResources(pb().UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod[0], **kw), timeout=60)


def test_resources_of_a_pod_are_kept(make_daemon):
    m = pb()
    d = make_daemon(fake=True)
    config = d.pod_config(name="p")
    config.linux.overhead.cpu_shares = 100
    config.linux.resources.memory_limit_in_bytes = 64 * MIB
    pod, plain = d.run_pod(config=config), d.run_pod()
    assert (info(d, pod)["overhead"], info(d, pod)["resources"]) == ({"cpu_shares": 100}, {"memory_limit_in_bytes": 64 * MIB})
    assert not {"overhead", "resources"} & set(info(d, plain))
    update_pod(d, pod, resources=m.LinuxContainerResources(cpu_quota=50000, cpu_period=100000, memory_limit_in_bytes=96 * MIB))
    want = {"cpu_quota": 50000, "cpu_period": 100000, "memory_limit_in_bytes": 96 * MIB}
    for again in (False, True):
        if again:
            d.kill9()
            d.start()
        got = info(d, pod)
        assert (got["overhead"], got["resources"]) == ({"cpu_shares": 100}, want)
    with fails("INVALID_ARGUMENT", pod[0], "cpu_period"):
        update_pod(d, pod, overhead=m.LinuxContainerResources(cpu_shares=300), resources=m.LinuxContainerResources(cpu_period=5))
    at = f"{d.run}/pods/{pod[0]}"
    subprocess.run(f"mount --bind {at} {at} && mount -o remount,bind,ro {at}", shell=True, check=True)
    try:
        with fails("INTERNAL", pod[0], "pod.json"):
            update_pod(d, pod, overhead=m.LinuxContainerResources(cpu_shares=300))
    finally:
        subprocess.run(["umount", at], check=True)
    assert info(d, pod) == got
    d.stop_pod(pod)
    with fails("FAILED_PRECONDITION", pod[0]):
        update_pod(d, pod, overhead=m.LinuxContainerResources(cpu_shares=300))
    assert info(d, pod)["resources"] == want
    d.remove_pod(pod)
    with fails("NOT_FOUND", pod[0]):
        update_pod(d, pod, overhead=m.LinuxContainerResources(cpu_shares=300))
    d.remove_all()
    d.check_clean()
