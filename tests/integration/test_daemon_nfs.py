"""An image store over a real NFS server, that stops in the middle. In the virtual machine: tests/vm/suite."""
import os
import shutil
import subprocess
import time

import grpc
import pytest

from daemon import IMAGE, fails, needs_daemon, pb, wait_for
from test_daemon_drivers import load
from test_daemon_stores import export, externals, layer_dir, names

AT, MOUNT = "/var/lib/berth-nfs", "/mnt/berth-nfs"
CONF = "/etc/nfs.conf.d/berth-test.conf"
# A server forgets what was exported by hand when it stops, and makes clients wait for its grace time when it starts.
EXPORT = f"exportfs -o rw,no_root_squash,no_subtree_check,fsid=7 127.0.0.1:{AT}"


def missing():
    if not shutil.which("exportfs") or not shutil.which("mount.nfs"):
        return "needs an NFS server (nfs-kernel-server) and client"
    if subprocess.run("modprobe nfsd && modprobe nfs", shell=True, stderr=subprocess.DEVNULL).returncode != 0:
        return "this kernel has no NFS"
    if not os.path.exists("/run/systemd/system"):
        return "needs systemd, which runs the server"
    return None


pytestmark = [needs_daemon, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


def sh(line):
    subprocess.run(line, shell=True, check=True, timeout=120)


@pytest.fixture
def nfs():
    os.makedirs(AT)
    os.makedirs(MOUNT)
    sh(f"mount -t tmpfs tmpfs {AT}")
    os.makedirs(os.path.dirname(CONF), exist_ok=True)
    with open(CONF, "w") as f:
        f.write("[nfsd]\ngrace-time=10\nlease-time=10\n")
    sh(f"systemctl start nfs-server && {EXPORT}")
    sh(f"mount -t nfs -o vers=4.2,hard,timeo=20,actimeo=1 127.0.0.1:{AT} {MOUNT}")
    yield MOUNT
    sh(f"systemctl start nfs-server && {EXPORT}; umount -f -l {MOUNT}; systemctl stop nfs-server; umount -l {AT}")
    os.unlink(CONF)
    os.rmdir(MOUNT)
    os.rmdir(AT)


def test_a_server_that_stops(make_daemon, nfs):
    w = make_daemon(image=False)
    load(w)
    export(w, MOUNT)  # over NFS, deletions and all
    r = make_daemon(image=False, start=False)
    r.write_config({"images": {"additional_stores": [MOUNT]}})
    r.start()
    wait_for(lambda: names(r) == [IMAGE], 30)
    pod = r.run_pod()
    cid = r.run_ctr(pod, "cat", "/layer2", timeout=120)
    assert r.wait_exit(cid, 60).exit_code == 0 and r.log_lines(pod) == [("stdout", "second")]
    assert len(externals(r)) == 2
    # a layer that is moved aside on the server, and put back
    top, chain = layer_dir(AT, IMAGE, 1)
    os.rename(top, f"{AT}/aside")
    time.sleep(3.1)
    with fails("FAILED_PRECONDITION", MOUNT, chain, "it is not there"):
        r.create(pod, "sh", name="aside", timeout=60)
    os.rename(f"{AT}/aside", top)
    time.sleep(3.1)
    r.create(pod, "sh", name="aside", timeout=60)
    sh("systemctl stop nfs-server")
    time.sleep(2.1)
    t = time.monotonic()
    with fails("UNAVAILABLE", MOUNT, "does not answer"):
        r.create(pod, "sh", name="hangs", timeout=60)
    assert time.monotonic() - t < 20
    t = time.monotonic()
    assert names(r) == [IMAGE] and r.status(cid).state == pb().CONTAINER_EXITED
    r.remove_ctr(cid)
    r.restart()
    assert time.monotonic() - t < 60, "nothing waits for it"
    with fails("UNAVAILABLE", MOUNT):
        r.create(pod, "sh", name="again", timeout=60)
    sh(f"systemctl start nfs-server && {EXPORT}")

    def works():
        try:
            return r.create(pod, "sh", name=f"n{time.monotonic()}", timeout=60)
        except grpc.RpcError:
            return None
    wait_for(works, 90, 1)
