"""A start while parts of the node do not work: it comes up all the same, and gives nothing up."""
import time

import grpc
import pytest

from daemon import fails, needs_daemon, pb, wait_for

pytestmark = needs_daemon


def row(d, table, name):
    """A container or an address as the fake plugin keeps it."""
    with open(f"{d.run}/plugins/fake/{table}/{name}") as f:
        return dict(x.split("=", 1) for x in f.read().splitlines())


def change_row(d, table, name, **kv):
    with open(f"{d.run}/plugins/fake/{table}/{name}", "w") as f:
        f.write("".join(f"{k}={v}\n" for k, v in {**row(d, table, name), **kv}.items()))


@pytest.mark.parametrize("times", [1, 0])
def test_a_state_that_cannot_be_told(make_daemon, times):
    """times: each is asked once in vain; 0: all questions fail for a while."""
    d = make_daemon(fake=True)
    pod = d.run_pod()
    lives, ends = d.run_ctr(pod, "sleep", "1000", name="lives"), d.run_ctr(pod, "sleep", "1000", name="ends")
    begun = d.create(pod, "sleep", "1000", name="begun")
    d.kill9()
    change_row(d, "ctrs", ends, status="stopped", exit_flags=1, exit_code=7, finished=time.time_ns())
    # killed between the runtime's start and its record
    change_row(d, "ctrs", begun, status="running", started=time.time_ns())
    d.inject(fail_op="runtime.state", fail_status=14, fail_count=3 if times else 0)
    d.start()
    if not times:
        for _ in range(2):
            assert [d.status(c).state for c in (lives, ends)] == [pb().CONTAINER_RUNNING] * 2
            time.sleep(1.5)
        d.inject()
    assert d.wait_exit(ends).exit_code == 7
    wait_for(lambda: d.status(begun).state == pb().CONTAINER_RUNNING)
    assert d.status(begun).started_at > 0
    assert d.status(lives).state == pb().CONTAINER_RUNNING
    for c in (lives, begun):
        d.stop_ctr(c)
        assert d.status(c).exit_code == 137


def test_a_container_that_the_runtime_does_not_know(make_daemon):
    d = make_daemon(fake=True)
    cid = d.run_ctr(d.run_pod(), "sleep", "1000")
    d.kill9()
    d.inject(fail_op="runtime.state", fail_status=5, fail_count=1)
    d.start()
    st = d.status(cid)
    assert (st.state, st.exit_code, st.reason) == (pb().CONTAINER_EXITED, 255, "Unknown")
    # A row that runs is not removed by the fake runtime.
    change_row(d, "ctrs", cid, status="stopped")


def dies(d, fn, op, when="before"):
    """berthd ends in that op of the plugin, and fn with it."""
    d.inject(kill_op=op, kill_when=when)
    with pytest.raises(grpc.RpcError):
        fn()
    d.dead()


@pytest.mark.parametrize("while_", ["made", "removed"])
def test_a_pod_that_cannot_be_undone(make_daemon, while_):
    d = make_daemon(fake=True)
    config = d.pod_config(host_network=False)
    if while_ == "made":
        dies(d, lambda: d.run_pod(config=config), "network.attach", "after")
    else:
        pod = d.run_pod(config=config)
        dies(d, lambda: d.remove_pod(pod), "network.detach")
    d.inject(fail_op="network.detach", fail_status=14)
    for _ in range(2):
        d.start()
        p, = d.pods()
        assert (p.metadata.name, p.state) == (config.metadata.name, pb().SANDBOX_NOTREADY)
        with fails("UNAVAILABLE", "network.detach"):
            d.remove_pod((p.id, None))
        assert [x.id for x in d.pods()] == [p.id]
        d.kill9()
    d.start()
    d.inject()
    d.remove_pod((p.id, None))
    assert d.pods() == []
    d.check_clean()


@pytest.mark.parametrize("while_", ["made", "removed"])
def test_a_container_that_cannot_be_undone(make_daemon, while_):
    d = make_daemon(fake=True)
    pod = d.run_pod()
    if while_ == "made":
        dies(d, lambda: d.create(pod, "true", name="x"), "runtime.create", "after")
    else:
        d.inject(exit_after_ms=1, exit_code=5)
        cid = d.run_ctr(pod, "true", name="x")
        d.wait_exit(cid)
        dies(d, lambda: d.remove_ctr(cid), "runtime.remove")
    d.inject(fail_op="runtime.remove", fail_status=14)
    for _ in range(2):
        d.start()
        c, = d.ctrs()
        st = d.status(c.id)
        assert (c.metadata.name, st.state) == ("x", pb().CONTAINER_EXITED)
        assert st.exit_code == (255 if while_ == "made" else 5) and st.finished_at > 0
        with fails("UNAVAILABLE", "runtime.remove"):
            d.remove_ctr(c.id)
        assert [x.id for x in d.ctrs()] == [c.id]
        d.kill9()
    d.start()
    d.inject()
    d.remove_ctr(c.id)
    assert d.ctrs() == []
    d.remove_pod(pod)
    d.check_clean()
