"""Image stores: written by one node, read by another, in place."""
import glob
import json
import os
import subprocess
import time

import grpc
import pytest

import pullharness
from contents import differ, everything, seen
from daemon import IMAGE, build_dir, busybox_image, fails, needs_daemon, needs_faults, pb, stubs, wait_for
from test_daemon_drivers import config, fake_rows, load, overlay_layers, remove

pytestmark = needs_daemon


@pytest.fixture
def store(tmp_path_factory):
    # not where the daemons' own things lie: they are looked for by their names
    d = tmp_path_factory.mktemp("store")
    yield str(d)
    subprocess.run(["rm", "-rf", "--one-file-system", str(d)])


@pytest.fixture
def writer(make_daemon):
    d = make_daemon(image=False)
    load(d)
    load(d, everything(), "localhost/everything:1")
    return d


def export(d, store, *names):
    return list(d.admin.ExportStore(stubs()[2].ExportStoreRequest(path=store, images=names), timeout=120))


@pytest.fixture
def reader(make_daemon):
    """A node with the store; its berth-pull can be made to hang as on a file system that does not answer."""
    def make(store, **more):
        d = make_daemon(image=False, start=False)
        c = config(d)
        c["images"] = {"additional_stores": [store]}
        c.update(more)
        d.write_config(c)
        real = os.path.realpath(f"{d.helpers}/berth-pull")
        os.unlink(f"{d.helpers}/berth-pull")
        with open(f"{d.helpers}/berth-pull", "w") as f:
            f.write(f'#!/bin/sh\n[ -e {d.tmp}/hang ] && exec sleep 300\nexec {real} "$@"\n')
        os.chmod(f"{d.helpers}/berth-pull", 0o755)
        return d.start()
    return make


def names(d):
    return sorted(t for i in d.img.ListImages(pb().ListImagesRequest()).images for t in i.repo_tags)


def externals(d):
    return [p for p in glob.glob(f"{d.root}/plugins/storage-overlay/layers/*/fs") if os.path.islink(p)]


def test_what_a_store_holds_is_used_in_place(writer, reader, store):
    before = seen(writer, "localhost/everything:1", "runc")
    done = export(writer, store)
    assert len([m for m in done if m.state == stubs()[2].MIGRATE_COPIED]) == 2
    assert os.readlink(f"{store}/current") == "generations/2" and len(os.listdir(f"{store}/layers")) == 5
    assert os.listdir(f"{store}/new") == []
    for root, dirs, _ in os.walk(f"{store}/layers"):
        for d in dirs:  # nothing that a network file system would not keep
            assert "trusted.overlay.opaque" not in os.listxattr(f"{root}/{d}")
    r = reader(store)
    wait_for(lambda: names(r) == [IMAGE, "localhost/everything:1"])
    assert overlay_layers(r) == [], "a list takes nothing"
    status = r.img.ImageStatus(pb().ImageStatusRequest(image=pb().ImageSpec(image=IMAGE))).image
    assert status.pinned and list(status.repo_tags) == [IMAGE]
    with fails("FAILED_PRECONDITION", store):
        remove(r, IMAGE)
    assert differ(before, seen(r, "localhost/everything:1", "runc")) == {}
    assert len(overlay_layers(r)) == 4 and len(externals(r)) == 4
    used = r.img.ImageFsInfo(pb().ImageFsInfoRequest(), timeout=20).image_filesystems[0].used_bytes.value
    assert used == 0, "it takes nothing of this node"
    pod = r.run_pod()
    cid = r.run_ctr(pod, "cat", "/layer2")
    assert r.wait_exit(cid).exit_code == 0 and r.log_lines(pod) == [("stdout", "second")]
    # over a restart, a kill and an upgrade of the store
    r.kill9()
    r.start()
    assert len(externals(r)) == 5
    load(writer, busybox_image(more=[pullharness.Tar().add("newer", data="3")]), name="localhost/newer:1")
    export(writer, store, "localhost/newer:1")
    assert os.readlink(f"{store}/current") == "generations/3" and len(os.listdir(f"{store}/layers")) == 6
    time.sleep(2.1)
    r.create(pod, "sh", name="looks")  # who needs a store has it looked at
    assert "localhost/newer:1" in names(r)
    assert r.status(cid).state == pb().CONTAINER_EXITED
    r.remove_pod(pod)
    remove(r, "localhost/everything:1")
    remove(r, IMAGE)
    assert overlay_layers(r) == [] and len(os.listdir(f"{store}/layers")) == 6
    assert IMAGE in names(r), "the store still has it"


def test_only_what_is_missing_is_pulled(writer, reader, store):
    export(writer, store, IMAGE)
    r = reader(store)
    wait_for(lambda: names(r) == [IMAGE])
    load(r)
    assert len(externals(r)) == len(overlay_layers(r)) == 2, "a pull of what is there whole"
    load(r, busybox_image(more=[pullharness.Tar().add("own", data="own")]), "localhost/own:1")
    assert len(externals(r)) == 2 and len(overlay_layers(r)) == 3
    pod = r.run_pod()
    cid = r.run_ctr(pod, "cat", "/own", "/layer2", image="localhost/own:1")
    assert r.wait_exit(cid).exit_code == 0 and r.log_lines(pod) == [("stdout", "ownsecond")]
    # a driver that takes no such layers gets the image's content instead
    other = r.run_pod(handler="copies")
    cid = r.run_ctr(other, "cat", "/own", image="localhost/own:1")
    assert r.wait_exit(cid).exit_code == 0 and len(fake_rows(r)) == 4


