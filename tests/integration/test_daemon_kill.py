"""berthd is killed at every fault point, started again, and nothing is lost and nothing left."""
import glob
import json
import os
import re
import signal
import subprocess
import time

import grpc
import pytest

import daemon
from daemon import IMAGE, Daemon, busybox_image, fails, has_faults, needs_cni, needs_daemon, needs_faults, pb, wait_for

pytestmark = needs_daemon


# Met where there are two drivers alone: test_daemon_drivers.py kills it there. So does test_daemon_checkpoint.py.
ELSEWHERE = re.compile("layer-source-viewed|checkpoint-.*")


def points():
    """The names in the source: a scenario below must pass each of them."""
    names = []
    for path in sorted(glob.glob(os.path.join(daemon.REPO, "core/**/*.c"), recursive=True)):
        with open(path) as f:
            names += re.findall(r'berth_fault\("([a-z0-9-]+)"\)', f.read())
    assert len(names) == len(set(names)), "a fault point's name is used twice"
    return [n for n in names if not ELSEWHERE.fullmatch(n)]


class Client:
    """Does everything once, and remembers what was acknowledged."""

    def __init__(self, d, cni):
        self.d = d
        self.cni = cni
        self.pod_config = d.pod_config(name="p", host_network=not cni, pid=0)
        self.other_config = d.pod_config(name="q")
        self.pods, self.ctrs, self.images = {}, {}, set()  # what must be there: id -> state
        self.gone = set()  # what must not be there any more
        self.steps = [self.do_import, self.do_run, self.do_create, self.do_start, self.do_update, self.do_exec,
                      self.do_short, self.do_stop, self.do_remove_ctr, self.do_stop_pod, self.do_remove_pod, self.do_remove_image]

    def step(self, n):
        self.steps[n]()

    def do_import(self):
        self.image = self.d.import_image()
        self.images.add(self.image)

    def do_run(self):
        self.pod = self.d.run_pod(config=self.pod_config)
        self.pods[self.pod[0]] = pb().SANDBOX_READY
        self.other = self.d.run_pod(config=self.other_config)
        self.pods[self.other[0]] = pb().SANDBOX_READY

    def do_create(self):
        part = pb().Mount(container_path="/mnt", image=pb().ImageSpec(image=IMAGE), image_sub_path="bin", readonly=True)
        self.long = self.d.create(self.pod, "sh", "-c", "echo up; sleep 1000", name="long", pid=0, mounts=[part])
        self.ctrs[self.long] = pb().CONTAINER_CREATED
        self.short = self.d.create(self.other, "sh", "-c", "exit 9", name="short")
        self.ctrs[self.short] = pb().CONTAINER_CREATED

    def do_start(self):
        self.d.start_ctr(self.long)
        self.ctrs[self.long] = pb().CONTAINER_RUNNING

    def do_update(self):
        self.d.rt.UpdateContainerResources(pb().UpdateContainerResourcesRequest(
            container_id=self.long, linux=pb().LinuxContainerResources(memory_limit_in_bytes=64 << 20)), timeout=60)

    def do_exec(self):
        assert self.d.exec(self.long, "sh", "-c", "sleep 0.2; echo x").stdout == b"x\n"

    def do_short(self):
        self.d.start_ctr(self.short)
        assert self.d.wait_exit(self.short).exit_code == 9
        self.ctrs[self.short] = pb().CONTAINER_EXITED

    def do_stop(self):
        self.d.stop_ctr(self.long)
        self.ctrs[self.long] = pb().CONTAINER_EXITED

    def do_remove_ctr(self):
        self.d.remove_ctr(self.long)
        self.ctrs.pop(self.long, None)
        self.gone.add(self.long)

    def do_stop_pod(self):
        self.d.stop_pod(self.pod)
        self.pods[self.pod[0]] = pb().SANDBOX_NOTREADY

    def do_remove_pod(self):
        for p in (self.pod, self.other):
            self.d.remove_pod(p)
            self.pods.pop(p[0], None)
            self.gone.add(p[0])
        self.ctrs.clear()

    def do_remove_image(self):
        self.d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=IMAGE)), timeout=60)
        self.images.clear()

    def check(self, step):
        """What was acknowledged is there. The step that was cut off may have come through or not."""
        d = self.d
        pods = {p.id: p.state for p in d.pods()}
        ctrs = {c.id: c.state for c in d.ctrs()}
        images = {i.id for i in d.img.ListImages(pb().ListImagesRequest()).images}
        assert not self.gone & (set(pods) | set(ctrs)), "something removed has come back"
        removing = self.steps[step] in (self.do_remove_pod, self.do_remove_ctr)
        if not removing:
            assert set(self.pods) <= set(pods), "an acknowledged pod is lost"
            assert set(self.ctrs) <= set(ctrs), "an acknowledged container is lost"
        if self.steps[step] != self.do_remove_image:
            assert self.images <= images, "an acknowledged image is lost"
        for i, state in self.pods.items():
            if i in pods and self.steps[step] not in (self.do_stop_pod, self.do_remove_pod):
                assert pods[i] == state, (i, pods[i], state)
        for i, state in self.ctrs.items():
            if i not in ctrs:
                continue
            allowed = {state}
            if self.steps[step] in (self.do_start, self.do_short):
                allowed |= {pb().CONTAINER_RUNNING, pb().CONTAINER_EXITED}
            if self.steps[step] in (self.do_stop, self.do_stop_pod, self.do_remove_pod, self.do_remove_ctr):
                allowed.add(pb().CONTAINER_EXITED)
            assert ctrs[i] in allowed, (i, ctrs[i], allowed)
        short = getattr(self, "short", None)
        if short in ctrs and ctrs[short] == pb().CONTAINER_EXITED:
            assert d.status(short).exit_code == 9
        if self.steps[step] == self.do_update:  # what is told is what is in force
            limit = d.status(self.long).resources.linux.memory_limit_in_bytes
            now = d.cgroup_file(self.long, "memory.limit_in_bytes", "memory.max")
            assert (limit == 0 and (now == "max" or int(now) > 1 << 60)) or str(limit) == now, (limit, now)
        # Half-made things are gone: what is on disk is what is listed.
        assert set(os.listdir(f"{d.run}/pods")) == set(pods)
        assert set(os.listdir(f"{d.run}/containers")) == set(ctrs)

    def retry(self, n):
        """As a kubelet does: a start is only retried where it did not come through."""
        d = self.d
        if self.steps[n] == self.do_run:
            have = {p.metadata.name: p.id for p in d.pods()}
            for name, attr, config in (("p", "pod", self.pod_config), ("q", "other", self.other_config)):
                setattr(self, attr, (have[name], config) if name in have else d.run_pod(config=config))
                self.pods[getattr(self, attr)[0]] = pb().SANDBOX_READY
        elif self.steps[n] == self.do_create:
            have = {c.metadata.name: c.id for c in d.ctrs()}
            if "long" not in have:
                self.do_create() if "short" not in have else None
            else:
                self.long = have["long"]
                self.short = have.get("short") or d.create(self.other, "sh", "-c", "exit 9", name="short")
                self.ctrs.update({self.long: pb().CONTAINER_CREATED, self.short: pb().CONTAINER_CREATED})
        elif self.steps[n] == self.do_start:
            if d.status(self.long).state == pb().CONTAINER_CREATED:
                d.start_ctr(self.long)
            self.ctrs[self.long] = pb().CONTAINER_RUNNING
        elif self.steps[n] == self.do_short:
            if d.status(self.short).state == pb().CONTAINER_CREATED:
                d.start_ctr(self.short)
            assert d.wait_exit(self.short).exit_code == 9
            self.ctrs[self.short] = pb().CONTAINER_EXITED
        else:
            self.step(n)

    def finish(self, first):
        for n in range(first, len(self.steps)):
            self.step(n)


