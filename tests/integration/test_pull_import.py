"""berth-pull: layouts and archives, and the record that comes of them."""
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from pullharness import (D2_M, OCI_I, OCI_L, Artifact, Image, PullError, Tar, archive_of, chain_ids,
                         docker_archive, gz, index_of, layout, run_import, sha, write_layout, zst)

CONFIG = {"User": "7:8", "Env": ["A=b", "PATH=/bin"], "Entrypoint": ["/e"], "Cmd": ["c", "d"],
          "WorkingDir": "/w", "Volumes": {"/v1": {}, "/v2": {}}, "StopSignal": "SIGQUIT",
          "Labels": {"k": "v ü"}, "ExposedPorts": {"80/tcp": {}}}


def two_layers(**kw):
    a = Tar().dir("etc").add("etc/a", data="one", mtime=5)
    b = Tar().dir("etc").add("etc/b", data="two" * 100000)
    return Image([a, b], config=CONFIG, annotations={"an": "no", "tation": "x"}, **kw)


def check_two(p, im, ref):
    assert open(p.layer_dir(0, 0) + "/etc/a").read() == "one"
    assert open(p.layer_dir(0, 1) + "/etc/b").read() == "two" * 100000
    r = p.records[0]
    assert r["v"] == 1 and r["id"] == sha(im.config) and r.get("ref") == ref
    assert r["os"] == "linux" and r["architecture"] == "amd64"
    assert r["created"] == "2024-05-06T07:08:09Z"
    assert [x["diff_id"] for x in r["layers"]] == im.diff_ids
    assert [x["chain_id"] for x in r["layers"]] == chain_ids(im.diff_ids)
    assert r["layers"] == p.images[0]["layers"]
    assert p.images[0]["config_digest"] == r["id"] and p.images[0]["digest"] == r["digest"]
    c = r["config"]
    assert c["user"] == "7:8" and c["env"] == CONFIG["Env"] and c["entrypoint"] == ["/e"]
    assert c["cmd"] == ["c", "d"] and c["working_dir"] == "/w" and c["stop_signal"] == "SIGQUIT"
    assert sorted(c["volumes"]) == ["/v1", "/v2"] and c["exposed_ports"] == ["80/tcp"]
    assert c["labels"] == {"k": "v ü"}


@pytest.mark.parametrize("pack", [gz, zst, bytes])
def test_layout_directory(tmp_path, pack):
    im = two_layers(pack=pack)
    p = run_import(tmp_path, layout(tmp_path, im, "example.com/a/b:1"))
    check_two(p, im, "example.com/a/b:1")
    r = p.records[0]
    assert r["digest"] == im.desc["digest"] and "index_digest" not in r
    assert r["annotations"] == {"an": "no", "tation": "x"}
    assert [x["digest"] for x in r["layers"]] == [d["digest"] for d in im.layer_descs]
    assert r["size"] == sum(d["size"] for d in im.layer_descs) + len(im.config)


@pytest.mark.parametrize("compress", [False, True])
def test_oci_archive(tmp_path, compress):
    im = two_layers()
    d = layout(tmp_path, im, "example.com/a/b:1")
    p = run_import(tmp_path, archive_of(d, str(tmp_path / "a.tar"), compress))
    check_two(p, im, "example.com/a/b:1")


@pytest.mark.parametrize("compress", [False, True])
def test_docker_archive(tmp_path, compress):
    im = two_layers(pack=bytes)
    f = docker_archive(str(tmp_path / "d.tar"), [(im, ["x:1"])], compress)
    p = run_import(tmp_path, f)
    check_two(p, im, "x:1")
    assert p.records[0]["digest"].startswith("sha256:")
    # the same archive gives the same digest
    assert run_import(tmp_path, f).records[0]["digest"] == p.records[0]["digest"]


def test_docker_archive_shares_a_layer_by_a_link_and_names_several_images(tmp_path):
    base = Tar().add("base", data="B").bytes()
    one = Image([base, Tar().add("one", data="1")], pack=bytes)
    two = Image([base, Tar().add("two", data="2")], pack=bytes)
    f = docker_archive(str(tmp_path / "d.tar"), [(one, ["a:1", "a:2"]), (two, ["b:1"])],
                       link_dups=True)
    p = run_import(tmp_path, f)
    assert [r["ref"] for r in p.records] == ["a:1", "a:2", "b:1"]
    assert p.records[0]["id"] == p.records[1]["id"] != p.records[2]["id"]
    assert open(p.layer_dir(2, 0) + "/base").read() == "B"
    assert open(p.layer_dir(2, 1) + "/two").read() == "2"
    p = run_import(tmp_path, f, ref="b:1")
    assert [r["ref"] for r in p.records] == ["b:1"]
    with pytest.raises(PullError, match="none of them is named 'c:1'") as e:
        run_import(tmp_path, f, ref="c:1")
    assert e.value.code == 5


