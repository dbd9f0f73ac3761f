"""The CRI surface over the fake plugin: every op fails, is slow, is raced for."""
import json
import os
import signal
import threading
import time

import grpc
import pytest

import daemon
from daemon import IMAGE, built, fails, pb, stubs, wait_for

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not built("tests/fake/fake.so"), reason="the build has no fake plugin")]


def only_image_layers(d):
    return [s for s in d.snapshots() if "/" in s]


# ---- an op fails: its request does, with the plugin's code and words, and leaves nothing ----

@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "FAILED_PRECONDITION"])
def test_attach_fails(fake, code):
    number = getattr(grpc.StatusCode, code).value[0]
    fake.inject(fail_op="network.attach", fail_status=number)
    config = fake.pod_config(host_network=False)
    with fails(code, "network.attach", "failed as it was told to"):
        fake.run_pod(config=config)
    assert fake.pods() == []
    fake.check_clean()
    fake.inject()
    assert fake.pod_status(fake.run_pod(config=config)).network.ip.startswith("10.200.")


@pytest.mark.parametrize("op", ["storage.prepare", "runtime.create"])
def test_create_fails(fake, op):
    pod = fake.run_pod()
    before = only_image_layers(fake)
    fake.inject(fail_op=op, fail_status=8)
    with fails("RESOURCE_EXHAUSTED", op):
        fake.create(pod, "sh")
    assert fake.ctrs() == [] and os.listdir(f"{fake.run}/containers") == []
    assert only_image_layers(fake) == before and not [m for m in fake.mounts() if "/containers/" in m]
    fake.inject()
    fake.create(pod, "sh")


@pytest.mark.parametrize("by", ["container", "pod", "restart"])
@pytest.mark.parametrize("make, undo", [("runtime.create", "runtime.remove"), ("storage.prepare", "storage.remove")])
def test_create_and_its_undo_fail(fake, by, make, undo):
    """What is left is listed, and goes with a removal or a start that can."""
    pod = fake.run_pod()
    before = only_image_layers(fake)
    fake.inject(fail_op=f"{make},{undo}", fail_status=14)
    with fails("UNAVAILABLE", make):
        fake.create(pod, "sh")
    st = fake.status(fake.ctrs(pod_sandbox_id=pod[0])[0].id)
    assert (st.state, st.exit_code, st.reason) == (pb().CONTAINER_EXITED, 128, "CreateError")
    assert make in st.message and st.created_at > 0 and st.finished_at > 0
    with fails("ALREADY_EXISTS", st.id):
        fake.create(pod, "sh")
    with fails("FAILED_PRECONDITION", st.id):
        fake.start_ctr(st.id)
    assert fake.status(st.id, verbose=True).status == st
    with fails("UNAVAILABLE", undo):
        fake.remove_ctr(st.id)
    if by == "pod":
        with fails("UNAVAILABLE", undo):
            fake.remove_pod(pod)
    assert [c.id for c in fake.ctrs()] == os.listdir(f"{fake.run}/containers") == [st.id]
    fake.inject()
    if by == "restart":
        fake.restart()
    elif by == "container":
        fake.stop_ctr(st.id)
        fake.remove_ctr(st.id)
    else:
        fake.remove_pod(pod)
    assert fake.ctrs() == [] and os.listdir(f"{fake.run}/containers") == []
    assert only_image_layers(fake) == before and not [m for m in fake.mounts() if "/containers/" in m]
    if by != "pod":
        fake.create(pod, "sh")


def sandbox_row(d, pod):
    with open(f"{d.run}/plugins/fake/sandboxes/{pod[0]}") as f:
        return dict(line.rstrip("\n").split("=", 1) for line in f)


