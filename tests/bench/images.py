"""Makes the benchmark's images of what this machine has under /usr and pushes them to a registry."""
import gzip
import hashlib
import http.client
import io
import json
import os
import tarfile

MIB = 1 << 20


def files_of_usr():
    """(path, size) of /usr's plain files in an order that does not change."""
    for top in ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include"):
        for where, dirs, names in os.walk(top):
            dirs.sort()
            for name in sorted(names):
                path = os.path.join(where, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path, os.path.getsize(path)


def add(tar, name, data, mode=0o644):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def content_layer(source, marker, limit):
    """A tar of the next `limit` bytes of files, with a file of its own so that no two layers are the same."""
    out, total = io.BytesIO(), 0
    with tarfile.open(fileobj=out, mode="w") as tar:
        add(tar, marker, marker.encode())
        for path, size in source:
            try:
                with open(path, "rb") as f:
                    add(tar, path.lstrip("/"), f.read())
            except OSError:
                continue
            total += size
            if total >= limit:
                break
    return out.getvalue()


def busybox_layer(busybox):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar, open(busybox, "rb") as f:
        for d in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            info = tarfile.TarInfo(d)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        add(tar, "bin/busybox", f.read(), 0o755)
        for name in ("sh", "sleep", "true", "ls", "cat"):
            info = tarfile.TarInfo("bin/" + name)
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
    return out.getvalue()


class Registry:
    def __init__(self, host):
        self.host = host

    def call(self, method, path, body=None, headers=None):
        c = http.client.HTTPConnection(self.host, timeout=60)
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        r.read()
        if r.status >= 300:
            raise RuntimeError("registry: %s %s: %d" % (method, path, r.status))
        return r

    def blob(self, repo, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        where = self.call("POST", "/v2/%s/blobs/uploads/" % repo).getheader("Location")
        where = where[where.index("/v2/"):]
        self.call("PUT", where + ("&" if "?" in where else "?") + "digest=" + digest, data,
                  {"Content-Type": "application/octet-stream"})
        return {"digest": digest, "size": len(data)}

    def push(self, repo, tag, tars, command):
        layers = []
        for data in tars:
            packed = gzip.compress(data, 6, mtime=0)
            layers.append(dict(self.blob(repo, packed), mediaType="application/vnd.oci.image.layer.v1.tar+gzip"))
        arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        config = {"architecture": arch, "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": command},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(t).hexdigest() for t in tars]}}
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "layers": layers, "config": dict(
            self.blob(repo, json.dumps(config).encode()), mediaType="application/vnd.oci.image.config.v1+json")}
        self.call("PUT", "/v2/%s/manifests/%s" % (repo, tag), json.dumps(manifest), {"Content-Type": kind})
        return sum(x["size"] for x in layers), sum(len(t) for t in tars)


def push_all(host, busybox, n_load):
    """Pushes bench/small, bench/pause, bench/big and bench/load:0..; returns (compressed, plain) bytes of bench/big."""
    r = Registry(host)
    base = busybox_layer(busybox)
    r.push("bench/small", "1", [base], ["sleep", "1000"])
    r.push("bench/pause", "1", [base], ["sleep", "2147483647"])
    source = files_of_usr()
    size = r.push("bench/big", "1", [content_layer(source, "layer-%d" % i, 60 * MIB) for i in range(6)], ["sleep", "1"])
    for i in range(n_load):
        r.push("bench/load", str(i), [content_layer(source, "load-%d" % i, 20 * MIB)], ["sleep", "1"])
    return size
