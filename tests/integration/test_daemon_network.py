"""A network that is not there yet, or not any more."""
import glob
import json
import os
import shutil
import subprocess
import time

import pytest

from daemon import fails, needs_cni, pb, wait_for

pytestmark = needs_cni


def condition(d):
    c, = [c for c in d.rt.Status(pb().StatusRequest()).status.conditions if c.type == "NetworkReady"]
    return c


def test_a_pod_waits_for_its_network(make_daemon):
    d = make_daemon(cni=False)
    c = condition(d)
    assert not c.status and c.reason == "NetworkPluginNotReady" and d.cni_dir in c.message
    host = d.run_pod()  # needs none
    t = time.monotonic()
    with fails("UNAVAILABLE", "network", d.cni_dir):
        d.run_pod(host_network=False, timeout=2)
    assert 1 < time.monotonic() - t < 2
    assert [p.id for p in d.pods()] == [host[0]]
    config = d.pod_config(host_network=False)
    f = d.rt.RunPodSandbox.future(pb().RunPodSandboxRequest(config=config), timeout=30)
    time.sleep(0.5)
    assert not f.done()
    t = time.monotonic()
    d.write_conflist()
    pod = (f.result().pod_sandbox_id, config)
    assert time.monotonic() - t < 5
    assert d.pod_status(pod).network.ip
    assert condition(d).status
    os.unlink(f"{d.cni_dir}/10-test.conflist")
    wait_for(lambda: not condition(d).status)
    # What was attached is detached all the same.
    d.remove_pod(pod)
    assert d.veths() == [] and d.lease_files() == []


SCRIPT = """#!/bin/sh
# Is slow in, or fails, ADD or DEL while a file says so, with the seconds or the code that it holds.
if [ "$CNI_COMMAND" = VERSION ]; then
	echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'
	exit 0
fi
[ -e "$(dirname "$0")/slow-$CNI_COMMAND" ] && sleep "$(cat "$(dirname "$0")/slow-$CNI_COMMAND")"
if [ -e "$(dirname "$0")/fail-$CNI_COMMAND" ]; then
	echo "{\\"cniVersion\\":\\"1.0.0\\",\\"code\\":$(cat "$(dirname "$0")/fail-$CNI_COMMAND"),\\"msg\\":\\"$CNI_COMMAND fails for the test\\"}"
	exit 1
fi
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]}'
exit 0
"""


@pytest.fixture
def scripted(make_daemon):
    d = make_daemon(cni=False, start=False)
    os.makedirs(f"{d.tmp}/bin")
    with open(f"{d.tmp}/bin/scripted", "w") as f:
        f.write(SCRIPT)
    os.chmod(f"{d.tmp}/bin/scripted", 0o755)
    with open(f"{d.cni_dir}/10.conflist", "w") as f:
        json.dump({"cniVersion": "1.0.0", "name": "scripted", "plugins": [{"type": "scripted"}]}, f)
    with open(f"{d.tmp}/berth.yaml") as f:
        config = json.load(f)
    config["plugins"]["net-cni"]["bin_dirs"] = [f"{d.tmp}/bin"]
    with open(f"{d.tmp}/berth.yaml", "w") as f:
        json.dump(config, f)
    return d.start()


def switch(d, what, on, code=11, how="fail"):
    path = f"{d.tmp}/bin/{how}-{what}"
    if not on:
        os.unlink(path)
        return
    with open(path, "w") as f:
        f.write(str(code))


def attachments(d):
    return {f.split("@")[0] for f in os.listdir(f"{d.root}/plugins/net-cni/attachments")}


def reboot(d):
    d.kill9()
    for m in sorted((m for m in d.mounts() if m.startswith(d.run)), reverse=True):
        subprocess.run(["umount", "-l", m], check=True)
    shutil.rmtree(d.run)


