"""What berthd tells Prometheus: the text, what moves it, and its HTTP side."""
import json
import math
import os
import random
import re
import signal
import socket

import pytest

from daemon import Fails, REPO, needs_daemon, pb, wait_for

pytestmark = needs_daemon
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')


def labels_of(text):
    out, at = {}, 0
    while at < len(text or ""):
        m = LABEL.match(text, at)
        assert m, text
        assert m[1] not in out
        out[m[1]] = m[2]
        at = m.end()
        assert m[3] != "," or at < len(text), f"a comma at the end: {text}"
    return out


def check_histogram(name, samples):
    series = {}
    for sample, labels, value in samples:
        rest = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        series.setdefault(rest, []).append((sample, labels.get("le"), value))
    for rest, got in series.items():
        buckets = [(float(le), v) for s, le, v in got if s == name + "_bucket"]
        assert [s for s, _, _ in got[len(buckets):]] == [name + "_sum", name + "_count"], (name, rest)
        assert buckets == sorted(buckets) and buckets[-1][0] == math.inf
        assert [v for _, v in buckets] == sorted(v for _, v in buckets), "buckets are cumulative"
        assert buckets[-1][1] == got[-1][2]


def parse(text):
    """{family: (type, [(sample, labels, value)])} of the text format 0.0.4, strictly."""
    assert text.endswith("\n")
    families, name = {}, None
    lines = text[:-1].split("\n")
    for i, line in enumerate(lines):
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in families, f"{name} comes twice"
            kind = re.fullmatch(rf"# TYPE {name} (counter|gauge|histogram)", lines[i + 1])
            assert kind, lines[i + 1]
            families[name] = (kind[1], [])
        elif line.startswith("# TYPE "):
            assert i and lines[i - 1].startswith(f"# HELP {name} ")
        else:
            m = SAMPLE.fullmatch(line)
            assert m, f"no sample: {line!r}"
            kind, samples = families[name]
            ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert m[1] in [name + e for e in ends], line
            samples.append((m[1], labels_of(m[2]), float(m[3])))
            assert samples[-1][2] >= 0
    for name, (kind, samples) in families.items():
        keys = [(s, tuple(sorted(x.items()))) for s, x, _ in samples]
        assert len(set(keys)) == len(keys), f"a series of {name} comes twice"
        assert kind != "counter" or name.endswith("_total")
        if kind == "histogram":
            check_histogram(name, samples)
    return families


def ask(path, request, timeout=20):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(path)
        try:
            s.sendall(request)
            got = b""
            while part := s.recv(65536):
                got += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        return got


def get(path, target="/metrics", method="GET"):
    got = ask(path, f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, body = got.split(b"\r\n\r\n", 1)
    first, *rest = head.decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (x.split(":", 1) for x in rest)}
    if method != "HEAD":
        assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers, body


def scrape(path):
    code, headers, body = get(path)
    assert code == 200 and headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(body.decode())


def value(families, family, sample=None, **labels):
    got = [v for s, have, v in families[family][1] if s == (sample or family) and labels.items() <= have.items()]
    return sum(got)


@pytest.fixture
def served(make_daemon):
    d = make_daemon(start=False)
    d.metrics = f"{d.tmp}/metrics.sock"
    d.write_config({"metrics": {"listen": d.metrics}})
    d.start()
    return d


def test_what_happens_is_counted(served):
    d, r = served, "berth_rpc_total"
    served.image_id = d.import_image()
    before = scrape(d.metrics)
    assert value(before, "berth_image_pull_size_bytes", "berth_image_pull_size_bytes_count") == 1
    assert value(before, "berth_image_pull_size_bytes", "berth_image_pull_size_bytes_sum") > 100000
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "1000")
    with Fails("NOT_FOUND"):
        d.rt.ContainerStatus(pb().ContainerStatusRequest(container_id="0" * 64), timeout=10)
    with Fails("UNIMPLEMENTED"):
        d.channel.unary_unary("/no.such/Method")(b"", timeout=10)
    now = scrape(d.metrics)
    assert value(now, r, method="RunPodSandbox", code="OK") == 1
    assert value(now, r, method="ContainerStatus", code="NOT_FOUND") == 1
    assert value(now, r, service="unknown", code="UNIMPLEMENTED") == 1
    took = "berth_rpc_duration_seconds"
    assert value(now, took, took + "_count", method="CreateContainer") == 1
    assert 0.001 < value(now, took, took + "_sum", method="CreateContainer") < 100
    op = "berth_plugin_op_duration_seconds"
    assert value(now, op, op + "_count", op="runtime.create") == 1
    assert value(now, op, op + "_count", op="storage.prepare") >= 1
    assert value(now, "berth_pods", state="ready") == 1 and value(now, "berth_containers", state="running") == 1
    assert value(now, "berth_plugin_healthy", plugin="storage-overlay") == 1
    assert {x["lane"] for _, x, _ in now["berth_lane_queued"][1]} >= {"flow", "general", "control", "storage"}
    with open(f"/proc/{d.proc.pid}/statm") as f:
        rss = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    assert abs(value(now, "process_resident_memory_bytes") - rss) < rss / 2
    assert value(now, "berth_container_unknown_exits_total") == 0
    os.kill(next(pid for pid, line in d.pids() if "berth-monitor" in line and cid in line), signal.SIGKILL)
    d.stop_ctr(cid)
    last = scrape(d.metrics)
    lost = d.status(cid).exit_code == 255
    assert value(last, "berth_container_unknown_exits_total") == lost
    assert value(last, "berth_containers", state="exited") == 1 and value(last, "berth_containers", state="running") == 0


