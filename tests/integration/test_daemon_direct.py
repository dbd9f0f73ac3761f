"""Execs by berth-join instead of the runtime: the same in effect, and not to be reached from within."""
import difflib
import glob
import json
import os
import signal
import threading
import time

import grpc
import pytest

import daemon
import seccompdump
from daemon import RUNTIMES as RUNTIME_PATHS
from daemon import built, fails, needs_daemon, pb, wait_for
from streamclient import RESIZE, STDIN, WebSocket
from test_daemon_userns import userns

pytestmark = [needs_daemon, pytest.mark.skipif(not built("plugins/runtime-runc/berth-join"), reason="no berth-join")]
LOOK = """
grep -vE '^(Pid|PPid|Ngid|Tgid|NStgid|NSpid|NSpgid|NSsid|Vm|Rss|Hugetlb|voluntary|nonvoluntary|Cpus_|Mems_|Threads|SigQ)' /proc/self/status
echo "cpus $(grep -E '^(Cpus_allowed|Mems_allowed)' /proc/self/status)"
grep -v 'realtime timeout' /proc/self/limits
cat /proc/self/cgroup /proc/self/mountinfo /proc/self/oom_score_adj /proc/self/coredump_filter
cat /proc/self/loginuid /proc/self/attr/current 2>/dev/null
tr '\\0' '\\n' < /proc/self/environ
for n in cgroup ipc mnt net pid user uts time; do readlink /proc/self/ns/$n; done
pwd; id; umask
"""


def config(d, join):
    over = {"path": RUNTIME_PATHS["runc"], "plugin": "runtime-runc", "root": f"{d.tmp}/runc"}
    if join:
        over["exec_helper"] = built("plugins/runtime-runc/berth-join")
    d.write_config({"runtimes": {"default": "runc", "handlers": {"runc": over}}})


def profile(kind):
    return pb().SecurityProfile(profile_type=kind)


def kinds():
    m = pb()
    sc = m.LinuxContainerSecurityContext
    default, unconfined = profile(0), profile(1)
    return {
        "plain": dict(),
        "confined": dict(security_context=sc(seccomp=default, no_new_privs=True)),
        "seccomp": dict(security_context=sc(seccomp=default)),
        "user": dict(security_context=sc(seccomp=default, run_as_user=m.Int64Value(value=1234),
                                         run_as_group=m.Int64Value(value=2345), supplemental_groups=[3456, 4567])),
        "caps": dict(security_context=sc(seccomp=unconfined, run_as_user=m.Int64Value(value=99), capabilities=m.Capability(
            add_capabilities=["NET_ADMIN", "SYS_TIME"], drop_capabilities=["CHOWN", "KILL"],
            add_ambient_capabilities=["NET_BIND_SERVICE"]))),
        "none": dict(security_context=sc(seccomp=default, capabilities=m.Capability(drop_capabilities=["ALL"]))),
        "privileged": dict(privileged_pod=True, security_context=sc(privileged=True)),
        "node": dict(pod=dict(pid=2)),
        "shared": dict(pod=dict(pid=0)),
        "limits": dict(working_dir="/tmp", envs=[m.KeyValue(key="A", value=b"1 2\n3"), m.KeyValue(key="B", value=b"")],
                       resources=m.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=128,
                                                           oom_score_adj=700, cpuset_cpus="0")),
        "mapped": dict(userns=True, security_context=sc(seccomp=default)),
        "mapped-user": dict(userns=True, security_context=sc(run_as_user=m.Int64Value(value=1234), seccomp=unconfined)),
        "tty": dict(tty=True, stdin=True, security_context=sc(seccomp=default)),
        "network": dict(pod=dict(host_network=False, pid=0), security_context=sc(run_as_user=m.Int64Value(value=7))),
        "host-ipc": dict(pod=dict(ipc=2)),
        "sysctls": dict(pod=dict(sysctls={"kernel.shm_rmid_forced": "1"})),
        "edited": dict(security_context=sc(seccomp=default, run_as_user=m.Int64Value(value=0))),
        "edited-user": dict(security_context=sc(run_as_user=m.Int64Value(value=1234), no_new_privs=True)),
        "filter-denies": dict(security_context=sc(no_new_privs=True), profile={
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": ["mount", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42},
                {"names": ["bpf", "acct"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["swapon"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
                {"names": ["reboot"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "op": "SCMP_CMP_GE", "value": 2 ** 40}]},
                {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11, "args": [
                    {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 8, "valueTwo": 8}]},
                {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [
                    {"index": 0, "op": "SCMP_CMP_EQ", "value": 40}, {"index": 0, "op": "SCMP_CMP_EQ", "value": 16}]}]}),
        "filter-allows": dict(security_context=sc(), profile={
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "rules": [
                {"names": ["delete_module"], "action": "SCMP_ACT_TRAP"}, {"names": ["acct"], "action": "SCMP_ACT_LOG"}]}),
        "filter-unknown": dict(security_context=sc(), profile={
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X32", "SCMP_ARCH_X86"],
            "rules": []}),
        "filter-traces": dict(security_context=sc(no_new_privs=True), profile={"defaultAction": "SCMP_ACT_TRACE", "rules": []}),
        "filter-bare": dict(security_context=sc(no_new_privs=True), profile={"defaultAction": "SCMP_ACT_ERRNO", "rules": []}),
        "readonly": dict(security_context=sc(readonly_rootfs=True, masked_paths=["/proc/acpi"], readonly_paths=["/proc/sys"])),
    }


