"""berth-pull as berthd starts it: what is left to it while it works, and that it still works."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from fakeregistry import Registry
from pullharness import Image, PullError, Puller, BASE, Tar, layout, run_import, run_pull
from test_pull_registry import check, image
from test_pull_unpack import CAP

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def status_of(pid):
    return dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines()
                if ":\t" in line)


def children(pid):
    return [int(x) for x in open(f"/proc/{pid}/task/{pid}/children").read().split()]


def test_import_confined(tmp_path):
    t = Tar().add("bin/a", data="A", mode=0o4755, uid=5, pax={
        "SCHILY.xattr.security.capability": CAP.decode("utf-8", "surrogateescape")})
    t.hard("bin/b", "bin/a").add("d/.wh.gone").dir("o").add("o/.wh..wh..opq").sym("l", "/x")
    im = Image([t, Tar().add("big", data=os.urandom(5000000))])
    p = run_import(tmp_path, layout(tmp_path, im), unconfined=False)
    r = p.layer_dir(0, 0)
    assert os.getxattr(r + "/bin/a", "security.capability") == CAP
    assert os.stat(r + "/bin/a").st_uid == 5 and os.stat(r + "/bin/a").st_mode & 0o7777 == 0o4755
    assert os.path.getsize(p.layer_dir(0, 1) + "/big") == 5000000
    assert len(p.opaque) == 1


def test_pull_confined_by_name_with_auth_file_and_drop_in(tmp_path):
    im = image()
    with Registry(host="localhost") as reg:
        reg.push("a/b", "1", im)
        reg.auth = "basic"
        (tmp_path / "auth.json").write_text(json.dumps(
            {"auths": {reg.host: {"username": "u", "password": "p"}}}))
        (tmp_path / "r.conf").write_text("")
        (tmp_path / "r.conf.d").mkdir()
        (tmp_path / "r.conf.d/x.conf").write_text(
            f'[[registry]]\nprefix = "far.example"\nlocation = "{reg.host}"\n')
        check(run_pull(tmp_path, "far.example/a/b:1", unconfined=False,
                       auth_files=[str(tmp_path / "auth.json"), "/none"],
                       registries=str(tmp_path / "r.conf"),
                       certs_dirs=["/etc/docker/certs.d", "/none"]), im)


class Hanging:
    """A pull that waits for its second layer's blob, and the pids of its two processes."""

    def __init__(self, tmp_path, reg):
        im = image(n=2)
        self.ref = reg.push("a", "1", im)
        self.reached, self.go = threading.Event(), threading.Event()
        path = f"/v2/a/blobs/{im.layer_descs[1]['digest']}"

        def fault(h, got, count):
            if got == path:
                self.reached.set()
                self.go.wait(60)
            return False
        reg.fault = fault
        work = tmp_path / "hang"
        work.mkdir()
        self.p = Puller(work, unconfined=False, env={"no_proxy": "*"})
        self.error = []

        def run():
            try:
                self.p.run(dict(BASE, t="pull", image=self.ref, registries="", certs_dirs=[],
                                auth_files=[]))
            except BaseException as e:  # told to the test
                self.error.append(e)
        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.reached.wait(30)
        self.outer = self.p.proc.pid
        self.inner = children(self.outer)[0]

    def finish(self):
        self.go.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