def test_given_ref_names_the_only_image(tmp_path):
    p = run_import(tmp_path, layout(tmp_path, two_layers(), "old:1"), ref="new.example/x:2")
    assert p.records[0]["ref"] == "new.example/x:2"


def test_layers_that_berthd_has_are_not_read(tmp_path):
    im = two_layers()
    d = layout(tmp_path, im)
    os.unlink(d + "/blobs/sha256/" + im.layer_descs[0]["digest"][7:])
    p = run_import(tmp_path, d, have=lambda i: [True, False])
    assert p.opened == [1] and p.records


def test_index_chooses_by_platform_and_variant(tmp_path):
    ims = [Image([Tar().add(n, data=n)], arch=a, variant=v) for n, a, v in
           [("x86", "amd64", None), ("v6", "arm", "v6"), ("v7", "arm", "v7"),
            ("a64", "arm64", "v8")]]
    data, blobs = index_of(ims)
    d = {"mediaType": OCI_I, "digest": sha(data), "size": len(data)}
    path = write_layout(str(tmp_path / "l"), [d], dict(blobs, **{sha(data): data}))
    for arch, variant, want in [("amd64", "", "x86"), ("arm", "v7", "v7"), ("arm", "v6", "v6"),
                                ("arm", "", "v7"), ("arm64", "", "a64"), ("arm64", "v8", "a64"),
                                ("amd64", "v3", "x86")]:
        p = run_import(tmp_path, path,
                       platform={"os": "linux", "architecture": arch, "variant": variant})
        assert os.listdir(p.layer_dir(0, 0)) == [want]
        assert p.records[0]["index_digest"] == sha(data)
    for arch, variant in [("s390x", ""), ("arm", "v5")]:
        with pytest.raises(PullError, match="no image for platform linux/" + arch) as e:
            run_import(tmp_path, path,
                       platform={"os": "linux", "architecture": arch, "variant": variant})
        assert e.value.code == 5


def test_nested_indexes_are_followed_but_not_for_ever(tmp_path):
    im = Image([Tar().add("f")])
    data, blobs = index_of([im])
    for depth in range(1, 8):
        blobs[sha(data)] = data
        d = {"mediaType": OCI_I, "digest": sha(data), "size": len(data)}
        path = write_layout(str(tmp_path / f"l{depth}"), [d], blobs)
        if depth <= 4:
            assert run_import(tmp_path, path).records
        else:
            with pytest.raises(PullError, match="indexes within each other"):
                run_import(tmp_path, path)
        outer = dict(d, platform={"os": "linux", "architecture": "amd64"})
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_I, "manifests": [outer]}).encode()


def test_parallel_layers_are_opened_at_once_and_ordered_ones_are_not(tmp_path):
    big = os.urandom(1 << 20) * 4
    im = Image([Tar().add(f"f{i}", data=big) for i in range(4)])
    path = layout(tmp_path, im)
    p = run_import(tmp_path, path, detached=False, whiteout="delete", shared=True)
    assert p.opened == [0, 1, 2, 3]
    assert sorted(os.listdir(p.layer_dir(0, 0))) == ["f0", "f1", "f2", "f3"]
    # ordered: `open` of the next only after the one before is unpacked
    kinds = [x for x in p.order if x[0] in ("open", "unpacked")]
    assert kinds == [(k, i) for i in range(4) for k in ("open", "unpacked")]
    p = run_import(tmp_path, path, parallel=3)
    first = [x for x in p.order if x[0] in ("open", "unpacked")][:3]
    assert [k for k, _ in first] == ["open"] * 3


def test_image_without_layers(tmp_path):
    p = run_import(tmp_path, layout(tmp_path, Image([])))
    assert p.records[0]["layers"] == [] and p.opened == []


def test_empty_layers(tmp_path):
    im = Image([b"", bytes(1024), Tar().bytes(), Tar().add("x").bytes() + b"\0" * 100000])
    p = run_import(tmp_path, layout(tmp_path, im))
    assert os.listdir(p.layer_dir(0, 0)) == os.listdir(p.layer_dir(0, 1)) == []
    assert os.listdir(p.layer_dir(0, 3)) == ["x"]


