"""berth-pull: what a layer's tar becomes on disk, and what is refused. Root: owners and devices."""
import os
import stat
import struct
import tarfile
import unicodedata

import pytest

from pullharness import Image, PullError, Tar, layout, run_import

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

CAP = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep


def unpack(tmp_path, *tars, **kw):
    n = len(os.listdir(tmp_path))
    return run_import(tmp_path, layout(tmp_path, Image(list(tars)), dirname=f"l{n}"), **kw)


def one(tmp_path, tar, **kw):
    p = unpack(tmp_path, tar, **kw)
    return p, p.layer_dir(0, 0)


def lstat(root, name):
    return os.lstat(os.path.join(root, name))


def test_owner_mode_and_times(tmp_path):
    t = (Tar().dir("d", mode=0o1777, uid=5, gid=6, mtime=1234.5)
         .add("d/suid", mode=0o4755, uid=7, gid=8, mtime=77.25, data="x", pax={"mtime": "77.25"})
         .add("d/sgid", mode=0o2711, data="")
         .add("d/none", mode=0, mtime=-5)
         .add("big-id", uid=3000000000, gid=3000000001)
         .sym("d/l", "/nowhere", uid=9, gid=10, mtime=42)
         .dir("d/sub", mode=0o2750, gid=99, mtime=50).add("d/sub/f", data="y", uid=0, gid=0)
         .dir(".", mode=0o700, uid=1, gid=2, mtime=99))
    p, r = one(tmp_path, t)
    s = lstat(r, "d")
    assert (stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, s.st_mtime) == (0o1777, 5, 6, 1234.5)
    s = lstat(r, "d/suid")
    assert (stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, s.st_mtime) == (0o4755, 7, 8, 77.25)
    assert stat.S_IMODE(lstat(r, "d/sgid").st_mode) == 0o2711
    assert stat.S_IMODE(lstat(r, "d/none").st_mode) == 0 and lstat(r, "d/none").st_mtime == -5
    s = lstat(r, "big-id")
    assert (s.st_uid, s.st_gid) == (3000000000, 3000000001)
    s = lstat(r, "d/l")
    assert (s.st_uid, s.st_gid, s.st_mtime) == (9, 10, 42)
    assert os.readlink(r + "/d/l") == "/nowhere"
    s = lstat(r, "d/sub")
    assert (stat.S_IMODE(s.st_mode), s.st_gid, s.st_mtime) == (0o2750, 99, 50)
    assert lstat(r, "d/sub/f").st_gid == 0  # not its directory's
    s = os.stat(r)
    assert (stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, s.st_mtime) == (0o700, 1, 2, 99)
    assert p.unpacked[(0, 0)]["implied"] == 0
    assert p.unpacked[(0, 0)]["bytes"] == 2


def test_xattrs(tmp_path):
    t = Tar()
    t.add("cap", mode=0o755, uid=3, data="x", pax={
        "SCHILY.xattr.security.capability": CAP.decode("utf-8", "surrogateescape")})
    t.add("user", data="x", pax={"SCHILY.xattr.user.k": "v"})
    t.dir("d", pax={"SCHILY.xattr.user.dir": "yes"})
    t.add("own", data="x", pax={"SCHILY.xattr.trusted.overlay.opaque": "y",
                                "SCHILY.xattr.security.selinux": "no",
                                "SCHILY.xattr.user.containers.override_stat": "0:0:04755",
                                "SCHILY.xattr.user.fuseoverlayfs.override_stat": "0:0:04755",
                                "SCHILY.xattr.user.kept": "1"})
    _, r = one(tmp_path, t)
    assert os.getxattr(r + "/cap", "security.capability") == CAP
    assert lstat(r, "cap").st_uid == 3
    assert os.getxattr(r + "/user", "user.k") == b"v"
    assert os.getxattr(r + "/d", "user.dir") == b"yes"
    assert os.listxattr(r + "/own") == ["user.kept"]


