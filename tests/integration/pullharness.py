"""Plays berthd to a berth-pull process: core/pull/protocol.h over a SOCK_SEQPACKET socketpair, with
plain directories for layers. Builds OCI layouts and docker-archives, friendly and hostile."""
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def build_dir():
    """$BERTH_BUILD, else the newest build*/ of the repository that holds a berth-pull."""
    if os.environ.get("BERTH_BUILD"):
        return os.environ["BERTH_BUILD"]
    found = [os.path.join(REPO, d) for d in os.listdir(REPO) if d.startswith("build")]
    found = [d for d in found if os.path.exists(os.path.join(d, "core/pull/berth-pull"))]
    if not found:
        raise RuntimeError("no build directory with core/pull/berth-pull; set BERTH_BUILD")
    return max(found, key=lambda d: os.path.getmtime(os.path.join(d, "core/pull/berth-pull")))


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids):
    out = []
    for d in diff_ids:
        out.append(d if not out else sha(f"{out[-1]} {d}".encode()))
    return out


class PullError(Exception):
    def __init__(self, code, msg):
        super().__init__(f"{code}: {msg}")
        self.code, self.msg = code, msg


class Puller:
    """One berth-pull and what came of it."""

    def __init__(self, tmp, unconfined=True, env=None, args=None):
        self.tmp = str(tmp)
        self.layers = {}  # (image, n) -> directory
        self.opaque = []  # inodes of directories marked opaque
        self.images, self.records, self.progress, self.unpacked = [], [], [], {}
        self.opened, self.fetched = [], []
        self.hosts = {}
        self.kept = {}  # digest -> file of a partial blob
        self.order = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock = ours
        argv = [os.path.join(build_dir(), "core/pull/berth-pull")]
        argv += ["--unconfined"] if unconfined else []
        argv += args or []

        def make_fd_3():
            os.dup2(theirs.fileno(), 3)

        # dup2 onto 3 from 3 would keep O_CLOEXEC.
        if theirs.fileno() == 3:
            os.set_inheritable(3, True)
        full = dict(os.environ)
        full.update(env or {})
        self.err = open(os.path.join(self.tmp, "stderr"), "wb")
        self.proc = subprocess.Popen(argv, pass_fds=(3,) if theirs.fileno() == 3 else (),
                                     preexec_fn=make_fd_3, close_fds=False, env=full,
                                     stderr=self.err)
        theirs.close()

    def send(self, obj, fd=None):
        data = json.dumps(obj).encode()
        if fd is None:
            self.sock.send(data)
        else:
            socket.send_fds(self.sock, [data], [fd])

    def recv(self, timeout):
        self.sock.settimeout(timeout)
        data, fds, _, _ = socket.recv_fds(self.sock, 160 * 1024 + 1, 4)
        if not data:
            return None, None
        assert len(data) <= 160 * 1024
        return json.loads(data), (fds[0] if fds else None)

    def layer_dir(self, image, n):
        return self.layers[(image, n)]

    def answer(self, p, fd, have):
        t = p["t"]
        self.order.append((t, p.get("n")))
        image = len(self.images) - 1
        if t == "image":
            self.images.append(p)
            flags = have(p) if callable(have) else [False] * len(p["layers"])
            self.send({"t": "have", "have": flags})
        elif t == "open":
            n = p["n"]
            self.opened.append(n)
            path = os.path.join(self.tmp, f"layer-{image}-{n}")
            if self.shared:
                path = os.path.join(self.tmp, f"tree-{image}")
            os.makedirs(path, exist_ok=True)
            self.layers[(image, n)] = path
            if self.shared and n > 0 and ("unpacked", n - 1) not in self.order:
                raise AssertionError("a layer was asked for too early")
            d = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            self.send({"t": "dir", "n": n}, d)
            os.close(d)
        elif t == "fetch":
            self.fetched.append(p["n"])
            kept = self.kept.get(self.images[image]["layers"][p["n"]]["digest"])
            if kept is None:
                self.send({"t": "fetch", "n": p["n"]})
            else:
                with open(kept, "r+b") as f:
                    self.send({"t": "fetch", "n": p["n"]}, f.fileno())
        elif t == "host":
            self.hosts[p["host"]] = p["up"]
        elif t == "opaque":
            st = os.fstat(fd)
            self.opaque.append((p["n"], st.st_ino))
        elif t == "unpacked":
            implied = []
            if p["implied"]:
                with os.fdopen(os.dup(fd), "rb") as f:
                    raw = f.read()
                assert raw.endswith(b"\0")
                implied = [x.decode("utf-8", "surrogateescape") for x in raw[:-1].split(b"\0")]
            assert len(implied) == p["implied"]
            self.unpacked[(image, p["n"])] = dict(p, paths=implied)
        elif t == "progress":
            self.progress.append((time.monotonic(), p))
        elif t == "record":
            with os.fdopen(os.dup(fd), "rb") as f:
                self.records.append(json.loads(f.read()))
            self.send({"t": "stored"})
        elif t == "error":
            raise PullError(p["code"], p["msg"])
        else:
            raise AssertionError(f"unknown packet {p}")

    def run(self, first, fd=None, have=None, shared=False, timeout=60):
        """shared: one directory for all layers, as a driver gives it that is not detached."""
        self.shared = shared
        try:
            self.send(first, fd)
            while True:
                p, got = self.recv(timeout)
                if p is None:
                    break
                try:
                    self.answer(p, got, have)
                finally:
                    if got is not None:
                        os.close(got)
            code = self.proc.wait(timeout)
            self.err.flush()
            text = open(os.path.join(self.tmp, "stderr")).read()
            assert code == 0, f"berth-pull ended with {code}: {text}"
            assert "Sanitizer" not in text, text
        finally:
            self.close()
        return self

    def close(self):
        self.sock.close()
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise
        finally:
            self.err.close()
        text = open(os.path.join(self.tmp, "stderr")).read()
        assert "Sanitizer" not in text and "runtime error" not in text, text