def test_gzip_with_several_members_and_zero_padding(tmp_path):
    def members(data):
        return b"".join(gz(data[i:i + 3000]) for i in range(0, len(data), 3000)) + bytes(512)
    im = Image([Tar().add("x", data=os.urandom(50000))], pack=members)
    p = run_import(tmp_path, layout(tmp_path, im))
    assert os.path.getsize(p.layer_dir(0, 0) + "/x") == 50000


def test_form_is_told_by_content_not_by_media_type(tmp_path):
    t = Tar().add("x", data="y" * 1000).bytes()
    for pack, said in [(zst, OCI_L + "+gzip"), (gz, OCI_L), (bytes, OCI_L + "+gzip")]:
        im = Image([t], pack=pack, layer_type=said)
        p = run_import(tmp_path, layout(tmp_path, im, dirname=f"l-{pack.__name__}"))
        assert os.listdir(p.layer_dir(0, 0)) == ["x"]


# --- refused --------------------------------------------------------------------------------

def refused(tmp_path, path, match, code, **kw):
    with pytest.raises(PullError, match=match) as e:
        run_import(tmp_path, path, **kw)
    assert e.value.code == code, e.value
    assert not e.value.puller.records
    return e.value


def test_blob_with_a_wrong_digest(tmp_path):
    im = two_layers()
    d = layout(tmp_path, im)
    blob = d + "/blobs/sha256/" + im.layer_descs[1]["digest"][7:]
    other = gz(Tar().add("evil").bytes())
    good = open(blob, "rb").read()
    open(blob, "wb").write(good[:-1] + bytes([good[-1] ^ 1]))
    e = refused(tmp_path, d, "layer 2 " + im.layer_descs[1]["digest"], 15)
    assert "digest" in e.msg or "data check" in e.msg or "gzip" in e.msg
    open(blob, "wb").write(other)
    refused(tmp_path, d, "manifest says", 15)


@pytest.mark.parametrize("what", ["config", "manifest"])
def test_config_and_manifest_with_a_wrong_digest(tmp_path, what):
    im = two_layers()
    d = layout(tmp_path, im)
    digest = im.doc["config"]["digest"] if what == "config" else im.desc["digest"]
    with open(d + "/blobs/sha256/" + digest[7:], "ab") as f:
        f.write(b" ")
    refused(tmp_path, d, f"{what} {digest}: the content's digest is", 15)


def test_wrong_diff_id(tmp_path):
    im = Image([Tar().add("x", data="y")], diff_ids=[sha(b"something else")])
    refused(tmp_path, layout(tmp_path, im), "the image's config says " + sha(b"something else"), 15)


@pytest.mark.parametrize("pack", [gz, zst])
def test_compressed_layer_cut_short(tmp_path, pack):
    t = Tar().add("x", data=os.urandom(300000))
    im = Image([t], pack=lambda x: pack(x)[:-5000])
    refused(tmp_path, layout(tmp_path, im), "ends too early", 15)