def test_hard_links_devices_and_fifos(tmp_path):
    t = (Tar().add("bin/a", data="A").hard("bin/b", "bin/a").hard("c", "./bin/a")
         .sym("s", "bin/a").hard("s2", "s")
         .add("null", tarfile.CHRTYPE, dev=(1, 3), mode=0o666, uid=4)
         .add("blk", tarfile.BLKTYPE, dev=(259, 1000)).add("pipe", tarfile.FIFOTYPE, mode=0o600))
    p, r = one(tmp_path, t)
    assert lstat(r, "bin/a").st_ino == lstat(r, "bin/b").st_ino == lstat(r, "c").st_ino
    assert lstat(r, "s").st_ino == lstat(r, "s2").st_ino and stat.S_ISLNK(lstat(r, "s2").st_mode)
    s = lstat(r, "null")
    assert stat.S_ISCHR(s.st_mode) and s.st_rdev == os.makedev(1, 3) and s.st_uid == 4
    assert stat.S_IMODE(s.st_mode) == 0o666
    s = lstat(r, "blk")
    assert stat.S_ISBLK(s.st_mode) and s.st_rdev == os.makedev(259, 1000)
    assert stat.S_ISFIFO(lstat(r, "pipe").st_mode)
    assert p.unpacked[(0, 0)]["paths"] == ["bin"]


def test_implied_directories_are_reported_parents_first(tmp_path):
    t = (Tar().add("a/b/c/f").dir("x/y").add("x/z/f").dir("a/b", mode=0o700, mtime=3)
         .add("a/b/c/g").sym("q/l", "a"))
    p, r = one(tmp_path, t)
    assert p.unpacked[(0, 0)]["paths"] == ["a", "a/b/c", "x", "x/z", "q"]
    assert stat.S_IMODE(lstat(r, "a/b").st_mode) == 0o700 and lstat(r, "a/b").st_mtime == 3
    assert stat.S_IMODE(lstat(r, "a").st_mode) == 0o755


def test_later_entries_win(tmp_path):
    t = (Tar().add("f", data="old" * 100, mode=0o600).add("f", data="new")
         .sym("l", "/etc").add("l", data="file").add("g").sym("g", "f").dir("e").add("e", data="2")
         .add("d").dir("d").add("d/in").dir("d", mode=0o711)
         .add("h").hard("h2", "h").hard("h2", "h").add("i").hard("i", "h"))
    _, r = one(tmp_path, t)
    assert open(r + "/f").read() == "new" and stat.S_IMODE(lstat(r, "f").st_mode) == 0o644
    assert open(r + "/l").read() == "file" and os.readlink(r + "/g") == "f"
    assert open(r + "/e").read() == "2" and os.listdir(r + "/d") == ["in"]
    assert stat.S_IMODE(lstat(r, "d").st_mode) == 0o711
    assert lstat(r, "h").st_nlink == 3


def test_names_are_kept_byte_for_byte(tmp_path):
    nfc, nfd = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    names = ["ü", nfc + "1", nfd + "2", "日本語/" + "長" * 60, "sp ace", "new\nline", "back\\slash",
             "x" * 255, "/".join(["d" * 200] * 18), "-dash", "a" * 99 + "/b" + "c" * 99]
    for fmt in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        t = Tar(fmt)
        for n in names:
            t.add(n, data=n)
        t.sym("lnk", "ziel-" + nfd + "é" * 120).hard("hl-" + nfd, nfd + "2")
        p, r = one(tmp_path, t)
        for n in names:
            assert open(os.path.join(r, n)).read() == n
            d, b = os.path.split(os.path.join(r, n))
            assert os.fsencode(b) in os.listdir(os.fsencode(d))
        assert os.readlink(r + "/lnk") == "ziel-" + nfd + "é" * 120
        assert lstat(r, "hl-" + nfd).st_nlink == 2
    # bytes that are no UTF-8, in an old-style header
    t = Tar(tarfile.GNU_FORMAT).add("raw-\udcff\udcfe", data="z")
    _, r = one(tmp_path, t)
    assert os.listdir(os.fsencode(r)) == [b"raw-\xff\xfe"]


