"""Several clients at once, and a berthd that is killed at any moment: in the end nothing is left, and
nothing that was acknowledged was lost. BERTH_CHAOS_SECONDS and BERTH_CHAOS_SEED change it."""
import os
import random
import threading
import time

import grpc
import pytest

from daemon import busybox_image, needs_cni, pb, wait_for

pytestmark = needs_cni

SECONDS = int(os.environ.get("BERTH_CHAOS_SECONDS", "12"))
SEED = int(os.environ.get("BERTH_CHAOS_SEED", "1"))
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


class Worker(threading.Thread):
    """Lives pods. What it was told is true must be true whenever it looks."""

    def __init__(self, d, n, end):
        super().__init__()
        self.d, self.n, self.end = d, n, end
        self.rnd = random.Random(SEED * 1000 + n)
        self.trouble = None
        self.rounds = 0

    def retry(self, fn, done=None):
        """fn() until it is answered. A berthd that died may have done it: done() tells."""
        tries = 0
        while True:
            try:
                return fn()
            except (grpc.RpcError, ValueError) as e:  # ValueError: the channel was closed under us
                if isinstance(e, grpc.RpcError) and e.code() not in GONE:
                    if tries and done and done():
                        return None
                    raise
                tries += 1
                assert tries < 400, e
                time.sleep(0.05)

    def life(self):
        d, rnd = self.d, self.rnd
        config = d.pod_config(name=f"w{self.n}-{self.rounds}", host_network=rnd.random() < 0.5, pid=rnd.choice([0, 1]))

        def find():
            return next((p.id for p in d.pods() if p.metadata.name == config.metadata.name), None)

        def run():
            try:
                return d.run_pod(config=config)[0]
            except grpc.RpcError as e:
                if e.code() == grpc.StatusCode.ALREADY_EXISTS:  # it was made, its answer was lost
                    return find()
                raise
        pod = (self.retry(run), config)
        assert self.retry(lambda: d.pod_status(pod)).state == pb().SANDBOX_READY

        def create():
            try:
                return d.create(pod, "sh", "-c", "sleep 0.2; exit 11" if rnd.random() < 0.5 else "sleep 1000")
            except grpc.RpcError as e:
                if e.code() == grpc.StatusCode.ALREADY_EXISTS:
                    return next(c.id for c in d.ctrs(pod_sandbox_id=pod[0]))
                raise
        cid = self.retry(create)
        if rnd.random() < 0.9:
            self.retry(lambda: d.start_ctr(cid), lambda: d.status(cid).state != pb().CONTAINER_CREATED)
            assert self.retry(lambda: d.status(cid)).state != pb().CONTAINER_CREATED
        if rnd.random() < 0.3:
            try:
                self.retry(lambda: d.exec(cid, "true", timeout=10))
            except grpc.RpcError as e:
                assert e.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL), e
        if rnd.random() < 0.6:
            self.retry(lambda: d.stop_ctr(cid, grace=rnd.choice([0, 1])))
            st = self.retry(lambda: d.status(cid))
            assert st.state == pb().CONTAINER_EXITED
            # 2: of the runtime itself, which waits for the start
            assert st.exit_code in (137, 143, 11, 2, 255), st
            self.retry(lambda: d.remove_ctr(cid))
        if rnd.random() < 0.5:
            self.retry(lambda: d.stop_pod(pod))
            assert self.retry(lambda: d.pod_status(pod)).state == pb().SANDBOX_NOTREADY
        if rnd.random() < 0.8:
            self.retry(lambda: d.remove_pod(pod))
            assert self.retry(lambda: find()) is None

    def run(self):
        try:
            while time.monotonic() < self.end:
                self.life()
                self.rounds += 1
        except BaseException as e:
            self.trouble = e


@pytest.mark.parametrize("kills", [False, True])
def test_chaos(make_daemon, kills):
    d = make_daemon()
    rnd = random.Random(SEED)
    end = time.monotonic() + SECONDS
    workers = [Worker(d, n, end) for n in range(4)]
    for w in workers:
        w.start()
    n = 0
    while time.monotonic() < end and not any(w.trouble for w in workers):
        time.sleep(rnd.uniform(0.2, 2))
        if kills:
            d.kill9()
            d.start()
            n += 1
        else:
            d.import_image(busybox_image(config={"Env": [f"N={n}"]}), f"localhost/more:{n}")
            n += 1
    for w in workers:
        w.join(60)
    for w in workers:
        if w.trouble:
            raise w.trouble
    assert sum(w.rounds for w in workers) >= 4 and n > 2
    d.remove_all()
    d.check_clean()
    d.remove_images()
    left = [s for s in d.snapshots() if any(len(p) >= 40 for p in s.replace("-", "/").split("/"))]
    assert not left, left
    wait_for(lambda: not d.pids())
