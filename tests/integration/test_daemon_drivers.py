"""Two storage drivers at once: one for each runtime handler, and images that lie in one, the other or both."""
import glob
import json
import os

import pytest

import pullharness
from contents import differ, everything, seen
from daemon import IMAGE, PLUGINS, RUNTIMES, busybox_image, built, fails, needs_daemon, needs_faults, pb, stubs

pytestmark = needs_daemon
if not built(PLUGINS["fake"]):
    pytest.skip("the build has no fake plugin", allow_module_level=True)


def config(d, other="fake", **keys):
    """The handler "copies" runs runc on root file systems of another driver; the fake one's snapshots are copies."""
    path = PLUGINS.get(other, f"plugins/{other}/{other}.so")
    return {"plugins": {"storage-overlay": {"path": built(PLUGINS["storage-overlay"])},
                        "runtime-runc": {"path": built(PLUGINS["runtime-runc"])},
                        other: {"path": built(path), **keys}},
            "network": {"plugin": ""},
            "runtimes": {"default": "runc", "handlers": {
                "runc": {"plugin": "runtime-runc", "path": RUNTIMES["runc"], "root": f"{d.tmp}/runc"},
                "copies": {"plugin": "runtime-runc", "path": RUNTIMES["runc"], "root": f"{d.tmp}/runc2",
                           "storage": other}}}}


@pytest.fixture
def two(make_daemon):
    d = make_daemon(image=False, start=False)
    d.write_config(config(d))
    return d.start()


def load(d, image=None, name=IMAGE, handler=""):
    d.names += 1
    path = pullharness.layout(d.tmp, image or busybox_image(), dirname=f"layout{d.names}")
    return d.admin.ImportImage(stubs()[2].ImportImageRequest(path=path, reference=name, runtime_handler=handler),
                               timeout=120).images[0].image_id


def images(d):
    return {i.id: i for i in d.img.ListImages(pb().ListImagesRequest()).images}


def remove(d, image, handler=""):
    d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=image, runtime_handler=handler)), timeout=60)


def overlay_layers(d):
    return sorted(os.listdir(f"{d.root}/plugins/storage-overlay/layers"))


def fake_rows(d):
    """Without what a kill left of one that was being written: the plugin takes it for none."""
    return sorted(os.path.basename(p) for p in glob.glob(f"{d.root}/plugins/fake/snaps/*") if not p.endswith(".tmp"))


def record(d, image_id):
    with open(f"{d.root}/images/{image_id.split(':')[1]}/image.json") as f:
        return json.load(f)


def test_images_go_where_their_handler_says(two):
    i = load(two, handler="copies")
    assert overlay_layers(two) == [] and len(fake_rows(two)) == 2
    assert record(two, i)["drivers"] == ["fake"]
    pod = two.run_pod(handler="copies")
    cid = two.run_ctr(pod, "cat", "/layer2")
    assert two.wait_exit(cid).exit_code == 0
    assert two.log_lines(pod) == [("stdout", "second")]
    assert len(fake_rows(two)) == 3, "the container's own"
    with fails("FAILED_PRECONDITION", cid):
        remove(two, i)
    two.remove_pod(pod)
    assert len(fake_rows(two)) == 2
    assert load(two) == i, "now the other driver has it, too"
    assert record(two, i)["drivers"] == ["storage-overlay", "fake"] and len(overlay_layers(two)) == 2
    two.restart()
    assert list(images(two)) == [i]
    assert len(overlay_layers(two)) == 2 and len(fake_rows(two)) == 2
    with fails("INVALID_ARGUMENT", "nothing"):
        remove(two, i, handler="nothing")
    with fails("INVALID_ARGUMENT", "nothing"):
        two.img.PullImage(pb().PullImageRequest(image=pb().ImageSpec(image="x/y:1", runtime_handler="nothing")))


def test_a_container_tells_the_handler_of_its_image(two):
    i = load(two, handler="copies")
    pod = two.run_pod(handler="copies")
    config = two.ctr_config("sleep", "100")
    config.image.MergeFrom(pb().ImageSpec(runtime_handler="copies", annotations={"a": "b"}))
    cid = two.create(pod, config=config)
    two.restart()
    for spec in (two.status(cid).image, two.ctrs()[0].image):
        assert (spec.runtime_handler, dict(spec.annotations), spec.image_ref) == ("copies", {"a": "b"}, i)
    assert images(two)[i].spec.runtime_handler == "", "it is one image for all handlers"


