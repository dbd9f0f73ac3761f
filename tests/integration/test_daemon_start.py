"""How berthd starts, and berthctl against it."""
import json
import os
import shutil
import subprocess
import time

import pytest

import daemon
import pullharness
from daemon import IMAGE, busybox_image, built, fails, needs_daemon, pb

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


# ---- check ----

def kinds(p):
    """What `berthd check` says of what: {text: kind}."""
    return {line[9:]: line.split()[0] for line in p.stdout.splitlines()[:-1]}


def only(p, part):
    found = [(k, t) for t, k in kinds(p).items() if part in t]
    assert len(found) == 1, (part, p.stdout)
    return found[0]


def all_paths(d):
    return sorted(os.path.join(top, n) for base in (d.root, d.run) for top, ds, fs in os.walk(base) for n in ds + fs)


def test_check_starts_the_storage(make_daemon):
    d = make_daemon(start=False)
    p = berthd(d, "check")
    assert p.returncode == 0 and only(p, "storage driver storage-overlay") == ("ok", "storage driver storage-overlay: starts")
    assert not os.path.exists(d.root) and all_paths(d) == [f"{d.run}/berthd.lock", f"{d.run}/plugins"]
    d.start()
    d.import_image()
    p = berthd(d, "check")
    assert p.returncode == 0 and only(p, "storage driver")[0] == "skipped" and "a berthd runs" in only(p, "storage driver")[1]
    d.stop()
    before = all_paths(d)
    p = berthd(d, "check")
    assert p.returncode == 0 and only(p, "storage driver")[0] == "ok"
    assert all_paths(d) == before and not d.mounts()
    # What such a store cannot be started with.
    d.write_config({"plugins": {"storage-overlay": {"path": built("plugins/storage-overlay/storage-overlay.so"),
                                                    "userxattr": True}, "runtime-runc": {}}, "network": {"plugin": ""}})
    p = berthd(d, "check")
    assert p.returncode == 1 and only(p, "storage.driver: ")[0] == "error", p.stdout
    assert only(p, "storage.driver: ")[1] in berthd(d).stderr.replace('\\"', '"')


def test_check_tries_the_file_system(make_daemon):
    """On an overlay there is no overlay."""
    d = make_daemon(start=False)
    d.root = f"{d.tmp}/merged/root"
    for n in ("tmpfs", "merged"):
        os.makedirs(f"{d.tmp}/{n}")
    subprocess.run(["mount", "-t", "tmpfs", "check", f"{d.tmp}/tmpfs"], check=True)
    try:
        for n in ("lower", "upper", "work"):
            os.makedirs(f"{d.tmp}/tmpfs/{n}")
        o = ",".join(f"{n}dir={d.tmp}/tmpfs/{n}" for n in ("lower", "upper", "work"))
        subprocess.run(["mount", "-t", "overlay", "check", "-o", o, f"{d.tmp}/merged"], check=True)
        d.write_config({})
        p = berthd(d, "check")
        assert p.returncode == 1 and only(p, "storage.driver: plugin storage-overlay")[0] == "error", p.stdout
        assert berthd(d).returncode == 1
    finally:
        subprocess.run(f"umount {d.tmp}/merged; umount {d.tmp}/tmpfs", shell=True, check=True)


def test_check_tries_no_other_storage(make_daemon):
    d = make_daemon(fake=True, start=False)
    p = berthd(d, "check")
    assert only(p, "storage driver fake")[0] == "skipped" and not os.path.exists(d.root)


def test_check_looks_for_the_exec_helper(make_daemon):
    d = make_daemon(start=False)
    handler = {"plugin": "runtime-runc", "path": daemon.RUNC, "exec_helper": "/no/berth-join"}
    d.write_config({"runtimes": {"default": "runc", "handlers": {"runc": handler}}})
    p = berthd(d, "check")
    assert p.returncode == 1 and only(p, "exec_helper /no/berth-join")[0] == "error"


@pytest.mark.skipif(daemon.missing_cni() is not None, reason=str(daemon.missing_cni()))
def test_check_reads_the_network_that_counts(make_daemon):
    d = make_daemon(start=False)

    def conf(name, doc):
        with open(f"{d.cni_dir}/{name}", "w") as f:
            f.write(doc if isinstance(doc, str) else json.dumps(doc))
        return f"{d.cni_dir}/{name}"
    lacking = {"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "no-such-plugin"}]}
    broken, late = conf("05-broken.conflist", "{"), conf("20-late.conflist", lacking)
    nameless = conf("06-nameless.conf", {"type": "no-such-plugin"})
    p = berthd(d, "check")
    assert p.returncode == 0, p.stdout
    assert [only(p, f)[0] for f in (broken, nameless, "10-test.conflist: ", late)] == ["warning", "warning", "ok", "skipped"]
    os.unlink(f"{d.cni_dir}/10-test.conflist")
    p = berthd(d, "check")
    assert p.returncode == 1 and only(p, late) == ("error", f"{late}: plugin no-such-plugin is in none of bin_dirs")
    os.unlink(late)
    p = berthd(d, "check")
    assert p.returncode == 0 and only(p, "no CNI configuration yet")[0] == "warning"


# ---- berthctl ----

def test_the_pod_cidr_is_kept(make_daemon):
    """A kubelet tells it once, and nothing of it to a berthd that comes after."""
    m = pb()
    d = make_daemon(image=False)

    def told(text):
        d.rt.UpdateRuntimeConfig(m.UpdateRuntimeConfigRequest(
            runtime_config=m.RuntimeConfig(network_config=m.NetworkConfig(pod_cidr=text))), timeout=20)

    def shown():
        return json.loads(d.rt.Status(m.StatusRequest(verbose=True), timeout=20).info["config"]).get("podCIDR")

    assert shown() is None
    told("10.1.0.0/16")
    told("10.2.0.0/16,fd00::/64")
    told("")  # nothing to change
    assert shown() == "10.2.0.0/16,fd00::/64"
    d.kill9()
    d.start()
    assert shown() == "10.2.0.0/16,fd00::/64"
    with fails("INVALID_ARGUMENT", "pod_cidr"):
        told("10.0.0.0/33")
    d.stop()
    with open(f"{d.run}/pod_cidr", "w") as f:
        f.write("10.2.0.0/x")
    d.start()
    assert shown() is None
    told("10.3.0.0/16")
    assert shown() == "10.3.0.0/16"


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
