"""The real daemon with storage-btrfs, on a btrfs in a loop file."""
import os
import re
import shutil
import subprocess
import time

import grpc
import pytest

import daemon
from daemon import IMAGE, Daemon, busybox_image, fails, has_faults, pb, wait_for
from pullharness import Tar

PLUGIN = "plugins/storage-btrfs/storage-btrfs.so"
MIB = 1 << 20


def missing():
    if daemon.missing():
        return daemon.missing()
    if not daemon.built(PLUGIN):
        return "the build has no storage-btrfs"
    if not shutil.which("mkfs.btrfs") or not shutil.which("btrfs"):
        return "needs btrfs-progs"
    if "btrfs" not in open("/proc/filesystems").read() and subprocess.run(["modprobe", "btrfs"], stderr=-3).returncode:
        return "this kernel has no btrfs"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class Fs:
    def __init__(self, at, mib=1024):
        self.mnt, self.img = f"{at}/btrfs", f"{at}/img"
        os.mkdir(self.mnt)
        with open(self.img, "w") as f:
            f.truncate(mib * MIB)
        subprocess.run(["mkfs.btrfs", "-q", self.img], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop,commit=1", self.img, self.mnt], check=True)

    def close(self):
        subprocess.run(["umount", "-l", self.mnt])
        os.unlink(self.img)

    def btrfs(self, *args):
        return subprocess.run(["btrfs", *args, self.mnt], check=True, stdout=subprocess.PIPE, text=True).stdout

    def sync(self):
        self.btrfs("filesystem", "sync")

    def subvolumes(self):
        return sorted(line.split(" path ")[1] for line in self.btrfs("subvolume", "list").splitlines())

    def groups(self):
        self.sync()
        return [w.split()[0] for w in self.btrfs("qgroup", "show").splitlines() if re.match("[0-9]", w)]


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    f = Fs(str(tmp_path_factory.mktemp("btrfs")))
    yield f
    f.close()


def make(fs, quota="full", **keys):
    os.makedirs(f"{fs.mnt}/berth", exist_ok=True)
    own = {"path": daemon.built(PLUGIN), "root": f"{fs.mnt}/berth", "quota": quota, **keys}
    return Daemon(config={"plugins": {"storage-btrfs": own}, "storage": {"driver": "storage-btrfs"}})


@pytest.fixture
def btrfs(fs):
    d = make(fs)
    try:
        d.start()
        yield d
    except BaseException:
        d.force()
        raise
    if d.proc:
        d.remove_all()
        d.remove_images()
    d.close()
    nothing_is_left(fs)


def nothing_is_left(fs):
    wait_for(lambda: not fs.subvolumes() and not os.listdir(f"{fs.mnt}/berth/trash"), 20, 0.1)
    for d in ("layers", "active", "new"):
        assert not os.listdir(f"{fs.mnt}/berth/{d}")
    # the kernel deletes what was a subvolume some time later, and its group with it
    wait_for(lambda: fs.groups() == ["0/5"], 60, 0.5)


def writable(d, cid):
    s = d.rt.ContainerStats(pb().ContainerStatsRequest(container_id=cid)).stats.writable_layer
    return s.used_bytes.value


def test_containers_and_images(btrfs, fs):
    d = btrfs
    more = [Tar().dir("d", pax={"SCHILY.xattr.user.low": "1"}).add("d/old", data="old").add("d/keep").add("gone", data="x"),
            Tar().dir("d").add(".wh.gone").add("d/.wh.old").add("d/new", data="new\n")]
    d.import_image(busybox_image(more=more))
    assert len(fs.subvolumes()) == 4 and all(s.startswith("berth/layers/") for s in fs.subvolumes())
    tops = [f"{fs.mnt}/{s}/d" for s in fs.subvolumes() if os.path.exists(f"{fs.mnt}/{s}/d")]
    assert sorted(os.listxattr(t) for t in tops) == [[], ["user.low"]]
    pod = d.run_pod()
    a = d.run_ctr(pod, "sleep", "1000", name="a")
    b = d.run_ctr(pod, "sleep", "1000", name="b")
    assert d.sh(a, "ls -a / /d; cat /d/new").split().count("gone") == 0
    assert d.sh(a, "ls /d").split() == ["keep", "new"]
    d.sh(a, "echo changed > /d/new; rm /layer2; dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null; sync")
    assert d.sh(b, "cat /d/new /layer2") == "new\nsecond\n"
    fs.sync()
    wait_for(lambda: abs(writable(d, a) - 20 * MIB) < MIB, 20, 0.5)
    assert writable(d, b) < MIB
    at = d.img.ImageFsInfo(pb().ImageFsInfoRequest())
    assert at.image_filesystems[0].fs_id.mountpoint == f"{fs.mnt}/berth"
    image = at.image_filesystems[0].used_bytes.value
    assert 0.8 * os.path.getsize(daemon.BUSYBOX) < image < os.path.getsize(daemon.BUSYBOX) + 2 * MIB
    # a restart finds all; the containers run on
    d.restart()
    assert d.status(a).state == pb().CONTAINER_RUNNING
    assert d.sh(a, "cat /d/new") == "changed\n"
    d.kill9()
    d.start()
    assert d.sh(b, "cat /d/new") == "new\n"
    c = d.run_ctr(pod, "sh", "-c", "cat /d/new /layer2", name="c")
    assert d.wait_exit(c).exit_code == 0
    assert [t for _, t in d.log_lines(pod, "c")] == ["new", "second"]
    # an image as a volume is a view
    part = pb().Mount(container_path="/mnt", image=pb().ImageSpec(image=IMAGE), readonly=True)
    e = d.run_ctr(pod, "sleep", "1000", name="e", mounts=[part])
    assert d.sh(e, "cat /mnt/d/new") == "new\n"
    assert d.exec(e, "/bin/touch", "/mnt/x").exit_code != 0


def test_size_limit(btrfs, fs):
    """What a pod may write is limited; what lies below does not count, and another pod is not limited."""
    d = btrfs
    d.import_image()
    pod = d.run_pod(config=d.pod_config(annotations={"berth.io/size-limit": "8Mi"}))
    cid = d.run_ctr(pod, "sleep", "1000")
    d.sh(cid, "dd if=/dev/urandom of=/a bs=1M count=5 2>/dev/null; sync")
    r = d.exec(cid, "/bin/dd", "if=/dev/urandom", "of=/b", "bs=1M", "count=20")
    assert r.exit_code != 0 and b"quota" in r.stderr.lower(), r.stderr
    fs.sync()
    wait_for(lambda: 5 * MIB < writable(d, cid) < 9 * MIB, 20, 0.5)
    free = d.run_ctr(d.run_pod(), "sleep", "1000")
    d.sh(free, "dd if=/dev/urandom of=/a bs=1M count=20 2>/dev/null; sync")
    d.kill9()
    d.start()
    assert d.exec(cid, "/bin/dd", "if=/dev/urandom", "of=/c", "bs=1M", "count=20").exit_code != 0
    d.sh(cid, "rm /a /b /c; sync")
    fs.sync()
    d.sh(cid, "dd if=/dev/urandom of=/d bs=1M count=5 2>/dev/null; sync")


def test_a_limit_without_quotas(tmp_path):
    fs = Fs(str(tmp_path), mib=256)
    d = make(fs, quota="auto")
    try:
        d.start()
        d.import_image()
        pod = d.run_pod(config=d.pod_config(annotations={"berth.io/size-limit": "8Mi"}))
        with fails("FAILED_PRECONDITION", "quota: full or simple"):
            d.run_ctr(pod, "sleep", "1000")
        cid = d.run_ctr(d.run_pod(), "sleep", "1000")
        d.sh(cid, "dd if=/dev/urandom of=/a bs=1M count=4 2>/dev/null; sync")
        wait_for(lambda: abs(writable(d, cid) - 4 * MIB) < MIB // 2, 20, 0.5)  # walked
        d.close()
    except BaseException:
        d.force()
        raise
    finally:
        fs.close()


def test_user_namespace(btrfs):
    d = btrfs
    d.import_image()
    h = d.rt.Status(pb().StatusRequest()).runtime_handlers
    if not h[0].features.user_namespaces:
        pytest.skip("this kernel maps no ids on btrfs: " + d.tail())
    c = d.pod_config()
    ids = [pb().IDMapping(container_id=0, host_id=65536, length=65536)]
    c.linux.security_context.namespace_options.userns_options.CopyFrom(pb().UserNamespace(mode=0, uids=ids, gids=ids))
    pod = d.run_pod(config=c)
    cid = d.run_ctr(pod, "sleep", "1000")
    assert d.sh(cid, "stat -c %u:%g / /bin/busybox").split() == ["0:0", "0:0"]
    assert d.sh(cid, "echo x > /new; stat -c %u /new").strip() == "0"
    assert d.sh(cid, "cat /proc/self/uid_map").split()[1] == "65536"


def test_subvolumes_of_a_container(btrfs, fs):
    """What a container makes of them goes with it; here it is done for it, for busybox cannot."""
    d = btrfs
    d.import_image()
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    top = f"{fs.mnt}/berth/active/{cid}/fs"
    for args in (["create", f"{top}/own"], ["create", f"{top}/own/inner"], ["snapshot", "-r", f"{top}/own/inner", f"{top}/own/s"]):
        subprocess.run(["btrfs", "subvolume", *args], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["btrfs", "property", "set", f"{top}/own", "ro", "true"], check=True)
    assert d.exec(cid, "/bin/touch", "/own/x").exit_code != 0
    d.remove_pod(pod)
    wait_for(lambda: not [s for s in fs.subvolumes() if "layers" not in s], 10, 0.1)


POINTS = ["layer-prepare-after", "layer-commit-before", "layer-commit-after", "ctr-prepare-after", "ctr-mount-after",
          "ctr-unmounted"]


@pytest.mark.skipif(missing() is not None or not has_faults(), reason="the build has no fault points (-Dfaults=true)")
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(fs, point):
    d = make(fs)
    try:
        d.start(env={"BERTH_FAULT": point})
        with pytest.raises(grpc.RpcError):
            d.import_image()
            pod = d.run_pod()
            d.run_ctr(pod, "sleep", "1000")
            d.remove_pod(pod)
        d.dead()
        d.start()
        d.import_image()
        pod = d.run_pod()
        cid = d.run_ctr(pod, "sleep", "1000", name="again")
        assert d.sh(cid, "cat /layer2") == "second\n"
        d.remove_all()
        d.remove_images()
        d.close()
    except BaseException:
        d.force()
        raise
    nothing_is_left(fs)


def test_another_file_system(fs):
    d = Daemon(config={"plugins": {"storage-btrfs": {"path": daemon.built(PLUGIN)}}, "storage": {"driver": "storage-btrfs"}})
    try:
        kind = subprocess.run(["stat", "-f", "-c", "%T", d.tmp], stdout=subprocess.PIPE, text=True).stdout.strip()
        if kind == "btrfs":
            pytest.skip("the directory of temporary files lies on btrfs")
        d.start(wait=False)
        assert d.proc.wait(30) != 0
        d.proc = None
        assert f"'{d.root}/plugins/storage-btrfs' lies on " in d.log() and "not on btrfs" in d.log()
    finally:
        d.force()


def again(what, timeout=30):
    """As a kubelet does: the kernel gives room back some time after a subvolume was deleted."""
    end = time.monotonic() + timeout
    while True:
        try:
            return what()
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and time.monotonic() < end, e
            time.sleep(0.5)


def test_a_full_file_system(tmp_path):
    """A pull and a container fail with the reason, and what was begun of them is undone."""
    fs = Fs(str(tmp_path), mib=160)
    d = make(fs)
    try:
        d.start()
        d.import_image()
        before = fs.subvolumes()
        with open(f"{fs.mnt}/ballast", "wb") as f:
            os.posix_fallocate(f.fileno(), 0, shutil.disk_usage(fs.mnt).free - 16 * MIB)
        big = busybox_image(more=[Tar().add("big", data=os.urandom(32 * MIB))])
        with fails("RESOURCE_EXHAUSTED", "No space left"):
            d.import_image(big, name="localhost/big:1")
        wait_for(lambda: fs.subvolumes() == before, 20, 0.1)
        pod = d.run_pod()
        cid = again(lambda: d.run_ctr(pod, "sleep", "1000"))
        r = d.exec(cid, "/bin/dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=100")
        assert r.exit_code != 0 and b"No space left" in r.stderr
        d.remove_pod(pod)
        wait_for(lambda: fs.subvolumes() == before, 20, 0.1)
        pod = d.run_pod()
        cid = again(lambda: d.run_ctr(pod, "sleep", "1000"))
        d.sh(cid, "echo x > /x")
        d.close()
    except BaseException:
        d.force()
        raise
    finally:
        fs.close()