def test_sparse_files(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    with open(src / "sp", "wb") as f:
        f.write(b"head")
        f.seek(5 << 20)
        f.write(b"middle")
        f.truncate(9 << 20)
    for fmt in (["--format=gnu"], ["--format=posix", "--sparse-version=1.0"],
                ["--format=posix", "--sparse-version=0.1"],
                ["--format=posix", "--sparse-version=0.0"]):
        out = str(tmp_path / "sp.tar")
        assert os.spawnlp(os.P_WAIT, "tar", "tar", "-C", str(src), "-S", *fmt, "-cf", out, "sp") == 0
        p, r = one(tmp_path, open(out, "rb").read())
        assert open(r + "/sp", "rb").read() == open(src / "sp", "rb").read()
        assert lstat(r, "sp").st_blocks * 512 < 1 << 20


def test_what_gnu_tar_writes_of_a_real_tree(tmp_path):
    out = str(tmp_path / "doc.tar")
    assert os.spawnlp(os.P_WAIT, "tar", "tar", "-C", "/usr/share/doc", "-cf", out, ".") == 0
    _, r = one(tmp_path, open(out, "rb").read())
    a, b = (os.popen(f"cd {d} && tar --sort=name --mtime=@0 -cf - . | sha256sum").read()
            for d in ("/usr/share/doc", r))
    assert a == b


# --- whiteouts ------------------------------------------------------------------------------

def is_whiteout(root, name):
    s = lstat(root, name)
    return stat.S_ISCHR(s.st_mode) and s.st_rdev == 0


def test_overlay_whiteouts(tmp_path):
    t = (Tar().add("d/.wh.gone").add(".wh.top").dir("o").add("o/new").add("o/.wh..wh..opq")
         .add("same").add(".wh.same").dir("both").add("both/f").add(".wh.both")
         .add(".wh.later").dir("later").add("later/f").add(".wh.file").add("file", data="x")
         .add(".wh..wh.plnk/1.2").add(".wh..wh.aufs").add("imp/.wh..wh..opq"))
    p, r = one(tmp_path, t)
    assert is_whiteout(r, "d/gone") and is_whiteout(r, "top")
    assert sorted(os.listdir(r)) == ["both", "d", "file", "imp", "later", "o", "same", "top"]
    assert open(r + "/file").read() == "x" and stat.S_ISREG(lstat(r, "same").st_mode)
    assert os.listdir(r + "/o") == ["new"]
    marked = {i for n, i in p.opaque}
    assert marked == {lstat(r, x).st_ino for x in ("o", "both", "later", "imp")}
    assert p.unpacked[(0, 0)]["paths"] == ["d", "imp"]


def test_entries_below_a_whiteout_of_the_same_layer(tmp_path):
    t = Tar().add(".wh.d").add("d/f").add("e/.wh.x").add("e/x/y/z").add(".wh.q").add("q/.wh.r")
    p, r = one(tmp_path, t)
    assert sorted(os.listdir(r)) == ["d", "e", "q"] and os.listdir(r + "/d") == ["f"]
    assert os.listdir(r + "/e/x/y") == ["z"] and is_whiteout(r, "q/r")
    assert {i for n, i in p.opaque} == {lstat(r, x).st_ino for x in ("d", "e/x", "q")}
    assert p.unpacked[(0, 0)]["paths"] == ["e", "e/x/y"]


def is_aufs_mark(root, name):
    s = lstat(root, name)
    return stat.S_ISREG(s.st_mode) and s.st_size == 0


def test_aufs_whiteouts(tmp_path):
    """aufs hides what lies beside a whiteout, too: the layer's own files must have none."""
    t = (Tar().add("d/.wh.gone", data="text").dir(".wh.top").dir("o").add("o/new")
         .add("o/.wh..wh..opq", data="text").add("same").add(".wh.same").dir("both").add("both/f")
         .add(".wh.both").add(".wh.later").dir("later").add("later/f").add(".wh.file")
         .add("file", data="x").add(".wh.link").sym("link", "x").add(".wh.hard")
         .hard("hard", "file").add(".wh.null").add(".wh..wh.plnk/1.2").add(".wh..wh.aufs")
         .add("imp/.wh..wh..opq"))
    p, r = one(tmp_path, t, whiteout="aufs")
    assert sorted(os.listdir(r)) == [".wh.null", ".wh.top", "both", "d", "file", "hard", "imp",
                                     "later", "link", "o", "same"]
    assert os.listdir(r + "/d") == [".wh.gone"] and not p.opaque
    assert sorted(os.listdir(r + "/o")) == [".wh..wh..opq", "new"]
    assert sorted(os.listdir(r + "/both")) == sorted(os.listdir(r + "/later")) == [".wh..wh..opq", "f"]
    assert all(is_aufs_mark(r, x) for x in ("d/.wh.gone", ".wh.top", "o/.wh..wh..opq",
                                            "both/.wh..wh..opq", "imp/.wh..wh..opq"))
    assert open(r + "/file").read() == "x" and p.unpacked[(0, 0)]["paths"] == ["d", "imp"]


def test_aufs_entries_below_a_whiteout_of_the_same_layer(tmp_path):
    t = Tar().add(".wh.d").add("d/f").add("e/.wh.x").add("e/x/y/z").add(".wh.q").add("q/.wh.r")
    p, r = one(tmp_path, t, whiteout="aufs")
    assert sorted(os.listdir(r)) == ["d", "e", "q"]
    assert sorted(os.listdir(r + "/d")) == [".wh..wh..opq", "f"]
    assert sorted(os.listdir(r + "/e/x")) == [".wh..wh..opq", "y"]
    assert sorted(os.listdir(r + "/q")) == [".wh..wh..opq", ".wh.r"]
    assert p.unpacked[(0, 0)]["paths"] == ["e", "e/x/y"]


@pytest.mark.parametrize("name, why", [("d/" + "n" * 243, "the 242 bytes"),
                                       ("n" * 243 + "/f", "the 242 bytes"),
                                       (".wh." + "n" * 243, "the 242 bytes"),
                                       ("d/.wh.x/f", "the name of a whiteout"),
                                       (".wh..wh..opq/f", "the name of a whiteout")])
def test_what_aufs_cannot_show(tmp_path, name, why):
    with pytest.raises(PullError) as e:
        one(tmp_path, Tar().add("before").add(name), whiteout="aufs")
    assert f"entry '{name}'" in e.value.msg and why in e.value.msg and e.value.code == 9


def test_what_aufs_can_just_show(tmp_path):
    _, r = one(tmp_path, Tar().add("n" * 242).add(".wh." + "m" * 242), whiteout="aufs")
    assert sorted(os.listdir(r)) == [".wh." + "m" * 242, "n" * 242]


def test_delete_whiteouts_remove_what_lies_below(tmp_path):
    low = (Tar().add("gone").dir("dir").add("dir/a").dir("dir/sub").add("dir/sub/b")
           .dir("op").add("op/old").dir("op/keep").add("op/keep/old")
           .add("file").dir("tofile").add("tofile/x").sym("link", "dir").add("stay")
           .dir("re").add("re/old"))
    high = (Tar().add(".wh.gone").add(".wh.dir").add("op/new").add("op/keep/new")
            .add("op/.wh..wh..opq").dir("file").add("file/in").add("tofile", data="now")
            .add(".wh.link").add(".wh.nothing").dir("re").add("re/new").add(".wh.re")
            .hard("hard", "stay"))
    p = unpack(tmp_path, low, high, detached=False, whiteout="delete", shared=True)
    r = p.layer_dir(0, 1)
    assert sorted(os.listdir(r)) == ["file", "hard", "op", "re", "stay", "tofile"]
    assert sorted(os.listdir(r + "/op")) == ["keep", "new"]
    assert os.listdir(r + "/op/keep") == ["new"]
    assert os.listdir(r + "/file") == ["in"] and open(r + "/tofile").read() == "now"
    assert os.listdir(r + "/re") == ["new"]
    assert lstat(r, "hard").st_nlink == 2  # a lower layer's file is there


def test_attributes_of_a_directory_below_go(tmp_path):
    """What a layer says of a directory is all that it has, though the directory was there before."""
    low = Tar().dir("d", pax={"SCHILY.xattr.user.low": "1", "SCHILY.xattr.user.both": "1"}).dir(
        "kept", pax={"SCHILY.xattr.user.low": "1"})
    high = Tar().dir("d", pax={"SCHILY.xattr.user.both": "2"}).add("d/f").dir("d").add("kept/f")
    p = unpack(tmp_path, low, high, detached=False, whiteout="delete", shared=True)
    r = p.layer_dir(0, 1)
    assert [a for a in os.listxattr(r + "/d") if a.startswith("user.")] == ["user.both"]
    assert os.getxattr(r + "/d", "user.both") == b"2"
    assert os.getxattr(r + "/kept", "user.low") == b"1"  # only implied


# --- refused --------------------------------------------------------------------------------

def hostile():
    T = Tar
    dev = dict(type=tarfile.CHRTYPE, dev=(1, 3))
    return {
        "absolute": (T().add("/etc/evil"), "/etc/evil", "absolute"),
        "absolute dir": (T().dir("/evil"), "/evil", "absolute"),
        "up": (T().add("../evil"), "../evil", "upwards"),
        "up inside": (T().dir("a").add("a/../../evil"), "a/../../evil", "upwards"),
        "up at end": (T().dir("a/.."), "a/..", "upwards"),
        "through a link": (T().sym("l", "/tmp").add("l/evil"), "l/evil", "symbolic link"),
        "through a relative link": (T().sym("l", "../..").add("l/evil"), "l/evil", "symbolic link"),
        "dir through a link": (T().sym("l", "/tmp").dir("l/evil"), "l/evil", "symbolic link"),
        "deep through a link": (T().dir("a").sym("a/l", "/").add("a/l/x/y"), "a/l/x/y", "symbolic"),
        "link over a link": (T().sym("a", "b").sym("b", "/tmp").add("a/x"), "a/x", "symbolic link"),
        "whiteout through a link": (T().sym("l", "/tmp").add("l/.wh.x"), "l/.wh.x", "symbolic"),
        "opaque through a link": (T().sym("l", "/tmp").add("l/.wh..wh..opq"), "l/.wh..wh..opq",
                                  "symbolic link"),
        "hard link out": (T().hard("h", "../../etc/passwd"), "h", "refused: its name leads up"),
        "hard link absolute": (T().hard("h", "/etc/passwd"), "h", "refused: its name is absolute"),
        "hard link through a link": (T().sym("l", "/etc").hard("h", "l/passwd"), "h", "symbolic"),
        "hard link to nothing": (T().hard("h", "nothing"), "h", "not in this layer"),
        "hard link to a directory": (T().dir("d").hard("h", "d"), "h", "which is no file"),
        "hard link to itself": (T().hard("h", "h"), "h", "itself"),
        "hard link as a directory": (T().sym("l", "/tmp").hard("x", "l").add("x/evil"), "x/evil",
                                     "symbolic link"),
        "hard link to a whiteout": (T().add(".wh.w").hard("h", "w"), "h", "which is no file"),
        "device over a parent": (T().add("d/f").add("d", **dev), "d", "that the layer has filled"),
        "file over a parent": (T().add("d/f").add("d"), "d", "that the layer has filled"),
        "link over a parent": (T().add("d/f").sym("d", "/"), "d", "that the layer has filled"),
        "below a file": (T().add("f").add("f/x"), "f/x", "no directory"),
        "below a device": (T().add("n", **dev).add("n/x"), "n/x", "no directory"),
        "file as root": (T().add("."), ".", "the layer's root"),
        "link as root": (T().sym("./", "/tmp"), "./", "the layer's root"),
        "whiteout of dotdot": (T().add("d/.wh..."), "d/.wh...", "whiteout of nothing"),
        "whiteout of dot": (T().add(".wh.."), ".wh..", "whiteout of nothing"),
        "whiteout of nothing": (T().add(".wh."), ".wh.", "whiteout of nothing"),
        "owner": (T().add("f", uid=1 << 33), "f", "out of range"),
        "owner -1": (T().add("f", gid=0xffffffff), "f", "out of range"),
        "long part": (T().add("x" * 256), "x" * 256, "too long"),
        "long name": (T().add("d/" * 2500 + "f"), "d/d/", "too long"),
        "empty link": (T().sym("l", ""), "l", "empty"),
    }


@pytest.mark.parametrize("case", sorted(hostile()))
@pytest.mark.parametrize("whiteout", ["overlay", "delete", "aufs"])
def test_refused_with_the_entrys_name(tmp_path, case, whiteout):
    tar, name, why = hostile()[case]
    if whiteout == "aufs" and case == "hard link to a whiteout":
        pytest.skip("there it is not in the layer")
    if whiteout == "delete" and case in ("hard link to a whiteout",):
        pytest.skip("nothing is left to link to")
    before = set(os.listdir("/tmp"))
    with pytest.raises(PullError) as e:
        one(tmp_path, tar, whiteout=whiteout, detached=whiteout != "delete")
    assert f"entry '{name}" in e.value.msg and why in e.value.msg, e.value
    assert e.value.code == 3
    assert not {x for x in set(os.listdir("/tmp")) - before if "evil" in x}
    for d, _, files in os.walk(tmp_path):
        assert "evil" not in files


def raw_header(name, size, type=b"0"):
    """One header block with any size; tarfile itself writes only sane ones."""
    f = size if isinstance(size, bytes) else b"%011o\0" % size
    h = bytearray(name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + f +
                  b"%011o\0" % 0 + b" " * 8 + type + b"\0" * 100 + b"ustar\00000" + b"\0" * 247)
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def base256(n, width=12):
    return bytes([0x80]) + n.to_bytes(width - 1, "big")


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 62, (1 << 40) + 1])
def test_giant_sizes_are_refused(tmp_path, size):
    with pytest.raises(PullError, match="entry 'bomb'") as e:
        one(tmp_path, raw_header("bomb", base256(size)) + bytes(10240))
    assert e.value.code in (3, 8, 15)


