"""berthctl exec -it, attach and port-forward against the real daemon, on a terminal of the test's own."""
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

from daemon import IMAGE, build_dir, needs_cni, needs_daemon, pb, wait_for
from streamclient import Http
from streamharness import processes, server, sleeper  # noqa: F401
from test_stream_tls import Ca, config

pytestmark = needs_daemon


def command(d, *args):
    return [os.path.join(build_dir(), "core/ctl/berthctl"), "--runtime-endpoint", d.sock, *args]


ENV = {**os.environ, "BERTH_LIBEXECDIR": os.path.join(build_dir(), "core/stream")}


def ctl(d, *args, stdin=b"", timeout=60, **kw):
    return subprocess.run(command(d, *args), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                          env=ENV, **kw)


class Terminal:
    """berthctl with a terminal of `width` columns and `height` lines."""

    def __init__(self, d, *args, width=100, height=30):
        self.master, slave = pty.openpty()
        self.resize(width, height)
        self.p = subprocess.Popen(command(d, *args), stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=ENV,
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.slave = slave  # stays open: its settings are looked at
        self.seen = b""

    def resize(self, width, height):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def say(self, text):
        os.write(self.master, text)

    def until(self, what, timeout=20):
        end = time.monotonic() + timeout
        while what not in self.seen:
            left = end - time.monotonic()
            assert left > 0, self.seen
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536)
        at = self.seen.index(what) + len(what)
        before, self.seen = self.seen[:at], self.seen[at:]
        return before

    def end(self, timeout=20):
        """The exit status; the terminal is as it was."""
        stop = time.monotonic() + timeout
        while self.p.poll() is None:
            assert time.monotonic() < stop, self.seen
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        assert not self.is_raw()
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        return self.p.returncode

    def __enter__(self):
        return self

    def __exit__(self, *a):
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        os.close(self.master)
        os.close(self.slave)


# ---- exec ----

def test_exec_on_a_terminal(real):
    _, cid = sleeper(real)
    with Terminal(real, "exec", "-it", cid, "sh") as t:
        t.say(b"/bin/busybox stty size; test -t 0 && echo is a t''ty\n")
        t.until(b"30 100\r\n")
        t.until(b"is a tty\r\n")
        assert t.is_raw()
        t.resize(71, 22)
        wait_for(lambda: (t.say(b"/bin/busybox stty size\n"), time.sleep(0.2), t.until(b" # "))
                 and b"22 71" in t.until(b" # "), 10)
        t.say(b"sleep 1234\n")
        wait_for(lambda: processes(real, cid, "sleep 1234"))
        t.say(b"\x03")  # to the command, not to berthctl
        wait_for(lambda: not processes(real, cid, "sleep 1234"))
        t.say(b"echo still $((20 + 3))\n")
        t.until(b"still 23")
        t.say(b"exit 42\n")
        assert t.end() == 42


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was(real, sig):
    _, cid = sleeper(real)
    with Terminal(real, "exec", "-it", cid, "sh", "-c", "echo up; exec sleep 1234") as t:
        t.until(b"up\r\n")
        assert t.is_raw()
        t.p.send_signal(sig)
        assert t.end() == -sig
    wait_for(lambda: not processes(real, cid, "sleep 1234"))


