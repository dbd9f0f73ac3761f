"""GetContainerEvents: what a kubelet with an evented PLEG lives by."""
import threading

import grpc
import pytest

from daemon import needs_daemon, pb, wait_for

pytestmark = needs_daemon
KINDS = {0: "created", 1: "started", 2: "stopped", 3: "deleted"}


class Listener:
    def __init__(self, d):
        self.events, self.error = [], None
        self.call = d.rt.GetContainerEvents(pb().GetEventsRequest())
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            for e in self.call:
                self.events.append(e)
        except grpc.RpcError as e:
            self.error = e

    def seen(self):
        return [(KINDS[e.container_event_type], e.container_id) for e in self.events]

    def close(self):
        self.call.cancel()
        self.thread.join(10)


@pytest.fixture
def listen(request):
    def start(d, n=1):
        got = [Listener(d) for _ in range(n)]
        for x in got:
            request.addfinalizer(x.close)
        # The streams have begun once all have told of the same pod.
        while True:
            pod = d.run_pod(name="begin")
            d.stop_pod(pod)
            d.remove_pod(pod)
            if all(("created", pod[0]) in x.seen() for x in got):
                break
        for x in got:
            wait_for(lambda: ("deleted", pod[0]) in x.seen())
            x.events.clear()
        return got
    return start


def test_a_life_is_told_to_all(real, listen):
    clients = listen(real, 3)
    pod = real.run_pod()
    cid = real.run_ctr(pod, "sh", "-c", "exit 7")
    real.wait_exit(cid)
    real.remove_ctr(cid)
    real.stop_pod(pod)
    real.remove_pod(pod)
    want = [("created", pod[0]), ("started", pod[0]), ("created", cid), ("started", cid), ("stopped", cid), ("deleted", cid),
            ("stopped", pod[0]), ("deleted", pod[0])]
    for c in clients:
        wait_for(lambda: ("deleted", pod[0]) in c.seen())
        assert c.seen() == want
        stamps = [e.created_at for e in c.events]
        assert stamps == sorted(stamps) and stamps[0] > 1_600_000_000 * 10**9
        for e in c.events:
            # The kubelet passes over an event without the pod's status.
            assert e.pod_sandbox_status.metadata.uid == pod[1].metadata.uid, e
        states = {k: [(x.id, x.state, x.exit_code) for x in e.containers_statuses] for k, e in zip(want, c.events)}
        assert states[("started", pod[0])] == []
        assert states[("created", cid)] == [(cid, pb().CONTAINER_CREATED, 0)]
        assert states[("stopped", cid)] == [(cid, pb().CONTAINER_EXITED, 7)]
        assert states[("deleted", cid)] == []
        ready = {k: e.pod_sandbox_status.state for k, e in zip(want, c.events)}
        assert ready[("stopped", cid)] == pb().SANDBOX_READY and ready[("stopped", pod[0])] == pb().SANDBOX_NOTREADY
        assert ready[("deleted", pod[0])] == pb().SANDBOX_NOTREADY


def test_who_does_not_read_is_let_go(real, listen):
    reader, = listen(real)
    lazy = real.rt.GetContainerEvents(pb().GetEventsRequest())  # nobody iterates: the client's window fills
    pod = real.run_pod(annotations={"big": "x" * 500_000})
    told = 0
    while "does not read its events" not in real.log():
        assert told < 60
        cid = real.create(pod, "true", name=f"c{told}")
        real.remove_ctr(cid)
        told += 1
    with pytest.raises(grpc.RpcError) as e:
        for _ in lazy:
            pass
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "does not read" in e.value.details()
    wait_for(lambda: len(reader.events) >= 2 + 2 * told)
    assert reader.error is None


def test_an_end_of_the_daemon_ends_the_stream(make_daemon, listen):
    d = make_daemon()
    x, = listen(d)
    d.stop()
    x.thread.join(20)
    assert not x.thread.is_alive()
    assert x.error is None or x.error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
