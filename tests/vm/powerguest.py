"""A round of tests/vm/powercut in the guest: check the store that the cut left, compare it, and work on it until the next."""
import glob
import json
import os
import random
import re
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
sys.dont_write_bytecode = True
os.environ["BERTH_TEST_CGROUPS"] = "systemd"
import daemon  # noqa: E402
import poweritems  # noqa: E402

STATE, DISK = "/state", "/dev/vdb"
PLUGINS = {"overlay": "storage-overlay", "btrfs": "storage-btrfs", "devmapper": "storage-devmapper", "lvm": "storage-devmapper"}
BLOCKS = "power-blocks"  # of "lvm": the part of the disk that has no file system
KEEP = 6  # images at most


class Trouble(Exception):
    pass


def sh(cmd, check=True):
    p = subprocess.run(cmd, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and p.returncode:
        raise Trouble(f"{cmd}: {p.stdout}")
    return p.stdout


class Node(daemon.Daemon):
    """A berthd whose root is on the disk."""

    def __init__(self, driver, run_on_disk):
        self.driver, self.plugin = driver, PLUGINS[driver]
        conf = {"path": daemon.built(f"plugins/{self.plugin}/{self.plugin}.so")}
        if driver == "devmapper":
            conf.update(loop_size="512M", base_size="64M")
        if driver == "lvm":
            conf.update(devices=f"/dev/mapper/{BLOCKS}", base_size="64M")
        over = {"root": f"{STATE}/root", "plugins": {self.plugin: conf}, "storage": {"driver": self.plugin}}
        if run_on_disk:
            over["run"] = f"{STATE}/run"
        super().__init__(cni=False, config=over)
        self.root, self.run = over["root"], over.get("run", self.run)

    def check(self):
        """berthd check --repair: (repaired, damaged, all it said)"""
        p = subprocess.run([os.path.join(daemon.build_dir(), "core/berthd"), "--config", f"{self.tmp}/berth.yaml", "--helpers",
                            self.helpers, "check", "--repair"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = p.stdout + p.stderr
        m = re.search(r"(\d+) repaired, (\d+) damaged", p.stdout)
        if not m or p.returncode:
            raise Trouble(f"berthd check --repair: {p.returncode}: {said[-3000:]}")
        return int(m[1]), int(m[2]), said

    def store(self):
        return f"{self.root}/plugins/{self.plugin}"


class Round:
    def __init__(self, at):
        self.at = at
        with open(f"{at}/guest.json") as f:
            self.o = json.load(f)
        self.rng = random.Random(self.o["seed"])
        self.path = f"{at}/{self.o['driver']}.journal"
        with open(self.path) as f:
            self.model = poweritems.Model(map(json.loads, f))
        self.journal = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.lock = threading.Lock()
        self.using = set()

    def say(self, ev, **more):
        """On the host once this returns."""
        e = {"ev": ev, "t": round(time.monotonic(), 1), **more}
        with self.lock:
            line = json.dumps(e).encode() + b"\n"
            assert os.write(self.journal, line) == len(line)
            self.model.take(e)

    def mount(self):
        os.makedirs(STATE, exist_ok=True)
        fs, disk = "btrfs" if self.o["driver"] == "btrfs" else "ext4", DISK
        if self.o["driver"] == "lvm":
            size = int(sh(f"blockdev --getsz {DISK}"))
            for name, at in (BLOCKS, size // 2), ("power-state", 0):
                sh(f"dmsetup create {name} --table '0 {size // 2} linear {DISK} {at}'")
            disk = "/dev/mapper/power-state"
        if not sh(f"blkid {disk}", check=False):
            sh(f"mkfs.{fs} -q {disk} && sync")
        got = sh(f"mount -t {fs} {disk} {STATE} 2>&1", check=False)
        if not os.path.ismount(STATE):
            raise Trouble(f"the file system is not whole: {got} {sh('dmesg | tail -n 20')}")
        self.say("mounted")

    # -- after the cut --

    def strays(self, d, names):
        """What is in the store and no image's."""
        want = {c.replace(":", "%3A") for n in names for c in poweritems.expected(self.at, n)["chains"]}
        layers = set(os.listdir(f"{d.store()}/layers"))
        out = []
        if layers != want:
            out.append(f"layers: {len(layers - want)} of nobody {sorted(layers - want)}, {len(want - layers)} missing")
        for sub in ("active", "new", "trash"):
            got = os.listdir(f"{d.store()}/{sub}")
            if got:
                out.append(f"{sub}: {got}")
        for at, dirs, files in os.walk(f"{d.root}/images"):
            out += [f"{at}/{f}" for f in files if f != "image.json"]
        records = os.listdir(f"{d.root}/images")
        if len(records) != len(names):
            out.append(f"images: {len(records)} records of {len(names)}: {records}")
        for sub in ("pods", "containers", "ns"):
            if os.path.isdir(f"{d.run}/{sub}") and os.listdir(f"{d.run}/{sub}"):
                out.append(f"{sub}: {os.listdir(f'{d.run}/{sub}')}")
        out += sorted(p for p in glob.glob(f"{d.root}/*/*.tmp*") + glob.glob(f"{d.root}/*.tmp*") + glob.glob(f"{d.store()}/*.tmp*"))
        if d.driver == "btrfs":
            subs = [line.split(" path ")[1] for line in sh(f"btrfs subvolume sync {STATE} >/dev/null; btrfs subvolume list {STATE}").splitlines()]
            if len(subs) != len(want):
                out.append(f"{len(subs)} subvolumes for {len(want)} layers: {subs}")
        if d.plugin == "storage-devmapper":
            out += self.devices(d, len(want))
        return out

    def devices(self, d, layers):
        """Each layer has one in the pool, and so has the base; none is active."""
        out = []
        if not os.path.exists(f"{d.store()}/pool"):
            return out
        tag = re.search("tag=([0-9a-f]+)", open(f"{d.store()}/pool").read())[1]
        active = [x.split()[0] for x in sh("dmsetup ls").splitlines() if re.match(rf"berth-{tag}-\d", x)]
        if active:
            out.append(f"active devices: {active}")
        lvm = d.driver == "lvm"
        pool = "berth-thinpool" if lvm else f"berth-{tag}-pool"
        sh(f"dmsetup message {pool} 0 reserve_metadata_snap")
        try:
            dump = sh(f"thin_dump -m {'/dev/mapper/berth-thinpool_tmeta' if lvm else d.store() + '/metadata'}")
        finally:
            sh(f"dmsetup message {pool} 0 release_metadata_snap")
        n = dump.count("<device ")
        if n != layers + 1:
            out.append(f"{n} thin devices for {layers} layers and the base")
        return out

    def compare(self, d, names):
        pod = d.run_pod()

        def one(n, name):
            ctr = f"look{n}"
            try:
                cid = d.create(pod, "sh", "-c", poweritems.SCRIPT, name=ctr, image=name)
                d.start_ctr(cid)
                st = d.wait_exit(cid, 60)
                text = "\n".join(t for _, t in d.log_lines(pod, ctr))
                bad = poweritems.differences(poweritems.expected(self.at, name), text)
                if bad or st.exit_code:
                    return f"{name}: exit {st.exit_code}, {bad[:10]}"
            except Exception as e:
                return f"{name}: {e}"

        for n, name in enumerate(sorted(names)):
            bad = one(n, name)
            if bad:
                yield bad
        d.remove_pod(pod)

    def recheck(self, d):
        bad = False

        def trouble(what, text):
            nonlocal bad
            bad = True
            self.say("trouble", what=what, text=text)

        repaired, damaged, said = d.check()
        self.say("repair", repaired=repaired, damaged=damaged, said=said[-1500:])
        if damaged or "is damaged and is removed" in said:
            trouble("damaged", said)
        again, damaged, more = d.check()
        if again or damaged:
            trouble("repaired twice", f"{said}\n--\n{more}")
        d.start(env={"LD_PRELOAD": self.o["preload"]} if self.o["preload"] else None)
        images = d.img.ListImages(daemon.pb().ListImagesRequest()).images
        names = {t for i in images for t in i.repo_tags} - {poweritems.MOVING}
        m = self.model
        holders = [i for i in images if poweritems.MOVING in i.repo_tags]
        tag = next((t for i in holders for t in i.repo_tags if t != poweritems.MOVING), None)
        if len(holders) > 1 or tag not in m.tag:
            trouble("a moved tag", f"{[list(i.repo_tags) for i in holders]} have it, of {sorted(map(str, m.tag))}")
        for name in sorted(m.have - names):
            trouble("lost", name)
        for name in sorted(names - m.have - m.maybe):
            trouble("half-made or come back", f"{name} {'removed before' if name in m.gone else 'not begun'}")
        if len(images) != len(names):
            trouble("half-made or come back", f"{len(images)} images with {sorted(names)}")
        if d.pods() or d.ctrs():
            trouble("half-made or come back", f"pods {d.pods()} containers {d.ctrs()}")
        for text in self.compare(d, names):
            trouble("not whole", text)
        left = []
        for _ in range(50):
            left = self.strays(d, names)
            if not left:
                break
            time.sleep(0.1)
        for text in left:
            trouble("leaked", text)
        if bad:
            self.say("log", text=d.tail(150))
            time.sleep(1000)
        self.say("checked", images=len(names), names=sorted(names), undecided=len(m.maybe), tag=tag)

    # -- the work --

    def act(self, op, fn, **more):
        self.say("begin", op=op, **more)
        try:
            got = fn()
        except Exception as e:
            self.say("trouble", what="work", text=f"{op} {more}: {e}")
            time.sleep(1000)
        self.say("ack", op=op, **more)
        return got

    def images(self, d):
        admin, m = daemon.stubs()[2], daemon.pb()
        todo = list(range(poweritems.A_ROUND))
        while True:
            with self.lock:
                free = sorted(self.model.have - self.using)
                many = len(self.model.have)
            if todo and many < KEEP and (many < 2 or self.rng.random() < 0.6):
                k = todo.pop(0)
                name = poweritems.name(self.o["round"], k)
                path = f"{self.at}/items/{self.o['round']}-{k}"
                self.act("import", lambda: d.admin.ImportImage(admin.ImportImageRequest(path=path, reference=name), timeout=120),
                         image=name)
                if self.rng.random() < 0.5:
                    again = admin.ImportImageRequest(path=path, reference=poweritems.MOVING)
                    self.act("move-tag", lambda: d.admin.ImportImage(again, timeout=120), image=name)
            elif free and (many > 2 or not todo):
                name = self.rng.choice(free)
                with self.lock:
                    if name in self.using:
                        continue
                    self.using.add(name)
                self.act("remove-image", lambda: d.img.RemoveImage(m.RemoveImageRequest(image=m.ImageSpec(image=name)), timeout=120),
                         image=name)
            else:
                time.sleep(0.05)

    def lives(self, d, rng):
        while True:
            with self.lock:
                have = sorted(self.model.have - self.using)
                image = rng.choice(have) if have else None
                if image:
                    self.using.add(image)
            if not image:
                time.sleep(0.05)
                continue
            pod = self.act("run-pod", d.run_pod)
            for n in range(rng.randint(1, 3)):
                script = f"mkdir -p /w; dd if=/dev/zero of=/w/f bs=64k count={rng.randint(1, 40)} 2>/dev/null; rm -rf /own0; sleep 1000"
                cid = self.act("create", lambda: d.create(pod, "sh", "-c", script, name=f"c{n}", image=image), pod=pod[0])
                if rng.random() < 0.8:
                    self.act("start", lambda: d.start_ctr(cid), id=cid)
                if rng.random() < 0.5:
                    self.act("stop", lambda: d.stop_ctr(cid), id=cid)
                    if rng.random() < 0.7:
                        self.act("remove", lambda: d.remove_ctr(cid), id=cid)
            if rng.random() < 0.5:
                self.act("stop-pod", lambda: d.stop_pod(pod), pod=pod[0])
            if rng.random() < 0.8:
                self.act("remove-pod", lambda: d.remove_pod(pod), pod=pod[0])
                with self.lock:
                    self.using.discard(image)

    def run(self):
        try:
            self.mount()
            d = Node(self.o["driver"], self.o["run_on_disk"])
            self.recheck(d)
        except BaseException as e:
            self.say("trouble", what="recheck", text=f"{type(e).__name__} {e}")
            time.sleep(1000)
            raise
        for n in range(2):
            threading.Thread(target=self.lives, args=(d, random.Random(self.rng.getrandbits(32))), daemon=True).start()
        self.images(d)


def protocol(at):
    """The modules that protoc makes, once for all rounds."""
    keep = f"{at}/pb"
    if not os.path.isdir(keep):
        src = os.path.join(daemon.REPO, "core/cri")
        os.makedirs(keep + ".new", exist_ok=True)
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{src}", f"--python_out={keep}.new",
                        f"--grpc_python_out={keep}.new", "cri.proto", "admin.proto"], check=True)
        os.rename(keep + ".new", keep)
    sys.path.insert(0, keep)
    daemon._stubs = tuple(__import__(m) for m in ("cri_pb2", "cri_pb2_grpc", "admin_pb2", "admin_pb2_grpc"))


if __name__ == "__main__":
    protocol(sys.argv[1])
    Round(sys.argv[1]).run()