def test_a_runtime_has_its_sandbox(fake):
    """What the kubelet says of the pod comes to sandbox_create(), and its state comes back, over a restart, too."""
    config = fake.pod_config(annotations={"io.example/x": "y"})
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    pod = fake.run_pod(config=config)
    row = sandbox_row(fake, pod)
    assert row["io.example/x"] == "y" and row["cgroup_parent"] == fake.cgroup
    assert json.loads(row["resources"])["memory"]["limit"] == 64 << 20
    fake.create(pod, "sh")  # fails where it comes with another state
    fake.kill9()
    fake.start()
    fake.create(pod, "sh", name="again")
    fake.remove_pod(pod)  # likewise
    fake.check_clean()
    fake.inject(fail_op="runtime.sandbox_create", fail_status=8)
    with fails("RESOURCE_EXHAUSTED", "runtime.sandbox_create"):
        fake.run_pod()
    assert fake.pods() == []
    fake.check_clean()


def test_what_an_update_wrote_before_it_failed_is_taken_back(fake):
    cid = fake.run_ctr(fake.run_pod(), "sh", resources=pb().LinuxContainerResources(cpu_shares=512))
    change = pb().LinuxContainerResources(cpu_shares=700, memory_limit_in_bytes=64 << 20)
    fake.inject(fail_op="runtime.update", fail_status=13, fail_count=1)
    with fails("INTERNAL", cid, "runtime.update"):
        fake.rt.UpdateContainerResources(pb().UpdateContainerResourcesRequest(container_id=cid, linux=change))
    with open(f"{fake.run}/plugins/fake/ctrs/{cid}") as f:
        row = dict(line.rstrip("\n").split("=", 1) for line in f)
    update = json.loads(row["update"])
    assert update["memory"]["limit"] == -1 and update["cpu"]["shares"] == 512
    status = fake.rt.ContainerStatus(pb().ContainerStatusRequest(container_id=cid)).status.resources.linux
    assert (status.cpu_shares, status.memory_limit_in_bytes) == (512, 0)


def test_start_fails(fake):
    pod = fake.run_pod()
    cid = fake.create(pod, "sh")
    fake.inject(fail_op="runtime.start", fail_status=9)
    with fails("FAILED_PRECONDITION", "runtime.start", cid):
        fake.start_ctr(cid)
    st = fake.status(cid)
    assert (st.state, st.exit_code, st.reason) == (pb().CONTAINER_EXITED, 128, "StartError")
    assert "failed as it was told to" in st.message and st.finished_at > 0
    fake.inject()
    fake.remove_ctr(cid)


@pytest.mark.parametrize("op", ["runtime.remove", "storage.remove"])
def test_remove_fails_and_works_later(fake, op):
    pod = fake.run_pod()
    cid = fake.run_ctr(pod, "sh")
    fake.inject(fail_op=op, fail_status=14)
    with fails("UNAVAILABLE", op):
        fake.remove_ctr(cid)
    assert fake.status(cid).state == pb().CONTAINER_EXITED
    with fails("UNAVAILABLE", op):
        fake.remove_pod(pod)
    assert [p.id for p in fake.pods()] == [pod[0]]
    fake.inject()
    fake.remove_ctr(cid)
    assert fake.ctrs() == []
    fake.remove_pod(pod)


def test_detach_fails_and_works_later(fake):
    pod = fake.run_pod(host_network=False)
    fake.inject(fail_op="network.detach", fail_status=14)
    with fails("UNAVAILABLE", "network.detach"):
        fake.stop_pod(pod)
    with fails("UNAVAILABLE", "network.detach"):
        fake.remove_pod(pod)
    assert [p.id for p in fake.pods()] == [pod[0]]
    assert os.path.exists(f"{fake.run}/ns/{pod[0]}/net"), "the network's next try needs it"
    fake.inject()
    fake.stop_pod(pod)
    assert fake.pod_status(pod).state == pb().SANDBOX_NOTREADY
    fake.remove_pod(pod)


