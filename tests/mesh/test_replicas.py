"""The register of replicas: what one request looks at, and what leaves with a job."""

from __future__ import annotations

import pytest

from orchestrator import ClusterShape, InfrastructureOrchestrator, ServiceSpec
from orchestrator.errors import UnknownServiceError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh.replicas import addresses_of
from orchestrator.messages import WorkerPlacement
from tests.engine.builders import Stage, job, node, stage

_SHAPE = ClusterShape(envs=1, jobs=32, workers=8, nodes=16, devices=8)


class _Suspects(tuple[str, ...]):
    """Counts how often it is asked for a node."""

    asked = 0

    def __contains__(self, node_id: object) -> bool:
        type(self).asked += 1
        return super().__contains__(node_id)


async def _services(*sizes: int) -> Stage:
    """Services s0, s1, ... of so many replicas."""
    s = stage(*[node(f"n{k}") for k in range(16)], shape=_SHAPE, schedule_on_events=True)
    for k, size in enumerate(sizes):
        spec = job(
            f"s{k}",
            kind=JobKind.SERVICE,
            num_workers=size,
            gpus_per_worker=1,
            max_duration_hours=1e4,
        )
        await s.orchestrator.submit_job(spec)
    await s.clock.advance_to(0)
    return s


@pytest.mark.parametrize("others", [0, 1, 3, 6])
async def test_a_request_looks_at_the_replicas_of_its_service_only(others: int) -> None:
    s = await _services(2, *[8] * others)
    suspects = _Suspects()
    _Suspects.asked = 0
    s.orchestrator._replicas.refresh(suspects, "s0")
    assert _Suspects.asked == 2
    s.orchestrator._replicas.refresh(suspects, "nobody")
    assert _Suspects.asked == 2
    s.orchestrator._replicas.refresh(suspects)
    assert _Suspects.asked == 2 + 2 + 8 * others


async def test_suspected_nodes_take_each_services_replicas_out() -> None:
    s = await _services(2, 8, 3)
    before = {k: await s.orchestrator.discover_service(f"s{k}") for k in range(3)}
    lost = {address.split("@")[1].split(":")[0] for address in before[1]}
    s.orchestrator._replicas.refresh(tuple(lost), "s1")
    assert s.orchestrator.mesh.discover("s1") == []
    assert s.orchestrator.mesh.discover("s2") == before[2]  # not asked for yet
    s.orchestrator._replicas.refresh(tuple(lost))
    left = [a for a in before[2] if a.split("@")[1].split(":")[0] not in lost]
    assert s.orchestrator.mesh.discover("s2") == left
    assert await s.orchestrator.discover_service("s1") == before[1]  # its nodes are well again


async def test_two_jobs_of_one_name_are_one_service_until_both_end() -> None:
    s = stage(node("n0"), shape=_SHAPE, schedule_on_events=True)
    for k in range(2):
        values = {"name": "llm", "kind": JobKind.SERVICE, "num_workers": 2, "gpus_per_worker": 1}
        await s.orchestrator.submit_job(job(f"j{k}", max_duration_hours=1.0 + k, **values))
    await s.clock.advance_to(0)
    assert len(await s.orchestrator.discover_service("llm")) == 4
    await s.wait(61)
    assert await s.orchestrator.discover_service("llm") == ["j1@n0:0", "j1@n0:1"]
    await s.wait(61)
    with pytest.raises(UnknownServiceError):
        await s.orchestrator.discover_service("llm")
    assert s.orchestrator.get_cluster_status()["services"] == {}


async def test_what_somebody_has_removed_is_nobodys_fault() -> None:
    s = await _services(2, 2)
    first, second = await s.orchestrator.discover_service("s0")
    s.orchestrator.mesh.deregister("s0", first)
    s.orchestrator._replicas.refresh(["n0", "n1"])
    assert await s.orchestrator.discover_service("s0") == [second]
    s.orchestrator.mesh.remove_service("s1")
    s.orchestrator._replicas.refresh(["n0", "n1"])
    assert s.orchestrator.mesh.services == ["s0"]


def test_addresses_count_the_replicas_of_a_node() -> None:
    places = [WorkerPlacement(n, (0,)) for n in ("a", "b", "a")]
    assert addresses_of("j", places) == {"j@a:0": "a", "j@b:0": "b", "j@a:1": "a"}


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("jobs", [1, 10])
async def test_ended_services_are_known_only_if_somebody_described_them(
    jobs: int, described: bool
) -> None:
    s = stage(node("n0"), shape=_SHAPE, schedule_on_events=True)
    for k in range(jobs):
        if described:
            s.orchestrator.mesh.add_service(ServiceSpec(f"canary{k}", 20.0))
        values = {"kind": JobKind.SERVICE, "max_duration_hours": 0.1}
        await s.orchestrator.submit_job(job(f"canary{k}", **values))
        await s.wait(60)
    known = [f"canary{k}" for k in range(jobs)] if described else []
    assert list(s.orchestrator.get_cluster_status()["services"]) == known
    other = InfrastructureOrchestrator(
        *s.foundations, clock=s.clock, runtime=s.runtime, shape=_SHAPE
    )
    assert list(other.get_cluster_status()["services"]) == known


async def test_a_service_of_the_same_name_may_come_again() -> None:
    s = stage(node("n0"), shape=_SHAPE, schedule_on_events=True)
    for k in range(3):
        values = {"name": "llm", "kind": JobKind.SERVICE, "max_duration_hours": 0.1}
        await s.orchestrator.submit_job(job(f"j{k}", **values))
        await s.wait(1)
        assert await s.orchestrator.discover_service("llm") == [f"j{k}@n0:0"]
        await s.wait(60)
        assert s.orchestrator.mesh.services == []
