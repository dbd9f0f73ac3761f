"""Pods with a user namespace of their own, and mounts with mapped owners."""
import fcntl
import glob
import json
import os
import subprocess

import pytest

import daemon
from daemon import IMAGE, fails, needs_cni, pb, wait_for

pytestmark = daemon.needs_daemon

HOST_ID, COUNT = 65536, 65536


def ranges(host=HOST_ID, count=COUNT, first=0):
    return [pb().IDMapping(container_id=first, host_id=host, length=count)]


def userns(uids=None, gids=None, mode=0):
    return pb().UserNamespace(mode=mode, uids=ranges() if uids is None else uids, gids=ranges() if gids is None else gids)


def pod_config(d, options=None, **kw):
    c = d.pod_config(**kw)
    c.linux.security_context.namespace_options.userns_options.CopyFrom(userns() if options is None else options)
    return c


@pytest.fixture
def mapped(real):
    h = real.rt.Status(pb().StatusRequest()).runtime_handlers
    if not h[0].features.user_namespaces:
        pytest.skip("this kernel or file system maps no ids: " + real.tail())
    return real


def pid_of(d, cid):
    return json.loads(d.status(cid, verbose=True).info["info"])["pid"]


def ns(pid, kind):
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


@pytest.mark.parametrize("net", [False, True])
@pytest.mark.parametrize("shared_pid", [False, True])
def test_container(mapped, net, shared_pid):
    d = mapped
    if net and daemon.missing_cni():
        pytest.skip(daemon.missing_cni())
    pod = d.run_pod(config=pod_config(d, host_network=not net, pid=0 if shared_pid else 1))
    cid = d.run_ctr(pod, "sh", "-c", "echo out; echo err >&2; echo dev > /dev/stdout; sleep 1000")
    assert d.sh(cid, "cat /proc/self/uid_map").split() == ["0", str(HOST_ID), str(COUNT)]
    assert d.sh(cid, "cat /proc/self/gid_map").split() == ["0", str(HOST_ID), str(COUNT)]
    assert d.sh(cid, "stat -c '%u:%g' / /bin /bin/busybox /etc/passwd /layer2").split() == ["0:0"] * 5
    assert d.sh(cid, "stat -c '%u:%g' /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm").split() == ["0:0"] * 4
    d.sh(cid, "echo 127.0.0.9 x >> /etc/hosts; echo y > /dev/shm/y; echo z > /new; touch /etc/passwd; mkdir /d")
    assert d.sh(cid, "echo q > /dev/stderr; cat /sys/kernel/mm/transparent_hugepage/enabled >/dev/null; id -u") == "0\n"
    assert d.sh(cid, "cat /dev/null; head -c 4 /dev/zero | wc -c; test -c /dev/urandom && echo ok") == "4\nok\n"
    wait_for(lambda: len(d.log_lines(pod)) >= 3)
    assert sorted(d.log_lines(pod)) == [("stderr", "err"), ("stdout", "dev"), ("stdout", "out")]
    pid = pid_of(d, cid)
    assert os.stat(f"/proc/{pid}").st_uid == HOST_ID
    own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    for kind in ["ipc", "mnt", "pid"] + (["net", "uts"] if net else []):
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        owner = fcntl.ioctl(fd, 0xb701)  # NS_GET_USERNS
        assert os.fstat(owner).st_ino == os.fstat(own).st_ino, kind
        os.close(fd)
        os.close(owner)
    os.close(own)
    if net:
        assert d.sh(cid, "hostname").strip() == pod[0][:12]
        assert d.pod_status(pod).network.ip in d.sh(cid, "ip a")
    else:
        assert d.exec(cid, "sh", "-c", "echo x > /sys/kernel/mm/ksm/run").exit_code != 0
    st = d.status(cid)
    assert (st.user.linux.uid, st.user.linux.gid) == (0, 0)
    # what was written lies mapped on the disk, and the image as it was
    active, = glob.glob(f"{d.root}/plugins/storage-overlay/active/{cid}/fs/new")
    assert os.stat(active).st_uid == HOST_ID
    assert not [p for p in glob.glob(f"{d.root}/plugins/storage-overlay/layers/*/fs/*") if os.stat(p).st_uid]
    s = d.rt.ContainerStats(pb().ContainerStatsRequest(container_id=cid)).stats
    assert s.memory.usage_bytes.value > 0
    other = d.run_ctr(pod, "sleep", "100", name="other")
    assert ns(pid_of(d, other), "user") == ns(pid, "user")
    d.kill9()
    d.start()
    assert d.sh(cid, "cat /new") == "z\n"
    d.stop_ctr(cid)
    d.remove_ctr(cid)
    late = d.run_ctr(pod, "sleep", "100", name="late")
    assert d.sh(late, "stat -c %u /") == "0\n"