def test_a_pod_without_its_init_that_cannot_be_stopped(fake):
    """It is told as not ready, so that its client stops it again."""
    pod = fake.run_pod(pid=0, host_network=False)
    fake.inject(fail_op="network.detach", fail_status=14)
    with open(f"{fake.run}/pods/{pod[0]}/monitor.json") as f:
        os.kill(json.load(f)["pid"], signal.SIGKILL)
    wait_for(lambda: fake.pod_status(pod).state == pb().SANDBOX_NOTREADY)
    wait_for(lambda: "could not be stopped" in fake.log())
    with fails("FAILED_PRECONDITION"):
        fake.create(pod, "true")
    with fails("UNAVAILABLE"):
        fake.stop_pod(pod)
    fake.restart()
    wait_for(lambda: fake.pod_status(pod).state == pb().SANDBOX_NOTREADY)
    fake.inject()
    fake.stop_pod(pod)
    fake.remove_pod(pod)


def test_kill_fails_and_is_tried_again(fake):
    pod = fake.run_pod()
    cid = fake.run_ctr(pod, "sh")
    fake.inject(fail_op="runtime.kill", fail_status=13)
    f = fake.rt.StopContainer.future(pb().StopContainerRequest(container_id=cid), timeout=30)
    time.sleep(1)
    assert not f.done()
    fake.inject()
    f.result()
    assert fake.status(cid).exit_code == 137


def test_state_fails_and_is_asked_again(fake):
    pod = fake.run_pod()
    cid = fake.run_ctr(pod, "sh")
    fake.inject(fail_op="runtime.state", fail_status=13)
    f = fake.rt.StopContainer.future(pb().StopContainerRequest(container_id=cid), timeout=30)
    time.sleep(1.5)
    assert fake.status(cid).state == pb().CONTAINER_RUNNING
    fake.inject()
    f.result()
    assert fake.status(cid).exit_code == 137


def test_exec_fails(fake):
    pod = fake.run_pod()
    cid = fake.run_ctr(pod, "sh")
    fake.inject(fail_op="runtime.exec", fail_status=8)
    with fails("RESOURCE_EXHAUSTED", "runtime.exec", cid):
        fake.exec(cid, "true")
    fake.inject()
    assert fake.exec(cid, "true").exit_code == 0


@pytest.mark.parametrize("op", ["storage.prepare", "storage.commit"])
def test_import_fails(make_daemon, op):
    d = make_daemon(fake=True, image=False)
    before = only_image_layers(d)
    d.inject(fail_op=op, fail_status=8)
    with fails("RESOURCE_EXHAUSTED", op):
        d.import_image()
    assert not d.img.ListImages(pb().ListImagesRequest()).images
    assert [s for s in only_image_layers(d) if "pull" in s] == [s for s in before if "pull" in s]
    d.inject()
    d.import_image()
    assert len(d.img.ListImages(pb().ListImagesRequest()).images) == 1


# ---- a daemon that dies inside an op ----

@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("op", ["network.attach", "storage.prepare", "runtime.create", "runtime.start", "runtime.remove",
                                "network.detach", "storage.remove"])
def test_killed_inside(make_daemon, op, when):
    d = make_daemon(fake=True)
    config = d.pod_config(host_network=False)
    d.inject(kill_op=op, kill_when=when)
    pod = cid = None
    with fails("UNAVAILABLE|UNKNOWN|CANCELLED"):
        pod = d.run_pod(config=config)
        cid = d.create(pod, "sh")
        d.start_ctr(cid)
        d.remove_ctr(cid)
        d.remove_pod(pod)
    d.dead()
    d.inject()
    d.start()
    # A removal that was begun is ended; a pod that was half-made is not there.
    assert [p.id for p in d.pods()] == ([pod[0]] if pod and op != "network.detach" else [])
    if op == "runtime.start":
        assert [c.id for c in d.ctrs()] == [cid]
        assert d.status(cid).state == (pb().CONTAINER_RUNNING if when == "after" else pb().CONTAINER_CREATED)
    if not d.pods():
        pod = d.run_pod(config=config)
    if not d.ctrs() and d.pod_status(pod).state == pb().SANDBOX_READY:
        d.start_ctr(d.create(pod, "sh"))
    d.remove_pod(pod)
    d.check_clean()


