"""Labels of processes and files where SELinux is on. The virtual machine can be booted so:
tests/vm/run -a "security=selinux selinux=1". It is permissive there; whether a policy that is enforced would let one
reach the other, the kernel says when it is asked."""
import json
import os
import struct

import pytest

import daemon
from daemon import Daemon, fails, pb, wait_for
from pullharness import Image, Tar

FS = "/sys/fs/selinux"
DATA = "localhost/berth/data:1"


def known(context):
    try:
        with open(f"{FS}/context", "r+b", buffering=0) as f:
            f.write(context.encode())
        return True
    except OSError:
        return False


def missing():
    if daemon.missing():
        return daemon.missing()
    if os.environ.get("BERTH_TEST_SELINUX"):
        return None  # it is there, or this fails
    if not os.path.exists(f"{FS}/enforce"):
        return "SELinux is off"
    if not known("system_u:system_r:container_t:s0:c1,c2") or not known("system_u:system_r:spc_t:s0"):
        return "the loaded policy has no container_t or no spc_t"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def may(process, file, perm, cls="file"):
    """Would an enforced policy allow it?"""
    index, bit = (int(open(f"{FS}/class/{cls}/{p}").read()) for p in ("index", f"perms/{perm}"))
    with open(f"{FS}/access", "r+b", buffering=0) as f:
        f.write(f"{process} {file} {index}".encode())
        return bool(int(f.read(256).split()[0], 16) & 1 << (bit - 1))


def label(path):
    return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()


def level(context):
    return context.split(":", 3)[3]


def info(d, cid):
    return json.loads(d.status(cid, verbose=True).info["info"])


def pod_info(d, pod):
    r = d.rt.PodSandboxStatus(pb().PodSandboxStatusRequest(pod_sandbox_id=pod[0], verbose=True), timeout=20)
    return json.loads(r.info["info"])


def process(d, cid):
    with open(f"/proc/{info(d, cid)['pid']}/attr/current") as f:
        return f.read().rstrip("\0\n")


def file(d, cid, path):
    return label(f"/proc/{info(d, cid)['pid']}/root{path}")


def options(**kw):
    return pb().SELinuxOption(**kw)


def context(**kw):
    return pb().LinuxContainerSecurityContext(**kw)


def pod_with(d, selinux=None, privileged=False, **kw):
    config = d.pod_config(**kw)
    if selinux:
        config.linux.security_context.selinux_options.CopyFrom(selinux)
    config.linux.security_context.privileged = privileged
    return d.run_pod(config)


def sleeper(d, pod, name="ctr", **kw):
    return d.run_ctr(pod, "sleep", "1000", name=name, **kw)


def labels_of_two_pods(d):
    one, two = d.run_pod(), d.run_pod()
    a, b, c = sleeper(d, one, "a"), sleeper(d, one, "b"), sleeper(d, two)
    mine, others = process(d, a), process(d, c)
    assert mine.startswith("system_u:system_r:container_t:s0:c") and len(level(mine).split(",")) == 2
    assert process(d, b) == mine and level(others) != level(mine)
    assert d.sh(a, "cat /proc/self/attr/current").rstrip("\0\n") == mine
    files = f"system_u:object_r:container_file_t:{level(mine)}"
    d.sh(a, "echo x > /tmp/new; echo x > /dev/shm/new")
    for path in ("/", "/bin/busybox", "/layer2", "/tmp/new", "/dev", "/dev/shm", "/dev/shm/new", "/etc/resolv.conf",
                 "/etc/hosts", "/etc/hostname"):
        assert file(d, a, path) == files, path
    assert file(d, b, "/dev/shm/new") == files
    for cid in (a, b):
        assert (info(d, cid)["selinuxProcessLabel"], info(d, cid)["selinuxMountLabel"]) == (mine, files)
        assert info(d, cid)["runtimeSpec"]["process"]["selinuxLabel"] == mine
    assert pod_info(d, one)["selinuxProcessLabel"] == mine and pod_info(d, one)["selinuxMountLabel"] == files
    assert may(mine, files, "write") and may(process(d, b), files, "write")
    assert not may(others, files, "read") and not may(mine, file(d, c, "/etc/hosts"), "read")