def test_user_and_working_directory(mapped):
    d = mapped
    pod = d.run_pod(config=pod_config(d))
    sc = pb().LinuxContainerSecurityContext(run_as_user=pb().Int64Value(value=1000))
    cid = d.run_ctr(pod, "sh", "-c", "echo x > /dev/stdout; sleep 1000", security_context=sc, working_dir="/deep/er/dir")
    assert d.sh(cid, "pwd; id -u; stat -c %u:%g /deep /deep/er/dir") == "/deep/er/dir\n1000\n0:0\n0:0\n"
    assert os.stat(f"/proc/{pid_of(d, cid)}").st_uid == HOST_ID + 1000
    wait_for(lambda: d.log_lines(pod) == [("stdout", "x")])


def test_root_on_the_node_is_nobody_inside(mapped):
    d = mapped
    os.makedirs(f"{d.tmp}/host")
    with open(f"{d.tmp}/host/secret", "w") as f:
        f.write("s")
    os.chmod(f"{d.tmp}/host/secret", 0o600)
    pod = d.run_pod(config=pod_config(d))
    cid = d.run_ctr(pod, "sleep", "100", mounts=[pb().Mount(container_path="/h", host_path=f"{d.tmp}/host")])
    assert d.sh(cid, "stat -c %u /h/secret") == "65534\n"
    assert d.exec(cid, "cat", "/h/secret").exit_code != 0


def test_mapped_volumes(mapped):
    d = mapped
    top = f"{d.tmp}/vol"
    os.makedirs(f"{top}/sub")
    with open(f"{top}/root", "w") as f:
        f.write("of root\n")
    os.chmod(f"{top}/root", 0o600)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "t", f"{top}/sub"], check=True)
    try:
        pod = d.run_pod(config=pod_config(d))
        m = dict(uidMappings=ranges(), gidMappings=ranges())
        mounts = [pb().Mount(container_path="/v", host_path=top, **m),
                  pb().Mount(container_path="/f", host_path=f"{top}/root", **m),
                  pb().Mount(container_path="/ro", host_path=top, readonly=True, recursive_read_only=True, **m)]
        cid = d.run_ctr(pod, "sleep", "100", mounts=mounts)
        assert d.sh(cid, "cat /v/root /f") == "of root\nof root\n"
        d.sh(cid, "echo new > /v/new; mkdir /v/sub/dir; echo more >> /f")
        assert os.stat(f"{top}/new").st_uid == 0 and os.stat(f"{top}/sub/dir").st_uid == 0
        assert d.exec(cid, "touch", "/ro/x").exit_code != 0 and d.exec(cid, "touch", "/ro/sub/x").exit_code != 0
        assert d.sh(cid, "cat /ro/new") == "new\n"
        got = d.status(cid).mounts
        assert [(x.host_id, x.container_id, x.length) for x in got[0].uidMappings] == [(HOST_ID, 0, COUNT)]
        # who mounted a volume can end and remove it: berth keeps no copy beside the container's own
        subprocess.run(["umount", f"{top}/sub"], check=True)
        d.sh(cid, "test -d /v/sub/dir")
        os.rmdir(f"{top}/sub")
        d.remove_ctr(cid)
        assert not [x for x in d.mounts() if "/containers/" in x]
    finally:
        subprocess.run(["umount", "-l", f"{top}/sub"], stderr=subprocess.DEVNULL)