def bundle(d, cid):
    return f"{d.run}/containers/{cid}/bundle/config.json"


def edit(d, cid, change):
    with open(bundle(d, cid), "r+") as f:
        c = json.load(f)
        change(c)
        f.seek(0)
        f.truncate()
        json.dump(c, f)


def edited(c):
    """What the CRI has no word for."""
    p = c["process"]
    p["env"] += ["TWICE=1", "OTHER=x", "TWICE=2=3", "EMPTY="]
    p["rlimits"] = [{"type": f"RLIMIT_{n}", "soft": s, "hard": h} for n, s, h in (
        ("NOFILE", 30, 30), ("CORE", 0, 4096), ("FSIZE", 0, 1 << 20), ("NPROC", 400, 500), ("CPU", 100, 200),
        ("AS", 1 << 36, 1 << 37), ("STACK", 1 << 20, 1 << 22))]
    p["user"]["additionalGids"] = [5, 6, 7]
    p["cwd"] = "/var"


def profile_file(d, doc):
    """With the default profile's rules among its own."""
    if "rules" in doc:
        pod = d.run_pod()
        cid = d.create(pod, "true", security_context=kinds()["seccomp"]["security_context"])
        with open(bundle(d, cid)) as f:
            doc["syscalls"] = [x for x in json.load(f)["linux"]["seccomp"]["syscalls"] if x["action"] == "SCMP_ACT_ALLOW"]
        doc["syscalls"] += doc.pop("rules")
        d.remove_pod(pod)
    path = f"{d.tmp}/profile{len(glob.glob(d.tmp + '/profile*'))}.json"
    with open(path, "w") as f:
        json.dump(doc, f)
    return path


def start(d):
    """A container of each kind."""
    out = {}
    probe = pb().Mount(container_path="/probe", host_path=built("tests/integration/exec_probe"), readonly=True)
    for name, kw in kinds().items():
        pod_config = d.pod_config(**kw.pop("pod", {}))
        if kw.pop("userns", False):
            if not d.rt.Status(pb().StatusRequest()).runtime_handlers[0].features.user_namespaces:
                continue
            pod_config.linux.security_context.namespace_options.userns_options.CopyFrom(userns())
        if kw.pop("privileged_pod", False):
            pod_config.linux.security_context.privileged = True
        doc = kw.pop("profile", None)
        if doc:
            kw["security_context"].seccomp.CopyFrom(pb().SecurityProfile(profile_type=2, localhost_ref=profile_file(d, doc)))
        pod = d.run_pod(config=pod_config)
        out[name] = d.run_ctr(pod, "sleep", "10000", name=name, mounts=[probe], **kw)
        if name.startswith("edited"):
            edit(d, out[name], edited)
    return out


def look(d, cid):
    out = []
    for command in (["/bin/sh", "-c", LOOK], ["/probe"]):
        r = d.exec(cid, *command)
        out.append(f"{command[0]} ends with {r.exit_code}")
        out += (r.stdout + r.stderr).decode(errors="replace").splitlines()
    return out + outside(d, cid)


def first(path):
    with open(path, "rb") as f:
        return f.read()


