"""berth-monitor: creating, exits, OOM, privileges, its own death."""
import json
import os
import signal
import subprocess
import time

import pytest

from monharness import CreateError, containers, kill_quietly, needs_root, program, sanitized, wait_for  # noqa: F401

pytestmark = needs_root


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_codes(containers, code):
    rec = containers(["sh", "-c", f"exit {code}"]).wait()
    assert rec["known"] is True and rec["code"] == code and "signal" not in rec and rec["oom"] is False
    assert abs(rec["finished_ns"] / 1e9 - time.time()) < 10


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_signals(containers, sig):
    c = containers(["sleep", "100"], host_pid=True)
    c.wait_for_program("sleep")
    os.kill(c.init, sig)
    rec = c.wait()
    assert rec["known"] is True and rec["signal"] == sig and "code" not in rec


def test_records_name_processes_by_start_time(containers):
    c = containers(["sleep", "100"])
    with open(f"{c.dir}/monitor.json") as f:
        rec = json.load(f)

    def start(pid):
        with open(f"/proc/{pid}/stat") as f:
            return int(f.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/sys/kernel/random/boot_id") as f:
        assert rec["boot_id"] == f.read().strip()
    assert rec["monitor_pid"] == c.proc.pid and rec["monitor_start"] == start(c.proc.pid)
    assert rec["pid"] == c.init and rec["pid_start"] == start(c.init)


def test_the_runtimes_words_on_a_failing_create(containers):
    c = containers(["/no/such/file"], start=False)
    with pytest.raises(CreateError, match="/no/such/file"):
        c.finish_create()
    assert c.proc.wait(5) == 1
    with open(f"{c.dir}/monitor.json") as f:
        assert json.load(f)["pid"] == 0
    assert not c.ended()


def test_a_talkative_failure_is_bounded_and_keeps_its_end(containers):
    c = containers([], start=False, argv=[
        "/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; printf '\\n\"quoted\\\\ \\377\\001 caf\\303\\251' >&2; exit 1"])
    with pytest.raises(CreateError) as e:
        c.finish_create()
    words = str(e.value)
    assert words.endswith('\n"quoted\\ ?\x01 caf\u00e9')
    assert 30000 < len(words) <= 65536


@pytest.mark.parametrize("script,words", [
    ("exit 3", "status 3"), ("kill -9 $$", "signal 9"), ("exit 0", "pid: No such file"),
    ("echo 1 >pid", "pid: Bad message"), ("echo x >pid", "pid: Bad message"),
    ("echo 2 >pid", "did not become a child"), ("echo 4194303 >pid", "init"),
])
def test_a_runtime_that_misbehaves(containers, script, words):
    c = containers([], start=False, argv=["/bin/sh", "-c", script])
    with pytest.raises(CreateError, match=words):
        c.finish_create()
    assert c.proc.wait(5) == 1


def test_a_missing_runtime_is_named(containers):
    c = containers([], start=False, argv=["/no/such/runtime"])
    with pytest.raises(CreateError, match="/no/such/runtime: No such file"):
        c.finish_create()


def test_a_log_that_cannot_be_opened_is_named(containers):
    c = containers(["true"], start=False, log_path="/no/such/dir/0.log")
    with pytest.raises(CreateError, match="/no/such/dir/0.log: No such file"):
        c.finish_create()


def test_a_missing_terminal_is_an_error(containers):
    c = containers([], start=False, tty=True, argv=["/bin/sh", "-c", "sleep 100 </dev/null >/dev/null 2>&1 & echo $! >pid"])
    with pytest.raises(CreateError, match="no terminal"):
        c.finish_create()
    assert c.proc.wait(5) == 1


def test_when_the_daemon_dies_during_create_nothing_goes_on(containers):
    c = containers([], start=False, argv=["/bin/sh", "-c", "sleep 1000 & echo $! >child; wait; sleep 1000"])
    child = wait_for(lambda: os.path.exists(f"{c.bundle}/child") and open(f"{c.bundle}/child").read().strip())
    os.close(c.sync)
    c.sync = None
    assert c.proc.wait(10) == 1
    wait_for(lambda: not os.path.exists(f"/proc/{child}") or "Z" in open(f"/proc/{child}/stat").read().rsplit(")", 1)[1][:3])


def test_it_outlives_who_started_it(containers):
    """The sync pipe is closed after the report; TERM to the starter's group does not reach it."""
    c = containers(["sh", "-c", "sleep 0.3; echo late; exit 6"])
    assert os.getsid(c.proc.pid) == c.proc.pid
    assert c.wait()["code"] == 6
    assert c.text() == b"late\n"


def test_a_signal_to_the_monitor_goes_to_the_container(containers):
    c = containers(["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done"])
    wait_for(lambda: b"up" in c.log_bytes())
    os.kill(c.proc.pid, signal.SIGHUP)
    os.kill(c.proc.pid, signal.SIGPIPE)
    time.sleep(0.1)
    assert c.proc.poll() is None
    os.kill(c.proc.pid, signal.SIGTERM)
    assert c.wait()["code"] == 9


def test_a_killed_monitor_leaves_no_exit(containers):
    c = containers(["sleep", "100"])
    c.proc.kill()
    c.proc.wait()
    assert not c.ended()
    kill_quietly(c.init)


def test_it_reaps_what_the_container_leaves_behind(containers):
    c = containers(["sh", "-c", "(sleep 0.1 &); (sleep 0.1 &); sleep 1"], host_pid=True)
    time.sleep(0.6)
    zombies = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if f[1] == str(c.proc.pid) and f[0] == "Z":
            zombies.append(pid)
    assert zombies == []
    assert c.wait()["code"] == 0


OOM = "dd if=/dev/zero of=/dev/null bs=96M count=1"


def test_oom_of_a_child_and_of_the_init(containers):
    c = containers(["sh", "-c", f"{OOM}; echo survived; cat"], memory=16 << 20, stdin=True)
    wait_for(lambda: os.path.exists(f"{c.dir}/oom"))
    wait_for(lambda: b"survived" in c.log_bytes())
    assert c.ask("close-stdin") == "ok"
    rec = c.wait()
    assert rec["oom"] is True and rec["code"] == 0
    c = containers(OOM.split(), memory=16 << 20)
    rec = c.wait()
    assert rec["oom"] is True and rec["signal"] == 9


def test_the_end_of_a_cgroup_is_no_oom(containers):
    """The kernel's notification comes for that, too."""
    c = containers(["sleep", "100"], memory=64 << 20)
    os.kill(c.init, signal.SIGKILL)
    rec = c.wait()
    assert rec["signal"] == 9 and rec["oom"] is False
    assert not os.path.exists(f"{c.dir}/oom")


def test_privileges_are_given_up(containers):
    c = containers(["sleep", "100"])
    s = c.status()
    assert s["CapPrm"] == s["CapEff"] == "%016x" % (1 << 5)  # KILL
    assert s["CapInh"] == s["CapAmb"] == s["CapBnd"] == "0" * 16
    assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2"
    fds = {os.readlink(f"/proc/{c.proc.pid}/fd/{n}") for n in os.listdir(f"/proc/{c.proc.pid}/fd")}
    assert not any("filter" in f for f in fds), fds
    with open(f"/proc/{c.init}/status") as f:
        init = f.read()
    assert "NoNewPrivs:\t0" in init  # none of it for the container, which did not ask


@pytest.mark.skipif(sanitized(), reason="sanitizers need memory of their own")
def test_memory(containers):
    c = containers(["sh", "-c", "seq 1 100000; sleep 100"])
    wait_for(lambda: c.log_bytes().endswith(b"F 100000\n"))
    with open(f"/proc/{c.proc.pid}/smaps_rollup") as f:
        pss = int(next(line for line in f if line.startswith("Pss:")).split()[1])
    with open(f"/proc/{c.proc.pid}/maps") as f:
        libs = {os.path.basename(line.split()[-1]).split(".so")[0] for line in f if ".so" in line}
    print("pss", pss)
    assert pss <= 600
    assert libs == {"libc", "libcap-ng", "ld-linux-x86-64"} or libs == {"libc", "libcap-ng", "ld-linux-aarch64"}


def test_crun_in_a_host_without_the_unified_hierarchy(tmp_path):
    if not os.path.exists("/usr/bin/crun"):
        pytest.skip("no crun")
    here = os.path.dirname(os.path.abspath(__file__))
    p = subprocess.run(
        ["unshare", "-m", "sh", "-c",
         "umount /sys/fs/cgroup/unified 2>/dev/null; exec /usr/bin/python3 -m pytest -q -p no:cacheprovider "
         f"{here}/test_monitor_crun.py --basetemp={tmp_path}/crun"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, env={**os.environ, "BERTH_CRUN": "1"})
    assert p.returncode == 0, p.stdout.decode()
    assert b"passed" in p.stdout
