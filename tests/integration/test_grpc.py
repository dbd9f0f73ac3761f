"""The gRPC server against grpc-core: python3-grpcio as the client."""
import os
import random
import signal
import socket
import subprocess
import threading
import time

import grpc
import pytest

BUILD = os.environ.get("BERTH_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))


def message(text):
    """VersionRequest{version: text}, which is VersionResponse{version: text}, too."""
    data = text.encode()
    if not data:
        return b""
    n, size = len(data), b""
    while n > 127:
        size += bytes([n & 127 | 128])
        n >>= 7
    return b"\x0a" + size + bytes([n]) + data


class Server:
    def __init__(self, path):
        self.path = path
        self.process = subprocess.Popen([os.path.join(BUILD, "tests/integration/grpc_echo"), path],
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def channel(self, **options):
        settings = {"grpc.max_receive_message_length": 64 << 20,
                    "grpc.max_send_message_length": 64 << 20,
                    "grpc.use_local_subchannel_pool": 1, **options}
        return grpc.insecure_channel("unix://" + self.path, options=list(settings.items()))


@pytest.fixture
def server(tmp_path):
    s = Server(str(tmp_path / "s"))
    yield s
    s.process.terminate()
    assert s.process.wait(20) == 0


def unary(channel, name="Echo"):
    return channel.unary_unary("/berth.test.Test/" + name)


def test_unary(server):
    with server.channel() as c:
        echo = unary(c)
        for text in ("", "a", "h\u00e9llo \U0001f433", "x" * 100_000, "y" * 15_000_000):
            assert echo(message(text)) == message(text)
        futures = [echo.future(message(str(i) * 50_000)) for i in range(100)]
        for i, f in enumerate(futures):
            assert f.result() == message(str(i) * 50_000)


def test_gzip_requests(server):
    with server.channel() as c:
        text = "compressible " * 100_000
        assert unary(c)(message(text), compression=grpc.Compression.Gzip) == message(text)
        with pytest.raises(grpc.RpcError) as e:
            unary(c)(message(text), compression=grpc.Compression.Deflate)
        assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as e:
            unary(c)(message("0" * (20 << 20)), compression=grpc.Compression.Gzip)
        assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_status(server):
    with server.channel() as c:
        for text in ("pod 'x' is not there", "100%", "new\nline \u00e9\U0001f433", "e" * 4000):
            with pytest.raises(grpc.RpcError) as e:
                unary(c, "Fail")(message(text))
            assert (e.value.code(), e.value.details()) == (grpc.StatusCode.NOT_FOUND, text)
        for path in ("/berth.test.Test/Nope", "/berth.test.Nope/Echo", "/x"):
            with pytest.raises(grpc.RpcError) as e:
                c.unary_unary(path)(b"")
            assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as e:
            unary(c)(b"\x0a\xff")
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_limits(server):
    with server.channel() as c:
        with pytest.raises(grpc.RpcError) as e:
            unary(c)(message("x" * (16 << 20)))
        assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than the limit of 16777216" in e.value.details()
        assert unary(c)(message("x")) == message("x")


def test_deadline_and_cancel(server):
    with server.channel() as c:
        start = time.monotonic()
        with pytest.raises(grpc.RpcError) as e:
            unary(c, "Hang")(b"", timeout=0.2)
        assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - start < 2
        assert server.process.stdout.readline() == "cancelled\n"
        f = unary(c, "Hang").future(b"")
        time.sleep(0.1)
        f.cancel()
        assert server.process.stdout.readline() == "cancelled\n"


def test_stream(server):
    with server.channel() as c:
        stream = c.unary_stream("/berth.test.Test/Stream")
        got = list(stream(message("5000")))
        assert got == [message(str(i)) for i in range(5000)]
        assert list(stream(message("0"))) == []
        call = stream(message("100000000"))
        assert next(call) == message("0")
        time.sleep(0.2)  # nobody reads: the server must wait, not collect
        call.cancel()
        assert server.process.stdout.readline() == "cancelled\n"
    with open(f"/proc/{server.process.pid}/statm") as f:
        assert int(f.read().split()[1]) * 4096 < 64 << 20


def test_keepalive(server):
    with server.channel(**{"grpc.keepalive_time_ms": 100, "grpc.keepalive_timeout_ms": 1000,
                           "grpc.keepalive_permit_without_calls": 1,
                           "grpc.http2.max_pings_without_data": 0}) as c:
        assert unary(c)(message("x")) == message("x")
        time.sleep(1.5)
        f = unary(c, "Hang").future(b"", timeout=1.5)
        assert f.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_drain(server):
    with server.channel() as c:
        f = unary(c, "Hang").future(b"", timeout=1)
        assert unary(c)(message("x")) == message("x")
        done = []
        t = threading.Thread(target=lambda: done.append(f.exception().code()))
        t.start()
        server.process.send_signal(signal.SIGTERM)
        t.join()
        assert done == [grpc.StatusCode.DEADLINE_EXCEEDED]
        with pytest.raises(grpc.RpcError) as e:
            unary(c)(message("x"), timeout=2)
        assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.process.wait(10) == 0


def test_everything_at_once(server):
    """Calls of all kinds, given up at any moment, beside clients that talk nonsense: nobody else notices."""
    end, bad = time.monotonic() + 8, []

    def talk_nonsense(r):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(server.path)
            s.setblocking(False)
            s.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + r.randbytes(r.randrange(300)))

    def call(r, c):
        kind = r.randrange(6)
        if kind == 0:
            return unary(c, "Hang").future(b"", timeout=r.random() / 20)
        if kind == 1:
            f = unary(c, "Hang").future(b"")
            f.cancel()
            return f
        if kind == 2:
            s = c.unary_stream("/berth.test.Test/Stream")(message(str(r.randrange(10 ** r.randrange(1, 6)))))
            for i, m in enumerate(s):
                assert m == message(str(i))
                if i > 500:
                    break
            s.cancel()
            return None
        return unary(c).future(message("x" * r.choice([0, 1, 100, 5000, 200_000])))

    def work(seed):
        r = random.Random(seed)
        while time.monotonic() < end:
            if r.random() < 0.2:
                talk_nonsense(r)
                continue
            with server.channel() as c:
                futures = [call(r, c) for _ in range(r.randrange(1, 40))]
                if r.random() < 0.3:
                    continue  # the connection goes, with all of them
                for f in filter(None, futures):
                    try:
                        f.result()
                    except grpc.FutureCancelledError:
                        pass
                    except grpc.RpcError as e:
                        if e.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                            bad.append((e.code(), e.details()))

    drain = threading.Thread(target=server.process.stdout.read)
    drain.start()  # "cancelled", many times
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad
    server.process.terminate()
    drain.join()
