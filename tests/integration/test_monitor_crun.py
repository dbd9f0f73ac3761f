"""berth-monitor with crun; run by test_monitor_exit.py in a mount namespace that crun accepts."""
import os
import signal

import pytest

from monharness import CreateError, containers, needs_root, wait_for  # noqa: F401

pytestmark = [needs_root, pytest.mark.skipif(not os.environ.get("BERTH_CRUN"), reason="run by test_monitor_exit.py")]
CRUN = "/usr/bin/crun"


def test_log_and_exit(containers):
    c = containers(["sh", "-c", "echo a; echo b >&2; exit 11"], runtime=CRUN)
    assert c.wait()["code"] == 11
    assert sorted(c.log()) == [("stderr", "F", b"b"), ("stdout", "F", b"a")]


def test_failing_create(containers):
    c = containers(["/no/such/file"], runtime=CRUN, start=False)
    with pytest.raises(CreateError, match="/no/such/file"):
        c.finish_create()


def test_terminal(containers):
    c = containers(["sh", "-c", "read x; stty size; echo got $x"], runtime=CRUN, tty=True, stdin=True)
    assert c.ask("resize 123 45") == "ok"
    s = c.attach()
    s.send(b"hello\n")
    assert c.wait()["code"] == 0
    assert b"45 123\r\n" in c.text() and b"got hello\r\n" in c.text()


def test_oom_and_kill(containers):
    c = containers("dd if=/dev/zero of=/dev/null bs=96M count=1".split(), runtime=CRUN, memory=16 << 20)
    rec = c.wait()
    assert rec["oom"] is True and rec["signal"] == signal.SIGKILL
