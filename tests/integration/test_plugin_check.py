"""berth-plugin-check on drivers for which the virtual machine has what this machine may lack. `tests/checks/plugin_check.sh`
runs all of it; here is what depends on the kernel and does not take minutes there."""
import os
import re
import subprocess

import pytest

import daemon
import test_daemon_devmapper

SOME = "storage.layers,storage.usage,storage.busy,storage.quota,storage.cancel,storage.killed-within,leaks.mounts"
CHECK = "sdk/check/berth-plugin-check"


@pytest.mark.skipif(daemon.built(CHECK) is None, reason="the build has no berth-plugin-check")
@pytest.mark.skipif(test_daemon_devmapper.missing() is not None, reason=str(test_daemon_devmapper.missing()))
@pytest.mark.timeout(400)
def test_storage_devmapper():
    p = subprocess.run([f"{daemon.REPO}/tests/checks/plugin_check.sh", daemon.built(CHECK),
                        os.path.join(daemon.build_dir(), "core/monitor"),
                        daemon.built("plugins/storage-devmapper/storage-devmapper.so"), "--only", SOME],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(p.stdout)
    assert p.returncode == 0, p.stdout[-4000:]
    said = re.findall(r"^(ok|not ok) ", p.stdout, re.M)
    assert len(said) >= len(SOME.split(",")) and set(said) == {"ok"}
