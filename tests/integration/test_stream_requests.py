"""What the streaming server refuses and what it outlives: requests and frames that are wrong, clients that break off."""
import concurrent.futures
import socket
import struct
import time

import grpc
import pytest

from daemon import fails, needs_daemon, pb, wait_for
from streamclient import STDIN, STDOUT, Http, Spdy, WebSocket, gone
from streamharness import attach_url, exec_url, fds, forward_url, processes, sleeper, spdy

pytestmark = needs_daemon


# ---- requests ----

def test_what_is_refused(real):
    pod, cid = sleeper(real)
    with fails("NOT_FOUND", "nope"):
        exec_url(real, "nope", "true")
    with fails("NOT_FOUND", "nope"):
        attach_url(real, "nope")
    with fails("NOT_FOUND", "nope"):
        forward_url(real, ("nope",), 80)
    with fails("INVALID_ARGUMENT", cid, "one of"):
        exec_url(real, cid, "true", stdin=False, stdout=False, stderr=False)
    with fails("INVALID_ARGUMENT", cid, "tty"):
        exec_url(real, cid, "true", tty=True)
    with fails("INVALID_ARGUMENT", cid, "cmd"):
        exec_url(real, cid)
    with fails("INVALID_ARGUMENT", cid, "terminal"):
        attach_url(real, cid, stderr=False, tty=True)
    for port in (0, -1, 65536):
        with fails("INVALID_ARGUMENT", pod[0], str(port)):
            forward_url(real, pod, port)
    urls = [exec_url(real, cid, "true"), attach_url(real, cid), forward_url(real, pod, 80)]
    real.stop_pod(pod)
    with fails("FAILED_PRECONDITION", cid):
        exec_url(real, cid, "true")
    with fails("FAILED_PRECONDITION", cid):
        attach_url(real, cid)
    with fails("FAILED_PRECONDITION", pod[0]):
        forward_url(real, pod, 80)
    for url in urls[:2]:  # it ended between the request and its client
        with WebSocket(url) as c:
            assert "not running" in c.finish().code
    with WebSocket(urls[2], "v4.channel.k8s.io") as c:
        assert b"not ready" in c.finish().get(1)


def test_tokens(real):
    _, cid = sleeper(real)
    url = exec_url(real, cid, "echo", "once")
    assert len(url.rsplit("/", 1)[1]) == 32
    with Http(url, headers=[("Host", "x")]) as c:
        assert c.answer()[0] == 400  # asks for no upgrade: the token stays good
    with WebSocket(url) as c:
        assert c.finish().out == b"once\n"
    base, token = url.rsplit("/", 1)
    for u in (url, url + "0", base + "/" + "0" * 32, url.replace("/exec/", "/attach/")):
        with WebSocket(u, shake=False) as c:
            assert c.answer()[0] == 404
    wrong = exec_url(real, cid, "true").replace("/exec/", "/attach/")
    with WebSocket(wrong, shake=False) as c:
        assert c.answer()[0] == 404


def test_too_many_tokens(make_daemon):
    d = make_daemon()
    pod, cid = sleeper(d)
    urls = []
    with pytest.raises(grpc.RpcError) as e:
        for _ in range(1001):
            urls.append(exec_url(d, cid, "true"))
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and len(urls) == 1000
    with WebSocket(urls[0]) as c:
        assert c.finish().code == 0
    exec_url(d, cid, "true")


@pytest.mark.parametrize("raw,status", [
    (b"GET /exec/x HTTP/1.0\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00", 400), (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404), (b"GET /exec/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"GET /exec/x HTTP/1.1\r\nHost: x\r\n\r\n", 400), (b"DELETE /exec/x HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"GET /exec/x HTTP/1.1\r\nA: " + b"x" * 20000, 431),
    (b"GET /exec/x HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n", 400),
    (b"POST /exec/x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n\r\n", 403),
    (b"POST /exec/x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", 404)])
def test_requests_that_are_wrong(real, raw, status):
    _, cid = sleeper(real)
    url = exec_url(real, cid, "true")
    with Http(url, raw=raw) as c:
        got, headers, body = c.answer()
        assert got == status and body.strip() and headers["connection"] == "close"
        assert gone(c.s)


def test_who_says_nothing_is_cut_off(real):
    _, cid = sleeper(real)
    with Http(exec_url(real, cid, "true"), raw=b"GET /ex") as c:
        t = time.monotonic()
        assert gone(c.s, 15)
        assert 8 < time.monotonic() - t < 14


# ---- protocol errors ----

