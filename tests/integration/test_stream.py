"""Exec, attach and port-forward through the real daemon, with clients of our own."""
import json
import os
import socket
import struct
import threading
import time

import pytest

from daemon import needs_cni, needs_daemon, pb, wait_for
from streamclient import ERROR, RESIZE, STDERR, STDIN, STDOUT, Spdy, WebSocket
from streamharness import attach_url, exec_url, forward_url, processes, server, sleeper, spdy, tunnel  # noqa: F401

pytestmark = needs_daemon

WS = ["v5.channel.k8s.io", "v5.base64.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io",
      "base64.channel.k8s.io", None]


# ---- exec ----

@pytest.mark.parametrize("flow", [False, True])
def test_exec_over_spdy(real, flow):
    _, cid = sleeper(real)
    for code in (0, 1, 42, 255):
        with spdy(exec_url(real, cid, "sh", "-c", f"cat; echo err >&2; exit {code}"), flow=flow) as c:
            c.data(c.ids[STDIN], b"some ")
            c.data(c.ids[STDIN], b"input", fin=True)
            s = c.finish()
            assert (s.out, s.err, s.code) == (b"some input", b"err\n", code)
            assert c.version == "v4.channel.k8s.io" and c.replied == set(c.ids.values())
            assert c.ended >= {c.ids[STDOUT], c.ids[STDERR], c.ids[ERROR]}


@pytest.mark.parametrize("protocol", WS)
def test_exec_over_websocket(real, protocol):
    _, cid = sleeper(real)
    with WebSocket(exec_url(real, cid, "sh", "-c", "head -n 1; echo err >&2; exit 3"), protocol) as c:
        c.send(STDIN, b"a line\n")
        s = c.finish()
        assert (s.out, s.err) == (b"a line\n", b"err\n")
        assert c.closed == 1000
        if protocol and protocol[0] == "v":
            assert s.code == 3
        else:
            assert s.get(ERROR) == b"command terminated with non-zero exit code: 3"
    with WebSocket(exec_url(real, cid, "true"), protocol) as c:
        s = c.finish()
        assert s.get(ERROR) == (b'{"metadata":{},"status":"Success"}' if protocol and protocol[0] == "v" else b"")


def test_half_close_over_websocket(real):
    _, cid = sleeper(real)
    with WebSocket(exec_url(real, cid, "sh", "-c", "cat; echo end")) as c:
        c.send(STDIN, b"x")
        c.end(STDIN)
        assert c.finish().out == b"xend\n"