BASE = {"platform": {"os": "linux", "architecture": "amd64", "variant": ""}, "parallel": 3,
        "detached": True, "whiteout": "overlay"}


def run_import(tmp, path, unconfined=True, **over):
    first = dict(BASE, t="import")
    kw = {k: over.pop(k) for k in ("have", "shared", "timeout") if k in over}
    env = over.pop("env", None)
    first.update(over)
    work = os.path.join(str(tmp), f"work-{len(os.listdir(str(tmp)))}")
    os.makedirs(work)
    fd = os.open(path, os.O_RDONLY)
    p = Puller(work, unconfined=unconfined, env=env)
    try:
        return p.run(first, fd, **kw)
    except PullError as e:
        e.puller = p
        raise
    finally:
        os.close(fd)


# --- tar archives ---------------------------------------------------------------------------

class Tar:
    """A layer's tar, entry by entry."""

    def __init__(self, fmt=tarfile.PAX_FORMAT, encoding="utf-8"):
        self.buf = io.BytesIO()
        self.t = tarfile.open(fileobj=self.buf, mode="w", format=fmt, encoding=encoding,
                              errors="surrogateescape")

    def add(self, name, type=tarfile.REGTYPE, data=b"", mode=0o644, uid=0, gid=0, mtime=1000,
            link="", pax=None, dev=(0, 0)):
        ti = tarfile.TarInfo(name)
        ti.type, ti.mode, ti.uid, ti.gid, ti.mtime, ti.linkname = type, mode, uid, gid, mtime, link
        ti.devmajor, ti.devminor = dev
        if pax:
            ti.pax_headers = pax
        if isinstance(data, str):
            data = data.encode()
        ti.size = len(data) if type == tarfile.REGTYPE else 0
        self.t.addfile(ti, io.BytesIO(data) if ti.size else None)
        return self

    def dir(self, name, **kw):
        return self.add(name, tarfile.DIRTYPE, mode=kw.pop("mode", 0o755), **kw)

    def sym(self, name, target, **kw):
        return self.add(name, tarfile.SYMTYPE, link=target, **kw)

    def hard(self, name, target, **kw):
        return self.add(name, tarfile.LNKTYPE, link=target, **kw)

    def bytes(self):
        self.t.close()
        return self.buf.getvalue()


def gz(data):
    return gzip.compress(data, 1, mtime=0)