def test_websocket_rules(real):
    _, cid = sleeper(real)
    with WebSocket(exec_url(real, cid, "cat")) as c:
        c.frame(9, b"are you there")
        c.until(lambda s: c.control)
        assert c.control == [(10, b"are you there")]
        c.frame(2, b"\x00ab", fin=False)  # one message in three frames, with a ping between
        c.frame(0, b"cd", fin=False)
        c.frame(9, b"")
        c.frame(0, b"ef")
        c.until(lambda s: s.out == b"abcdef")
        c.send(7, b"a channel that is none")
        c.frame(2, b"")
        c.send(STDIN, b"!")
        c.until(lambda s: s.out == b"abcdef!")
        c.frame(8, struct.pack(">H", 1000))
        c.finish()
        assert c.closed == 1000
    wait_for(lambda: not processes(real, cid, "cat"))
    for bad in (lambda c: c.frame(2, b"\x00x", mask=False), lambda c: c.frame(3, b""), lambda c: c.frame(0, b"x"),
                lambda c: c.frame(9, b"", fin=False), lambda c: c.s.sendall(b"\xf2\x80\0\0\0\0")):
        with WebSocket(exec_url(real, cid, "cat")) as c:
            bad(c)
            assert gone(c.s)
    with WebSocket(exec_url(real, cid, "cat"), "v4.base64.channel.k8s.io") as c:
        c.frame(1, b"0Y")
        c.frame(1, b"0!!!!")
        assert gone(c.s)
    wait_for(lambda: not processes(real, cid, "cat"))


def test_spdy_rules(real):
    _, cid = sleeper(real)
    with spdy(exec_url(real, cid, "cat")) as c:
        c.control_frame(6, struct.pack(">I", 7))
        c.control_frame(6, struct.pack(">I", 8))
        c.control_frame(99, b"whatever")
        c.data(77, b"of no stream")
        c.data(c.ids[STDIN], b"x")
        c.until(lambda c: c.seen.out == b"x" and c.pings)
        assert c.pings == [7]
        late = c.open("stdin", STDIN)
        c.until(lambda c: late in c.resets)
        c.reset(c.ids[STDOUT])
        c.data(c.ids[STDIN], b"y" * 100000, fin=True)
        assert c.finish().code == 0  # what nobody wants is thrown away
    for bad in (lambda c: c.write(b"\x80\x02\0\1\0\0\0\0"), lambda c: c.control_frame(1, b"short"),
                lambda c: c.control_frame(1, bytes(4) + b"\1" + bytes(5)), lambda c: c.open("stdin") and c.__setattr__("next", 1) or c.open("x"),
                lambda c: c.control_frame(9, struct.pack(">II", 0, 0)), lambda c: c.control_frame(8, bytes(16385)),
                lambda c: c.control_frame(1, struct.pack(">IIH", 1, 0, 0) + b"no zlib")):
        with Spdy(exec_url(real, cid, "cat")) as c:
            bad(c)
            assert gone(c.s)
    assert not processes(real, cid, "cat")


def test_clients_that_break_off_leave_nothing(real):
    pod, cid = sleeper(real)
    WebSocket(exec_url(real, cid, "true")).finish()
    time.sleep(0.5)
    before = fds(real)

    def one(i):
        url = exec_url(real, cid, "cat") if i % 3 else forward_url(real, pod, 1)
        if i % 4 == 0:
            c = Http(url, raw=b"GET /exec/")
        elif i % 3 == 0:
            c = Spdy(url, "portforward.k8s.io")
            c.open("error", port=1, requestid=0)
            if i % 2:
                c.open("data", port=1, requestid=0)
        elif i % 2:
            c = spdy(url)
            c.data(c.ids[STDIN], b"x")
        else:
            c = WebSocket(url)
            c.s.sendall(b"\x82\xfe\x10")  # in the middle of a frame
        if i % 5 == 0:
            c.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(200)))
    wait_for(lambda: not processes(real, cid, "cat"), 60, 0.5)
    wait_for(lambda: fds(real) <= before + 2, 20, 0.2)


def test_a_shutdown_in_the_middle(make_daemon):
    d = make_daemon()
    pod, cid = sleeper(d)
    clients = [WebSocket(exec_url(d, cid, "cat")), spdy(exec_url(d, cid, "yes")), spdy(attach_url(d, cid)),
               Spdy(forward_url(d, pod), "portforward.k8s.io"), Http(exec_url(d, cid, "true"), raw=b"GET ")]
    clients[0].send(STDIN, b"x")
    clients[0].until(lambda s: s.out == b"x")
    exec_url(d, cid, "true")
    d.restart()  # fails where a sanitizer has something to say
    for c in clients:
        assert gone(c.s)
        c.close()
    wait_for(lambda: processes(d, cid, "") and not processes(d, cid, "yes") and not processes(d, cid, "cat"))
    assert d.status(cid).state == pb().CONTAINER_RUNNING