@pytest.mark.parametrize("version", ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
def test_old_spdy_protocols(real, version):
    _, cid = sleeper(real)
    with spdy(exec_url(real, cid, "sh", "-c", "exit 7"), protocol=version) as c:
        assert c.version == version
        assert c.finish().get(ERROR) == b"command terminated with non-zero exit code: 7"
    with spdy(exec_url(real, cid, "true"), protocol=version) as c:
        assert c.finish().get(ERROR) == b""


def test_only_what_was_asked_for(real):
    _, cid = sleeper(real)
    with spdy(exec_url(real, cid, "sh", "-c", "cat; echo o; echo e >&2", stdin=False, stderr=False), stdin=False,
              stderr=False) as c:
        s = c.finish()
        assert (s.out, s.err, s.code) == (b"o\n", b"", 0)
    with Spdy(exec_url(real, cid, "echo", "x", stdin=False)) as c:
        no = c.open("stdin", STDIN)
        strange = c.open("resize", RESIZE)
        c.terminal(stdin=False)
        s = c.finish()
        assert (s.out, s.code) == (b"x\n", 0)
        assert c.resets == {no: 3, strange: 3}


@pytest.mark.parametrize("kind", ["spdy", "spdy-flow", "ws", "ws-base64"])
def test_much_input_and_output(real, kind):
    _, cid = sleeper(real)
    n = 8 << 20
    block = os.urandom(1 << 16)
    url = exec_url(real, cid, "cat")
    c = WebSocket(url, "v4.base64.channel.k8s.io" if "base64" in kind else "v5.channel.k8s.io") if "ws" in kind else spdy(
        url, flow="flow" in kind)
    with c:
        def send():
            for _ in range(n >> 16):
                c.send(STDIN, block) if "ws" in kind else c.data(c.ids[STDIN], block)
            if kind == "ws":
                c.end(STDIN)
            elif "spdy" in kind:
                c.data(c.ids[STDIN], b"", fin=True)
        if kind == "spdy-flow":
            # Frames of both threads would mix: windows are given by the reader.
            lock, write = threading.Lock(), c.write

            def locked(b):
                with lock:
                    write(b)
            c.write = locked
            c.threaded = True
        t = threading.Thread(target=send)
        t.start()
        end = time.monotonic() + 120
        while len(c.seen.out) < n:
            assert time.monotonic() < end and c.step(60)
        t.join()
        assert c.seen.out == block * (n >> 16)
        if kind != "ws-base64":
            assert c.finish().code == 0


@pytest.mark.parametrize("pause", [0, 1.2])
def test_a_window_is_kept(real, pause):
    _, cid = sleeper(real)
    c = Spdy(exec_url(real, cid, "sh", "-c", "yes | head -c 100000"), flow=True, window=1000)
    c.flow = False  # gives nothing more
    with c:
        c.terminal()
        c.until(lambda c: len(c.seen.out) == 1000)
        with pytest.raises((socket.timeout, AssertionError)):
            c.until(lambda c: len(c.seen.out) > 1000, 1)
        c.control_frame(9, struct.pack(">II", c.ids[STDOUT], 500))
        c.until(lambda c: len(c.seen.out) == 1500)
        time.sleep(pause)  # the command has ended long ago: the rest waits in a pipe
        c.control_frame(9, struct.pack(">II", c.ids[STDOUT], 98500))
        c.until(lambda c: sum(map(len, c.seen.data.values())) >= 65536)  # the status counts, too
        c.control_frame(9, struct.pack(">II", 0, 1 << 20))
        c.until(lambda c: len(c.seen.out) == 100000)
        assert c.finish().code == 0


def rss(d):
    with open(f"/proc/{d.proc.pid}/status") as f:
        return [int(x.split()[1]) for x in f if x.startswith("VmRSS")][0]


@pytest.mark.parametrize("kind", ["spdy", "ws"])
def test_who_does_not_read_stalls_only_itself(make_daemon, kind):
    # The address sanitizer keeps what was freed: here it may keep little.
    real = make_daemon(env={"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:quarantine_size_mb=1"})
    _, cid = sleeper(real)
    before = rss(real)
    lazy = []
    for i in range(8):
        url = exec_url(real, cid, "yes", f"lazy{i}")
        lazy.append(WebSocket(url) if kind == "ws" else spdy(url))
    time.sleep(1.5)
    for _ in range(5):
        t = time.monotonic()
        real.status(cid)
        assert time.monotonic() - t < 1
    c = WebSocket(exec_url(real, cid, "echo", "quick"))
    assert c.finish().out == b"quick\n"
    c.close()
    assert rss(real) - before < 16 << 10
    assert len(processes(real, cid, "yes lazy")) == 8
    for x in lazy[:4]:
        x.close()
    wait_for(lambda: len(processes(real, cid, "yes lazy")) == 4)
    t = time.monotonic()
    real.stop_ctr(cid)
    assert time.monotonic() - t < 5
    wait_for(lambda: not [p for p in real.pids() if " exec --" in p[1]], 30, 0.5)
    for x in lazy[4:]:
        x.close()


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("kind", ["spdy", "ws"])
def test_the_command_goes_with_its_client(real, kind, reads):
    _, cid = sleeper(real)
    script = "sleep 1001 & (sleep 1002 & sleep 1003 & wait) & echo up; " + ("cat; wait" if reads else "wait")
    url = exec_url(real, cid, "sh", "-c", script)
    c = WebSocket(url) if kind == "ws" else spdy(url)
    c.until(lambda s: b"up" in (s.out if kind == "ws" else s.seen.out))
    assert len(processes(real, cid, "sleep 100")) >= 3
    if not reads:  # its input fills every buffer on the way
        for _ in range(5):  # but for the kernel's own: what lies there hides the end from the server
            c.send(STDIN, bytes(30000)) if kind == "ws" else c.data(c.ids[STDIN], bytes(30000))
        time.sleep(0.5)
    c.close()
    wait_for(lambda: processes(real, cid, "sleep 100") == ["sleep 1000"])


def test_what_an_abandoned_command_left_behind(real):
    _, cid = sleeper(real)
    for _ in range(20):  # it ends by itself when its input does, before anybody can kill it
        with spdy(exec_url(real, cid, "sh", "-c", "sleep 1001 & echo up; read x")) as c:
            c.until(lambda s: b"up" in s.seen.out)
    wait_for(lambda: processes(real, cid, "sleep 100") == ["sleep 1000"])


def test_a_terminal(real):
    _, cid = sleeper(real)
    with spdy(exec_url(real, cid, "sh", stderr=False, tty=True), stderr=False, resize=True) as c:
        c.data(c.ids[RESIZE], b'{"Width":0,"Height":0}\n{"Width":132,"Height":43}\n{"Wid')
        time.sleep(0.5)
        c.data(c.ids[STDIN], b"/bin/busybox stty size; test -t 0 && echo t''ty\n")
        c.until(lambda c: b"43 132" in c.seen.out and b"tty\r\n" in c.seen.out)
        c.data(c.ids[RESIZE], b'th":99,"Height":33}')
        time.sleep(0.3)
        c.data(c.ids[STDIN], b"/bin/busybox stty size\n")
        c.until(lambda c: b"33 99" in c.seen.out)
        c.data(c.ids[STDIN], b"exit 5\n")
        assert c.finish().code == 5
    with WebSocket(exec_url(real, cid, "sh", stderr=False, tty=True)) as c:
        c.send(RESIZE, b'{"Width":80,"Height":25}')
        time.sleep(0.5)
        c.send(STDIN, b"/bin/busybox stty size\n")
        c.until(lambda s: b"25 80" in s.out)
        c.send(STDIN, b"exit 0\n")
        assert c.finish().code == 0


@pytest.mark.parametrize("tty", [False, True])
def test_a_command_that_is_not_there(real, tty):
    _, cid = sleeper(real)
    with WebSocket(exec_url(real, cid, "/no/such/thing", stderr=not tty, tty=tty)) as c:
        s = c.finish()
        assert s.status["status"] == "Failure" and s.code != 0
        assert b"/no/such/thing" in s.get(ERROR)


def test_a_terminal_and_what_was_left_on_it(real):
    _, cid = sleeper(real)
    with WebSocket(exec_url(real, cid, "sh", "-c", "trap '' HUP; sleep 1001 & tty; exit 5", stderr=False, tty=True)) as c:
        t = time.monotonic()
        s = c.finish()
        assert time.monotonic() - t < 4
        assert s.out.startswith(b"/dev/pts/") and s.code == 5


def test_what_the_command_left_behind(real):
    _, cid = sleeper(real)
    with WebSocket(exec_url(real, cid, "sh", "-c", "sleep 1001 & echo done")) as c:
        c.until(lambda s: s.out == b"done\n", 10)
        t = time.monotonic()
        assert c.finish().code == 0
        assert time.monotonic() - t < 3


def test_all_output_arrives_at_a_slow_reader(real):
    _, cid = sleeper(real)
    with spdy(exec_url(real, cid, "sh", "-c", "yes | head -c 3000000")) as c:
        time.sleep(3)
        s = c.finish()
        assert (len(s.out), s.code) == (3000000, 0)


def test_a_stop_ends_its_commands(real):
    _, cid = sleeper(real)
    with WebSocket(exec_url(real, cid, "sh", "-c", "echo up; sleep 1000")) as c:
        c.until(lambda s: s.out == b"up\n")
        real.stop_ctr(cid)
        assert c.finish().code == 137


# ---- attach ----

@pytest.mark.parametrize("kind", ["spdy", "ws"])
def test_attach(real, kind):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "while read x; do echo got $x; echo err >&2; [ $x = end ] && exit 4; done",
                       stdin=True)
    url = attach_url(real, cid)
    c = WebSocket(url) if kind == "ws" else spdy(url)
    say = (lambda p: c.send(STDIN, p)) if kind == "ws" else lambda p: c.data(c.ids[STDIN], p)
    seen = lambda what: (lambda s: what in (s.out if kind == "ws" else s.seen.out))  # noqa: E731
    say(b"one\n")
    c.until(seen(b"got one\n"))
    c.close()
    assert real.status(cid).state == pb().CONTAINER_RUNNING
    url = attach_url(real, cid)
    c = WebSocket(url) if kind == "ws" else spdy(url)
    other = WebSocket(attach_url(real, cid, stdin=False))
    time.sleep(0.3)
    say(b"end\n")
    for x in (c, other):
        s = x.finish()
        assert s.out == b"got end\n" and s.err == b"err\n" and s.status["status"] == "Success"
        x.close()
    assert real.wait_exit(cid).exit_code == 4
    assert [t for s, t in real.log_lines(pod) if s == "stdout"] == ["got one", "got end"]


