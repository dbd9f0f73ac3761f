"""Pods whose root file systems are thin devices. Needs a device mapper with thin provisioning: the virtual machine has one."""
import glob
import os
import re
import shutil
import subprocess

import pytest

import daemon
import pullharness
from daemon import fails, pb, wait_for
from pullharness import Tar
from test_daemon_userns import pod_config as mapped_pod

NAME = "storage-devmapper"
MIB = 1 << 20


def missing():
    why = daemon.missing()
    if why:
        return why
    if not daemon.built(f"plugins/{NAME}/{NAME}.so"):
        return f"the build has no {NAME}"
    try:  # dmsetup makes the node even where the kernel has none
        os.close(os.open("/dev/mapper/control", os.O_RDWR))
    except OSError as e:
        return f"needs a device mapper: {e}"
    for tool in ("dmsetup", "thin_check", "mkfs.ext4"):
        if not shutil.which(tool):
            return f"needs {tool}"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def sh(cmd):
    return subprocess.run(cmd, shell=True, check=True, stdout=subprocess.PIPE, text=True).stdout


class Thin(daemon.Daemon):
    """A berthd whose layers are in a pool of its own on files."""

    def __init__(self, **keys):
        conf = {"path": daemon.built(f"plugins/{NAME}/{NAME}.so"), "loop_size": "512M", "base_size": "96M",
                "check_interval_seconds": 1, **keys}
        super().__init__(cni=False, config={"plugins": {NAME: conf}, "storage": {"driver": NAME}})

    @property
    def state(self):
        return f"{self.root}/plugins/{NAME}"

    @property
    def tag_of_pool(self):
        """What the names of its devices begin with, after "berth-"."""
        with open(f"{self.state}/pool") as f:
            return re.search("tag=([0-9a-f]+)", f.read())[1]

    def devices(self):
        """Active ones but the pool."""
        return [line.split()[0] for line in sh("dmsetup ls").splitlines() if re.match(rf"berth-{self.tag_of_pool}-\d", line)]

    def used(self):
        """Blocks of the pool."""
        return int(sh(f"dmsetup status berth-{self.tag_of_pool}-pool").split()[5].split("/")[0])

    def force(self):
        super().hang_up()
        if self.proc and self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        for m in sorted(self.mounts(), reverse=True):
            subprocess.run(["umount", "-l", m], stderr=subprocess.DEVNULL)
        if os.path.exists(f"{self.state}/pool"):
            for d in self.devices() + [f"berth-{self.tag_of_pool}-pool"]:
                subprocess.run(["dmsetup", "remove", "--retry", d], stderr=subprocess.DEVNULL)
        super().force()


@pytest.fixture(scope="module")
def shared_thin():
    d = Thin()
    try:
        d.start()
        d.import_image(daemon.busybox_image(more=[Tar().add("gone", data="x\n").dir("dir").add("dir/a", data="a\n"),
                                                  Tar().add(".wh.gone", data="").add("dir/.wh.a", data="")]))
    except BaseException:
        d.force()
        raise
    yield d
    d.close()


@pytest.fixture
def thin(shared_thin):
    yield shared_thin
    shared_thin.remove_all()
    shared_thin.check_clean()
    shared_thin.check_sanitizers()
    wait_for(lambda: shared_thin.devices() == [])


UNITS = ["tests/unit/test_storage_devmapper", "tests/unit/test_storage_devmapper_pool"]


def units():
    for unit in UNITS:
        with open(f"{daemon.REPO}/{unit}.c") as f:
            for name in re.findall(r"^static void (\w+)\(void \*\*s\)$", f.read(), re.M):
                yield pytest.param(unit, name, id=name)


