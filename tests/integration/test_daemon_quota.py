"""How much a container may write: limits of configuration and annotations, where the file system has a quota and where not.

Some need a kernel with quota on ext4 and xfs: the virtual machine has one (tests/vm/suite)."""
import os
import subprocess

import pytest

import daemon
from daemon import fails

pytestmark = daemon.needs_daemon

ALL, ONE = "berth.io/size-limit", "size-limit.berth.io/ctr"
WRITE = "dd if=/dev/zero of=/big bs=64k count=1000 2>&1; wc -c < /big"


@pytest.fixture
def ext4(tmp_path):
    """A mounted ext4 with project quota."""
    img, at = f"{tmp_path}/img", f"{tmp_path}/root"
    os.mkdir(at)
    with open(img, "wb") as f:
        f.truncate(400 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "quota,project", img], check=True)
    p = subprocess.run(["mount", "-o", "loop,prjquota", img, at], stderr=subprocess.PIPE, text=True)
    if p.returncode:
        pytest.skip(f"this kernel has no quota on ext4: {p.stderr.splitlines()[0]}")
    yield at
    subprocess.run(["umount", at], check=True)


@pytest.fixture
def on_quota(ext4, make_daemon):
    """A daemon, not started, whose root lies there."""
    d = make_daemon(start=False, cni=False)
    d.root = ext4
    return d


def test_driver(ext4):
    """The driver's own tests, on ext4 and xfs. Where they are skipped the build's run of them has said so."""
    p = subprocess.run([daemon.built("tests/unit/test_storage_quota")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, timeout=160)
    assert p.returncode == 0 and "SKIPPED" not in p.stdout, p.stdout


def pod(d, **annotations):
    c = d.pod_config()
    for k, v in annotations.items():
        c.annotations[k] = v
    return c


def written(d, config):
    p = d.run_pod(config=config)
    out = d.sh(d.run_ctr(p, "sleep", "1000"), WRITE)
    d.remove_pod(p)
    return int(out.split()[-1])


def test_limits(on_quota):
    d = on_quota
    d.write_config({"storage": {"driver": "storage-overlay", "size_limit": "16MiB"}})
    d.start()
    d.import_image()
    mib = 1 << 20
    assert 15 * mib < written(d, pod(d)) <= 16 * mib
    assert 3 * mib < written(d, pod(d, **{ALL: "4Mi"})) <= 4 * mib
    assert 7 * mib < written(d, pod(d, **{ALL: "4Mi", ONE: "8Mi"})) <= 8 * mib
    p = d.run_pod(config=pod(d, **{ALL: "17Mi"}))
    with fails("INVALID_ARGUMENT", ALL, "17Mi", "more than this node allows"):
        d.create(p, "true")
    p = d.run_pod(config=pod(d))
    cid = d.run_ctr(p, "sleep", "1000")
    d.sh(cid, "dd if=/dev/zero of=/some bs=1M count=5; sync")
    stats = d.rt.ContainerStats(daemon.pb().ContainerStatsRequest(container_id=cid)).stats
    assert 5 * mib <= stats.writable_layer.used_bytes.value < 6 * mib
    d.remove_all()


def test_without_a_limit(on_quota):
    d = on_quota
    d.write_config({})
    d.start()
    d.import_image()
    assert written(d, pod(d)) == 1000 * 65536
    assert written(d, pod(d, **{ONE: "3000k"})) <= 3000000
    d.remove_all()


def test_where_there_is_no_quota(make_daemon):
    d = make_daemon(cni=False)
    d.import_image()
    p = d.run_pod(config=pod(d, **{ALL: "1Gi"}))
    try:
        with fails("FAILED_PRECONDITION", "storage-overlay has no quota: "):
            d.create(p, "true")
    except AssertionError:
        if d.ctrs():
            pytest.skip("the file system of /tmp has project quota")
        raise
    p = d.run_pod(config=pod(d, **{ONE: "lots"}))
    with fails("INVALID_ARGUMENT", ONE, "lots"):
        d.create(p, "true")
    d.remove_all()
    d.stop()
    d.write_config({"storage": {"driver": "storage-overlay", "size_limit": "1GiB"}})
    r = subprocess.run([daemon.built("core/berthd"), "--config", f"{d.tmp}/berth.yaml", "--helpers", d.helpers],
                       stderr=subprocess.PIPE, text=True, timeout=60)
    assert r.returncode == 1 and "has no quota: " in r.stderr, r.stderr
