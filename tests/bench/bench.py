#!/usr/bin/python3
"""Measures a container runtime through its CRI socket and prints one JSON object with every sample.

    bench.py --socket /run/berth/berth.sock --image IMAGE [--pull IMAGE] [--load IMAGE,...] [--reps 10]

Times are wall clock at the client, in ms; memory is PSS in KiB. IMAGE must be in the runtime or pullable, and hold
`sleep` and `true`. Run it as root on the runtime's own machine: its process is found through the socket.
"""
import argparse
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import grpc

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "core", "cri", "cri.proto")


def stubs():
    """The CRI's messages and stubs, made from the project's own .proto for this run."""
    from grpc_tools import protoc
    out = tempfile.mkdtemp(prefix="berth-bench-")
    if protoc.main(["protoc", "-I" + os.path.dirname(PROTO), "--python_out=" + out, "--grpc_python_out=" + out, PROTO]):
        sys.exit("bench: cannot compile " + PROTO)
    sys.path.insert(0, out)
    import cri_pb2
    import cri_pb2_grpc
    shutil.rmtree(out)
    return cri_pb2, cri_pb2_grpc


class Client:
    def __init__(self, path):
        self.pb, rpc = stubs()
        channel = grpc.insecure_channel("unix://" + path, options=[
            ("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", 64 << 20)])
        self.rt, self.im = rpc.RuntimeServiceStub(channel), rpc.ImageServiceStub(channel)
        self.path = path

    def spec(self, image):
        return self.pb.ImageSpec(image=image)

    def run_pod(self, logs):
        pb = self.pb
        name = "bench-" + uuid.uuid4().hex[:12]
        modes = pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER, ipc=pb.POD)
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=uuid.uuid4().hex, namespace="bench"),
            hostname=name, log_directory=logs, labels={"bench": "1"},
            linux=pb.LinuxPodSandboxConfig(cgroup_parent="/berth-bench",
                                           security_context=pb.LinuxSandboxSecurityContext(namespace_options=modes)))
        got = self.rt.RunPodSandbox(pb.RunPodSandboxRequest(config=config), timeout=120)
        return got.pod_sandbox_id, config

    def create(self, pod, config, image, command):
        pb = self.pb
        ctr = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"), image=self.spec(image), command=command,
            log_path=pod[:12] + ".log", linux=pb.LinuxContainerConfig(
                resources=pb.LinuxContainerResources(cpu_shares=100, memory_limit_in_bytes=256 << 20),
                security_context=pb.LinuxContainerSecurityContext(
                    namespace_options=config.linux.security_context.namespace_options)))
        return self.rt.CreateContainer(pb.CreateContainerRequest(
            pod_sandbox_id=pod, config=ctr, sandbox_config=config), timeout=120).container_id

    def start(self, ctr):
        self.rt.StartContainer(self.pb.StartContainerRequest(container_id=ctr), timeout=120)

    def exec(self, ctr, *argv):
        r = self.rt.ExecSync(self.pb.ExecSyncRequest(container_id=ctr, cmd=argv, timeout=30), timeout=60)
        if r.exit_code:
            sys.exit("bench: %s in the container: exit code %d: %r" % (argv, r.exit_code, r.stderr))

    def stop(self, ctr):
        self.rt.StopContainer(self.pb.StopContainerRequest(container_id=ctr, timeout=0), timeout=120)

    def remove(self, ctr):
        self.rt.RemoveContainer(self.pb.RemoveContainerRequest(container_id=ctr), timeout=120)

    def end_pod(self, pod):
        self.rt.StopPodSandbox(self.pb.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=120)
        self.rt.RemovePodSandbox(self.pb.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=120)

    def pull(self, image):
        self.im.PullImage(self.pb.PullImageRequest(image=self.spec(image)), timeout=600)

    def have(self, image):
        return bool(self.im.ImageStatus(self.pb.ImageStatusRequest(image=self.spec(image))).image.id)

    def drop(self, image):
        self.im.RemoveImage(self.pb.RemoveImageRequest(image=self.spec(image)), timeout=120)

    def pid(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.path)
            return struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def pss(pid):
    try:
        with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def helpers(daemon):
    """Processes that a runtime keeps beside its containers: monitors and shims. {pid: "comm"}"""
    found = {}
    for pid in (int(d) for d in os.listdir("/proc") if d.isdigit()):
        try:
            with open("/proc/%d/comm" % pid, encoding="ascii") as f:
                comm = f.read().strip()
            with open("/proc/%d/cmdline" % pid, "rb") as f:
                args = f.read()
        except OSError:
            continue
        if pid != daemon and (comm.startswith("berth-mon") or comm.startswith("containerd-shim") or comm == "conmon"):
            found[pid] = args
    return found


