"""Requests that no kubelet would send, and clients that are none."""
import os
import random
import socket
import time

import grpc
import pytest

from daemon import IMAGE, built, fails, pb, stubs

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not built("tests/fake/fake.so"), reason="the build has no fake plugin")]

RUNTIME = """Version RunPodSandbox StopPodSandbox RemovePodSandbox PodSandboxStatus ListPodSandbox CreateContainer
StartContainer StopContainer RemoveContainer ListContainers ContainerStatus ReopenContainerLog ExecSync
UpdateRuntimeConfig Status RuntimeConfig Exec Attach PortForward ContainerStats ListContainerStats PodSandboxStats
ListPodSandboxStats UpdateContainerResources UpdatePodSandboxResources CheckpointContainer""".split()
IMAGES = "ListImages ImageStatus PullImage RemoveImage ImageFsInfo".split()
LATER = ["NoSuchMethod"]
ALL = [("RuntimeService", n) for n in RUNTIME] + [("ImageService", n) for n in IMAGES]
# An empty request is a good one for these.
EMPTY_OK = {"Version", "Status", "RuntimeConfig", "UpdateRuntimeConfig", "ListPodSandbox", "ListContainers", "ListImages",
            "ImageFsInfo", "ListContainerStats", "ListPodSandboxStats"}
ALLOWED = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}


def raw(d, service, method, data, timeout=30):
    path = f"/runtime.v1.{service}/{method}" if service != "Admin" else f"/berth.admin.v1.Admin/{method}"
    return d.channel.unary_unary(path)(data, timeout=timeout)


@pytest.mark.parametrize("service,method", ALL)
def test_empty_requests(fake, service, method):
    if method in EMPTY_OK:
        raw(fake, service, method, b"")
    else:
        with fails("INVALID_ARGUMENT") as f:
            raw(fake, service, method, b"")
        assert len(f.error.details()) > 8


@pytest.mark.parametrize("service,method", ALL)
def test_requests_that_are_no_message(fake, service, method):
    for data in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x7f", b"\x0a\x05abc", b"\x08" + b"\xff" * 11, b"\x0b" * 1000):
        with fails("INVALID_ARGUMENT|INTERNAL|RESOURCE_EXHAUSTED"):
            raw(fake, service, method, data)


@pytest.mark.parametrize("service,method", [x for x in ALL if x[1] not in ("Version", "Status")])
def test_strings_that_are_not_utf8(fake, service, method):
    # Field 1 of each is a message or a string: both ways.
    for data in (b"\x0a\x04\xff\xfe\x80\x81", b"\x0a\x06\x0a\x04\xff\xfe\x80\x81",
                 b"\x0a\x08\x0a\x06\x0a\x04\xff\xfe\x80\x81"):
        try:
            raw(fake, service, method, data)
        except grpc.RpcError as e:
            assert e.code().name in ALLOWED, (e.code(), e.details())
            e.details().encode()


@pytest.mark.parametrize("method", ["StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "StartContainer",
                                    "StopContainer", "RemoveContainer", "ContainerStatus", "ReopenContainerLog",
                                    "ExecSync", "CheckpointContainer"])
def test_odd_ids(fake, method):
    for text in ("x" * 65, "x" * 100_000, "../../../etc", "%s%n%d", "a/b", "\n", "\u00e9", "0" * 64, " "):
        data = text.encode()
        size = b""
        n = len(data)
        while n > 127:
            size += bytes([n & 127 | 128])
            n >>= 7
        try:
            raw(fake, "RuntimeService", method, b"\x0a" + size + bytes([n]) + data)
            assert method in ("StopPodSandbox", "RemovePodSandbox", "StopContainer", "RemoveContainer")
        except grpc.RpcError as e:
            assert e.code().name in ("NOT_FOUND", "INVALID_ARGUMENT"), (e.code(), e.details())
            assert len(e.details()) < 1000


def test_random_bytes(fake):
    rnd = random.Random(4711)
    for _ in range(400):
        service, method = rnd.choice(ALL)
        data = bytes(rnd.choices([0, 1, 2, 8, 10, 18, 26, 34, 42, 50, 255, rnd.randrange(256)], k=rnd.randrange(60)))
        try:
            raw(fake, service, method, data)
        except grpc.RpcError as e:
            assert e.code().name in ALLOWED | {"INTERNAL", "ALREADY_EXISTS"}, (method, data, e.code(), e.details())
    fake.rt.Version(pb().VersionRequest())