def check_empty(d):
    d.check_clean()
    left = [s for s in d.snapshots() if "chain" in s or "sha256" in s or re.search("[0-9a-f]{32}", s)]
    assert not left, left
    assert not os.listdir(f"{d.root}/images")


@needs_faults
def test_every_fault_point_is_passed(make_daemon):
    d = make_daemon(image=False, start=False)
    listing = f"{d.tmp}/points"
    d.start(env={"BERTH_FAULT_LIST": listing})
    Client(d, daemon.missing_cni() is None).finish(0)
    check_empty(d)
    d.stop()
    with open(listing) as f:
        passed = set(f.read().split())
    assert passed == set(points())


@needs_faults
@pytest.mark.parametrize("point", points())
def test_killed_at(make_daemon, point):
    d = make_daemon(image=False, start=False)
    c = Client(d, daemon.missing_cni() is None)
    d.start(env={"BERTH_FAULT": point})
    n = 0
    try:
        while n < len(c.steps):
            c.step(n)
            n += 1
    except grpc.RpcError as e:
        assert e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED), e
    assert n < len(c.steps), "the fault point was not met"
    d.dead()
    d.start()
    c.check(n)
    c.retry(n)
    c.finish(n + 1)
    check_empty(d)


# ---- killed while containers run ----

