"""A retry of a client that marshals maps in another order each time, as Go does, over the fake plugin."""
import os

import pytest

from daemon import built, fails, pb, wait_for

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not built("tests/fake/fake.so"), reason="the build has no fake plugin")]


def orders(request, field, parts):
    """The request's bytes with the parts of one field, each a message of one map entry, in both orders."""
    base = request.SerializeToString()
    more = [type(request)(**{field: p}).SerializeToString() for p in parts]  # messages in a row are merged
    return base + b"".join(more), base + b"".join(reversed(more))


def raw(d, method, answer):
    return d.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}", request_serializer=lambda b: b,
                                 response_deserializer=answer.FromString)


@pytest.mark.parametrize("what", ["labels", "annotations", "sysctls"])
def test_a_retry_of_a_pod_with_its_maps_in_another_order(fake, what):
    m = pb()
    fake.inject(delay_op="network.attach", delay_ms=1500)
    names = ["net.ipv4.tcp_syncookies", "net.ipv4.ip_forward"] if what == "sysctls" else ["io.kubernetes.a", "io.kubernetes.b"]
    if what == "sysctls":
        parts = [m.PodSandboxConfig(linux=m.LinuxPodSandboxConfig(sysctls={n: "1"})) for n in names]
    else:
        parts = [m.PodSandboxConfig(**{what: {n: "1"}}) for n in names]
    one, other = orders(m.RunPodSandboxRequest(config=fake.pod_config(host_network=False)), "config", parts)
    assert one != other and m.RunPodSandboxRequest.FromString(one) == m.RunPodSandboxRequest.FromString(other)
    run = raw(fake, "RunPodSandbox", m.RunPodSandboxResponse)
    with fails("DEADLINE_EXCEEDED"):
        run(one, timeout=0.4)
    made = run(other, timeout=30).pod_sandbox_id  # joins
    assert [p.id for p in fake.pods()] == [made]
    with fails("ALREADY_EXISTS", made):
        run(other, timeout=30)


def test_a_retry_finds_the_pod_that_was_made_meanwhile(fake):
    m = pb()
    fake.inject(delay_op="network.attach", delay_ms=1000)
    parts = [m.PodSandboxConfig(labels={k: "1"}) for k in "ab"]
    one, other = orders(m.RunPodSandboxRequest(config=fake.pod_config(host_network=False)), "config", parts)
    run = raw(fake, "RunPodSandbox", m.RunPodSandboxResponse)
    with fails("DEADLINE_EXCEEDED"):
        run(one, timeout=0.3)
    wait_for(fake.pods)
    assert run(other, timeout=30).pod_sandbox_id == fake.pods()[0].id


@pytest.mark.parametrize("what", ["labels", "annotations"])
def test_a_retry_of_a_container_with_its_maps_in_another_order(fake, what):
    m = pb()
    pod = fake.run_pod()
    fake.inject(delay_op="runtime.create", delay_ms=1500)
    parts = [m.ContainerConfig(**{what: {k: "1"}}) for k in "ab"]
    q = m.CreateContainerRequest(pod_sandbox_id=pod[0], config=fake.ctr_config("sh"), sandbox_config=pod[1])
    one, other = orders(q, "config", parts)
    create = raw(fake, "CreateContainer", m.CreateContainerResponse)
    with fails("DEADLINE_EXCEEDED"):
        create(one, timeout=0.4)
    made = create(other, timeout=30).container_id
    assert [c.id for c in fake.ctrs()] == [made]
    swapped = m.CreateContainerRequest.FromString(other)
    swapped.config.command.append("-c")
    with fails("ALREADY_EXISTS", made):
        create(swapped.SerializeToString(), timeout=30)