@pytest.mark.parametrize("how,by", [("fault", signal.SIGSEGV), ("abort", signal.SIGABRT)])
def test_the_last_words_name_the_plugin(make_daemon, how, by):
    d = make_daemon(fake=True)
    plain = {"ASAN_OPTIONS": "handle_segv=0"}  # or it takes over after those words
    d.stop()
    d.start(env=plain)
    pod = d.run_pod()
    cid = d.create(pod, "sh")
    d.inject(kill_op="runtime.start", kill_how=how)
    with fails("UNAVAILABLE|UNKNOWN|CANCELLED"):
        d.start_ctr(cid)
    d.dead(by=by)
    line = [s for s in d.log().splitlines() if "berthd crashed" in s]
    assert len(line) == 1 and f"signal={by.name}" in line[0], line
    assert f'plugin="fake" op="runtime.start" object="{cid}"' in line[0]
    assert ("address=0x1000 " in line[0]) == (how == "fault")
    d.inject()
    d.start(env=plain)
    assert [c.id for c in d.ctrs()] == [cid]
    d.proc.send_signal(signal.SIGSEGV)  # from outside, in no plugin
    d.dead(by=signal.SIGSEGV)
    line = [s for s in d.log().splitlines() if "berthd crashed" in s][-1]
    assert 'signal=SIGSEGV thread="berthd"' in line
    d.start()
    d.start_ctr(cid)
    d.remove_pod(pod)
    d.check_clean()


# ---- races ----

def test_a_retry_joins_the_running_pod(fake):
    fake.inject(delay_op="network.attach", delay_ms=1500)
    config = fake.pod_config(host_network=False)
    q = pb().RunPodSandboxRequest(config=config)
    futures = [fake.rt.RunPodSandbox.future(q, timeout=30) for _ in range(5)]
    time.sleep(0.4)
    other = fake.pod_config(name=config.metadata.name, host_network=False, labels={"other": "1"})
    with fails("ALREADY_EXISTS", config.metadata.name):
        fake.run_pod(config=other)
    assert len({f.result().pod_sandbox_id for f in futures}) == 1
    assert len(fake.pods()) == 1


def test_a_retry_after_a_deadline_gets_the_same_pod(fake):
    fake.inject(delay_op="network.attach", delay_ms=1500)
    config = fake.pod_config(host_network=False)
    with fails("DEADLINE_EXCEEDED"):
        fake.run_pod(config=config, timeout=0.4)
    pod = fake.run_pod(config=config, timeout=30)  # joins
    assert [p.id for p in fake.pods()] == [pod[0]]
    other = fake.pod_config(host_network=False)
    with fails("DEADLINE_EXCEEDED"):
        fake.run_pod(config=other, timeout=0.4)
    wait_for(lambda: len(fake.pods()) == 2)
    again = fake.run_pod(config=other)  # it is there: nobody got it yet
    assert len(fake.pods()) == 2
    with fails("ALREADY_EXISTS", again[0]):
        fake.run_pod(config=other)


@pytest.mark.parametrize("delay_op", ["storage.prepare", "runtime.create"])
def test_a_retry_joins_the_running_create(fake, delay_op):
    pod = fake.run_pod()
    fake.inject(delay_op=delay_op, delay_ms=1200)
    q = pb().CreateContainerRequest(pod_sandbox_id=pod[0], config=fake.ctr_config("sh"), sandbox_config=pod[1])
    with fails("DEADLINE_EXCEEDED"):
        fake.rt.CreateContainer(q, timeout=0.3)
    futures = [fake.rt.CreateContainer.future(q, timeout=30) for _ in range(4)]
    ids = {f.result().container_id for f in futures}
    assert len(ids) == 1 and [c.id for c in fake.ctrs()] == list(ids)
    with fails("ALREADY_EXISTS"):
        fake.rt.CreateContainer(q)
    with fails("DEADLINE_EXCEEDED"):
        fake.create(pod, "sh", name="second", timeout=0.3)
    wait_for(lambda: len(fake.ctrs()) == 2)
    cid = fake.create(pod, "sh", name="second")
    assert len(fake.ctrs()) == 2 and cid not in ids


