"""Pods on storage-overlay with keys that change how root file systems are mounted."""
import os

import pytest

import daemon
from daemon import Tar, built, busybox_image, wait_for

pytestmark = daemon.needs_daemon

FUSE = "/usr/bin/fuse-overlayfs"


def layers():
    below = Tar().dir("data").add("data/below", data="below\n").add("gone", data="x").add("kept", data="kept\n")
    above = Tar().dir("data").add("data/.wh..wh..opq").add("data/above", data="above\n").add(".wh.gone")
    return [below, above]


def servers(d):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            argv = open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            continue
        if argv[0] == FUSE and d.tmp in " ".join(argv):
            found.append(int(pid))
    return found


@pytest.mark.parametrize("keys,option", [
    ({"mount_program": FUSE}, "fuse.overlay"), ({"mount_program": FUSE, "force_mask": "0700"}, "fuse.overlay"),
    ({"userxattr": True}, "userxattr"), ({"metacopy": True}, "metacopy=on")],
    ids=["fuse", "mask", "userxattr", "metacopy"])
def test_pods(make_daemon, keys, option):
    if FUSE in keys.values() and not (os.path.exists(FUSE) and os.path.exists("/dev/fuse")):
        pytest.skip(f"no {FUSE}, or no /dev/fuse")
    d = make_daemon(start=False, cni=False)
    d.write_config({"plugins": {"storage-overlay": {"path": built("plugins/storage-overlay/storage-overlay.so"), **keys}}})
    d.start()
    d.import_image(busybox_image(more=layers()))
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    assert option in d.sh(cid, "grep ' / / ' /proc/self/mountinfo")
    look = "ls /data; cat /kept; ls /gone 2>&1 || true"
    assert d.sh(cid, look).split() == ["above", "kept", "ls:", "/gone:", "No", "such", "file", "or", "directory"]
    d.sh(cid, "echo new > /new; chmod 700 /kept; mkdir /data/sub; rm /data/above; ln /new /other")
    # The container does not need the daemon, nor does its root file system.
    d.kill9()
    d.start()
    assert d.sh(cid, "cat /other; ls /data").split() == ["new", "sub"]
    if option == "fuse.overlay":
        assert len(servers(d)) == 1
    # An image as a volume is a read-only mount of the same kind.
    m = daemon.pb().Mount(container_path="/volume", readonly=True, image=daemon.pb().ImageSpec(image=daemon.IMAGE))
    other = d.run_ctr(pod, "sleep", "1000", name="other", mounts=[m])
    assert d.sh(other, "cat /volume/kept; ls /volume/data").split() == ["kept", "above"]
    d.remove_all()
    wait_for(lambda: not servers(d))