def test_mapped_volume_without_a_user_namespace(mapped):
    d = mapped
    top = f"{d.tmp}/plainvol"
    os.makedirs(top)
    os.chown(top, 5000, 5001)
    pod = d.run_pod()
    m = dict(uidMappings=ranges(100, 1, 5000), gidMappings=ranges(200, 1, 5001) + ranges(0, 1, 0))
    cid = d.run_ctr(pod, "sleep", "100", mounts=[pb().Mount(container_path="/v", host_path=top, **m)])
    assert d.sh(cid, "stat -c %u:%g /v") == "100:200\n"
    d.remove_ctr(cid)
    for bad, text in (({"uidMappings": ranges()}, "go together"), ({**m, "uidMappings": ranges(count=0)}, "empty"),
                      ({**m, "uidMappings": ranges(0xffffffff, 2)}, "last id"),
                      ({**m, "uidMappings": ranges() + ranges(host=1)}, "overlap"),
                      ({**m, "uidMappings": ranges() * 341}, "more than")):
        with fails("INVALID_ARGUMENT", "mounts[0]", text):
            d.create(pod, "sh", mounts=[pb().Mount(container_path="/v", host_path=top, **bad)])


def test_file_system_that_maps_nothing(mapped):
    d = mapped
    pod = d.run_pod(config=pod_config(d))
    with fails("FAILED_PRECONDITION", "mounts[0]", "/proc", "does not map"):
        d.create(pod, "sh", mounts=[pb().Mount(container_path="/v", host_path="/proc", uidMappings=ranges(),
                                               gidMappings=ranges())])
    assert d.ctrs() == []


def test_image_volume(mapped):
    d = mapped
    pod = d.run_pod(config=pod_config(d))
    m = [pb().Mount(container_path="/i", image=pb().ImageSpec(image=IMAGE), readonly=True),
         pb().Mount(container_path="/p", image=pb().ImageSpec(image=IMAGE), image_sub_path="etc", readonly=True,
                    uidMappings=ranges(), gidMappings=ranges())]
    cid = d.run_ctr(pod, "sleep", "100", mounts=m)
    assert d.sh(cid, "stat -c %u /i /i/layer2 /p/passwd").split() == ["0"] * 3
    plain = d.run_pod()
    with fails("INVALID_ARGUMENT", "ImageVolumeMountFailed", "mapped"):
        d.create(plain, "sh", mounts=m[1:])


@pytest.mark.parametrize("options,text", [
    (lambda: userns(uids=ranges() + ranges(2 * HOST_ID, first=COUNT)), "exactly one"),
    (lambda: userns(gids=[]), "exactly one"), (lambda: userns(uids=[]), "exactly one"),
    (lambda: userns(uids=ranges(first=1)), "container id 0"), (lambda: userns(gids=ranges(count=0)), "empty"),
    (lambda: userns(uids=ranges(0xfffffff0, 0x20)), "last id"), (lambda: userns([], [], mode=1), "neither"),
    (lambda: userns([], [], mode=3), "neither"), (lambda: userns(mode=2), "NODE")])
def test_refused(mapped, options, text):
    with fails("INVALID_ARGUMENT", "userns_options", text):
        mapped.run_pod(config=pod_config(mapped, options()))


def test_refused_with_the_nodes_processes(mapped):
    for kw in ({"pid": 2}, {"ipc": 2}):
        with fails("INVALID_ARGUMENT", "userns_options", "node's"):
            mapped.run_pod(config=pod_config(mapped, **kw))


def test_container_must_agree_with_its_pod(mapped):
    d = mapped
    inside, plain = d.run_pod(config=pod_config(d)), d.run_pod()
    for pod, options in ((inside, userns(mode=2, uids=[], gids=[])), (inside, userns(uids=ranges(1 << 20))),
                         (plain, userns())):
        c = d.ctr_config("sh")
        c.linux.security_context.namespace_options.userns_options.CopyFrom(options)
        with fails("INVALID_ARGUMENT", "userns_options"):
            d.create(pod, config=c)
    c = d.ctr_config("sh")
    c.linux.security_context.namespace_options.userns_options.CopyFrom(userns())
    d.create(inside, config=c)
    c = d.ctr_config("sh")
    c.linux.security_context.namespace_options.userns_options.CopyFrom(userns(mode=2, uids=[], gids=[]))
    d.create(plain, config=c)


def test_storage_that_maps_nothing(fake):
    h = fake.rt.Status(pb().StatusRequest())
    assert not any(x.features.user_namespaces for x in h.runtime_handlers)
    assert not h.features.user_namespaces_host_network
    with fails("FAILED_PRECONDITION", "cannot have user namespaces", "maps no ids"):
        fake.run_pod(config=pod_config(fake))
    assert fake.pods() == [] and fake.objects() == []
