"""Images over CRI and berth.admin.v1: import, status, list, remove; pulls from a real registry."""
import json
import os
import shutil
import socket
import subprocess
import threading
import time

import grpc
import pytest

import daemon
import pullharness
from daemon import IMAGE, busybox_image, fails, needs_daemon, pb, stubs, wait_for
from pullharness import Tar

pytestmark = needs_daemon


@pytest.fixture
def bare(make_daemon):
    """A berthd without any image."""
    return make_daemon(image=False)


def images(d, name=""):
    f = pb().ImageFilter(image=pb().ImageSpec(image=name)) if name else None
    return list(d.img.ListImages(pb().ListImagesRequest(filter=f)).images)


def image_status(d, name, verbose=False):
    r = d.img.ImageStatus(pb().ImageStatusRequest(image=pb().ImageSpec(image=name), verbose=verbose))
    return r if verbose else (r.image if r.HasField("image") else None)


def remove(d, name):
    d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=name)), timeout=60)


def layers(d):
    return [s for s in d.snapshots() if "/" in s and any(len(p) >= 32 for p in s.replace("-", "/").split("/"))]


def test_import_status_list_remove(bare):
    empty = layers(bare)
    image = busybox_image(config={"User": "1000:1000"})
    i = bare.import_image(image)
    assert i == pullharness.sha(image.config)
    one, = images(bare)
    assert one.id == i and list(one.repo_tags) == [IMAGE]
    assert list(one.repo_digests) == [f"{IMAGE.rsplit(':', 1)[0]}@{image.desc['digest']}"]
    assert one.size > 0 and one.uid.value == 1000
    for name in (IMAGE, i, i[7:], i[7:20], one.repo_digests[0]):
        assert image_status(bare, name).id == i, name
        assert [x.id for x in images(bare, name)] == [i]
    assert image_status(bare, "localhost/none:1") is None and images(bare, "localhost/none:1") == []
    info = json.loads(image_status(bare, IMAGE, verbose=True).info["info"])
    assert "FROM_IMAGE=yes" in json.dumps(info)
    assert bare.import_image(image, "localhost/other:2") == i
    assert sorted(images(bare)[0].repo_tags) == [IMAGE, "localhost/other:2"]
    remove(bare, "localhost/other:2")  # one name removes all of it
    assert images(bare) == []
    remove(bare, IMAGE)
    remove(bare, i)
    assert layers(bare) == empty
    assert os.listdir(f"{bare.root}/images") == []


def test_images_outlive_a_restart(bare):
    i = bare.import_image()
    before = images(bare)
    bare.restart()
    assert images(bare) == before
    pod = bare.run_pod()
    assert bare.wait_exit(bare.run_ctr(pod, "true")).exit_code == 0
    bare.kill9()
    bare.start()
    assert image_status(bare, i).id == i


def test_shared_layers_are_kept_for_the_other(bare):
    a = bare.import_image(busybox_image(), "localhost/a:1")
    one = len(layers(bare))
    b = bare.import_image(busybox_image(more=[Tar().add("more", data="x")]), "localhost/b:1")
    assert a != b and one < len(layers(bare)) < 2 * one
    remove(bare, "localhost/a:1")
    pod = bare.run_pod()
    cid = bare.run_ctr(pod, "cat", "/more", "/layer2", image="localhost/b:1")
    assert bare.wait_exit(cid).exit_code == 0
    bare.remove_pod(pod)
    remove(bare, "localhost/b:1")
    assert images(bare) == []


def test_an_image_in_use_stays(bare):
    i = bare.import_image()
    pod = bare.run_pod()
    cid = bare.run_ctr(pod, "sleep", "1000")
    with fails("FAILED_PRECONDITION", i, cid):
        remove(bare, IMAGE)
    assert image_status(bare, IMAGE).id == i
    bare.stop_ctr(cid)
    bare.remove_ctr(cid)
    remove(bare, IMAGE)
    assert images(bare) == []


def test_a_tag_moves_to_the_newer_image(bare):
    a = bare.import_image(busybox_image())
    b = bare.import_image(busybox_image(config={"Env": ["NEW=1"]}))
    assert a != b and image_status(bare, IMAGE).id == b
    assert IMAGE not in image_status(bare, a).repo_tags
    bare.restart()
    assert image_status(bare, IMAGE).id == b, "a restart does not move it back"


