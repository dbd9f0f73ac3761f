"""Streams of containers and pods: their URLs, a server behind a port, what berthd has open."""
import os
import subprocess
import sys

import pytest

from daemon import pb
from streamclient import Spdy, WebSocket


def exec_url(d, cid, *cmd, stdin=True, stdout=True, stderr=True, tty=False):
    return d.rt.Exec(pb().ExecRequest(container_id=cid, cmd=cmd, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty),
                     timeout=20).url


def attach_url(d, cid, stdin=True, stdout=True, stderr=True, tty=False):
    return d.rt.Attach(pb().AttachRequest(container_id=cid, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty),
                       timeout=20).url


def forward_url(d, pod, *ports):
    return d.rt.PortForward(pb().PortForwardRequest(pod_sandbox_id=pod[0], port=ports), timeout=20).url


def sleeper(d, **kw):
    pod = d.run_pod(**kw)
    return pod, d.run_ctr(pod, "sleep", "1000")


def spdy(url, stdin=True, stdout=True, stderr=True, resize=False, **kw):
    c = Spdy(url, **kw)
    c.terminal(stdin, stdout, stderr, resize)
    return c


def processes(d, cid, what):
    return [x for x in d.sh(cid, "ps -o args").splitlines() if what in x and "ps -o" not in x]


def fds(d):
    return len(os.listdir(f"/proc/{d.proc.pid}/fd"))


SERVER = """
import socket, sys, threading
fam = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(fam)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen(100)
print('up', flush=True)
def serve(c):
    n = 0
    while True:
        p = c.recv(65536)
        if not p: break
        n += len(p)
        c.sendall(p.upper())
    c.sendall(b'<%d>' % n)
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def server():
    """server(daemon, pod or None, address, port): echoes in upper case, then tells how much it got."""
    running = []

    def start(d, pod, address, port):
        where = ["nsenter", f"--net={d.run}/ns/{pod[0]}/net"] if pod else []
        p = subprocess.Popen([*where, sys.executable, "-c", SERVER, address, str(port)], stdout=subprocess.PIPE, cwd="/")
        running.append(p)
        assert p.stdout.readline() == b"up\n"
    yield start
    for p in running:
        p.kill()
        p.wait()


def tunnel(url):
    return Spdy(url, ws=WebSocket(url, "SPDY/3.1+portforward.k8s.io"))