def zst(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


OCI_M = "application/vnd.oci.image.manifest.v1+json"
OCI_I = "application/vnd.oci.image.index.v1+json"
OCI_C = "application/vnd.oci.image.config.v1+json"
OCI_L = "application/vnd.oci.image.layer.v1.tar"
D2_M = "application/vnd.docker.distribution.manifest.v2+json"
D2_L = "application/vnd.docker.distribution.manifest.list.v2+json"


class Image:
    """Blobs and manifest of one image."""

    def __init__(self, layers, pack=gz, config=None, arch="amd64", variant=None, media=OCI_M,
                 diff_ids=None, annotations=None, layer_type=None, manifest=None):
        self.blobs = {}
        layers = [x.bytes() if isinstance(x, Tar) else x for x in layers]
        self.diff_ids = diff_ids or [sha(x) for x in layers]
        doc = {"architecture": arch, "os": "linux", "created": "2024-05-06T07:08:09Z",
               "config": config or {}, "rootfs": {"type": "layers", "diff_ids": self.diff_ids}}
        if variant:
            doc["variant"] = variant
        self.config = json.dumps(doc).encode()
        descs = []
        for x in layers:
            blob = pack(x)
            suffix = {gz: "+gzip", zst: "+zstd"}.get(pack, "")
            descs.append(self.put(blob, layer_type or OCI_L + suffix))
        self.doc = {"schemaVersion": 2, "mediaType": media,
                    "config": self.put(self.config, OCI_C), "layers": descs}
        if annotations:
            self.doc["annotations"] = annotations
        self.doc.update(manifest or {})
        self.manifest = json.dumps(self.doc).encode()
        self.desc = self.put(self.manifest, media)
        self.layer_descs = descs
        self.platform = {"os": "linux", "architecture": arch}
        if variant:
            self.platform["variant"] = variant

    def put(self, data, media):
        self.blobs[sha(data)] = data
        return {"mediaType": media, "digest": sha(data), "size": len(data)}


class Artifact:
    """files: (title or None, content, annotations...) of an OCI artifact; its config is the empty one."""

    def __init__(self, files, kind="application/vnd.acme.model", media="application/octet-stream", **manifest):
        self.blobs = {}
        descs = []
        for title, data in files:
            d = self.put(data, media)
            if title is not None:
                d["annotations"] = {"org.opencontainers.image.title": title}
            descs.append(d)
        doc = {"schemaVersion": 2, "mediaType": OCI_M, "artifactType": kind,
               "config": self.put(b"{}", "application/vnd.oci.empty.v1+json"), "layers": descs, **manifest}
        self.doc = doc
        self.manifest = json.dumps(doc).encode()
        self.desc = self.put(self.manifest, OCI_M)

    put = Image.put


def index_of(images, media=OCI_I, platforms=True):
    """(bytes, blobs) of an index of images."""
    entries, blobs = [], {}
    for im in images:
        d = dict(im.desc)
        if platforms:
            d["platform"] = im.platform
        entries.append(d)
        blobs.update(im.blobs)
    data = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": entries}).encode()
    return data, blobs


def write_layout(path, entries, blobs):
    """entries: descriptors for index.json."""
    os.makedirs(os.path.join(path, "blobs/sha256"), exist_ok=True)
    for digest, data in blobs.items():
        with open(os.path.join(path, "blobs/sha256", digest.split(":")[1]), "wb") as f:
            f.write(data)
    with open(os.path.join(path, "oci-layout"), "w") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')
    with open(os.path.join(path, "index.json"), "w") as f:
        json.dump({"schemaVersion": 2, "mediaType": OCI_I, "manifests": entries}, f)
    return path


def layout(tmp, image, name=None, dirname="layout"):
    d = dict(image.desc)
    if name:
        d["annotations"] = {"org.opencontainers.image.ref.name": name}
    return write_layout(os.path.join(str(tmp), dirname), [d], image.blobs)


def archive_of(directory, out, compress=False):
    with tarfile.open(out, "w:gz" if compress else "w") as t:
        for name in sorted(os.listdir(directory)):
            t.add(os.path.join(directory, name), arcname=name)
    return out


def docker_archive(out, images, compress=False, link_dups=False):
    """images: list of (Image, [tags]). Layers are stored plain, as `docker save` does."""
    with tarfile.open(out, "w:gz" if compress else "w") as t:
        seen, entries = {}, []

        def add(name, data):
            ti = tarfile.TarInfo(name)
            ti.size = len(data)
            t.addfile(ti, io.BytesIO(data))

        for k, (im, tags) in enumerate(images):
            names = []
            for i, d in enumerate(im.layer_descs):
                data = im.blobs[d["digest"]]
                name = f"{k}-{i}-{d['digest'][7:]}/layer.tar"
                if link_dups and d["digest"] in seen:
                    ti = tarfile.TarInfo(name)
                    ti.type, ti.linkname = tarfile.SYMTYPE, "../" + seen[d["digest"]]
                    t.addfile(ti)
                else:
                    add(name, data)
                seen.setdefault(d["digest"], name)
                names.append(name)
            cfg = sha(im.config)[7:] + ".json"
            add(cfg, im.config)
            entries.append({"Config": cfg, "RepoTags": tags, "Layers": names})
        add("manifest.json", json.dumps(entries).encode())
    return out


def wipe(path):
    shutil.rmtree(path, ignore_errors=True)


def run_pull(tmp, image, unconfined=True, env=None, **over):
    """over: members of the `pull` packet, have, shared, timeout of Puller.run, and kept."""
    kept = over.pop("kept", {})
    first = dict(BASE, t="pull", image=image, registries="", certs_dirs=[], auth_files=[])
    kw = {k: over.pop(k) for k in ("have", "shared", "timeout") if k in over}
    first.update(over)
    work = os.path.join(str(tmp), f"pull-{len(os.listdir(str(tmp)))}")
    os.makedirs(work)
    full = {"no_proxy": "*"}
    full.update(env or {})
    p = Puller(work, unconfined=unconfined, env=full)
    p.kept = kept
    try:
        return p.run(first, **kw)
    except PullError as e:
        e.puller = p
        raise