def outside(d, cid):
    """What the node sees of a command, the bytes of its filters included."""
    words = ["sleep", f"98765.{len(cid)}"]
    caller = threading.Thread(target=d.exec, args=(cid, *words))
    caller.start()

    def find():
        for p in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                if first(p) == "\0".join(words).encode() + b"\0" and cid.encode() in first(os.path.dirname(p) + "/cgroup"):
                    return int(p.split("/")[2])
            except OSError:
                pass
        return None
    pid = wait_for(find)
    wait_for(lambda: f"\nPPid:\t{d.proc.pid}\n" in first(f"/proc/{pid}/status").decode())
    try:
        proc = f"/proc/{pid}/"
        out = []
        for name in ("cgroup", "uid_map", "gid_map", "setgroups", "limits", "personality", "sessionid", "loginuid",
                     "timerslack_ns", "oom_score_adj", "coredump_filter", "autogroup"):
            if os.path.exists(proc + name):
                out += [f"{name} {x}" for x in first(proc + name).decode().splitlines()
                        if "realtime timeout" not in x and not x.startswith("/autogroup")]
        out += [f"{n} {os.readlink(proc + 'ns/' + n)}" for n in sorted(os.listdir(proc + "ns"))]
        out.append(f"fds {sorted(os.listdir(proc + 'fd'))} root {os.readlink(proc + 'root')} cwd {os.readlink(proc + 'cwd')}")
        stat = first(proc + "stat").decode().rsplit(")", 1)[1].split()
        out.append(f"priority {stat[15]} nice {stat[16]} exit signal {stat[35]} realtime {stat[37]} policy {stat[38]} "
                   f"terminal {stat[4]}")
        for f in seccompdump.filters(pid) or []:
            stub, rest = seccompdump.parts(f)
            out.append(f"filter of {len(rest)}")
            out += [f"{n}: {x}" for n, x in enumerate(rest)]
            out += [f"stub: {x}" for x in seccompdump.decisions(stub)]
        return out
    finally:
        os.kill(pid, signal.SIGKILL)
        caller.join()


def terminal(d, cid):
    """What a command sees of its terminal."""
    look = "read x; stty -a; stat -Lc '%a %u %g %t' /dev/stdin; test -w `tty` && echo mine; /probe; exit 6"
    url = d.rt.Exec(pb().ExecRequest(container_id=cid, cmd=["sh", "-c", look], stdin=True, stdout=True, tty=True), timeout=20).url
    with WebSocket(url) as c:
        c.send(RESIZE, b'{"Width":80,"Height":25}')
        time.sleep(0.3)
        c.send(STDIN, b"go\n")
        s = c.finish()
        assert s.code == 6 and b"columns 80" in s.out
        return s.out.decode(errors="replace").splitlines()


HARD = {  # commands that cannot be run, prepared by a script
    "no such file": ("", ["/no/such/command"]),
    "no such name": ("", ["nosuchcommand"]),
    "not executable": ("", ["/etc/passwd"]),
    "not executable in PATH": ("echo x > /bin/plain", ["plain"]),
    "a directory": ("", ["/etc"]),
    "a directory in PATH": ("mkdir -p /bin/dir", ["dir"]),
    "below a file": ("", ["/etc/passwd/x"]),
    "not a program": ("printf '\\001\\002' > /tmp/bad; chmod 755 /tmp/bad", ["/tmp/bad"]),
    "no interpreter": ("printf '#!/no/such\\n' > /tmp/script; chmod 755 /tmp/script", ["/tmp/script"]),
    "an empty name": ("", [""]),
    "this binary": ("printf '#!/proc/self/exe\\n' > /tmp/self; chmod 755 /tmp/self", ["/tmp/self"]),
    "a script": ("printf '#!/bin/sh\\nexit 9\\n' > /tmp/good; chmod 755 /tmp/good", ["/tmp/good"]),
    "cut in a character": ("", ["/no/" + "x" * 497 + "ä" * 40]),
    "too long": ("", ["/bin/" + "x" * 5000]),
}


def answer(d, cid, argv):
    try:
        r = d.exec(cid, *argv, timeout=10)
        return "exit code", r.exit_code, r.stdout.decode(), r.stderr.decode()
    except grpc.RpcError as e:
        assert cid in e.details()
        return e.code().name, e.details()


