"""The life of pods and containers with each OCI runtime."""
import json
import os
import time

import pytest

from daemon import busybox_image, fails, needs_cni, needs_daemon, pb, wait_for
from pullharness import Tar
from streamclient import RESIZE, STDIN, WebSocket

pytestmark = needs_daemon
RUNTIMES = ["runc", "crun"]


def update(d, cid, **kw):
    d.rt.UpdateContainerResources(pb().UpdateContainerResourcesRequest(
        container_id=cid, linux=pb().LinuxContainerResources(**kw)), timeout=30)


@needs_cni
def test_a_whole_life(real):
    pod = real.run_pod(host_network=False)
    ip = real.pod_status(pod).network.ip
    cid = real.create(pod, "sh", "-c", "echo out; echo err >&2; trap 'exit 9' TERM; while :; do sleep 0.05; done",
                      name="c", envs=[pb().KeyValue(key="A", value=b"1")], working_dir="/tmp")
    assert real.status(cid).state == pb().CONTAINER_CREATED
    real.start_ctr(cid)
    assert real.status(cid).state == pb().CONTAINER_RUNNING
    wait_for(lambda: len(real.log_lines(pod, "c")) == 2)
    assert sorted(real.log_lines(pod, "c")) == [("stderr", "err"), ("stdout", "out")]
    assert real.sh(cid, "echo $A; pwd; hostname -i 2>/dev/null || ip -4 addr") .startswith("1\n/tmp\n")
    assert ip in real.sh(cid, "ip -4 addr show eth0 || ifconfig eth0")
    assert ip.startswith("10.")
    real.stop_ctr(cid, grace=20)
    st = real.status(cid)
    assert (st.state, st.exit_code) == (pb().CONTAINER_EXITED, 9)
    with fails("FAILED_PRECONDITION", cid):
        real.exec(cid, "true")
    real.remove_ctr(cid)
    real.stop_pod(pod)
    real.remove_pod(pod)
    real.check_clean()


def test_exits_are_told(real):
    pod = real.run_pod()
    for n, (script, code) in enumerate([("exit 0", 0), ("exit 33", 33)]):
        cid = real.run_ctr(pod, "sh", "-c", script, name=f"c{n}")
        assert real.wait_exit(cid).exit_code == code


def test_a_shared_pid_namespace(real):
    pod = real.run_pod(pid=0)
    a, b = (real.run_ctr(pod, "sleep", "1000", name=n) for n in "ab")
    assert real.sh(a, "readlink /proc/self/ns/pid") == real.sh(b, "readlink /proc/self/ns/pid")
    assert real.sh(a, "ps -o args").count("sleep 1000") == 2
    real.stop_ctr(b)
    assert real.sh(a, "ps -o args").count("sleep 1000") == 1


def test_a_terminal(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "stty size; tty; sleep 1000", tty=True)
    wait_for(lambda: any("/dev/" in t for _, t in real.log_lines(pod)))
    url = real.rt.Exec(pb().ExecRequest(container_id=cid, cmd=["sh"], stdin=True, stdout=True, tty=True), timeout=20).url
    with WebSocket(url) as c:
        c.send(RESIZE, b'{"Width":80,"Height":25}')
        time.sleep(0.3)
        c.send(STDIN, b"/bin/busybox stty size; tty; echo e''nd\n")
        s = c.until(lambda s: b"end\r\n" in s.out) or c
        c.send(STDIN, b"exit 6\n")
        s = c.finish()
        assert b"25 80" in s.out and b"/dev/pts/" in s.out and s.code == 6


def test_what_cannot_be_created(real):
    pod = real.run_pod()
    for command, code, text in (("/no/such/command", "NOT_FOUND", "/no/such/command"),
                                ("nosuchcommand", "NOT_FOUND", "nosuchcommand"),
                                ("/etc/passwd", "PERMISSION_DENIED", "ermission denied")):
        with fails(code, text):
            real.start_ctr(real.create(pod, command))
        for c in real.ctrs():
            real.remove_ctr(c.id)
    assert real.ctrs() == [] and os.listdir(f"{real.run}/containers") == []


def test_limits_are_changed(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sleep", "1000", resources=pb().LinuxContainerResources(
        memory_limit_in_bytes=64 << 20, cpu_shares=512, cpu_quota=50000, cpu_period=100000))

    def limits():
        return (real.cgroup_file(cid, "memory.limit_in_bytes", "memory.max"),
                real.status(cid).resources.linux.memory_limit_in_bytes, real.status(cid).resources.linux.cpu_shares)
    assert limits() == (str(64 << 20), 64 << 20, 512)
    update(real, cid, memory_limit_in_bytes=96 << 20, cpu_shares=256)
    assert limits() == (str(96 << 20), 96 << 20, 256)
    update(real, cid, cpuset_cpus="0")
    assert real.cgroup_file(cid, "cpuset.cpus", "cpuset.cpus") == "0"
    # What cannot be is told, and changes nothing.
    for bad in ("99-", "1-0", "x"):
        with fails("INVALID_ARGUMENT", "cpuset_cpus"):
            update(real, cid, memory_limit_in_bytes=128 << 20, cpuset_cpus=bad)
        assert limits() == (str(96 << 20), 96 << 20, 256)
    with fails("INVALID_ARGUMENT|PERMISSION_DENIED|FAILED_PRECONDITION", cid):
        update(real, cid, cpuset_cpus="60000")
    assert real.cgroup_file(cid, "cpuset.cpus", "cpuset.cpus") == "0"
    assert real.status(cid).resources.linux.cpuset_cpus == "0"


def test_an_end_for_want_of_memory(real):
    """The reason is told each time, however soon the cgroup goes; and it is told of no other container."""
    pod = real.run_pod()
    limit = pb().LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    other = real.run_ctr(pod, "sleep", "1000", name="other", resources=limit)
    for n in range(4):
        cid = real.run_ctr(pod, "dd", "if=/dev/zero", "of=/dev/null", "bs=96M", "count=1", name=f"c{n}", resources=limit)
        st = real.wait_exit(cid)
        assert (st.reason, st.exit_code) == ("OOMKilled", 137)
    assert real.status(other).state == pb().CONTAINER_RUNNING
    os.kill(json.loads(real.status(other, verbose=True).info["info"])["pid"], 9)
    assert real.wait_exit(other).reason == "Error"


def test_what_a_runtime_cannot_do_is_the_request_s_fault(real):
    pod = real.run_pod()
    link = real.import_image(busybox_image(more=[Tar().sym("link", "/proc")]), "localhost/berth/link:1")
    bad = {"memory": dict(resources=pb().LinuxContainerResources(memory_limit_in_bytes=1)),
           "proc": dict(mounts=[pb().Mount(container_path="/proc/sys", host_path="/tmp")])}
    if real.runtime == "runc":
        bad["shares"] = dict(resources=pb().LinuxContainerResources(cpu_shares=1))
        bad["link"] = dict(mounts=[pb().Mount(container_path="/link/sys", host_path="/tmp")], image=link)
    for name, kw in bad.items():
        with fails("INVALID_ARGUMENT"):
            real.create(pod, "true", name=name, **kw)
    assert real.ctrs() == []
    real.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=link)), timeout=60)
