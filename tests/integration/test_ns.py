"""berth-ns and berth-init."""
import fcntl
import os
import signal
import subprocess
import time

import pytest

from monharness import Container, containers, needs_root, program, wait_for  # noqa: F401

pytestmark = needs_root
KINDS = ("net", "ipc", "uts")


def ns(*args, timeout=20):
    p = subprocess.run([program("berth-ns"), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       stdin=subprocess.DEVNULL, timeout=timeout, cwd="/")
    return p.returncode, p.stderr.decode()


def inside(d, script, kinds=KINDS):
    return subprocess.run(["nsenter", *[f"--{k}={d}/{k}" for k in kinds], "sh", "-c", script], check=True,
                          stdout=subprocess.PIPE, timeout=20).stdout.decode()


def mounts():
    with open("/proc/self/mountinfo") as f:
        return f.read()


@pytest.fixture
def d(tmp_path):
    yield tmp_path
    rc, err = ns("--unpin", *[tmp_path / k for k in (*KINDS, "user", "pid")])
    assert rc == 0, err
    assert str(tmp_path) not in mounts()


def pins(d, kinds=KINDS):
    return [x for k in kinds for x in ("--pin", f"{k}={d}/{k}")]


def test_pinned_namespaces_have_what_was_asked(d):
    before = {k: os.readlink(f"/proc/self/ns/{k}") for k in (*KINDS, "mnt")}
    rc, err = ns(*pins(d), "--hostname", "a-pod", "--sysctl", "net.ipv4.ip_unprivileged_port_start=0",
                 "--sysctl", "kernel.shm_rmid_forced=1", "--sysctl", "fs.mqueue.msg_max=33",
                 "--sysctl", "kernel.sem=100 32000 100 100", "--sysctl", "net/ipv4/conf/all/rp_filter=2")
    assert (rc, err) == (0, "")
    for k in KINDS:
        assert f"{k}:[{os.stat(d / k).st_ino}]" not in before.values()
    assert inside(d, "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced "
                     "/proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/conf/all/rp_filter").split() == [
        "a-pod", "0", "1", "33", "2"]
    assert inside(d, "cat /proc/sys/kernel/sem").split() == ["100", "32000", "100", "100"]
    assert "LOOPBACK,UP" in inside(d, "ip -o link")
    assert open("/proc/sys/fs/mqueue/msg_max").read() != "33\n"
    assert inside(d, "readlink /proc/self/ns/mnt").strip() == before["mnt"]
    rc, err = ns("--unpin", *[d / k for k in KINDS], d / "absent", "/no/such/dir/x")
    assert (rc, err) == (0, "")
    assert os.listdir(d) == []


def test_one_namespace_alone(d):
    assert ns(*pins(d, ("ipc",)), "--sysctl", "kernel.shmmni=77") == (0, "")
    assert inside(d, "cat /proc/sys/kernel/shmmni", ("ipc",)) == "77\n"
    assert os.listdir(d) == ["ipc"]


@pytest.mark.parametrize("args,words", [
    (["--sysctl", "net.ipv4.ip_forward=1"], "network namespace of the pod's own"),
    (["--sysctl", "kernel.panic=1"], "kernel.panic: it belongs to no namespace"),
    (["--sysctl", "kernel.shmmax"], "KEY=VALUE"),
    (["--sysctl", "kernel.shmnothing=1"], "no such sysctl"),
    (["--sysctl", "kernel.shmmni=potato"], "refuses this value"),
    (["--sysctl", "../net/x=1"], "not one of a sysctl"),
    (["--hostname", "x"], "UTS namespace"),
    (["--pin", "mnt=/x"], "KIND=/PATH"),
    (["--pin", "ipc=/x"], "given before"),
    (["--pin", "pid=/x"], "--pod-pid"),
    (["stray"], "not an option"),
])
def test_wrong_arguments_leave_nothing(d, args, words):
    rc, err = ns(*pins(d, ("ipc",)), *args)
    assert rc == 2 and words in err and err.count("\n") == 1
    assert os.listdir(d) == [] and str(d) not in mounts()


def test_a_failing_pin_undoes_the_others(d):
    (d / "uts").write_text("taken")
    rc, err = ns(*pins(d))
    assert rc == 1 and f"{d}/uts: File exists" in err
    assert os.listdir(d) == ["uts"] and str(d) not in mounts()


def test_unpin_after_a_double_mount(d):
    assert ns(*pins(d, ("uts",))) == (0, "")
    subprocess.run(["mount", "--bind", d / "uts", d / "uts"], check=True)
    assert ns("--unpin", d / "uts") == (0, "")
    assert os.listdir(d) == []


MAPS = ["--uid-map", "0:65536:1000", "--uid-map", "5000:5000:1", "--gid-map", "0:131072:65536"]


def test_a_user_namespace_owns_the_others(d):
    rc, err = ns(*pins(d, (*KINDS, "user")), *MAPS, "--hostname", "mapped", "--sysctl", "net.ipv4.ip_forward=1",
                 "--sysctl", "kernel.shm_rmid_forced=1")
    assert (rc, err) == (0, "")
    got = inside(d, "cat /proc/self/uid_map /proc/self/gid_map; hostname; cat /proc/sys/kernel/shm_rmid_forced "
                    "/proc/sys/net/ipv4/ip_forward; ip -o link", (*KINDS, "user"))
    assert got.split()[:9] == ["0", "65536", "1000", "5000", "5000", "1", "0", "131072", "65536"]
    assert got.split()[9:12] == ["mapped", "1", "1"] and "LOOPBACK,UP" in got
    for k in KINDS:
        fd = os.open(d / k, os.O_RDONLY)
        owner = fcntl.ioctl(fd, 0xb701)  # NS_GET_USERNS
        assert os.fstat(owner).st_ino == os.stat(d / "user").st_ino
        os.close(owner)
        os.close(fd)


def test_a_user_namespace_alone(d):
    assert ns(*pins(d, ("user",)), "--uid-map", "7:8:1", "--gid-map", "9:10:1") == (0, "")
    got = subprocess.run(["nsenter", "--preserve-credentials", f"--user={d}/user", "cat", "/proc/self/uid_map"],
                         check=True, stdout=subprocess.PIPE, timeout=20).stdout
    assert got.split() == [b"7", b"8", b"1"]


@pytest.mark.parametrize("args,words", [
    (["--uid-map", "0:1:1"], "--gid-map"), (["--uid-map", "0:1"], "CONTAINER:HOST:COUNT"),
    (["--uid-map", "0:1:1", "--gid-map", "a:b:c"], "CONTAINER:HOST:COUNT"),
    (["--uid-map", "0:1:1:1", "--gid-map", "0:1:1"], "CONTAINER:HOST:COUNT"),
    (["--uid-map", "0:1:10", "--uid-map", "5:70:10", "--gid-map", "0:1:1"], "overlap"),
    (["--uid-map", "0:1:1", "--gid-map", "0:1:0"], "overlap or are too many")])
def test_wrong_maps_leave_nothing(d, args, words):
    rc, err = ns(*pins(d, ("user", "ipc")), *args)
    assert rc == 2 and words in err and err.count("\n") == 1
    assert os.listdir(d) == [] and str(d) not in mounts()


def test_a_failing_pin_of_owned_namespaces_undoes_the_others(d):
    (d / "uts").write_text("taken")
    rc, err = ns(*pins(d, (*KINDS, "user")), *MAPS)
    assert rc == 1 and f"{d}/uts: File exists" in err
    assert os.listdir(d) == ["uts"] and str(d) not in mounts()


def test_init_of_a_user_namespace(d):
    assert ns(*pins(d, (*KINDS, "user")), *MAPS) == (0, "")
    pid = start_init(d, "--ns", f"user={d}/user")
    try:
        with open(f"/proc/{pid}/status") as f:
            s = dict(line.rstrip("\n").split(":\t", 1) for line in f)
        assert s["Uid"].split() == ["65536"] * 4 and s["Gid"].split() == ["131072"] * 4 and s["CapEff"] == "0" * 16
        wait_for(lambda: os.listdir(f"/proc/{pid}/fd") == [])  # what it was told to go on by is closed right after
        assert os.listdir(f"/proc/{pid}/root") == []
        fd = os.open(d / "pid", os.O_RDONLY)
        owner = fcntl.ioctl(fd, 0xb701)
        assert os.fstat(owner).st_ino == os.stat(d / "user").st_ino
        os.close(owner)
        os.close(fd)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: gone(pid))