def test_capabilities(scripted):
    """What a plugin that declares them gets of the pod."""
    d = scripted
    with open(f"{d.tmp}/bin/scripted", "w") as f:
        f.write(f'#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] && cat >{d.tmp}/given\n' + SCRIPT.split("\n", 1)[1])
    with open(f"{d.cni_dir}/10.conflist", "w") as f:
        caps = {k: True for k in ("bandwidth", "cgroupPath", "dns", "ips", "mac")}
        json.dump({"cniVersion": "1.0.0", "name": "scripted", "plugins": [{"type": "scripted", "capabilities": caps}]}, f)
    wait_for(lambda: condition(d).status)
    rate = "kubernetes.io/%s-bandwidth"
    config = d.pod_config(host_network=False, annotations={rate % "ingress": "10M", rate % "egress": "512Ki"})
    d.run_pod(config=config)
    with open(f"{d.tmp}/given") as f:
        given = json.load(f)["runtimeConfig"]
    burst = (1 << 32) * 8 - 9
    assert given == {"cgroupPath": config.linux.cgroup_parent, "bandwidth": {
        "ingressRate": 10000000, "ingressBurst": burst, "egressRate": 512 << 10, "egressBurst": burst}}
    d.run_pod(host_network=False)
    with open(f"{d.tmp}/given") as f:
        assert set(json.load(f)["runtimeConfig"]) == {"cgroupPath"}
    d.run_pod(host_network=False, annotations={"berth.io/ips": "10.1.2.3/24,fd00::3", "berth.io/mac": "02:00:00:00:00:0a"})
    with open(f"{d.tmp}/given") as f:
        given = json.load(f)["runtimeConfig"]
    assert given["ips"] == ["10.1.2.3/24", "fd00::3"] and given["mac"] == "02:00:00:00:00:0a"
    for bad in ("", "10.1.2.3,", "10.1.2.3/33", "10.1.2.3/", "10.1.2.3 ", "fd00::3/129", "fd00::3/x", "ten", ",".join(["10.0.0.1"] * 9)):
        with fails("INVALID_ARGUMENT", "berth.io/ips", f'"{bad}"'):
            d.run_pod(host_network=False, annotations={"berth.io/ips": bad})
    for bad in ("", "02:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:0g", "02:00:00:00:00:01:02"):
        with fails("INVALID_ARGUMENT", "berth.io/mac", f'"{bad}"'):
            d.run_pod(host_network=False, annotations={"berth.io/mac": bad})
    for bad in ("999", "1001P", "fast", "", "-1", "1.5M"):
        with fails("INVALID_ARGUMENT", rate % "egress", f'"{bad}"'):
            d.run_pod(host_network=False, annotations={rate % "egress": bad})
    assert len(d.pods()) == 3
    d.remove_all()
    d.check_clean()


def test_a_network_that_cannot_be_attached(scripted):
    d = scripted
    switch(d, "ADD", True)
    config = d.pod_config(host_network=False)
    with fails("INTERNAL|FAILED_PRECONDITION|UNAVAILABLE|UNKNOWN", "scripted", "ADD fails for the test"):
        d.run_pod(config=config)
    assert d.pods() == []
    d.check_clean()
    switch(d, "ADD", False)
    assert d.pod_status(d.run_pod(config=config)).network.ip == "10.9.8.7"


@pytest.mark.parametrize("restart", [False, True])
def test_a_network_that_cannot_be_undone(scripted, restart):
    d = scripted
    switch(d, "ADD", True)
    switch(d, "DEL", True)
    with fails("INTERNAL|FAILED_PRECONDITION|UNAVAILABLE|UNKNOWN", "ADD fails for the test"):
        d.run_pod(host_network=False)
    # It holds something: who cleans up must see it.
    p, = d.pods()
    assert p.state == pb().SANDBOX_NOTREADY
    with fails("INTERNAL|FAILED_PRECONDITION|UNAVAILABLE|UNKNOWN", "DEL fails for the test"):
        d.remove_pod((p.id, None))
    assert [x.id for x in d.pods()] == [p.id]
    switch(d, "DEL", False)
    if restart:
        d.kill9()
        d.start()
    d.remove_pod((p.id, None))
    assert d.pods() == []
    d.check_clean()


def test_a_network_that_cannot_be_detached(scripted):
    d = scripted
    pod = d.run_pod(host_network=False)
    switch(d, "DEL", True)
    for _ in range(2):
        with fails("INTERNAL|FAILED_PRECONDITION|UNAVAILABLE|UNKNOWN", "DEL fails for the test", pod[0]):
            d.stop_pod(pod)
    assert d.pod_status(pod).state == pb().SANDBOX_NOTREADY  # its end was begun, and must be tried again
    d.kill9()
    d.start()
    with fails("INTERNAL|FAILED_PRECONDITION|UNAVAILABLE|UNKNOWN", "DEL fails for the test", pod[0]):
        d.remove_pod(pod)
    switch(d, "DEL", False)
    d.stop_pod(pod)
    d.remove_pod(pod)


