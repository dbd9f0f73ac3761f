"""CheckpointContainer: the archive, what goes wrong, and that the container goes on. CRIU is a script (checkpoints.py); the
real one has test_daemon_criu.py."""
import glob
import json
import os
import re
import signal
import stat
import subprocess
import tarfile

import pytest

import daemon
from checkpoints import Archive, Checkpoints, counter, goes_on, rootfs
from daemon import IMAGE, Daemon, busybox_image, fails, needs_daemon, needs_faults, pb, wait_for
from pullharness import Tar

pytestmark = needs_daemon


def start(fake=False, **handler):
    d = Daemon(fake=fake, cni=False)
    d.ckpt = Checkpoints(d)
    if not fake:
        d.write_config({"network": {"plugin": ""}, "runtimes": {
            "default": "runc", "handlers": {"runc": d.ckpt.handler(**handler)}}})
    try:
        d.start()
        d.import_image()
    except BaseException:
        d.force()
        raise
    return d


@pytest.fixture(scope="module")
def shared():
    d = start()
    yield d
    d.close()


@pytest.fixture
def d(shared):
    shared.ckpt.mode("ok")
    yield shared
    assert shared.proc and shared.proc.poll() is None, shared.tail()
    shared.remove_all()
    shared.check_clean()
    assert shared.ckpt.left() == []
    shared.check_sanitizers()
    for name in os.listdir(shared.ckpt.out):
        os.unlink(f"{shared.ckpt.out}/{name}")


def processes(d):
    """Of a checkpoint: the script and what it started."""
    return [line for _, line in d.pids() if d.ckpt.dir in line and "berth-monitor" not in line]


