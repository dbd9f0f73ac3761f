"""berthctl and its blocking client against a server of grpc-core."""
import base64
import concurrent.futures
import hashlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("BERTH_BUILD", os.path.join(HERE, "../../build"))
CTL = os.path.join(BUILD, "core/ctl/berthctl")


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("pb"))
    protos = os.path.join(HERE, "../../core/cri")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I" + protos, "--python_out=" + out, "cri.proto",
                    "admin.proto"], check=True, cwd=protos)
    sys.path.insert(0, out)
    import admin_pb2
    import cri_pb2
    return cri_pb2, admin_pb2


class Server(grpc.GenericRpcHandler):
    """Answers by a table of path: function(request, context)."""

    def __init__(self, path, pb):
        self.path, (self.cri, self.admin) = path, pb
        self.unary, self.streams, self.seen = {}, {}, []
        self.grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(8),
                                options=[("grpc.max_receive_message_length", 64 << 20),
                                         ("grpc.max_send_message_length", 64 << 20)])
        self.grpc.add_generic_rpc_handlers((self,))
        self.grpc.add_insecure_port("unix://" + path)
        self.grpc.start()

    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        pb = self.admin if "admin" in details.method else self.cri
        key = details.method.lstrip("/").replace("berth.admin.v1.", "").replace("runtime.v1.", "")
        if key in self.unary:
            fn, kind = self.unary[key], grpc.unary_unary_rpc_method_handler
        elif key in self.streams:
            fn, kind = self.streams[key], grpc.unary_stream_rpc_method_handler
        else:
            return None
        request = pb.AdminPullRequest if key == "Admin/PullImage" else getattr(pb, name + "Request")

        def handle(message, context):
            self.seen.append((key, message))
            return fn(message, context)
        return kind(handle, request_deserializer=request.FromString,
                    response_serializer=lambda m: m.SerializeToString())

    def ctl(self, *args, **kw):
        return subprocess.run([CTL, "--runtime-endpoint", "unix://" + self.path, *args], capture_output=True, text=True,
                              timeout=60, **kw)


@pytest.fixture
def server(tmp_path, pb):
    s = Server(str(tmp_path / "s"), pb)
    yield s
    s.grpc.stop(None)


def test_version_and_status(server):
    cri = server.cri
    server.unary["RuntimeService/Version"] = lambda r, c: cri.VersionResponse(
        runtime_name="fake", runtime_version="1.2", runtime_api_version="v1")
    r = server.ctl("version")
    assert r.returncode == 0 and "fake 1.2" in r.stdout
    assert json.loads(server.ctl("-o", "json", "version").stdout)["runtimeName"] == "fake"
    ok = cri.RuntimeCondition(type="RuntimeReady", status=True)
    bad = cri.RuntimeCondition(type="NetworkReady", status=False, reason="NoNetwork", message="no configuration")
    server.unary["RuntimeService/Status"] = lambda r, c: cri.StatusResponse(
        status=cri.RuntimeStatus(conditions=[ok, bad]))
    r = server.ctl("status")
    assert r.returncode == 1 and "NoNetwork" in r.stdout and "no configuration" in r.stdout


def test_errors_are_the_servers(server):
    def fail(r, c):
        c.abort(grpc.StatusCode.NOT_FOUND, "pod 'x': 100% \u00e9\nsecond line")
    server.unary["RuntimeService/Version"] = fail
    r = server.ctl("version")
    assert (r.returncode, r.stderr) == (1, "berthctl: pod 'x': 100% \u00e9\nsecond line\n")
    r = server.ctl("ps")
    assert r.returncode == 1 and "berthctl: " in r.stderr
    r = subprocess.run([CTL, "--runtime-endpoint", "/nowhere/s", "ps"], capture_output=True, text=True)
    assert r.returncode == 1 and "connect to /nowhere/s: No such file" in r.stderr
    assert server.ctl("nonsense").returncode == 2