def test_a_reboot_before_the_network_works(scripted):
    d = scripted
    old = {d.run_pod(host_network=False)[0] for _ in range(4)}
    switch(d, "DEL", True, how="slow", code=5)
    switch(d, "DEL", True)
    reboot(d)
    t = time.monotonic()
    d.start()
    assert time.monotonic() - t < 10
    assert d.pods() == [] and attachments(d) == old
    # Pods come meanwhile, and a stop does not wait.
    pod = d.run_pod(host_network=False)
    t = time.monotonic()
    d.stop()
    assert time.monotonic() - t < 10
    d.start()
    switch(d, "DEL", False, how="slow")
    wait_for(lambda: "networks of nobody may be left" in d.log(), 30)
    assert attachments(d) == old | {pod[0]}
    late = d.run_pod(host_network=False)
    switch(d, "DEL", False)
    wait_for(lambda: attachments(d) == {pod[0], late[0]}, 30)
    for p in (pod, late):
        d.remove_pod(p)


def test_networks_of_half_made_pods_do_not_hold_the_start(scripted):
    d = scripted
    pods = [d.run_pod(host_network=False) for _ in range(4)]
    d.kill9()
    for p in pods[:3]:
        path = f"{d.run}/pods/{p[0]}/pod.json"
        with open(path) as f:
            record = json.load(f)
        record["phase"] = "removing"
        with open(path, "w") as f:
            json.dump(record, f)
    switch(d, "DEL", True, how="slow", code=20)
    t = time.monotonic()
    d.start()
    assert time.monotonic() - t < 18
    state = {p.id: p.state for p in d.pods()}
    assert state == {**{p[0]: pb().SANDBOX_NOTREADY for p in pods[:3]}, pods[3][0]: pb().SANDBOX_READY}
    switch(d, "DEL", False, how="slow")
    for p in pods:
        d.remove_pod(p)
    assert attachments(d) == set()
    d.check_clean()


def test_a_network_that_does_not_know_the_pod(scripted):
    d = scripted
    pod = d.run_pod(host_network=False)
    switch(d, "DEL", True, code=3)  # there is nothing to clean up
    d.stop_pod(pod)
    d.remove_pod(pod)
    assert d.pods() == []
    d.check_clean()


def test_not_found_of_a_plugin_is_not_that_of_the_pod(make_daemon):
    d = make_daemon(fake=True)
    pod = d.run_pod(host_network=False)
    d.inject(fail_op="network.detach", fail_status=5)
    with fails("UNAVAILABLE", "network.detach"):
        d.stop_pod(pod)
    with fails("UNAVAILABLE", "network.detach"):
        d.remove_pod(pod)
    assert [p.id for p in d.pods()] == [pod[0]]
    d.inject()
    d.stop_pod(pod)
    d.remove_pod(pod)


def test_addresses_run_out_and_come_back(make_daemon):
    d = make_daemon()
    with open(f"{d.cni_dir}/10-test.conflist") as f:
        text = f.read()
    with open(f"{d.cni_dir}/10-test.conflist", "w") as f:
        f.write(text.replace(f"10.{d.net}.0.0/24", f"10.{d.net}.0.0/29"))
    time.sleep(1)
    pods = [d.run_pod(host_network=False) for _ in range(5)]
    with fails("INTERNAL|RESOURCE_EXHAUSTED|UNAVAILABLE|UNKNOWN|FAILED_PRECONDITION", "network"):
        d.run_pod(host_network=False)
    assert len(d.pods()) == 5 and len(d.veths()) == 5
    d.remove_pod(pods[0])
    assert len(d.lease_files()) == 4
    d.run_pod(host_network=False)


def test_the_namespace_is_gone_before_the_stop(make_daemon):
    d = make_daemon()
    pod = d.run_pod(host_network=False)
    net = f"{d.run}/ns/{pod[0]}/net"
    subprocess.run(["umount", net], check=True)
    d.stop_pod(pod)
    d.remove_pod(pod)
    assert d.lease_files() == []


def test_removing_works_without_the_cni_directory(make_daemon):
    d = make_daemon()
    pod = d.run_pod(host_network=False)
    for f in glob.glob(f"{d.cni_dir}/*"):
        os.unlink(f)
    d.kill9()
    d.start()
    d.remove_pod(pod)
    assert d.veths() == [] and d.lease_files() == []