@pytest.mark.parametrize("pack", [gz, zst])
def test_compressed_layer_damaged(tmp_path, pack):
    def damage(data):
        z = bytearray(pack(data))
        for i in range(len(z) // 2, len(z) // 2 + 64):
            z[i] ^= 0x5a
        return bytes(z)
    im = Image([Tar().add("x", data=os.urandom(300000))], pack=damage)
    refused(tmp_path, layout(tmp_path, im), "layer 1 sha256:", 15)


def test_missing_blob(tmp_path):
    im = two_layers()
    d = layout(tmp_path, im)
    os.unlink(d + "/blobs/sha256/" + im.layer_descs[0]["digest"][7:])
    refused(tmp_path, d, "there is no 'blobs/sha256/" + im.layer_descs[0]["digest"][7:], 5)


def test_not_an_image_at_all(tmp_path):
    os.makedirs(tmp_path / "empty")
    refused(tmp_path, str(tmp_path / "empty"), "neither index.json nor manifest.json", 3)
    (tmp_path / "junk").write_bytes(os.urandom(5000))
    refused(tmp_path, str(tmp_path / "junk"), "no readable tar archive", 3)
    (tmp_path / "t.tar").write_bytes(Tar().add("x").bytes())
    refused(tmp_path, str(tmp_path / "t.tar"), "neither index.json nor manifest.json", 3)


def test_layers_and_diff_ids_differ_in_number(tmp_path):
    im = Image([Tar().add("x")], diff_ids=[sha(b"a"), sha(b"b")])
    refused(tmp_path, layout(tmp_path, im), "config has 2 layers, the manifest 1", 3)


def test_odd_manifests(tmp_path):
    t = Tar().add("x").bytes()
    cases = [
        (dict(layers=[{"digest": "sha256:../../../etc/passwd", "size": 1}]), "is no sha256 digest"),
        (dict(layers=[{"digest": sha(b"x"), "size": -1}]), "no valid size"),
        (dict(layers={}), "no layers"),
        (dict(layers=[{"digest": sha(b"x"), "size": 1}] * 501), "at most 500"),
        (dict(manifests=[]), "neither an image manifest nor an index"),
        (dict(schemaVersion=1), "schema 1"),
    ]
    for i, (over, match) in enumerate(cases):
        im = Image([t], manifest=over)
        with pytest.raises(PullError, match=match):
            run_import(tmp_path, layout(tmp_path, im, dirname=f"m{i}"))


def test_an_artifact_is_files(tmp_path):
    long = "d/" + "n" * 200 + "/" + "f" * 120
    block = os.urandom(512)
    files = [("model.bin", os.urandom(300000)), ("sub/dir/x.json", b"{}"), (None, b"nameless"), (long, block),
             ("packed.tar.gz", gz(Tar().add("inside").bytes())), ("empty", b"")]
    a = Artifact(files, annotations={"k": "v"})
    p = run_import(tmp_path, layout(tmp_path, a))
    for n, (title, data) in enumerate(files):
        name = title if title is not None else sha(data)[7:]
        path = f"{p.layer_dir(0, n)}/{name}"
        assert open(path, "rb").read() == data
        st = os.stat(path)
        assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (0, 0, 0o644)
    r, = p.records
    assert r["id"] == r["digest"] == sha(a.manifest) and r["artifact"] == "application/vnd.acme.model"
    assert r["annotations"] == {"k": "v"} and r["config"]["cmd"] == []
    assert r["size"] == sum(len(x) for _, x in files) + 2
    diffs = [x["diff_id"] for x in r["layers"]]
    assert len(set(diffs)) == len(files) and [x["chain_id"] for x in r["layers"]] == chain_ids(diffs)
    # the same blob of another name is another layer, and one of the same name the same
    b = Artifact([("other.bin", files[0][1])])
    c = Artifact([files[0]])
    other, = run_import(tmp_path, layout(tmp_path, b, dirname="b")).records
    same, = run_import(tmp_path, layout(tmp_path, c, dirname="c")).records
    assert other["layers"][0]["diff_id"] not in diffs and same["layers"][0]["diff_id"] == diffs[0]
    assert len({r["id"], other["id"], same["id"]}) == 3
    # without a type of its own it has its config's
    d = Artifact([("x", b"y")], artifactType="")
    assert run_import(tmp_path, layout(tmp_path, d, dirname="d")).records[0]["artifact"] == \
        "application/vnd.oci.empty.v1+json"


@pytest.mark.parametrize("title", ["/abs", "dir/", "a/../b", "..", "./x", "a//b", "a/.wh.b", "new\nline", "x" * 5000])
def test_an_artifact_with_an_odd_title(tmp_path, title):
    refused(tmp_path, layout(tmp_path, Artifact([("fine", b"1"), (title, b"2")])), "no name of a file", 3)


def test_an_artifact_whose_blob_is_another(tmp_path):
    a = Artifact([("f", b"right")])
    d = layout(tmp_path, a)
    with open(f"{d}/blobs/sha256/{sha(b'right')[7:]}", "wb") as f:
        f.write(b"wrong")
    refused(tmp_path, d, "digest", 15)


def test_odd_configs(tmp_path):
    for i, (config, match) in enumerate([
            ({"Env": "x"}, None), ({"Env": [1]}, "'Env' is not a list of strings"),
            ({"User": 7}, "'User' is not a string"), ({"Labels": {"a": 1}}, "'Labels' is not"),
            ({"Volumes": ["/x"]}, "'Volumes' is not an object"), ([], None)]):
        im = Image([Tar().add("x")], config=config)
        if match is None:
            assert run_import(tmp_path, layout(tmp_path, im, dirname=f"c{i}")).records
            continue
        with pytest.raises(PullError, match=match):
            run_import(tmp_path, layout(tmp_path, im, dirname=f"c{i}"))


def test_layout_that_links_out_of_itself(tmp_path):
    im = two_layers()
    d = layout(tmp_path, im)
    blob = d + "/blobs/sha256/" + im.layer_descs[0]["digest"][7:]
    os.rename(blob, str(tmp_path / "outside"))
    os.symlink(str(tmp_path / "outside"), blob)
    with pytest.raises(PullError):
        run_import(tmp_path, d)


def test_docker_schema2_manifest_in_a_layout(tmp_path):
    im = two_layers(media=D2_M)
    assert run_import(tmp_path, layout(tmp_path, im)).records[0]["digest"] == im.desc["digest"]


def test_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    keep = os.open(tmp_path / "fifo", os.O_RDWR)
    with pytest.raises(PullError, match="neither a regular file nor a directory"):
        run_import(tmp_path, str(tmp_path / "fifo"))
    os.close(keep)


def test_archive_bomb_of_names(tmp_path):
    with tarfile.open(tmp_path / "many.tar", "w") as t:
        for i in range(65537):
            t.addfile(tarfile.TarInfo(f"f{i}"))
    refused(tmp_path, str(tmp_path / "many.tar"), "more than 65536 entries", 8)


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")
@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "oci"])
def test_what_skopeo_writes(tmp_path, kind):
    im = two_layers()
    src = layout(tmp_path, im, "example.com/a/b:1")
    out = str(tmp_path / "out")
    env = dict(os.environ, TMPDIR=str(tmp_path))
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{src}:example.com/a/b:1",
                    f"{kind}:{out}:example.com/a/b:1"], check=True, env=env)
    p = run_import(tmp_path, out)
    r = p.records[0]
    assert r["ref"] == "example.com/a/b:1"
    assert [x["diff_id"] for x in r["layers"]] == im.diff_ids
    assert open(p.layer_dir(0, 0) + "/etc/a").read() == "one"
    if kind != "docker-archive":
        assert r["id"] == sha(im.config) and r["digest"] == im.desc["digest"]


