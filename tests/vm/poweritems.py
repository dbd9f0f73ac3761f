"""The images of the power cuts: made on the host, so that the guest only imports them, with what a container of each must see."""
import glob
import hashlib
import json
import os
import random
import shutil

import daemon
import pullharness
from pullharness import Tar

A_ROUND = 10
MOVING = "localhost/power/moving:1"  # a tag that goes from image to image


def name(number, k):
    return f"localhost/power/r{number}i{k}:1"


def make(at, number):
    """DIR/items/ROUND-K is a layout, with what is expected beside it. Two layers of its own on two that all have; every other
    image has those of the one before: nothing but its record goes with it."""
    os.makedirs(f"{at}/items", exist_ok=True)
    for k in range(A_ROUND):
        rng = random.Random(number * 1000 + k - k % 2)
        sums, layers = {}, []
        for n in range(2):
            t = Tar().dir(f"own{n}")
            for i in range(rng.randint(1, 12)):
                data = rng.randbytes(rng.choice([0, 10, 3000, 5000, 70000, 300000]))
                path = f"own{n}/f{i}"
                t.add(path, data=data)
                sums["/" + path] = hashlib.sha256(data).hexdigest()
            layers.append(t)
        with open(daemon.BUSYBOX, "rb") as f:
            sums["/bin/busybox"] = hashlib.sha256(f.read()).hexdigest()
        sums["/layer2"] = hashlib.sha256(b"second\n").hexdigest()
        image = daemon.busybox_image(more=layers, config={"Labels": {"k": str(k)}})
        pullharness.layout(f"{at}/items", image, dirname=f"{number}-{k}")
        with open(f"{at}/items/{number}-{k}.json", "w") as f:
            json.dump({"sums": sums, "chains": pullharness.chain_ids(image.diff_ids)}, f)


def expected(at, image):
    """Of an image by its name."""
    number, k = image.split("/r")[-1].split(":")[0].split("i")
    with open(f"{at}/items/{number}-{k}.json") as f:
        return json.load(f)


def forget(at, number):
    for path in glob.glob(f"{at}/items/{number}-*/"):
        shutil.rmtree(path)


# what a container prints, and how it is read
SCRIPT = ("find /own0 /own1 /bin/busybox /layer2 -type f -exec busybox sha256sum {} +; "
          "echo links $(busybox stat -c %h /bin/sh) $(ls /bin | wc -l)")


def differences(image, text):
    """Between what was expected and what a container printed."""
    got, out = {}, []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["links"]:
            got["links"] = words[1:]
        elif len(words) == 2:
            got[words[1]] = words[0]
    want = dict(image["sums"], links=[str(len(daemon.APPLETS) + 1)] * 2)
    for k in sorted(set(want) | set(got)):
        if want.get(k) != got.get(k):
            out.append(f"{k} {got.get(k)} for {want.get(k)}")
    return out


class Model:
    """What a journal says that must be there, may be there, and must not."""

    def __init__(self, events):
        self.have, self.maybe, self.gone = set(), set(), set()
        self.tag = {None}  # which of them may have MOVING
        for e in events:
            self.take(e)

    def take(self, e):
        ev, op, image = e["ev"], e.get("op"), e.get("image")
        if ev == "checked":  # as it was found
            self.have = set(e["names"])
            self.gone |= self.maybe - self.have
            self.maybe = set()
            self.tag = {e.get("tag")}
        elif ev == "begin" and op in ("import", "remove-image"):
            self.have.discard(image)
            self.maybe.add(image)
        elif ev == "ack" and op == "import":
            self.maybe.discard(image)
            self.have.add(image)
        elif ev == "ack" and op == "remove-image":
            self.maybe.discard(image)
            self.gone.add(image)
            self.tag = {None if t == image else t for t in self.tag}
        elif op == "move-tag":
            self.tag = {image} if ev == "ack" else self.tag | {image}
        if ev == "begin" and op == "remove-image" and image in self.tag:
            self.tag |= {None}
