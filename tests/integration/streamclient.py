"""Clients of the streaming server, of our own: WebSocket, and SPDY/3.1 with and without flow control."""
import base64
import hashlib
import json
import os
import re
import select
import socket
import struct
import time
import urllib.parse
import zlib

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)


def dictionary():
    """The dictionary of header blocks, out of the source."""
    path = os.path.join(os.path.dirname(__file__), "../../core/stream/spdy_dict.c")
    with open(path) as f:
        body = f.read().split("{", 1)[1]
    d = bytes(int(x, 16) for x in re.findall(r"0x([0-9a-f]{2})", body))
    assert len(d) == 1423 and zlib.adler32(d) == 0xe3c6a7c2
    return d


class Http:
    """A connection and the head of its request."""
    tls = None  # the SSLContext for https

    def __init__(self, url, method="GET", headers=(), raw=None, timeout=20):
        u = urllib.parse.urlsplit(url)
        self.s = socket.create_connection((u.hostname, u.port), timeout=timeout)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if u.scheme == "https":
            self.s = Http.tls.wrap_socket(self.s, server_hostname=u.hostname)
        self.buf = b""
        head = raw if raw is not None else (f"{method} {u.path} HTTP/1.1\r\nHost: {u.netloc}\r\n" + "".join(
            f"{k}: {v}\r\n" for k, v in headers) + "\r\n").encode()
        self.s.sendall(head)

    def answer(self):
        """(status, {header: value}, body) of what came."""
        while b"\r\n\r\n" not in self.buf:
            p = self.s.recv(65536)
            if not p:
                return 0, {}, b""
            self.buf += p
        head, self.buf = self.buf.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        headers = {}
        for line in lines[1:]:
            k, v = line.split(":", 1)
            headers[k.lower()] = v.strip()
        n = int(headers.get("content-length", 0))
        while len(self.buf) < n:
            self.buf += self.s.recv(65536)
        body, self.buf = self.buf[:n], self.buf[n:]
        return int(lines[0].split()[1]), headers, body

    def close(self):
        self.s.close()

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.close()

    def _more(self, timeout):
        """False at the end of the connection."""
        self.s.settimeout(timeout)
        try:
            p = self.s.recv(65536)
        except ConnectionResetError:
            return False
        self.buf += p
        return bool(p)


class Status:
    """What arrived on the channels of an exec or attach."""

    def __init__(self):
        self.data = {}

    def add(self, ch, p):
        self.data.setdefault(ch, bytearray()).extend(p)

    def get(self, ch):
        return bytes(self.data.get(ch, b""))

    out = property(lambda self: self.get(STDOUT))
    err = property(lambda self: self.get(STDERR))
    status = property(lambda self: json.loads(self.get(ERROR)))

    @property
    def code(self):
        s = self.status
        if s["status"] == "Success":
            return 0
        causes = {c.get("reason"): c["message"] for c in s["details"]["causes"]}
        return int(causes["ExitCode"]) if s["reason"] == "NonZeroExitCode" else s["message"]


