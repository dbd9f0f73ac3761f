"""Ends that come in the middle: of a pod while containers are created and started, over the fake plugin, which can be
slow anywhere; of a start that fails."""
import json
import os
import time

import grpc
import pytest

from daemon import RUNTIMES, built, fails, pb, wait_for

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not built("tests/fake/fake.so"), reason="the build has no fake plugin")]


def ending(d, pod, how):
    """The request, under way."""
    m = pb()
    if how == "stop":
        return d.rt.StopPodSandbox.future(m.StopPodSandboxRequest(pod_sandbox_id=pod[0]), timeout=30)
    return d.rt.RemovePodSandbox.future(m.RemovePodSandboxRequest(pod_sandbox_id=pod[0]), timeout=30)


def check_ended(d, pod, how, made):
    """What was created before is ended with the pod, and nothing else is there."""
    if how == "remove":
        assert d.pods() == [] and d.ctrs() == [] and os.listdir(f"{d.run}/containers") == []
        d.check_clean()
        return
    assert d.pod_status(pod).state == pb().SANDBOX_NOTREADY
    assert {c.id: c.state for c in d.ctrs()} == dict.fromkeys(made, pb().CONTAINER_EXITED)
    d.remove_pod(pod)


# While its containers end, and while what it has is released.
@pytest.mark.parametrize("how, slow", [("stop", "runtime.kill"), ("stop", "network.detach"),
                                       ("remove", "runtime.kill"), ("remove", "runtime.remove"),
                                       ("remove", "network.detach")])
def test_create_and_start_in_a_pod_that_ends(fake, how, slow):
    pod = fake.run_pod(host_network=False)
    made = [fake.run_ctr(pod, "sh", name="running"), fake.create(pod, "sh", name="created")]
    fake.inject(delay_op=slow, delay_ms=1000, delay_hard=1)
    over = ending(fake, pod, how)
    time.sleep(0.3)
    with fails("FAILED_PRECONDITION|NOT_FOUND", pod[0]):
        fake.create(pod, "sh", name="late")
    with fails("FAILED_PRECONDITION|NOT_FOUND", made[1]):
        fake.start_ctr(made[1])
    fake.inject()
    over.result()
    check_ended(fake, pod, how, made)


@pytest.mark.parametrize("how", ["stop", "remove"])
@pytest.mark.parametrize("slow", ["storage.prepare", "runtime.create"])
def test_a_pod_ends_while_a_container_is_being_created(fake, how, slow):
    """It is waited for, told to its client, and ended."""
    pod = fake.run_pod(host_network=False)
    fake.inject(delay_op=slow, delay_ms=1000, delay_hard=1)
    q = pb().CreateContainerRequest(pod_sandbox_id=pod[0], config=fake.ctr_config("sh", network=0), sandbox_config=pod[1])
    creating = fake.rt.CreateContainer.future(q, timeout=30)
    time.sleep(0.3)
    over = ending(fake, pod, how)
    time.sleep(0.3)
    assert not over.done() and os.path.exists(f"{fake.run}/ns/{pod[0]}/net")
    with fails("FAILED_PRECONDITION", pod[0]):
        fake.rt.CreateContainer(q, timeout=30)  # the same: it does not join either
    over.result()
    check_ended(fake, pod, how, [creating.result().container_id])


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("how", ["stop", "remove"])
def test_an_end_that_failed_is_final_and_tried_again(fake, how, restarted):
    pod = fake.run_pod(host_network=False)
    cid = fake.create(pod, "sh")
    fake.inject(fail_op="network.detach", fail_status=14)
    with fails("UNAVAILABLE", "network.detach"):
        ending(fake, pod, how).result()
    wait_for(lambda: fake.pod_status(pod).state == pb().SANDBOX_NOTREADY)
    if restarted:
        fake.kill9()
        fake.start()
        assert fake.pod_status(pod).state == pb().SANDBOX_NOTREADY
    with fails("FAILED_PRECONDITION", pod[0]):
        fake.create(pod, "sh", name="late")
    fake.inject()
    ending(fake, pod, how).result()
    check_ended(fake, pod, how, [cid])


def test_killed_in_the_middle_of_a_stop_a_pod_is_not_ready(make_daemon):
    d = make_daemon(fake=True, env={"BERTH_FAULT": "pod-ending"})
    pod = d.run_pod(host_network=False)
    cid = d.run_ctr(pod, "sh")
    with pytest.raises(grpc.RpcError):
        ending(d, pod, "stop").result()
    d.dead()
    d.env = {}
    d.start()
    with fails("FAILED_PRECONDITION", pod[0]):
        d.create(pod, "sh", name="late")
    ending(d, pod, "stop").result()
    check_ended(d, pod, "stop", [cid])


# As the runtime that was killed, or that ran out of something, just after the program had begun; and just before.
@pytest.mark.parametrize("when", ["after", "before"])
def test_nothing_runs_on_of_a_start_that_failed(make_daemon, when):
    d = make_daemon(start=False)
    over = f'"{RUNTIMES["runc"]}" "$@"; ' if when == "after" else ""
    with open(f"{d.tmp}/half", "w") as f:
        f.write(f"""#!/bin/sh
for word; do [ "$word" = start ] && {{ {over}echo half a start >&2; exit 1; }}; done
exec "{RUNTIMES["runc"]}" "$@"
""")
    os.chmod(f"{d.tmp}/half", 0o755)
    d.write_config({"runtimes": {"default": "runc", "handlers": {"runc": {
        "plugin": "runtime-runc", "path": f"{d.tmp}/half", "root": f"{d.tmp}/runc"}}}})
    d.start()
    d.image_id = d.import_image()
    pod = d.run_pod(host_network=False)
    cid = d.create(pod, "sleep", "1000")
    with open(f"{d.run}/containers/{cid}/monitor.json") as f:
        pid = json.load(f)["pid"]
    with fails("INTERNAL|UNKNOWN|FAILED_PRECONDITION", "half a start", cid):
        d.start_ctr(cid)
    s = d.status(cid)
    assert s.state == pb().CONTAINER_EXITED and "half a start" in s.message
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    d.remove_pod(pod)
    d.check_clean()
