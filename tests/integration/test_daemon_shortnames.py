"""Names of images without a registry: aliases, search registries, docker.io."""
import signal

import grpc
import pytest

import pullharness
from daemon import needs_daemon, fails, pb, wait_for
from fakeregistry import Registry
from pullharness import Tar

pytestmark = needs_daemon


@pytest.fixture
def reg():
    with Registry() as r:
        yield r


@pytest.fixture
def named(make_daemon, tmp_path, reg):
    """A daemon whose registries.conf begins with the given lines; every registry of it is `reg`, a.example under a/."""
    def make(head):
        path = tmp_path / "registries.conf"
        rules = "".join(f'[[registry]]\nprefix = "{h}"\nlocation = "{reg.host}/{h[0]}"\n'
                        for h in ("a.example", "b.example", "docker.io"))
        path.write_text(head + "\n" + rules)
        d = make_daemon(image=False, config={"images": {"registries": str(path)}})
        d.conf = path
        d.rules = rules
        return d
    return make


def push(reg, path, text):
    reg.push(path, "1", pullharness.Image([Tar().add("f", data=text)]))


def pull(d, name):
    return d.img.PullImage(pb().PullImageRequest(image=pb().ImageSpec(image=name)), timeout=60).image_ref


def find(d, name):
    i = d.img.ImageStatus(pb().ImageStatusRequest(image=pb().ImageSpec(image=name)), timeout=10).image
    return list(i.repo_tags)


def test_without_any_configuration_docker_io_is_meant(named, reg):
    d = named("")
    push(reg, "d/library/app", "x")
    pull(d, "app:1")
    assert find(d, "app:1") == ["docker.io/library/app:1"]


def test_search_registries_are_tried_in_order(named, reg):
    d = named('unqualified-search-registries = ["a.example", "b.example"]')
    push(reg, "b/team/app", "b")
    pull(d, "team/app:1")
    assert find(d, "team/app:1") == ["b.example/team/app:1"]
    push(reg, "a/team/app", "a")
    pull(d, "team/app:1")  # now the first one has it
    assert find(d, "team/app:1") == ["a.example/team/app:1"]
    assert find(d, "b.example/team/app:1") == ["b.example/team/app:1"]
    with fails("NOT_FOUND", "a.example/nothing:1: ", "; b.example/nothing:1: "):
        pull(d, "nothing:1")
    assert find(d, "nothing:1") == []
    # the look-up, not the pull, knows docker.io as well
    push(reg, "d/library/own", "own")
    pull(d, "docker.io/library/own:1")
    assert find(d, "own:1") == ["docker.io/library/own:1"]
    with fails("NOT_FOUND"):
        pull(d, "own:1")
    # by digest, and removal by the short name
    image = d.img.ImageStatus(pb().ImageStatusRequest(image=pb().ImageSpec(image="team/app:1"))).image
    digest = image.repo_digests[0].split("@")[1]
    assert pull(d, f"team/app@{digest}") == image.id
    d.img.RemoveImage(pb().RemoveImageRequest(image=pb().ImageSpec(image="team/app:1")))
    assert find(d, "team/app:1") == ["b.example/team/app:1"]


def test_an_alias_goes_before_all(named, reg):
    d = named('unqualified-search-registries = ["a.example"]\n[aliases]\n"app" = "b.example/team/app"')
    push(reg, "a/app", "a")
    push(reg, "b/team/app", "b")
    pull(d, "app:1")
    assert find(d, "app:1") == ["b.example/team/app:1"]
    reg.tags.clear()
    with fails("NOT_FOUND", "b.example/team/app:1: "):  # there is no other try
        pull(d, "app:1")


def test_enforcing_wants_one_meaning(named, reg):
    head = 'short-name-mode = "enforcing"\nunqualified-search-registries = ["a.example", "b.example"]\n'
    d = named(head + '[aliases]\n"app" = "b.example/app"')
    push(reg, "b/app", "b")
    push(reg, "b/other", "other")
    pull(d, "app:1")
    with fails("INVALID_ARGUMENT", '"other:1" names no registry', "enforcing"):
        pull(d, "other:1")
    assert find(d, "other:1") == []
    pull(d, "b.example/other:1")
    assert find(d, "other:1") == ["b.example/other:1"]


def test_they_are_read_again(named, reg):
    d = named("")
    push(reg, "a/app", "a")
    with fails("NOT_FOUND"):
        pull(d, "app:1")
    d.conf.write_text('[aliases]\n"app" = 7\n' + d.rules)
    d.proc.send_signal(signal.SIGHUP)
    wait_for(lambda: "alias 'app': it is no string" in d.log())
    d.conf.write_text('[aliases]\n"app" = "a.example/app"\n' + d.rules)
    d.proc.send_signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in d.log())
    pull(d, "app:1")


@pytest.mark.parametrize("text,why", [
    ('aliases = 1', "'aliases' is no table"),
    ('[aliases]\n"a.b/c" = "a.example/c"', "is no short name"),
    ('[aliases]\n"c" = "no/host"', "is not of the form REGISTRY/PATH"),
    ('[aliases]\n"c" = "a.example/c:tag"', "is not of the form REGISTRY/PATH"),
    ('[aliases]\n"c:1" = "a.example/c"', "is no short name"),
    ('short-name-mode = "strict"', "'short-name-mode' is none of"),
    ('unqualified-search-registries = "x"', "is no list of registries"),
])
def test_what_is_wrong_is_told(named, reg, text, why):
    d = named(text)
    assert why in d.log()
    with fails("INVALID_ARGUMENT", "registries.conf", why):
        pull(d, "a.example/x:1")
    with pytest.raises(grpc.RpcError):
        pull(d, "x:1")
