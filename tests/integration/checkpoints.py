"""A runtime whose `checkpoint` is a script's (CRIU needs a kernel that it knows), and what lies in archives."""
import io
import json
import os
import tarfile

from daemon import RUNTIMES, pb, wait_for

# What it shall do stands in DIR/mode: ok, fail, hang, huge, none (it does not know the command).
SCRIPT = """#!/bin/sh
# --root DIR --log FILE --log-format json [--systemd-cgroup] checkpoint ...
for a; do
	[ "$a" != checkpoint ] || { words=$(printf '%s ' "$@"); break; }
done
[ -n "$words" ] || exec {RUNC} "$@"
mode=$(cat {DIR}/mode)
case $words in *--help*) [ "$mode" != none ]; exit ;; esac
while [ $# -gt 1 ]; do
	case $1 in
	--image-path) images=$2 ;;
	--work-path) work=$2 ;;
	--root) root=$2 ;;
	--log) log=$2 ;;
	esac
	shift
done
printf '%s\\n' "$words" >{DIR}/words
command -v criu >{DIR}/criu-path
printf '(00.1) a dump\\n' >"$work/dump.log"
case $mode in
fail)
	printf '(00.2) Error (criu/net.c:77): there is no such thing\\n(00.3) Error (criu/cr-dump.c:9): Dumping FAILED.\\n' >>"$work/dump.log"
	printf '{"level":"error","msg":"criu failed: type NOTIFY errno 0"}\\n' >"$log"
	exit 1 ;;
full)
	printf '(00.2) Error (criu/image.c:5): Unable to write: No space left on device\\n' >>"$work/dump.log"
	printf '{"level":"error","msg":"criu failed: type NOTIFY errno 0"}\\n' >"$log"
	exit 1 ;;
hang)
	setsid sh -c 'sleep 1000; :' {DIR} &
	echo begun >{DIR}/begun
	sleep 1000 ;;
slow)
	echo begun >{DIR}/begun
	while [ ! -e {DIR}/go ]; do sleep 0.05; done ;;
huge)
	head -c 8388608 /dev/urandom >"$images/pages-1.img" ;;
esac
{RUNC} --root "$root" state "$1" >"$images/state.img"
echo inventory >"$images/inventory.img"
echo stats >"$work/stats-dump"
echo not wanted >"$work/other"
exit 0
"""


class Checkpoints:
    """What a Daemon needs for them, and calls."""

    def __init__(self, d):
        self.d = d
        self.dir = f"{d.tmp}/ckpt"
        self.out = f"{self.dir}/out"
        os.makedirs(self.out)
        os.makedirs(f"{self.dir}/bin")
        self.mode("ok")
        self.program(f"{self.dir}/bin/criu", "#!/bin/sh\nexit 1\n")
        self.program(f"{self.dir}/runtime", SCRIPT.replace("{RUNC}", RUNTIMES["runc"]).replace("{DIR}", self.dir))

    @staticmethod
    def program(path, text):
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o755)

    def handler(self, **more):
        return {"plugin": "runtime-runc", "path": f"{self.dir}/runtime", "root": f"{self.d.tmp}/runc",
                "criu": f"{self.dir}/bin/criu", **more}

    def mode(self, mode):
        with open(f"{self.dir}/mode", "w") as f:
            f.write(mode)
        for name in ("begun", "go"):
            if os.path.exists(f"{self.dir}/{name}"):
                os.unlink(f"{self.dir}/{name}")

    def begun(self):
        return os.path.exists(f"{self.dir}/begun")

    def path(self, name="a.tar"):
        return f"{self.out}/{name}"

    def make(self, cid, location=None, timeout=0, rpc_timeout=60):
        return self.d.rt.CheckpointContainer(self.request(cid, location, timeout), timeout=rpc_timeout)

    def later(self, cid, location=None, timeout=0, rpc_timeout=60):
        return self.d.rt.CheckpointContainer.future(self.request(cid, location, timeout), timeout=rpc_timeout)

    def request(self, cid, location, timeout):
        return pb().CheckpointContainerRequest(container_id=cid, location=self.path() if location is None else location,
                                               timeout=timeout)

    def left(self):
        """What a checkpoint that is over may not leave."""
        at = f"{self.d.root}/checkpoints"
        return (os.listdir(at) if os.path.exists(at) else []) + [n for n in os.listdir(self.out) if n.startswith(".")]


class Archive:
    """As checkpointctl reads one."""

    def __init__(self, path):
        self.files, self.members = {}, {}
        with tarfile.open(path) as t:
            for m in t.getmembers():
                name = os.path.normpath(m.name)
                self.members[name] = m
                self.files[name] = t.extractfile(m).read() if m.isreg() else None
        with tarfile.open(fileobj=self.open("rootfs-diff.tar")) as t:
            self.diff = {os.path.normpath(m.name): m for m in t.getmembers()}

    def open(self, name):
        return io.BytesIO(self.files[name])

    def json(self, name):
        return json.loads(self.files[name])

    def deleted(self):
        return self.json("deleted.files") if "deleted.files" in self.files else []


COUNTS = "i=0; while :; do i=$((i+1)); echo $i >/n.new; mv /n.new /n; sleep 0.05; done"


def counter(d, pod=None, **kw):
    """A container that shows whether it goes on."""
    cid = d.run_ctr(pod or d.run_pod(), "sh", "-c", COUNTS, **kw)
    goes_on(d, cid)
    return cid


def rootfs(d, cid):
    return f"{d.run}/containers/{cid}/bundle/rootfs"


def count(d, cid):
    try:
        with open(f"{rootfs(d, cid)}/n") as f:
            return int(f.read() or 0)
    except FileNotFoundError:
        return 0


def goes_on(d, cid):
    was = count(d, cid)
    wait_for(lambda: count(d, cid) > was)
    assert d.status(cid).state == pb().CONTAINER_RUNNING
