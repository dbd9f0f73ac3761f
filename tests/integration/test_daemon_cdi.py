"""CDI devices in a real container."""
import json
import os

import pytest

import daemon
from daemon import fails, pb

pytestmark = daemon.needs_daemon

SPEC = {"cdiVersion": "0.6.0", "kind": "acme.com/dev", "containerEdits": {"env": ["ACME=all"]}, "devices": [
    {"name": "full", "containerEdits": {
        "env": ["ACME_FULL=1"], "additionalGids": [4444],
        "deviceNodes": [{"path": "/dev/acme", "hostPath": "/dev/full", "permissions": "rw"}],
        "mounts": [{"hostPath": "DIR/lib", "containerPath": "/acme/lib", "options": ["ro", "nosuid", "nodev", "bind"]}],
        "hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", "echo ran > DIR/hook"]}]}}]}


@pytest.fixture
def cdi(make_daemon):
    d = make_daemon(start=False)
    os.makedirs(f"{d.tmp}/cdi/lib")
    with open(f"{d.tmp}/cdi/lib/so", "w") as f:
        f.write("library\n")
    with open(f"{d.tmp}/cdi/acme.json", "w") as f:
        f.write(json.dumps(SPEC).replace("DIR", f"{d.tmp}/cdi"))
    d.write_config({"cri": {"listen": d.sock, "cdi_spec_dirs": [f"{d.tmp}/none", f"{d.tmp}/cdi"]}})
    d.start()
    d.import_image()
    return d


def device(name):
    return pb().CDIDevice(name=name)


def test_a_device(cdi):
    d = cdi
    pod = d.run_pod()
    cid = d.run_ctr(pod, "sleep", "100", CDI_devices=[device("acme.com/dev=full")])
    assert d.sh(cid, "echo $ACME $ACME_FULL; cat /acme/lib/so") == "all 1\nlibrary\n"
    assert d.exec(cid, "sh", "-c", "echo x > /dev/acme").exit_code != 0, "/dev/full takes nothing"
    assert b"No space" in d.exec(cid, "dd", "if=/dev/zero", "of=/dev/acme", "count=1").stderr
    assert d.exec(cid, "touch", "/acme/lib/x").exit_code != 0
    assert "4444" in d.sh(cid, "id -G").split()
    assert 4444 in d.status(cid).user.linux.supplemental_groups
    assert open(f"{d.tmp}/cdi/hook").read() == "ran\n"
    plain = d.run_ctr(pod, "sleep", "100", name="plain")
    assert d.exec(plain, "test", "-e", "/dev/acme").exit_code == 1
    by_note = d.run_ctr(pod, "sleep", "100", name="note", annotations={"cdi.k8s.io/x": "acme.com/dev=full"})
    assert d.sh(by_note, "test -c /dev/acme; cat /acme/lib/so") == "library\n"


def test_refused(cdi):
    d = cdi
    pod = d.run_pod()
    with fails("NOT_FOUND", "acme.com/dev=other", f"{d.tmp}/cdi"):
        d.create(pod, "sh", CDI_devices=[device("acme.com/dev=other")])
    with fails("INVALID_ARGUMENT", "CDI_devices", "VENDOR/CLASS=NAME"):
        d.create(pod, "sh", CDI_devices=[device("full")])
    with open(f"{d.tmp}/cdi/again.yaml", "w") as f:
        f.write("cdiVersion: 0.6.0\nkind: acme.com/dev\ndevices: [{name: full, containerEdits: {}}]\n")
    with fails("FAILED_PRECONDITION", "acme.json", "again.yaml"):
        d.create(pod, "sh", CDI_devices=[device("acme.com/dev=full")])
    assert d.ctrs() == [] and [s for s in d.snapshots() if s.startswith("active/")] == []