def test_labels_of_two_pods(real):
    labels_of_two_pods(real)


def test_what_the_client_gives(real):
    d = real
    pod = pod_with(d, options(level="s0:c7,c8"))
    a = sleeper(d, pod, "a")
    assert process(d, a) == "system_u:system_r:container_t:s0:c7,c8"
    assert file(d, a, "/etc/resolv.conf") == "system_u:object_r:container_file_t:s0:c7,c8"
    b = sleeper(d, pod, "b", security_context=context(selinux_options=options(type="spc_t")))
    assert process(d, b) == "system_u:system_r:spc_t:s0:c7,c8"
    # What has a level of its own reads the pod's files all the same; and they are nobody else's.
    c = sleeper(d, pod, "c", security_context=context(selinux_options=options(level="s0:c1,c9")))
    assert process(d, c) == "system_u:system_r:container_t:s0:c1,c9"
    assert file(d, c, "/layer2") == "system_u:object_r:container_file_t:s0:c1,c9"
    assert file(d, c, "/etc/resolv.conf") == "system_u:object_r:container_file_t:s0"
    assert may(process(d, c), file(d, c, "/etc/resolv.conf"), "read")
    for bad, text in ((options(type="no_such_t"), "no_such_t"), (options(level="s0:c5000"), "s0:c5000"),
                      (options(user="a b"), "selinux_options.user")):
        with fails("INVALID_ARGUMENT", text):
            pod_with(d, bad)
        with fails("INVALID_ARGUMENT", text):
            d.create(pod, "true", name="bad", security_context=context(selinux_options=bad))
    assert len(d.pods()) == 1 and len(d.ctrs()) == 3


def test_who_is_not_confined(real):
    d = real
    with open(f"/proc/{d.proc.pid}/attr/current") as f:
        berthds = f.read().rstrip("\0\n")
    pod = pod_with(d, privileged=True)
    a = sleeper(d, pod, "a", security_context=context(privileged=True))
    b = sleeper(d, pod, "b")
    assert process(d, a) == berthds and process(d, b).startswith("system_u:system_r:container_t:s0:c")
    assert file(d, a, "/layer2") == file(d, b, "/layer2") and may(process(d, b), file(d, b, "/dev/shm"), "read", "dir")
    assert "selinuxLabel" not in info(d, a)["runtimeSpec"]["process"] and info(d, a)["selinuxProcessLabel"] is None
    for kw in ({"pid": 2}, {"ipc": 2}):
        pod = pod_with(d, options(level="s0:c7,c8"), **kw)
        cid = sleeper(d, pod)
        assert process(d, cid) == berthds and "container_file_t" not in file(d, cid, "/layer2")
        assert pod_info(d, pod)["selinuxProcessLabel"] is None


def test_volumes(real):
    d = real
    top = f"{d.tmp}/volume"
    for p in ("d/e", "plain", "spc"):
        os.makedirs(f"{top}/{p}")
    for p in ("d/e/f", "plain/f", "spc/f", "single"):
        open(f"{top}/{p}", "w").close()
    os.symlink(f"{d.tmp}/berth.yaml", f"{top}/d/link")
    before = label(f"{top}/plain/f")
    config = label(f"{d.tmp}/berth.yaml")

    def volume(at, path, relabel=True):
        return pb().Mount(container_path=at, host_path=path, selinux_relabel=relabel)
    pod = d.run_pod()
    cid = sleeper(d, pod, mounts=[volume("/a", f"{top}/d"), volume("/b", f"{top}/plain", False),
                                  volume("/c", f"{top}/single")])
    files = file(d, cid, "/layer2")
    for path in ("/a", "/a/e", "/a/e/f", "/a/link", "/c"):
        assert file(d, cid, path) == files, path
    assert file(d, cid, "/b/f") == before and label(f"{d.tmp}/berth.yaml") == config
    assert [m.selinux_relabel for m in d.status(cid).mounts] == [True, False, True]
    spc = context(selinux_options=options(type="spc_t"))
    other = sleeper(d, pod, "spc", security_context=spc, mounts=[volume("/a", f"{top}/spc")])
    assert file(d, other, "/a/f") == before
    with fails("INVALID_ARGUMENT", "mounts[0]: selinux_relabel: host path /etc "):
        d.create(pod, "true", name="bad", mounts=[volume("/a", "/etc")])
    assert label("/etc") != files
    # Another pod takes it over.
    cid = sleeper(d, d.run_pod(), mounts=[volume("/a", f"{top}/d")])
    assert file(d, cid, "/a/e/f") == file(d, cid, "/layer2") != files


