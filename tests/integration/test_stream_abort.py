"""Clients of every streaming call that stop in its middle, many of them: nothing of theirs stays, neither in the daemon nor in
the monitors nor in the containers. BERTH_TEST_ABORTS is their number for each kind of call (1000 for the whole campaign)."""
import collections
import concurrent.futures
import os
import random
import socket
import struct
import subprocess
import sys
import time

import grpc
import pytest

from daemon import build_dir, needs_daemon, pb, wait_for
from streamclient import RESIZE, STDIN, Http, Spdy, WebSocket
from streamharness import SERVER, attach_url, exec_url, fds, forward_url, processes, spdy, tunnel

pytestmark = needs_daemon

COUNT = int(os.environ.get("BERTH_TEST_ABORTS", "20"))
PORT = 17031
INIT = ("sh", "-c", "while :; do sleep 1000; done")  # it reaps what loses its parent
SCRIPT = "sleep 1001 & echo up; cat; wait"

Place = collections.namedtuple("Place", "d pod cid echo tty url")


# ---- kinds of calls: each starts one and gives what to stop ----

def exec_spdy(p, r):
    c = spdy(exec_url(p.d, p.cid, "sh", "-c", SCRIPT))
    c.data(c.ids[STDIN], os.urandom(r.choice([1, 1000, 200000])))
    return c


def exec_websocket(p, r):
    c = WebSocket(exec_url(p.d, p.cid, "sh", "-c", SCRIPT), r.choice(["v5.channel.k8s.io", "v4.channel.k8s.io"]))
    c.send(STDIN, os.urandom(r.choice([1, 1000, 200000])))
    return c


def exec_base64(p, r):
    c = WebSocket(exec_url(p.d, p.cid, "sh", "-c", SCRIPT), "v5.base64.channel.k8s.io")
    c.send(STDIN, b"x" * 1000)
    return c


def exec_tty(p, r):
    c = spdy(exec_url(p.d, p.cid, "sh", "-c", SCRIPT, stderr=False, tty=True), stderr=False, resize=True)
    c.data(c.ids[RESIZE], b'{"Width":80,"Height":24}')
    c.data(c.ids[STDIN], b"words\n")
    return c


def exec_output(p, r):
    """Nobody reads what it writes."""
    return spdy(exec_url(p.d, p.cid, "yes", "x" * 100)) if r.random() < 0.5 else WebSocket(exec_url(p.d, p.cid, "yes"))


def attach_spdy(p, r):
    c = spdy(attach_url(p.d, p.echo))
    c.data(c.ids[STDIN], b"x" * r.choice([1, 30000]) + b"\n")
    return c


def attach_websocket(p, r):
    c = WebSocket(attach_url(p.d, p.echo))
    c.send(STDIN, b"line\n")
    return c


def attach_tty(p, r):
    c = WebSocket(attach_url(p.d, p.tty, stderr=False, tty=True))
    c.send(RESIZE, b'{"Width":%d,"Height":24}' % r.randrange(20, 200))
    c.send(STDIN, b"echo x\n")
    return c


def forward(make):
    def start(p, r):
        c = make(forward_url(p.d, p.pod))
        for i in range(r.randrange(1, 4)):
            port = PORT if r.random() < 0.8 else PORT + 1
            c.open("error", port=port, requestid=i)
            if r.random() < 0.9:
                data = c.open("data", port=port, requestid=i)
                c.data(data, b"x" * r.choice([1, 50000]), fin=r.random() < 0.3)
        return c
    return start


def forward_websocket(p, r):
    c = WebSocket(forward_url(p.d, p.pod, PORT, PORT + 1), "v4.channel.k8s.io")
    c.send(0, b"x" * r.choice([1, 50000]))
    return c


def head(p, r):
    """Not even a whole request."""
    return Http(p.url, raw=b"GET /exec/" + b"x" * r.randrange(100))


class Rpc:
    def __init__(self, call, take):
        self.call = call
        for _ in range(take):
            next(call, None)

    def close(self):
        self.call.cancel()


def events(p, r):
    return Rpc(p.d.rt.GetContainerEvents(pb().GetEventsRequest()), 0)


def lists(p, r):
    m, rt = pb(), p.d.rt
    call = r.choice([lambda: rt.StreamContainers(m.StreamContainersRequest()),
                     lambda: rt.StreamPodSandboxes(m.StreamPodSandboxesRequest()),
                     lambda: rt.StreamContainerStats(m.StreamContainerStatsRequest()),
                     lambda: p.d.img.StreamImages(m.StreamImagesRequest())])
    return Rpc(call(), r.randrange(2))


