"""What a berthd of a test leaves on the machine: processes, cgroups, mounts, addresses. Found, and taken away by force."""
import glob
import os
import signal
import subprocess
import time


class Traces:
    """Of a daemon.Daemon, by its names and directories."""

    def pids(self):
        """Processes that belong to this daemon, by what their command line names."""
        out = []
        for p in glob.glob("/proc/[0-9]*"):
            pid = int(p[6:])
            if pid == os.getpid() or (self.proc and pid == self.proc.pid):
                continue
            try:
                with open(f"{p}/cmdline", "rb") as f:
                    line = f.read()
                with open(f"{p}/stat", "rb") as f:
                    state = f.read().rsplit(b")", 1)[1].split()[0]
            except OSError:
                continue
            if self.tmp.encode() in line and state not in (b"Z", b"X"):
                out.append((pid, line.replace(b"\0", b" ").decode(errors="replace")))
        return out

    def cgroups(self):
        return [g for g in glob.glob(f"/sys/fs/cgroup/*{self.cgroup_path}/*/") + glob.glob(f"/sys/fs/cgroup{self.cgroup_path}/*/")]

    def cgroup_file(self, cid, v1, v2):
        """A file of the container's cgroup, seen from the node: by its name in a v1 hierarchy or in the v2 tree."""
        at = f"{self.cgroup_path}/*{cid}*"
        got = glob.glob(f"/sys/fs/cgroup/*{at}/{v1}") + (
            # in a scope crun's limits are those of a cgroup of its own
            glob.glob(f"/sys/fs/cgroup{at}/container/{v2}") or glob.glob(f"/sys/fs/cgroup{at}/{v2}"))
        assert len({os.path.realpath(g) for g in got}) == 1, got
        with open(got[0]) as f:
            return f.read().strip()

    def limits(self, cid):
        """What the kernel has in force for a container, whatever it is called."""
        names = [("cpu.shares", "cpu.weight"), ("cpu.cfs_quota_us", "cpu.max"), ("cpu.cfs_period_us", "cpu.max"),
                 ("cpuset.cpus", "cpuset.cpus.effective"), ("cpuset.mems", "cpuset.mems.effective"),
                 ("memory.limit_in_bytes", "memory.max"), ("memory.memsw.limit_in_bytes", "memory.swap.max")]
        return {v1: self.cgroup_file(cid, v1, v2) for v1, v2 in names}

    def veths(self):
        return sorted(os.listdir(f"/sys/class/net/{self.bridge}/brif")) if os.path.exists(
            f"/sys/class/net/{self.bridge}/brif") else []

    def lease_files(self):
        return [f for f in glob.glob(f"{self.leases}/*/*") if os.path.basename(f)[0].isdigit()]

    def mounts(self):
        with open("/proc/self/mountinfo") as f:
            return [line.split()[4] for line in f if f" {self.tmp}" in line]

    def nft(self):
        got = subprocess.run("iptables-save -t nat 2>/dev/null", shell=True, stdout=subprocess.PIPE, text=True).stdout
        return [x for x in got.splitlines() if f"10.{self.net}.0." in x]

    def objects(self):
        out = []
        for d in ("pods", "containers", "ns"):
            out += glob.glob(f"{self.run}/{d}/*")
        return out

    def leftovers(self):
        out = {"processes": self.pids(), "cgroups": self.cgroups(), "veths": self.veths(), "leases": self.lease_files(),
               "mounts": self.mounts(), "objects": self.objects(), "nat": self.nft(),
               "runtime": os.listdir(f"{self.tmp}/runc") if os.path.exists(f"{self.tmp}/runc") else []}
        if self.fake:
            out["fake"] = [p for at in (f"{self.run}/plugins/fake/ctrs", f"{self.run}/plugins/fake/sandboxes", f"{self.root}/plugins/fake/net")
                           for p in glob.glob(f"{at}/*") if not p.endswith(".tmp")]
        return {k: v for k, v in out.items() if v}

    def wipe(self):
        """Takes all of it away, with the daemon's directory."""
        for c in self.cgroups():
            for pid in open(f"{c}cgroup.procs").read().split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for pid, _ in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for m in sorted(self.mounts(), reverse=True):
            subprocess.run(["umount", "-l", m], stderr=subprocess.DEVNULL)
        if os.path.exists(f"/sys/class/net/{self.bridge}"):
            subprocess.run(["ip", "link", "del", self.bridge])
        for _ in range(20):
            for top in glob.glob(f"/sys/fs/cgroup/*{self.cgroup_path}") + glob.glob(f"/sys/fs/cgroup{self.cgroup_path}"):
                for d, _, _ in os.walk(top, topdown=False):
                    try:
                        os.rmdir(d)
                    except OSError:
                        pass
            if not self.cgroups():
                break
            time.sleep(0.05)
        subprocess.run(["rm", "-rf", "--one-file-system", self.tmp])
