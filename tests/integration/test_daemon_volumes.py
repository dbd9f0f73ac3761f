"""Mounts that berth makes itself: images as volumes, recursively read-only trees."""
import os
import subprocess
import tarfile

import pytest

import daemon
import pullharness
from daemon import fails, pb, wait_for
from pullharness import Tar

pytestmark = daemon.needs_daemon

DATA = "localhost/berth/data:1"


def data_image(**kw):
    t = Tar()
    for d in ("dir", "dir/deep", "bin"):
        t.dir(d)
    t.add("dir/file", data="from the image\n").add("dir/deep/x", data="x\n")
    t.add("bin/busybox", data=open(daemon.BUSYBOX, "rb").read(), mode=0o755)
    t.sym("up", "../../../../etc").sym("abs", "/dir").sym("dir/out", "/etc/passwd").sym("loop", "loop")
    t.add("dir/secret", data="s\n", mode=0o600)
    t.add("dir/pipe", type=tarfile.FIFOTYPE)
    return pullharness.Image([t, Tar().add("dir/second", data="2\n")], config={}, **kw)


def image_mount(path="/vol", image=DATA, **kw):
    kw.setdefault("readonly", True)
    return pb().Mount(container_path=path, image=pb().ImageSpec(image=image), **kw)


@pytest.fixture
def data(real):
    real.data_id = real.import_image(data_image(), DATA)
    return real


def views(d):
    return [s for s in d.snapshots() if s.startswith("active/")]


def test_whole_image(data):
    d = data
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "100", mounts=[image_mount()])
    assert d.sh(cid, "cat /vol/dir/file /vol/dir/second") == "from the image\n2\n"
    assert d.exec(cid, "touch", "/vol/new").exit_code != 0
    assert d.exec(cid, "sh", "-c", "echo x > /vol/dir/file").exit_code != 0
    assert d.sh(cid, "/vol/bin/busybox echo runs") == "runs\n"
    m, = d.status(cid).mounts
    assert (m.container_path, m.host_path, m.readonly, m.image.image, m.image.image_ref, m.image_sub_path) == \
        ("/vol", "", True, DATA, d.data_id, "")
    assert len(views(d)) == 2
    d.remove_ctr(cid)
    assert views(d) == [] and not [x for x in d.mounts() if "/containers/" in x]


@pytest.mark.parametrize("sub,path,content", [
    ("dir", "/vol/file", "from the image\n"), ("dir/deep", "/vol/x", "x\n"), ("/dir/", "/vol/file", "from the image\n"),
    ("dir/file", "/vol", "from the image\n"), ("abs", "/vol/file", "from the image\n"),
    ("dir/../../../dir", "/vol/file", "from the image\n")])
def test_sub_path(data, sub, path, content):
    d = data
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "100", mounts=[image_mount(image_sub_path=sub)])
    assert d.sh(cid, f"cat {path}") == content
    assert d.exec(cid, "sh", "-c", f"echo x > {path}").exit_code != 0
    assert d.status(cid).mounts[0].image_sub_path == sub
    assert sum(".image" in m for m in d.mounts()) == 0, "the whole image stays mounted for a part of it"


@pytest.mark.parametrize("sub,code", [("nowhere", "NOT_FOUND"), ("dir/file/x", "INTERNAL|INVALID_ARGUMENT|NOT_FOUND"),
                                      ("up", "NOT_FOUND"), ("dir/out", "NOT_FOUND"), ("loop", "INTERNAL|INVALID_ARGUMENT"),
                                      ("dir/pipe", "INVALID_ARGUMENT"), ("../../../../etc/passwd", "NOT_FOUND")])
def test_sub_path_that_is_not_there(data, sub, code):
    d = data
    pod = d.run_pod()
    with fails(code, "image_sub_path") as f:
        d.create(pod, "sh", mounts=[image_mount(image_sub_path=sub)])
    assert f.error.details().startswith("ImageVolumeMountFailed")
    assert views(d) == [] and d.ctrs() == []


def test_refused(data):
    d = data
    pod = d.run_pod()
    with fails("INVALID_ARGUMENT", "readonly"):
        d.create(pod, "sh", mounts=[image_mount(readonly=False)])
    with fails("INVALID_ARGUMENT", "host_path"):
        d.create(pod, "sh", mounts=[image_mount(host_path="/tmp")])
    with fails("INVALID_ARGUMENT", "PRIVATE"):
        d.create(pod, "sh", mounts=[image_mount(propagation=1)])
    with fails("NOT_FOUND", "ImageVolumeMountFailed", "not on this node"):
        d.create(pod, "sh", mounts=[image_mount(image="localhost/berth/none:1")])
    with fails("INVALID_ARGUMENT", "ImageVolumeMountFailed"):
        d.create(pod, "sh", mounts=[image_mount(image="Not An Image")])
    with fails("INVALID_ARGUMENT", "image_sub_path"):
        d.create(pod, "sh", mounts=[pb().Mount(container_path="/x", host_path="/tmp", image_sub_path="a")])
    assert views(d) == []