def hard(d, ctrs):
    out = {}
    for what, (script, argv) in HARD.items():
        if script and not os.path.exists(f"{d.tmp}/prepared"):
            d.sh(ctrs["plain"], script)
        out[what] = answer(d, ctrs["plain"], argv)
    open(f"{d.tmp}/prepared", "w").close()
    out["no directory to work in"] = answer(d, ctrs["cwd-gone"], ["true"])
    out["not its directory"] = answer(d, ctrs["cwd-shut"], ["true"])
    freeze(d, ctrs["plain"], True)
    try:
        out["frozen"] = answer(d, ctrs["plain"], ["true"])
    finally:
        freeze(d, ctrs["plain"], False)
    out["after that"] = answer(d, ctrs["plain"], ["true"])
    out["ended"] = answer(d, ctrs["ended"], ["true"])
    return out


def start_hard(d, ctrs):
    pod = d.run_pod()
    user = dict(security_context=pb().LinuxContainerSecurityContext(run_as_user=pb().Int64Value(value=55)))
    for name, kw in (("cwd-gone", {}), ("cwd-shut", user), ("ended", {})):
        ctrs[name] = d.run_ctr(pod, "sleep", "10000", name=name, working_dir="/tmp/w", **kw)
    os.rmdir(f"{d.run}/containers/{ctrs['cwd-gone']}/bundle/rootfs/tmp/w")
    os.chmod(f"{d.run}/containers/{ctrs['cwd-shut']}/bundle/rootfs/tmp/w", 0o700)
    os.chown(f"{d.run}/containers/{ctrs['cwd-shut']}/bundle/rootfs/tmp/w", 0, 0)
    d.stop_ctr(ctrs["ended"])


def freeze(d, cid, yes):
    for path, words in ((f"/sys/fs/cgroup/freezer{d.cgroup}/{cid}/freezer.state", ("THAWED", "FROZEN")),
                        (f"/sys/fs/cgroup{d.cgroup}/{cid}/cgroup.freeze", ("0", "1"))):
        if os.path.exists(path):
            with open(path, "w") as f:
                f.write(words[yes])
            time.sleep(0.1)
            return
    pytest.fail("no freezer")


class Both:
    """The same containers, seen by way of the runtime; and the daemon, with berth-join by now."""

    def __init__(self):
        self.d = d = daemon.Daemon()
        try:
            d.start()
            d.import_image()
            self.ctrs = start(d)
            start_hard(d, self.ctrs)
            self.looks = {n: look(d, c) for n, c in self.ctrs.items() if n in kinds()}
            self.terminals = {n: terminal(d, self.ctrs[n]) for n in TERMINALS if n in self.ctrs}
            self.hard = hard(d, self.ctrs)
            d.stop()
            config(d, True)
            d.start()
        except BaseException:
            d.force()
            raise


TERMINALS = ("plain", "user", "mapped-user", "confined")


@pytest.fixture(scope="module")
def both():
    b = Both()
    yield b
    b.d.close()


def same(before, after):
    diff = [x for x in difflib.unified_diff(before, after, "runtime", "direct", lineterm="", n=0)]
    assert not diff, "\n".join(diff[:60])


@pytest.mark.parametrize("name", list(kinds()) if built("core/berthd") else [])
def test_the_same_as_the_runtime(both, name):
    if name not in both.ctrs:
        pytest.skip("this kernel or file system maps no ids")
    after = look(both.d, both.ctrs[name])
    assert len(after) > 120 and any(x.startswith("Seccomp:") for x in after)
    same(both.looks[name], after)
    if name.startswith("filter") or name == "seccomp":
        assert any(x.startswith("filter of") for x in after)
    if name == "edited":
        assert {"TWICE=2=3", "EMPTY="} <= set(after)
        assert "limits Max open files 30 30 files" in [" ".join(x.split()) for x in after]


@pytest.mark.parametrize("name", TERMINALS)
def test_the_same_terminal(both, name):
    if name not in both.ctrs:
        pytest.skip("this kernel or file system maps no ids")
    after = terminal(both.d, both.ctrs[name])
    assert "mine" in after
    same(both.terminals[name], after)


def test_the_same_failures(both):
    after = hard(both.d, both.ctrs)
    print(json.dumps({"runtime": both.hard, "direct": after}, indent=1))
    assert {k: v if "exit code" in v else v[0] for k, v in both.hard.items()} == {
        k: v if "exit code" in v else v[0] for k, v in after.items()}


def test_what_it_leaves_to_the_runtime(both):
    d, cid = both.d, both.ctrs["readonly"]
    edit(d, cid, lambda c: c["linux"].update(intelRdt={}))
    try:
        assert d.exec(cid, "sh", "-c", "echo here; exit 3").exit_code == 3
        assert "goes by the runtime" in d.log() and "intelRdt" in d.log()
        same(both.looks["readonly"], look(d, cid))
        with fails("NOT_FOUND", cid, "/no/such"):
            d.exec(cid, "/no/such")
    finally:
        edit(d, cid, lambda c: c["linux"].pop("intelRdt"))


