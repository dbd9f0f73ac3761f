"""A file system below the daemon's root, or a thin pool, that is full in the middle of an op: what takes room fails with
RESOURCE_EXHAUSTED, names the object and is undone; what gives room back goes on; nothing that was acknowledged is lost."""
import os

import grpc
import pytest

import failing
import test_daemon_btrfs
import test_daemon_devmapper
import test_daemon_repair
from daemon import missing, needs_daemon, wait_for
from failing import KIB, Image, Ledger

pytestmark = needs_daemon
MIB = 1 << 20
MISSING = {"overlay": missing, "btrfs": test_daemon_btrfs.missing, "devmapper": test_daemon_devmapper.missing,
           "thin pool": test_daemon_devmapper.missing}
TAKE, GIVE = ["import", "run-pod", "create", "start"], ["remove-container", "remove-pod", "remove-image"]
LEFT = [0] + [4 * KIB << n for n in range(15)]  # to 64 MiB


class Ballast:
    """A file that takes all of the disk but some bytes."""

    def __init__(self, disk):
        self.mnt, self.path = disk.mnt, f"{disk.mnt}/ballast"

    def fill(self, left):
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        size, step = 0, 256 * MIB
        while step >= 4 * KIB:  # the last ones tell how much there is
            v = os.statvfs(self.mnt)
            if v.f_bfree * v.f_frsize - step < left:
                step //= 2
                continue
            try:
                os.posix_fallocate(fd, size, step)
                size += step
            except OSError:
                step //= 2
        os.close(fd)

    def drop(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        os.sync()


class Pool:
    """A device of somebody else's that takes all of a pool but some bytes."""

    BLOCK, NUMBER, NAME = 64 * KIB, 9999999, "berth-test-ballast"

    def __init__(self, d):
        self.pool = f"berth-{d.tag_of_pool}-pool"

    def fill(self, left):
        used, of = map(int, failing.sh(f"dmsetup status {self.pool}").split()[5].split("/"))
        n = max(of - used - left // self.BLOCK, 1)
        failing.sh(f"dmsetup message {self.pool} 0 'create_thin {self.NUMBER}'; "
                   f"dmsetup create {self.NAME} --table \"0 {n * 128} thin $(dmsetup info -c --noheadings --separator : -o major,minor "
                   f"{self.pool}) {self.NUMBER}\"; "
                   f"dd if=/dev/zero of=/dev/mapper/{self.NAME} bs=64k count={n} oflag=direct 2>/dev/null || :")  # containers write, too

    def drop(self):
        if failing.sh(f"dmsetup ls | grep -c ^{self.NAME} || :") != "0":
            failing.sh(f"dmsetup remove --retry {self.NAME} && dmsetup message {self.pool} 0 'delete {self.NUMBER}'")


@pytest.fixture
def setting(request, tmp_path):
    what = request.param
    if MISSING[what]():
        pytest.skip(MISSING[what]())
    driver = "devmapper" if what == "thin pool" else what
    pool = {"loop_size": "160M", "base_size": "192M", "data_limit": 100} if what == "thin pool" else {}
    disk = failing.Disk(tmp_path, driver, size="1G" if driver == "devmapper" else "256M", fails=False)
    d = failing.node(driver, disk, **pool)
    try:
        d.start()
        led = Ledger(d)
        led.pull(Image("base"))
        ballast = Pool(d) if pool else Ballast(disk)
        yield d, disk, led, ballast
        d.stop()
        d.check_sanitizers()
    finally:
        ballast.drop()
        d.force()
        disk.close()


def store(d, driver):
    at = f"{d.root}/plugins/storage-{driver}"
    return sorted(f"{sub}/{name}" for sub in ("active", "layers", "new", "trash") for name in os.listdir(f"{at}/{sub}"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("setting", MISSING, indirect=True)
def test_within_each_op(setting, request):
    d, disk, led, ballast = setting
    driver = request.node.callspec.params["setting"].replace("thin pool", "devmapper")
    within = failing.Within(led, disk)

    def with_little(fn):
        before = led.listed()
        ballast.fill(left)
        try:
            got = fn()
        finally:
            ballast.drop()
        if isinstance(got, grpc.RpcError):
            assert got.code() == grpc.StatusCode.RESOURCE_EXHAUSTED or "runc" in got.details(), led.told[-1]
            assert led.listed() == before, "what failed is undone"
            led.must, led.may = before, set()
        assert led.listed() == led.must
        return got
    failed = {}
    for what in TAKE:
        for left in LEFT:
            if not isinstance(within.op(what, with_little), grpc.RpcError):
                break
            failed[what] = left
        else:
            raise AssertionError(f"{what} fails with {left} bytes left: {led.told[-1]}")
        print(f"{what}: fails with {failed.get(what, 'nothing')} bytes left, goes well with {left}:", led.told[-1:])
    assert failed["import"] >= MIB
    left = 0
    for what in GIVE:
        got = within.op(what, with_little)
        assert not isinstance(got, grpc.RpcError), got
    d.remove_all()
    d.remove_images()
    try:
        wait_for(lambda: not store(d, driver), 30, 0.1)
    except AssertionError:
        raise AssertionError(f"left: {store(d, driver)}\n{d.tail()}") from None
    led.must.clear()
    led.pull(Image("after"))
    led.survive(disk)


@pytest.mark.parametrize("setting", MISSING, indirect=True)
def test_nothing_goes_at_a_start(setting):
    """For want of room an image cannot be looked at; that does not make it a damaged one, and berthd starts."""
    d, disk, led, ballast = setting
    led.pull(Image("other"))
    d.stop()
    ballast.fill(0)
    p = test_daemon_repair.check(d)
    assert p.returncode == 1 and p.stdout.count("cannot be checked: ") == 2, p.stdout
    assert test_daemon_repair.summary(p).endswith("2 images; 0 repaired, 0 damaged, 2 not checked")
    d.start()
    assert led.listed() == led.must
    d.stop()
    ballast.drop()
    failing.check(d)
    d.start()
    led.compare()
