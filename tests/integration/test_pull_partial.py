"""What is kept of a download that did not come to its end, and how many downloads there are."""
import hashlib
import os
import re
import struct
import threading
import time

import grpc
import pytest

from daemon import fails, needs_daemon, pb, wait_for
from fakeregistry import Registry
from pullharness import Image, PullError, Tar, run_pull
from test_pull_registry import blob_path, check, image

HEAD = 4096
SIZE = 6_000_000


@pytest.fixture
def reg():
    with Registry() as r:
        yield r


def blob(im, n=0):
    return im.blobs[im.layer_descs[n]["digest"]]


def head_of(path):
    with open(path, "rb") as f:
        raw = f.read(96)
    return struct.unpack("Q", raw[16:24])[0], raw[24:95].decode()


def write_kept(path, data, digest=None, length=None):
    digest = digest or "sha256:" + hashlib.sha256(data).hexdigest()
    with open(path, "wb") as f:
        f.write(b"berth partial 1\n" + struct.pack("Q", len(data) if length is None else length) + digest.encode() + b"\0")
        f.seek(HEAD)
        f.write(data)


def ranges(reg, path):
    return [x[2].get("Range") for x in reg.log if x[1] == path]


@pytest.fixture
def one(tmp_path, reg):
    """An image of one layer, and a file that it may be kept in."""
    im = image(n=1, size=SIZE)
    ref = reg.push("a", "1", im)
    path = str(tmp_path / "kept")
    open(path, "wb").close()
    return im, ref, path, {im.layer_descs[0]["digest"]: path}, blob_path("a", im, 0)


@pytest.mark.parametrize("server_has_ranges", [True, False])
def test_a_later_pull_goes_on(tmp_path, reg, one, server_has_ranges):
    im, ref, path, kept, url = one
    reg.fault = lambda h, got, count: got == url and (
        reg.blob(h, blob(im), "x", cut=2_500_000 if count == 1 else 0) or True)
    with pytest.raises(PullError):
        run_pull(tmp_path, ref, kept=kept)
    n, digest = head_of(path)
    assert n == 2_500_000 and digest == "sha256:" + hashlib.sha256(blob(im)[:n]).hexdigest()
    reg.fault, reg.log, reg.ranges = None, [], server_has_ranges
    p = check(run_pull(tmp_path, ref, kept=kept), im)
    assert ranges(reg, url) == [f"bytes={n}-"] and p.fetched == [0]


def test_a_whole_blob_is_not_asked_for(tmp_path, reg, one):
    im, ref, path, kept, url = one
    write_kept(path, blob(im))
    check(run_pull(tmp_path, ref, kept=kept), im)
    assert ranges(reg, url) == []


@pytest.mark.parametrize("what", ["flipped", "hole", "short", "beyond", "no head", "other"])
def test_what_does_not_hold_its_word_is_not_used(tmp_path, reg, one, what):
    im, ref, path, kept, url = one
    part = blob(im)[:3_000_000]
    digest = "sha256:" + hashlib.sha256(part).hexdigest()
    if what == "flipped":
        write_kept(path, part[:-1] + bytes([part[-1] ^ 1]), digest)
    elif what == "hole":
        write_kept(path, part[:1_000_000] + bytes(2_000_000), digest)
    elif what == "short":
        write_kept(path, part[:1_000_000], digest, len(part))
    elif what == "beyond":
        write_kept(path, blob(im) + b"x")
    elif what == "no head":
        with open(path, "wb") as f:
            f.write(os.urandom(HEAD) + part)
    else:
        with open(path, "wb") as f:
            f.write(b"berth partial 9\n" + bytes(5000))
    check(run_pull(tmp_path, ref, kept=kept), im)
    assert ranges(reg, url) == [None]


def test_bytes_of_another_blob_are_noticed_and_dropped(tmp_path, reg, one):
    im, ref, path, kept, url = one
    write_kept(path, blob(image(n=1, size=SIZE))[:3_000_000])
    with pytest.raises(PullError) as e:
        run_pull(tmp_path, ref, kept=kept)
    assert e.value.code == 15 and im.layer_descs[0]["digest"] in e.value.msg
    check(run_pull(tmp_path, ref, kept=kept), im)
    assert ranges(reg, url)[-1] is None


def test_a_killed_pull_loses_little(tmp_path, reg, one):
    im, ref, path, kept, url = one

    def slow(h, got, count):
        if got != url:
            return False
        h.send_response(200)
        h.send_header("Content-Length", str(len(blob(im))))
        h.end_headers()
        h.wfile.write(blob(im)[:4_000_000])
        h.wfile.flush()
        os.kill(int(open(tmp_path / "pid").read()), 0)
        wait_for(lambda: head_of(path)[0] > 2_900_000)
        os.kill(int(open(tmp_path / "pid").read()), 9)
        return True
    reg.fault = slow
    import pullharness
    start = pullharness.Puller.__init__

    def noted(self, *a, **kw):
        start(self, *a, **kw)
        (tmp_path / "pid").write_text(str(self.proc.pid))
    pullharness.Puller.__init__ = noted
    try:
        with pytest.raises(AssertionError, match="ended with -9"):
            run_pull(tmp_path, ref, kept=kept)
    finally:
        pullharness.Puller.__init__ = start
    reg.fault, reg.log = None, []
    check(run_pull(tmp_path, ref, kept=kept), im)
    assert int(re.fullmatch(r"bytes=(\d+)-", ranges(reg, url)[0]).group(1)) > 2_900_000


