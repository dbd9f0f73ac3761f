"""How berthd starts, and berthctl against it."""
import json
import os
import shutil
import subprocess
import time

import pytest

import daemon
import pullharness
from daemon import IMAGE, busybox_image, built, needs_daemon, pb

pytestmark = needs_daemon


def berthd(d, *args, timeout=60):
    p = subprocess.run([built("core/berthd"), "--config", f"{d.tmp}/berth.yaml", "--helpers", d.helpers, *args],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    assert "Sanitizer" not in p.stderr and "runtime error" not in p.stderr, p.stderr
    return p


@pytest.mark.parametrize("over,text", [
    ({"roof": "/x"}, "roof"), ({"storage": {"driver": "no-such"}}, "no-such"), ({"cri": {"lisen": "/x"}}, "listen"),
    ({"runtimes": {"default": "none", "handlers": {"runc": {"plugin": "runtime-runc"}}}}, "none"),
    ({"runtimes": {"default": "runc", "handlers": {"runc": {"plugin": "runtime-runc", "path": "/no/runc"}}}}, "/no/runc"),
    ({"plugins": {"storage-overlay": {"path": "/no/such.so"}, "runtime-runc": {}}}, "/no/such.so")])
def test_mistakes_in_the_configuration(make_daemon, over, text):
    d = make_daemon(start=False)
    d.write_config(over)
    p = berthd(d)
    assert p.returncode == 1 and text in p.stderr, p.stderr
    assert not d.mounts()


@pytest.mark.parametrize("key,value,text", [
    ("force_mask", "0700", "force_mask must be text, not a number (quote it to make it text)"),
    ("userxattr", '"true"', "userxattr must be true or false, not text"),
    ("metacopy", '"on"', "metacopy must be true or false, not text"), ("metacopy", "on", "metacopy must be true or false, not text"),
    ("mount_options", "[noatime]", "mount_options must be text, not a list"),
    ("quota_first_project", '"5000"', "quota_first_project must be a whole number, not text")])
def test_a_plugin_s_key_of_the_wrong_type(make_daemon, key, value, text):
    """The default would be served in its place."""
    d = make_daemon(start=False)
    d.write_config({})
    with open(f"{d.tmp}/berth.yaml") as f:
        c = f.read()
    with open(f"{d.tmp}/berth.yaml", "w") as f:
        f.write(c.replace('"storage-overlay": {"path"', f'"storage-overlay": {{"{key}": {value}, "path"', 1))
    p = berthd(d)
    assert p.returncode == 1 and f"plugins.storage-overlay.{text}" in p.stderr, p.stderr
    assert not d.mounts()


@pytest.mark.parametrize("plugin", ["storage-overlay", "runtime-runc"])
@pytest.mark.parametrize("key", ["optional", "probe", "storage", "plugin", "host", "plugin_path"])
def test_a_key_that_nobody_reads(make_daemon, plugin, key):
    d = make_daemon(start=False)
    d.write_config({})
    with open(f"{d.tmp}/berth.yaml") as f:
        c = json.load(f)
    c["plugins"][plugin][key] = {"cgroup_driver": "x"} if key == "host" else "x"
    with open(f"{d.tmp}/berth.yaml", "w") as f:
        json.dump(c, f)
    p = berthd(d)
    assert p.returncode == 1 and f"plugins.{plugin}.{key}" in p.stderr and "unknown key" in p.stderr, p.stderr


@pytest.mark.skipif(not built("tests/unit/lacking-stat.so"), reason="the build has no unit tests")
def test_a_plugin_that_would_not_load(make_daemon):
    """`check` tells what a start would, not only that there is a file."""
    d = make_daemon(start=False)
    lacking, writable = built("tests/unit/lacking-stat.so"), f"{d.tmp}/storage-overlay.so"
    d.write_config({"plugins": {"lacking": {"path": lacking}}})
    p = berthd(d, "check")
    assert p.returncode == 1 and f"error    plugin {lacking}: it has no op storage.stat" in p.stdout, p.stdout
    d.write_config({"plugins": {"lacking": {"path": lacking}}, "storage": {"also": ["lacking"]}})
    p = berthd(d)
    assert p.returncode == 1 and "it has no op storage.stat" in p.stderr, p.stderr
    shutil.copy(built("plugins/storage-overlay/storage-overlay.so"), writable)
    os.chmod(writable, 0o666)
    d.write_config({"plugins": {"storage-overlay": {"path": writable}}})
    p = berthd(d, "check")
    assert p.returncode == 1 and "writable by its group or by others" in p.stdout, p.stdout
    os.chmod(writable, 0o755)
    p = berthd(d, "check")
    assert p.returncode == 0 and f"ok       {writable}\n" in p.stdout, p.stdout


def test_config_prints_a_valid_file(make_daemon):
    d = make_daemon(start=False)
    first = berthd(d, "config")
    assert first.returncode == 0 and d.root in first.stdout
    with open(f"{d.tmp}/berth.yaml", "w") as f:
        f.write(first.stdout)
    assert berthd(d, "config").stdout == first.stdout
    d.start()


def test_a_socket_that_was_left(make_daemon):
    d = make_daemon(image=False)
    d.kill9()
    assert os.path.exists(d.sock)
    d.start()
    d.stop()
    os.makedirs(os.path.dirname(d.sock), exist_ok=True)
    if os.path.exists(d.sock):
        os.unlink(d.sock)
    with open(d.sock, "w") as f:
        f.write("a file of somebody")
    p = berthd(d)
    assert p.returncode == 1 and d.sock in p.stderr
    assert open(d.sock).read() == "a file of somebody"
    os.unlink(d.sock)


def test_a_storage_that_was_moved_away(make_daemon):
    """Images whose layers are gone are not offered any more."""
    d = make_daemon()
    d.stop()
    os.rename(f"{d.root}/plugins", f"{d.tmp}/away")
    d.start()
    assert list(d.img.ListImages(pb().ListImagesRequest()).images) == []
    d.import_image()
    pod = d.run_pod()
    assert d.wait_exit(d.run_ctr(pod, "true")).exit_code == 0


def test_starts_fast_with_many_pods(make_daemon):
    d = make_daemon()
    pods = [d.run_pod() for _ in range(30)]
    for p in pods[:10]:
        d.run_ctr(p, "sleep", "1000")
    d.kill9()
    t = time.monotonic()
    d.start()
    assert time.monotonic() - t < 15
    assert len(d.pods()) == 30 and len(d.ctrs()) == 10


# ---- berthctl ----

@pytest.fixture
def ctl(make_daemon):
    d = make_daemon(image=False)

    def run(*args, code=0):
        p = subprocess.run([built("core/ctl/berthctl"), "--runtime-endpoint", d.sock, *args], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, timeout=60)
        assert p.returncode == code, (args, p.returncode, p.stdout, p.stderr)
        assert "Sanitizer" not in p.stderr
        return p.stdout
    run.d = d
    return run


@pytest.mark.skipif(not built("core/ctl/berthctl"), reason="the build has no berthctl")
def test_berthctl(ctl):
    d = ctl.d
    assert "berth" in ctl("version")
    path = pullharness.layout(d.tmp, busybox_image())
    archive = pullharness.archive_of(path, f"{d.tmp}/image.tar")
    ctl("image", "import", archive, "--name", IMAGE) if "--name" in ctl("image", "import", "--help") else \
        d.import_image()
    assert "busybox" in ctl("images")
    assert {p["plugin"] for p in json.loads(ctl("-o", "json", "plugins"))["plugins"]} >= {"storage-overlay", "runtime-runc"}
    cid = ctl("run", "--name", "web", "--net", "host", IMAGE, "sh", "-c", "echo hello; sleep 1000").strip()
    assert "web" in ctl("ps") and "web" in ctl("pods")
    assert ctl("exec", "web", "echo", "inside") == "inside\n"
    ctl("exec", "web", "sh", "-c", "exit 7", code=7)
    daemon.wait_for(lambda: "hello" in ctl("logs", "web"))
    assert json.loads(ctl("inspect", "web"))["status"]["id"].startswith(cid[:12])
    ctl("stop", "-t", "0", "web")
    ctl("rm", "web")
    assert "web" not in ctl("ps")
    ctl("stopp", "web")
    ctl("rmp", "web")
    ctl("inspectp", "web", code=1)
    ctl("rmi", IMAGE)
    assert "busybox" not in ctl("images")


def nice(stat):
    with open(stat) as f:
        return int(f.read().rsplit(")", 1)[1].split()[16])


def test_the_loop_is_preferred_and_nothing_else(make_daemon):
    d = make_daemon()
    cid = d.run_ctr(d.run_pod(), "sleep", "1000")
    threads = {int(t): nice(f"/proc/{d.proc.pid}/task/{t}/stat") for t in os.listdir(f"/proc/{d.proc.pid}/task")}
    assert threads.pop(d.proc.pid) == -10
    assert threads and set(threads.values()) == {0}
    inside = d.exec(cid, "sh", "-c", "cat /proc/1/stat /proc/self/stat").stdout.decode().splitlines()
    assert [s.rsplit(")", 1)[1].split()[16] for s in inside] == ["0", "0"]
    others = d.pids()
    assert others and {nice(f"/proc/{pid}/stat") for pid, _ in others} == {0}
