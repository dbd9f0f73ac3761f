"""berth-pull against registries: a fake one that misbehaves, and Debian's docker-registry."""
import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time

import pytest

from fakeregistry import Registry
from pullharness import (D2_L, D2_M, OCI_I, Artifact, Image, PullError, Tar, chain_ids, gz, index_of,
                         run_pull, sha, zst)


def image(seed=b"", n=2, size=300000, **kw):
    return Image([Tar().add(f"f{i}", data=os.urandom(size) + seed) for i in range(n)], **kw)


@pytest.fixture
def reg():
    with Registry() as r:
        yield r


def refused(tmp_path, ref, code, match, **kw):
    with pytest.raises(PullError, match=match) as e:
        run_pull(tmp_path, ref, **kw)
    assert e.value.code == code, e.value
    return e.value


def check(p, im):
    r = p.records[-1]
    assert r["digest"] == im.desc["digest"] and r["id"] == sha(im.config)
    assert [x["chain_id"] for x in r["layers"]] == chain_ids(im.diff_ids)
    for n in range(len(im.diff_ids)):
        assert os.listdir(p.layer_dir(len(p.images) - 1, n)) == [f"f{n}"]
    return p


def blob_path(repo, im, n):
    return f"/v2/{repo}/blobs/{im.layer_descs[n]['digest']}"


# --- the plain way --------------------------------------------------------------------------

@pytest.mark.parametrize("pack", [gz, zst])
def test_pull_by_tag_and_by_digest(tmp_path, reg, pack):
    im = image(pack=pack)
    ref = reg.push("a/b", "1", im)
    p = check(run_pull(tmp_path, ref), im)
    assert p.records[0]["ref"] == ref and "index_digest" not in p.records[0]
    by_digest = f"{reg.host}/a/b@{im.desc['digest']}"
    check(run_pull(tmp_path, by_digest), im)
    check(run_pull(tmp_path, f"{reg.host}/a/b:1@{im.desc['digest']}"), im)
    agents = {h["User-Agent"] for _, _, h, _ in reg.log}
    assert len(agents) == 1 and agents.pop().startswith("berth/")


def test_an_artifact(tmp_path, reg):
    files = [("model.bin", os.urandom(100000)), ("config/x.json", b"{}")]
    a = Artifact(files)
    p = run_pull(tmp_path, reg.push("models/m", "1", a))
    r, = p.records
    assert r["id"] == r["digest"] == sha(a.manifest) and r["artifact"] == "application/vnd.acme.model"
    for n, (name, data) in enumerate(files):
        with open(f"{p.layer_dir(0, n)}/{name}", "rb") as f:
            assert f.read() == data


def test_lists_and_indexes(tmp_path, reg):
    for media, own in [(OCI_I, None), (D2_L, D2_M)]:
        a = image(b"a", media=own or "application/vnd.oci.image.manifest.v1+json")
        b = image(b"b", arch="arm64", variant="v8")
        data, _ = index_of([b, a], media)
        for im in (a, b):
            reg.blobs.update(im.blobs)
            reg.manifests[im.desc["digest"]] = (im.manifest, im.doc["mediaType"])
        reg.push_manifest("m", "1", data, media)
        p = check(run_pull(tmp_path, f"{reg.host}/m:1"), a)
        assert p.records[0]["index_digest"] == sha(data)
        arm = {"os": "linux", "architecture": "arm64", "variant": "v8"}
        check(run_pull(tmp_path, f"{reg.host}/m@{sha(data)}", platform=arm), b)
        refused(tmp_path, f"{reg.host}/m:1", 5, "no image for platform windows/amd64",
                platform={"os": "windows", "architecture": "amd64", "variant": ""})


