"""Fixtures of the tests of berthd."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
sys.dont_write_bytecode = True


# A machine that has stood still for some seconds ends a test's patience, and says nothing about berth: in a run of
# everything (BERTH_TEST_AGAIN=1) such a test runs once more, and the summary names it. Whatever else fails has failed.
IMPATIENT = ["not within", "TimeoutExpired", "DEADLINE_EXCEEDED"]


def pytest_configure(config):
    if os.environ.get("BERTH_TEST_AGAIN") == "1" and config.pluginmanager.hasplugin("rerunfailures"):
        config.option.reruns = 1
        config.option.only_rerun = IMPATIENT


def pytest_runtest_setup(item):
    if getattr(item, "execution_count", 1) > 1:
        item.user_properties.append(("run", "again"))


_first_tries = []


def pytest_runtest_logreport(report):
    if report.outcome == "rerun":
        _first_tries.append((report.nodeid, report.longreprtext))


def pytest_terminal_summary(terminalreporter):
    for name, why in _first_tries:
        terminalreporter.section(f"first try of {name}")
        terminalreporter.write_line(why)


def pytest_generate_tests(metafunc):
    """A file with RUNTIMES runs its tests with a daemon for each of them."""
    runtimes = getattr(metafunc.module, "RUNTIMES", None)
    if runtimes and "shared_real" in metafunc.fixturenames:
        metafunc.parametrize("shared_real", runtimes, indirect=True, scope="module")


def _daemon(request, image=True, **kw):
    import daemon
    d = daemon.Daemon(**kw)
    try:
        d.start()
        if image:
            d.image_id = d.import_image()
    except BaseException:
        d.force()
        raise
    return d


@pytest.fixture(scope="module")
def shared_real(request):
    """One berthd with the real plugins and a busybox image for all tests of a file."""
    kw = {}
    if hasattr(request, "param"):
        import daemon
        if not os.path.exists(daemon.RUNTIMES[request.param]):
            pytest.skip(f"no {request.param} on this machine")
        kw["runtime"] = request.param
    d = _daemon(request, **kw)
    yield d
    d.close()


@pytest.fixture
def real(shared_real):
    """It, and a check that the test left nothing."""
    yield shared_real
    assert shared_real.proc.poll() is None, f"berthd ended with {shared_real.proc.returncode}:\n{shared_real.tail()}"
    shared_real.remove_all()
    shared_real.check_clean()
    shared_real.check_sanitizers()


@pytest.fixture(scope="module")
def shared_fake(request):
    """One berthd with the fake plugin, whose "containers" are rows of a table."""
    d = _daemon(request, fake=True)
    yield d
    d.close()


@pytest.fixture
def fake(shared_fake):
    shared_fake.inject()
    yield shared_fake
    shared_fake.inject()
    assert shared_fake.proc.poll() is None, f"berthd ended with {shared_fake.proc.returncode}:\n{shared_fake.tail()}"
    shared_fake.remove_all()
    shared_fake.check_clean()
    shared_fake.check_sanitizers()


@pytest.fixture
def make_daemon():
    """Daemons of one test alone: make_daemon(fake=..., start=True)."""
    import daemon
    made = []

    def make(image=True, start=True, **kw):
        d = daemon.Daemon(**kw)
        made.append(d)
        if start:
            d.start()
            if image:
                d.image_id = d.import_image()
        return d
    yield make
    trouble = None
    for d in made:
        try:
            d.close()
        except Exception as e:
            trouble = trouble or e
    if trouble:
        raise trouble