def test_names_that_come_at_once(make_daemon):
    """One image by several names, and one name by several images: none that was acknowledged is lost, now or after a kill."""
    d = make_daemon(cni=False)
    request, same, moving = stubs()[2].ImportImageRequest, [IMAGE], "localhost/berth/moving:1"
    one = pullharness.layout(d.tmp, busybox_image(), dirname="same")
    others = [pullharness.layout(d.tmp, busybox_image(more=[Tar().add("n", data=str(n))]), dirname=f"other{n}") for n in range(4)]
    for turn in range(3):
        names = [f"localhost/berth/turn{turn}:{n}" for n in range(6)]
        calls = [d.admin.ImportImage.future(request(path=one, reference=n), timeout=60) for n in names]
        calls += [d.admin.ImportImage.future(request(path=o, reference=moving), timeout=60) for o in others]
        for c in calls:
            c.result()
        same += names

        def tags():
            images = d.img.ListImages(pb().ListImagesRequest()).images
            return {i.id: sorted(i.repo_tags) for i in images}
        have = tags()
        assert sorted(sum(have.values(), [])) == sorted(same + [moving])
        d.kill9()
        d.start()
        assert tags() == have


def test_a_removal_while_it_comes_again(make_daemon):
    """What is there then is there after a kill as well."""
    d = make_daemon(cni=False)
    path, request = pullharness.layout(d.tmp, busybox_image(), dirname="same"), stubs()[2].ImportImageRequest
    image = d.img.ListImages(pb().ListImagesRequest()).images[0].id

    def tags():
        return {i.id: sorted(i.repo_tags) for i in d.img.ListImages(pb().ListImagesRequest()).images}
    for n in range(12):
        comes = d.admin.ImportImage.future(request(path=path, reference=f"localhost/berth/again:{n}"), timeout=60)
        time.sleep(n / 60)
        goes = d.img.RemoveImage.future(pb().RemoveImageRequest(image=pb().ImageSpec(image=image)), timeout=60)
        comes.result()
        goes.result()
        have = tags()
        assert have in ({}, {image: [f"localhost/berth/again:{n}"]})
        d.kill9()
        d.start()
        assert tags() == have


def test_image_fs(bare):
    def ask():
        r = bare.img.ImageFsInfo(pb().ImageFsInfoRequest())
        i, = r.image_filesystems
        c, = r.container_filesystems
        assert i.fs_id.mountpoint == c.fs_id.mountpoint and os.path.isdir(i.fs_id.mountpoint)
        assert abs(i.timestamp / 1e9 - time.time()) < 60
        return i.used_bytes.value, i.inodes_used.value, c.used_bytes.value, c.inodes_used.value
    empty = ask()
    assert empty == (0, 0, 0, 0)
    bare.import_image()
    full = ask()
    # what lies on the disk, not what was transferred
    size = os.stat(daemon.BUSYBOX).st_size
    assert size <= full[0] < size + 1_000_000 and full[1] > 10 and full[2:] == (0, 0)
    extra = Tar().add("big", data=os.urandom(3_000_000))
    other = bare.import_image(busybox_image(more=[extra]), "localhost/berth/more:1")
    more = ask()
    assert 3_000_000 <= more[0] - full[0] < 3_200_000 and 1 <= more[1] - full[1] <= 3
    bare.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=other)))
    assert ask() == full, "shared layers stay, and count once"
    pod = bare.run_pod()
    cid = bare.run_ctr(pod, "sh", "-c", "dd if=/dev/zero of=/file bs=1000 count=2000; sleep 100")
    wait_for(lambda: ask()[2] >= 2_000_000, 30, 0.5)
    assert ask()[:2] == full[:2]
    bare.restart()
    assert ask()[:2] == full[:2]
    bare.remove_ctr(cid)
    bare.remove_pod(pod)


def test_pinned(make_daemon):
    d = make_daemon(image=False, start=False)
    d.write_config({"images": {"pinned": ["localhost/berth/exact:1", "localhost/berth/bare", "*glob", "localhost/st*",
                                          "*mid*", "localhost/berth/no"]}})
    d.start()
    want = {"localhost/berth/exact:1": True, "localhost/berth/exact:2": False, "localhost/berth/bare:7": True,
            "localhost/a/myglob:1": True, "localhost/start:1": True, "localhost/x/amidst:1": True,
            "localhost/berth/nothing:1": False}
    for n, (name, pinned) in enumerate(want.items()):
        i = d.import_image(pullharness.Image([Tar().add("f", data=f"{n}")]), name)
        assert image_status(d, name).pinned == pinned, name
        assert [x.pinned for x in images(d) if x.id == i] == [pinned]


def test_an_import_that_does_not_match_its_digest(bare):
    image = busybox_image()
    path = pullharness.layout(bare.tmp, image)
    blob = f"{path}/blobs/sha256/{image.layer_descs[1]['digest'][7:]}"
    data = bytearray(open(blob, "rb").read())
    data[-1] ^= 1
    open(blob, "wb").write(data)
    empty = layers(bare)
    with fails("INVALID_ARGUMENT|DATA_LOSS|FAILED_PRECONDITION"):
        bare.admin.ImportImage(stubs()[2].ImportImageRequest(path=path, reference=IMAGE), timeout=60)
    assert images(bare) == []
    bare.restart()
    assert layers(bare) == empty, "what was committed before the bad layer is nobody's"