def test_layers_are_fetched_at_once_and_only_those_that_miss(tmp_path, reg):
    im = image(n=6, size=2000000)
    ref = reg.push("a", "1", im)
    reg.fault = lambda h, path, count: time.sleep(0.2) if "/blobs/" in path else None
    check(run_pull(tmp_path, ref, parallel=4), im)
    assert reg.most_active == 4
    before = len(reg.log)
    p = run_pull(tmp_path, ref, have=lambda i: [True] * 5 + [False])
    assert p.opened == [5] and p.records
    assert len([1 for _, path, _, _ in reg.log[before:] if "/blobs/" in path]) == 2  # config, layer


def test_progress_comes_at_most_ten_times_a_second(tmp_path, reg):
    im = image(n=1, size=1500000)
    ref = reg.push("a", "1", im)
    data, path = im.blobs[im.layer_descs[0]["digest"]], blob_path("a", im, 0)

    def slowly(h, got, count):
        if got != path:
            return False
        h.send_response(200)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        for i in range(0, len(data), len(data) // 50 + 1):
            h.wfile.write(data[i:i + len(data) // 50 + 1])
            time.sleep(0.02)
        return True
    reg.fault = slowly
    p = check(run_pull(tmp_path, ref), im)
    times = [t for t, _ in p.progress]
    assert 3 <= len(times) <= 15
    assert all(x["total"] == len(data) for _, x in p.progress)
    done = [x["done"] for _, x in p.progress]
    assert done == sorted(done)


# --- authentication -------------------------------------------------------------------------

def test_basic(tmp_path, reg):
    im = image()
    ref, reg.auth = reg.push("a/b", "1", im), "basic"
    check(run_pull(tmp_path, ref, auth={"username": "u", "password": "p"}), im)
    check(run_pull(tmp_path, ref, auth={"auth": base64.b64encode(b"u:p").decode()}), im)
    refused(tmp_path, ref, 16, "wants a user and password")
    refused(tmp_path, ref, 16, "refused user and password",
            auth={"username": "u", "password": "wrong"})
    refused(tmp_path, ref, 3, "USER:PASSWORD", auth={"auth": "!!!"})


def test_bearer_anonymous_user_and_tokens(tmp_path, reg):
    im = image()
    ref, reg.auth = reg.push("a/b", "1", im), "bearer"
    reg.users["*"] = ""  # anonymous ones too
    check(run_pull(tmp_path, ref), im)
    asked = [x for x in reg.log if x[1].startswith("/token")]
    assert len(asked) == 1 and "Authorization" not in asked[0][2]
    assert "scope=repository%3Aa%2Fb%3Apull" in asked[0][1]
    del reg.users["*"]
    check(run_pull(tmp_path, ref, auth={"username": "u", "password": "p"}), im)
    refused(tmp_path, ref, 16, "refused the credentials")
    refused(tmp_path, ref, 16, "refused the credentials", auth={"username": "u", "password": "x"})
    reg.refresh_tokens.add("r&=1")
    check(run_pull(tmp_path, ref, auth={"identity_token": "r&=1"}), im)
    assert reg.log[-1][0] == "GET" and any(x[0] == "POST" for x in reg.log)
    refused(tmp_path, ref, 16, "refused the credentials", auth={"identity_token": "bad"})
    reg.tokens.add("direct")
    n = len(reg.log)
    check(run_pull(tmp_path, ref, auth={"registry_token": "direct"}), im)
    assert not any(x[1].startswith("/token") for x in reg.log[n:])
    refused(tmp_path, ref, 16, "refused the registry token", auth={"registry_token": "bad"})


def test_token_that_runs_out_in_the_middle_is_renewed(tmp_path, reg):
    im = image(n=4)
    ref, reg.auth, reg.token_uses = reg.push("a", "1", im), "bearer", 3
    check(run_pull(tmp_path, ref, auth={"username": "u", "password": "p"}), im)
    assert len([x for x in reg.log if x[1].startswith("/token")]) == 2


def test_token_server_that_fails(tmp_path, reg):
    im = image()
    ref, reg.auth, reg.token_status = reg.push("a", "1", im), "bearer", 503
    refused(tmp_path, ref, 14, "^14: RegistryUnavailable: .*token server.*503")


def test_server_address_decides_who_gets_the_credentials(tmp_path, reg):
    im = image()
    ref, reg.auth = reg.push("a", "1", im), "basic"
    for address in (reg.host, "http://" + reg.host, f"https://{reg.host}/v1/"):
        check(run_pull(tmp_path, ref, auth={"username": "u", "password": "p",
                                            "server_address": address}), im)
    n = len(reg.log)
    refused(tmp_path, ref, 16, "wants a user", auth={"username": "u", "password": "p",
                                                     "server_address": "other.example"})
    assert not any("Authorization" in x[2] for x in reg.log[n:])


def test_auth_files(tmp_path, reg):
    im = image()
    ref, reg.auth = reg.push("team/x/app", "1", im), "basic"
    good, bad = base64.b64encode(b"u:p").decode(), base64.b64encode(b"u:wrong").decode()

    def files(*docs):
        out = []
        for i, d in enumerate(docs):
            f = tmp_path / f"auth{i}.json"
            f.write_text(d if isinstance(d, str) else json.dumps({"auths": d}))
            out.append(str(f))
        return out
    h = reg.host
    for docs in [({h: {"auth": good}},), ({h: {"auth": bad}, h + "/team/x": {"auth": good}},),
                 ({h + "/team/x/app": {"auth": good}, h + "/team": {"auth": bad}},),
                 ({"https://" + h + "/v1/": {"auth": good}},),
                 ({"other": {"auth": bad}}, {h: {"auth": good}}),
                 ({h: {"username": "u", "password": "p"}},)]:
        check(run_pull(tmp_path, ref, auth_files=["/nonexistent/x"] + files(*docs)), im)
    for docs in [({h + "/team/y": {"auth": good}},), ({h: {}},), ({},)]:
        refused(tmp_path, ref, 16, "wants a user", auth_files=files(*docs))
    refused(tmp_path, ref, 3, "auth0.json: it is no JSON", auth_files=files("{"))
    # the request goes first
    refused(tmp_path, ref, 16, "refused user", auth_files=files({h: {"auth": good}}),
            auth={"username": "u", "password": "no"})


# --- faults ---------------------------------------------------------------------------------

def test_not_found(tmp_path, reg):
    refused(tmp_path, f"{reg.host}/no/such:1", 5, "no/such/manifests/1: status 404, MANIFEST_UNKN")
    assert len(reg.log) == 1  # no second try


def test_denied(tmp_path, reg):
    reg.fault = lambda h, path, count: reg.error(h, 403, "DENIED", "not for you") or True
    refused(tmp_path, f"{reg.host}/a:1", 7, "status 403, DENIED: not for you")


def test_unreachable_registry(tmp_path):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    host = f"127.0.0.1:{s.getsockname()[1]}"
    began = time.monotonic()
    e = refused(tmp_path, host + "/a:1", 14, "refused|connect")
    assert e.msg.startswith("RegistryUnavailable: ") and host in e.msg
    assert time.monotonic() - began < 8
    refused(tmp_path, "no-such-host.invalid/a:1", 14, "^14: RegistryUnavailable: .*resolve")


def test_busy_registry_is_tried_again_and_retry_after_is_honoured(tmp_path, reg):
    im = image(n=1)
    ref, when = reg.push("a", "1", im), []

    def busy(h, path, count):
        if "/manifests/" in path and count == 1:
            when.append(time.monotonic())
            return reg.error(h, 429, "TOOMANYREQUESTS", Retry_After="2") or True
        if "/manifests/" in path:
            when.append(time.monotonic())
        if path == blob_path("a", im, 0) and count <= 2:
            return reg.error(h, 503, "UNAVAILABLE") or True
        return False
    reg.fault = busy
    check(run_pull(tmp_path, ref), im)
    assert when[1] - when[0] >= 1.9
    assert reg.counts[blob_path("a", im, 0)] == 3


def test_registry_that_stays_busy(tmp_path, reg):
    reg.fault = lambda h, path, count: reg.error(h, 503, "UNAVAILABLE", "later") or True
    refused(tmp_path, f"{reg.host}/a:1", 14, "^14: RegistryUnavailable: .*503, UNAVAILABLE: later")
    assert 3 <= len(reg.log) <= 5


@pytest.mark.parametrize("ranges,etags", [(True, True), (True, False), (False, True)])
def test_broken_transfer_goes_on_where_it_ended(tmp_path, reg, ranges, etags):
    im = image(n=2, size=3000000)
    ref, reg.ranges, reg.etags = reg.push("a", "1", im), ranges, etags
    path = blob_path("a", im, 1)
    data = im.blobs[im.layer_descs[1]["digest"]]

    def cut(h, got, count):
        if got == path and count <= 3:
            reg.blob(h, data, im.layer_descs[1]["digest"], cut=700000)
            return True
        return False
    reg.fault = cut
    check(run_pull(tmp_path, ref), im)
    tries = [x[2] for x in reg.log if x[1] == path]
    assert "Range" not in tries[0] and len(tries) == 4
    starts = [int(re.fullmatch(r"bytes=(\d+)-", t["Range"]).group(1)) for t in tries[1:]]
    if ranges:
        assert 0 < starts[0] < starts[1] < starts[2]
    assert [t.get("If-Range") for t in tries[1:]] == \
        [f'"{im.layer_descs[1]["digest"]}"' if etags else None] * 3


def test_transfer_that_breaks_for_ever(tmp_path, reg):
    im = image(n=1, size=1000000)
    ref = reg.push("a", "1", im)
    data, path = im.blobs[im.layer_descs[0]["digest"]], blob_path("a", im, 0)
    reg.fault = lambda h, got, count: got == path and (
        reg.blob(h, data, "x", cut=1000 if count == 1 else 0) or True)
    refused(tmp_path, ref, 14, "RegistryUnavailable")
    assert reg.counts[path] == 5


def test_transfer_that_stalls(tmp_path, reg):
    im = image(n=1, size=1000000)
    ref = reg.push("a", "1", im)
    data, path = im.blobs[im.layer_descs[0]["digest"]], blob_path("a", im, 0)

    def stall(h, got, count):
        if got != path or count > 1:
            return False
        h.send_response(200)
        h.send_header("Content-Length", str(len(data)))
        h.send_header("ETag", '"e"')
        h.end_headers()
        h.wfile.write(data[:400000])
        h.wfile.flush()
        time.sleep(6)
        return True
    reg.fault = stall
    began = time.monotonic()
    check(run_pull(tmp_path, ref, stall_ms=1000), im)
    assert time.monotonic() - began < 6
    assert reg.counts[path] == 2


def test_wrong_content(tmp_path, reg):
    im = image(n=2)
    ref = reg.push("a", "1", im)
    digest = im.layer_descs[1]["digest"]
    other = bytearray(im.blobs[digest])
    other[-1] ^= 1
    reg.blobs[digest] = bytes(other)
    refused(tmp_path, ref, 15, "layer 2 " + digest)
    reg.blobs[digest] = im.blobs[digest] + b"more"
    refused(tmp_path, ref, 15, f"layer 2 {digest}: the blob is longer")
    reg.blobs[digest] = im.blobs[digest][:-10]
    refused(tmp_path, ref, 15, f"layer 2 {digest}")


def test_manifest_that_is_not_what_the_digest_says(tmp_path, reg):
    im = image()
    reg.push("a", "1", im)
    want = sha(b"other")
    reg.manifests[want] = reg.manifests[im.desc["digest"]]
    refused(tmp_path, f"{reg.host}/a@{want}", 15, f"manifest {want}: the content's digest is")


def test_manifest_without_end(tmp_path, reg):
    reg.push_manifest("a", "1", b" " * (4 << 20) + b"{}")
    refused(tmp_path, f"{reg.host}/a:1", 8, "larger than 4194304")


def test_range_that_was_not_asked_for(tmp_path, reg):
    im = image(n=1, size=1000000)
    ref = reg.push("a", "1", im)
    data, path = im.blobs[im.layer_descs[0]["digest"]], blob_path("a", im, 0)

    def wrong(h, got, count):
        if got != path:
            return False
        if count == 1:
            reg.blob(h, data, "x", cut=300000)
        else:
            reg.reply(h, 206, data[500000:],
                      Content_Range=f"bytes 500000-{len(data) - 1}/{len(data)}")
        return True
    reg.fault = wrong
    refused(tmp_path, ref, 15, "another range")


def test_redirect_to_another_host_carries_no_credentials(tmp_path, reg):
    im = image()
    ref, reg.auth = reg.push("a", "1", im), "basic"
    with Registry(host="localhost") as cdn:
        cdn.blobs.update(im.blobs)

        def away(h, path, count):
            if "/blobs/" in path and h.headers.get("Authorization"):
                reg.reply(h, 307, Location=f"http://{cdn.host}{path}")
                return True
            return False
        reg.fault = away
        check(run_pull(tmp_path, ref, auth={"username": "u", "password": "p"}), im)
        assert len(cdn.log) == 3 and not any("Authorization" in x[2] for x in cdn.log)

        # within the host it stays
        reg.fault = lambda h, path, count: path == blob_path("a", im, 0) and count == 1 and (
            reg.reply(h, 302, Location=path) or True)
        check(run_pull(tmp_path, ref, auth={"username": "u", "password": "p"}), im)
        # round and round
        reg.fault = lambda h, path, count: "/blobs/" in path and (
            reg.reply(h, 302, Location=path + "x") or True)
        refused(tmp_path, ref, 14, "more than 10 redirects",
                auth={"username": "u", "password": "p"})
        reg.fault = lambda h, path, count: "/blobs/" in path and (
            reg.reply(h, 302, Location="file:///etc/passwd") or True)
        refused(tmp_path, ref, 14, "no http URL", auth={"username": "u", "password": "p"})


def test_stops_at_once_when_berthd_goes(tmp_path, reg):
    im = image(n=1)
    ref, path = reg.push("a", "1", im), blob_path("a", im, 0)
    reg.fault = lambda h, got, count: got == path and time.sleep(30)

    class Gone(Exception):
        pass

    def leave(_):
        raise Gone()
    began = time.monotonic()
    with pytest.raises(Gone):
        run_pull(tmp_path, ref, have=leave)  # the harness closes the socket and waits
    assert time.monotonic() - began < 5


# --- the real one ---------------------------------------------------------------------------

@pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs docker-registry")
def test_docker_registry(tmp_path):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
    s.close()
    (tmp_path / "c.yml").write_text(f"""
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}
http: {{addr: 127.0.0.1:{port}}}
""")
    proc = subprocess.Popen(["docker-registry", "serve", str(tmp_path / "c.yml")],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        im = image(n=3)
        c = http.client.HTTPConnection("127.0.0.1", port)

        def call(method, path, body=None, **h):
            c.request(method, path, body, h)
            r = c.getresponse()
            r.read()
            assert r.status < 300, (path, r.status)
            return r.headers.get("Location")
        for digest, data in im.blobs.items():
            if digest == im.desc["digest"]:
                continue
            loc = call("POST", "/v2/x/y/blobs/uploads/")
            loc = re.sub(r"^http://[^/]+", "", loc)
            call("PUT", loc + ("&" if "?" in loc else "?") + "digest=" + digest, data)
        call("PUT", "/v2/x/y/manifests/1", im.manifest, **{"Content-Type": im.doc["mediaType"]})
        check(run_pull(tmp_path, f"127.0.0.1:{port}/x/y:1"), im)
        check(run_pull(tmp_path, f"localhost:{port}/x/y@{im.desc['digest']}"), im)
        refused(tmp_path, f"127.0.0.1:{port}/x/y:2", 5, "MANIFEST_UNKNOWN")
    finally:
        proc.terminate()
        proc.wait()