def test_joined_callers_all_get_the_failure(fake):
    fake.inject(delay_op="network.attach", delay_ms=700, fail_op="network.attach", fail_status=8)
    q = pb().RunPodSandboxRequest(config=fake.pod_config(host_network=False))
    futures = [fake.rt.RunPodSandbox.future(q, timeout=30) for _ in range(4)]
    for f in futures:
        with fails("RESOURCE_EXHAUSTED"):
            f.result()
    assert fake.pods() == []


def test_lists_do_not_wait_for_slow_ops(fake):
    fake.inject(delay_op="network.attach,runtime.create", delay_ms=2000, delay_hard=1)
    pod = fake.run_pod()
    slow = [fake.rt.RunPodSandbox.future(pb().RunPodSandboxRequest(config=fake.pod_config(host_network=False)), timeout=60)
            for _ in range(20)]
    q = pb().CreateContainerRequest(pod_sandbox_id=pod[0], config=fake.ctr_config("sh"), sandbox_config=pod[1])
    creating = fake.rt.CreateContainer.future(q, timeout=60)
    time.sleep(0.2)
    times = []
    while not all(f.done() for f in slow):
        t = time.monotonic()
        fake.pods()
        fake.ctrs()
        fake.rt.Status(pb().StatusRequest())
        times.append(time.monotonic() - t)
    creating.result()
    for f in slow:
        f.result()
    times.sort()
    assert len(times) > 50 and times[len(times) // 2] < 0.05, times[::len(times) // 10]


def test_start_stop_and_remove_at_once(fake):
    pod = fake.run_pod()
    fake.inject(delay_op="runtime.start,runtime.kill", delay_ms=200)
    m = pb()
    cids = [fake.create(pod, "sh", name=f"r{i}") for i in range(10)]
    trouble = []

    def hit(fn):
        try:
            fn()
        except grpc.RpcError as e:
            if e.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                trouble.append(e)
    threads = []
    for cid in cids:
        for fn in (lambda c=cid: fake.start_ctr(c), lambda c=cid: fake.stop_ctr(c, grace=1),
                   lambda c=cid: fake.remove_ctr(c), lambda c=cid: fake.exec(c, "true")):
            threads.append(threading.Thread(target=hit, args=(fn,)))
    threads.append(threading.Thread(target=hit, args=(lambda: fake.stop_pod(pod),)))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not trouble
    fake.remove_pod(pod)
    assert fake.ctrs() == [] and m


def test_an_exit_by_itself(fake):
    fake.inject(exit_after_ms=200, exit_code=6)
    pod = fake.run_pod()
    st = fake.wait_exit(fake.run_ctr(pod, "sh"))
    assert (st.exit_code, st.reason) == (6, "Error")


def test_sigterm_while_work_is_under_way(make_daemon):
    d = make_daemon(fake=True)
    d.inject(delay_op="network.attach", delay_ms=1500, delay_hard=1)
    config = d.pod_config(host_network=False)
    f = d.rt.RunPodSandbox.future(pb().RunPodSandboxRequest(config=config), timeout=30)
    time.sleep(0.4)
    d.proc.terminate()
    try:
        pod = f.result().pod_sandbox_id
    except grpc.RpcError as e:
        assert e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), e
        pod = None
    assert d.proc.wait(30) == 0
    d.proc = None
    d.hang_up()
    d.inject()
    d.start()
    if pod:
        assert [p.id for p in d.pods()] == [pod]
    d.remove_all()
    d.check_clean()


