"""Pods whose root file systems are aufs mounts. Needs a kernel with aufs, which no Debian kernel is:
tests/vm/run -k KERNEL -- /usr/bin/python3 -m pytest tests/integration/test_daemon_aufs.py"""
import glob
import os
import subprocess
import time

import grpc
import pytest

from daemon import built, busybox_image, missing, pb, wait_for
from pullharness import Tar

DRIVER = "plugins/storage-aufs/storage-aufs.so"


def no_aufs():
    if missing():
        return missing()
    if not built(DRIVER):
        return "the build has no storage-aufs"
    with open("/proc/filesystems") as f:
        return None if "nodev\taufs\n" in f else "this kernel has no aufs (/proc/filesystems)"


why = no_aufs()
needs_aufs = pytest.mark.skipif(why is not None, reason=str(why))
CONFIG = {"plugins": {"storage-aufs": {"path": built(DRIVER)}}, "storage": {"driver": "storage-aufs"}}


def files(d, *what):
    return glob.glob("/".join([d.root, "plugins/storage-aufs", *what]))


def aufs_mounts(d):
    with open("/proc/self/mountinfo") as f:
        return [x.split()[4] for x in f if " - aufs " in x and d.tmp in x]


@pytest.fixture
def daemon(make_daemon):
    d = make_daemon(config=CONFIG)
    yield d
    d.remove_all()
    d.check_clean()
    d.remove_images()
    d.restart()  # what an import that failed has committed is nobody's
    wait_for(lambda: not files(d, "active/*") + files(d, "layers/*") + files(d, "new/*"), 20)
    assert not aufs_mounts(d)


def layered():
    return busybox_image(more=[
        Tar().dir("d").add("d/one", data="1").add("d/two", data="2").add("gone", data="x").dir("o").add("o/old")
             .dir("again").add("again/old").add("same", data="old"),
        Tar().add("d/.wh.one").add(".wh.gone").dir("o").add("o/.wh..wh..opq").add("o/new", data="n")
             .add(".wh.again").add("again/new", data="n").add(".wh.same").add("same", data="new").add("implied/f")])


@pytest.mark.skipif(missing() is not None or not built(DRIVER) or why is None,
                    reason=str(missing() or "this kernel has aufs, or the build has no storage-aufs"))
def test_a_kernel_without_aufs(make_daemon):
    d = make_daemon(start=False, config=CONFIG)
    d.start(wait=False)
    assert d.proc.wait(60) == 1
    d.proc = None
    assert "storage-aufs in '" in d.log() and "this kernel has no aufs file system" in d.log()
    assert not d.mounts()


@needs_aufs
def test_layers_compose(daemon):
    d = daemon
    d.import_image(layered(), name="localhost/t/layered:1")
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000", image="localhost/t/layered:1")
    assert len(aufs_mounts(d)) == 1
    assert d.sh(cid, "ls -A d o again; cat same; ls -A / | grep -e gone -e '[.]wh'; cat implied/f; echo .") == \
        "again:\nnew\n\nd:\ntwo\n\no:\nnew\nnew.\n"
    d.stop_ctr(cid)


@needs_aufs
def test_what_a_container_writes(daemon):
    d = daemon
    pod = d.run_pod()
    a, b = (d.run_ctr(pod, "sleep", "1000", name=n) for n in "ab")
    d.sh(a, "set -e; echo mine >layer2; rm -r var etc/group bin/wget; mkdir -p var deep/er; echo x >var/own; "
            "busybox mv root moved; busybox ln layer2 hard; busybox ln -s layer2 soft; busybox chmod 4711 bin/busybox")
    seen = d.sh(a, "cat layer2 hard soft var/own; ls var moved; ls -d etc/group bin/wget root 2>/dev/null; stat -c %a bin/sh")
    assert seen == "mine\nmine\nmine\nx\nmoved:\n\nvar:\nown\n4711\n"
    # nothing of it in another container of the image, nor below
    assert d.sh(b, "cat layer2; ls var; ls -d root bin/wget etc/group; stat -c %a bin/sh") == \
        "second\nbin/wget\netc/group\nroot\n755\n"
    assert not files(d, "layers/*/fs/var/own")
    assert d.exec(a, "touch", "/.wh.x").exit_code != 0  # such names are aufs' own
    name = "n" * 243
    assert d.exec(a, "touch", "/" + name).exit_code != 0 and d.exec(a, "touch", "/" + name[:242]).exit_code == 0
    # the kernel's own files are in the branch, and in no account of it
    own, = files(d, f"active/{a}/fs")
    assert {".wh..wh.aufs", ".wh..wh.orph"} <= set(os.listdir(own))
    d.exec(a, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=5")
    time.sleep(2.1)
    stats = d.rt.ContainerStats(pb().ContainerStatsRequest(container_id=a), timeout=20).stats.writable_layer
    counted = subprocess.run(f"cd {own} && find . -mindepth 1 -path './.wh..wh.*' -prune -o -print | wc -l", shell=True,
                             stdout=subprocess.PIPE, check=True)
    assert 5 << 20 <= stats.used_bytes.value < 8 << 20 and 0 < stats.inodes_used.value <= int(counted.stdout)


@needs_aufs
def test_a_daemon_that_is_killed(daemon):
    d = daemon
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sh", "-c", "echo up >state; while :; do sleep 1; done")
    d.sh(cid, "echo before >f")
    d.kill9()
    d.start()
    assert d.status(cid).state == pb().CONTAINER_RUNNING
    assert d.sh(cid, "cat state f && echo after >f && cat f") == "up\nbefore\nafter\n"
    assert d.restart().sh(cid, "rm f && ls f 2>&1; cat state").endswith("up\n")
    other = d.run_ctr(pod, "sh", "-c", "sleep 1000", name="other")
    d.stop_ctr(cid)
    d.remove_ctr(cid)
    wait_for(lambda: not files(d, f"active/{cid}"), 20)
    assert len(aufs_mounts(d)) == 1 and d.sh(other, "cat layer2") == "second\n"


@needs_aufs
def test_more_layers_than_branches(daemon):
    with pytest.raises(grpc.RpcError) as e:
        daemon.import_image(busybox_image(more=[Tar().add(f"m{i}") for i in range(125)]), name="localhost/t/more:1")
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "126 layers" in e.value.details()


@needs_aufs
def test_names_that_aufs_cannot_show(daemon):
    with pytest.raises(grpc.RpcError) as e:
        daemon.import_image(busybox_image(more=[Tar().add("d/" + "n" * 243)]), name="localhost/t/long:1")
    assert e.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "242 bytes that aufs takes" in e.value.details() and "n" * 243 in e.value.details()


@needs_aufs
def test_user_namespaces_are_refused(daemon):
    m = pb()
    config = daemon.pod_config(host_network=False)
    ids = m.IDMapping(host_id=100000, container_id=0, length=65536)
    config.linux.security_context.namespace_options.userns_options.CopyFrom(
        m.UserNamespace(mode=m.POD, uids=[ids], gids=[ids]))
    with pytest.raises(grpc.RpcError) as e:
        daemon.create(daemon.run_pod(config), "true")
    assert "storage" in e.value.details()
