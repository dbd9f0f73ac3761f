"""Layers with all that a copy of them could lose, and what a container sees of them."""
import json
import struct
import subprocess
import sys

import daemon
import pullharness
from pullharness import Tar

SPARSE_SIZE = 16 << 20
LONG = ["l" * 200 + str(i) for i in range(3)]


def busybox_tar():
    daemon.busybox_image()
    return daemon._busybox


def sparse(tar, name, size, parts):
    """A file that is `parts` ({offset: data}) and holes, as GNU tar writes it (GNU.sparse 1.0)."""
    numbers = [len(parts)] + [n for at in sorted(parts) for n in (at, len(parts[at]))]
    index = "".join(f"{n}\n" for n in numbers).encode()
    data = index.ljust(-(-len(index) // 512) * 512, b"\0") + b"".join(parts[at] for at in sorted(parts))
    return tar.add(name, data=data, pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
                                         "GNU.sparse.realsize": str(size)})


def xattrs(**values):
    return {f"SCHILY.xattr.{name.replace('_', '.')}": value for name, value in values.items()}


def acl(*entries):
    """(tag, rights, id) each, in the kernel's form."""
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)
    return raw.decode("utf-8", "surrogateescape")


NOBODY = 0xffffffff
ACL = acl((1, 7, NOBODY), (2, 5, 1234), (4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))


def one():
    caps = "\x01\x00\x00\x02\x00 " + "\x00" * 14
    t = Tar()
    for d in ("d", "gone", "hidden", "keep", "keep/deep", "shade", "shade/sub", "turns"):
        t.dir(d, mode=0o750, uid=7, gid=8, mtime=1111)
    t.add("d/file", data=b"x" * 5000, mode=0o4711, uid=1000, gid=2000, mtime=1234567890)
    t.add("d/caps", data="caps", mode=0o755, pax=xattrs(security_capability=caps, user_note="kept"))
    t.hard("d/link", "d/file").sym("d/sym", "../nowhere", uid=3, gid=4)
    t.add("d/null", type=b"3", dev=(1, 3), mode=0o666).add("d/fifo", type=b"6", mode=0o600)
    t.add("d/block", type=b"4", dev=(259, 70000), mode=0o640, uid=5, gid=6, mtime=77)
    t.add("d/same", data="aaaa", mtime=50).add("gone/a", data="a").add("keep/deep/b", data="b")
    t.add("hidden/under", data="u").add("shade/sub/s", data="s").add("shade/t", data="t").add("turns/x", data="x")
    t.add("flat", data="flat").add("d/\u00e4\u00f6", data="umlaut")
    t.add(b"d/\xff\xfe".decode("utf-8", "surrogateescape"), data="raw")
    t.add("d/owned", data="o", uid=(1 << 31) + 5, gid=3000000).add("d/old", mtime=-5).add("d/late", mtime=1 << 33)
    t.dir("marked", mode=0o3775, gid=12, mtime=3333, pax=xattrs(user_mark="of a directory", user_empty=""))
    t.dir("sticky", mode=0o1777, mtime=4444).add("marked/in", data="i")
    t.add("d/big", data="b", pax=xattrs(user_big="v" * 2000))
    # the mode's group bits are the mask
    t.add("d/acl", mode=0o670, pax={"SCHILY.xattr.system.posix_acl_access": ACL})
    t.dir("acls", mode=0o770, pax={"SCHILY.xattr.system.posix_acl_access": ACL, "SCHILY.xattr.system.posix_acl_default": ACL})
    t.add("acls/in").add("d/twin1", data="two").add("d/twin2", data="two").add("d/pair1", data="p").hard("d/pair2", "d/pair1")
    deep = "/".join(["long"] + LONG)
    for n in range(1, len(LONG) + 2):
        t.dir("/".join(["long"] + LONG[:n - 1]), mtime=10 + n)
    t.add(f"{deep}/{'n' * 240}", data="far").hard("long/near", f"{deep}/{'n' * 240}").sym("long/sym", "t" * 1000)
    sparse(t, "d/sparse", SPARSE_SIZE, {0: b"first", 5 << 20: b"m" * 4096, SPARSE_SIZE - 4: b"last"})
    sparse(t, "d/hole", SPARSE_SIZE, {SPARSE_SIZE: b""})
    return t


def two():
    t = Tar()
    t.dir("d", mode=0o700, uid=9, gid=9, mtime=2222).add("d/same", data="bbbb", mtime=50)
    t.add(".wh.gone").dir("hidden", mode=0o711).add("hidden/.wh..wh..opq").add("hidden/new", data="n")
    t.add("keep/deep/c", data="c").add("shade/.wh.t").add("shade/sub/.wh..wh..opq").add("shade/sub/only", data="o")
    t.add("turns", data="a file now").dir("flat").add("flat/inner", data="i")
    t.add("d/twin1", data="two").hard("d/twin2", "d/twin1").add("d/pair2", data="q")
    t.add("d/.wh.link").add("d/big", data="b").add("long/.wh.near").dir("sticky", mode=0o755, mtime=4444)
    return t


def three():
    t = Tar().add("d/last", data=b"z" * 70000, pax={"mtime": "1600000000.25"}).hard("d/last2", "d/last").add(".wh.turns")
    return t.dir("gone", mode=0o701, mtime=5).add("gone/again", data="g")


def everything():
    return pullharness.Image([busybox_tar(), one(), two(), three()], config={"Cmd": ["sh"], "Env": ["PATH=/bin"]})


SEE = r"""
import os, sys, stat, hashlib, json
out = {}
inodes = {}
root = sys.argv[1].encode()
# Not st_nlink: overlay counts names that a layer above hides.
def see(p, name):
    s = os.lstat(p)
    # the root's time changes when what the runtime mounts on is made in it
    x = [stat.filemode(s.st_mode), s.st_uid, s.st_gid, 0 if p == root else s.st_mtime_ns]
    if stat.S_ISREG(s.st_mode):
        with open(p, "rb") as f:
            x += [s.st_size, hashlib.sha256(f.read()).hexdigest(), inodes.setdefault(s.st_ino, name.hex()),
                  "sparse" if s.st_blocks * 512 * 4 < s.st_size else "full"]
    if stat.S_ISLNK(s.st_mode):
        x += [os.readlink(p).hex()]
    else:
        x += sorted((a, os.getxattr(p, a).hex()) for a in os.listxattr(p) if not a.startswith("trusted."))
    out[name.decode("utf-8", "backslashreplace")] = x + [s.st_rdev]
see(root, b".")
for base, dirs, files in os.walk(root):
    for n in sorted(dirs + files):
        p = os.path.join(base, n)
        see(p, os.path.relpath(p, root))
print(json.dumps(out, sort_keys=True))
"""


def seen(d, image, handler):
    """The image's tree as a container of the handler has it: what it is made of, from the node."""
    pod = d.run_pod(handler=handler)
    cid = d.create(pod, "sleep", "1", image=image)
    root = f"{d.run}/containers/{cid}/bundle/rootfs"
    got = json.loads(subprocess.run([sys.executable, "-c", SEE, root], stdout=subprocess.PIPE, check=True, text=True).stdout)
    d.remove_pod(pod)
    # what the runtime mounts on
    return {k: v for k, v in got.items() if k.split("/")[0] not in ("etc", "dev", "proc", "sys")}


def differ(a, b):
    return {k: (a.get(k), b.get(k)) for k in set(a) | set(b) if a.get(k) != b.get(k)}