def test_it_holds_no_mount_of_the_host(d):
    """No copy of the mount table is left alive: a tmpfs that was there before goes away at once."""
    m = d / "m"
    m.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", m], check=True)
    pid = start_init(d)
    try:
        with open(f"/proc/{pid}/mountinfo") as f:
            lines = f.readlines()
        assert len(lines) == 1 and " / / ro,nosuid,nodev,noexec" in lines[0] and "tmpfs" in lines[0]
    finally:
        subprocess.run(["umount", m], check=True)
        os.rmdir(m)
        os.kill(pid, signal.SIGTERM)
        os.unlink(d / "pidfile")


def start_init(d, *more):
    if not os.path.exists(d / "net"):
        assert ns(*pins(d)) == (0, "")
    rc, err = ns("--pod-pid", "--pin", f"pid={d}/pid", "--pid-file", d / "pidfile", "--init", program("berth-init"),
                 *[x for k in KINDS for x in ("--ns", f"{k}={d}/{k}")], *more)
    assert (rc, err) == (0, "")
    return int((d / "pidfile").read_text())


def gone(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_init_has_nothing(d):
    pid = start_init(d)
    try:
        with open(f"/proc/{pid}/status") as f:
            s = dict(line.rstrip("\n").split(":\t", 1) for line in f)
        assert s["Name"] == "berth-init" and s["NSpid"].split() == [str(pid), "1"]
        for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert s[k] == "0" * 16
        assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2" and s["Groups"].strip() == ""
        wait_for(lambda: os.listdir(f"/proc/{pid}/fd") == [])
        assert os.listdir(f"/proc/{pid}/root") == []
        assert os.listdir(f"/proc/{pid}/cwd") == []
        assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:berth-init")
        for k in KINDS:
            assert os.stat(f"/proc/{pid}/ns/{k}").st_ino == os.stat(d / k).st_ino
        assert os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(d / "pid").st_ino
        with open(f"/proc/{pid}/smaps_rollup") as f:
            pss = int(next(line for line in f if line.startswith("Pss:")).split()[1])
        assert pss < 400
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: gone(pid))