def test_what_is_left_while_it_works(tmp_path):
    with Registry() as reg:
        h = Hanging(tmp_path, reg)
        try:
            s = status_of(h.inner)
            caps = 0
            for c in (0, 1, 3, 4, 31, 27):  # CHOWN DAC_OVERRIDE FOWNER FSETID SETFCAP MKNOD
                caps |= 1 << c
            assert int(s["CapEff"], 16) == int(s["CapPrm"], 16) == int(s["CapBnd"], 16) == caps
            assert int(s["CapInh"], 16) == int(s["CapAmb"], 16) == 0
            assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2"
            assert s["NSpid"].split()[-1] == "1"
            o = status_of(h.outer)
            assert int(o["CapEff"], 16) == int(o["CapPrm"], 16) == 0
            assert os.listdir(f"/proc/{h.outer}/fd") == []
            for ns in ("mnt", "ipc", "pid"):
                assert os.readlink(f"/proc/{h.inner}/ns/{ns}") != os.readlink(f"/proc/self/ns/{ns}")
            # the outer process copies no mount table
            assert os.readlink(f"/proc/{h.outer}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
            mounts = [x.split() for x in open(f"/proc/{h.inner}/mountinfo")]
            assert [" - tmpfs " in " ".join(m) for m in mounts if m[4] == "/"] == [True]
            for m in mounts:
                assert {"ro", "nosuid", "nodev"} <= set(m[5].split(",")), m
                assert m[4] == "/" or m[4].startswith(("/lib", "/usr/", "/etc/")), m
            top = set(os.listdir(f"/proc/{h.inner}/root"))
            assert top <= {"lib", "lib64", "usr", "etc"}
            assert not os.path.exists(f"/proc/{h.inner}/root/etc/shadow")
            assert not os.path.exists(f"/proc/{h.inner}/root/etc/ssl/private")
            with open(f"/proc/{h.inner}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            assert fields[16] == "10" and fields[38] == "3"  # nice, SCHED_BATCH
            limits = open(f"/proc/{h.inner}/limits").read()
            assert any(x.split()[:5] == ["Max", "core", "file", "size", "0"]
                       for x in limits.splitlines())
        finally:
            h.finish()
        assert not h.error
        assert h.p.records


def test_a_mount_of_the_host_is_not_pinned(tmp_path):
    d = tmp_path / "mnt"
    d.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(d)], check=True)
    with Registry() as reg:
        h = Hanging(tmp_path, reg)
        try:
            # a busy copy in another namespace would keep the super block: its device could not
            # be seen to go, but a directory under it could not be removed either
            subprocess.run(["umount", str(d)], check=True)
            os.rmdir(d)
            text = open(f"/proc/{h.inner}/mountinfo").read()
            assert str(d) not in text
        finally:
            h.finish()
        assert not h.error


def test_it_ends_with_the_process_that_berthd_knows(tmp_path):
    with Registry() as reg:
        h = Hanging(tmp_path, reg)
        os.kill(h.outer, signal.SIGKILL)
        for _ in range(100):
            if not os.path.exists(f"/proc/{h.inner}") or status_of(h.inner)["State"][0] == "Z":
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the inner process lives on")
        h.finish()


def test_it_tells_how_it_ended(tmp_path):
    with Registry() as reg:
        h = Hanging(tmp_path, reg)
        os.kill(h.inner, signal.SIGKILL)
        h.thread.join(20)
        assert h.p.proc.returncode == -signal.SIGKILL
        h.finish()
    with pytest.raises(PullError, match="neither index.json"):
        (tmp_path / "nothing").mkdir()
        run_import(tmp_path, str(tmp_path / "nothing"), unconfined=False)


def test_errors_before_confinement_are_told(tmp_path):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def as_nobody():
        os.dup2(b.fileno(), 3)
        os.setgid(65534)
        os.setuid(65534)
    from pullharness import build_dir
    exe = os.path.join(build_dir(), "core/pull/berth-pull")
    probe = subprocess.run(["test", "-x", exe], preexec_fn=lambda: os.setuid(65534))
    if probe.returncode:
        pytest.skip("the build directory is not for all")
    proc = subprocess.Popen([exe], preexec_fn=as_nobody, close_fds=False)
    b.close()
    a.send(json.dumps(dict(BASE, t="import")).encode())
    p = json.loads(a.recv(200000))
    assert p["t"] == "error" and p["code"] == 9 and "must be root" in p["msg"]
    a.close()
    proc.wait()
