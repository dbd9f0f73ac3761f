"""ExecSync in real containers."""
import glob
import os
import threading
import time

import pytest

from daemon import fails, needs_daemon, pb, wait_for

pytestmark = needs_daemon
RUNTIMES = ["runc", "crun"]


@pytest.fixture
def ctr(real):
    pod = real.run_pod()
    return real.run_ctr(pod, "sleep", "10000", envs=[pb().KeyValue(key="A", value=b"1")], working_dir="/tmp")


def marked(real, mark):
    return [p for p in all_commands() if mark in p]


def all_commands():
    import glob
    out = []
    for p in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(p, "rb") as f:
                out.append(f.read().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            pass
    return out


def test_output_and_exit_code(real, ctr):
    r = real.exec(ctr, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (r.stdout, r.stderr, r.exit_code) == (b"out\n", b"err\n", 3)
    assert real.exec(ctr, "true").exit_code == 0
    assert real.exec(ctr, "sh", "-c", "kill -9 $$").exit_code == 137
    assert real.sh(ctr, "echo $A; pwd") == "1\n/tmp\n"
    assert real.exec(ctr, "cat").stdout == b"", "there is no input"
    data = bytes(range(256)) * 10
    r = real.exec(ctr, "printf", "".join(f"\\{b:03o}" for b in data[:256]))
    assert r.stdout == data[:256]


def test_a_command_that_cannot_be_run(real, ctr):
    before = len(real.pids())
    with fails("NOT_FOUND", ctr, "/no/such/command"):
        real.exec(ctr, "/no/such/command")
    with fails("NOT_FOUND", ctr, "nosuchcommand"):
        real.exec(ctr, "nosuchcommand")
    with fails("PERMISSION_DENIED", ctr, "/etc/passwd"):
        real.exec(ctr, "/etc/passwd")
    wait_for(lambda: os.listdir(f"{real.run}/execs") == [])
    assert len(real.pids()) == before


def test_a_timeout_kills_all_descendants(real, ctr):
    t = time.monotonic()
    with fails("DEADLINE_EXCEEDED", ctr):
        real.exec(ctr, "sh", "-c", "(sleep 54321 &) ; (setsid sh -c '(sleep 54321 &)' &); setsid sleep 54321 & "
                  "sleep 54321", timeout=1)
    assert time.monotonic() - t < 6
    wait_for(lambda: not marked(real, "sleep 54321"))
    assert real.status(ctr).state == pb().CONTAINER_RUNNING
    assert real.exec(ctr, "true").exit_code == 0


def test_a_timeout_may_be_any_number_of_seconds(real, ctr):
    """A probe's timeoutSeconds is an int32."""
    for timeout in (7 * 24 * 3600, 7 * 24 * 3600 + 1, 2 ** 31 - 1, 2 ** 63 - 1):
        assert real.exec(ctr, "echo", "x", timeout=timeout).stdout == b"x\n"


def test_a_deadline_of_the_call_kills_too(real, ctr):
    with fails("DEADLINE_EXCEEDED"):
        real.exec(ctr, "sh", "-c", "sleep 54322; true", rpc_timeout=1)
    wait_for(lambda: not marked(real, "sleep 54322"))


def test_output_is_capped(real, ctr):
    r = real.exec(ctr, "head", "-c", str(20 << 20), "/dev/zero")
    assert r.exit_code == 0
    assert (15 << 20) < len(r.stdout) <= (16 << 20)


def test_a_process_in_the_background_does_not_hold_the_answer(real, ctr):
    for script in ("sleep 54325 & echo done", "sleep 54325 >/dev/null 2>&1 & echo done",
                   "(setsid sleep 54325 &); echo done"):
        t = time.monotonic()
        r = real.exec(ctr, "sh", "-c", script)
        assert (r.stdout, r.exit_code) == (b"done\n", 0)
        assert time.monotonic() - t < 2
    assert len(marked(real, "sleep 54325")) >= 3, "what a command leaves behind goes on"
    with fails("DEADLINE_EXCEEDED"):
        real.exec(ctr, "sleep", "54326", timeout=1)
    assert not marked(real, "sleep 54326")
    assert len(marked(real, "sleep 54325")) >= 3, "another command's end is none of its business"


def test_output_that_comes_with_the_end(real, ctr):
    for _ in range(5):
        # it prints once the command has ended, however long that took
        r = real.exec(ctr, "sh", "-c", "me=$$; (while kill -0 $me 2>/dev/null; do sleep 0.01; done; echo late) & "
                                       "exec head -c 300000 /dev/zero")
        assert len(r.stdout) == 300005 and r.stdout.endswith(b"late\n")
    t = time.monotonic()
    r = real.exec(ctr, "sh", "-c", "while :; do echo x; sleep 0.01; done & sleep 0.1")
    assert time.monotonic() - t < 4, "not for ever"
    assert r.stdout.startswith(b"x\n") and r.exit_code == 0


def test_nothing_is_kept_of_an_exec(real, ctr):
    def kept():
        return sorted(p for d in ("execs", "plugins") for p in glob.glob(f"{real.run}/{d}/**", recursive=True))
    before = kept()
    for _ in range(3):
        real.exec(ctr, "true")
        with fails("NOT_FOUND"):
            real.exec(ctr, "/none")
    wait_for(lambda: [p for p in kept() if "/execs" not in p] == [p for p in before if "/execs" not in p])
    wait_for(lambda: os.listdir(f"{real.run}/execs") == [])


def test_killed_in_the_middle(make_daemon):
    """A new berthd ends what nobody waits for any more, and nothing else."""
    d = make_daemon()
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "10000")
    d.exec(cid, "sh", "-c", "sleep 54327 >/dev/null 2>&1 &")
    f = d.rt.ExecSync.future(pb().ExecSyncRequest(
        container_id=cid, cmd=["sh", "-c", "(setsid sleep 54328 &); sleep 54328"]), timeout=60)
    wait_for(lambda: len(marked(d, "sleep 54328")) >= 2)
    starting = [d.rt.ExecSync.future(pb().ExecSyncRequest(container_id=cid, cmd=["sleep", "54329"]), timeout=60)
                for _ in range(4)]
    time.sleep(0.02)
    d.kill9()
    f.cancel()
    for s in starting:
        s.cancel()
    d.start()
    wait_for(lambda: not marked(d, "sleep 54328") and not marked(d, "sleep 54329"))
    assert marked(d, "sleep 54327")
    wait_for(lambda: os.listdir(f"{d.run}/execs") == [])
    assert d.exec(cid, "echo", "x").stdout == b"x\n"
    d.stop_ctr(cid)
    d.remove_ctr(cid)
    assert not marked(d, "sleep 54327")


def test_many_at_once(real, ctr):
    out = {}

    def work(i):
        out[i] = real.exec(ctr, "echo", str(i)).stdout
    threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert out == {i: f"{i}\n".encode() for i in range(20)}


def test_the_container_ends_meanwhile(real, ctr):
    f = real.rt.ExecSync.future(pb().ExecSyncRequest(container_id=ctr, cmd=["sleep", "1000"]), timeout=60)
    time.sleep(0.7)
    real.stop_ctr(ctr)
    assert f.result().exit_code == 137
    with fails("FAILED_PRECONDITION", ctr):
        real.exec(ctr, "true")


def test_in_a_shared_pid_namespace(real):
    pod = real.run_pod(pid=0)
    cid = real.run_ctr(pod, "sleep", "1000")
    with fails("DEADLINE_EXCEEDED"):
        real.exec(cid, "sh", "-c", "(sleep 54323 &); (setsid sleep 54323 &); sleep 54323", timeout=1)
    wait_for(lambda: not marked(real, "sleep 54323"))
    assert real.exec(cid, "true").exit_code == 0


def test_on_the_nodes_pid_namespace(real):
    pod = real.run_pod(pid=2)
    cid = real.run_ctr(pod, "sleep", "1000")
    with fails("DEADLINE_EXCEEDED"):
        real.exec(cid, "sh", "-c", "(sleep 54324 &); (setsid sleep 54324 &); sleep 54324", timeout=1)
    wait_for(lambda: not marked(real, "sleep 54324"))