def test_init_reaps_and_heeds_only_the_host(d):
    pid = start_init(d)
    try:
        enter = ["nsenter", f"--pid={d}/pid", "sh", "-c"]
        subprocess.run(enter + ["(sleep 0.1 &) ; (true &) ; kill -TERM 1; kill -INT 1; kill -KILL 1; kill -HUP 1; sleep 0.5"],
                       check=True, timeout=20)
        assert not gone(pid)
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            assert f.read().strip() == ""
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: gone(pid))


@pytest.mark.parametrize("caps", [None, []])
def test_a_container_of_the_pod_sees_nothing_through_pid_1(d, containers, caps):
    """With SYS_PTRACE and SYS_ADMIN it may look and finds nothing; without it may not even look."""
    pid = start_init(d)
    try:
        spaces = [{"type": "mount"}, {"type": "pid", "path": str(d / "pid")}] + [
            {"type": {"net": "network"}.get(k, k), "path": str(d / k)} for k in KINDS]
        c = containers(["sh", "-c", "echo $$; head -1 /proc/1/status; ls -A /proc/1/root/ /proc/1/cwd/; "
                        "echo x >/proc/1/exe && echo WROTE; ls /proc/1/root/bin /proc/1/fd; kill -9 1; exit 5"],
                       namespaces=spaces, caps=caps)
        assert c.wait()["code"] == 5
        out = c.text().decode()
        assert "berth-init" in out and int(out.split()[0]) > 1
        words = set(out.split("berth-init", 1)[1].split())
        assert words <= {"/proc/1/root/:", "/proc/1/cwd/:", "/proc/1/fd:"}, out
        if caps is None:
            assert "/proc/1/root/:" in words
        else:
            assert words <= {"/proc/1/fd:"} and "ermission denied" in c.text("stderr").decode()
        assert not gone(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: gone(pid))


