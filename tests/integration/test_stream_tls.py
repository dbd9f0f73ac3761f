"""The streaming server over TLS, with Python's ssl as the client."""
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest

from daemon import build_dir, needs_daemon, wait_for
from streamclient import STDIN, STDOUT, Http, WebSocket, gone
from streamharness import exec_url, fds, sleeper, spdy

pytestmark = [needs_daemon, pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl program")]


class Ca:
    """A directory with a CA and what it signs."""

    def __init__(self, path):
        self.dir = str(path)
        self.serial = 100
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
                 "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")

    def run(self, *args):
        subprocess.run(["openssl", *args], cwd=self.dir, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def path(self, name):
        return os.path.join(self.dir, name)

    def make(self, name, days=20, rsa=False):
        """NAME.pem and NAME.key; the serial number."""
        self.serial += 1
        kind = ("rsa:2048",) if rsa else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        self.run("req", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr")
        with open(self.path("ext"), "w") as f:
            f.write("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        self.run("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", str(self.serial), "-days",
                 str(days), "-extfile", "ext", "-out", f"{name}.pem")
        return self.serial

    def install(self, name, what=("key", "pem")):
        """As the server's, by renaming."""
        for ext in what:
            shutil.copy(self.path(f"{name}.{ext}"), self.path("new"))
            os.rename(self.path("new"), self.path(f"server.{ext}"))


@pytest.fixture
def ca(tmp_path, monkeypatch):
    c = Ca(tmp_path)
    c.make("first")
    c.install("first")
    monkeypatch.setattr(Http, "tls", ssl.create_default_context(cafile=c.path("ca.pem")))
    return c


def config(ca, **over):
    return {"cri": {"stream_tls_cert": ca.path("server.pem"), "stream_tls_key": ca.path("server.key"), **over}}


@pytest.fixture
def tls(make_daemon, ca):
    return make_daemon(config=config(ca))


def serial(d, **kw):
    """The number of the certificate that a client gets now."""
    host, port = address(d)
    with Http.tls.wrap_socket(socket.create_connection((host, port), timeout=20), server_hostname=host) as s:
        return int(s.getpeercert()["serialNumber"], 16)


def address(d):
    url = [x.split("url=", 1)[1].split()[0].strip('"') for x in d.log().splitlines() if "streams are served" in x][-1]
    host, port = url.split("/")[2].rsplit(":", 1)
    return host, int(port)


@pytest.mark.parametrize("kind", ["spdy", "ws", "ws-base64"])
@pytest.mark.parametrize("rsa", [False, True])
def test_streams_over_tls(make_daemon, ca, kind, rsa):
    if rsa:
        ca.make("rsa", rsa=True)
        ca.install("rsa")
    d = make_daemon(config=config(ca))
    _, cid = sleeper(d)
    url = exec_url(d, cid, "sh", "-c", "cat; echo err >&2; exit 3")
    assert url.startswith("https://127.0.0.1:")
    block = os.urandom(30000)
    protocol = "v5.base64.channel.k8s.io" if kind == "ws-base64" else "v5.channel.k8s.io"
    with spdy(url) if kind == "spdy" else WebSocket(url, protocol) as c:
        assert c.s.version() == "TLSv1.3"
        for i in range(100):
            c.data(c.ids[STDIN], block) if kind == "spdy" else c.send(STDIN, block)
            c.until(lambda x: len((x.seen if kind == "spdy" else x).out) >= 30000 * (i - 1))  # two are under way at most
        if kind == "ws-base64":
            return
        c.data(c.ids[STDIN], b"", fin=True) if kind == "spdy" else c.end(STDIN)
        s = c.finish()
        assert (s.out == block * 100, s.err, s.code) == (True, b"err\n", 3)


def test_who_does_not_read_and_who_is_slow(tls):
    _, cid = sleeper(tls)
    with spdy(exec_url(tls, cid, "sh", "-c", "yes | head -c 5000000; exit 1")) as lazy:
        time.sleep(2)
        with WebSocket(exec_url(tls, cid, "echo", "quick")) as c:
            assert c.finish().out == b"quick\n"
        s = lazy.finish()
        assert (len(s.out), s.code) == (5000000, 1)


def test_a_new_certificate_is_taken(tls, ca):
    _, cid = sleeper(tls)
    with spdy(exec_url(tls, cid, "cat")) as old:
        assert serial(tls) == 101
        second = ca.make("second")
        ca.install("second")
        tls.proc.send_signal(signal.SIGHUP)
        wait_for(lambda: serial(tls) == second, 8)
        # A key without its certificate is no harm: the one that was read goes on.
        third = ca.make("third", rsa=True)
        ca.install("third", ["key"])
        tls.proc.send_signal(signal.SIGHUP)
        wait_for(lambda: "keeps its old certificate" in tls.log())
        assert "it is not the key of the certificate" in tls.log() and ca.path("server.pem") in tls.log()
        assert serial(tls) == second
        ca.install("third", ["pem"])
        wait_for(lambda: serial(tls) == third, 20, 0.2)  # without a signal
        os.unlink(ca.path("server.pem"))
        tls.proc.send_signal(signal.SIGHUP)
        wait_for(lambda: tls.log().count("keeps its old certificate") == 2)
        assert serial(tls) == third
        old.data(old.ids[STDIN], b"still here", fin=True)
        assert old.finish().out == b"still here"
    with WebSocket(exec_url(tls, cid, "echo", "x")) as c:
        assert c.finish().out == b"x\n"


def test_clients_must_show_theirs(make_daemon, ca, tmp_path):
    d = make_daemon(config=config(ca, stream_tls_client_ca=ca.path("ca.pem")))
    _, cid = sleeper(d)
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        WebSocket(exec_url(d, cid, "true"))
    os.mkdir(tmp_path / "other")
    other = Ca(tmp_path / "other")
    other.make("stranger")
    Http.tls.load_cert_chain(other.path("stranger.pem"), other.path("stranger.key"))
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        WebSocket(exec_url(d, cid, "true"))
    ca.make("client")
    Http.tls.load_cert_chain(ca.path("client.pem"), ca.path("client.key"))
    with WebSocket(exec_url(d, cid, "echo", "known")) as c:
        assert c.finish().out == b"known\n"


@pytest.mark.parametrize("least,works", [("VersionTLS12", True), ("VersionTLS13", False)])
def test_versions(make_daemon, ca, least, works):
    d = make_daemon(config=config(ca, stream_tls_min_version=least))
    Http.tls.maximum_version = ssl.TLSVersion.TLSv1_2
    if works:
        assert serial(d) == 101
    else:
        with pytest.raises(ssl.SSLError):
            serial(d)
    Http.tls.maximum_version = ssl.TLSVersion.TLSv1_3
    assert serial(d) == 101
    Http.tls.set_alpn_protocols(["h2", "http/1.1"])
    with Http.tls.wrap_socket(socket.create_connection(address(d), timeout=20), server_hostname="127.0.0.1") as s:
        assert s.selected_alpn_protocol() == "http/1.1"


def test_what_is_no_tls(tls):
    _, cid = sleeper(tls)
    serial(tls)
    time.sleep(0.5)
    before = fds(tls)
    url = exec_url(tls, cid, "true").replace("https://", "http://")
    with WebSocket(url, shake=False) as c:
        status, _, body = c.answer()
        assert status == 400 and b"HTTPS" in body
        assert gone(c.s)
    for rubbish in (b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(600), os.urandom(3000)):
        with socket.create_connection(address(tls)) as s:
            s.sendall(rubbish)
            assert gone(s, 15)
    silent = [socket.create_connection(address(tls)) for _ in range(50)]
    silent[0].sendall(b"\x16\x03\x01")
    t = time.monotonic()
    assert all(gone(s, 15) for s in silent)
    assert 8 < time.monotonic() - t < 16
    for s in silent:
        s.close()
    for i in range(50):  # in the middle of the handshake
        s = socket.create_connection(address(tls))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = Http.tls.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            hello.do_handshake()
        s.sendall(outgoing.read())
        if i % 2:
            s.recv(10)
        s.close()
    wait_for(lambda: fds(tls) <= before)
    assert serial(tls) == 101


def check(d):
    p = subprocess.run([os.path.join(build_dir(), "core/berthd"), "--config", f"{d.tmp}/berth.yaml", "--helpers", d.helpers,
                        "check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return p.returncode, p.stdout


def test_mistakes_are_told(tls, ca):
    code, text = check(tls)
    assert "ok       TLS of the streaming server: certificate " + ca.path("server.pem") in text
    ca.make("other")
    ca.install("other", ["key"])
    assert "it is not the key of the certificate" in check(tls)[1]
    ca.run("pkey", "-in", "first.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")
    ca.install("locked", ["key"])
    text = check(tls)[1]
    assert f"error    TLS of the streaming server: key {ca.path('server.key')}: " in text
    os.unlink(ca.path("server.key"))
    text = check(tls)[1]
    assert f"key {ca.path('server.key')}: No such file or directory" in text
    ca.install("first")
    os.chmod(ca.path("server.key"), 0o644)
    assert "everybody may read its key" in check(tls)[1]
    with open(ca.path("server.pem"), "w") as f:
        f.write("rubbish\n")
    code, text = check(tls)
    assert code == 1 and f"certificate {ca.path('server.pem')}: " in text
    ca.make("old", days=-1)
    ca.install("old")
    code, text = check(tls)
    assert code == 1 and "it has expired" in text
    ca.install("first")
    tls.write_config(config(ca, stream_tls_client_ca=ca.path("nowhere")))
    code, text = check(tls)
    assert code == 1 and f"CA certificates {ca.path('nowhere')}: No such file" in text
    tls.write_config({"cri": {"listen": tls.sock, "stream_tls_cert": ca.path("server.pem")}})
    code, text = check(tls)
    assert code == 1 and "berth.yaml:1: cri.stream_tls_cert needs cri.stream_tls_key" in text
    tls.write_config(config(ca, stream_tls_key=ca.path("other.key")))
    tls.hang_up()
    tls.proc.terminate()
    assert tls.proc.wait(30) == 0
    tls.proc = None
    tls.start(wait=False)
    assert tls.proc.wait(30) == 1
    assert "it is not the key of the certificate" in tls.tail(5)
    tls.proc = None
    tls.write_config(config(ca))
    tls.start()
