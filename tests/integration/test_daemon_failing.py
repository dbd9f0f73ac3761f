"""A device that fails below the daemon's root, before an op or within it: errors name the object and the cause, the daemon lives
on, and once the device is well nothing that was acknowledged is lost, nothing half-made is used, and the store is clean. Needs
a device mapper (dm-flakey): the virtual machine has one."""
import os
import random
import time

import grpc
import pytest

import daemon
import failing
import test_daemon_devmapper
from failing import DRIVERS, Image, Ledger

pytestmark = pytest.mark.skipif(test_daemon_devmapper.missing() is not None, reason=str(test_daemon_devmapper.missing()))
OPS = ["import", "create", "start", "remove-container", "remove-pod", "run-pod", "remove-image"]
ROUNDS = int(os.environ.get("BERTH_FAILING_ROUNDS", "1"))  # of all ops


@pytest.fixture
def setting(request, tmp_path):
    disk = failing.Disk(tmp_path, request.param)
    d = failing.node(request.param, disk)
    try:
        d.start()
        yield d, disk, Ledger(d)
        d.stop()
        d.check_sanitizers()
    finally:
        d.force()
        disk.close()


@pytest.mark.parametrize("how", ["writes", "all"])
@pytest.mark.parametrize("setting", DRIVERS, indirect=True)
def test_before_each_op(setting, how):
    d, disk, led = setting
    image, unused, other = Image("one"), Image("two"), Image("three")
    led.pull(image)
    led.pull(unused)
    pods = {name: led.run_pod(name) for name in ("some", "others")}
    cids = {name: led.create(pods["some"], name, image) for name in ("first", "second")}
    led.start(cids["first"])

    disk.device.fail(how)
    assert isinstance(led.pull(other), grpc.RpcError), "a layer is synced before it is acknowledged"
    led.create(pods["some"], "third", image)
    led.start(cids["second"])
    d.rt.Version(daemon.pb().VersionRequest())
    assert led.must <= led.listed() <= led.must | led.may
    led.remove_ctr(cids["first"], "first")
    led.remove_pod(pods["some"], "some", ["first", "second", "third"])
    led.remove_pod(pods["others"], "others")
    led.drop(unused)

    led.survive(disk)
    led.pull(other)
    led.compare()


@pytest.mark.timeout(150 + 150 * ROUNDS)
@pytest.mark.parametrize("setting", DRIVERS, indirect=True)
def test_within_each_op(setting):
    d, disk, led = setting
    led.pull(Image("base"))
    within, took, seed = failing.Within(led, disk), {}, random.randrange(1 << 32)
    rng = random.Random(seed)
    print("seed", seed)

    def timed(fn):
        began = time.monotonic()
        got = fn()
        took[what] = time.monotonic() - began
        assert not isinstance(got, grpc.RpcError), led.told
        return got
    for what in OPS:
        within.op(what, timed)
    d.remove_all()
    led.must = {t for t in led.must if t[0] == "image"}
    for n in range(ROUNDS * len(OPS)):
        what, how = OPS[n % len(OPS)], rng.choice(["writes", "writes", "all"])
        at = rng.uniform(0, took[what])
        got = within.fail_in(what, how, at)
        print(f"{what}, {how} after {at:.3f} of {took[what]:.3f} s:", led.told[-1] if isinstance(got, grpc.RpcError) else "done")
        led.survive(disk)
