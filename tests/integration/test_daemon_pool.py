"""A thin pool that was given, whose data or metadata device fails or whose metadata is full. Needs a device mapper: the virtual
machine has one."""
import subprocess

import grpc
import pytest

import failing
import test_daemon_devmapper
from daemon import fails, wait_for
from failing import Image, Ledger, sh
from test_daemon_devmapper import condition

pytestmark = pytest.mark.skipif(test_daemon_devmapper.missing() is not None, reason=str(test_daemon_devmapper.missing()))
POOL = "berth-given-pool"


class Pool:
    """On a loop file for data and one for metadata, each behind a device that can be made to fail."""

    def __init__(self, at, metadata):
        sh("modprobe -q -a loop dm_thin_pool")
        self.devices = {what: failing.Device(f"{POOL}-{what}", f"{at}/{what}", size)
                        for what, size in (("data", "512M"), ("meta", metadata))}
        self.activate()

    def activate(self):
        sh(f"dmsetup create {POOL} --table '0 {self.devices['data'].size} thin-pool /dev/mapper/{POOL}-meta /dev/mapper/{POOL}-data 128 0 "
           "1 error_if_no_space'")

    def status(self):
        return sh(f"dmsetup status {POOL}")

    def metadata(self):
        """Blocks: (used, of all)"""
        return tuple(map(int, self.status().split()[4].split("/")))

    def tell(self, *messages):
        sh("\n".join(f"dmsetup message {POOL} 0 '{m}' || exit" for m in messages) or ":")

    def repair(self):
        """As a node's admin would, with no thin device active."""
        sh(f"dmsetup remove --retry {POOL}")
        for device in self.devices.values():
            device.fail("well")
        if subprocess.run(["thin_check", "-q", "--clear-needs-check-flag", f"/dev/mapper/{POOL}-meta"]).returncode:
            sh(f"f=$(mktemp); truncate -s 16M $f; thin_repair -i /dev/mapper/{POOL}-meta -o $f; "
               f"dd if=$f of=/dev/mapper/{POOL}-meta bs=64k conv=notrunc,fsync count={self.devices['meta'].size // 128}; rm $f")
        self.activate()

    def close(self, tag):
        for d in [x for x in sh("dmsetup ls").split() if x.startswith(f"berth-{tag}-")]:
            subprocess.run(["dmsetup", "remove", "--retry", d])
        subprocess.run(["dmsetup", "remove", "--retry", POOL])
        for device in self.devices.values():
            device.close()


@pytest.fixture
def setting(request, tmp_path):
    metadata, keys = request.param
    pool = Pool(tmp_path, metadata)
    d = test_daemon_devmapper.Thin()
    d.write_config({"storage": {"driver": "storage-devmapper"}, "plugins": {"storage-devmapper": {
        "path": failing.daemon.built("plugins/storage-devmapper/storage-devmapper.so"), "pool": POOL, "base_size": "64M",
        "check_interval_seconds": 1, **keys}}})
    tag = "none"
    try:
        d.start()
        tag = d.tag_of_pool
        led = Ledger(d)
        led.pull(Image("base"))
        yield d, pool, led
        d.stop()
        d.check_sanitizers()
    finally:
        d.force()
        pool.close(tag)


def survive(d, pool, led, others=()):
    """The daemon and its node end, the pool is repaired, and what was acknowledged is there."""
    d.kill9()
    tag = d.tag_of_pool
    failing.end(d)
    for x in sh("dmsetup ls").split():
        if x.startswith(f"berth-{tag}-"):
            sh(f"dmsetup remove --retry {x}")
    pool.repair()
    pool.tell(*(f"delete {n}" for n in others))
    failing.check(d)
    d.start()
    assert condition(d).status
    led.compare()


@pytest.mark.parametrize("how", ["writes", "all"])
@pytest.mark.parametrize("setting", [("8M", {})], indirect=True, ids=["given"])
def test_the_data_device_fails(setting, how):
    d, pool, led = setting
    image = next(iter(led.images.values()))
    pod = led.run_pod("some")
    cid = led.create(pod, "first", image)
    led.start(cid)
    other = Image("other")

    pool.devices["data"].fail(how)
    assert isinstance(led.pull(other), grpc.RpcError), "a layer is synced before it is acknowledged"
    led.create(pod, "second", image)
    assert led.must <= led.listed() <= led.must | led.may
    pool.devices["data"].fail("well")
    if " rw " in pool.status():  # else it could not flush the data before it committed its metadata
        led.pull(other)
        third = led.create(pod, "third", image)
        led.start(third)
        assert d.sh(third, "cat /layer2") == "second\n"
        led.remove_ctr(third, "third")
    survive(d, pool, led)
    led.pull(other)


def gives_up(d, led, pod, image):
    """The pool takes no more, and that is told."""
    wait_for(lambda: not condition(d).status, 20, 0.1)
    c = condition(d)
    assert c.reason == "PluginUnhealthy" and f"thin pool '{POOL}'" in c.message, c
    for code, fn in ("UNAVAILABLE|RESOURCE_EXHAUSTED", lambda: d.create(pod, "true", name="late", image=image.name)), \
                    ("UNAVAILABLE|RESOURCE_EXHAUSTED", lambda: d.import_image(Image("late").image, name="localhost/failing/late:1")):
        with fails(code, f"thin pool '{POOL}'"):
            fn()
    return c.message


@pytest.mark.parametrize("how", ["writes", "all"])
@pytest.mark.parametrize("setting", [("8M", {})], indirect=True, ids=["given"])
def test_the_metadata_device_fails(setting, how):
    d, pool, led = setting
    image = next(iter(led.images.values()))
    pod = led.run_pod("some")
    led.start(led.create(pod, "first", image))

    pool.devices["meta"].fail(how)
    assert isinstance(led.pull(Image("other")), grpc.RpcError), "a layer is synced before it is acknowledged"
    print(gives_up(d, led, pod, image))
    assert led.must <= led.listed() <= led.must | led.may
    survive(d, pool, led)
    led.pull(Image("after"))


@pytest.mark.parametrize("setting", [("512K", {}), ("512K", {"metadata_limit": 100})], indirect=True, ids=["limit", "full"])
def test_the_metadata_is_full(setting, request):
    d, pool, led = setting
    image = next(iter(led.images.values()))
    pod = led.run_pod("some")
    led.start(led.create(pod, "first", image))
    used, of = pool.metadata()
    # each device of another has a block
    others = range(9000000, 9000000 + of - used - of // 12)
    pool.tell(*(f"create_thin {n}" for n in others))
    got, n = None, 0
    while not isinstance(got, grpc.RpcError):
        n += 1
        assert n < 40, pool.status()
        got = led.create(pod, f"c{n}", image)
    print(n, "containers:", led.told[-1], pool.status())
    print(gives_up(d, led, pod, image))
    if request.node.callspec.id == "limit":
        assert " rw " in pool.status(), "the kernel was not let come to it"
        pool.tell(*(f"delete {n}" for n in others))
        wait_for(lambda: condition(d).status, 30, 0.1)
        led.start(led.create(pod, "again", image))
        others = ()
    survive(d, pool, led, others)