def test_import_dir(make_daemon):
    d = make_daemon(image=False, start=False)
    src = pullharness.layout(d.tmp, busybox_image(), name="localhost/preloaded:1")
    os.makedirs(f"{d.tmp}/preload")
    shutil.move(src, f"{d.tmp}/preload/one")
    with open(f"{d.tmp}/preload/broken.tar", "w") as f:
        f.write("no archive")
    d.write_config({"images": {"import_dir": f"{d.tmp}/preload"}})
    d.start()
    wait_for(lambda: images(d))
    assert list(images(d)[0].repo_tags) == ["localhost/preloaded:1"]
    wait_for(lambda: "broken.tar" in d.log())


# ---- a registry ----

REGISTRY = shutil.which("docker-registry")
needs_registry = pytest.mark.skipif(not REGISTRY, reason="needs docker-registry")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("registry")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with open(tmp / "config.yml", "w") as f:
        f.write(f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp}/data}}}}\n"
                f"http: {{addr: 127.0.0.1:{port}}}\n")
    p = subprocess.Popen([REGISTRY, "serve", str(tmp / "config.yml")], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)

    def up():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    try:
        wait_for(up)
        yield f"127.0.0.1:{port}"
    finally:
        p.kill()
        p.wait()


def push(registry, repository, tag, image):
    import http.client

    def ask(method, path, body=None, **headers):
        c = http.client.HTTPConnection(registry)
        c.request(method, path, body, headers)
        r = c.getresponse()
        r.read()
        assert r.status < 300, (method, path, r.status)
        location = r.headers.get("Location", "")
        c.close()
        return location
    for digest, data in image.blobs.items():
        if data == image.manifest:
            continue
        at = ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        at = at.split(registry, 1)[-1]
        ask("PUT", f"{at}{'&' if '?' in at else '?'}digest={digest}", data, **{"Content-Type": "application/octet-stream"})
    ask("PUT", f"/v2/{repository}/manifests/{tag}", image.manifest, **{"Content-Type": image.doc["mediaType"]})


