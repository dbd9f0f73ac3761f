"""berth-monitor: attach clients, stdin, terminal, the ctl socket."""
import os
import select
import socket
import time

import pytest

from monharness import containers, needs_root, wait_for  # noqa: F401

pytestmark = needs_root


def collect(s, until=None, timeout=20):
    """{stream: bytes} up to EOF, or until the text was seen on a stream."""
    got = {2: bytearray(), 3: bytearray()}
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if not select.select([s], [], [], 1)[0]:
            continue
        try:
            p = s.recv(65536)
        except ConnectionResetError:
            break
        if not p:
            break
        assert len(p) <= 16385
        got[p[0]] += p[1:]
        if until and any(until in v for v in got.values()):
            break
    return {k: bytes(v) for k, v in got.items()}


def tail(path):
    with open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - 200000))
        return f.read()


def test_several_clients_see_the_same(containers):
    c = containers(["sh", "-c", "cat; echo out; echo err >&2"], stdin_once=True)
    clients = [c.attach() for _ in range(5)]
    time.sleep(0.1)
    clients[0].send(b"typed\n")
    clients[0].shutdown(socket.SHUT_WR)
    for s in clients:
        assert collect(s) == {2: b"typed\nout\n", 3: b"err\n"}
    assert c.wait()["code"] == 0
    assert c.text() == b"typed\nout\n"