class Samples(dict):
    def timed(self, name, fn, *args):
        begin = time.perf_counter()
        result = fn(*args)
        self.setdefault(name, []).append((time.perf_counter() - begin) * 1000)
        return result


def latencies(c, o, s):
    for i in range(o.reps + 1):
        t = Samples()
        begin = time.perf_counter()
        pod, config = t.timed("run_pod", c.run_pod, o.logs)
        middle = time.perf_counter()
        ctr = t.timed("create", c.create, pod, config, o.image, ["sleep", "1000"])
        t.timed("start", c.start, ctr)
        end = time.perf_counter()
        t["create_start"] = [(end - middle) * 1000]
        t["nothing_to_running"] = [(end - begin) * 1000]
        for _ in range(3):
            t.timed("exec", c.exec, ctr, "true")
        t.timed("stop", c.stop, ctr)
        t.timed("remove", c.remove, ctr)
        t.timed("stop_remove_pod", c.end_pod, pod)
        for name in t if i else ():  # the first one warms caches
            s.setdefault(name, []).extend(t[name])


def memory(c, o, s):
    daemon = c.pid()
    s["daemon_pss_kib"] = [pss(daemon)]
    before = helpers(daemon)
    pod, config = c.run_pod(o.logs)
    ctr = c.create(pod, config, o.image, ["sleep", "1000"])
    c.start(ctr)
    time.sleep(1)
    s["monitors_pss_kib"] = [sum(pss(p) for p in helpers(daemon) if p not in before)]
    c.stop(ctr)
    c.end_pod(pod)


def pulls(c, o, s):
    for _ in range(o.pulls):
        if c.have(o.pull):
            c.drop(o.pull)
            time.sleep(1)  # removals that go on behind the answer
        before = pss(c.pid())
        peak, over = [before], threading.Event()

        def watch():
            while not over.wait(0.05):
                peak.append(pss(c.pid()))
        watcher = threading.Thread(target=watch)
        watcher.start()
        s.timed("pull", c.pull, o.pull)
        over.set()
        watcher.join()
        s.setdefault("pull_daemon_growth_kib", []).append(max(peak) - before)


def lists(c, o, s):
    """ListContainers and ListPodSandbox, while all of --load are pulled and as many pods are stopped."""
    images = o.load.split(",")
    for image in images:
        if c.have(image):
            c.drop(image)
    pods = []
    for _ in images:
        pod, config = c.run_pod(o.logs)
        c.start(c.create(pod, config, o.image, ["sleep", "1000"]))
        pods.append(pod)
    work = [threading.Thread(target=c.pull, args=(i,)) for i in images] + \
           [threading.Thread(target=c.end_pod, args=(p,)) for p in pods]
    # In a process of its own: here it would wait for the interpreter's lock behind the load's threads.
    poller = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--socket", o.socket, "--poll"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    poller.stdout.readline()
    for w in work:
        w.start()
    for w in work:
        w.join()
    s.setdefault("list_under_load", []).extend(json.loads(poller.communicate()[0]))


def poll(c):
    """Lists every 5 ms until standard input ends, then prints how long each call took."""
    s, over = Samples(), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    c.rt.ListContainers(c.pb.ListContainersRequest())
    print("ready", flush=True)
    while not over.wait(0.005):
        s.timed("list", c.rt.ListContainers, c.pb.ListContainersRequest())
        s.timed("list", c.rt.ListPodSandbox, c.pb.ListPodSandboxRequest())
    json.dump(s["list"], sys.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--socket", required=True)
    p.add_argument("--image", help="for containers")
    p.add_argument("--poll", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--pull", help="an image to measure a pull with")
    p.add_argument("--pulls", type=int, default=3)
    p.add_argument("--load", help="images to pull at once while lists are measured")
    p.add_argument("--reps", type=int, default=10)
    o = p.parse_args()
    if not o.poll and not o.image:
        p.error("--image is missing")
    c, s = Client(o.socket), Samples()
    if o.poll:
        poll(c)
        return
    o.logs = tempfile.mkdtemp(prefix="berth-bench-logs-")
    try:
        v = c.rt.Version(c.pb.VersionRequest())
        if not c.have(o.image):
            c.pull(o.image)
        memory(c, o, s)
        latencies(c, o, s)
        if o.load:
            lists(c, o, s)
        if o.pull:
            pulls(c, o, s)
        json.dump({"runtime": v.runtime_name + " " + v.runtime_version, "samples": s}, sys.stdout)
        print()
    finally:
        for pod in c.rt.ListPodSandbox(c.pb.ListPodSandboxRequest(
                filter=c.pb.PodSandboxFilter(label_selector={"bench": "1"}))).items:
            c.end_pod(pod.id)
        shutil.rmtree(o.logs, ignore_errors=True)


if __name__ == "__main__":
    main()
