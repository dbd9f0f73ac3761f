"""A berthd of the build directory with everything of its own: root, run, socket, CNI network and
leases, cgroup parent. Tells at its end what it left behind."""
import glob
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import grpc
import pytest

import pullharness
from pullharness import Tar
from traces import Traces

REPO = pullharness.REPO
BUSYBOX = "/bin/busybox"
CNI_BIN = "/usr/lib/cni"
RUNC = "/usr/sbin/runc"
# BERTH_TEST_RUNTIME=/usr/bin/crun: the handler "runc", which most tests use, is another runtime's
RUNTIMES = {"runc": os.environ.get("BERTH_TEST_RUNTIME", RUNC), "crun": "/usr/bin/crun"}
APPLETS = ("sh echo cat true false sleep seq yes dd head tail tr ls ps id printf mount hostname nc kill test stat env "
           "mkdir touch grep wc readlink ip ping wget httpd date sync rm setsid").split()
IMAGE = "localhost/berth/busybox:1"
HELPERS = ["core/monitor/berth-monitor", "core/monitor/berth-ns", "core/monitor/berth-init", "core/pull/berth-pull",
           "core/mount/berth-mount", "core/stream/berth-tls.so"]
PLUGINS = {"storage-overlay": "plugins/storage-overlay/storage-overlay.so",
           "runtime-runc": "plugins/runtime-runc/runtime-runc.so",
           "net-cni": "plugins/net-cni/net-cni.so", "fake": "tests/fake/fake.so"}


# BERTH_TEST_CGROUPS=systemd: the same tests with cgroups that systemd makes
SYSTEMD = os.environ.get("BERTH_TEST_CGROUPS") == "systemd"


def build_dir():
    """$BERTH_BUILD, else the newest build*/ of the repository that holds a berthd."""
    if os.environ.get("BERTH_BUILD"):
        return os.path.abspath(os.environ["BERTH_BUILD"])
    found = [d for d in glob.glob(os.path.join(REPO, "build*")) if os.path.exists(os.path.join(d, "core/berthd"))]
    if not found:
        raise RuntimeError("no build directory with core/berthd; set BERTH_BUILD")
    return max(found, key=lambda d: os.path.getmtime(os.path.join(d, "core/berthd")))


def built(path):
    p = os.path.join(build_dir(), path)
    return p if os.path.exists(p) else None


def has_faults():
    with open(os.path.join(build_dir(), "berth-config.h")) as f:
        return "#define BERTH_FAULTS 1" in f.read()


