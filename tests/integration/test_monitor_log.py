"""berth-monitor: the CRI log."""
import os
import signal
import subprocess
import time

from monharness import containers, kill_quietly, needs_root, wait_for  # noqa: F401

pytestmark = needs_root


def test_both_streams_and_a_line_without_end(containers):
    c = containers(["sh", "-c", "echo one; echo two >&2; echo; printf three"])
    rec = c.wait()
    log = c.log()
    assert [x for x in log if x[0] == "stdout"] == [
        ("stdout", "F", b"one"), ("stdout", "F", b""), ("stdout", "P", b"three")]
    assert [x for x in log if x[0] == "stderr"] == [("stderr", "F", b"two")]
    assert rec["known"] and rec["code"] == 0 and rec["lost_lines"] == 0
    stamps = [line[:30] for line in c.log_bytes().splitlines()]
    now = time.gmtime(rec["finished_ns"] // 10**9)
    assert stamps[-1][:16].decode() in (time.strftime("%Y-%m-%dT%H:%M", now),
                                       time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - 60)))
    assert os.stat(c.log_path).st_mode & 0o777 == 0o640


def test_a_line_longer_than_the_buffer_is_split(containers):
    c = containers(["sh", "-c", "dd if=/dev/zero bs=40000 count=1 2>/dev/null | tr '\\0' x; echo; echo end"])
    c.wait()
    log = c.log()
    assert [(t, len(m)) for _, t, m in log] == [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("F", 3)]


def test_nothing_is_lost_of_a_burst(containers):
    c = containers(["sh", "-c", "seq 1 300000; seq 1 1000 >&2"])
    rec = c.wait(60)
    assert rec["code"] == 0 and rec["lost_lines"] == 0
    assert c.text() == b"".join(b"%d\n" % i for i in range(1, 300001))
    assert c.text("stderr") == b"".join(b"%d\n" % i for i in range(1, 1001))


def test_binary_output_comes_through(containers):
    c = containers(["sh", "-c", "printf '\\001\\377\\000x\\n\\r\\n'"])
    c.wait()
    assert c.text() == b"\x01\xff\x00x\n\r\n"


def test_reopen_after_a_rotation_loses_no_line(containers):
    c = containers(["sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); [ $((i%50)) -eq 0 ] && sleep 0.01; done"])
    paths = []
    for n in range(5):
        time.sleep(0.05)
        old = f"{c.log_path}.{n}"
        os.rename(c.log_path, old)
        paths.append(old)
        assert c.ask("reopen") == "ok"
        assert os.path.exists(c.log_path)
    c.wait(30)
    assert b"".join(c.text(path=p) for p in paths + [c.log_path]) == b"".join(b"%d\n" % i for i in range(3000))


def test_reopen_that_fails_says_so_and_the_old_file_goes_on(containers):
    c = containers(["sh", "-c", "echo a; cat; echo b"], stdin=True)
    wait_for(lambda: c.log_bytes())
    os.rename(c.log_path, c.log_path + ".1")
    os.mkdir(c.log_path)
    assert c.ask("reopen") == "error Is a directory"
    assert c.ask("close-stdin") == "ok"
    c.wait()
    assert c.text(path=c.log_path + ".1") == b"a\nb\n"


def test_without_a_log(containers):
    c = containers(["sh", "-c", "seq 1 100000; exit 2"], log=False)
    c_ask = c.ask("reopen") if not c.ended() else "error the container has no log"
    assert c_ask == "error the container has no log"
    assert c.wait()["code"] == 2
    assert not os.path.exists(c.log_path)


def test_a_full_disk_never_stalls_the_container(containers, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
    try:
        c = containers(["sh", "-c", "seq 1 100000; echo done >&2; exit 5"], log_path=str(small / "0.log"))
        rec = c.wait(30)
        assert rec["code"] == 5 and rec["lost_lines"] > 50000
        log = c.log()  # every line whole
        assert [int(m) for s, _, m in log if s == "stdout"] == list(range(1, len(log) + 1))
        assert 500 < len(log) < 5000
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_exit(containers):
    c = containers(["sh", "-c", "sleep 1000 & echo $!; exit 3"], host_pid=True)
    before = time.monotonic()
    rec = c.wait()
    assert rec["code"] == 3
    assert time.monotonic() - before < 3
    pid = int(c.text())
    os.kill(pid, 0)  # it did hold it
    kill_quietly(pid)


def test_a_grandchild_that_floods_does_not_hold_the_exit(containers):
    c = containers(["sh", "-c", "(sleep 0.2; exec yes) & echo $!; sleep 0.3; exit 4"], host_pid=True)
    before = time.monotonic()
    try:
        assert c.wait()["code"] == 4
        assert time.monotonic() - before < 8
    finally:
        with open(c.log_path, "rb") as f:
            first = f.read(200)
        kill_quietly(int(first.split(b"\n", 1)[0].split(b" F ", 1)[1]))


def test_a_stopped_runtime_signal_mask_is_default(containers):
    """SIGPIPE and the mask are as a program expects them."""
    c = containers(["sh", "-c", "cat /proc/self/status"])
    c.wait()
    status = dict(line.split(b":\t", 1) for line in c.text().splitlines() if b":\t" in line)
    assert int(status[b"SigIgn"], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    assert int(status[b"SigBlk"], 16) == 0