def test_mutated_requests(fake):
    """Good requests with a byte changed: what gets through is undone, the daemon lives."""
    rnd = random.Random(815)
    pod = fake.run_pod()
    good = [("RunPodSandbox", pb().RunPodSandboxRequest(config=fake.pod_config(
        port_mappings=[pb().PortMapping(container_port=80, host_port=8080)], hostname="h",
        dns_config=pb().DNSConfig(servers=["1.2.3.4"], searches=["x"])))),
        ("CreateContainer", pb().CreateContainerRequest(
            pod_sandbox_id=pod[0], sandbox_config=pod[1],
            config=fake.ctr_config("sh", "-c", "true", labels={"a": "b"}, working_dir="/tmp",
                                   resources=pb().LinuxContainerResources(memory_limit_in_bytes=1 << 26))))]
    for i in range(150):
        method, message = good[i % 2]
        data = bytearray(message.SerializeToString())
        for _ in range(rnd.randrange(1, 3)):
            data[rnd.randrange(len(data))] = rnd.randrange(256)
        try:
            raw(fake, "RuntimeService", method, bytes(data))
        except grpc.RpcError as e:
            assert e.code().name in ALLOWED | {"ALREADY_EXISTS"}, (bytes(data), e.code(), e.details())
    fake.rt.Version(pb().VersionRequest())


@pytest.mark.parametrize("method", LATER)
def test_unknown_methods(fake, method):
    with fails("UNIMPLEMENTED", method):
        raw(fake, "RuntimeService", method, b"")


def test_unknown_services(fake):
    for path in ("/runtime.v1alpha2.RuntimeService/Version", "/x.Y/Z", "/nothing"):
        with fails("UNIMPLEMENTED"):
            fake.channel.unary_unary(path)(b"", timeout=10)


def test_bad_pods(fake):
    m = pb()

    def config(**kw):
        c = fake.pod_config(**kw)
        return c
    bad = []
    c = config()
    c.metadata.name = ""
    bad.append((c, "metadata.name"))
    c = config()
    c.metadata.name = "x" * 300
    bad.append((c, "metadata.name"))
    c = config(hostname="no good")
    bad.append((c, "hostname"))
    c = config()
    c.log_directory = "relative"
    bad.append((c, "log_directory"))
    c = config()
    c.linux.cgroup_parent = "relative"
    bad.append((c, "cgroup_parent"))
    c = config()
    c.linux.cgroup_parent = "/../../x"
    bad.append((c, "cgroup_parent"))
    c = config()
    c.linux.sysctls["vm.overcommit_memory"] = "1"
    bad.append((c, "vm.overcommit_memory"))
    c = config(port_mappings=[m.PortMapping(container_port=0, host_port=80)], host_network=False)
    bad.append((c, "port"))
    c = config(port_mappings=[m.PortMapping(container_port=80, host_port=70000)], host_network=False)
    bad.append((c, "port"))
    for c, text in bad:
        with fails("INVALID_ARGUMENT", text):
            fake.run_pod(config=c)
    with fails("INVALID_ARGUMENT", "no-such-handler"):
        fake.run_pod(handler="no-such-handler")
    assert fake.pods() == []


def test_bad_containers(fake):
    m = pb()
    pod = fake.run_pod()
    bad = [(fake.ctr_config("true", name=""), "metadata.name"), (fake.ctr_config("true", image=""), "image"),
           (fake.ctr_config("true", log_path="/abs"), "log_path"),
           (fake.ctr_config("true", log_path="../../x"), "log_path"),
           (fake.ctr_config("true", image="UPPER/case"), "UPPER/case"),
           (fake.ctr_config("true", image="x" * 2000), "image"),
           (fake.ctr_config("true", mounts=[m.Mount(container_path="", host_path="/tmp")]), "mount"),
           (fake.ctr_config("true", mounts=[m.Mount(container_path="rel", host_path="/tmp")]), "mount")]
    for c, text in bad:
        with fails("INVALID_ARGUMENT", text):
            fake.create(pod, config=c)
    with fails("INVALID_ARGUMENT", "config"):
        fake.rt.CreateContainer(m.CreateContainerRequest(pod_sandbox_id=pod[0]))
    with fails("NOT_FOUND", "e" * 64):
        fake.create(("e" * 64, pod[1]), "true")
    assert fake.ctrs() == [] and os.listdir(f"{fake.run}/containers") == []