def missing():
    """Why the real daemon cannot be tested here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for what in (BUSYBOX, RUNC):
        if not os.path.exists(what):
            return f"needs {what}"
    for name in ("storage-overlay", "runtime-runc"):
        if not built(PLUGINS[name]):
            return f"the build has no {name}"
    if not os.path.isdir("/sys/fs/cgroup/memory") and not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "no cgroups are mounted"
    return None


def missing_cni():
    for p in ("bridge", "host-local", "portmap"):
        if not os.path.exists(f"{CNI_BIN}/{p}"):
            return f"needs {CNI_BIN}/{p}"
    return None if built(PLUGINS["net-cni"]) else "the build has no net-cni"


needs_daemon = pytest.mark.skipif(missing() is not None, reason=str(missing()))
needs_cni = pytest.mark.skipif((missing() or missing_cni()) is not None, reason=str(missing() or missing_cni()))
needs_faults = pytest.mark.skipif(missing() is not None or not has_faults(),
                                  reason=str(missing() or "the build has no fault points (-Dfaults=true)"))


# ---- protocol -----------------------------------------------------------------------------

_stubs = None


def stubs():
    """(cri_pb2, cri_pb2_grpc, admin_pb2, admin_pb2_grpc), made by protoc once per run."""
    global _stubs
    if _stubs is None:
        out = tempfile.mkdtemp(prefix="berth-pb-")
        src = os.path.join(REPO, "core/cri")
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{src}", f"--python_out={out}",
                        f"--grpc_python_out={out}", "cri.proto", "admin.proto"], check=True)
        sys.path.insert(0, out)
        _stubs = tuple(importlib.import_module(m) for m in ("cri_pb2", "cri_pb2_grpc", "admin_pb2", "admin_pb2_grpc"))
        sys.path.remove(out)
        shutil.rmtree(out)
    return _stubs


def pb():
    return stubs()[0]


def wait_for(what, timeout=20.0, step=0.01):
    end = time.monotonic() + timeout
    while True:
        got = what()
        if got:
            return got
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(step)


class Fails:
    """with fails("NOT_FOUND", "text"): the RPC fails with the code and the text."""

    def __init__(self, code, *texts):
        self.codes = [getattr(grpc.StatusCode, c) for c in code.split("|")]
        self.texts = texts

    def __enter__(self):
        return self

    def __exit__(self, kind, e, tb):
        assert kind is not None, f"no error, expected {self.codes}"
        if not isinstance(e, grpc.RpcError):
            return False
        self.error = e
        assert e.code() in self.codes, (e.code(), e.details())
        for t in self.texts:
            assert t in e.details(), (t, e.details())
        return True


fails = Fails


# ---- image --------------------------------------------------------------------------------

_busybox = None


def busybox_image(**kw):
    global _busybox
    if _busybox is None:
        t = Tar()
        for d in ("bin", "proc", "dev", "sys", "tmp", "etc", "mnt", "root", "var"):
            t.dir(d, mode=0o1777 if d == "tmp" else 0o755)
        t.add("bin/busybox", data=open(BUSYBOX, "rb").read(), mode=0o755)
        for a in APPLETS:
            t.hard(f"bin/{a}", "bin/busybox")
        t.add("etc/passwd", data="root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
        t.add("etc/group", data="root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
        _busybox = t.bytes()
    layers = [_busybox, Tar().add("layer2", data="second\n")] + kw.pop("more", [])
    config = {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"], "WorkingDir": "/"}
    config.update(kw.pop("config", {}))
    return pullharness.Image(layers, config=config, **kw)


# ---- the daemon ---------------------------------------------------------------------------

class Daemon(Traces):
    counter = 0

    def __init__(self, fake=False, config=None, cni=True, env=None, runtime="runc"):
        Daemon.counter += 1
        self.tmp = tempfile.mkdtemp(prefix="berth-")
        os.chmod(self.tmp, 0o711)
        self.tag = f"bt{os.getpid() % 100000}x{Daemon.counter}"
        self.bridge = self.tag[-15:]
        # what a pod is given, and where that lies
        self.cgroup = f"berthtest-{self.tag}.slice" if SYSTEMD else f"/berth-test/{self.tag}"
        self.cgroup_path = f"/berthtest.slice/{self.cgroup}" if SYSTEMD else self.cgroup
        self.root, self.run = f"{self.tmp}/root", f"{self.tmp}/run"
        self.sock = f"{self.tmp}/s/berth.sock"
        self.cni_dir = f"{self.tmp}/net.d"
        self.leases = f"{self.tmp}/leases"
        self.logs = f"{self.tmp}/logs"
        self.helpers = f"{self.tmp}/helpers"
        self.stderr_path = f"{self.tmp}/stderr"
        open(self.stderr_path, "w").close()
        self.fake = fake
        self.runtime = runtime
        self.env = env or {}
        self.prepare = None  # for a shell, in mounts of its own, before berthd starts
        self.proc = self.channel = None
        self.names = 0
        self.net = 50 + Daemon.counter % 150
        for d in (self.cni_dir, self.helpers, self.logs):
            os.makedirs(d)
        for h in HELPERS:
            if built(h):
                os.symlink(built(h), f"{self.helpers}/{os.path.basename(h)}")
        if cni:
            self.write_conflist()
        self.write_config(config or {})

    def write_conflist(self, name="10-test.conflist"):
        doc = {"cniVersion": "1.0.0", "name": self.tag, "plugins": [
            {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipMasq": False,
             "ipam": {"type": "host-local", "dataDir": self.leases,
                      "ranges": [[{"subnet": f"10.{self.net}.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": False}]}
        with open(f"{self.cni_dir}/{name}.tmp", "w") as f:
            json.dump(doc, f)
        os.rename(f"{self.cni_dir}/{name}.tmp", f"{self.cni_dir}/{name}")

    def write_config(self, over):
        lib = {n: built(p) for n, p in PLUGINS.items()}
        c = {"root": self.root, "run": self.run, "cri": {"listen": self.sock}, "log": {"level": "debug"},
             "images": {"policy": f"{self.tmp}/policy.json", "registries": f"{self.tmp}/registries.conf"}}
        if self.fake:
            c.update(plugins={"fake": {"path": lib["fake"]}}, storage={"driver": "fake"}, network={"plugin": "fake"},
                     runtimes={"default": "fake", "handlers": {"fake": {"plugin": "fake"}}})
        else:
            plugins = {"storage-overlay": {"path": lib["storage-overlay"]}, "runtime-runc": {"path": lib["runtime-runc"]}}
            if lib["net-cni"]:
                plugins["net-cni"] = {"path": lib["net-cni"], "conf_dir": self.cni_dir, "bin_dirs": [CNI_BIN]}
            c.update(plugins=plugins, storage={"driver": "storage-overlay"},
                     network={"plugin": "net-cni" if lib["net-cni"] else ""},
                     runtimes={"default": self.runtime,
                               "handlers": {self.runtime: {"plugin": "runtime-runc", "path": RUNTIMES[self.runtime],
                                                           "root": f"{self.tmp}/runc"}}})
        if SYSTEMD:
            c["cri"]["cgroup_driver"] = "systemd"
        for k, v in over.items():
            c[k] = {**c.get(k, {}), **v} if isinstance(v, dict) else v
        with open(f"{self.tmp}/berth.yaml", "w") as f:
            json.dump(c, f)  # JSON is YAML

    def inject(self, instance="fake", **kv):
        """What the fake plugin shall do from now on; nothing: behave."""
        path = f"{self.run}/plugins/{instance}/inject"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "w") as f:
            f.write("".join(f"{k}={v}\n" for k, v in kv.items()))
        os.rename(path + ".new", path)

    # -- life --

    def start(self, env=None, wait=True, nofile=None):
        assert self.proc is None
        full = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET" and not k.startswith("BERTH_")}
        full.update(self.env)
        full.update(env or {})
        full.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
        full.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1:exitcode=99")
        self.err = open(self.stderr_path, "ab")
        argv = [os.path.join(build_dir(), "core/berthd"), "--config", f"{self.tmp}/berth.yaml", "--helpers", self.helpers]
        prepare = [self.prepare] if self.prepare else []
        if self.runtime == "crun":  # it refuses a hybrid of cgroup v1 and v2: its daemon does not see the v2 part
            prepare.append("umount /sys/fs/cgroup/unified 2>/dev/null")
        if prepare:
            argv = ["unshare", "-m", "sh", "-c", "; ".join(prepare + ["exec \"$@\""]), "sh"] + argv
        if nofile:
            argv = ["prlimit", f"--nofile={nofile}:{nofile}", "--"] + argv
        self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.err, stderr=self.err, env=full, cwd="/")
        if wait:
            self.connect()
        return self

    def new_channel(self):
        return grpc.insecure_channel("unix://" + self.sock, options=[
            ("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20),
            ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200)])

    def connect(self, timeout=60):
        _, rpc, _, arpc = stubs()
        end = time.monotonic() + timeout
        while True:
            assert self.proc.poll() is None, f"berthd ended with {self.proc.returncode}:\n{self.tail()}"
            assert time.monotonic() < end, f"berthd does not serve:\n{self.tail()}"
            if os.path.exists(self.sock):
                self.channel = self.new_channel()
                self.rt, self.img = rpc.RuntimeServiceStub(self.channel), rpc.ImageServiceStub(self.channel)
                self.admin = arpc.AdminStub(self.channel)
                try:
                    self.rt.Version(pb().VersionRequest(), timeout=5)
                    return
                except grpc.RpcError:
                    self.channel.close()
            time.sleep(0.01)

    def tail(self, n=60):
        with open(self.stderr_path, errors="replace") as f:
            return "".join(f.readlines()[-n:])

    def log(self):
        with open(self.stderr_path, errors="replace") as f:
            return f.read()

    def hang_up(self):
        if self.channel:
            self.channel.close()
        self.channel = None

    def dead(self, timeout=60, by=signal.SIGKILL):
        """Waits for its end by a fault point, or by another signal."""
        code = self.proc.wait(timeout)
        self.proc = None
        self.err.close()
        self.hang_up()
        assert code == -by, f"berthd ended with {code}:\n{self.tail()}"

    def kill9(self):
        self.proc.kill()
        self.dead()

    def restart(self):
        self.stop()
        return self.start()

    def stop(self):
        if not self.proc:
            return
        self.hang_up()
        self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(60)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            self.proc = None
            raise AssertionError(f"berthd does not end after SIGTERM:\n{self.tail()}")
        self.proc = None
        self.err.close()
        self.check_sanitizers()
        assert code == 0, f"berthd ended with {code}:\n{self.tail()}"

    def check_sanitizers(self):
        text = self.log()
        for bad in ("Sanitizer", "runtime error:"):
            at = text.find(bad)
            assert at < 0, text[max(0, at - 200):at + 6000]

    # -- what it left --

    def pod_init(self, pod):
        """The process that holds a pod's shared PID namespace; its command line names nothing of this daemon."""
        with open(f"{self.run}/pods/{pod[0]}/monitor.json") as f:
            return json.load(f)["pid"]

    def check_clean(self):
        """Nothing is left of pods and containers."""
        try:
            wait_for(lambda: not self.leftovers(), 5, 0.05)
        except AssertionError:
            raise AssertionError(f"left behind: {json.dumps(self.leftovers(), indent=1)}\n{self.tail()}") from None

    def snapshots(self):
        """Files of the storage driver, less those that are always there."""
        base = f"{self.root}/plugins/{'fake' if self.fake else 'storage-overlay'}"
        return sorted(os.path.relpath(p, base) for p in glob.glob(f"{base}/*/*"))

    def remove_all(self):
        for p in self.rt.ListPodSandbox(pb().ListPodSandboxRequest()).items:
            self.rt.RemovePodSandbox(pb().RemovePodSandboxRequest(pod_sandbox_id=p.id), timeout=60)

    def remove_images(self):
        for i in self.img.ListImages(pb().ListImagesRequest()).images:
            self.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image=i.id)), timeout=60)

    def close(self):
        """Takes away what is there, by force; then complains. For the end of every test."""
        trouble = None
        try:
            if self.proc and self.proc.poll() is None:
                self.inject() if self.fake else None
                self.remove_all()
                self.check_clean()
        except Exception as e:  # the forced cleaning comes first
            trouble = e
        try:
            if self.proc and self.proc.poll() is not None:
                raise AssertionError(f"berthd ended by itself with {self.proc.returncode}:\n{self.tail()}")
            self.stop()
            self.check_sanitizers()
        except Exception as e:
            trouble = trouble or e
        self.force()
        if trouble:
            raise trouble

    def force(self):
        self.hang_up()
        if self.proc and self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.wipe()

    # -- CRI in short --

    def import_image(self, image=None, name=IMAGE):
        path = pullharness.layout(self.tmp, image or busybox_image(), dirname=f"layout{self.names}")
        self.names += 1
        try:
            r = self.admin.ImportImage(stubs()[2].ImportImageRequest(path=path, reference=name), timeout=120)
        finally:
            shutil.rmtree(path)
        return r.images[0].image_id

    def pod_config(self, name=None, host_network=True, pid=1, **kw):
        """pid: 0 POD, 1 CONTAINER, 2 NODE (NamespaceMode)."""
        m = pb()
        if name is None:
            self.names += 1
            name = f"pod{self.names}"
        ns = m.NamespaceOption(network=m.NODE if host_network else m.POD, pid=pid, ipc=kw.pop("ipc", 0))
        meta = m.PodSandboxMetadata(name=name, namespace=kw.pop("namespace", "test"), uid=kw.pop("uid", f"uid-{name}"),
                                    attempt=kw.pop("attempt", 0))
        sc = m.LinuxSandboxSecurityContext(namespace_options=ns)
        linux = m.LinuxPodSandboxConfig(cgroup_parent=self.cgroup, security_context=sc, sysctls=kw.pop("sysctls", {}))
        return m.PodSandboxConfig(metadata=meta, log_directory=f"{self.logs}/{name}", linux=linux, **kw)

    def run_pod(self, config=None, timeout=60, handler="", **kw):
        config = config or self.pod_config(**kw)
        r = self.rt.RunPodSandbox(pb().RunPodSandboxRequest(config=config, runtime_handler=handler), timeout=timeout)
        return r.pod_sandbox_id, config

    def ctr_config(self, *args, name="ctr", pid=1, image=IMAGE, **kw):
        m = pb()
        sc = kw.pop("security_context", None) or m.LinuxContainerSecurityContext()
        sc.namespace_options.CopyFrom(m.NamespaceOption(pid=pid, network=kw.pop("network", 2)))
        linux = m.LinuxContainerConfig(security_context=sc, resources=kw.pop("resources", None))
        return m.ContainerConfig(metadata=m.ContainerMetadata(name=name, attempt=kw.pop("attempt", 0)),
                                 image=m.ImageSpec(image=image), command=list(args),
                                 log_path=kw.pop("log_path", f"{name}.log"), linux=linux, **kw)

    def create(self, pod, *args, timeout=60, config=None, **kw):
        """pod: (id, config) of run_pod()."""
        if config is None:
            ns = pod[1].linux.security_context.namespace_options
            config = self.ctr_config(*args, **{"network": ns.network, "pid": ns.pid, **kw})
        return self.rt.CreateContainer(pb().CreateContainerRequest(
            pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1]), timeout=timeout).container_id

    def start_ctr(self, cid, timeout=60):
        self.rt.StartContainer(pb().StartContainerRequest(container_id=cid), timeout=timeout)

    def run_ctr(self, pod, *args, **kw):
        cid = self.create(pod, *args, **kw)
        self.start_ctr(cid)
        return cid

    def status(self, cid, verbose=False):
        r = self.rt.ContainerStatus(pb().ContainerStatusRequest(container_id=cid, verbose=verbose), timeout=20)
        return r if verbose else r.status

    def wait_exit(self, cid, timeout=20):
        wait_for(lambda: self.status(cid).state == pb().CONTAINER_EXITED, timeout)
        return self.status(cid)

    def stop_ctr(self, cid, grace=0, timeout=60):
        self.rt.StopContainer(pb().StopContainerRequest(container_id=cid, timeout=grace), timeout=timeout)

    def remove_ctr(self, cid, timeout=60):
        self.rt.RemoveContainer(pb().RemoveContainerRequest(container_id=cid), timeout=timeout)

    def stop_pod(self, pod, timeout=60):
        self.rt.StopPodSandbox(pb().StopPodSandboxRequest(pod_sandbox_id=pod[0]), timeout=timeout)

    def remove_pod(self, pod, timeout=60):
        self.rt.RemovePodSandbox(pb().RemovePodSandboxRequest(pod_sandbox_id=pod[0]), timeout=timeout)

    def pod_status(self, pod):
        return self.rt.PodSandboxStatus(pb().PodSandboxStatusRequest(pod_sandbox_id=pod[0]), timeout=20).status

    def pods(self, **f):
        return list(self.rt.ListPodSandbox(pb().ListPodSandboxRequest(filter=pb().PodSandboxFilter(**f))).items)

    def ctrs(self, **f):
        return list(self.rt.ListContainers(pb().ListContainersRequest(filter=pb().ContainerFilter(**f))).containers)

    def exec(self, cid, *cmd, timeout=0, rpc_timeout=60):
        return self.rt.ExecSync(pb().ExecSyncRequest(container_id=cid, cmd=cmd, timeout=timeout), timeout=rpc_timeout)

    def sh(self, cid, script, **kw):
        """Output of a script in the container; it must succeed."""
        r = self.exec(cid, "/bin/sh", "-c", script, **kw)
        assert r.exit_code == 0, (r.exit_code, r.stdout, r.stderr)
        return r.stdout.decode()

    def log_lines(self, pod, name="ctr"):
        """(stream, text) of the container's log, whole lines joined."""
        out, part = [], ""
        with open(f"{pod[1].log_directory}/{name}.log", errors="replace") as f:
            for line in f:
                _, stream, tag, text = line.rstrip("\n").split(" ", 3)
                part += text
                if tag == "F":
                    out.append((stream, part))
                    part = ""
        return out
