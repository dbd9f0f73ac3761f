"""`berthd check --repair`: a damaged state is mended while no daemon runs, and what is whole stays."""
import glob
import os
import shutil
import signal
import subprocess

import pytest

from daemon import build_dir, busybox_image, needs_daemon, pb
from pullharness import Tar

pytestmark = needs_daemon


def check(d, *args):
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1"}
    p = subprocess.run([os.path.join(build_dir(), "core/berthd"), "--config", f"{d.tmp}/berth.yaml", "--helpers", d.helpers,
                        "check", "--repair", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, env=env)
    assert "Sanitizer" not in p.stderr and "runtime error" not in p.stderr, p.stderr
    return p


def summary(p):
    return p.stdout.splitlines()[-1]


def image(text):
    return busybox_image(more=[Tar().add("of-its-own", data=text)])


def top_layer(d, before):
    """The layer that is new, of those that `before` had not."""
    new = set(glob.glob(f"{d.root}/plugins/storage-overlay/layers/*")) - before
    assert len(new) == 1
    return new.pop()


def layers(d):
    return set(glob.glob(f"{d.root}/plugins/storage-overlay/layers/*"))


def test_what_is_whole_stays(make_daemon):
    d = make_daemon()
    used = d.import_image()
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sh", "-c", "sleep 1000")
    p = check(d)
    assert p.returncode == 1 and "another berthd works in this run directory" in p.stderr
    for how in (d.stop, d.kill9):
        how()
        p = check(d)
        assert p.returncode == 0, p.stdout + p.stderr
        assert summary(p) == "1 pod sandboxes, 1 containers, 1 images; 0 repaired, 0 damaged"
        d.start()
        assert d.status(cid).state == pb().CONTAINER_RUNNING
        assert [i.id for i in d.img.ListImages(pb().ListImagesRequest()).images] == [used]
    assert d.exec(cid, "echo", "alive").stdout == b"alive\n"


def test_damage_is_mended(make_daemon):
    d = make_daemon()
    used = d.import_image()
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sh", "-c", "sleep 1000")
    have = layers(d)
    d.import_image(image("no layer"), name="localhost/none:1")
    gone = top_layer(d, have)
    have = layers(d)
    hollow = d.import_image(image("a hollow layer"), name="localhost/hollow:1")
    empty = top_layer(d, have)
    other = d.run_pod()
    d.stop()

    shutil.rmtree(gone)
    shutil.rmtree(f"{empty}/fs")
    with open(f"{d.run}/pods/{other[0]}/pod.json", "r+") as f:
        f.truncate(10)
    os.makedirs(f"{d.run}/ns/{'0' * 64}")
    os.makedirs(f"{d.run}/containers/{'1' * 64}/bundle")
    p = check(d)
    assert p.returncode == 0, p.stdout + p.stderr
    assert f"repaired image {hollow} is damaged and is removed: " in p.stdout
    assert summary(p).startswith("1 pod sandboxes, 1 containers, 1 images; ") and summary(p).endswith(", 0 damaged")
    assert " 0 repaired" not in summary(p)
    p = check(d)
    assert p.returncode == 0 and summary(p).endswith("; 0 repaired, 0 damaged"), p.stdout + p.stderr
    assert not os.path.exists(empty)

    d.start()
    assert [i.id for i in d.img.ListImages(pb().ListImagesRequest()).images] == [used]
    assert d.status(cid).state == pb().CONTAINER_RUNNING
    d.import_image(image("a hollow layer"), name="localhost/hollow:1")
    new = d.run_ctr(d.run_pod(), "cat", "/of-its-own", config=None, image="localhost/hollow:1")
    d.wait_exit(new)
    assert d.status(new).exit_code == 0


def test_what_is_in_use_is_told_and_stays(make_daemon):
    d = make_daemon()
    have = layers(d)
    used = d.import_image(image("in use"), name="localhost/used:1")
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sh", "-c", "sleep 1000", image="localhost/used:1")
    d.stop()
    top = sorted(layers(d) - have)[0]
    os.rename(f"{top}/fs", f"{top}/away")
    try:
        p = check(d)
        assert p.returncode == 1
        assert f"error    image {used} is damaged, and container {cid} uses it: " in p.stdout
        assert summary(p) == "1 pod sandboxes, 1 containers, 2 images; 0 repaired, 1 damaged"
    finally:
        os.rename(f"{top}/away", f"{top}/fs")
    p = check(d)
    assert p.returncode == 0 and summary(p).endswith("0 repaired, 0 damaged")
    d.start()
    assert d.status(cid).state == pb().CONTAINER_RUNNING


def test_killed_while_it_looks(make_daemon):
    """The view of an image that it leaves is of nobody."""
    d = make_daemon(image=False)
    for i in range(6):
        d.import_image(image(f"number {i}"), name=f"localhost/n{i}:1")
    d.stop()
    argv = [os.path.join(build_dir(), "core/berthd"), "--config", f"{d.tmp}/berth.yaml", "--helpers", d.helpers, "check", "--repair"]
    for ms in range(0, 200, 20):
        p = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            p.wait(0.05 + ms / 1000)
        except subprocess.TimeoutExpired:
            p.send_signal(signal.SIGKILL)
            p.wait()
    p = check(d)
    assert p.returncode == 0 and summary(p).startswith("0 pod sandboxes, 0 containers, 6 images;"), p.stdout + p.stderr
    assert not glob.glob(f"{d.root}/plugins/storage-overlay/active/*")
    d.start()


@pytest.mark.parametrize("args", [["--repair"], ["--repair", "config"]])
def test_only_a_check_repairs(make_daemon, args):
    d = make_daemon(image=False)
    p = subprocess.run([os.path.join(build_dir(), "core/berthd"), "--config", f"{d.tmp}/berth.yaml", *args],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
    assert p.returncode == 2 and "--repair" in p.stderr