def test_a_store_that_hangs_or_vanishes(writer, reader, store):
    export(writer, store)
    r = reader(store)
    wait_for(lambda: len(names(r)) == 2)
    pod = r.run_pod()
    cid = r.run_ctr(pod, "sleep", "1000")
    load(r, busybox_image(config={"Env": ["PATH=/bin"]}, more=[pullharness.Tar().add("own", data="own")]), "localhost/own:1")
    load(r, pullharness.Image([pullharness.Tar().dir("bin").add("bin/sh", data=open("/bin/busybox", "rb").read(), mode=0o755)],
                              config={"Cmd": ["sh"]}), "localhost/free:1")
    open(f"{r.tmp}/hang", "w").close()
    time.sleep(2.1)  # what was looked at just now is taken for good
    t = time.monotonic()
    f = r.rt.CreateContainer.future(pb().CreateContainerRequest(
        pod_sandbox_id=pod[0], config=r.ctr_config("sh", name="hangs"), sandbox_config=pod[1]), timeout=60)
    # meanwhile all else goes on
    assert len(names(r)) == 4 and r.status(cid).state == pb().CONTAINER_RUNNING
    other = r.run_ctr(pod, "sh", "-c", "exit 3", name="free", image="localhost/free:1")
    assert r.wait_exit(other).exit_code == 3
    assert time.monotonic() - t < 4 and not f.done()
    with fails("UNAVAILABLE", f"image store {store}", "does not answer"):
        f.result()
    assert 4 < time.monotonic() - t < 10
    with fails("UNAVAILABLE", store):
        r.create(pod, "sh", name="again")
    assert len(names(r)) == 4, "told from memory"
    r.stop_ctr(cid)
    r.remove_ctr(cid)
    # nothing waits for it at a start
    t = time.monotonic()
    r.restart()
    assert time.monotonic() - t < 15
    with fails("UNAVAILABLE", store):
        r.create(pod, "sh", name="started", image="localhost/own:1")
    os.unlink(f"{r.tmp}/hang")
    wait_for(lambda: can_create(r, pod), 40, 1)
    os.rename(store, store + ".gone")
    time.sleep(2.1)
    try:
        with fails("UNAVAILABLE", store, "No such file"):
            r.create(pod, "sh", name="gone", image="localhost/own:1")
        assert "localhost/everything:1" in names(r)
        r.remove_pod(pod)
    finally:
        os.rename(store + ".gone", store)


def can_create(d, pod):
    try:
        d.create(pod, "sh", name=f"try{time.monotonic()}", image="localhost/own:1")
        return True
    except grpc.RpcError:
        return False


def test_a_store_that_is_damaged(writer, reader, store):
    export(writer, store)
    index = f"{store}/generations/2/index.json"
    with open(index) as f:
        doc = json.load(f)
    r = reader(store)
    wait_for(lambda: len(names(r)) == 2)

    def rewrite(change):
        new = json.loads(json.dumps(doc))
        change(new)
        n = max(int(x) for x in os.listdir(f"{store}/generations")) + 1
        os.makedirs(f"{store}/generations/{n}")
        with open(f"{store}/generations/{n}/index.json", "w") as f:
            json.dump(new, f)
        os.symlink(f"generations/{n}", f"{store}/c")
        os.rename(f"{store}/c", f"{store}/current")

    def why(text):
        time.sleep(2.1)
        pod = r.run_pod()
        with fails("UNAVAILABLE", store, text):
            r.create(pod, "sh")
        r.remove_pod(pod)
    rewrite(lambda n: n["images"][0]["record"]["layers"][0].update(chain_id="sha256:" + "0" * 64))
    why("ChainID")
    rewrite(lambda n: n.update(v=2))
    why("version 1")
    os.unlink(f"{store}/current")
    os.symlink("../../etc", f"{store}/current")
    why("does not lead to a generation")
    # an attribute that the file system has lost: the layer is not used
    os.unlink(f"{store}/current")
    os.symlink("generations/2", f"{store}/current")
    (chain, x), = doc["xattrs"].items()
    os.removexattr(f"{store}/layers/{chain[7:]}/fs/{x['path']}", x["name"])
    rewrite(lambda n: None)
    time.sleep(2.1)
    pod = r.run_pod()
    with fails("FAILED_PRECONDITION", "loses attributes"):
        r.create(pod, "sh", image="localhost/everything:1")
    r.create(pod, "sh", name="other", image=IMAGE)


def test_an_export_is_cut_short(writer, store):
    call = writer.admin.ExportStore(stubs()[2].ExportStoreRequest(path=store), timeout=60)
    wait_for(lambda: glob.glob(f"{store}/new/*") or glob.glob(f"{store}/layers/*"))
    call.cancel()
    wait_for(lambda: not [p for p in writer.pids() if "berth-pull" in p[1]])
    wait_for(lambda: not glob.glob(f"{writer.root}/plugins/storage-overlay/active/*"))
    call = writer.admin.ExportStore(stubs()[2].ExportStoreRequest(path=store), timeout=60)
    wait_for(lambda: glob.glob(f"{store}/layers/*"))
    writer.kill9()
    wait_for(lambda: not [p for p in writer.pids() if "berth-pull" in p[1]])
    writer.start()
    export(writer, store)
    assert len(os.listdir(f"{store}/layers")) == 5 and os.listdir(f"{store}/new") == []
    r = subprocess.run([os.path.join(build_dir(), "core/ctl/berthctl"), "--runtime-endpoint", writer.sock, "image", "export-store",
                        store, IMAGE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 0 and f"{IMAGE}: written" in r.stderr, r
    with fails("NOT_FOUND", "/nowhere"):
        export(writer, "/nowhere")
