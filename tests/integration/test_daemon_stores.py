"""Image stores: written by one node, read by another, in place."""
import glob
import hashlib
import json
import os
import signal
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
    """A node with stores; its berth-pull can be made to hang as on a file system that does not answer, or to be slow."""
    def make(*stores, slow=0, **more):
        d = make_daemon(image=False, start=False)
        c = config(d)
        c["images"] = {"additional_stores": list(stores)}
        c.update(more)
        d.write_config(c)
        real = os.path.realpath(f"{d.helpers}/berth-pull")
        os.unlink(f"{d.helpers}/berth-pull")
        with open(f"{d.helpers}/berth-pull", "w") as f:
            f.write(f'#!/bin/sh\n[ -e {d.tmp}/hang ] && exec sleep 300\n'
                    f'[ -e {d.tmp}/slow ] && export OF={d.tmp} BERTH_FAULT_SLOW=shared-layer:$(cat {d.tmp}/slow)\nexec {real} "$@"\n')
        os.chmod(f"{d.helpers}/berth-pull", 0o755)
        if slow:
            make_slow(d, slow)
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


def layer_dir(store, name, n):
    """The directory of layer n of an image, and its ChainID."""
    with open(f"{store}/current/index.json") as f:
        images = json.load(f)["images"]
    (image,) = [i for i in images if name in i["tags"]]
    chain = image["record"]["layers"][n]["chain_id"]
    return f"{store}/layers/{chain[7:]}", chain


def test_layers_that_go_and_come_back(writer, reader, store):
    export(writer, store)
    top, chain = layer_dir(store, IMAGE, 1)
    other, other_chain = layer_dir(store, "localhost/everything:1", 1)
    os.rename(top, f"{store}/aside")
    os.rename(f"{other}/fs", f"{other}/kept")
    os.symlink("kept", f"{other}/fs")
    r = reader(store)
    wait_for(lambda: len(names(r)) == 2)
    pod = r.run_pod()
    with fails("FAILED_PRECONDITION", store, chain, "it is not there"):
        r.create(pod, "sh", name="absent")
    with fails("UNAVAILABLE", store, other_chain, "symbolic links"):
        r.create(pod, "sh", name="other", image="localhost/everything:1")
    os.rename(f"{store}/aside", top)
    os.unlink(f"{other}/fs")
    os.rename(f"{other}/kept", f"{other}/fs")
    time.sleep(2.1)  # so long a look is good
    r.create(pod, "sh", name="back")
    # one that no image of the node's own has taken, and one of an image that has
    os.rename(other, f"{store}/aside")
    os.rename(top, f"{store}/aside2")
    time.sleep(2.1)
    with fails("FAILED_PRECONDITION", store, other_chain, "it is not there"):
        r.create(pod, "sh", name="removed", image="localhost/everything:1")
    with fails("FAILED_PRECONDITION", store, chain, "it is not there"):
        r.create(pod, "sh", name="taken")
    os.rename(f"{store}/aside", other)
    os.rename(f"{store}/aside2", top)
    time.sleep(2.1)
    r.create(pod, "sh", name="removed", image="localhost/everything:1")
    r.create(pod, "sh", name="taken")
    assert r.log().count("an image store was read") == 1, "its index did not change"


def digest(text):
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def made(store, n_images, n_layers):
    """A store of empty layers; no two images share one."""
    images = []
    os.makedirs(f"{store}/generations/1")
    os.makedirs(f"{store}/layers")
    for i in range(n_images):
        layers, chain = [], None
        for k in range(n_layers):
            diff = digest(f"layer {i} {k}")
            chain = digest(f"{chain} {diff}") if chain else diff
            layers.append({"diff_id": diff, "chain_id": chain, "digest": diff, "size": 1})
            os.makedirs(f"{store}/layers/{chain[7:]}/fs")
        record = {"v": 1, "id": digest(f"image {i}"), "digest": digest(f"manifest {i}"), "size": 1, "config": {}, "layers": layers}
        images.append({"record": record, "tags": [f"localhost/made{i}:1"], "digests": []})
    with open(f"{store}/generations/1/index.json", "w") as f:
        json.dump({"v": 1, "images": images, "xattrs": {}}, f)
    os.symlink("generations/1", f"{store}/current")
    return store


def make_slow(d, ms):
    """Each layer takes a berth-pull of d so long to look at, from now on."""
    with open(f"{d.tmp}/slow", "w") as f:
        f.write(str(ms))


def stop_slow(d):
    """Stops the slow ones where they are."""
    for p in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{p}/environ", errors="replace") as f:
                if f"OF={d.tmp}\0" in f.read():
                    os.kill(int(p[6:]), signal.SIGSTOP)
        except OSError:
            pass  # it has ended


@needs_faults
def test_one_of_two_stores_hangs(reader, store):
    # one has no layers to wait for
    r = reader(made(f"{store}/one", 1, 1), made(f"{store}/two", 0, 0), slow=300000)
    pod = r.run_pod()
    for n in range(2):
        t = time.monotonic()
        load(r, name=f"localhost/own{n}:1")
        assert time.monotonic() - t < 15, "a pull waits for a store that hangs as long as others do"
        r.create(pod, "sh", name=f"own{n}", image=f"localhost/own{n}:1")
        time.sleep(2.1)


@needs_faults
def test_a_store_that_is_slow(writer, reader, store):
    many = 100
    r = reader(made(store, many, 5), slow=250)  # a quarter of a minute, however many at once
    t = time.monotonic()
    load(r, pullharness.Image([pullharness.Tar().add("own", data="own")], config={"Cmd": ["sh"]}), "localhost/own:1")
    assert names(r) == ["localhost/own:1"] and time.monotonic() - t < 25, "a pull waits for it no longer than for one that hangs"
    wait_for(lambda: len(names(r)) == many + 1, 60, 0.5)
    assert time.monotonic() - t > 7, "it was meant to be slow"
    # what was known before is used while it is looked at again
    os.unlink(f"{r.tmp}/slow")
    export(writer, store, IMAGE)
    wait_for(lambda: IMAGE in names(r), 40, 0.5)
    make_slow(r, 250)
    load(writer, busybox_image(more=[pullharness.Tar().add("newer", data="3")]), name="localhost/newer:1")
    export(writer, store, "localhost/newer:1")
    time.sleep(2.1)
    pod, t = r.run_pod(), time.monotonic()
    r.create(pod, "sh")
    assert "localhost/newer:1" not in names(r) and time.monotonic() - t < 25
    # from here on it hangs
    stop_slow(r)
    wait_for(lambda: "does not answer" in r.log(), 20)
    assert len(names(r)) == many + 2
    with fails("UNAVAILABLE", store, "does not answer"):
        r.create(pod, "sh", name="hangs")
