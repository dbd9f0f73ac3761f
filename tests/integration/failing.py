"""A disk below the daemon's root that fails or is full, and the ledger of what the daemon has acknowledged on it."""
import hashlib
import os
import re
import signal
import subprocess
import threading

import grpc

import daemon
import test_daemon_devmapper
import test_daemon_repair
from daemon import busybox_image, pb, wait_for
from pullharness import Tar

NAME = "berth-test-failing"
KIB = 1 << 10
DRIVERS = ("overlay", "btrfs", "devmapper")
# What an error says of its cause: what the kernel said of the disk, or what storage-devmapper says of its pool
CAUSES = re.compile("Input/output error|Read-only file system|read-only file system|No space left on device|Structure needs cleaning|"
                    "thin pool '[^']+' (is read-only|is full|is nearly full|is nearly out of metadata|has failed)|no space left on device|input/output error")
OURS = re.compile("(container|pod sandbox|pod|image) '?(sha256:)?[0-9a-f]{64}")  # perhaps one whose id the client does not know yet
CODES = ("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "RESOURCE_EXHAUSTED")


def sh(cmd):
    return subprocess.run(cmd, shell=True, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Device:
    """One on a loop file, which can be made to fail."""

    def __init__(self, name, path, size):
        self.name = name
        self.loop = sh(f"truncate -s {size} {path}; losetup -f --show {path}")
        self.size = int(sh(f"blockdev --getsz {self.loop}"))
        sh(f"modprobe -q dm_flakey; dmsetup create {name} --table '{self.table('well')}'")

    def table(self, how):
        return {"well": f"0 {self.size} linear {self.loop} 0", "all": f"0 {self.size} error",
                "writes": f"0 {self.size} flakey {self.loop} 0 0 3600 1 error_writes"}[how]

    def arm(self, how):
        """fire() takes little time after it."""
        sh(f"dmsetup load {self.name} --table '{self.table(how)}'")

    def fire(self):
        sh(f"dmsetup suspend --noflush --nolockfs {self.name}; dmsetup resume --noflush --nolockfs {self.name}")

    def fail(self, how):
        self.arm(how)
        self.fire()

    def close(self):
        subprocess.run(["dmsetup", "remove", "--retry", self.name])
        subprocess.run(["losetup", "-d", self.loop])


class Disk:
    """A file system on a loop file; where `fails`, on a device that can be made to, else one that can be filled."""

    def __init__(self, at, driver, size="1G", fails=True):
        self.kind, self.mnt = "btrfs" if driver == "btrfs" else "ext4", f"{at}/mnt"
        os.mkdir(self.mnt)
        self.device = Device(NAME, f"{at}/image", size) if fails else None
        self.dev = f"/dev/mapper/{NAME}" if fails else sh(f"truncate -s {size} {at}/image; losetup -f --show {at}/image")
        sh(f"mkfs.{self.kind} -q {'' if fails or driver != 'btrfs' else '--mixed'} {self.dev} && mount {self.dev} {self.mnt}")
        if not fails and self.kind == "ext4":  # what is free is there for all
            with open(f"/sys/fs/ext4/{os.path.basename(self.dev)}/reserved_clusters", "w") as f:
                f.write("0")

    def is_free(self):
        try:
            os.close(os.open(self.dev, os.O_RDONLY | os.O_EXCL))
            return True
        except OSError:
            return False

    def heal(self):
        """As after the disk's repair: unmounted, checked, mounted."""
        if self.device:
            self.device.fail("well")
        sh(f"umount {self.mnt}")
        wait_for(self.is_free)  # a process that has not quite ended may keep the mount in a namespace of its own
        fsck, good = (["e2fsck", "-fp"], (0, 1)) if self.kind == "ext4" else (["btrfs", "check", "--readonly"], (0,))
        p = subprocess.run(fsck + [self.dev], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert p.returncode in good, p.stdout
        sh(f"mount {self.dev} {self.mnt}")

    def close(self):
        if self.device:
            self.device.fail("well")
        subprocess.run(["umount", "-l", self.mnt], stderr=subprocess.DEVNULL)
        if self.device:
            self.device.close()
        else:
            subprocess.run(["losetup", "-d", self.dev])


def node(driver, disk, **keys):
    """A berthd, not started, whose root is on the disk."""
    plugin = f"storage-{driver}"
    if driver == "devmapper":
        keys = {"loop_size": "512M", "base_size": "64M", "check_interval_seconds": 1, **keys}
    over = {"root": f"{disk.mnt}/root", "storage": {"driver": plugin},
            "plugins": {plugin: {"path": daemon.built(f"plugins/{plugin}/{plugin}.so"), **keys}}}
    if driver == "devmapper":
        d = test_daemon_devmapper.Thin(**keys)
        d.write_config(over)
    else:
        d = daemon.Daemon(cni=False, config=over)
    d.root = over["root"]
    return d


def end(d, *places):
    """Processes of a dead daemon and mounts below its own and other places, as the end of the boot would."""
    def ours():
        out = {pid for pid, _ in d.pids()}
        for group in d.cgroups():
            try:
                with open(f"{group}cgroup.procs") as f:
                    out |= set(map(int, f.read().split()))
            except FileNotFoundError:
                pass
        for place in places:
            out |= set(map(int, subprocess.run(["pgrep", "-f", f"{place}/"], stdout=subprocess.PIPE, text=True).stdout.split()))
        return out

    def none_left():
        for pid in ours():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not ours()
    wait_for(none_left)
    with open("/proc/self/mountinfo") as f:
        mounts = [m for m in (line.split()[4] for line in f) if m.startswith(tuple(f"{p}/" for p in (d.tmp, *places)))]
    for m in sorted(mounts, reverse=True):
        wait_for(lambda: subprocess.run(["umount", m], stderr=subprocess.DEVNULL).returncode == 0)


def let_go(d, disk):
    """Whatever of a dead daemon holds the disk."""
    end(d, disk.mnt)
    if not isinstance(d, test_daemon_devmapper.Thin):
        return
    for x in sorted(x for x in sh("dmsetup ls").split() if x.startswith(f"berth-{d.tag_of_pool}-")):
        sh(f"dmsetup remove --retry {x}")  # "-0000" before "-pool"
    for line in sh("losetup -n -O NAME,BACK-FILE").splitlines():
        if line.split()[1].startswith(f"{disk.mnt}/"):
            sh(f"losetup -d {line.split()[0]}")


def check(d):
    """`berthd check --repair` leaves a clean store."""
    p = test_daemon_repair.check(d)
    assert p.returncode == 0 and test_daemon_repair.summary(p).endswith(" 0 damaged"), p.stdout + p.stderr
    p = test_daemon_repair.check(d)
    assert p.returncode == 0 and test_daemon_repair.summary(p).endswith("; 0 repaired, 0 damaged"), p.stdout + p.stderr


class Image:
    """One with a layer of its own, and what a container of it must see."""

    def __init__(self, name, size=300 * KIB):
        data = os.urandom(size)
        self.name, self.sum = f"localhost/failing/{name}:1", hashlib.sha256(data).hexdigest()
        self.image = busybox_image(more=[Tar().add("own", data=data)])


class Ledger:
    """What a daemon has acknowledged: what must be there, and what may be since an op on it failed."""

    def __init__(self, d):
        self.d, self.must, self.may, self.images, self.told = d, set(), set(), {}, []

    def op(self, fn, makes=None, takes=(), says=()):
        """What fn() returns, or its error, which must name an object (one of `says`, or the things' own names) and the cause.
        makes, takes: a thing that it makes, and those that it removes, as ("ctr", name)."""
        things = {makes} - {None} | set(takes)
        self.must -= things
        self.may |= things
        try:
            got = fn()
        except grpc.RpcError as e:
            text = e.details()
            names = [name for _, name in things] + list(says)
            assert OURS.search(text) or any(n in text for n in names), (text, names)
            # in the runtime's words a file that cannot be read is one that is not there
            assert "runc create failed" in text or e.code().name in CODES and CAUSES.search(text), (e.code(), text)
            self.told.append(f"{e.code().name}: {text}")
            return e
        self.may -= things
        self.must |= {makes} - {None}
        return got

    def pull(self, image):
        self.images[image.name] = image
        return self.op(lambda: self.d.import_image(image.image, name=image.name), makes=("image", image.name))

    def drop(self, image):
        ref = pb().ImageSpec(image=image.name)
        return self.op(lambda: self.d.img.RemoveImage(pb().RemoveImageRequest(image=ref), timeout=60), takes=[("image", image.name)])

    def run_pod(self, name):
        return self.op(lambda: self.d.run_pod(name=name), makes=("pod", name))

    def create(self, pod, name, image):
        return self.op(lambda: self.d.create(pod, "sleep", "1000", name=name, image=image.name), makes=("ctr", name), says=[pod[0]])

    def start(self, cid):
        return self.op(lambda: self.d.start_ctr(cid), says=[cid])

    def remove_ctr(self, cid, name):
        return self.op(lambda: self.d.remove_ctr(cid), takes=[("ctr", name)], says=[cid])

    def remove_pod(self, pod, name, ctrs=()):
        return self.op(lambda: self.d.remove_pod(pod), takes=[("pod", name)] + [("ctr", c) for c in ctrs], says=[pod[0]])

    def listed(self):
        images = self.d.img.ListImages(pb().ListImagesRequest()).images
        return ({("image", t) for i in images for t in i.repo_tags} | {("pod", p.metadata.name) for p in self.d.pods()} |
                {("ctr", c.metadata.name) for c in self.d.ctrs()})

    def compare(self):
        """What is there against what must and what may; and all of each image. No pods are there then."""
        got = self.listed()
        assert self.must <= got <= self.must | self.may, (self.must - got, got - self.must - self.may)
        self.d.remove_all()
        assert not self.d.pods() and not self.d.ctrs()
        self.must, self.may = {t for t in got if t[0] == "image"}, set()
        pod = self.d.run_pod()
        for _, name in sorted(self.must):
            cid = self.d.run_ctr(pod, "sleep", "1000", image=name, name=f"look{hash(name) % 10000}")
            assert self.d.sh(cid, "busybox sha256sum /own; cat /layer2") == f"{self.images[name].sum}  /own\nsecond\n", name
        self.d.remove_pod(pod)

    def survive(self, disk):
        """The daemon and its node end, the disk gets well, and what was acknowledged is there."""
        d = self.d
        d.kill9()
        let_go(d, disk)
        disk.heal()
        check(d)
        d.start()
        self.compare()


class Within:
    """The seconds that each op takes on a disk that is well, and the op again on one that fails in its middle."""

    def __init__(self, ledger, disk):
        self.ledger, self.disk, self.n = ledger, disk, 0

    def op(self, what, act):
        """`what` on things made for it, by act(fn)."""
        led, self.n = self.ledger, self.n + 1
        name = f"{what}{self.n}"
        if what == "import":
            image = Image(name, 2 << 20)
            return act(lambda: led.pull(image))
        if what == "remove-image":
            image = Image(name)
            led.pull(image)
            return act(lambda: led.drop(image))
        if what == "run-pod":
            return act(lambda: led.run_pod(name))
        pod = led.run_pod(name)
        image = next(i for i in led.images.values() if ("image", i.name) in led.must)
        if what == "create":
            return act(lambda: led.create(pod, name, image))
        cid = led.create(pod, name, image)
        if what == "start":
            return act(lambda: led.start(cid))
        led.start(cid)
        led.d.sh(cid, "dd if=/dev/urandom of=/mine bs=64k count=16 2>/dev/null")
        if what == "remove-container":
            return act(lambda: led.remove_ctr(cid, name))
        assert what == "remove-pod"
        return act(lambda: led.remove_pod(pod, name, [name]))

    def fail_in(self, what, how, seconds):
        self.disk.device.arm(how)
        timer = threading.Timer(seconds, self.disk.device.fire)

        def act(fn):
            timer.start()
            try:
                return fn()
            finally:
                timer.join()
        return self.op(what, act)