def test_the_dashboard_names_what_there_is(served):
    families = scrape(served.metrics)
    known = set(families)
    for name, (kind, _) in families.items():
        if kind == "histogram":
            known |= {name + x for x in ("_bucket", "_sum", "_count")}
    with open(f"{REPO}/docs/grafana.json") as f:
        board = json.load(f)
    named = {n for p in board["panels"] for t in p["targets"]
             for n in re.findall(r"\b(?:berth|process)_\w+", t["expr"])}
    assert len(named) > 10 and not named - known, named - known
    told = set(families) - {"berth_build_info", "berth_metrics_scrapes_total"}
    assert {re.sub("_(bucket|sum|count)$", "", n) if n not in told else n for n in named} == told


def test_http(served):
    path = served.metrics
    assert get(path, "/metrics?name[]=x")[0] == 200
    assert get(path, "/")[0] == 404 and get(path, "/metricsx")[0] == 404
    code, headers, body = get(path, method="HEAD")
    assert code == 200 and int(headers["content-length"]) > 1000 and body == b""
    code, headers, _ = get(path, method="POST")
    assert code == 405 and headers["allow"] == "GET, HEAD"
    assert b" 431 " in ask(path, b"GET /metrics HTTP/1.1\r\nA: " + b"x" * (8192 - 26)).split(b"\r\n")[0] + b" "
    assert os.stat(path).st_mode & 0o777 == 0o660


def test_garbage_and_clients_that_stop(served):
    d, rnd = served, random.Random(7)
    good = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"
    refused = 0
    fds = len(os.listdir(f"/proc/{d.proc.pid}/fd"))
    for i in range(400):
        bad = bytearray(good if i % 2 else rnd.randbytes(rnd.randrange(1, 3000)))
        for _ in range(rnd.randrange(1, 4)):
            bad[rnd.randrange(len(bad))] = rnd.randrange(256)
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(d.metrics)
            s.sendall(bytes(bad[:rnd.randrange(1, len(bad) + 1)]))
            if i % 4 < 2:
                continue  # gone in the middle
            s.shutdown(socket.SHUT_WR)
            got = s.recv(65536)
            assert not got or re.match(rb"HTTP/1\.1 (200|400|404|405) ", got), got[:100]
            refused += got.startswith(b"HTTP/1.1 400 ")
    assert refused > 10
    idle = []
    for _ in range(20):  # more than it takes; they cost nothing but their places, and those for a bounded time
        s = socket.socket(socket.AF_UNIX)
        s.connect(d.metrics)
        idle.append(s)
    d.rt.Version(pb().VersionRequest(), timeout=5)
    for s in idle:
        s.settimeout(30)
        try:
            assert s.recv(10) == b"", "closed by the daemon"
        except ConnectionResetError:
            pass
        s.close()
    assert value(scrape(d.metrics), "berth_metrics_scrapes_total") >= 1
    wait_for(lambda: len(os.listdir(f"/proc/{d.proc.pid}/fd")) <= fds)


def test_addresses(make_daemon):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    d = make_daemon(start=False)
    d.write_config({"metrics": {"listen": f"127.0.0.1:{port}"}})
    d.start()
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    for bad in ("localhost:1", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", ":1", "]:1"):
        e = make_daemon(start=False)
        e.write_config({"metrics": {"listen": bad}})
        e.start(wait=False)
        assert e.proc.wait(30) == 1
        assert "metrics.listen" in e.tail() and bad in e.tail()
        e.proc = None


def test_a_socket_that_a_killed_one_left(served):
    served.kill9()
    assert os.path.exists(served.metrics)
    served.start()
    scrape(served.metrics)