def test_timeout(server):
    server.unary["RuntimeService/Version"] = lambda r, c: time.sleep(5) or server.cri.VersionResponse()
    start = time.monotonic()
    r = server.ctl("--timeout", "0.3", "version")
    assert r.returncode == 1 and time.monotonic() - start < 3, r


def test_large_messages(server):
    cri = server.cri
    server.unary["RuntimeService/ListContainers"] = lambda r, c: cri.ListContainersResponse(
        containers=[cri.Container(id="c1", metadata=cri.ContainerMetadata(name="web"))])
    out = os.urandom(5_000_000).hex()
    server.unary["RuntimeService/ExecSync"] = lambda r, c: cri.ExecSyncResponse(
        stdout=out.encode(), stderr=b"e" * 3_000_000, exit_code=7)
    r = server.ctl("exec", "web", "prog", "x" * 100_000, "-n")
    assert (r.returncode, len(r.stderr)) == (7, 3_000_000) and r.stdout == out
    request = server.seen[-1][1]
    assert (request.container_id, list(request.cmd)) == ("c1", ["prog", "x" * 100_000, "-n"])
    assert server.ctl("exec", "nope", "prog").returncode == 125


def progress(server, stop=None):
    """A pull of three layers."""
    admin = server.admin
    layers = [admin.LayerProgress(digest=f"sha256:{i}{'0' * 40}", total_bytes=1_000_000 * (i + 1)) for i in range(3)]

    def pull(request, context):
        if request.image == "missing":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such image")
        layers[2].state = admin.LAYER_PRESENT
        for step in range(5):
            for l in layers[:2]:
                l.state = admin.LAYER_UNPACKED if step == 4 else admin.LAYER_DOWNLOADING
                l.done_bytes = l.total_bytes * step // 4
            yield admin.PullProgress(layers=layers)
            time.sleep(0.02)
        if stop:
            while context.is_active():
                time.sleep(0.05)
            stop.set()
        yield admin.PullProgress(layers=layers, image_id="sha256:abc")
    return pull


def test_pull_tells_its_progress(server):
    server.streams["Admin/PullImage"] = progress(server)
    r = server.ctl("pull", "--creds", "me:secret:x", "r/a:1")
    assert (r.returncode, r.stdout) == (0, "sha256:abc\n")
    assert sorted(r.stderr.splitlines()) == [
        "layer 1 of 3: 0000000000000 done, 1.00MB", "layer 2 of 3: 1000000000000 done, 2.00MB",
        "layer 3 of 3: 2000000000000 already here, 3.00MB"]
    auth = server.seen[-1][1].auth
    assert (auth.username, auth.password) == ("me", "secret:x")
    r = server.ctl("pull", "missing")
    assert (r.returncode, r.stderr) == (1, "berthctl: no such image\n")