def test_removal_from_one_driver(two):
    i = load(two)
    other = load(two, busybox_image(more=[pullharness.Tar().add("three", data="3")]), name="localhost/other:1")
    load(two, handler="copies")
    remove(two, i, handler="copies")
    assert fake_rows(two) == [] and len(overlay_layers(two)) == 3 and set(images(two)) == {i, other}
    assert record(two, i)["drivers"] == ["storage-overlay"]
    remove(two, i, handler="copies")
    assert set(images(two)) == {i, other}, "there was nothing of it in that driver"
    remove(two, i)
    assert len(overlay_layers(two)) == 3, "the other image stands on them"
    remove(two, other, handler="runc")
    assert images(two) == {} and overlay_layers(two) == []


def test_usage_of_both(two):
    load(two)
    load(two, handler="copies")
    r = two.img.ImageFsInfo(pb().ImageFsInfoRequest(), timeout=20)
    places = [f.fs_id.mountpoint for f in r.image_filesystems]
    assert places == [f"{two.root}/plugins/storage-overlay", f"{two.root}/plugins/fake"]
    assert [f.fs_id.mountpoint for f in r.container_filesystems] == places
    # the fake driver knows of no usage
    assert r.image_filesystems[0].used_bytes.value > 0 and r.image_filesystems[1].used_bytes.value == 0
    pod = two.run_pod(handler="copies")
    cid = two.run_ctr(pod, "sleep", "100")
    layer = two.rt.ContainerStats(pb().ContainerStatsRequest(container_id=cid)).stats.writable_layer
    assert layer.fs_id.mountpoint == places[1]
    assert {p.instance for p in two.admin.Plugins(stubs()[2].PluginsRequest()).plugins} == {
        "storage-overlay", "fake", "runc", "copies"}


def test_recovery_and_repair_know_of_both(two):
    i = load(two)
    load(two, handler="copies")
    pod = two.run_pod(handler="copies")
    cid = two.run_ctr(pod, "sleep", "1000")
    two.kill9()
    two.start()
    assert two.status(cid).state == pb().CONTAINER_RUNNING
    two.remove_pod(pod)
    assert len(fake_rows(two)) == 2 and len(overlay_layers(two)) == 2
    # the record without its fake driver's layers is still the overlay's
    two.stop()
    for row in fake_rows(two):
        os.unlink(f"{two.root}/plugins/fake/snaps/{row}")
    two.start()
    assert list(images(two)) == [i]
    remove(two, i)
    assert overlay_layers(two) == []


def test_a_driver_that_is_not_configured_any_more(two):
    i = load(two, handler="copies")
    full = config(two)
    less = config(two)
    del less["runtimes"]["handlers"]["copies"]
    two.write_config(less)
    two.restart()
    assert images(two) == {} and "is not configured" in two.log()
    less["storage"] = {"also": ["fake"]}
    two.write_config(less)
    two.restart()
    assert list(images(two)) == [i], "nothing of it was removed"
    two.write_config(full)
    two.restart()
    assert list(images(two)) == [i] and len(fake_rows(two)) == 2