@pytest.mark.parametrize("unit,name", units())
def test_unit(unit, name):
    """The unit tests, which skip themselves on most machines."""
    if not daemon.built(unit):
        pytest.skip(f"the build has no {unit}")
    got = subprocess.run([daemon.built(unit), name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert got.returncode == 0, got.stdout
    if "SKIPPED" in got.stdout:
        pytest.skip(got.stdout)


def condition(d, kind="RuntimeReady"):
    return next(c for c in d.rt.Status(pb().StatusRequest()).status.conditions if c.type == kind)


def writable(d, cid):
    return d.rt.ContainerStats(pb().ContainerStatsRequest(container_id=cid)).stats.writable_layer


def test_the_life_of_a_pod(thin):
    d = thin
    assert d.devices() == []
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    assert len(d.devices()) == 1
    assert d.sh(cid, "cat /layer2; ls /gone /dir 2>&1; grep ' / ' /proc/mounts").split("\n")[:2] == \
        ["second", "ls: /gone: No such file or directory"]
    assert re.search("^/dev/dm-[0-9]+ / ext4 rw", d.sh(cid, "cat /proc/mounts"), re.M)
    d.sh(cid, "dd if=/dev/zero of=/mine bs=1M count=8 2>/dev/null; sync; echo text >/note")
    d.restart()
    assert d.sh(cid, "cat /note; wc -c </mine") == "text\n8388608\n"
    d.kill9()
    d.start()
    assert d.sh(cid, "cat /note; rm /bin/cat; echo more >>/note") == "text\n"
    u = wait_for(lambda: (lambda u: u if u.used_bytes.value >= 8 * MIB else None)(writable(d, cid)), 30, 0.5)
    assert u.used_bytes.value < 10 * MIB and 1 <= u.inodes_used.value < 10
    # another container of the image has nothing of it
    other = d.run_ctr(pod, "sleep", "1000", name="other")
    assert d.exec(other, "cat", "/note").exit_code != 0
    assert d.sh(other, "cat /layer2") == "second\n"
    d.stop_ctr(cid)
    d.remove_ctr(cid)
    assert len(d.devices()) == 1


def test_the_size_is_a_limit(thin):
    d = thin
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    got = d.exec(cid, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=200")
    assert got.exit_code != 0 and b"No space left" in got.stderr
    assert d.sh(cid, "rm /big; sync; echo fits >/note; cat /note") == "fits\n"
    assert condition(d).status


def test_what_is_deleted_is_given_back(thin):
    d = thin
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    before = d.used()
    d.sh(cid, "dd if=/dev/zero of=/big bs=1M count=32 2>/dev/null; sync")
    full = d.used()
    assert full - before > 400  # of 64 KiB
    d.sh(cid, "rm /big; sync")
    wait_for(lambda: d.used() < full - 400, 30, 0.5)


def test_owners_are_mapped(thin):
    d = thin
    if not d.rt.Status(pb().StatusRequest()).runtime_handlers[0].features.user_namespaces:
        pytest.skip("this kernel or file system maps no ids: " + d.tail())
    pod = d.run_pod(config=mapped_pod(d))
    cid = d.run_ctr(pod, "sleep", "1000")
    assert d.sh(cid, "stat -c %u /bin/busybox; echo x >/mine; stat -c %u /mine; grep -c 65536 /proc/self/uid_map") == \
        "0\n0\n1\n"


def test_a_full_pool_makes_the_node_unready():
    d = Thin(loop_size="96M", base_size="128M", data_limit=80)
    try:
        d.start()
        d.import_image()
        pod = d.run_pod()
        cid = d.run_ctr(pod, "sleep", "1000")
        assert condition(d).status
        d.exec(cid, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=120")
        d.exec(cid, "sync")
        wait_for(lambda: not condition(d).status, 20, 0.1)
        c = condition(d)
        assert c.reason == "PluginUnhealthy" and "thin pool 'berth-" in c.message and "full" in c.message
        with fails("RESOURCE_EXHAUSTED", "thin pool", "full"):
            d.create(pod, "true", name="second")
        with fails("RESOURCE_EXHAUSTED", "thin pool", "full"):
            d.import_image(pullharness.Image([Tar().add("f", data="other\n")]), "localhost/berth/other:1")
        d.stop_ctr(cid)
        d.remove_ctr(cid)
        wait_for(lambda: condition(d).status, 30, 0.1)
        cid = d.run_ctr(pod, "sleep", "1000", name="third")
        assert d.sh(cid, "cat /layer2") == "second\n"
        d.import_image(pullharness.Image([Tar().add("f", data="other\n")]), "localhost/berth/other:1")
    finally:
        d.close()


def test_images_leave_nothing():
    d = Thin()
    try:
        d.start()
        d.import_image()
        before = set(glob.glob(f"{d.state}/layers/*"))
        assert len(before) == 2
        d.remove_images()
        wait_for(lambda: not glob.glob(f"{d.state}/*/*"), 20)
        assert d.devices() == []
        d.import_image()
        pod = d.run_pod()
        assert d.sh(d.run_ctr(pod, "sleep", "100"), "cat /layer2") == "second\n"
    finally:
        d.close()

