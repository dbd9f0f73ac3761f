"""A mirror that does not answer costs its tries once."""
import pytest

from daemon import needs_daemon
from fakeregistry import Registry
from pullharness import PullError, run_pull
from test_pull_partial import ask, daemon_for
from test_pull_places import conf
from test_pull_registry import check, image

TEXT = '''
[[registry]]
prefix = "main.example"
location = "%s"
insecure = true
[[registry.mirror]]
location = "%s"
insecure = true
'''


@pytest.fixture
def main():
    with Registry() as r:
        yield r


@pytest.fixture
def mirror():
    """One that is down."""
    with Registry() as r:
        r.fault = lambda h, path, count: r.error(h, 503, "DOWN") or True
        yield r


def test_a_mirror_that_is_down_is_asked_once(tmp_path, main, mirror):
    im = image(n=4)
    main.push("a", "1", im)
    c = conf(tmp_path, TEXT % (main.host, mirror.host))
    p = check(run_pull(tmp_path, "main.example/a:1", registries=c), im)
    assert {x[1] for x in mirror.log} == {"/v2/a/manifests/1"} and len(mirror.log) == 2
    assert p.hosts == {mirror.host: False, main.host: True}
    mirror.log = []
    check(run_pull(tmp_path, "main.example/a:1", registries=c, down=[mirror.host]), im)
    assert mirror.log == []


def test_what_is_down_is_still_the_last_resort(tmp_path, main, mirror):
    im = image()
    main.push("a", "1", im)
    c = conf(tmp_path, TEXT % (main.host, mirror.host))
    p = check(run_pull(tmp_path, "main.example/a:1", registries=c, down=[mirror.host, main.host]), im)
    assert p.hosts[main.host] is True and mirror.log
    # It answers, and says no: that is the error's code, though the mirror was asked after it.
    with pytest.raises(PullError, match="MANIFEST_UNKNOWN") as e:
        run_pull(tmp_path, "main.example/none:1", registries=c, down=[mirror.host])
    assert e.value.code == 5


def test_a_mirror_that_lacks_an_image_is_not_down(tmp_path, main):
    im = image()
    main.push("a", "1", im)
    with Registry() as empty:
        c = conf(tmp_path, TEXT % (main.host, empty.host))
        assert check(run_pull(tmp_path, "main.example/a:1", registries=c), im).hosts == {empty.host: True, main.host: True}


@needs_daemon
def test_all_pulls_know_of_it(make_daemon, main, mirror):
    d = daemon_for(make_daemon, main)
    with open(f"{d.tmp}/registries.conf", "w") as f:
        f.write(TEXT % (main.host, mirror.host))
    for name in "ab":
        main.push(name, "1", image())
    ask(d, "main.example/a:1").result()
    assert mirror.log
    mirror.log = []
    ask(d, "main.example/b:1").result()
    assert mirror.log == []
    assert mirror.host in d.log() and "does not answer" in d.log()