def test_bad_execs(fake):
    m = pb()
    pod = fake.run_pod()
    cid = fake.create(pod, "sh")
    with fails("FAILED_PRECONDITION", cid, "not running"):
        fake.exec(cid, "true")
    fake.start_ctr(cid)
    with fails("INVALID_ARGUMENT", "cmd"):
        fake.exec(cid)
    with fails("INVALID_ARGUMENT", "timeout"):
        fake.rt.ExecSync(m.ExecSyncRequest(container_id=cid, cmd=["true"], timeout=-1))


def test_bad_imports(fake):
    a = stubs()[2]
    with fails("INVALID_ARGUMENT", "relative"):
        fake.admin.ImportImage(a.ImportImageRequest(path="relative"))
    with fails("NOT_FOUND", "/no/such"):
        fake.admin.ImportImage(a.ImportImageRequest(path="/no/such"))
    with fails("INVALID_ARGUMENT", "/dev/null"):
        fake.admin.ImportImage(a.ImportImageRequest(path="/dev/null"))
    junk = f"{fake.tmp}/junk.tar"
    with open(junk, "wb") as f:
        f.write(os.urandom(100_000))
    with fails("INVALID_ARGUMENT"):
        fake.admin.ImportImage(a.ImportImageRequest(path=junk, reference=IMAGE))
    with fails("INVALID_ARGUMENT", "Not A Ref"):
        fake.admin.ImportImage(a.ImportImageRequest(path=junk, reference="Not A Ref"))
    assert not [s for s in fake.snapshots() if "pull" in s]


def test_bad_cidrs(fake):
    m = pb()
    for text in ("x", "1.2.3.4", "1.2.3.4/33", "fd00::/129", "10.0.0.0/8,", "10.0.0.0/8,x"):
        q = m.UpdateRuntimeConfigRequest(runtime_config=m.RuntimeConfig(network_config=m.NetworkConfig(pod_cidr=text)))
        if text == "10.0.0.0/8,":
            continue
        with fails("INVALID_ARGUMENT", "pod_cidr"):
            fake.rt.UpdateRuntimeConfig(q)
    q = m.UpdateRuntimeConfigRequest(
        runtime_config=m.RuntimeConfig(network_config=m.NetworkConfig(pod_cidr="10.1.0.0/16,fd00::/64")))
    fake.rt.UpdateRuntimeConfig(q)


def fds(d):
    return len(os.listdir(f"/proc/{d.proc.pid}/fd"))


def test_a_thousand_idle_connections(fake):
    before = fds(fake)
    socks = []
    try:
        for i in range(1000):
            s = socket.socket(socket.AF_UNIX)
            s.connect(fake.sock)
            if i % 2:
                s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            socks.append(s)
        t = time.monotonic()
        fake.rt.Version(pb().VersionRequest(), timeout=10)
        assert time.monotonic() - t < 2
        with fake.new_channel() as c:
            stubs()[1].RuntimeServiceStub(c).Version(pb().VersionRequest(), timeout=10)
    finally:
        for s in socks:
            s.close()
    end = time.monotonic() + 10
    while fds(fake) > before + 5 and time.monotonic() < end:
        time.sleep(0.05)
    assert fds(fake) <= before + 5


def test_no_fd_is_lost(fake):
    """The whole life of a pod, many times, with failures in it."""
    def round_(fail):
        pod = fake.run_pod(host_network=False)
        fake.inject(**({"fail_op": "runtime.create"} if fail else {}))
        try:
            cid = fake.run_ctr(pod, "sh")
            fake.exec(cid, "echo", "x")
            fake.exec(cid, "sh", "-c", "exit 3")
        except grpc.RpcError:
            assert fail
        fake.inject()
        fake.remove_pod(pod)
    for i in range(4):
        round_(i % 2)
    before = fds(fake)
    for i in range(20):
        round_(i % 2)
    assert fds(fake) <= before + 2


@pytest.mark.parametrize("field", ["overhead", "resources"])
def test_resources_of_a_pod(fake, field):
    pod = fake.run_pod()
    bad, good = pb().LinuxContainerResources(cpu_period=-5), pb().LinuxContainerResources(cpu_period=10000, cpuset_cpus="0")
    with fails("INVALID_ARGUMENT", pod[0], "cpu_period"):
        fake.rt.UpdatePodSandboxResources(pb().UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod[0], **{field: bad}))
    fake.rt.UpdatePodSandboxResources(pb().UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod[0], **{field: good}))
