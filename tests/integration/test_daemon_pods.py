"""Pods and containers over CRI, with runc, overlay and CNI."""
import os
import signal
import socket
import threading
import time

import pytest

from daemon import SYSTEMD, IMAGE, fails, needs_cni, needs_daemon, pb, wait_for

pytestmark = needs_daemon


def test_version_and_status(real):
    v = real.rt.Version(pb().VersionRequest(version="v1"))
    assert (v.version, v.runtime_name, v.runtime_api_version) == ("0.1.0", "berth", "v1")
    assert v.runtime_version
    s = real.rt.Status(pb().StatusRequest(verbose=True))
    assert {c.type: c.status for c in s.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert [h.name for h in s.runtime_handlers] == ["", "runc"]
    assert real.run in s.info["config"]
    assert not real.rt.Status(pb().StatusRequest()).info
    assert real.rt.RuntimeConfig(pb().RuntimeConfigRequest()).linux.cgroup_driver == (pb().SYSTEMD if SYSTEMD else pb().CGROUPFS)


def test_a_pod_from_run_to_remove(real):
    pod = real.run_pod(labels={"app": "x"}, annotations={"note": "y"})
    s = real.pod_status(pod)
    assert s.state == pb().SANDBOX_READY and s.metadata == pod[1].metadata
    assert dict(s.labels) == {"app": "x"} and dict(s.annotations) == {"note": "y"}
    assert s.linux.namespaces.options.network == pb().NODE and s.network.ip == ""
    cid = real.create(pod, "sh", "-c", "echo out; echo err >&2; exit 3", labels={"c": "1"})
    st = real.status(cid)
    assert st.state == pb().CONTAINER_CREATED and st.started_at == 0 and st.exit_code == 0
    assert st.image_id == st.image_ref == real.image_id and st.image.image == IMAGE
    real.start_ctr(cid)
    st = real.wait_exit(cid)
    assert (st.exit_code, st.reason) == (3, "Error")
    assert 0 < st.created_at <= st.started_at <= st.finished_at <= time.time_ns()
    assert sorted(real.log_lines(pod)) == [("stderr", "err"), ("stdout", "out")]
    assert st.log_path == f"{pod[1].log_directory}/ctr.log"
    real.stop_pod(pod)
    assert real.pod_status(pod).state == pb().SANDBOX_NOTREADY
    with fails("FAILED_PRECONDITION", pod[0]):
        real.create(pod, "true", name="late")
    real.remove_ctr(cid)
    real.remove_pod(pod)
    with fails("NOT_FOUND", pod[0]):
        real.pod_status(pod)


@pytest.mark.parametrize("script,code,reason", [
    ("exit 0", 0, "Completed"), ("exit 1", 1, "Error"), ("exit 255", 255, "Error"), ("kill -9 $$", 137, "Error"),
    ("kill -ABRT $$", 134, "Error")])
def test_exit_codes(real, script, code, reason):
    # In a PID namespace of its own, PID 1 does not die of its own signals: a child does, on the node's.
    pod = real.run_pod(pid=2)
    cid = real.run_ctr(pod, "sh", "-c", script, pid=2)
    st = real.wait_exit(cid)
    assert (st.exit_code, st.reason) == (code, reason)


def test_a_command_that_is_not_there(real):
    pod = real.run_pod()
    cid = real.create(pod, "sh", name="good")
    try:
        bad = real.create(pod, "/no/such", name="bad")
    except Exception as e:  # runc tells at create or at start, by version
        assert "/no/such" in e.details()
    else:
        with fails("UNKNOWN|INTERNAL|INVALID_ARGUMENT|FAILED_PRECONDITION|NOT_FOUND", "/no/such", bad):
            real.start_ctr(bad)
        st = real.status(bad)
        assert (st.state, st.exit_code, st.reason) == (pb().CONTAINER_EXITED, 128, "StartError")
        assert "/no/such" in st.message
    real.remove_ctr(cid)
    assert cid not in [c.id for c in real.ctrs()]


def test_start_only_once(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sleep", "100")
    with fails("FAILED_PRECONDITION", cid, "running"):
        real.start_ctr(cid)
    real.stop_ctr(cid)
    with fails("FAILED_PRECONDITION", cid, "exited"):
        real.start_ctr(cid)


def test_a_created_container_is_stopped_and_removed(real):
    pod = real.run_pod()
    a, b = real.create(pod, "sleep", "100", name="a"), real.create(pod, "sleep", "100", name="b")
    real.stop_ctr(a, grace=10)
    assert real.status(a).state == pb().CONTAINER_EXITED
    assert real.status(a).exit_code != 0
    real.remove_ctr(b)
    with fails("NOT_FOUND", b):
        real.status(b)


def test_stop_with_grace(real):
    pod = real.run_pod()
    polite = real.run_ctr(pod, "sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: ("stdout", "up") in real.log_lines(pod))
    t = time.monotonic()
    real.stop_ctr(polite, grace=20)
    assert time.monotonic() - t < 10
    st = real.status(polite)
    assert (st.exit_code, st.reason) == (7, "Error")
    assert ("stdout", "bye") in real.log_lines(pod)


def test_stop_ends_in_sigkill(real):
    pod = real.run_pod()
    stubborn = real.run_ctr(pod, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: ("stdout", "up") in real.log_lines(pod))
    t = time.monotonic()
    real.stop_ctr(stubborn, grace=2)
    assert 1.9 < time.monotonic() - t < 8
    assert real.status(stubborn).exit_code == 137


def test_a_second_stop_shortens_the_first(real):
    pod = real.run_pod()
    stubborn = real.run_ctr(pod, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: ("stdout", "up") in real.log_lines(pod))
    first = real.rt.StopContainer.future(pb().StopContainerRequest(container_id=stubborn, timeout=300), timeout=60)
    time.sleep(0.3)
    assert not first.done()
    longer = real.rt.StopContainer.future(pb().StopContainerRequest(container_id=stubborn, timeout=400), timeout=60)
    time.sleep(0.2)
    assert not longer.done() and real.status(stubborn).state == pb().CONTAINER_RUNNING
    t = time.monotonic()
    real.stop_ctr(stubborn, grace=1)
    assert 0.8 < time.monotonic() - t < 6
    first.result()
    longer.result()


def test_what_is_unknown_is_stopped_and_removed(real):
    m, unknown = pb(), "f" * 64
    for i in (unknown, "no-such", "f" * 63):
        real.rt.StopContainer(m.StopContainerRequest(container_id=i))
        real.rt.RemoveContainer(m.RemoveContainerRequest(container_id=i))
        real.rt.StopPodSandbox(m.StopPodSandboxRequest(pod_sandbox_id=i))
        real.rt.RemovePodSandbox(m.RemovePodSandboxRequest(pod_sandbox_id=i))
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sleep", "100")
    for _ in range(2):
        real.stop_ctr(cid)
    for _ in range(2):
        real.remove_ctr(cid)
    for _ in range(2):
        real.stop_pod(pod)
    for _ in range(2):
        real.remove_pod(pod)


def test_remove_pod_takes_running_containers_along(real):
    pod = real.run_pod()
    ids = [real.run_ctr(pod, "sleep", "1000", name=f"c{i}") for i in range(3)]
    real.remove_pod(pod)
    assert not [c for c in real.ctrs() if c.id in ids]


def test_stop_pod_ends_its_containers(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sleep", "1000")
    real.stop_pod(pod)
    st = real.status(cid)
    assert (st.state, st.exit_code) == (pb().CONTAINER_EXITED, 137)


def test_prefixes(real):
    pods = [real.run_pod() for _ in range(20)]
    ids = [p[0] for p in pods]
    shared = next(i[0] for i in ids if sum(j[0] == i[0] for j in ids) > 1)
    with fails("INVALID_ARGUMENT", "ambiguous", shared):
        real.pod_status((shared, None))
    with fails("INVALID_ARGUMENT", "ambiguous"):
        real.remove_pod((shared, None))
    assert len(real.pods()) == 20
    assert real.pod_status((ids[0][:20], None)).id == ids[0]
    assert [p.id for p in real.pods(id=ids[0][:20])] == [ids[0]]
    assert sorted(p.id for p in real.pods(id=shared)) == sorted(i for i in ids if i[0] == shared)
    cid = real.create(pods[0], "true")
    assert real.status(cid[:12]).id == cid
    with fails("NOT_FOUND"):
        real.status(cid + "0")
    real.remove_ctr(cid[:30])
    assert real.ctrs() == []


def test_list_filters(real):
    m = pb()
    a = real.run_pod(labels={"app": "a", "tier": "1"})
    b = real.run_pod(labels={"app": "b", "tier": "1"})
    real.stop_pod(b)
    assert sorted(p.id for p in real.pods(label_selector={"tier": "1"})) == sorted([a[0], b[0]])
    assert [p.id for p in real.pods(label_selector={"tier": "1", "app": "a"})] == [a[0]]
    assert real.pods(label_selector={"tier": "2"}) == []
    assert [p.id for p in real.pods(state=m.PodSandboxStateValue(state=m.SANDBOX_NOTREADY))] == [b[0]]
    assert [p.id for p in real.pods(state=m.PodSandboxStateValue())] == [a[0]]
    assert real.pods(id=a[0], state=m.PodSandboxStateValue(state=m.SANDBOX_NOTREADY)) == []
    one = real.run_ctr(a, "sleep", "100", name="one", labels={"n": "1"})
    two = real.create(a, "sleep", "100", name="two", labels={"n": "2"})
    state = m.ContainerStateValue
    assert [c.id for c in real.ctrs(state=state(state=m.CONTAINER_RUNNING))] == [one]
    assert [c.id for c in real.ctrs(state=state(state=m.CONTAINER_CREATED))] == [two]
    assert real.ctrs(pod_sandbox_id=b[0]) == []
    assert len(real.ctrs(pod_sandbox_id=a[0])) == 2
    assert [c.id for c in real.ctrs(label_selector={"n": "2"})] == [two]
    assert [c.id for c in real.ctrs(id=two[:16])] == [two]
    listed = {c.id: c for c in real.ctrs()}
    assert listed[one].metadata.name == "one" and listed[one].pod_sandbox_id == a[0]
    assert listed[one].image_ref == listed[one].image_id == real.image_id


def test_names_are_taken(real):
    pod = real.run_pod(name="same")
    with fails("ALREADY_EXISTS", "same", pod[0]):
        real.run_pod(config=pod[1])
    cid = real.create(pod, "true")
    with fails("ALREADY_EXISTS", "ctr", cid):
        real.create(pod, "true")
    other = real.create(pod, "true", attempt=1)
    assert other != cid
    real.remove_pod(pod)
    again = real.run_pod(config=pod[1])
    assert again[0] != pod[0]


def test_environment_and_user(real):
    m = pb()
    pod = real.run_pod(hostname="inside")
    sc = m.LinuxContainerSecurityContext(run_as_user=m.Int64Value(value=1000), run_as_group=m.Int64Value(value=1000),
                                         supplemental_groups=[3000])
    cid = real.run_ctr(pod, "sh", "-c", "id; echo $FROM_IMAGE $MINE; pwd; sleep 100",
                       envs=[m.KeyValue(key="MINE", value=b"a b")], working_dir="/tmp", security_context=sc)
    lines = wait_for(lambda: (x := [t for _, t in real.log_lines(pod)]) and len(x) >= 3 and x)
    assert lines[0].startswith("uid=1000(user) gid=1000(user) groups=1000(user)") and "3000" in lines[0]
    assert "2000(extra)" in lines[0]
    assert lines[1:] == ["yes a b", "/tmp"]
    user = real.status(cid).user.linux
    assert (user.uid, user.gid) == (1000, 1000) and 3000 in user.supplemental_groups


def test_mounts(real):
    m = pb()
    host = f"{real.tmp}/vol"
    os.makedirs(f"{host}/sub")
    with open(f"{host}/f", "w") as f:
        f.write("hello")
    pod = real.run_pod()
    mounts = [m.Mount(container_path="/data", host_path=host),
              m.Mount(container_path="/ro", host_path=host, readonly=True),
              m.Mount(container_path="/etc/one", host_path=f"{host}/f", readonly=True)]
    cid = real.run_ctr(pod, "sleep", "100", mounts=mounts)
    assert real.sh(cid, "cat /data/f /etc/one; echo new > /data/sub/g") == "hellohello"
    assert open(f"{host}/sub/g").read() == "new\n"
    assert real.exec(cid, "touch", "/ro/x").exit_code != 0
    got = {x.container_path: x for x in real.status(cid).mounts}
    assert got["/data"].host_path == host and not got["/data"].readonly and got["/ro"].readonly
    with fails("INVALID_ARGUMENT", "relative/path"):
        real.create(pod, "true", name="bad", mounts=[m.Mount(container_path="/x", host_path="relative/path")])
    assert len(real.ctrs()) == 1


def test_an_image_that_is_not_there(real):
    pod = real.run_pod()
    with fails("NOT_FOUND", "localhost/none:1"):
        real.create(pod, "true", image="localhost/none:1")
    assert real.ctrs() == []


def test_resources(real):
    m = pb()
    pod = real.run_pod()
    r = m.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_quota=20000, cpu_period=100000, cpu_shares=512,
                                  oom_score_adj=500)
    cid = real.run_ctr(pod, "sleep", "100", resources=r)
    assert real.cgroup_file(cid, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert real.cgroup_file(cid, "cpu.cfs_quota_us", "cpu.max").split()[0] == "20000"
    assert real.sh(cid, "cat /proc/1/oom_score_adj").strip() == "500"
    got = real.status(cid).resources.linux
    assert (got.memory_limit_in_bytes, got.cpu_quota, got.cpu_shares) == (64 << 20, 20000, 512)


def test_out_of_memory(real):
    pod = real.run_pod()
    r = pb().LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    cid = real.run_ctr(pod, "sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=64M count=10", resources=r)
    st = real.wait_exit(cid)
    assert (st.exit_code, st.reason) == (137, "OOMKilled")


def test_log_reopen(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done")
    path = f"{pod[1].log_directory}/ctr.log"
    wait_for(lambda: len(real.log_lines(pod)) > 2)
    os.rename(path, path + ".1")
    real.rt.ReopenContainerLog(pb().ReopenContainerLogRequest(container_id=cid))
    assert os.path.exists(path)
    wait_for(lambda: len(real.log_lines(pod)) > 2)
    old = [int(x.split()[3]) for x in open(path + ".1")]
    new = [int(t) for _, t in real.log_lines(pod)]
    assert old + new == list(range(len(old) + len(new)))
    real.stop_ctr(cid)
    with fails("FAILED_PRECONDITION", cid):
        real.rt.ReopenContainerLog(pb().ReopenContainerLogRequest(container_id=cid))


def test_long_output(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "seq 1 20000; head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
    real.wait_exit(cid)
    lines = [t for _, t in real.log_lines(pod)]
    assert lines[:20000] == [str(i) for i in range(1, 20001)]
    assert lines[20000:] == ["x" * 100000, "end"]


# ---- pods on the node's and on their own namespaces ----

def test_host_namespaces(real):
    pod = real.run_pod(pid=2, ipc=2)
    cid = real.run_ctr(pod, "sleep", "100", pid=2)
    script = "for n in net ipc pid uts; do readlink /proc/self/ns/$n; done"
    assert real.sh(cid, script).split() == [os.readlink(f"/proc/self/ns/{n}") for n in ("net", "ipc", "pid", "uts")]


def test_shared_memory_and_hostname_of_a_pod(real):
    pod = real.run_pod()
    a, b = real.run_ctr(pod, "sleep", "100", name="a"), real.run_ctr(pod, "sleep", "100", name="b")
    real.sh(a, "echo hi > /dev/shm/x")
    assert real.sh(b, "cat /dev/shm/x") == "hi\n"
    assert real.sh(a, "readlink /proc/self/ns/ipc") == real.sh(b, "readlink /proc/self/ns/ipc")
    assert real.sh(a, "readlink /proc/self/ns/pid") != real.sh(b, "readlink /proc/self/ns/pid")
    assert real.sh(a, "readlink /proc/self/ns/ipc").strip() != os.readlink("/proc/self/ns/ipc")
    assert real.sh(a, "ps | grep -c sleep").strip() != "0"


def test_shared_pid_namespace(real):
    pod = real.run_pod(pid=0)
    a = real.run_ctr(pod, "sleep", "1111", name="a", pid=0)
    b = real.run_ctr(pod, "sleep", "2222", name="b", pid=0)
    assert real.sh(a, "readlink /proc/self/ns/pid") == real.sh(b, "readlink /proc/self/ns/pid")
    seen = real.sh(a, "ps -o args")
    assert "sleep 1111" in seen and "sleep 2222" in seen
    # PID 1 reaps, and shows nothing of the host.
    assert real.sh(a, "readlink /proc/1/exe || echo none; ls -A /proc/1/root 2>/dev/null | wc -l").split()[-1] == "0"
    real.sh(a, "(sleep 0.01 & ) ; sleep 0.5")
    assert "[sleep]" not in real.sh(a, "ps -o stat,args | grep Z || true")
    # One that ends leaves the others alone, and none of its own processes behind.
    c = real.run_ctr(pod, "sh", "-c", "sleep 3333 & sleep 0.3; exit 5", name="c", pid=0)
    assert real.wait_exit(c).exit_code == 5
    wait_for(lambda: "3333" not in real.sh(a, "ps -o args"))
    assert real.status(b).state == pb().CONTAINER_RUNNING


@needs_cni
@pytest.mark.parametrize("while_down", [False, True])
def test_a_pod_whose_init_has_died_is_stopped(real, while_down):
    """Nothing could be started in it any more: a client that sees it makes another one."""
    pod, other = (real.run_pod(pid=0, host_network=False) for _ in range(2))
    cid = real.run_ctr(pod, "sleep", "1000", pid=0)
    kept = real.run_ctr(other, "sleep", "1000", pid=0)
    assert len(real.lease_files()) == 2
    if while_down:
        real.kill9()
    os.kill(real.pod_init(pod), signal.SIGKILL)
    if while_down:
        time.sleep(0.3)
        real.start()
    wait_for(lambda: real.pod_status(pod).state == pb().SANDBOX_NOTREADY)
    assert real.wait_exit(cid).exit_code == 137
    wait_for(lambda: len(real.lease_files()) == 1 and len(real.veths()) == 1)
    with fails("FAILED_PRECONDITION", "not ready"):
        real.create(pod, "true", name="late")
    real.stop_pod(pod)
    assert real.pod_status(other).state == pb().SANDBOX_READY and real.status(kept).state == pb().CONTAINER_RUNNING
    real.stop_pod(other)
    assert real.log().count("the init of a pod sandbox has ended") == (2 if while_down else 1)


def test_namespace_of_a_target(real):
    pod = real.run_pod()
    a = real.run_ctr(pod, "sleep", "1234", name="a")

    def onlooker(name, target, where=pod):
        cfg = real.ctr_config("sleep", "100", name=name, pid=3)
        cfg.linux.security_context.namespace_options.target_id = target
        return real.create(where, config=cfg)
    for name, target in ("b", a), ("prefix", a[:12]):
        b = onlooker(name, target)
        real.start_ctr(b)
        assert "sleep 1234" in real.sh(b, "ps -o args")
    with fails("NOT_FOUND", "target_id", "f" * 64):
        onlooker("c", "f" * 64)
    with fails("NOT_FOUND", "target_id"):
        onlooker("c", f"../containers/{a}")
    with fails("INVALID_ARGUMENT", "target_id"):
        onlooker("c", "")
    # Nobody looks into another pod.
    other = real.run_pod()
    for target in a, a[:12]:
        with fails("INVALID_ARGUMENT", a, pod[0], other[0]):
            onlooker("spy", target, other)
    created = real.create(pod, "true", name="created")
    with fails("FAILED_PRECONDITION", created, "does not run"):
        onlooker("c", created)
    real.stop_ctr(a)
    with fails("FAILED_PRECONDITION", a, "does not run"):
        onlooker("c", a)
    assert real.ctrs(pod_sandbox_id=other[0]) == []


@needs_cni
def test_pod_network(real):
    pod = real.run_pod(host_network=False, hostname="web")
    ip = real.pod_status(pod).network.ip
    assert ip.startswith(f"10.{real.net}.0.")
    assert len(real.veths()) == 1 and len(real.lease_files()) == 1
    cid = real.run_ctr(pod, "sh", "-c", "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp", network=0)

    def fetch():
        s = socket.socket()
        s.settimeout(2)
        try:
            s.connect((ip, 80))
        except OSError:
            return None
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while got := s.recv(4096):
            data += got
        s.close()
        return data
    assert b"web" in wait_for(fetch)
    assert "127.0.0.1" in real.sh(cid, "ip addr show lo")
    assert ip in real.sh(cid, "cat /etc/hosts")
    real.stop_pod(pod)
    assert real.pod_status(pod).network.ip == ""
    assert real.veths() == [] and real.lease_files() == []


@needs_cni
def test_host_ports(real):
    m = pb()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pod = real.run_pod(host_network=False, port_mappings=[m.PortMapping(container_port=80, host_port=port)])
    assert any(f"--dport {port} " in x or x.endswith(str(port)) or f"10.{real.net}.0." in x for x in real.nft())
    real.remove_pod(pod)
    assert real.nft() == []


@needs_cni
def test_many_pods_at_once(real):
    configs = [real.pod_config(host_network=False) for _ in range(8)]
    futures = [real.rt.RunPodSandbox.future(pb().RunPodSandboxRequest(config=c), timeout=120) for c in configs]
    pods = [(f.result().pod_sandbox_id, c) for f, c in zip(futures, configs)]
    ips = [real.pod_status(p).network.ip for p in pods]
    assert len(set(ips)) == 8
    out = []

    def work(p):
        cid = real.run_ctr(p, "sh", "-c", "echo hi; sleep 100", network=0)
        real.stop_pod(p)
        out.append(real.status(cid).exit_code)
        real.remove_pod(p)
    threads = [threading.Thread(target=work, args=(p,)) for p in pods]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert out == [137] * 8
    assert real.pods() == []


@needs_cni
def test_sysctls(real):
    pod = real.run_pod(host_network=False, sysctls={"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1"})
    cid = real.run_ctr(pod, "sleep", "100", network=0)
    assert real.sh(cid, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced").split() == \
        ["7", "1"]
    with fails("INVALID_ARGUMENT", "vm.swappiness"):
        real.run_pod(host_network=False, sysctls={"vm.swappiness": "1"})