def test_a_container_that_ends(both):
    """Execs at every moment of its end: an answer, and nothing left."""
    d = both.d
    pod = d.run_pod()
    for _ in range(6):
        cid = d.run_ctr(pod, "sleep", "10000", name="ends")
        codes = []

        def ask():
            for _ in range(30):
                codes.append(answer(d, cid, ["true"]))
        asking = [threading.Thread(target=ask) for _ in range(2)]
        for t in asking:
            t.start()
        time.sleep(0.02)
        d.stop_ctr(cid)
        for t in asking:
            t.join()
        bad = [c for c in codes if c[:2] not in (("exit code", 0), ("exit code", 137)) and c[0] not in ("FAILED_PRECONDITION", "NOT_FOUND")]
        assert not bad, bad
        d.remove_ctr(cid)
    d.remove_pod(pod)
    wait_for(lambda: os.listdir(f"{d.run}/execs") == [])


def test_it_is_berth_join(both):
    d, ctrs = both.d, both.ctrs
    t = time.monotonic()
    for _ in range(10):
        assert d.exec(ctrs["plain"], "true").exit_code == 0
    assert time.monotonic() - t < 3
    assert d.exec(ctrs["plain"], "sh", "-c", "echo a; echo b >&2; exit 7").exit_code == 7
    assert not any("runc" in x and " exec " in x for _, x in d.pids())


def test_a_timeout(both):
    d, ctrs = both.d, both.ctrs
    cid = ctrs["plain"]
    with fails("DEADLINE_EXCEEDED", cid):
        d.exec(cid, "sh", "-c", "(setsid sleep 54331 &); sleep 54331", timeout=1)
    wait_for(lambda: "54331" not in d.sh(cid, "ps -o args | grep -v grep"))
    wait_for(lambda: os.listdir(f"{d.run}/execs") == [])


def test_it_cannot_be_reached_from_within(both):
    """A container whose files are set to catch whoever enters it: it sees no file of the node's."""
    d, ctrs = both.d, both.ctrs
    cid = ctrs["shared"]
    seen = "/tmp/seen"
    watch = f"""
i=0; while [ $i -lt 4000 ]; do i=$((i+1))
  for p in /proc/[0-9]*; do
    e=$(readlink $p/exe 2>/dev/null); case "$e" in *berth-join*|*memfd*|*runc*)
      echo "exe $e" >>{seen}; (: >>$p/exe) 2>/dev/null && echo "written $e" >>{seen};; esac
    for f in $p/fd/*; do case "$(readlink $f 2>/dev/null)" in *berth*|*config.json*) echo "fd $(readlink $f)" >>{seen};; esac; done
  done
done"""
    d.exec(cid, "sh", "-c", f"touch {seen}; ({watch}) >/dev/null 2>&1 &")
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert d.exec(cid, "/bin/true").exit_code == 0
    text = d.sh(cid, f"cat {seen}")
    assert text == ""
    d.sh(cid, "kill $(ps -o pid,args | grep -v grep | grep 'i=0' | sed 's/^ *//;s/ .*//') 2>/dev/null; true")


def test_what_it_needs(make_daemon):
    d = make_daemon(start=False)
    d.write_config({"runtimes": {"default": "runc", "handlers": {"runc": {
        "plugin": "runtime-runc", "path": RUNTIME_PATHS["runc"], "exec_helper": "/nonexistent"}}}})
    d.start(wait=False)
    assert d.proc.wait(30) != 0
    assert "exec_helper /nonexistent" in d.tail()
    d.proc = None
    d.err.close()


def test_another_runtime(make_daemon):
    """It does as runc does, and crun differs in what it tells of unknown system calls."""
    if not os.path.exists(RUNTIME_PATHS["crun"]):
        pytest.skip("needs crun")
    d = make_daemon(start=False)
    d.write_config({"runtimes": {"default": "crun", "handlers": {"crun": {
        "plugin": "runtime-runc", "path": RUNTIME_PATHS["crun"], "exec_helper": built("plugins/runtime-runc/berth-join")}}}})
    d.start(wait=False)
    assert d.proc.wait(30) != 0
    assert "exec_helper" in d.tail() and "is another runtime" in d.tail()
    d.proc = None
    d.err.close()