def test_the_archive(d):
    pod = d.run_pod()
    os.makedirs(f"{d.tmp}/vol", exist_ok=True)
    cid = counter(d, pod, labels={"l": "1"}, annotations={"a": "b"},
                  mounts=[pb().Mount(container_path="/data", host_path=f"{d.tmp}/vol")])
    d.sh(cid, "echo new >/root/new; echo more >>/etc/passwd; rm /bin/ls /layer2; mkdir /x; ln /root/new /x/hard; "
              "rm -r /var; mkdir /var; echo v >/var/v; echo vol >/data/file; chown 5:6 /x")
    d.ckpt.make(cid)
    goes_on(d, cid)
    path = d.ckpt.path()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 and os.listdir(d.ckpt.out) == ["a.tar"]
    a = Archive(path)
    assert set(a.files) == {".", "checkpoint", "checkpoint/state.img", "checkpoint/inventory.img", "config.dump", "spec.dump",
                            "bind.mounts", "dump.log", "stats-dump", "rootfs-diff.tar", "deleted.files"}
    assert a.files["checkpoint/inventory.img"] == b"inventory\n"
    # its processes stood still, that what it has written fits its memory
    assert a.json("checkpoint/state.img")["status"] == "paused"
    assert {"root/new", "etc/passwd", "x", "x/hard", "var/v", "n"} <= set(a.diff)
    assert {a.diff["root/new"].islnk(), a.diff["x/hard"].islnk()} == {False, True}
    assert (a.diff["x"].uid, a.diff["x"].gid) == (5, 6)
    assert not {"data", "data/file", "proc", "dev", "sys", "bin/ls", "bin/busybox"} & set(a.diff)
    assert sorted(a.deleted()) == ["/bin/ls", "/layer2"]
    config = a.json("config.dump")
    assert (config["id"], config["name"], config["rootfsImage"], config["runtime"]) == (cid, "ctr", IMAGE, "runc")
    assert re.fullmatch("[0-9a-f]{64}", config["rootfsImageRef"]) and config["restored"] is False
    for key in ("createdTime", "checkpointedTime", "restoredTime"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", config[key]), config[key]
    spec = a.json("spec.dump")
    with open(f"{d.run}/containers/{cid}/bundle/config.json") as f:
        whole = json.load(f)
    assert spec["process"] == whole["process"] and spec["mounts"] == whole["mounts"]
    notes = spec["annotations"]
    assert notes["io.container.manager"] == "cri-o" and notes["io.kubernetes.pod.name"] == pod[1].metadata.name
    assert json.loads(notes["io.kubernetes.cri-o.Metadata"]) == {"name": "ctr", "attempt": 0}
    assert json.loads(notes["io.kubernetes.cri-o.Annotations"]) == {"a": "b"}
    assert json.loads(notes["io.kubernetes.cri-o.Labels"]) == {"l": "1"}
    binds = {b["destination"]: b for b in a.json("bind.mounts")}
    assert binds["/data"]["file_type"] == "directory" and binds["/etc/resolv.conf"]["file_type"] == "file"
    assert set(binds["/data"]) == {"source", "destination", "file_type", "permissions"}
    with open(f"{d.ckpt.dir}/words") as f:
        words = f.read().split()
    assert {"--leave-running", "--file-locks", "--tcp-established"} <= set(words) and words[-1] == cid
    with open(f"{d.ckpt.dir}/criu-path") as f:
        assert f.read().strip() == f"{d.ckpt.dir}/bin/criu"


def test_what_an_opaque_directory_hides_is_deleted(d):
    """One that was made anew in the place of one with more in it."""
    layer = Tar().dir("tree").dir("tree/sub").dir("tree/more")
    for name in ("tree/a", "tree/b", "tree/sub/c", "tree/more/d"):
        layer.add(name, data="x")
    d.import_image(busybox_image(more=[layer]), name="localhost/tree:1")
    cid = counter(d, image="localhost/tree:1")
    d.sh(cid, "rm -r /tree && mkdir -p /tree/sub && echo new >/tree/a")
    d.ckpt.make(cid)
    a = Archive(d.ckpt.path())
    assert sorted(a.deleted()) == ["/tree/b", "/tree/more", "/tree/sub/c"]
    assert {"tree", "tree/sub", "tree/a"} <= set(a.diff) and not [n for n in a.diff if ".wh." in n]
    assert not [s for s in d.snapshots() if "checkpoint" in s]


def test_owners_are_those_that_the_container_sees(d):
    """On the disk they are the host's."""
    if not d.rt.Status(pb().StatusRequest()).runtime_handlers[0].features.user_namespaces:
        pytest.skip("this kernel or file system maps no ids")
    m = pb()
    c = d.pod_config()
    ids = [m.IDMapping(container_id=0, host_id=100000, length=65536)]
    c.linux.security_context.namespace_options.userns_options.CopyFrom(m.UserNamespace(mode=0, uids=ids, gids=ids))
    cid = counter(d, d.run_pod(config=c))
    d.sh(cid, "echo x >/mine; echo x >/his; chown 7:8 /his; rm /layer2")
    assert os.stat(f"{rootfs(d, cid)}/his").st_uid == 100007
    d.ckpt.make(cid)
    a = Archive(d.ckpt.path())
    assert [(a.diff[n].uid, a.diff[n].gid) for n in ("mine", "his", "n")] == [(0, 0), (7, 8), (0, 0)]
    assert "bin/busybox" not in a.diff and a.deleted() == ["/layer2"]


def test_an_archive_that_is_there_is_replaced(d):
    cid = counter(d)
    with open(d.ckpt.path(), "w") as f:
        f.write("old")
    os.chmod(d.ckpt.path(), 0o644)
    d.ckpt.mode("fail")
    with fails("UNKNOWN"):
        d.ckpt.make(cid)
    assert open(d.ckpt.path()).read() == "old"
    d.ckpt.mode("ok")
    d.ckpt.make(cid)
    d.ckpt.make(cid)
    assert Archive(d.ckpt.path()).json("config.dump")["id"] == cid
    assert stat.S_IMODE(os.stat(d.ckpt.path()).st_mode) == 0o600


def test_locations(d):
    cid = counter(d)
    for location in ("", "a.tar", "./a.tar", d.ckpt.out + "/", d.ckpt.out + "/..", "/" + "x" * 5000):
        with fails("INVALID_ARGUMENT", cid, "location"):
            d.ckpt.make(cid, location)
    os.mkdir(d.ckpt.path("dir"))
    os.symlink("/dev/null", d.ckpt.path("link"))
    os.mkfifo(d.ckpt.path("fifo"))
    for location in (d.ckpt.path("none/a.tar"), d.ckpt.path("dir"), d.ckpt.path("link"), d.ckpt.path("fifo"),
                     d.ckpt.path("fifo/a.tar")):
        with fails("FAILED_PRECONDITION|INTERNAL", cid, "location"):
            d.ckpt.make(cid, location)
    os.rmdir(d.ckpt.path("dir"))
    long = d.ckpt.path("x" * 255)
    d.ckpt.make(cid, long)
    assert Archive(long).json("config.dump")["id"] == cid


def test_what_can_be_checkpointed(d):
    pod = d.run_pod()
    created = d.create(pod, "sh", "-c", "exit 3", name="c")
    with fails("FAILED_PRECONDITION", created, "not running"):
        d.ckpt.make(created)
    d.start_ctr(created)
    d.wait_exit(created)
    with fails("FAILED_PRECONDITION", created, "not running"):
        d.ckpt.make(created)
    with fails("NOT_FOUND"):
        d.ckpt.make("0" * 64)
    with fails("INVALID_ARGUMENT", "timeout"):
        d.ckpt.make(counter(d, pod, name="n"), timeout=-1)


def test_its_words_come_with_the_error(d):
    cid = counter(d)
    d.ckpt.mode("fail")
    with fails("UNKNOWN", cid, "criu failed: type NOTIFY", "criu/net.c:77): there is no such thing", "Dumping FAILED"):
        d.ckpt.make(cid)
    d.ckpt.mode("full")
    with fails("RESOURCE_EXHAUSTED", cid, "criu/image.c:5"):
        d.ckpt.make(cid)
    goes_on(d, cid)
    assert os.listdir(d.ckpt.out) == [] and d.ckpt.left() == []


def hanging(d, cid, **kw):
    d.ckpt.mode("hang")
    f = d.ckpt.later(cid, **kw)
    wait_for(d.ckpt.begun)
    return f


def given_up(d, cid):
    assert d.ckpt.left() == [] and os.listdir(d.ckpt.out) == []
    wait_for(lambda: not processes(d))
    if cid:
        goes_on(d, cid)


def test_timeout(d):
    cid = counter(d)
    with fails("DEADLINE_EXCEEDED", cid):
        hanging(d, cid, timeout=2).result()
    given_up(d, cid)


def test_its_client_leaves(d):
    cid = counter(d)
    hanging(d, cid).cancel()
    wait_for(lambda: d.ckpt.left() == [] and not processes(d))
    given_up(d, cid)
    d.ckpt.mode("ok")
    d.ckpt.make(cid)


@pytest.mark.parametrize("by", ["stop", "remove", "pod"])
def test_an_end_does_not_wait_for_it(d, by):
    pod = d.run_pod()
    cid = counter(d, pod)
    f = hanging(d, cid)
    waits = d.ckpt.later(cid, d.ckpt.path("b.tar"))
    {"stop": lambda: d.stop_ctr(cid, 0), "remove": lambda: d.remove_ctr(cid), "pod": lambda: d.remove_pod(pod)}[by]()
    for x in (f, waits):
        with fails("ABORTED", cid, "being stopped"):
            x.result()
    if by == "stop":
        assert d.status(cid).state == pb().CONTAINER_EXITED
    given_up(d, None)


def test_one_after_the_other(d):
    cid = counter(d)
    d.ckpt.mode("slow")
    first = d.ckpt.later(cid)
    wait_for(d.ckpt.begun)
    second = d.ckpt.later(cid, d.ckpt.path("b.tar"))
    update = d.rt.UpdateContainerResources.future(pb().UpdateContainerResourcesRequest(
        container_id=cid, linux=pb().LinuxContainerResources(cpu_shares=700)), timeout=60)
    assert d.status(cid).state == pb().CONTAINER_RUNNING and not first.done()
    open(f"{d.ckpt.dir}/go", "w").close()
    for f in (first, second, update):
        f.result()
    assert sorted(os.listdir(d.ckpt.out)) == ["a.tar", "b.tar"]


def test_so_many_at_once(d):
    pod = d.run_pod()
    cids = [counter(d, pod, name=f"c{i}") for i in range(5)]
    d.ckpt.mode("slow")
    under_way = [d.ckpt.later(c, d.ckpt.path(f"{i}.tar")) for i, c in enumerate(cids[:4])]
    at = f"{d.root}/checkpoints"
    wait_for(lambda: os.path.exists(at) and len(os.listdir(at)) == 4)
    with fails("RESOURCE_EXHAUSTED", cids[4], "4 checkpoints"):
        d.ckpt.make(cids[4])
    open(f"{d.ckpt.dir}/go", "w").close()
    for f in under_way:
        f.result()
    d.ckpt.make(cids[4])


def test_no_room(d):
    cid = counter(d)
    small = f"{d.ckpt.dir}/small"
    os.makedirs(small, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        d.ckpt.mode("huge")
        with fails("RESOURCE_EXHAUSTED", cid, "No space"):
            d.ckpt.make(cid, f"{small}/a.tar")
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)
    goes_on(d, cid)


def test_killed_in_the_middle():
    d = start()
    try:
        cid = counter(d)
        hanging(d, cid)
        assert len(os.listdir(f"{d.root}/checkpoints")) == 1
        d.kill9()
        d.start()
        given_up(d, cid)
        d.ckpt.mode("ok")
        d.ckpt.make(cid)
    finally:
        d.close()


def test_berthd_ends_meanwhile():
    d = start()
    try:
        cid = counter(d)
        f = hanging(d, cid)
        d.proc.send_signal(signal.SIGTERM)
        with fails("ABORTED", cid, "shutting down"):
            f.result()
        d.stop()
        assert d.ckpt.left() == [] and not processes(d)
        d.start()
        goes_on(d, cid)
    finally:
        d.close()


def points():
    names = []
    for path in glob.glob(os.path.join(daemon.REPO, "core/container/checkpoint*.c")):
        with open(path) as f:
            names += re.findall(r'berth_fault\("([a-z0-9-]+)"\)', f.read())
    return sorted(names)


@needs_faults
@pytest.mark.parametrize("point", points())
def test_killed_at(point):
    d = start()
    try:
        cid = counter(d)
        d.stop()
        d.start(env={"BERTH_FAULT": point})
        with fails("UNAVAILABLE"):
            d.ckpt.make(cid)
        d.dead()
        d.start()
        goes_on(d, cid)
        assert d.ckpt.left() == []
        wait_for(lambda: not processes(d))
        assert os.listdir(d.ckpt.out) == (["a.tar"] if point == "checkpoint-renamed" else [])
        assert not [s for s in d.snapshots() if "checkpoint" in s]
        d.ckpt.make(cid)
        assert Archive(d.ckpt.path()).json("config.dump")["id"] == cid
    finally:
        d.close()


@pytest.mark.parametrize("handler,mode,text", [({"checkpoint": False}, "ok", "'checkpoint' is false"),
                                               ({"criu": "/nowhere/criu"}, "ok", "there is no /nowhere/criu"),
                                               ({}, "none", "built without criu")])
def test_where_there_is_none(handler, mode, text):
    d = Daemon(cni=False)
    d.ckpt = Checkpoints(d)
    d.ckpt.mode(mode)
    d.write_config({"network": {"plugin": ""}, "runtimes": {"default": "runc", "handlers": {"runc": d.ckpt.handler(**handler)}}})
    try:
        d.start()
        d.import_image()
        with fails("FAILED_PRECONDITION", "runc", text):
            d.ckpt.make(counter(d))
        out = subprocess.run([f"{daemon.build_dir()}/core/berthd", "check", "--config", f"{d.tmp}/berth.yaml", "--helpers",
                              d.helpers], stdout=subprocess.PIPE, text=True, check=False).stdout
        assert ("there is no" not in text) or "criu /nowhere/criu" in out
    finally:
        d.close()


def test_an_overlay_whose_files_refer_to_those_below():
    """With metacopy a file whose owner alone was changed has no content in the upper directory."""
    d = Daemon(cni=False)
    d.ckpt = Checkpoints(d)
    d.write_config({"network": {"plugin": ""}, "runtimes": {"default": "runc", "handlers": {"runc": d.ckpt.handler()}},
                    "plugins": {"runtime-runc": {"path": daemon.built(daemon.PLUGINS["runtime-runc"])},
                                "storage-overlay": {"path": daemon.built(daemon.PLUGINS["storage-overlay"]), "metacopy": True}}})
    try:
        d.start()
        d.import_image()
        cid = counter(d)
        d.sh(cid, "chown 5:6 /etc/passwd; rm /layer2")
        d.ckpt.make(cid)
        a = Archive(d.ckpt.path())
        with tarfile.open(fileobj=a.open("rootfs-diff.tar")) as t:
            assert t.extractfile("etc/passwd").read().startswith(b"root:x:0:0:") and t.getmember("etc/passwd").uid == 5
        assert a.deleted() == ["/layer2"] and not {"bin/busybox", "etc/group"} & set(a.diff)
    finally:
        d.close()


def test_a_driver_that_describes_no_overlay():
    """What the container has is compared with its image."""
    d = start(fake=True)
    try:
        cid = d.run_ctr(d.run_pod(), "sh")
        root = rootfs(d, cid)
        os.unlink(f"{root}/layer2")
        with open(f"{root}/new", "w") as f:
            f.write("new")
        d.inject(fail_op="runtime.checkpoint", fail_status=8, fail_count=1)
        with fails("RESOURCE_EXHAUSTED", cid, "runtime.checkpoint"):
            d.ckpt.make(cid)
        assert d.ckpt.left() == []
        d.inject()
        d.ckpt.make(cid)
        a = Archive(d.ckpt.path())
        assert b"status=paused" in a.files["checkpoint/row.img"]
        assert a.deleted() == ["/layer2"] and "new" in a.diff and "bin/busybox" not in a.diff
        assert d.ckpt.left() == [] and not [s for s in d.snapshots() if "checkpoint" in s]
    finally:
        d.close()