def test_negative_size_is_refused(tmp_path):
    with pytest.raises(PullError, match="bomb|damaged tar") as e:
        one(tmp_path, raw_header("bomb", b"\xff" * 12) + bytes(10240))
    assert e.value.code in (3, 8, 15)


def test_sum_of_sizes_is_limited(tmp_path):
    half = (1 << 39) + 1
    t = Tar()
    for n in ("a", "b"):
        t.add(n, pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": n,
                      "GNU.sparse.realsize": str(half)}, data=b"0\n".ljust(512, b"\0"))
    with pytest.raises(PullError, match="entry 'b': with its size") as e:
        one(tmp_path, t)
    assert e.value.code == 8


def test_entry_cut_short(tmp_path):
    data = Tar().add("f", data=b"x" * 100000).bytes()
    with pytest.raises(PullError, match="entry 'f'.*damaged tar") as e:
        one(tmp_path, data[:50000])
    assert e.value.code == 15


def test_not_a_tar(tmp_path):
    with pytest.raises(PullError, match="damaged tar archive|no tar archive") as e:
        one(tmp_path, b"this is no tar archive at all " * 1000)
    assert e.value.code == 15


@pytest.mark.timeout(600)
def test_one_million_entries_are_taken_and_one_more_is_not(tmp_path):
    # One directory, again and again: entries that cost little.
    many = raw_header("d", 0, b"5") * 999999
    one(tmp_path, many + raw_header("last", 0) + bytes(1024), timeout=300)
    with pytest.raises(PullError, match="entry 'last': the layer has more than 1000000") as e:
        one(tmp_path, many + raw_header("f", 0) + raw_header("last", 0) + bytes(1024), timeout=300)
    assert e.value.code == 8


@pytest.mark.timeout(600)
def test_too_many_implied_directories(tmp_path):
    h = b"".join(raw_header(f"d{i}/f", 0) for i in range(65537))
    with pytest.raises(PullError, match="more than 65536 directories have no entry") as e:
        one(tmp_path, h + bytes(1024), timeout=200)
    assert e.value.code == 8