@needs_cni
def test_running_containers_are_adopted(make_daemon):
    d = make_daemon()
    pod = d.run_pod(host_network=False, labels={"a": "b"})
    shared = d.run_pod(pid=0)
    stays = d.run_ctr(pod, "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done", name="stays")
    ends = d.run_ctr(pod, "sh", "-c", "sleep 1.5; exit 42", name="ends")
    killed = d.run_ctr(pod, "sleep", "1000", name="killed")
    created = d.create(pod, "sh", "-c", "echo late; exit 5", name="created")
    over = d.run_ctr(pod, "sh", "-c", "exit 3", name="over")
    inner = d.run_ctr(shared, "sleep", "1000", name="inner", pid=0)
    before = d.wait_exit(over)
    ip = d.pod_status(pod).network.ip
    host_pid = json.loads(d.status(killed, verbose=True).info["info"])["pid"]
    d.kill9()
    os.kill(host_pid, signal.SIGKILL)
    time.sleep(2)
    d.start()
    assert d.pod_status(pod).network.ip == ip and dict(d.pod_status(pod).labels) == {"a": "b"}
    assert d.status(stays).state == pb().CONTAINER_RUNNING
    for cid, code in ((ends, 42), (killed, 137), (over, 3)):
        st = d.wait_exit(cid)
        assert st.exit_code == code, st
    assert d.status(over).finished_at == before.finished_at and d.status(over).started_at == before.started_at
    assert d.status(ends).finished_at < time.time_ns() - 200_000_000, "the time of the exit is not that of the start"
    d.start_ctr(created)
    assert d.wait_exit(created).exit_code == 5
    assert d.log_lines(pod, "created") == [("stdout", "late")]
    n = len(d.log_lines(pod, "stays"))
    wait_for(lambda: len(d.log_lines(pod, "stays")) > n + 3)
    got = [int(t) for _, t in d.log_lines(pod, "stays")]
    assert got == list(range(len(got)))
    assert d.exec(stays, "echo", "x").stdout == b"x\n"
    assert "sleep" in d.sh(inner, "ps -o args")
    late = d.run_ctr(shared, "sleep", "1000", name="later", pid=0)
    assert d.sh(late, "readlink /proc/self/ns/pid") == d.sh(inner, "readlink /proc/self/ns/pid")
    d.stop_ctr(stays)
    assert d.status(stays).exit_code == 137


@pytest.mark.parametrize("ends", [False, True], ids=["runs on", "ends meanwhile"])
def test_a_start_that_cannot_be_written_down(make_daemon, ends):
    """It is one all the same, and a later daemon finds out by itself."""
    d = make_daemon()
    pod = d.run_pod()
    cid = d.create(pod, "sh", "-c", "sleep 1000; exit 4")
    at = f"{d.run}/containers/{cid}"
    subprocess.run(f"mount --bind {at} {at} && mount -o remount,bind,ro {at}", shell=True, check=True)
    try:
        d.start_ctr(cid)
    finally:
        subprocess.run(["umount", at], check=True)
    assert "a start was not written down" in d.log()
    st = d.status(cid)
    assert st.state == pb().CONTAINER_RUNNING and d.exec(cid, "echo", "x").stdout == b"x\n"
    with open(f"{at}/ctr.json") as f:
        assert json.load(f)["phase"] == "created"
    pid = json.loads(d.status(cid, verbose=True).info["info"])["pid"]
    d.kill9()
    if ends:
        os.kill(pid, signal.SIGKILL)
    d.start()
    again = d.wait_exit(cid) if ends else d.status(cid)
    assert abs(again.started_at - st.started_at) < 2_000_000_000
    if ends:
        assert again.exit_code == 137
    else:
        assert again.state == pb().CONTAINER_RUNNING
        assert json.loads(d.status(cid, verbose=True).info["info"])["pid"] == pid
    d.stop_ctr(cid)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def monitor_of(d, cid):
    return next(pid for pid, line in d.pids() if "berth-monitor" in line and cid in line)


