"""Plays berthd to a berth-monitor, with a real OCI runtime on a busybox root file system."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUSYBOX = "/bin/busybox"
APPLETS = "sh echo cat true false sleep seq yes dd head tail tr stty tty kill ls ps id printf mount hostname nc".split()
LINE = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)$", re.S)


def build_dir():
    """$BERTH_BUILD, else the newest build*/ of the repository that holds a berth-monitor."""
    if os.environ.get("BERTH_BUILD"):
        return os.environ["BERTH_BUILD"]
    found = [os.path.join(REPO, d) for d in os.listdir(REPO) if d.startswith("build")]
    found = [d for d in found if os.path.exists(os.path.join(d, "core/monitor/berth-monitor"))]
    if not found:
        raise RuntimeError("no build directory with core/monitor/berth-monitor; set BERTH_BUILD")
    return max(found, key=lambda d: os.path.getmtime(os.path.join(d, "core/monitor/berth-monitor")))


def program(name):
    return os.path.join(build_dir(), "core/monitor", name)


def sanitized():
    with open(program("berth-monitor"), "rb") as f:
        return b"__asan_init" in f.read()


needs_root = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/usr/sbin/runc"),
                                reason="needs root and runc")


def wait_for(what, timeout=10.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout} s: {what}")


def make_rootfs(path):
    os.makedirs(f"{path}/bin")
    for d in ("proc", "dev", "sys", "tmp", "etc", "mnt"):
        os.makedirs(f"{path}/{d}")
    shutil.copy(BUSYBOX, f"{path}/bin/busybox")
    for a in APPLETS:
        os.link(f"{path}/bin/busybox", f"{path}/bin/{a}")


class CreateError(Exception):
    pass


class Container:
    """One container under a monitor. `argv`: another create command than the runtime's."""
    counter = 0

    def __init__(self, tmp, args, runtime="/usr/sbin/runc", tty=False, stdin=False, stdin_once=False,
                 log=True, memory=None, host_pid=False, namespaces=None, argv=None, filter=True, start=True, caps=None,
                 log_path=None):
        Container.counter += 1
        self.tmp = str(tmp)
        self.id = f"m{os.getpid()}-{Container.counter}"
        self.runtime = runtime
        self.dir = f"{self.tmp}/{self.id}"
        self.bundle = f"{self.dir}/bundle"
        self.root = f"{self.tmp}/state"
        self.log_path = log_path or f"{self.dir}/0.log"
        self.cgroup = f"/berth-test/{self.id}"
        self.proc = None
        self.init = None
        if not os.path.exists(f"{self.tmp}/rootfs"):
            make_rootfs(f"{self.tmp}/rootfs")
        os.makedirs(self.bundle)
        self.write_spec(args, tty, memory, host_pid, namespaces, caps)
        cmd = [program("berth-monitor"), "--id", self.id, "--dir", self.dir, "--cwd", self.bundle,
               "--pid-file", f"{self.bundle}/pid"]
        if log:
            cmd += ["--log", self.log_path]
        create = [runtime, "--root", self.root, "create", "--bundle", self.bundle, "--pid-file", f"{self.bundle}/pid"]
        if tty:
            cmd += ["--tty", "--console-socket", "../console"]
            create += ["--console-socket", "../console"]
        if stdin:
            cmd += ["--stdin"]
        if stdin_once:
            cmd += ["--stdin-once"]
        r, w = os.pipe()
        fds = [w]
        cmd += ["--sync-fd", str(w)]
        if filter:
            f = self.filter_fd()
            fds.append(f)
            cmd += ["--seccomp-fd", str(f)]
        self.stderr = open(f"{self.dir}/monitor.stderr", "wb+")
        self.proc = subprocess.Popen(cmd + ["--"] + (argv or create + [self.id]), pass_fds=fds, cwd="/",
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.stderr,
                                     start_new_session=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        for fd in fds:
            os.close(fd)
        self.sync = r
        if start:
            self.finish_create()
            self.oci("start")

    @staticmethod
    def filter_fd():
        code = subprocess.run([os.path.join(build_dir(), "tests/integration/mon_filter")], check=True,
                              stdout=subprocess.PIPE).stdout
        fd = os.memfd_create("filter")
        os.write(fd, code)
        return fd

    def write_spec(self, args, tty, memory, host_pid, namespaces, caps):
        ns = namespaces or [{"type": t} for t in ("pid", "ipc", "uts", "mount")]
        if host_pid:
            ns = [n for n in ns if n["type"] != "pid"]
        if caps is None:
            caps = ["CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]
        spec = {"ociVersion": "1.0.2", "hostname": "h",
                "process": {"terminal": tty, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
                            "env": ["PATH=/bin", "TERM=xterm"],
                            "capabilities": {k: caps for k in ("bounding", "effective", "permitted")}},
                "root": {"path": f"{self.tmp}/rootfs"},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                           {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                            "options": ["nosuid", "mode=755"]},
                           {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                            "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}],
                "linux": {"cgroupsPath": self.cgroup, "namespaces": ns, "resources": {}}}
        if not any(n["type"] == "uts" and "path" not in n for n in ns):
            del spec["hostname"]
        if memory:
            spec["linux"]["resources"]["memory"] = {"limit": memory}
        with open(f"{self.bundle}/config.json", "w") as f:
            json.dump(spec, f)

    def finish_create(self, timeout=20):
        data = b""
        end = time.monotonic() + timeout
        os.set_blocking(self.sync, False)
        while True:
            assert time.monotonic() < end, f"no report: not within {timeout} s:" + self.seen(self.proc.pid)
            try:
                got = os.read(self.sync, 65536)
            except BlockingIOError:
                time.sleep(0.002)
                continue
            if not got:
                break
            data += got
        os.close(self.sync)
        self.sync = None
        report = json.loads(data)
        if "error" in report:
            raise CreateError(report["error"])
        self.init = report["pid"]
        return report

    def oci(self, *words):
        p = subprocess.run([self.runtime, "--root", self.root, *words, self.id], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        assert p.returncode == 0, p.stdout
        return p.stdout

    def ask(self, words, timeout=5):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.settimeout(timeout)
        self.connect(s, "ctl")
        s.send(words.encode())
        got = s.recv(1024).decode()
        s.close()
        return got

    def connect(self, s, name):
        fd = os.open(self.dir, os.O_PATH)
        try:
            s.connect(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)

    def attach(self, timeout=10):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.settimeout(timeout)
        self.connect(s, "attach")
        return s

    def wait_for_program(self, name):
        """`start` returns before the init has become the program. What is sent meanwhile is for the runtime's own init to
        handle, and is lost where its exec ends the thread that does: one signal in some thousands on a busy machine."""
        def comm():
            with open(f"/proc/{self.init}/comm") as f:
                return f.read().strip()
        wait_for(lambda: comm() == name)

    def wait(self, timeout=20):
        """The monitor's end; the exit record."""
        try:
            code = self.proc.wait(timeout)
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"not within {timeout} s:" + self.seen(self.proc.pid) + self.seen(self.init)) from e
        self.stderr.seek(0)
        words = self.stderr.read()
        assert code == 0 and b"ERROR" not in words, (code, words)
        return self.exit_record()

    def exit_record(self):
        with open(f"{self.dir}/exit") as f:
            return json.load(f)

    def ended(self):
        return os.path.exists(f"{self.dir}/exit")

    def log_bytes(self, path=None):
        with open(path or self.log_path, "rb") as f:
            return f.read()

    def log(self, path=None):
        """[(stream, tag, message)], each line checked."""
        data = self.log_bytes(path)
        assert data == b"" or data.endswith(b"\n")
        out = []
        for line in data.split(b"\n")[:-1]:
            m = LINE.match(line)
            assert m, line[:200]
            out.append((m[1].decode(), m[2].decode(), m[3]))
        return out

    def text(self, stream="stdout", path=None):
        return b"".join(m + (b"\n" if t == "F" else b"") for s, t, m in self.log(path) if s == stream)

    @staticmethod
    def seen(pid):
        """What the kernel tells of a process and of its children, for a test that failed."""
        out = f"\n{pid}"
        for name in ("wchan", "status"):
            try:
                with open(f"/proc/{pid}/{name}") as f:
                    out += f"\n{name}: {f.read()}"
            except OSError as e:
                out += f"\n{name}: {e}"
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                return out + "".join(Container.seen(child) for child in f.read().split())
        except OSError:
            return out

    def status(self):
        with open(f"/proc/{self.proc.pid}/status") as f:
            return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)

    def destroy(self):
        if self.sync is not None:
            os.close(self.sync)
            self.sync = None
        if os.path.isdir(f"{self.root}/{self.id}"):
            subprocess.run([self.runtime, "--root", self.root, "delete", "--force", self.id],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self.proc and self.proc.poll() is None:
            try:
                self.proc.wait(5)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        self.stderr.close()


@pytest.fixture
def containers(tmp_path):
    """Makes containers and removes them and their cgroups at the end."""
    made = []

    def make(args, **kw):
        c = Container.__new__(Container)
        c.proc = c.sync = None
        made.append(c)
        Container.__init__(c, tmp_path, args, **kw)
        return c
    yield make
    for c in made:
        if c.proc:
            c.destroy()
    for top in os.listdir("/sys/fs/cgroup"):
        for c in made:
            for d in (getattr(c, "cgroup", None), "/berth-test"):
                try:
                    os.rmdir(f"/sys/fs/cgroup/{top}{d}")
                except OSError:
                    pass


def kill_quietly(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
