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

from fakeregistry import Certs, Proxy, Registry
from pullharness import (D2_L, D2_M, OCI_I, Image, PullError, Tar, chain_ids, gz, index_of,
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


# --- TLS ------------------------------------------------------------------------------------

def test_tls_through_a_proxy_with_a_ca_of_certs_d(tmp_path):
    (tmp_path / "pki").mkdir()
    certs = Certs(tmp_path / "pki")
    im = image()
    with Registry(tls=certs, host="reg.test") as reg, Proxy() as proxy:
        d = tmp_path / "certs.d" / reg.host
        d.mkdir(parents=True)
        ref = reg.push("a", "1", im)
        for name in ("https_proxy", "HTTPS_PROXY"):
            env = {name: proxy.url, "no_proxy": ""}
            if not (d / "ca.crt").exists():
                refused(tmp_path, ref, 14, "certificate", env=env)
                (d / "ca.crt").write_bytes(certs.ca.read_bytes())
            check(run_pull(tmp_path, ref, certs_dirs=[str(tmp_path / "certs.d")], env=env,
                           unconfined=name != "HTTPS_PROXY"), im)
        assert set(proxy.log) == {f"CONNECT {reg.host} HTTP/1.1"}
        # what is on this host needs no proxy
        n = len(proxy.log)
        check(run_pull(tmp_path, f"localhost:{reg.port}/a:1", env=env), im)
        assert len(proxy.log) == n


def test_tls_outside_loopback(tmp_path):
    """On an address that is not loopback, so that the certificate counts."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and ip(8)")
    (tmp_path / "pki").mkdir()
    certs = Certs(tmp_path / "pki")
    im = image()
    ns = f"berth-pull-{os.getpid()}"
    script = tmp_path / "in-netns.py"
    script.write_text(TLS_SCRIPT)
    subprocess.run(["ip", "netns", "add", ns], check=True)
    try:
        for cmd in ("link set lo up", "addr add 192.0.2.1/32 dev lo"):
            subprocess.run(["ip", "-n", ns, *cmd.split()], check=True)
        env = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.abspath(__file__)))
        subprocess.run(["ip", "netns", "exec", ns, "/usr/bin/python3", str(script), str(tmp_path)],
                       check=True, env=env, timeout=120)
    finally:
        subprocess.run(["ip", "netns", "del", ns], check=True)
    assert certs and im


TLS_SCRIPT = '''
import os, pathlib, subprocess, sys
import pytest
from fakeregistry import Certs, Registry
from pullharness import PullError, run_pull
from test_pull_registry import check, image, refused

tmp = pathlib.Path(sys.argv[1])
pki = tmp / "pki2"; pki.mkdir()
certs = Certs(pki)
(pki / "ext").write_text("subjectAltName=IP:192.0.2.1")
def run(*a):
    subprocess.run(["openssl", *a], cwd=pki, check=True, stderr=subprocess.DEVNULL)
run("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
    "-out", "server.crt", "-days", "2", "-extfile", "ext")
im = image()
with Registry(tls=certs, host="192.0.2.1", bind="192.0.2.1") as reg:
    ref = reg.push("a", "1", im)
    dirs = [str(tmp / "certs2.d")]
    refused(tmp, ref, 14, "RegistryUnavailable: .*certificate", certs_dirs=dirs)
    d = tmp / "certs2.d" / reg.host
    d.mkdir(parents=True)
    (d / "ca.crt").write_bytes(certs.ca.read_bytes())
    check(run_pull(tmp, ref, certs_dirs=dirs), im)
    conf = tmp / "insecure.conf"
    conf.write_text(f'[[registry]]\\nlocation = "{reg.host}"\\ninsecure = true\\n')
    check(run_pull(tmp, ref, registries=str(conf)), im)
    # an https registry does not send us to http
    with Registry(host="192.0.2.1", bind="192.0.2.1") as plain:
        plain.blobs.update(im.blobs)
        reg.fault = lambda h, path, count: "/blobs/" in path and (
            reg.reply(h, 307, Location=f"http://{plain.host}{path}") or True)
        refused(tmp, ref, 7, "without TLS", certs_dirs=dirs)
        assert not plain.log
    # plain HTTP outside loopback only where it is called insecure
    with Registry(host="192.0.2.1", bind="192.0.2.1") as plain:
        ref = plain.push("a", "1", im)
        refused(tmp, ref, 14, "RegistryUnavailable")
        assert not plain.log
        conf.write_text(f'[[registry]]\\nlocation = "{plain.host}"\\ninsecure = true\\n')
        check(run_pull(tmp, ref, registries=str(conf)), im)
certs.client_ca = str(certs.ca)
with Registry(tls=certs, host="192.0.2.1", bind="192.0.2.1") as reg:
    ref = reg.push("a", "1", im)
    d = tmp / "certs2.d" / reg.host
    d.mkdir(parents=True)
    (d / "ca.crt").write_bytes(certs.ca.read_bytes())
    refused(tmp, ref, 14, "RegistryUnavailable", certs_dirs=dirs)
    (d / "me.cert").write_bytes((pki / "client.crt").read_bytes())
    refused(tmp, ref, 9, "me.key' is missing", certs_dirs=dirs)
    (d / "me.key").write_bytes((pki / "client.key").read_bytes())
    check(run_pull(tmp, ref, certs_dirs=dirs), im)
'''


# --- registries.conf ------------------------------------------------------------------------

def conf(tmp_path, text, **drop_ins):
    f = tmp_path / "registries.conf"
    f.write_text(text)
    shutil.rmtree(str(f) + ".d", ignore_errors=True)
    os.makedirs(str(f) + ".d")
    for name, t in drop_ins.items():
        (tmp_path / "registries.conf.d" / f"{name}.conf").write_text(t)
    return str(f)


def test_location_prefixes_wildcards_and_drop_ins(tmp_path, reg):
    a, b = image(b"a"), image(b"b")
    reg.push("mirror/x/app", "1", a)
    reg.push("other/app", "1", b)
    one = f'''
# a comment
unqualified-search-registries = ["nowhere.invalid", "short.example"]
short-name-mode = "enforcing"

[aliases]
"x" = "y.z/x"

[[registry]]
prefix = "long.example/team"
location = "{reg.host}/mirror" # to here
[[registry]]
prefix = 'long.example/team/x'
location = "{reg.host}/mirror/x"
[[registry]]
prefix = "*.wild.example"
location = "{reg.host}"
[[registry]]
location = "blocked.example"
blocked = true
[[registry]]
prefix = "long.example/team/other"
location = "{reg.host}/other"
[[registry]]
prefix = "short.example"
location = "{reg.host}/mirror/x"
'''
    c = conf(tmp_path, one)
    p = check(run_pull(tmp_path, "long.example/team/x/app:1", registries=c), a)
    assert p.records[0]["ref"] == "long.example/team/x/app:1"
    check(run_pull(tmp_path, "long.example/team/other/app:1", registries=c), b)
    check(run_pull(tmp_path, "q.wild.example/other/app:1", registries=c), b)
    p = check(run_pull(tmp_path, "app:1", registries=c, timeout=120), a)
    assert p.records[0]["ref"] == "short.example/app:1"
    refused(tmp_path, "blocked.example/a:1", 7, "'blocked.example' is blocked", registries=c)
    # a part of a name is no prefix
    refused(tmp_path, "long.example/teamwork/x:1", 14, "long.example", registries=c)
    c = conf(tmp_path, one, a=f'[[registry]]\nprefix="long.example/team"\n'
             f'location="{reg.host}/nothing"', b=f'''
[[registry]]
prefix = "long.example/team/x"
location = "{reg.host}/other"''')
    check(run_pull(tmp_path, "long.example/team/x/app:1", registries=c), b)


def test_mirrors(tmp_path, reg):
    im = image()
    reg.push("a/b", "1", im)
    with Registry() as m1, Registry() as m2:
        text = f'''
[[registry]]
prefix = "main.example"
location = "{reg.host}"
[[registry.mirror]]
location = "{m1.host}/cache"
[[registry.mirror]]
location = "{m2.host}"
pull-from-mirror = "%s"
'''
        c = conf(tmp_path, text % "all")
        ref = "main.example/a/b:1"
        check(run_pull(tmp_path, ref, registries=c), im)  # neither has it
        assert m1.log[0][1] == "/v2/cache/a/b/manifests/1" and m2.log and reg.log
        m2.push("a/b", "1", im)
        n = len(reg.log)
        check(run_pull(tmp_path, ref, registries=c), im)
        assert len(reg.log) == n
        # a mirror that lacks a blob, or breaks in the middle of it
        digest = im.layer_descs[1]["digest"]
        del m2.blobs[digest]
        check(run_pull(tmp_path, ref, registries=c), im)
        m2.blobs[digest] = im.blobs[digest]
        m2.fault = lambda h, path, count: digest in path and (
            m2.blob(h, im.blobs[digest], digest, cut=100000 if "Range" not in h.headers else 0)
            or True)
        n = len(reg.log)
        check(run_pull(tmp_path, ref, registries=c), im)
        assert "Range" in reg.log[-1][2] or any("Range" in x[2] for x in reg.log[n:])
        m2.fault = None
        for when, by_tag in [("digest-only", False), ("tag-only", True)]:
            c = conf(tmp_path, text % when)
            for ref2, used in [(ref, by_tag),
                               ("main.example/a/b@" + im.desc["digest"], not by_tag)]:
                n = len(m2.log)
                check(run_pull(tmp_path, ref2, registries=c), im)
                assert (len(m2.log) > n) == used, (when, ref2)
        # the request's credentials are not for mirrors
        reg.auth = "basic"
        c = conf(tmp_path, text % "all")
        m2.tags.clear()
        n1, n2 = len(m1.log), len(m2.log)
        check(run_pull(tmp_path, ref, registries=c, auth={"username": "u", "password": "p"}), im)
        assert not any("Authorization" in x[2] for x in m1.log[n1:] + m2.log[n2:])
        e = refused(tmp_path, "main.example/none:1", 16, "wants a user", registries=c)
        assert m1.host in e.msg and m2.host in e.msg and reg.host in e.msg


def test_bad_registries_conf(tmp_path):
    for text, match in [("[[registry]\n", "line 1: ']' is expected"),
                        ('a = "x\n', "line 1: a string does not end"),
                        ("\n\nx = 2024-01-01", "line 3: a value that is not supported"),
                        ('[[registry]]\nlocation = "https://x"', "without a scheme"),
                        ('[[registry]]\ninsecure = "yes"\nlocation = "a"', "neither true nor"),
                        ("[[registry]]", "neither 'prefix' nor 'location'"),
                        ('x = 1\nx = 2', "line 2: 'x' is there twice"),
                        ("[registries.search]\nregistries = []", "version 1"),
                        ('[[registry]]\nlocation="a"\nmirror-by-digest-only=true\n'
                         '[[registry.mirror]]\nlocation="b"\npull-from-mirror="all"', "beside")]:
        with pytest.raises(PullError, match=match) as e:
            run_pull(tmp_path, "a.example/b:1", registries=conf(tmp_path, text))
        assert "registries.conf" in e.value.msg and e.value.code in (3, 12)


def test_references_that_are_none(tmp_path):
    for ref in ["", "a b", "x.y/../z:1", "x.y/a@sha256:12", "x.y/A:1", "x.y/a:", "x.y//a", "x.y/a?b",
                "x.y/a:1/b/", "x.y/a%2e:1", "x.y/a:1@sha512:" + "0" * 128]:
        refused(tmp_path, ref, 3, "is no image reference")


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