def test_sigterm_while_the_network_is_not_ready(make_daemon):
    d = make_daemon(fake=True)
    d.inject(not_ready="not yet")
    wait_for(lambda: not [c for c in d.rt.Status(pb().StatusRequest()).status.conditions if c.type == "NetworkReady"][0]
             .status, 60, 0.2)
    f = d.rt.RunPodSandbox.future(pb().RunPodSandboxRequest(config=d.pod_config(host_network=False)), timeout=60)
    time.sleep(0.3)
    d.stop()
    with fails("UNAVAILABLE|CANCELLED"):
        f.result()


# ---- clients that vanish ----

def vanish(d, service, method, request, after=0.4):
    """A call of a client that is gone in the middle, connection and all."""
    m = stubs()
    c = d.new_channel()
    stub = getattr(m[1], service + "Stub")(c) if service != "Admin" else m[3].AdminStub(c)
    f = getattr(stub, method).future(request, timeout=60)
    time.sleep(after)
    assert not f.done(), f.exception()
    c.close()


def test_a_client_vanishes_in_run_pod(fake):
    fake.inject(delay_op="network.attach", delay_ms=1000)
    config = fake.pod_config(host_network=False)
    vanish(fake, "RuntimeService", "RunPodSandbox", pb().RunPodSandboxRequest(config=config))
    pod = fake.run_pod(config=config)
    assert [p.id for p in fake.pods()] == [pod[0]]


def test_a_client_vanishes_in_create(fake):
    pod = fake.run_pod()
    fake.inject(delay_op="runtime.create", delay_ms=1000)
    q = pb().CreateContainerRequest(pod_sandbox_id=pod[0], config=fake.ctr_config("sh"), sandbox_config=pod[1])
    vanish(fake, "RuntimeService", "CreateContainer", q)
    cid = fake.rt.CreateContainer(q, timeout=30).container_id
    assert [c.id for c in fake.ctrs()] == [cid]


def test_a_client_vanishes_in_exec(fake):
    pod = fake.run_pod()
    cid = fake.run_ctr(pod, "sh")
    vanish(fake, "RuntimeService", "ExecSync",
           pb().ExecSyncRequest(container_id=cid, cmd=["sleep", f"987{os.getpid()}"]))
    wait_for(lambda: not [p for p in os.listdir("/proc") if p.isdigit() and is_sleep(p, f"987{os.getpid()}")])


def is_sleep(pid, arg):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().split(b"\0")[1:2] == [arg.encode()]
    except OSError:
        return False


def test_a_client_vanishes_in_stop(fake):
    pod = fake.run_pod()
    fake.inject(ignore_term=1)
    cid = fake.run_ctr(pod, "sh")
    vanish(fake, "RuntimeService", "StopContainer", pb().StopContainerRequest(container_id=cid, timeout=2))
    assert fake.wait_exit(cid).exit_code == 137


def test_a_client_vanishes_in_import(make_daemon):
    d = make_daemon(fake=True, image=False)
    d.inject(delay_op="storage.commit", delay_ms=1500)
    path = daemon.pullharness.layout(d.tmp, daemon.busybox_image())
    vanish(d, "Admin", "ImportImage", stubs()[2].ImportImageRequest(path=path, reference=IMAGE), after=1.2)
    wait_for(lambda: not [p for p in d.pids() if "berth-pull" in p[1]])
    d.inject()
    d.import_image()


def test_sigterm_while_stops_and_execs_are_under_way(make_daemon):
    d = make_daemon(fake=True)
    d.inject(ignore_term=1)
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sh")
    stop = d.rt.StopContainer.future(pb().StopContainerRequest(container_id=cid, timeout=300), timeout=60)
    run = d.rt.ExecSync.future(pb().ExecSyncRequest(container_id=cid, cmd=["sleep", "1000"], timeout=5), timeout=60)
    time.sleep(0.5)
    d.stop()
    for f in (stop, run):
        with fails("UNAVAILABLE|CANCELLED|DEADLINE_EXCEEDED"):
            f.result()
    d.start()
    assert d.status(cid).state == pb().CONTAINER_RUNNING