def test_a_client_that_does_not_read_stalls_nobody(containers):
    total = 24 << 20
    c = containers(["sh", "-c", f"cat; yes 0123456789abcde | head -c {total}; echo end >&2; sleep 100"], stdin_once=True)
    lazy = c.attach()
    reader = c.attach()
    lazy.send(b"x\n")  # known to be attached before it begins
    collect(lazy, until=b"x\n")
    reader.shutdown(socket.SHUT_WR)
    before = time.monotonic()
    got = bytearray()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        p = reader.recv(65536)
        assert p, "the reader was dropped"
        if p[0] == 2:
            got += p[1:]
        if len(got) == total + 2:
            break
    took = time.monotonic() - before
    assert bytes(got) == b"x\n" + b"0123456789abcde\n" * (total // 16)
    wait_for(lambda: b"stderr F end\n" in tail(c.log_path) and os.path.getsize(c.log_path) > total, 30)
    assert c.text() == bytes(got)
    assert took < 30
    # It was cut off, not kept at our cost.
    drained = collect(lazy, timeout=5)
    assert 0 < len(drained[2]) < 2 << 20
    assert lazy.recv(10) == b""


def test_a_lazy_client_alone_does_not_delay_the_log(containers):
    c = containers(["sh", "-c", "cat; seq 1 1000000; echo end >&2"], stdin_once=True)
    lazy = c.attach()
    lazy.send(b"x\n")
    collect(lazy, until=b"x\n")
    lazy.shutdown(socket.SHUT_WR)
    before = time.monotonic()
    assert c.wait(30)["code"] == 0
    assert time.monotonic() - before < 20
    assert c.text() == b"x\n" + b"".join(b"%d\n" % i for i in range(1, 1000001))


def test_stdin_once_ends_with_the_client(containers):
    c = containers(["sh", "-c", "cat; echo over"], stdin_once=True)
    s = c.attach()
    s.send(b"line\n")
    collect(s, until=b"line\n")
    s.close()
    assert c.wait()["code"] == 0
    assert c.text() == b"line\nover\n"


def test_stdin_stays_open_for_the_next_client(containers):
    c = containers(["sh", "-c", "while read x; do echo got $x; done; echo over"], stdin=True)
    for n in range(3):
        s = c.attach()
        s.send(b"%d\n" % n)
        assert b"got %d\n" % n in collect(s, until=b"got %d\n" % n)[2]
        s.close()
    assert not c.ended()
    assert c.ask("close-stdin") == "ok"
    assert c.wait()["code"] == 0
    assert c.text() == b"got 0\ngot 1\ngot 2\nover\n"


def test_a_client_that_only_watches_does_not_take_stdin(containers):
    c = containers(["sh", "-c", "read x; echo got $x"], stdin_once=True)
    s = c.attach()
    time.sleep(0.05)
    s.close()
    time.sleep(0.1)
    assert not c.ended()
    s = c.attach()
    s.send(b"it\n")
    assert c.wait()["code"] == 0
    assert c.text() == b"got it\n"


def test_without_stdin_input_goes_nowhere(containers):
    c = containers(["sh", "-c", "cat; echo eof; sleep 0.3"])
    s = c.attach()
    for _ in range(100):
        s.send(b"y" * 1000)
    assert c.wait()["code"] == 0
    assert c.text() == b"eof\n"


def test_much_input_is_held_back_and_complete(containers):
    c = containers(["sh", "-c", "sleep 0.5; cat | head -c 3000000"], stdin_once=True)
    s = c.attach(timeout=20)
    s.setblocking(False)
    sent, blocked, got = 0, False, bytearray()
    block = bytes(range(256)) * 64
    end = time.monotonic() + 30
    done = False
    while time.monotonic() < end and not done:
        r, w, _ = select.select([s], [s] if sent < 3000000 else [], [], 1)
        if w:
            try:
                sent += s.send(block[:3000000 - sent])
                if sent >= 3000000:
                    s.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                blocked = True
        elif not r:
            blocked = True
        if r:
            p = s.recv(65536)
            done = not p
            got += p[1:]
    assert bytes(got) == (block * (3000000 // len(block) + 1))[:3000000]
    assert c.wait()["code"] == 0


def test_a_packet_that_is_too_long_ends_its_client_alone(containers):
    c = containers(["sh", "-c", "read x; echo got $x"], stdin=True)
    bad, good = c.attach(), c.attach()
    bad.send(b"z" * 40000)
    assert bad.recv(10) == b""
    good.send(b"fine\n")
    assert collect(good)[2] == b"got fine\n"
    assert c.wait()["code"] == 0


def test_more_clients_than_places(containers):
    c = containers(["sh", "-c", "read x; echo got $x"], stdin=True)
    clients = [c.attach() for _ in range(40)]
    time.sleep(0.2)
    kept = []
    for s in clients:
        s.setblocking(False)
        try:
            assert s.recv(10) == b""
        except BlockingIOError:
            kept.append(s)
    assert len(kept) == 16
    for s in kept[1:]:
        s.close()
    time.sleep(0.1)
    late = c.attach()
    late.send(b"late\n")
    assert collect(late)[2] == b"got late\n"
    assert c.wait()["code"] == 0


def test_terminal_size_and_echo(containers):
    c = containers(["sh", "-c", "tty; while read x; do stty size; echo got $x; done"], tty=True, stdin=True)
    s = c.attach()
    for w, h in ((80, 24), (200, 61)):
        assert c.ask(f"resize {w} {h}") == "ok"
        s.send(b"%d\n" % w)
        got = collect(s, until=b"got %d\r\n" % w)[2]
        assert b"%d %d\r\n" % (h, w) in got
    s.send(b"\x04")  # EOF, as one types it
    assert c.wait()["code"] == 0
    assert b"/dev/" in c.text() and b"not a tty" not in c.text()
    assert {st for st, _, _ in c.log()} == {"stdout"}


def test_terminal_that_nobody_holds_for_a_while(containers):
    c = containers(["sh", "-c", "echo a; exec 3>&- >/dev/null 2>&1 </dev/null; sleep 0.5; exec >/dev/console; echo b; exit 8"],
                   tty=True, stdin=True)
    before = os.times()
    rec = c.wait()
    assert rec["code"] == 8
    assert b"a\r\n" in c.text()
    after = os.times()
    assert after.children_user - before.children_user < 0.4  # no busy waiting


def test_ctl_refuses_nonsense(containers):
    c = containers(["sleep", "100"])
    assert c.ask("resize 80 24") == "error the container has no terminal"
    for words in ("resize", "resize 1", "resize a b", "resize 1 2 3", "resize -1 5", "resize 70000 1"):
        assert c.ask(words).startswith("error ")
    assert c.ask("frobnicate") == "error unknown request"
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(5)
    c.connect(s, "ctl")
    s.send(b"x" * 5000)
    assert s.recv(100) == b""
    many = []
    for _ in range(30):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        c.connect(s, "ctl")
        many.append(s)
    assert c.ask("close-stdin") == "ok"
    assert c.proc.poll() is None


@pytest.mark.parametrize("name", ["ctl", "attach"])
def test_the_sockets_are_roots_alone(containers, name):
    c = containers(["sleep", "100"])
    assert os.stat(f"{c.dir}/{name}").st_mode & 0o777 == 0o600