def test_a_monitor_is_killed(make_daemon):
    d = make_daemon()
    pod = d.run_pod()
    a = d.run_ctr(pod, "sh", "-c", "sleep 1.5; exit 7", name="a")
    b = d.run_ctr(pod, "sleep", "1000", name="b")
    for c in (a, b):
        os.kill(monitor_of(d, c), signal.SIGKILL)
    st = d.wait_exit(a)
    assert (st.exit_code, st.reason) in ((7, "Error"), (255, "Unknown"))
    assert d.status(b).state == pb().CONTAINER_RUNNING
    d.stop_ctr(b)
    assert d.status(b).exit_code in (137, 255)


def test_a_monitor_is_killed_while_no_berthd_runs(make_daemon):
    d = make_daemon()
    pod = d.run_pod()
    a = d.run_ctr(pod, "sh", "-c", "sleep 1; exit 0", name="a")
    b = d.run_ctr(pod, "sleep", "1000", name="b")
    d.kill9()
    for c in (a, b):
        os.kill(monitor_of(d, c), signal.SIGKILL)
    time.sleep(1.5)
    d.start()
    st = d.wait_exit(a)
    assert (st.exit_code, st.reason) == (255, "Unknown"), "nobody saw that exit"
    d.stop_ctr(b)
    assert d.status(b).exit_code in (137, 255)
    assert not [p for p in d.pids() if "sleep" in p[1]]


@pytest.mark.skipif(daemon.missing_cni() is not None, reason=str(daemon.missing_cni()))
def test_another_boot(make_daemon):
    d = make_daemon()
    pod = d.run_pod(host_network=False)
    shared = d.run_pod(pid=0)
    d.run_ctr(pod, "sleep", "1000")
    d.create(pod, "sleep", "1000", name="created")
    d.run_ctr(shared, "sleep", "1000", pid=0)
    inits = [d.pod_init(shared)]
    d.kill9()
    n = 0
    boot = open("/proc/sys/kernel/random/boot_id").read().strip()
    for path in glob.glob(f"{d.run}/*/*/*.json"):
        text = open(path).read()
        if boot in text:
            n += 1
            with open(path, "w") as f:
                f.write(text.replace(boot, "00000000-0000-4000-8000-000000000000"))
    assert n >= 5
    d.start()
    assert d.pods() == [] and d.ctrs() == []
    # A reboot ends processes, this did not: they are only the test's.
    for pid in [p for p, _ in d.pids()] + inits:
        os.kill(pid, signal.SIGKILL)
    assert d.lease_files() == []
    wait_for(lambda: not d.mounts() and not d.objects())
    assert {i.id for i in d.img.ListImages(pb().ListImagesRequest()).images} == {d.image_id}


def test_damaged_records(make_daemon):
    d = make_daemon()
    pod, whole = d.run_pod(), d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    other = d.run_ctr(whole, "sleep", "1000", name="damaged")
    fine = d.run_ctr(whole, "sleep", "1000", name="fine")
    d.kill9()
    for path, text in ((f"{d.run}/pods/{pod[0]}/pod.json", "{\"v\":"), (f"{d.run}/containers/{other}/ctr.json", "[]")):
        with open(path, "w") as f:
            f.write(text)
    d.start()
    assert [p.id for p in d.pods()] == [whole[0]]
    assert [c.id for c in d.ctrs()] == [fine]
    assert d.status(fine).state == pb().CONTAINER_RUNNING
    assert cid not in os.listdir(f"{d.run}/containers")
    assert not [p for p in d.pids() if cid in p[1] or other in p[1]]
    assert "removed" in d.log()


def test_restart_by_sigterm_keeps_everything(make_daemon):
    d = make_daemon()
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    before = d.status(cid)
    d.restart()
    assert d.status(cid) == before
    assert [p.id for p in d.pods()] == [pod[0]]


def test_two_daemons_on_one_directory(make_daemon):
    d = make_daemon(image=False)
    second = daemon.subprocess.run([os.path.join(daemon.build_dir(), "core/berthd"), "--config", f"{d.tmp}/berth.yaml",
                                    "--helpers", d.helpers], stdout=daemon.subprocess.PIPE,
                                   stderr=daemon.subprocess.STDOUT, text=True, timeout=60)
    assert second.returncode == 1
    assert d.run in second.stdout
    d.rt.Version(pb().VersionRequest())