@pytest.mark.skipif(not shutil.which("umoci"), reason="needs umoci")
def test_what_umoci_writes(tmp_path):
    def umoci(*a):
        subprocess.run(["umoci", *a], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    umoci("init", "--layout", "u")
    umoci("new", "--image", "u:latest")
    umoci("unpack", "--image", "u:latest", "bundle")
    root = tmp_path / "bundle/rootfs"
    (root / "dir").mkdir(mode=0o750)
    (root / "dir/ä").write_text("one")
    os.link(root / "dir/ä", root / "hard")
    os.symlink("dir/ä", root / "link")
    os.chown(root / "dir/ä", 7, 8)
    umoci("repack", "--image", "u:latest", "--refresh-bundle", "bundle")
    shutil.rmtree(root / "dir")
    umoci("repack", "--image", "u:latest", "--refresh-bundle", "bundle")
    p = run_import(tmp_path, str(tmp_path / "u"))
    r = p.layer_dir(0, 0)
    assert open(r + "/dir/ä").read() == "one" and os.stat(r + "/dir").st_mode & 0o777 == 0o750
    assert os.stat(r + "/hard").st_ino == os.stat(r + "/dir/ä").st_ino
    assert (os.stat(r + "/hard").st_uid, os.stat(r + "/hard").st_gid) == (7, 8)
    assert os.readlink(r + "/link") == "dir/ä"
    assert os.lstat(p.layer_dir(0, 1) + "/dir").st_rdev == 0


def test_five_hundred_layers(tmp_path):
    im = Image([Tar().add(f"f{i}", data=str(i)) for i in range(500)])
    p = run_import(tmp_path, layout(tmp_path, im), parallel=16, timeout=120)
    assert sorted(p.opened) == list(range(500))
    assert [x["chain_id"] for x in p.records[0]["layers"]] == chain_ids(im.diff_ids)
    assert all(os.listdir(p.layer_dir(0, i)) == [f"f{i}"] for i in range(500))


def test_record_with_much_in_it(tmp_path):
    labels = {f"label-{i}": "v" * 1000 for i in range(3000)}
    p = run_import(tmp_path, layout(tmp_path, Image([Tar().add("x")], config={"Labels": labels})))
    assert p.records[0]["config"]["labels"] == labels
    labels = {f"label-{i}": "\x01" * 700 for i in range(950)}  # six bytes each in JSON
    im = Image([Tar().add("x")], config={"Labels": labels})
    assert len(im.config) < 4 << 20
    assert run_import(tmp_path, layout(tmp_path, im, dirname="l2")).records
    im = Image([Tar().add("x")], config={"Labels": {"x": "v" * (4 << 20)}})
    refused(tmp_path, layout(tmp_path, im, dirname="l3"), "larger than 4194304 bytes", 8)