def test_attach_and_the_end_of_input(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "cat; echo end", stdin=True, stdin_once=True)
    with spdy(attach_url(real, cid)) as c:
        c.data(c.ids[STDIN], b"x" * 300000 + b"\n", fin=True)
        s = c.finish()
        assert s.out == b"x" * 300000 + b"\nend\n" and s.status["status"] == "Success"
    assert real.wait_exit(cid).exit_code == 0


def test_attach_to_a_terminal(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", stdin=True, tty=True)
    with spdy(attach_url(real, cid, stderr=False, tty=True), stderr=False, resize=True) as c:
        for w in range(50, 120):
            c.data(c.ids[RESIZE], json.dumps({"Width": w, "Height": 40}).encode())
        c.until(lambda c: True)
        wait_for(lambda: (c.data(c.ids[STDIN], b"/bin/busybox stty size\n"), c.until(lambda c: b"40 1" in c.seen.out
                                                                                 or b"40 " in c.seen.out)), 10)
        time.sleep(0.5)
        c.data(c.ids[STDIN], b"/bin/busybox stty size\n")
        c.until(lambda c: b"40 119" in c.seen.out)
        c.data(c.ids[STDIN], b"exit\n")
        assert c.finish().status["status"] == "Success"


def test_attach_without_reading(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "read x; yes 0123456789abcde | head -c 20000000; echo end >&2; sleep 100",
                       stdin=True)
    c = spdy(attach_url(real, cid))
    c.data(c.ids[STDIN], b"go\n")
    wait_for(lambda: ("stderr", "end") in real.log_lines(pod), 60, 0.5)
    s = c.finish()  # cut off, and told
    assert s.status["status"] == "Failure" and "cut off" in s.status["message"]
    c.close()


# ---- port-forward ----

def pair(c, port, i, key=None, **kw):
    err = c.open("error", (i, "error"), fin=True, port=port, requestID=i, **kw)
    return c.open("data", (i, "data"), port=port, requestID=i), err


@needs_cni
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("make", [lambda u: Spdy(u, "portforward.k8s.io"), lambda u: Spdy(u, "portforward.k8s.io", flow=True),
                                  tunnel], ids=["spdy", "spdy-flow", "tunnel"])
def test_port_forward(real, server, make, address):  # noqa: F811
    pod = real.run_pod(host_network=False)
    server(real, pod, address, 7001)
    c = make(forward_url(real, pod))
    pairs = [pair(c, 7001, i) for i in range(20)]
    for i, (data, _) in enumerate(pairs):
        c.data(data, b"hello %d" % i)
    c.until(lambda c: all(c.seen.get((i, "data")) == b"HELLO %d" % i for i in range(20)))
    for data, _ in pairs[::2]:
        c.data(data, b"", fin=True)  # half: the answer comes after it
    c.until(lambda c: all(data in c.ended and err in c.ended for data, err in pairs[::2]))
    assert all(c.seen.get((i, "data")).endswith(b"<%d>" % len(b"hello %d" % i)) for i in range(0, 20, 2))
    assert not any(c.seen.get((i, "error")) for i in range(20))
    again, err = pair(c, 7001, "again")  # the connection goes on
    c.data(again, b"x" * 1000000, fin=True)
    c.until(lambda c: again in c.ended and err in c.ended)
    assert c.seen.get(("again", "data")) == b"X" * 1000000 + b"<1000000>"
    refused, err = pair(c, 7002, "r")
    c.until(lambda c: refused in c.ended and err in c.ended)
    text = c.seen.get(("r", "error")).decode()
    assert "port 7002" in text and pod[0] in text and "refused" in text
    c.close()


@needs_cni
def test_an_unread_port_stalls_no_other(real, server):  # noqa: F811
    pod = real.run_pod(host_network=False)
    server(real, pod, "127.0.0.1", 7001)
    c = Spdy(forward_url(real, pod), "portforward.k8s.io", flow=True)
    lazy, _ = pair(c, 7001, "lazy")
    busy, _ = pair(c, 7001, "busy")
    quiet = c.control_frame

    def stingy(kind, payload, flags=0):  # no window for one of them
        if kind != 9 or struct.unpack(">I", payload[:4])[0] != lazy:
            quiet(kind, payload, flags)
    c.control_frame = stingy
    c.data(lazy, b"z" * 60000)
    c.data(lazy, b"z" * 60000)
    for i in range(20):
        c.data(busy, b"b" * 50000)
        c.until(lambda c: len(c.seen.get(("busy", "data"))) == 50000 * (i + 1))
    assert len(c.seen.get(("lazy", "data"))) <= 65536
    quiet(9, struct.pack(">II", lazy, 1 << 20))
    c.until(lambda c: len(c.seen.get(("lazy", "data"))) == 120000)
    c.close()


@needs_cni
def test_port_forward_over_websocket(real, server):  # noqa: F811
    pod = real.run_pod(host_network=False)
    server(real, pod, "127.0.0.1", 7001)
    for protocol in ("v4.channel.k8s.io", "v4.base64.channel.k8s.io", None):
        with WebSocket(forward_url(real, pod, 7001, 7002), protocol) as c:
            c.until(lambda s: len(s.get(0)) >= 2 and len(s.get(1)) >= 2 and len(s.get(2)) >= 2 and b"refused" in s.get(3))
            assert s_head(c.seen, 0) == s_head(c.seen, 1) == 7001 and s_head(c.seen, 2) == s_head(c.seen, 3) == 7002
            c.send(0, b"abc")
            c.until(lambda s: s.get(0)[2:] == b"ABC")
    with WebSocket(forward_url(real, pod), "v4.channel.k8s.io", shake=False) as c:
        assert c.answer()[0] == 400


def s_head(seen, ch):
    return struct.unpack("<H", seen.get(ch)[:2])[0]


def test_port_forward_to_the_host(real, server):  # noqa: F811
    pod = real.run_pod()
    server(real, None, "127.0.0.1", 17001)
    c = Spdy(forward_url(real, pod), "portforward.k8s.io")
    err = c.open("error", "error", fin=True, port=17001)  # a client without ids
    data = c.open("data", "data", port=17001)
    c.data(data, b"hi", fin=True)
    c.until(lambda c: data in c.ended and err in c.ended)
    assert c.seen.get("data") == b"HI<2>"
    for headers in ({}, {"port": 0}, {"port": 65536}, {"port": "x"}, {"port": 80, "requestid": "y" * 65}):
        sid = c.open("data", **headers)
        c.until(lambda c: sid in c.resets)
    strange = c.open("stdin", port=80)
    c.until(lambda c: strange in c.resets)
    c.close()
