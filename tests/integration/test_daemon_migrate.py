"""The content of images that go from one storage driver into another and back. Each pair needs what its drivers need:
devmapper and aufs are not on every machine (tests/vm/run)."""
import glob
import os
import stat

import pytest

import test_daemon_aufs
import test_daemon_btrfs
import test_daemon_devmapper
from contents import differ, everything, seen
from daemon import Daemon, built, missing, needs_daemon, pb, stubs, wait_for
from test_daemon_drivers import config, images, load, migrate, record, remove
from test_daemon_overlay import FUSE

pytestmark = needs_daemon
NAME = "localhost/everything:1"
OVERLAY = "storage-overlay"
# the driver: why it cannot be tested here, its configuration. Attributes of a file on ext4 must fit one block, which on
# so small a one would be 1 KiB.
OTHERS = {
    "fake": (lambda: None if built("tests/fake/fake.so") else "the build has no fake plugin", {}),
    "storage-btrfs": (test_daemon_btrfs.missing, {}),
    "storage-devmapper": (test_daemon_devmapper.missing, {"loop_size": "768M", "base_size": "128M", "mkfs_options": "-b 4096"}),
    "storage-aufs": (test_daemon_aufs.no_aufs, {}),
}


class Pair:
    """A berthd of overlay (the handler "runc") and another driver (the handler "copies")."""

    def __init__(self, d, other, **keys):
        self.d, self.other = d, other
        self.handler = {OVERLAY: "runc", other: "copies"}
        self.state = keys.get("root", f"{d.root}/plugins/{other}")
        d.write_config(config(d, other, **keys))
        d.start()

    def layers(self, driver):
        if driver == "fake":
            return glob.glob(f"{self.state}/snaps/*")
        return glob.glob(f"{self.state if driver == self.other else f'{self.d.root}/plugins/{driver}'}/layers/*")

    def seen(self, driver):
        return seen(self.d, NAME, self.handler[driver])

    def identity(self):
        """All that names the image and its content."""
        (i, listed), = images(self.d).items()
        kept = {k: v for k, v in record(self.d, i).items() if k not in ("drivers", "serial")}
        assert len(kept["record"]["layers"]) == 4
        return i, sorted(listed.repo_tags), sorted(listed.repo_digests), listed.size, kept


@pytest.fixture(params=OTHERS)
def pair(request, tmp_path):
    why, keys = OTHERS[request.param]
    if why():
        pytest.skip(why())
    fs = None
    if request.param == "storage-btrfs":
        fs = test_daemon_btrfs.Fs(str(tmp_path))
        os.mkdir(f"{fs.mnt}/berth")
        keys = {"root": f"{fs.mnt}/berth"}
    d = test_daemon_devmapper.Thin() if request.param == "storage-devmapper" else Daemon()
    try:
        p = Pair(d, request.param, **keys)
        yield p
        d.remove_all()
        d.remove_images()
        wait_for(lambda: not p.layers(OVERLAY) + p.layers(p.other), 60, 0.1)
    except BaseException:
        d.force()
        raise
    finally:
        try:
            d.close()
        finally:
            if fs:
                fs.close()


def move(p, source, to):
    """Afterwards only `to` has it."""
    got = migrate(p.d, source, to, timeout=170)
    assert [m.state for m in got if m.state != stubs()[2].MIGRATE_COPYING] == [stubs()[2].MIGRATE_COPIED]
    remove(p.d, NAME, handler=p.handler[source])
    wait_for(lambda: not p.layers(source), 60, 0.1)
    assert record(p.d, images(p.d).popitem()[0])["drivers"] == [to]


@pytest.mark.parametrize("home", ["from_overlay", "from_the_other"])
def test_there_and_back(pair, home):
    """The tree is the same in each driver, whichever unpacked the image."""
    p = pair
    first, second = (OVERLAY, p.other) if home == "from_overlay" else (p.other, OVERLAY)
    load(p.d, everything(), NAME, handler=p.handler[first])
    before, identity = p.seen(first), p.identity()
    assert len(before) > 75 and before["d/same"][5].startswith("81cc5b17"), "else too little is compared"
    assert {"hidden/new", "keep/deep/b", "shade/sub/only", "gone/again"} <= set(before)
    assert not {"hidden/under", "gone/a", "shade/t", "shade/sub/s", "turns", "d/link", "long/near"} & set(before)
    assert before["d/sparse"][7] == before["d/hole"][7] == "sparse"
    for source, to in ((first, second), (second, first)):
        move(p, source, to)
        assert differ(before, p.seen(to)) == {}
        assert p.identity() == identity
    p.d.restart()
    assert p.identity() == identity and differ(before, p.seen(first)) == {}


def test_a_container_brings_its_image(pair):
    p = pair
    load(p.d, everything(), NAME)
    before = p.seen(OVERLAY)
    assert p.layers(p.other) == []
    assert differ(before, p.seen(p.other)) == {}
    assert len(p.layers(p.other)) == 4 and record(p.d, images(p.d).popitem()[0])["drivers"] == [OVERLAY, p.other]
    # and back: what the other has may be whole trees, of which layers are made again
    remove(p.d, NAME, handler="runc")
    wait_for(lambda: p.layers(OVERLAY) == [])
    assert differ(before, p.seen(OVERLAY)) == {}
    assert len(p.layers(OVERLAY)) == 4
    assert not [x for x in p.d.pids() if "berth-pull" in x[1]]


def masked(d):
    """Modes that files and directories of the layers have on the disk."""
    found = set()
    for base, dirs, files in os.walk(f"{d.root}/plugins/{OVERLAY}/layers".encode()):
        for name in dirs + files:
            mode = os.lstat(os.path.join(base, name)).st_mode
            if b"/fs/" in base + b"/" + name and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                found.add(stat.S_IMODE(mode))
    return found


@pytest.mark.skipif(OTHERS["fake"][0]() is not None, reason="the build has no fake plugin")
@pytest.mark.skipif(not os.path.exists(FUSE) or not os.path.exists("/dev/fuse"), reason=f"no {FUSE}, or no /dev/fuse")
def test_force_mask(make_daemon):
    """The true modes are what containers see, and what goes into other drivers."""
    d = make_daemon(image=False, start=False)
    c = config(d)
    d.write_config(c)
    d.start()
    load(d, everything(), NAME)
    true = seen(d, NAME, "runc")
    remove(d, NAME)
    c["plugins"][OVERLAY].update(mount_program=FUSE, force_mask="shared")
    d.write_config(c)
    d.restart()

    def shown():
        """Not all that the kernel's overlay shows: ACLs, and it shows the attribute."""
        return {k: v[:4] for k, v in seen(d, NAME, "runc").items()}

    load(d, everything(), NAME)
    assert masked(d) == {0o755}
    assert differ({k: v[:4] for k, v in true.items()}, shown()) == {}
    assert differ(true, seen(d, NAME, "copies")) == {}, "brought from the masked layers"
    remove(d, NAME, handler="runc")
    assert migrate(d, "fake", OVERLAY)[-1].state == stubs()[2].MIGRATE_COPIED
    assert masked(d) == {0o755}
    assert differ({k: v[:4] for k, v in true.items()}, shown()) == {}