def test_mistakes_in_the_configuration(make_daemon):
    d = make_daemon(image=False, start=False)
    c = config(d)
    c["runtimes"]["handlers"]["copies"]["storage"] = "fak"
    c["storage"] = {"also": ["storage-overlai"]}
    d.write_config(c)
    import subprocess
    from daemon import build_dir
    r = subprocess.run([os.path.join(build_dir(), "core/berthd"), "--config", f"{d.tmp}/berth.yaml", "config"],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert r.returncode != 0
    assert "runtimes.handlers.copies.storage: 'fak' is not in plugins; did you mean 'fake'?" in r.stderr
    assert "storage.also: 'storage-overlai' is not in plugins; did you mean 'storage-overlay'?" in r.stderr
    c["runtimes"]["handlers"]["copies"]["storage"] = "runtime-runc"
    c["storage"] = {}
    d.write_config(c)
    d.start(wait=False)
    assert d.proc.wait(30) == 1
    d.proc = None
    assert "plugin runtime-runc is no storage driver" in d.log()


# ---- from one driver to the other: what becomes of the content is in test_daemon_migrate.py ----

def migrate(d, source, to, *names, timeout=120):
    return list(d.admin.MigrateStorage(stubs()[2].MigrateStorageRequest(**{"from": source}, to=to, images=names),
                                       timeout=timeout))


def test_migrate(two):
    first = load(two, everything(), "localhost/everything:1")
    second = load(two)
    got = migrate(two, "storage-overlay", "fake")
    done = [m for m in got if m.state != stubs()[2].MIGRATE_COPYING]
    assert [m.state for m in done] == [stubs()[2].MIGRATE_COPIED] * 2 and {m.image_id for m in done} == {first, second}
    assert {m.reference for m in done} == {IMAGE, "localhost/everything:1"} and done[-1].images == 2
    rows = fake_rows(two)
    assert len(rows) == 5, "the lowest layer is of both"
    again = migrate(two, "storage-overlay", "fake", IMAGE)
    assert [m.state for m in again] == [stubs()[2].MIGRATE_PRESENT]
    assert fake_rows(two) == rows
    for name, image in ((IMAGE, second), ("localhost/everything:1", first)):
        assert image in images(two) and name in images(two)[image].repo_tags
    with fails("INVALID_ARGUMENT", "storage-nothing"):
        migrate(two, "storage-nothing", "fake")
    with fails("INVALID_ARGUMENT", "same storage driver"):
        migrate(two, "fake", "fake")
    with fails("NOT_FOUND", "localhost/none:1"):
        migrate(two, "fake", "storage-overlay", "localhost/none:1")
    remove(two, IMAGE, handler="runc")
    with fails("FAILED_PRECONDITION", "is not in storage-overlay"):
        migrate(two, "storage-overlay", "fake", IMAGE)
    import subprocess
    from daemon import build_dir
    r = subprocess.run([os.path.join(build_dir(), "core/ctl/berthctl"), "--runtime-endpoint", two.sock, "storage", "migrate",
                        "--from", "fake", "--to", "storage-overlay"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 0 and f"{IMAGE}: copied" in r.stderr and "localhost/everything:1: already there" in r.stderr, r


@pytest.fixture
def slow(two):
    """A copy into the fake driver that takes long: its commits wait."""
    load(two, everything(), "localhost/everything:1")
    two.inject(delay_op="storage.commit", delay_ms=1500)
    return two


def start_migration(d):
    return d.admin.MigrateStorage(stubs()[2].MigrateStorageRequest(**{"from": "storage-overlay"}, to="fake"), timeout=100)


def half_made(d):
    from daemon import wait_for
    wait_for(lambda: [r for r in fake_rows(d) if r.startswith("pull-")])


def test_a_migration_is_given_up(slow):
    from daemon import wait_for
    call = start_migration(slow)
    half_made(slow)
    with fails("FAILED_PRECONDITION", "is being copied"):
        remove(slow, "localhost/everything:1")
    call.cancel()
    wait_for(lambda: not [p for p in slow.pids() if "berth-pull" in p[1]])
    wait_for(lambda: not [r for r in fake_rows(slow) if "pull-" in r] and not glob.glob(
        f"{slow.root}/plugins/storage-overlay/active/*"))
    slow.inject()
    assert len(overlay_layers(slow)) == 4
    assert [m.state for m in migrate(slow, "storage-overlay", "fake")][-1] == stubs()[2].MIGRATE_COPIED
    remove(slow, "localhost/everything:1")
    assert fake_rows(slow) == [] and overlay_layers(slow) == []


def test_the_daemon_dies_in_a_migration(slow):
    import grpc
    call = start_migration(slow)
    half_made(slow)
    slow.kill9()
    with pytest.raises(grpc.RpcError):
        list(call)
    slow.inject()
    slow.start()
    assert not [r for r in fake_rows(slow) if "pull-" in r]
    assert not glob.glob(f"{slow.root}/plugins/storage-overlay/active/*")
    i, = images(slow)
    before = seen(slow, "localhost/everything:1", "runc")
    assert [m.state for m in migrate(slow, "storage-overlay", "fake")][-1] == stubs()[2].MIGRATE_COPIED
    assert differ(before, seen(slow, "localhost/everything:1", "copies")) == {}


@needs_faults
def test_killed_with_a_layer_in_view(two):
    import grpc
    load(two, everything(), "localhost/everything:1")
    two.stop()
    two.start(env={"BERTH_FAULT": "layer-source-viewed"})
    with pytest.raises(grpc.RpcError):
        list(start_migration(two))
    two.dead()
    two.start()
    assert not [r for r in fake_rows(two) if "pull-" in r]
    assert not glob.glob(f"{two.root}/plugins/storage-overlay/active/*")
    assert [m.state for m in migrate(two, "storage-overlay", "fake")][-1] == stubs()[2].MIGRATE_COPIED
