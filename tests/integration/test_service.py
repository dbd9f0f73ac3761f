"""berthd as the unit that is installed, under a systemd that is process 1, with cgroups that systemd makes."""
import glob
import json
import os
import subprocess
import time

import pytest

from daemon import SYSTEMD, Daemon, build_dir, built, missing, pb, stubs, wait_for

SCOPE = "/system.slice/berth-helpers.scope"


def why_not():
    if missing():
        return missing()
    if not SYSTEMD:
        return "needs BERTH_TEST_CGROUPS=systemd"
    if not os.path.isdir("/run/systemd/system"):
        return "needs systemd as process 1"
    return None if built("docs/berth.service") else "the build has no berth.service"


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def systemctl(*args, check=True):
    r = subprocess.run(["systemctl", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert not check or r.returncode == 0, (args, r.stdout)
    return r.stdout.strip()


class Service(Daemon):
    """The daemon as a unit: the one that the build installs, with this build's paths."""

    def __init__(self):
        super().__init__(cni=False, runtime="runc")
        self.unit = f"{self.tag}.service"
        self.files = []

    def drop_in(self, text):
        path = f"/run/systemd/system/{self.unit}.d/test.conf"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(f"[Service]\nEnvironment=ASAN_OPTIONS=exitcode=99\nStandardError=append:{self.stderr_path}\n{text}")
        systemctl("daemon-reload")

    def install(self):
        with open(built("docs/berth.service")) as f:
            text = f.read().split("\n")
        argv = f"{build_dir()}/core/berthd --config {self.tmp}/berth.yaml --helpers {self.helpers}"
        assert [x for x in text if x.startswith("ExecStart=")]
        text = [f"ExecStart={argv}" if x.startswith("ExecStart=") else x for x in text]
        with open(f"/run/systemd/system/{self.unit}", "w") as f:
            f.write("\n".join(text))
        self.drop_in("")

    def show(self, name, unit=None):
        return systemctl("show", "-P", name, unit or self.unit)

    def pid(self):
        return int(self.show("MainPID"))

    def up(self, verb="start"):
        """systemctl's return is the moment from which the socket answers: no second try."""
        self.hang_up()
        systemctl(verb, self.unit)
        self.dial()

    def dial(self):
        _, rpc, _, arpc = stubs()
        self.channel = self.new_channel()
        self.rt, self.img = rpc.RuntimeServiceStub(self.channel), rpc.ImageServiceStub(self.channel)
        self.admin = arpc.AdminStub(self.channel)
        self.rt.Version(pb().VersionRequest(), timeout=10)

    def pids(self):
        main = self.pid()
        return [x for x in super().pids() if x[0] != main]

    def uninstall(self):
        systemctl("stop", self.unit, check=False)
        subprocess.run(["rm", "-rf", f"/run/systemd/system/{self.unit}", f"/run/systemd/system/{self.unit}.d"])
        systemctl("daemon-reload", check=False)


@pytest.fixture(scope="module")
def shared_service():
    d = Service()
    try:
        d.install()
        d.up()
        d.import_image()
        yield d
        systemctl("stop", d.unit)
        assert d.show("Result") == "success", d.tail()
        d.check_sanitizers()
    finally:
        d.uninstall()
        d.force()


@pytest.fixture
def service(shared_service):
    """It, with nothing of an earlier test but its image."""
    d = shared_service
    systemctl("reset-failed", d.unit)  # and the count of restarts
    yield d
    d.remove_all()
    d.check_clean()


def ctr_pid(d, cid):
    return json.loads(d.status(cid, verbose=True).info["info"])["pid"]


def cgroup_of(pid):
    with open(f"/proc/{pid}/cgroup") as f:
        return f.read().strip().rsplit(":", 1)[1]


def started(pid):
    """A process, not just its number."""
    with open(f"/proc/{pid}/stat") as f:
        return pid, f.read().rsplit(")", 1)[1].split()[19]


class Running:
    """Two pods with containers, and everything that must still be the same afterwards."""

    def __init__(self, d):
        self.d = d
        self.pods = [d.run_pod(), d.run_pod(config=d.pod_config(pid=0))]
        self.ticker = d.run_ctr(self.pods[0], "sh", "-c", "n=0; while :; do echo $n; n=$((n + 1)); sleep 0.1; done", name="tick")
        self.other = d.run_ctr(self.pods[1], "sleep", "1000", name="other")
        self.leaver = d.run_ctr(self.pods[0], "sh", "-c", "while [ ! -e /go ]; do sleep 0.1; done; exit 7", name="leaver")
        self.inits = {c: started(ctr_pid(d, c)) for c in (self.ticker, self.other, self.leaver)}
        self.helpers = {started(p) for p, line in d.pids() if "berth-monitor" in line or "berth-init" in line}
        assert len(self.helpers) >= 4, d.pids()

    def check(self, leaver=True):
        d = self.d
        assert {c: started(p[0]) for c, p in self.inits.items() if leaver or c != self.leaver} == \
            {c: p for c, p in self.inits.items() if leaver or c != self.leaver}
        if leaver:
            assert {started(p[0]) for p in self.helpers} == self.helpers

    def check_served(self):
        """Everything answers through a berthd that was not there when it began."""
        d = self.d
        self.check()
        for p in self.pods:
            assert d.pod_status(p).state == pb().SANDBOX_READY
        for c in self.inits:
            assert d.status(c).state == pb().CONTAINER_RUNNING
        assert d.sh(self.other, "echo in").strip() == "in"
        before = len(d.log_lines(self.pods[0], "tick"))
        wait_for(lambda: len(d.log_lines(self.pods[0], "tick")) > before + 3)
        lines = [int(t) for _, t in d.log_lines(self.pods[0], "tick")]
        assert lines == list(range(len(lines)))


def test_where_the_processes_are(service):
    d = service
    assert cgroup_of(d.pid()) == f"/system.slice/{d.unit}"
    r = Running(d)
    for c, (pid, _) in r.inits.items():
        assert cgroup_of(pid).startswith(f"/berthtest.slice/{d.cgroup}/"), cgroup_of(pid)
        assert c in cgroup_of(pid) and cgroup_of(pid).endswith(".scope")
    for pid, _ in r.helpers:
        assert cgroup_of(pid).startswith((f"{SCOPE}/monitors", f"/berthtest.slice/{d.cgroup}")), cgroup_of(pid)
    monitors = [x for x in d.pids() if "berth-monitor" in x[1]]
    assert all(any(c in line for _, line in monitors) for c in r.inits), monitors
    assert {cgroup_of(p) for p, _ in monitors} == {f"{SCOPE}/monitors"}
    assert d.show("Delegate", os.path.basename(SCOPE)) == "yes"
    with open(f"/sys/fs/cgroup/system.slice/{d.unit}/cgroup.procs") as f:
        assert f.read().split() == [str(d.pid())]


def test_restart(service):
    r, was = Running(service), service.pid()
    for _ in range(2):
        service.up("restart")
        assert service.pid() not in (0, was)
        was = service.pid()
        r.check_served()
    assert service.show("Result") == "success"


def test_stop_and_start(service):
    d, r = service, Running(service)
    root = f"/proc/{r.inits[r.leaver][0]}/root"
    d.hang_up()
    systemctl("stop", d.unit)
    assert d.show("ActiveState") == "inactive" and d.show("Result") == "success" and d.pid() == 0
    r.check()
    open(f"{root}/go", "w").close()
    wait_for(lambda: not os.path.exists(f"/proc/{r.inits[r.leaver][0]}"))
    r.check(leaver=False)
    d.up()
    s = d.wait_exit(r.leaver)
    assert (s.exit_code, s.reason) == (7, "Error")
    del r.inits[r.leaver]
    r.helpers = {p for p in r.helpers if os.path.exists(f"/proc/{p[0]}")}
    r.check_served()


def wait_for_next(d, was, restarts):
    """systemd starts another berthd by itself."""
    d.hang_up()
    wait_for(lambda: d.pid() not in (0, was) and d.show("ActiveState") == "active", 60, 0.1)
    assert int(d.show("NRestarts")) == restarts
    d.dial()


def test_kill_9(service):
    d, r = service, Running(service)
    for n in range(1, 3):
        was = d.pid()
        systemctl("kill", "-s", "KILL", "--kill-who=main", d.unit)
        wait_for_next(d, was, n)
        r.check_served()


def watchdog(d, seconds):
    d.hang_up()
    d.drop_in(f"WatchdogSec={seconds}\nTimeoutAbortSec=2\nEnvironment=ASAN_OPTIONS=disable_coredump=1\n")
    d.up("restart")


def test_watchdog_of_a_berthd_that_answers(service):
    watchdog(service, 4)
    was = service.pid()
    time.sleep(8)
    assert service.pid() == was and service.show("NRestarts") == "0"


@pytest.mark.parametrize("how", ["stopped", "socket"])
def test_watchdog_of_one_that_does_not(service, how):
    """It lives, and no call comes through: the process hangs, or its socket is no longer there."""
    d, r = service, Running(service)
    watchdog(d, 4)
    was = d.pid()
    if how == "stopped":
        os.kill(was, 19)
    else:
        os.unlink(d.sock)
    wait_for_next(d, was, 1)
    r.check_served()


def test_an_update_reaches_the_cgroup_that_systemd_made(service):
    d = service
    cid = d.run_ctr(d.run_pod(), "sleep", "1000")
    res = pb().LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512)
    d.rt.UpdateContainerResources(pb().UpdateContainerResourcesRequest(container_id=cid, linux=res), timeout=30)
    cgroup = cgroup_of(ctr_pid(d, cid))
    with open(f"/sys/fs/cgroup{cgroup}/memory.max") as f:
        assert int(f.read()) == 64 << 20
    scope = next(x for x in cgroup.split("/") if cid in x)
    assert int(d.show("MemoryMax", scope)) == 64 << 20  # a reload of systemd would set another value again
    stats = d.rt.ContainerStats(pb().ContainerStatsRequest(container_id=cid), timeout=30).stats
    assert stats.memory.usage_bytes.value > 0
    d.remove_all()
    wait_for(lambda: not glob.glob(f"/sys/fs/cgroup{d.cgroup_path}/*{cid}*"))
    assert d.show("LoadState", scope) == "not-found"


def test_the_helpers_scope_is_made_once(service):
    d = service
    keeper = open(f"/sys/fs/cgroup{SCOPE}/cgroup.procs").read().split()
    d.up("restart")
    assert open(f"/sys/fs/cgroup{SCOPE}/cgroup.procs").read().split() == keeper and len(keeper) == 1