def test_many_and_the_same_image_twice(data):
    d = data
    pod = d.run_pod()
    mounts = [image_mount("/a", image_sub_path="dir/deep"), image_mount("/b"),
              pb().Mount(container_path="/c", host_path="/tmp"), image_mount("/d", image=d.data_id)]
    cid = d.run_ctr(pod, "sleep", "100", mounts=mounts)
    assert d.sh(cid, "cat /a/x /b/dir/second /d/dir/second") == "x\n2\n2\n"
    assert [m.image.image_ref for m in d.status(cid).mounts] == [d.data_id, d.data_id, "", d.data_id]
    other = d.run_ctr(pod, "sleep", "100", name="other", mounts=mounts)
    assert d.sh(other, "cat /a/x") == "x\n"
    d.remove_ctr(cid)
    assert d.sh(other, "cat /b/dir/file") == "from the image\n"


def test_image_stays_while_it_is_used(data):
    d = data
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "100", mounts=[image_mount()])
    for name in (DATA, d.data_id):
        with fails("FAILED_PRECONDITION", cid):
            d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=name)))
    d.kill9()
    d.start()
    with fails("FAILED_PRECONDITION", cid):
        d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=DATA)))
    assert d.sh(cid, "cat /vol/dir/file") == "from the image\n"
    m, = d.status(cid).mounts
    assert m.image.image_ref == d.data_id
    d.stop_ctr(cid)
    d.remove_ctr(cid)
    d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=DATA)))
    assert views(d) == []


@daemon.needs_faults
@pytest.mark.parametrize("point", ["ctr-volume-viewed", "ctr-volume-mounted", "ctr-staged", "ctr-create-before",
                                   "ctr-created-after"])
def test_killed_while_it_is_made(make_daemon, point):
    d = make_daemon()
    d.import_image(data_image(), DATA)
    pod = d.run_pod()
    d.stop()
    d.start(env={"BERTH_FAULT": point})
    with fails("UNAVAILABLE|UNKNOWN|CANCELLED"):
        d.create(pod, "sleep", "100", mounts=[image_mount("/a"), image_mount(image_sub_path="dir")])
    d.dead()
    d.start()
    for c in d.ctrs():
        d.remove_ctr(c.id)
    assert views(d) == [] and not [m for m in d.mounts() if "/containers/" in m]
    d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=DATA)))


@daemon.needs_faults
@pytest.mark.parametrize("point", ["ctr-unmounted", "ctr-unstaged"])
def test_killed_while_it_is_removed(make_daemon, point):
    d = make_daemon()
    d.import_image(data_image(), DATA)
    pod = d.run_pod()
    cid = d.create(pod, "sleep", "100", mounts=[image_mount("/a")])
    d.stop()
    d.start(env={"BERTH_FAULT": point})
    with fails("UNAVAILABLE|UNKNOWN|CANCELLED"):
        d.remove_ctr(cid)
    d.dead()
    d.start()
    assert views(d) == [] and d.ctrs() == []


# ---- artifacts ----

def test_artifact(real):
    d = real
    big = os.urandom(200000)
    a = pullharness.Artifact([("model/weights.bin", big), ("config.json", b"{}\n"), (None, b"nameless\n")])
    name = "localhost/berth/model:1"
    aid = d.import_image(a, name)
    assert aid == pullharness.sha(a.manifest)
    i, = [x for x in d.img.ListImages(pb().ListImagesRequest()).images if x.id == aid]
    assert list(i.repo_tags) == [name] and i.size == len(big) + 3 + 9 + 2
    pod = d.run_pod()
    with fails("INVALID_ARGUMENT", "artifact", "not run"):
        d.create(pod, "sh", image=name)
    mounts = [image_mount(image=name), image_mount("/f", image=aid, image_sub_path="model/weights.bin")]
    cid = d.run_ctr(pod, "sleep", "100", mounts=mounts)
    assert d.sh(cid, "wc -c < /f; cat /vol/config.json /vol/" + pullharness.sha(b"nameless\n")[7:]).split("\n") == \
        [str(len(big)), "{}", "nameless", ""]
    assert d.sh(cid, "cat /vol/model/weights.bin | wc -c").strip() == str(len(big))
    assert d.exec(cid, "touch", "/vol/x").exit_code != 0
    with fails("FAILED_PRECONDITION", cid):
        d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=name)))
    d.remove_ctr(cid)
    d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=name)))