KINDS = {"exec-spdy": exec_spdy, "exec-websocket": exec_websocket, "exec-base64": exec_base64, "exec-tty": exec_tty,
         "exec-output": exec_output, "attach-spdy": attach_spdy, "attach-websocket": attach_websocket, "attach-tty": attach_tty,
         "forward-spdy": forward(lambda u: Spdy(u, "portforward.k8s.io")), "forward-tunnel": forward(tunnel),
         "forward-websocket": forward_websocket, "head": head, "events": events, "lists": lists}


def stop(c, r):
    """By closing, by a reset, in the middle of a frame, or after having read a little."""
    if isinstance(c, Rpc):
        time.sleep(r.choice([0, 0.01]))
        return c.close()
    time.sleep(r.choice([0, 0, 0.02, 0.1]))
    how = r.randrange(4)
    try:
        if how == 0:
            c.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == 1:
            c.s.sendall(b"\x82\xfe\x10" if isinstance(c, WebSocket) else b"\x80\x03\0\1\0\0")
        elif how == 2:
            c.s.settimeout(0.05)
            c.s.recv(1000)
    except OSError:
        pass
    c.close()


# ---- the count ----

def usage(pid):
    with open(f"/proc/{pid}/status") as f:
        s = {k: v.split()[0] for k, v in (x.split(":", 1) for x in f) if v.split()}
    return len(os.listdir(f"/proc/{pid}/fd")), int(s["VmRSS"])


def sanitized():
    """The address sanitizer's allocator gives little back."""
    with open(os.path.join(build_dir(), "core/berthd"), "rb") as f:
        return b"__asan_init" in f.read()


def monitors(d):
    return {pid: usage(pid) for pid, line in d.pids() if "berth-monitor --id" in line}


@pytest.fixture(scope="module")
def place():
    import daemon
    # The address sanitizer keeps what was freed: here it may keep little.
    d = daemon.Daemon(env={"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:quarantine_size_mb=1"})
    echo = subprocess.Popen([sys.executable, "-c", SERVER, "127.0.0.1", str(PORT)], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, cwd="/")
    try:
        assert echo.stdout.readline() == b"up\n"
        d.start()
        d.import_image()
        pod = d.run_pod()
        cid = d.run_ctr(pod, *INIT)
        yield Place(d, pod, cid,
                    d.run_ctr(pod, "sh", "-c", "while read x; do echo $x; done", name="echo", stdin=True),
                    d.run_ctr(pod, "sh", name="tty", stdin=True, tty=True), exec_url(d, cid, "true"))
    finally:
        echo.kill()
        echo.wait()
        echo.stdout.close()
        d.close()


def campaign(place, kind, count, seed):
    def one(i):
        r = random.Random(f"{kind} {seed} {i}")
        try:
            c = KINDS[kind](place, r)
        except (OSError, grpc.RpcError) as e:
            raise AssertionError(f"{kind} {seed} {i}: {e}") from e
        stop(c, r)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(count)))


def left(place):
    """Processes of those who have gone, in the container and for it."""
    inside = [x for x in processes(place.d, place.cid, "") if x.strip() not in ("COMMAND", "sleep 1000", " ".join(INIT))]
    return inside + [x for x in place.d.pids() if " exec " in x[1]]


def settle(place, timeout):
    end = time.monotonic() + timeout
    while left(place):
        assert time.monotonic() < end, left(place)
        time.sleep(0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_clients_that_stop_in_the_middle(place, kind):
    d = place.d
    campaign(place, kind, 6, "first")  # what is made once: buffers, threads
    settle(place, 20)
    time.sleep(0.5)
    before, rss, seen = fds(d), usage(d.proc.pid)[1], monitors(d)
    campaign(place, kind, COUNT, "then")
    settle(place, 20 + COUNT / 20)
    wait_for(lambda: fds(d) <= before + 1, 20, 0.2)  # our own call
    now = usage(d.proc.pid)
    print(f"{kind}: {COUNT} clients, fds {before} -> {now[0]}, RSS {rss} -> {now[1]} kB")
    assert now[1] - rss < ((32 << 10) + 60 * COUNT if sanitized() else 8 << 10)
    wait_for(lambda: all(usage(pid)[0] == seen[pid][0] for pid in seen), 20, 0.1)
    after = monitors(d)
    assert after.keys() == seen.keys()
    assert all(after[pid][1] - seen[pid][1] < 1 << 10 for pid in seen), (seen, after)
    for cid in (place.cid, place.echo, place.tty):
        assert d.status(cid).state == pb().CONTAINER_RUNNING
    d.check_sanitizers()
