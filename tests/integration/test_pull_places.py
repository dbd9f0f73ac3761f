"""berth-pull: TLS, proxies and registries.conf decide where an image comes from."""
import os
import shutil
import subprocess

import pytest

from fakeregistry import Certs, Proxy, Registry
from pullharness import PullError, run_pull
from test_pull_registry import check, image, refused, reg  # noqa: F401


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
    refused(tmp_path, "app:1", 3, "'app:1' names no registry", registries=c)
    check(run_pull(tmp_path, "short.example/app:1", registries=c), a)
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