def test_init_under_a_monitor_is_adopted_like_a_container(d, containers):
    assert ns(*pins(d)) == (0, "")
    bundle_pid = d / "ipid"
    c = containers([], start=False, log=False, argv=[
        program("berth-ns"), "--pod-pid", "--pin", f"pid={d}/pid", "--pid-file", "pid", "--init", program("berth-init"),
        *[x for k in KINDS for x in ("--ns", f"{k}={d}/{k}")]])
    report = c.finish_create()
    assert os.stat(f"/proc/{report['pid']}/ns/pid").st_ino == os.stat(d / "pid").st_ino
    with open(f"/proc/{report['pid']}/stat") as f:
        assert f.read().rsplit(")", 1)[1].split()[1] == str(c.proc.pid)
    os.kill(report["pid"], signal.SIGTERM)
    rec = c.wait()
    assert rec["known"] and rec["code"] == 0
    del bundle_pid


def test_init_enters_its_cgroup(d):
    made = []
    for top in ("memory", "pids"):
        path = f"/sys/fs/cgroup/{top}/berth-test-init"
        if os.path.isdir(f"/sys/fs/cgroup/{top}"):
            os.makedirs(path, exist_ok=True)
            made.append(path)
    if not made:
        pytest.skip("no v1 cgroups")
    pid = None
    try:
        pid = start_init(d, *[x for p in made for x in ("--cgroup-procs", f"{p}/cgroup.procs")])
        for p in made:
            assert open(f"{p}/cgroup.procs").read().split() == [str(pid)]
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: gone(pid))
        time.sleep(0.05)
        for p in made:
            wait_for(lambda: rmdir(p))


def rmdir(p):
    try:
        os.rmdir(p)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def test_an_init_that_nobody_waits_for_ends(d):
    """berth-ns is killed before it could tell of it: a FIFO as pid file holds it there."""
    assert ns(*pins(d)) == (0, "")
    os.mkfifo(d / "fifo")
    p = subprocess.Popen([program("berth-ns"), "--pod-pid", "--pin", f"pid={d}/pid", "--pid-file", str(d / "fifo"),
                          "--init", program("berth-init")], cwd="/")
    wait_for(lambda: (d / "pid").exists() and str(d / "pid") in mounts())
    with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
        pid = int(f.read().split()[0])
    assert not gone(pid)
    p.kill()
    p.wait()
    wait_for(lambda: gone(pid))


def test_pod_pid_that_fails_leaves_nothing(d):
    assert ns(*pins(d)) == (0, "")
    args = ["--pod-pid", "--pin", f"pid={d}/pid", "--pid-file", d / "pf"]
    rc, err = ns(*args, "--init", "/no/such/init")
    assert rc == 1 and "/no/such/init: No such file" in err
    rc, err = ns(*args, "--init", "/bin/true", "--ns", f"net={d}/none")
    assert rc == 1 and f"{d}/none" in err
    rc, err = ns(*args, "--init", "/bin/true")
    assert rc == 1 and "berth-init: it ended without a word" in err
    rc, err = ns(*args, "--init", "/etc/passwd")
    assert rc == 1 and "exec" in err
    rc, err = ns("--pod-pid", "--pin", f"pid={d}/pid", "--init", "/bin/true")
    assert rc == 2
    (d / "pid").write_text("")
    rc, err = ns(*args, "--init", program("berth-init"))
    assert rc == 1 and "File exists" in err
    assert not (d / "pf").exists()
    os.unlink(d / "pid")
