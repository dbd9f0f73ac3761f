"""Checkpoints by CRIU itself, where it knows the kernel, and what is in them restored by runc alone."""
import json
import os
import shutil
import signal
import subprocess
import tarfile

import pytest

import daemon
from checkpoints import Archive, Checkpoints, counter, goes_on, rootfs
from daemon import RUNTIMES, SYSTEMD, Daemon, needs_daemon, wait_for

pytestmark = needs_daemon


def no_criu():
    """Why CRIU cannot work here, or None."""
    path = shutil.which("criu")
    if not path:
        return "criu is not installed"
    if subprocess.run([RUNTIMES["runc"], "checkpoint", "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                      check=False).returncode:
        return f"{RUNTIMES['runc']} knows no checkpoint"
    got = subprocess.run([path, "check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return f"criu check: {got.stdout.strip().splitlines()[-1]}" if got.returncode else None


def restore(d, base):
    """What is in the archive, as a container of runc alone, its root file system made of the image's and the difference."""
    at, rid = f"{d.ckpt.dir}/restored", f"r-{d.tag}"
    with tarfile.open(d.ckpt.path()) as t:
        t.extractall(at)
    with tarfile.open(f"{at}/rootfs-diff.tar") as t:
        t.extractall(base, numeric_owner=True)
    for path in Archive(d.ckpt.path()).deleted():
        os.unlink(base + path)
    with open(f"{at}/spec.dump") as f:
        spec = json.load(f)
    spec["root"]["path"] = base
    with open(f"{at}/config.json", "w") as f:
        json.dump(spec, f)
    runc = [RUNTIMES["runc"], "--root", f"{d.tmp}/runc"] + (["--systemd-cgroup"] if SYSTEMD else [])
    os.mkdir(f"{at}/work")
    with open(f"{at}/err", "wb") as err:
        p = subprocess.Popen(runc + ["restore", "--image-path", f"{at}/checkpoint", "--work-path", f"{at}/work", "--bundle", at,
                                     rid], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err)
    return runc, rid, p, at


needs_criu = pytest.mark.skipif(no_criu() is not None, reason=str(no_criu()))


@needs_criu
@pytest.mark.parametrize("net", [False, True])
def test_a_count_goes_on(net):
    """A count in the memory of a shell goes on where it was, in another container."""
    if net and daemon.missing_cni():
        pytest.skip(daemon.missing_cni())
    d = Daemon(cni=net)
    d.ckpt = Checkpoints(d)
    if not net:
        d.write_config({"network": {"plugin": ""}})
    p = None
    try:
        d.start()
        d.import_image()
        pod = d.run_pod(host_network=not net)
        cid = counter(d, pod)
        d.sh(cid, "rm /layer2")
        d.ckpt.make(cid, timeout=120, rpc_timeout=150)
        goes_on(d, cid)
        a = Archive(d.ckpt.path())
        assert {"checkpoint/inventory.img", "checkpoint/pages-1.img", "dump.log", "stats-dump"} <= set(a.files)
        assert b"Dumping finished successfully" in a.files["dump.log"]
        base = f"{d.ckpt.dir}/base"
        shutil.copytree(rootfs(d, d.create(pod, "sh", name="base")), base, symlinks=True)
        with tarfile.open(fileobj=a.open("rootfs-diff.tar")) as t:
            was = int(t.extractfile("n").read())
        d.remove_ctr(cid)
        runc, rid, p, at = restore(d, base)

        def now():
            assert p.poll() is None, open(f"{at}/err").read() + open(f"{at}/work/restore.log", errors="replace").read()[-2000:]
            with open(f"{base}/n") as f:
                return int(f.read() or 0)
        wait_for(lambda: now() > was, 60)
        assert now() < was + 1000 and not os.path.exists(f"{base}/layer2")
        subprocess.run(runc + ["kill", rid, "KILL"], check=True)
        assert p.wait(30) in (137, -signal.SIGKILL)
        subprocess.run(runc + ["delete", "--force", rid], check=False)
    finally:
        if p and p.poll() is None:
            p.kill()
        d.close()


@needs_criu
def test_cut_off():
    """At any moment of its work: the container goes on, and can be checkpointed afterwards."""
    d = Daemon(cni=False)
    d.ckpt = Checkpoints(d)
    d.write_config({"network": {"plugin": ""}})
    try:
        d.start()
        d.import_image()
        cid = counter(d)
        for part in range(1, 9):
            f = d.ckpt.later(cid, rpc_timeout=part * 0.25)
            assert f.exception() is None or f.code().name == "DEADLINE_EXCEEDED", f.details()
            wait_for(lambda: d.ckpt.left() == [], 60)
            goes_on(d, cid)
        d.ckpt.make(cid, rpc_timeout=150)
        goes_on(d, cid)
    finally:
        d.close()