# ---- recursively read-only, by a runtime that does not know it ----

def test_recursive_read_only(real):
    d = real
    top = f"{d.tmp}/rro"
    os.makedirs(f"{top}/sub")
    subprocess.run(["mount", "-t", "tmpfs", "t", f"{top}/sub"], check=True)
    try:
        pod = d.run_pod()
        mounts = [pb().Mount(container_path="/r", host_path=top, readonly=True, recursive_read_only=True),
                  pb().Mount(container_path="/plain", host_path=top, readonly=True)]
        cid = d.run_ctr(pod, "sleep", "100", mounts=mounts)
        assert d.exec(cid, "touch", "/r/x").exit_code != 0
        assert d.exec(cid, "touch", "/r/sub/x").exit_code != 0
        d.sh(cid, "touch /plain/sub/x && test -e /r/sub/x")
        assert [m.recursive_read_only for m in d.status(cid).mounts] == [True, False]
        assert all(h.features.recursive_read_only_mounts
                   for h in d.rt.Status(pb().StatusRequest()).runtime_handlers)
        # a container that sees the whole host does not take copies of copies
        whole = [pb().Mount(container_path="/host", host_path="/", readonly=True, recursive_read_only=True)]
        before = len(open("/proc/self/mountinfo").readlines())
        for i in range(3):
            d.create(pod, "sh", name=f"w{i}", mounts=whole)
        after = len(open("/proc/self/mountinfo").readlines())
        assert after - before < 6 * before, (before, after)
        for c in d.ctrs():
            d.remove_ctr(c.id)
    finally:
        subprocess.run(["umount", "-l", f"{top}/sub"], check=True)
    assert not os.path.exists(f"{top}/x")


def test_recursive_read_only_wants_the_rest(real):
    d = real
    pod = d.run_pod()
    for kw, text in (({"readonly": False}, "readonly"), ({"readonly": True, "propagation": 1}, "PRIVATE")):
        with fails("INVALID_ARGUMENT", "recursive_read_only", text):
            d.create(pod, "sh", mounts=[pb().Mount(container_path="/r", host_path="/tmp", recursive_read_only=True,
                                                   **kw)])
    assert wait_for(lambda: d.ctrs() == [])


@pytest.mark.parametrize("path", ["/dev", "/etc", "/sys"])
def test_nothing_of_ours_reaches_the_node(real, path):
    """A mount that hands what is mounted in it to the node, above what berth mounts in each container."""
    d = real
    src = f"{d.tmp}/node{path}"
    os.makedirs(src)
    subprocess.run(["mount", "-t", "tmpfs", "node", src], check=True)
    try:
        subprocess.run(["mount", "--make-shared", src], check=True)
        for name in ("fs/cgroup", "shm", "pts", "mqueue"):
            os.makedirs(f"{src}/{name}")
        for name in ("hosts", "hostname", "resolv.conf"):
            with open(f"{src}/{name}", "w") as f:
                f.write("the node's\n")
        subprocess.run(["cp", "-a", *(f"/dev/{n}" for n in ("null", "zero", "full", "random", "urandom", "tty")), src],
                       check=True)

        config = d.pod_config()
        config.linux.security_context.privileged = True
        pod = d.run_pod(config)
        both = d.create(pod, "sleep", "100", name="both", mounts=[pb().Mount(container_path=path, host_path=src, propagation=2)],
                        security_context=pb().LinuxContainerSecurityContext(privileged=True))

        def beneath():
            return [m for m in d.mounts() if f"{src}/" in m]
        assert beneath() == []
        d.start_ctr(both)
        assert d.sh(both, f"cat {path}/hosts") == "the node's\n"
        # Private, the same mounts are none of the node's business.
        one = d.run_ctr(pod, "sleep", "100", name="one", mounts=[pb().Mount(container_path=path, host_path=src)])
        ours = {"/dev": " /dev/shm ", "/etc": " /etc/hosts ", "/sys": " /sys/fs/cgroup"}[path]
        assert ours in d.sh(one, "cat /proc/self/mountinfo") and ours not in d.sh(both, "cat /proc/self/mountinfo")
        assert " /dev/pts " not in d.sh(one, "cat /proc/self/mountinfo") or path != "/dev"
        assert beneath() == []
        d.remove_pod(pod)
        assert beneath() == []
    finally:
        subprocess.run(["umount", "-R", src], check=True)