@pytest.fixture
def puller(make_daemon, registry):
    d = make_daemon(image=False, start=False)
    with open(f"{d.tmp}/registries.conf", "w") as f:
        f.write(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    return d.start()


def pull(d, name, timeout=60):
    return d.img.PullImage(pb().PullImageRequest(image=pb().ImageSpec(image=name)), timeout=timeout).image_ref


@needs_registry
def test_pull_and_run(puller, registry):
    image = busybox_image()
    push(registry, "test/busybox", "1", image)
    name = f"{registry}/test/busybox:1"
    assert pull(puller, name) == pullharness.sha(image.config)
    one, = images(puller)
    assert list(one.repo_tags) == [name]
    pod = puller.run_pod()
    cid = puller.run_ctr(pod, "cat", "/layer2", image=name)
    assert puller.wait_exit(cid).exit_code == 0
    assert puller.log_lines(pod) == [("stdout", "second")]
    assert pull(puller, f"{registry}/test/busybox@{image.desc['digest']}") == one.id
    with fails("NOT_FOUND", "test/none"):
        pull(puller, f"{registry}/test/none:1")
    with fails("UNAVAILABLE|NOT_FOUND", "127.0.0.1:1"):
        pull(puller, "127.0.0.1:1/x/y:1")


@needs_registry
def test_concurrent_pulls_are_one(puller, registry):
    push(registry, "test/many", "1", busybox_image())
    name = f"{registry}/test/many:1"
    out = []
    threads = [threading.Thread(target=lambda: out.append(pull(puller, name))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(out) == 8 and len(set(out)) == 1 and len(images(puller)) == 1
    assert not [s for s in puller.snapshots() if "pull-" in s]


@needs_registry
def test_progress(puller, registry):
    image = busybox_image(more=[Tar().add("big", data=os.urandom(3_000_000))])
    push(registry, "test/progress", "1", image)
    got = list(puller.admin.PullImage(stubs()[2].AdminPullRequest(image=f"{registry}/test/progress:1"), timeout=60))
    assert got[-1].image_id == pullharness.sha(image.config)
    assert all(not m.image_id for m in got[:-1])
    for x in got[-1].layers:
        assert x.digest.startswith("sha256:")


def hung_registry():
    """Accepts, and says nothing."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen(50)
    return s, "127.0.0.1:%d" % s.getsockname()[1]


def test_a_client_vanishes_in_a_pull(make_daemon):
    s, at = hung_registry()
    d = make_daemon(image=False, start=False)
    with open(f"{d.tmp}/registries.conf", "w") as f:
        f.write(f'[[registry]]\nlocation = "{at}"\ninsecure = true\n')
    d.start()
    c = d.new_channel()
    f = stubs()[1].ImageServiceStub(c).PullImage.future(
        pb().PullImageRequest(image=pb().ImageSpec(image=f"{at}/x/y:1")), timeout=60)
    wait_for(lambda: [p for p in d.pids() if "berth-pull" in p[1]])
    time.sleep(0.3)
    assert not f.done()
    c.close()
    wait_for(lambda: not [p for p in d.pids() if "berth-pull" in p[1]])
    with fails("DEADLINE_EXCEEDED"):
        pull(d, f"{at}/x/y:1", timeout=0.5)
    wait_for(lambda: not [p for p in d.pids() if "berth-pull" in p[1]])
    d.rt.Version(pb().VersionRequest())
    s.close()


def test_pods_come_and_go_while_a_pull_hangs(make_daemon):
    """A puller holds no mount and no namespace of the node."""
    s, at = hung_registry()
    d = make_daemon(start=False)
    with open(f"{d.tmp}/registries.conf", "w") as f:
        f.write(f'[[registry]]\nlocation = "{at}"\ninsecure = true\n')
    d.start()
    d.import_image()
    pod = d.run_pod(host_network=False)
    d.run_ctr(pod, "sleep", "1000")
    f = d.img.PullImage.future(pb().PullImageRequest(image=pb().ImageSpec(image=f"{at}/x/y:1")), timeout=60)
    wait_for(lambda: [p for p in d.pids() if "berth-pull" in p[1]])
    time.sleep(0.3)
    d.remove_pod(pod)
    assert d.veths() == [] and d.mounts() == [] and d.objects() == []
    assert not f.done()
    f.cancel()
    wait_for(lambda: not [p for p in d.pids() if "berth-pull" in p[1]])
    s.close()


def test_sigterm_ends_a_pull(make_daemon):
    s, at = hung_registry()
    d = make_daemon(image=False, start=False)
    with open(f"{d.tmp}/registries.conf", "w") as f:
        f.write(f'[[registry]]\nlocation = "{at}"\ninsecure = true\n')
    d.start()
    f = d.img.PullImage.future(pb().PullImageRequest(image=pb().ImageSpec(image=f"{at}/x/y:1")), timeout=60)
    wait_for(lambda: [p for p in d.pids() if "berth-pull" in p[1]])
    d.proc.terminate()
    assert d.proc.wait(40) == 0
    d.proc = None
    d.hang_up()
    with fails("UNAVAILABLE|CANCELLED"):
        f.result()
    wait_for(lambda: not d.pids())
    s.close()


@needs_registry
def test_the_daemon_dies_in_a_pull(puller, registry):
    image = busybox_image(more=[Tar().add(f"big{i}", data=os.urandom(4_000_000)) for i in range(4)])
    push(registry, "test/dies", "1", image)
    empty = layers(puller)
    f = puller.img.PullImage.future(pb().PullImageRequest(image=pb().ImageSpec(image=f"{registry}/test/dies:1")),
                                    timeout=60)
    wait_for(lambda: [s for s in puller.snapshots() if "pull-" in s] or f.done())
    puller.kill9()
    with pytest.raises(grpc.RpcError):
        f.result()
    wait_for(lambda: not [p for p in puller.pids() if "berth-pull" in p[1]])
    puller.start()
    assert images(puller) == [] and layers(puller) == empty
    assert pull(puller, f"{registry}/test/dies:1") == pullharness.sha(image.config)


def named(d, name):
    i = d.img.ImageStatus(pb().ImageStatusRequest(image=pb().ImageSpec(image=name))).image
    return i.id


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_a_name_that_moved_stays_so(make_daemon, end):
    """Whatever order the records are read in: each name moves from its first image to the second."""
    d = make_daemon(image=False)
    first, second = {}, {}
    for n in range(6):
        name = f"localhost/moved:{n}"
        first[name] = d.import_image(busybox_image(config={"Labels": {"n": f"{n} first"}}), name)
    for n, name in enumerate(first):
        second[name] = d.import_image(busybox_image(config={"Labels": {"n": f"{n} second"}}), name)
    for _ in range(2):
        assert {name: named(d, name) for name in second} == second
        getattr(d, end)()
        d.start()
    assert {name: named(d, name) for name in second} == second
    for i in second.values():
        d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=i)), timeout=60)
    getattr(d, end)()
    d.start()
    images = {i.id: list(i.repo_tags) for i in d.img.ListImages(pb().ListImagesRequest()).images}
    assert images == {i: [] for i in first.values()}