def test_pull_draws_bars_on_a_terminal(server):
    server.streams["Admin/PullImage"] = progress(server)
    main, side = pty.openpty()
    p = subprocess.Popen([CTL, "--runtime-endpoint", server.path, "pull", "r/a:1"], stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    text = b""
    while True:
        try:
            more = os.read(main, 4096)
        except OSError:
            break
        text += more
    assert p.wait(20) == 0
    os.close(main)
    assert b"=" * 10 in text and b"\x1b[3A" in text and b"500kB/1.00MB" in text and b"already here" in text


def test_pull_falls_back_to_the_cri(server):
    server.unary["ImageService/PullImage"] = lambda r, c: server.cri.PullImageResponse(image_ref="sha256:def")
    r = server.ctl("pull", "r/a:1")
    assert (r.returncode, r.stdout) == (0, "sha256:def\n")
    assert server.ctl("plugins").returncode == 1


def test_an_interrupted_pull_is_cancelled(server):
    stopped = threading.Event()
    server.streams["Admin/PullImage"] = progress(server, stopped)
    p = subprocess.Popen([CTL, "--runtime-endpoint", server.path, "pull", "r/a:1"], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    p.terminate()
    p.wait()
    assert stopped.wait(10)


def test_import_and_plugins(server, tmp_path):
    admin = server.admin
    server.unary["Admin/ImportImage"] = lambda r, c: admin.ImportImageResponse(
        images=[admin.ImportedImage(image_id="sha256:1", references=["a:1", "b:2"])])
    archive = tmp_path / "x.tar"
    archive.write_text("")
    r = server.ctl("image", "import", "./x.tar", "a:1", cwd=tmp_path)
    assert (r.returncode, r.stdout) == (0, "sha256:1 a:1 b:2\n")
    assert server.seen[-1][1].path == str(archive) and server.seen[-1][1].reference == "a:1"
    r = server.ctl("image", "import", "nope.tar", cwd=tmp_path)
    assert r.returncode == 1 and "nope.tar: No such file" in r.stderr
    server.unary["Admin/Plugins"] = lambda r, c: admin.PluginsResponse(plugins=[
        admin.Plugin(instance="runc", plugin="runtime-runc", version="0.1", kinds=["runtime"], healthy=True),
        admin.Plugin(instance="x", plugin="x", version="2", kinds=["storage", "network"], message="3 calls are stuck")])
    r = server.ctl("plugins")
    assert "runtime-runc" in r.stdout and "storage,network" in r.stdout and "failing: 3 calls are stuck" in r.stdout


def test_run_undoes_what_failed(server):
    cri = server.cri
    server.unary["ImageService/ImageStatus"] = lambda r, c: cri.ImageStatusResponse(image=cri.Image(id="i"))
    server.unary["RuntimeService/RunPodSandbox"] = lambda r, c: cri.RunPodSandboxResponse(pod_sandbox_id="p1")
    server.unary["RuntimeService/CreateContainer"] = lambda r, c: c.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad mount")
    server.unary["RuntimeService/StopPodSandbox"] = lambda r, c: cri.StopPodSandboxResponse()
    server.unary["RuntimeService/RemovePodSandbox"] = lambda r, c: cri.RemovePodSandboxResponse()
    r = server.ctl("run", "--name", "n", "--net", "host", "-e", "A=b=c", "-v", "/a:/b:ro", "-u", "10:20", "img", "a", "-b")
    assert (r.returncode, r.stderr) == (1, "berthctl: bad mount\n")
    calls = [k.split("/")[1] for k, _ in server.seen]
    assert calls == ["ImageStatus", "RunPodSandbox", "CreateContainer", "StopPodSandbox", "RemovePodSandbox"]
    pod, ctr = server.seen[1][1].config, server.seen[2][1].config
    assert pod.metadata.name == "n" and pod.linux.security_context.namespace_options.network == cri.NODE
    assert list(ctr.args) == ["a", "-b"] and not ctr.command
    assert (ctr.envs[0].key, ctr.envs[0].value) == ("A", b"b=c")
    assert ctr.mounts[0].readonly and ctr.mounts[0].container_path == "/b"
    user = ctr.linux.security_context
    assert (user.run_as_user.value, user.run_as_group.value) == (10, 20)


def test_run_from_files(server, tmp_path):
    cri = server.cri
    server.unary["ImageService/ImageStatus"] = lambda r, c: cri.ImageStatusResponse(image=cri.Image(id="i"))
    server.unary["RuntimeService/RunPodSandbox"] = lambda r, c: cri.RunPodSandboxResponse(pod_sandbox_id="p1")
    server.unary["RuntimeService/CreateContainer"] = lambda r, c: cri.CreateContainerResponse(container_id="c1")
    server.unary["RuntimeService/StartContainer"] = lambda r, c: cri.StartContainerResponse()
    (tmp_path / "pod.json").write_text('{"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "log_directory": "/l"}')
    (tmp_path / "ctr.yaml").write_text("metadata: {name: c}\nimage: {image: busybox}\ncommand: [top]\nlog_path: c.log\n")
    r = server.ctl("-o", "json", "run", "--pod", "pod.json", "--ctr", "ctr.yaml", cwd=tmp_path)
    assert json.loads(r.stdout) == {"podSandboxId": "p1", "containerId": "c1"}
    assert server.seen[2][1].config.image.image == "busybox" and server.seen[2][1].sandbox_config.metadata.name == "p"
    (tmp_path / "ctr.yaml").write_text("metadata: {nam: c}\n")
    r = server.ctl("run", "--pod", "pod.json", "--ctr", "ctr.yaml", cwd=tmp_path)
    assert r.returncode == 1 and "ctr.yaml: metadata.nam: ContainerMetadata has no such field" in r.stderr


# ---- streams of other servers ----

class Streams:
    """A streaming server that does to each connection what it is told: do(socket, headers)."""

    def __init__(self, do):
        self.s = socket.create_server(("127.0.0.1", 0))
        self.do = do
        self.url = "http://127.0.0.1:%d/exec/abc" % self.s.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c = self.s.accept()[0]
            except OSError:
                return
            with c:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += c.recv(4096)
                lines = head.decode().split("\r\n\r\n")[0].split("\r\n")
                assert lines[0] == "GET /exec/abc HTTP/1.1"
                self.do(c, {k.lower(): v for k, v in (x.split(": ", 1) for x in lines[1:])})

    @staticmethod
    def upgrade(c, headers, protocol, accept=None):
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = accept or base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        c.sendall((f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   f"sec-websocket-ACCEPT:{accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n").encode())

    @staticmethod
    def message(channel, data):
        return bytes([0x82, len(data) + 1, channel]) + data


@pytest.fixture
def streams(server):
    made = []

    def make(do):
        made.append(Streams(do))
        cri = server.cri
        server.unary["RuntimeService/ListContainers"] = lambda r, c: cri.ListContainersResponse(
            containers=[cri.Container(id="c1", metadata=cri.ContainerMetadata(name="ctr"))])
        server.unary["RuntimeService/Exec"] = lambda r, c: cri.ExecResponse(url=made[-1].url)
        return made[-1]
    yield make
    for s in made:
        s.s.close()


def test_a_stream_of_version_4(server, streams):
    def do(c, headers):
        assert headers["sec-websocket-protocol"] == "v5.channel.k8s.io, v4.channel.k8s.io"
        Streams.upgrade(c, headers, "v4.channel.k8s.io")
        whole = Streams.message(1, b"out") + Streams.message(2, b"err") + b"\x89\x02hi" + Streams.message(
            3, b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[')
        whole += Streams.message(3, b'{"reason":"ExitCode","message":"17"}]}}') + b"\x88\x02\x03\xe8"
        for i in range(len(whole)):  # byte by byte
            c.sendall(whole[i:i + 1])
        got = b""
        while p := c.recv(4096):
            got += p
        seen.append(got)
    seen = []
    streams(do)
    r = server.ctl("exec", "-i", "ctr", "x", stdin=subprocess.DEVNULL)
    assert (r.returncode, r.stdout) == (17, "out"), r
    assert "err" in r.stderr and "the input has ended" in r.stderr
    assert b"\x8a\x82" in seen[0] and b"\x88\x82" in seen[0]  # the pong, the goodbye


@pytest.mark.parametrize("what,says", [
    ("refuses", "403 not for you"), ("key", "another request's key"), ("silent", "was not told"), ("rubbish", "rules of WebSocket"),
    ("failure", "no such user"), ("v9", "knows neither"), ("http", "no answer of HTTP"), ("masked", "rules of WebSocket"),
    ("url", "no URL"), ("gone", "refused")])
def test_streams_that_are_wrong(server, streams, what, says):
    def do(c, headers):
        if what == "refuses":
            c.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nnot for you\n")
            time.sleep(3)  # the connection stays open
            return
        if what == "http":
            c.sendall(b"220 mail\r\n")
            return
        Streams.upgrade(c, headers, "v9" if what == "v9" else "v5.channel.k8s.io", "x" * 28 if what == "key" else None)
        if what == "rubbish":
            c.sendall(b"\xf7" * 100)
        elif what == "masked":
            c.sendall(b"\x82\x82\0\0\0\0\x01x")
        elif what == "failure":
            c.sendall(Streams.message(3, b'{"status":"Failure","message":"no such user","reason":"InternalError"}') + b"\x88\0")
        c.shutdown(socket.SHUT_WR)
        while c.recv(4096):
            pass
    s = streams(do)
    if what == "url":
        s.url = "mailto:x"
    if what == "gone":
        s.url = "http://127.0.0.1:1/exec/abc"
    t = time.monotonic()
    r = server.ctl("exec", "-i", "ctr", "x", stdin=subprocess.DEVNULL)
    assert r.returncode == 125 and says in r.stderr, r
    assert time.monotonic() - t < 3


# ---- completion ----

COMPLETE = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
read -ra COMP_WORDS <<<"$2"
_berthctl "$3" "" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("line,offers", [
    ("ex", ["exec"]), ("p", ["ps", "pods", "pull", "plugins", "port-forward"]), ("image ", ["import", "export-store"]), ("help at", ["attach"]),
    ("exec --std", ["--stdin"]), ("ps --no", ["--no-trunc"]), ("-o ", ["json", "table"]), ("run --net ", ["host", "pod"]),
    ("exec -it w", ["web"]), ("logs w", ["web", "worker"]), ("stop web w", ["web", "worker"]), ("exec web w", []),
    ("port-forward ", ["shop", "p1"]), ("ps -p sh", ["shop"]), ("rmi example.org/a:", ["1", "2"]), ("rmi example.org/b", [
        "example.org/b:1"]), ("exec web --std", []), ("sto", ["stop", "stopp", "storage"]),
    ("storage ", ["migrate"]), ("storage migrate --from sto", ["storage-a", "storage-b"]), ("no-such-command ", []), ("stop $(to", []), ("start -- --", [])])
def test_completion(server, line, offers):
    cri = server.cri

    def ctr(i, name, state):
        return cri.Container(id=i, metadata=cri.ContainerMetadata(name=name), state=state)
    server.unary["RuntimeService/ListContainers"] = lambda r, c: cri.ListContainersResponse(
        containers=[ctr("c1", "web", cri.CONTAINER_RUNNING), ctr("c2", "worker", cri.CONTAINER_EXITED)])
    server.unary["RuntimeService/ListPodSandbox"] = lambda r, c: cri.ListPodSandboxResponse(
        items=[cri.PodSandbox(id="p1", metadata=cri.PodSandboxMetadata(name="shop"))])
    server.unary["ImageService/ListImages"] = lambda r, c: cri.ListImagesResponse(
        images=[cri.Image(id="i1", repo_tags=["example.org/a:1", "example.org/a:2"]), cri.Image(
            id="i2", repo_tags=["example.org/b:1"])])
    admin = server.admin
    server.unary["Admin/Plugins"] = lambda r, c: admin.PluginsResponse(plugins=[
        admin.Plugin(instance="storage-a", kinds=["storage"]), admin.Plugin(instance="storage-b", kinds=["storage"]),
        admin.Plugin(instance="store", kinds=["runtime"])])
    script = os.path.join(HERE, "../../docs/berthctl.bash")
    p = subprocess.run(["bash", "-c", COMPLETE, "bash", script, "berthctl --runtime-endpoint " + server.path + " " + line, CTL],
                       capture_output=True, text=True, timeout=30)
    assert p.stderr == "" and sorted(p.stdout.split()) == sorted(offers), p


def test_completion_without_a_runtime(tmp_path):
    p = subprocess.run([CTL, "__complete", "--runtime-endpoint", str(tmp_path / "none"), "exec", ""], capture_output=True, text=True,
                       timeout=30)
    assert (p.returncode, p.stdout, p.stderr) == (0, "", "")
    assert subprocess.run([CTL, "__complete"], capture_output=True, timeout=30).stdout.count(b"\n") > 20