# --- through the daemon -----------------------------------------------------------------------

def daemon_for(make_daemon, reg, **images):
    d = make_daemon(image=False, start=False, config={"images": images})
    with open(f"{d.tmp}/registries.conf", "w") as f:
        f.write(f'[[registry]]\nlocation = "{reg.host}"\ninsecure = true\n')
    return d.start()


def partial(d):
    path = f"{d.root}/partial"
    return {x: head_of(f"{path}/{x}")[0] for x in os.listdir(path)} if os.path.exists(path) else {}


def ask(d, ref, timeout=60):
    return d.img.PullImage.future(pb().PullImageRequest(image=pb().ImageSpec(image=ref)), timeout=timeout)


class Stall:
    """Sends so much of each blob that the path names, and no more until told to."""

    def __init__(self, reg, im, url, n):
        self.go = threading.Event()

        def fault(h, got, count):
            if got != url or self.go.is_set():
                return False
            h.send_response(200)
            h.send_header("Content-Length", str(len(blob(im))))
            h.end_headers()
            h.wfile.write(blob(im)[:n])
            h.wfile.flush()
            self.go.wait(60)
            return True
        reg.fault = fault


def pushed(reg, name="a", **kw):
    im = image(n=1, size=SIZE, **kw)
    return im, reg.push(name, "1", im), blob_path(name, im, 0)


@needs_daemon
@pytest.mark.parametrize("how", ["cancel", "kill"])
def test_the_next_pull_goes_on(make_daemon, reg, how):
    d = daemon_for(make_daemon, reg)
    im, ref, url = pushed(reg)
    stall = Stall(reg, im, url, 3_500_000)
    call = ask(d, ref)
    name = im.layer_descs[0]["digest"].replace(":", "-")
    wait_for(lambda: partial(d).get(name, 0) > 2_400_000)
    if how == "cancel":
        call.cancel()
        wait_for(lambda: not [s for s in d.snapshots() if "pull-" in s])
    else:
        d.kill9()
        d.start()
    stall.go.set()
    reg.log = []
    assert partial(d)[name] > 2_400_000
    ask(d, ref).result()
    assert int(re.fullmatch(r"bytes=(\d+)-", ranges(reg, url)[0]).group(1)) > 2_400_000
    assert partial(d) == {}


@needs_daemon
def test_two_pulls_do_not_share_a_file(make_daemon, reg):
    d = daemon_for(make_daemon, reg)
    im, ref, url = pushed(reg)
    other = reg.push("b", "1", im)
    stall = Stall(reg, im, url, 3_500_000)
    first = ask(d, ref)
    wait_for(lambda: max(partial(d).values(), default=0) > 2_400_000)
    ask(d, other).result()
    stall.go.set()
    first.cancel()
    assert ask(d, ref).result()


@needs_daemon
def test_the_space_for_them_is_bounded(make_daemon, reg):
    d = daemon_for(make_daemon, reg, partial_bytes=10 << 20)
    names = []
    for i in range(3):
        im, ref, url = pushed(reg, name=f"x{i}")
        stall = Stall(reg, im, url, 3_500_000)
        call = ask(d, ref)
        names.append(im.layer_descs[0]["digest"].replace(":", "-"))
        wait_for(lambda: partial(d).get(names[i], 0) > 2_400_000)
        call.cancel()
        wait_for(lambda: not [s for s in d.snapshots() if "pull-" in s])
        stall.go.set()
    assert list(partial(d)) == [names[2]]  # 6 MB each: only one fits beside nothing


@needs_daemon
def test_nothing_is_kept_where_none_is_wanted(make_daemon, reg):
    d = daemon_for(make_daemon, reg, partial_bytes=0)
    im, ref, url = pushed(reg)
    ask(d, ref).result()
    assert not os.path.exists(f"{d.root}/partial")


@needs_daemon
@pytest.mark.parametrize("limits,most", [({"parallel_downloads": 1}, 1), ({"parallel_per_registry": 2}, 2), ({}, 6)])
def test_downloads_at_a_time(make_daemon, reg, limits, most):
    d = daemon_for(make_daemon, reg, **limits)
    ims = [image(n=6, size=100_000) for _ in range(2)]
    refs = [reg.push(f"r{i}", "1", im) for i, im in enumerate(ims)]
    layers = {x["digest"] for im in ims for x in im.layer_descs}
    active, seen, lock = [0], [], threading.Lock()

    def slow(h, got, count):
        if got.rsplit("/", 1)[1] not in layers:
            return False
        with lock:
            active[0] += 1
            seen.append(active[0])
        time.sleep(0.15)
        with lock:
            active[0] -= 1
        return False
    reg.fault = slow
    for c in [ask(d, r) for r in refs]:
        c.result()
    assert max(seen) == most if limits else max(seen) >= most