def test_images_as_volumes(real):
    d = real
    d.import_image(Image([Tar().add("one", data="1\n")], config={}), DATA)
    pod = d.run_pod()
    cid = sleeper(d, pod, mounts=[pb().Mount(container_path="/vol", image=pb().ImageSpec(image=DATA), readonly=True)])
    assert file(d, cid, "/vol/one") == file(d, cid, "/layer2") and d.sh(cid, "cat /vol/one; ls /vol") == "1\none\n"
    other = sleeper(d, d.run_pod(), mounts=[pb().Mount(container_path="/vol", image=pb().ImageSpec(image=DATA), readonly=True)])
    assert file(d, other, "/vol/one") == file(d, other, "/layer2") != file(d, cid, "/vol/one")
    assert d.exec(cid, "touch", "/vol/x").exit_code != 0
    d.remove_all()
    d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=DATA)))


def test_a_restart(real):
    d = real
    pods = [d.run_pod() for _ in range(3)]
    a = sleeper(d, pods[0], "a")
    levels = [level(pod_info(d, p)["selinuxProcessLabel"]) for p in pods]
    mine = process(d, a)
    d.kill9()
    d.start()
    assert [level(pod_info(d, p)["selinuxProcessLabel"]) for p in pods] == levels
    b = sleeper(d, pods[0], "b")
    assert process(d, b) == process(d, a) == mine and file(d, b, "/layer2") == file(d, a, "/layer2")
    assert d.sh(a, "cat /proc/self/attr/current").rstrip("\0\n") == mine
    pods.append(d.run_pod())
    levels = [level(pod_info(d, p)["selinuxProcessLabel"]) for p in pods]
    assert len(set(levels)) == len(pods)


def a_labelled_root(d):
    try:
        d.start()
        d.import_image()
        pod = d.run_pod()
        cid = sleeper(d, pod)
        files = f"system_u:object_r:container_file_t:{level(process(d, cid))}"
        assert d.sh(cid, "echo x > /tmp/new; cat /layer2") == "second\n"
        for path in ("/", "/bin/busybox", "/layer2", "/tmp/new"):
            assert file(d, cid, path) == files, path
        other = sleeper(d, d.run_pod())
        assert file(d, other, "/layer2") != files
        d.close()
    except BaseException:
        d.force()
        raise


def test_crun():
    if not os.path.exists(daemon.RUNTIMES["crun"]):
        pytest.skip("no crun")
    d = Daemon(runtime="crun", cni=False)
    try:
        d.start()
        d.import_image()
        labels_of_two_pods(d)
        d.close()
    except BaseException:
        d.force()
        raise


def test_devmapper():
    import test_daemon_devmapper as dm
    if dm.missing():
        pytest.skip(dm.missing())
    a_labelled_root(dm.Thin())


def test_btrfs(tmp_path):
    import test_daemon_btrfs as btrfs
    if btrfs.missing():
        pytest.skip(btrfs.missing())
    fs = btrfs.Fs(str(tmp_path))
    try:
        a_labelled_root(btrfs.make(fs))
    finally:
        fs.close()