class WebSocket(Http):
    def __init__(self, url, protocol="v5.channel.k8s.io", shake=True):
        key = base64.b64encode(os.urandom(16)).decode()
        headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
                   ("Sec-WebSocket-Key", key)]
        if protocol:
            headers.append(("Sec-WebSocket-Protocol", protocol))
        super().__init__(url, headers=headers)
        self.base64 = bool(protocol) and "base64" in protocol
        self.seen = Status()
        self.closed = None
        self.control = []
        if shake:
            status, h, body = self.answer()
            assert status == 101, (status, body)
            want = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
            assert h["sec-websocket-accept"] == want.decode()
            assert h.get("sec-websocket-protocol") == protocol

    def frame(self, opcode, payload, fin=True, mask=True):
        n = len(payload)
        head = bytes([(0x80 if fin else 0) | opcode])
        bit = 0x80 if mask else 0
        if n < 126:
            head += bytes([bit | n])
        elif n < 65536:
            head += bytes([bit | 126]) + struct.pack(">H", n)
        else:
            head += bytes([bit | 127]) + struct.pack(">Q", n)
        if mask:
            key = os.urandom(4)
            pad = (key * (n // 4 + 1))[:n]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(n, "big") if n else b""
            head += key
        self.s.settimeout(60)
        self.s.sendall(head + payload)

    def send(self, ch, data):
        if self.base64:
            self.frame(1, str(ch).encode() + base64.b64encode(data))
        else:
            self.frame(2, bytes([ch]) + data)

    def end(self, ch):
        self.frame(2, bytes([255, ch]))

    def message(self, timeout=20):
        """(opcode, payload), None at the end of the connection."""
        def need(n):
            while len(self.buf) < n:
                if not self._more(timeout):
                    return False
            return True
        if not need(2):
            return None
        fin, op, n, at = self.buf[0] & 0x80, self.buf[0] & 15, self.buf[1], 2
        assert fin and not n & 0x80, "a server neither fragments nor masks here"
        if n == 126:
            need(4)
            n, at = struct.unpack(">H", self.buf[2:4])[0], 4
        elif n == 127:
            need(10)
            n, at = struct.unpack(">Q", self.buf[2:10])[0], 10
        if not need(at + n):
            return None
        p, self.buf = self.buf[at:at + n], self.buf[at + n:]
        return op, p

    def step(self, timeout=20):
        m = self.message(timeout)
        if m is None:
            return False
        op, p = m
        if op == 8:
            self.closed = struct.unpack(">H", p[:2])[0] if p else 0
            return False
        if op >= 8:
            self.control.append((op, p))
        elif op == 1:
            assert self.base64
            self.seen.add(p[0] - ord("0"), base64.b64decode(p[1:], validate=True))
        else:
            assert not self.base64
            self.seen.add(p[0], p[1:])
        return True

    def until(self, done, timeout=20):
        end = time.monotonic() + timeout
        while not done(self.seen):
            assert time.monotonic() < end, dict(self.seen.data)
            assert self.step(max(0.1, end - time.monotonic())), ("ended", dict(self.seen.data))
        return self.seen

    def finish(self, timeout=30):
        while self.step(timeout):
            pass
        return self.seen


class Spdy(Http):
    """flow: gives and keeps windows, as the protocol says; without it, as Kubernetes' clients are."""

    def __init__(self, url, protocol="v4.channel.k8s.io", flow=False, window=65536, ws=None):
        headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
        headers += [("X-Stream-Protocol-Version", p) for p in ([protocol] if isinstance(protocol, str) else protocol)]
        self.ws = ws
        if ws:
            self.s, self.buf = ws.s, b""
        else:
            super().__init__(url, "POST", headers)
            status, h, body = self.answer()
            assert status == 101, (status, body)
            self.version = h.get("x-stream-protocol-version")
        d = dictionary()
        self.z = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY, d)
        self.unz = zlib.decompressobj(zdict=d)
        self.next, self.flow, self.window = 1, flow, window
        self.names, self.seen = {}, Status()
        self.replied, self.ended, self.resets, self.pings, self.goaway = set(), set(), {}, [], None
        self.windows = {}
        self.threaded = False  # another thread than the sender's takes what arrives
        if flow:
            self.control_frame(4, struct.pack(">III", 1, 7, window))

    def write(self, b):
        if self.ws:
            self.ws.frame(2, b)
        else:
            self.s.settimeout(60)
            self.s.sendall(b)

    def _more(self, timeout):
        if not self.ws:
            return super()._more(timeout)
        m = self.ws.message(timeout)
        if m is None or m[0] == 8:
            return False
        if m[0] == 2:
            self.buf += m[1]
        return True

    def control_frame(self, kind, payload, flags=0):
        self.write(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload)

    def block(self, pairs):
        b = struct.pack(">I", len(pairs))
        for k, v in pairs:
            b += struct.pack(">I", len(k)) + k.encode() + struct.pack(">I", len(v)) + v.encode()
        return self.z.compress(b) + self.z.flush(zlib.Z_SYNC_FLUSH)

    def open(self, name, key=None, fin=False, **headers):
        """A new stream; what arrives on it is kept under `key` (default: its id)."""
        sid, self.next = self.next, self.next + 2
        self.names[sid] = sid if key is None else key
        pairs = [("streamtype", name)] + [(k.lower(), str(v)) for k, v in headers.items()]
        self.control_frame(1, struct.pack(">IIH", sid, 0, 0) + self.block(pairs), 1 if fin else 0)
        return sid

    def terminal(self, stdin=True, stdout=True, stderr=True, resize=False):
        """The streams of an exec or attach; {number of the channel: id}."""
        ids = {ERROR: self.open("error", ERROR)}
        for want, ch, name in ((stdin, STDIN, "stdin"), (stdout, STDOUT, "stdout"), (stderr, STDERR, "stderr"),
                               (resize, RESIZE, "resize")):
            if want:
                ids[ch] = self.open(name, ch)
        self.ids = ids
        return ids

    def data(self, sid, p, fin=False):
        while True:
            n = 60000
            while self.flow and p:  # as much as the server's windows allow
                n = min(n, self.windows.get(sid, 65536), self.windows.get(0, 65536))
                if n > 0:
                    self.windows[sid] = self.windows.get(sid, 65536) - min(n, len(p))
                    self.windows[0] = self.windows.get(0, 65536) - min(n, len(p))
                    break
                n = 60000
                time.sleep(0.001) if self.threaded else self.step()
            piece, p = p[:n], p[n:]
            self.write(struct.pack(">II", sid, (1 << 24 if fin and not p else 0) | len(piece)) + piece)
            if not p:
                return

    def reset(self, sid, status=5):
        self.control_frame(3, struct.pack(">II", sid, status))

    def step(self, timeout=20):
        while len(self.buf) < 8:
            if not self._more(timeout):
                return False
        a, b = struct.unpack(">II", self.buf[:8])
        n, flags = b & 0xffffff, b >> 24
        while len(self.buf) < 8 + n:
            if not self._more(timeout):
                return False
        p, self.buf = self.buf[8:8 + n], self.buf[8 + n:]
        if not a >> 31:
            assert a in self.names, "data of a stream that nobody opened"
            assert a not in self.ended, "data after the end"
            self.seen.add(self.names[a], p)
            if flags & 1:
                self.ended.add(a)
            elif self.flow and n:
                self.control_frame(9, struct.pack(">II", a, n))
            if self.flow and n:
                self.control_frame(9, struct.pack(">II", 0, n))
            return True
        assert a >> 16 == 0x8003
        kind = a & 0xffff
        if kind == 2:
            sid = struct.unpack(">I", p[:4])[0]
            assert self.unz.decompress(p[4:]) == b"\0\0\0\0"
            self.replied.add(sid)
        elif kind == 3:
            sid, status = struct.unpack(">II", p)
            self.resets[sid] = status
        elif kind == 6:
            self.pings.append(struct.unpack(">I", p)[0])
        elif kind == 7:
            self.goaway = struct.unpack(">II", p)
        elif kind == 9:
            sid, delta = struct.unpack(">II", p)
            self.windows[sid] = self.windows.get(sid, 65536) + delta
        else:
            raise AssertionError(f"frame of type {kind}")
        return True

    def until(self, done, timeout=20):
        end = time.monotonic() + timeout
        while not done(self):
            assert time.monotonic() < end, (dict(self.seen.data), self.resets)
            assert self.step(max(0.1, end - time.monotonic())), ("ended", dict(self.seen.data), self.resets)
        return self.seen

    def finish(self, timeout=60):
        """Until the server says that this was all."""
        while self.goaway is None and self.step(timeout):
            pass
        return self.seen


def gone(s, timeout=10):
    """Does the server close?"""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if select.select([s], [], [], 0.2)[0]:
            try:
                if not s.recv(65536):
                    return True
            except ConnectionError:
                return True
    return False
