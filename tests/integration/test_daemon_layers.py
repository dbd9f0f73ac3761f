"""An image of a hundred layers, on every driver that this machine has: each layer is there, and hides what it must."""
import time

import pytest

import failing
import test_daemon_aufs
import test_daemon_btrfs
import test_daemon_devmapper
from daemon import busybox_image, missing, needs_daemon
from pullharness import Tar

pytestmark = needs_daemon
MISSING = {"overlay": missing, "btrfs": test_daemon_btrfs.missing, "devmapper": test_daemon_devmapper.missing,
           "aufs": test_daemon_aufs.no_aufs}
MORE = 98  # than busybox_image() has


@pytest.mark.timeout(300)
@pytest.mark.parametrize("driver", MISSING)
def test_a_hundred(driver, tmp_path):
    if MISSING[driver]():
        pytest.skip(MISSING[driver]())
    disk = failing.Disk(tmp_path, driver, fails=False)
    d = failing.node(driver, disk)
    try:
        d.start()
        more = [Tar().add(f"n/{i}", data=str(i)).add("top", data=str(i)) for i in range(MORE)]
        more[50].add("n/.wh.20", data="")
        more[MORE - 1].dir("late").add("late/.wh..wh..opq", data="").add("late/f", data="f")
        more[1].add("late/g", data="g")
        began = [time.monotonic()]
        d.import_image(busybox_image(more=more), name="localhost/t/hundred:1")
        began.append(time.monotonic())
        pod = d.run_pod()
        cid = d.run_ctr(pod, "sleep", "1000", image="localhost/t/hundred:1")
        began.append(time.monotonic())
        print("100 layers: import %.1f s; pod, create and start %.1f s" % (began[1] - began[0], began[2] - began[1]))
        assert d.sh(cid, "ls n | wc -l; cat top n/0 n/97 layer2; echo; ls late") == f"{MORE - 1}\n97097second\n\nf\n"
        d.sh(cid, "rm -r n/0 n/97 && echo w >n/50")
        assert d.sh(cid, "ls n | wc -l; cat n/50") == f"{MORE - 3}\nw\n"
        d.restart()
        assert d.sh(cid, "ls n | wc -l; cat n/50") == f"{MORE - 3}\nw\n"
        d.remove_all()
        d.remove_images()
        d.stop()
        d.check_sanitizers()
    finally:
        d.force()
        disk.close()