def test_exec_with_pipes(real):
    _, cid = sleeper(real)
    p = ctl(real, "exec", "-i", cid, "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"abc")
    assert (p.stdout, p.stderr, p.returncode) == (b"abc", b"err\n", 7)
    data = os.urandom(20 << 20)
    p = ctl(real, "exec", "-i", cid, "cat", stdin=data, timeout=120)
    assert p.returncode == 0 and p.stdout == data
    p = ctl(real, "exec", "-i", cid, "sh", "-c", "wc -c; exit 3", stdin=data)
    assert (p.stdout.strip(), p.returncode) == (b"%d" % len(data), 3)
    p = ctl(real, "exec", "-i", cid, "true", stdin=data)  # reads none of it
    assert p.returncode == 0
    p = ctl(real, "exec", "-t", cid, "sh", "-c", "test -t 1 && echo tty; exit 9")
    assert (p.stdout, p.returncode) == (b"tty\r\n", 9)
    p = ctl(real, "exec", "-i", cid, "/no/such/thing")
    assert p.returncode == 125 and b"/no/such/thing" in p.stderr  # it never ran: no exit code of its own
    p = ctl(real, "exec", "-i", "nobody", "true")
    assert p.returncode == 125 and b"nobody" in p.stderr


def test_output_that_is_not_read(real):
    _, cid = sleeper(real)
    p = subprocess.Popen(command(real, "exec", "-i", cid, "yes", "lazy"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=ENV)
    assert p.stdout.read(5) == b"lazy\n"
    time.sleep(1)
    with open(f"/proc/{p.pid}/status") as f:
        assert [int(x.split()[1]) for x in f if x.startswith("VmHWM")][0] < 200 << 10
    p.stdout.close()
    assert p.wait(20) == -signal.SIGPIPE
    p.stderr.close()
    wait_for(lambda: not processes(real, cid, "yes lazy"))


def test_exec_that_takes_too_long(real):
    _, cid = sleeper(real)
    t = time.monotonic()
    p = ctl(real, "--timeout", "1", "exec", "-i", cid, "sleep", "1234")
    assert p.returncode == 125 and b"--timeout" in p.stderr and 0.9 < time.monotonic() - t < 8
    wait_for(lambda: not processes(real, cid, "sleep 1234"))


def test_the_end_of_the_container_and_of_the_daemon(make_daemon):
    d = make_daemon()
    _, cid = sleeper(d)
    with Terminal(d, "exec", "-it", cid, "sh") as t:
        t.until(b"# ")
        d.stop_ctr(cid)
        assert t.end() == 137
    d.remove_ctr(cid)
    _, cid = sleeper(d)
    with Terminal(d, "exec", "-it", cid, "sh") as t:
        t.until(b"# ")
        d.restart()
        assert t.end() == 125
        assert b"berthctl: " in t.seen


# ---- attach ----

def test_attach_to_a_terminal(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", stdin=True, tty=True)
    assert b"terminal" in ctl(real, "attach", cid).stderr
    with Terminal(real, "attach", "-it", cid, width=91, height=17) as t:
        t.say(b"\n")
        t.until(b"# ")
        wait_for(lambda: (t.say(b"/bin/busybox stty size\n"), t.until(b"size\r\n"), b"17 91" in t.until(b"# ")))
        t.say(b"x=kept\n\x10")  # Ctrl-P alone goes on with what follows
        time.sleep(0.3)
        t.say(b"\x10\x11")
        assert t.end() == 0
    assert real.status(cid).state == pb().CONTAINER_RUNNING
    with Terminal(real, "attach", "-it", cid) as t:
        t.say(b"\necho $x\n")
        t.until(b"kept\r\n")
        t.say(b"exit 6\n")
        assert t.end() == 6


def test_attach_with_pipes(real):
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "cat; echo err >&2; exit 5", stdin=True, stdin_once=True)
    p = ctl(real, "attach", "-i", cid, stdin=b"x" * 300000 + b"\n")
    assert (len(p.stdout), p.stderr, p.returncode) == (300001, b"err\n", 5)
    cid = real.run_ctr(pod, "sh", "-c", "sleep 1; echo out; sleep 1", name="other")
    p = ctl(real, "attach", cid)  # does not pass its input on
    assert (p.stdout, p.returncode) == (b"out\n", 0)


# ---- port-forward ----

class Forward:
    def __init__(self, d, pod, *args):
        self.p = subprocess.Popen(command(d, "port-forward", *args[:-1], pod[0], args[-1]), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, env=ENV)
        line = self.p.stdout.readline().decode()
        found = re.fullmatch(r"Forwarding from (?:\[(.*)\]|(.*)):(\d+) to port (\d+)\n", line)
        assert found, (line, self.p.stderr.read() if not line else "")
        self.host, self.port = found[1] or found[2], int(found[3])

    def connect(self):
        return socket.create_connection((self.host, self.port), timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.p.terminate()
        self.p.wait()
        self.errors = self.p.stderr.read()
        self.p.stdout.close()
        self.p.stderr.close()


def everything(s):
    out = b""
    while True:
        p = s.recv(65536)
        if not p:
            return out
        out += p


@needs_cni
def test_port_forward(real, server):  # noqa: F811
    pod = real.run_pod(host_network=False)
    server(real, pod, "127.0.0.1", 7001)
    with Forward(real, pod, ":7001") as f:
        with f.connect() as s:
            s.sendall(b"hello")
            assert s.recv(100) == b"HELLO"
            s.shutdown(socket.SHUT_WR)  # the answer comes after it
            assert everything(s) == b"<5>"
        many = [f.connect() for _ in range(20)]
        for i, s in enumerate(many):
            s.sendall(b"n%d" % i)
        for i, s in enumerate(many):
            assert s.recv(100) == b"N%d" % i
        big = many[0]
        data = os.urandom(1 << 20) * 8
        t = threading.Thread(target=lambda: (big.sendall(data), big.shutdown(socket.SHUT_WR)))
        t.start()
        got = everything(big)
        t.join()
        assert got == b"N0"[2:] + data.upper() + b"<%d>" % (len(data) + 2)
        for s in many:
            s.close()
        wait_for(lambda: len(children(f.p.pid)) == 0)
        lazy = f.connect()  # does not read
        lazy.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                lazy.send(b"x" * 65536)
                time.sleep(0.001)
        with f.connect() as s:
            s.sendall(b"quick")
            assert s.recv(100) == b"QUICK"
        lazy.close()
        wait_for(lambda: len(children(f.p.pid)) == 0)
    with Forward(real, pod, "--address", "::1", ":7002") as f:
        with f.connect() as s:
            assert s.recv(100) == b""
        words = f.p.stderr.readline()  # told once both sides have gone; waits for it
    assert b"port 7002" in words and b"refused" in words, words + f.errors
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    p = ctl(real, "port-forward", pod[0], f"{s.getsockname()[1]}:7001")
    assert p.returncode == 1 and b"in use" in p.stderr
    s.close()
    for bad in ("x", "0", "1:0", "65536", ":", "1:2:3"):
        p = ctl(real, "port-forward", pod[0], bad)
        assert p.returncode == 1 and b"PORT" in p.stderr


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return f.read().split()


@needs_cni
def test_port_forward_goes_on_after_a_restart(make_daemon, server):  # noqa: F811
    d = make_daemon()
    pod = d.run_pod(host_network=False)
    server(d, pod, "127.0.0.1", 7001)
    with Forward(d, pod, ":7001") as f:
        with f.connect() as s:
            s.sendall(b"a")
            assert s.recv(10) == b"A"
            d.restart()
            assert s.recv(10) == b""
        with f.connect() as s:
            s.sendall(b"b")
            assert s.recv(10) == b"B"
    wait_for(lambda: not [p for p in d.pids() if "port-forward" in p[1]])


# ---- TLS, and other servers ----

def test_over_tls(make_daemon, tmp_path, monkeypatch, server):  # noqa: F811
    ca = Ca(tmp_path)
    ca.make("first")
    ca.install("first")
    ca.make("client")
    d = make_daemon(config=config(ca, stream_tls_client_ca=ca.path("ca.pem")))
    pod, cid = sleeper(d)
    p = ctl(d, "exec", "-i", cid, "cat", stdin=b"x")
    assert p.returncode == 125 and b"certificate" in p.stderr
    p = ctl(d, "exec", "-i", "--tls-ca", ca.path("ca.pem"), cid, "cat", stdin=b"x")
    assert p.returncode == 125 and b"certificate" in p.stderr
    tls = ["--tls-ca", ca.path("ca.pem"), "--tls-cert", ca.path("client.pem"), "--tls-key", ca.path("client.key")]
    data = os.urandom(3 << 20)
    p = ctl(d, "exec", "-i", *tls, cid, "sh", "-c", "cat; exit 4", stdin=data)
    assert (p.stdout == data, p.stderr, p.returncode) == (True, b"", 4)
    server(d, None, "127.0.0.1", 17003)
    with Forward(d, pod, *tls, ":17003") as f, f.connect() as s:
        s.sendall(b"x" * 100000)
        s.shutdown(socket.SHUT_WR)
        assert everything(s) == b"X" * 100000 + b"<100000>"
    p = ctl(d, "exec", "-i", "--tls-cert", "x", cid, "true")
    assert p.returncode == 125 and b"--tls-key" in p.stderr
