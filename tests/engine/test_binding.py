"""Why a job waits, or is refused: the resource that binds, the field that asks for it, and true."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings

from orchestrator import (
    InfrastructureOrchestrator,
    JobKind,
    NodeSpec,
    QuotaMode,
    Semantics,
    TenantSpec,
    Topology,
    ValidationError,
)
from orchestrator.kernels.run import rows as entry
from tests.engine.builders import HOUR_MS, MINUTE_MS, job, node, stage
from tests.engine.cases import Case, cases
from tests.engine.drivers import Live

_T4 = node("t4", gpu_model="T4", gpu_memory_gb=16.0)
_POOL = node("c0", gpus=0, cpu_cores=16)
_QUOTAS = {
    "tenants": (TenantSpec("x", quota=4.0, storage_quota_gb=10.0), TenantSpec("y", quota=4.0)),
    "semantics": Semantics(quota_mode=QuotaMode.HARD),
}
_HALF = {"gpus_per_worker": 2}

# The nodes, what the first job asks for, what the second one does; and of the second one why it
# waits, for which resource, by which field, and how much is asked for and free.
_WAITS: list[tuple[tuple[NodeSpec, ...], dict[str, Any], dict[str, Any], tuple[object, ...]]] = [
    (
        (node("n0"),),
        {"gpus_per_worker": 3},
        {"gpus_per_worker": 2},
        ("no_capacity", "gpus", "gpus_per_worker", 2.0, 1.0),
    ),
    (
        (node("n0"), node("n1")),
        {"gpus_per_worker": 3, "num_workers": 2},
        {"gpus_per_worker": 2},
        ("fragmented", "gpus", "gpus_per_worker", 2.0, 2.0),
    ),
    (
        (node("n0"),),
        {"gpu_fraction": 0.7, "num_workers": 4},
        {"gpu_fraction": 0.5},
        ("fragmented", "gpus", "gpus_per_worker", 0.5, 1.2),
    ),
    (
        (node("n0"),),
        {"num_workers": 2},
        {"num_workers": 3},
        ("no_capacity", "gpus", "num_workers", 3.0, 2.0),
    ),
    (
        (node("n0"), node("n1")),
        {"gpus_per_worker": 3, "num_workers": 2},
        {"gpus_per_worker": 1, "num_workers": 3},
        ("no_capacity", "gpus", "num_workers", 3.0, 2.0),
    ),
    (
        (node("n0"),),
        {"cpus_per_worker": 60.0},
        {"cpus_per_worker": 8.0},
        ("no_capacity", "cpus", "cpus_per_worker", 8.0, 4.0),
    ),
    (
        (node("n0"), node("n1")),
        {"cpus_per_worker": 60.0, "num_workers": 2, **_HALF},
        {"cpus_per_worker": 8.0},
        ("fragmented", "cpus", "cpus_per_worker", 8.0, 8.0),
    ),
    (
        (_POOL,),
        {"gpus_per_worker": 0, "cpus_per_worker": 12.0},
        {"gpus_per_worker": 0, "cpus_per_worker": 8.0},
        ("no_capacity", "cpus", "cpus_per_worker", 8.0, 4.0),
    ),
    (
        (node("n0"),),
        {"memory_per_worker_gb": 400.0},
        {"memory_per_worker_gb": 200.0},
        ("no_capacity", "memory", "memory_per_worker_gb", 200.0, 112.0),
    ),
    (
        (node("n0"), node("n1")),
        {"memory_per_worker_gb": 400.0, "num_workers": 2, "gpus_per_worker": 3},
        {"memory_per_worker_gb": 200.0},
        ("fragmented", "memory", "memory_per_worker_gb", 200.0, 224.0),
    ),
    (
        (node("n0", gpu_model="A100"), _T4),
        {"gpus_per_worker": 4, "gpu_models": ("A100",)},
        {"gpus_per_worker": 2, "gpu_models": ("A100",)},
        ("no_capacity", "gpu_model", "gpu_models", 2.0, 0.0),
    ),
    (
        (node("n0"), _T4),
        {"gpus_per_worker": 3, "gpu_memory_gb": 60.0},
        {"gpus_per_worker": 2, "gpu_memory_gb": 60.0},
        ("no_capacity", "gpu_memory", "gpu_memory_gb", 2.0, 1.0),
    ),
    (
        (node("n0", rack=0), node("n1", rack=1)),
        {"gpus_per_worker": 2},
        {"gpus_per_worker": 2, "num_workers": 2, "topology": Topology.NODE, "cpus_per_worker": 1.0},
        ("ok", "", "", None, None),
    ),
    (
        (node("n0", rack=0), node("n1", rack=1)),
        {"gpus_per_worker": 2, "num_workers": 2, "cpus_per_worker": 33.0},
        {"gpus_per_worker": 2, "num_workers": 2, "topology": Topology.RACK},
        ("topology", "topology", "topology", None, None),
    ),
    (
        (node("n0", island_gpus=2),),
        {"num_workers": 2},
        {"gpus_per_worker": 2, "topology": Topology.ISLAND},
        ("ok", "", "", None, None),
    ),
    (
        (node("n0"), node("n1")),
        {"num_workers": 2, "gpus_per_worker": 2, "network_gbps": 60.0, "cpus_per_worker": 33.0},
        {"num_workers": 2, "gpus_per_worker": 2, "network_gbps": 60.0},
        ("bandwidth", "bandwidth", "network_gbps", 120.0, 80.0),
    ),
    (
        (node("n0"),),
        {"gpus_per_worker": 3, "memory_per_worker_gb": 400.0},
        {"gpus_per_worker": 2, "memory_per_worker_gb": 200.0},
        ("no_capacity", "memory", "memory_per_worker_gb", 200.0, 112.0),
    ),
    (
        (node("n0", 8),),
        {"tenant": "x", "gpus_per_worker": 3},
        {"tenant": "x", "gpus_per_worker": 2},
        ("quota", "quota", "gpus_per_worker", 2.0, 1.0),
    ),
    (
        (_POOL,),
        {"tenant": "y", "gpus_per_worker": 0, "cpus_per_worker": 3.0},
        {"tenant": "y", "gpus_per_worker": 0, "cpus_per_worker": 1.5},
        ("quota", "quota", "cpus_per_worker", 1.5, 1.0),
    ),
    (
        (node("n0", 8),),
        {"tenant": "x", "checkpoint_gb": 7.0},
        {"tenant": "x", "checkpoint_gb": 4.0},
        ("storage", "storage", "checkpoint_gb", 4.0, 3.0),
    ),
]


def _cluster(nodes: tuple[NodeSpec, ...], *asks: dict[str, Any]) -> InfrastructureOrchestrator:
    owned = any("tenant" in ask for ask in asks)
    return stage(*nodes, **(_QUOTAS if owned else {})).orchestrator


@pytest.mark.parametrize(("nodes", "first", "second", "wanted"), _WAITS)
async def test_what_binds_a_waiting_job_is_told(
    nodes: tuple[NodeSpec, ...],
    first: dict[str, Any],
    second: dict[str, Any],
    wanted: tuple[object, ...],
) -> None:
    it = _cluster(nodes, first, second)
    await it.submit_job(job("first", **first))
    assert await it.schedule()
    await it.submit_job(job("second", **second))
    log_hash = it.engine.log_hash
    status = it.get_job_status("second")
    told = status["waits_for"]
    names = ("reason", "resource", "field", "asked", "free")
    seen = tuple(told[name] for name in names)
    assert seen[:3] == wanted[:3]
    assert seen[3:] == pytest.approx(wanted[3:])
    assert status["why_not"] == wanted[0]
    queue = it.get_cluster_status()["queue"]
    assert (queue["why_not"], queue["waits_for"]) == ({"second": wanted[0]}, {"second": told})
    assert told["text"]
    assert it.engine.log_hash == log_hash
    # What is said is true: it starts, or it does not.
    assert (await it.schedule() != []) is (wanted[0] == "ok")


@pytest.mark.parametrize(
    ("nodes", "ask", "field", "said"),
    [
        ((node("n0"),), {"gpus_per_worker": 5}, "gpus_per_worker", "is 5"),
        ((node("n0"),), {"num_workers": 5}, "num_workers", "is 5"),
        ((node("n0"),), {"memory_per_worker_gb": 600.0}, "memory_per_worker_gb", "is 600"),
        ((node("n0"),), {"cpus_per_worker": 65.0}, "cpus_per_worker", "is 65"),
        ((node("n0"),), {"gpu_memory_gb": 81.0}, "gpu_memory_gb", "is 81"),
        ((node("n0"),), {"gpu_models": ("H100",)}, "gpu_models", "'H100', which no node has"),
        (
            (node("n0"), node("n1", rack=1)),
            {"num_workers": 2, "gpus_per_worker": 4, "topology": Topology.RACK},
            "topology",
            "is 2",
        ),
        (
            (node("n0"), node("n1")),
            {"num_workers": 2, "gpus_per_worker": 4, "network_gbps": 101.0},
            "network_gbps",
            "is 101",
        ),
        (
            (node("n0"),),
            {"gpus_per_worker": 5, "memory_per_worker_gb": 600.0},
            "memory_per_worker_gb",
            "is 600",
        ),
        (
            (node("n0", 8),),
            {"tenant": "x", "num_workers": 5},
            "gpus_per_worker",
            "is 1, with 5 workers 5 in all: the quota of tenant 'x' is 4 GPUs",
        ),
        (
            (node("n0", 8),),
            {"tenant": "nobody"},
            "gpus_per_worker",
            "the quota of tenant 'nobody' is 0 GPUs",
        ),
        (
            (_POOL,),
            {"tenant": "x", "gpus_per_worker": 0, "cpus_per_worker": 4.5},
            "cpus_per_worker",
            "the quota of tenant 'x' is 4 cores",
        ),
        (
            (node("n0", 8),),
            {"tenant": "x", "checkpoint_gb": 11.0},
            "checkpoint_gb",
            "the storage quota of tenant 'x' is 10 GiB",
        ),
    ],
)
async def test_refusals_name_the_field_that_binds(
    nodes: tuple[NodeSpec, ...], ask: dict[str, Any], field: str, said: str
) -> None:
    it = _cluster(nodes, ask)
    with pytest.raises(ValidationError) as refused:
        await it.submit_job(job("a", **ask))
    assert refused.value.field == field
    assert said in str(refused.value)
    assert list(it.jobs) == []


@pytest.mark.parametrize(
    "ask",
    [
        {"num_workers": 4},
        {"num_workers": 8, "elastic": True, "min_workers": 4},
        {"num_workers": 8, "gang_schedule": False},
        {"gpus_per_worker": 0, "cpus_per_worker": 60.0},
        {"checkpoint_gb": 10.0},
    ],
)
async def test_what_a_quota_just_allows_is_accepted(ask: dict[str, Any]) -> None:
    it = _cluster((node("n0", 8),), {"tenant": "x"})
    await it.submit_job(job("a", tenant="x", **ask))
    assert await it.schedule()


async def test_borrowers_are_not_refused() -> None:
    options = {**_QUOTAS, "semantics": Semantics(quota_mode=QuotaMode.BORROW)}
    it = stage(node("n0", 8), **options).orchestrator
    await it.submit_job(job("a", tenant="x", num_workers=5))
    assert len(await it.schedule()) == 5


async def test_a_place_in_the_queue_and_a_time() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    it = s.orchestrator
    await it.submit_job(job("a", gpus_per_worker=2))
    await it.submit_job(job("b", gpus_per_worker=2, max_duration_hours=2.0, preemptible=False))
    await s.wait(1)
    for name, gpus in (("c", 4), ("d", 2), ("e", 3)):
        await it.submit_job(job(name, gpus_per_worker=gpus))
    names = ("queue_position", "expected_start_ms")
    seen = {name: tuple(it.get_job_status(name)[n] for n in names) for name in "abcde"}
    assert seen == {
        "a": (None, None),
        "b": (None, None),
        "c": (1, 2 * HOUR_MS),
        "d": (2, HOUR_MS),
        "e": (3, 2 * HOUR_MS),
    }
    await it.preempt_job("a", "a test")  # saved in 5 s
    assert it.get_job_status("d")["expected_start_ms"] == MINUTE_MS + 5000


@pytest.mark.property
@settings(max_examples=settings().max_examples // 2)
@given(case=cases(commitment=False))
def test_what_is_told_is_true_at_any_time(case: Case) -> None:
    asyncio.run(_look_all_the_time(case))


async def _look_all_the_time(case: Case) -> None:
    live = Live(case)
    it, until_ms = live.orchestrator, live.clock.now_ms()
    for _ in range(30):
        until_ms += 300
        await live.clock.advance_to(until_ms)
        log_hash = it.engine.log_hash
        for name in it.jobs:
            status = it.get_job_status(name)
            told = status["waits_for"]
            assert (told is None) is (status["queue_position"] is None)
            if told is None:
                continue
            j = it.engine.jobs.index.find(name)
            fits = entry.fits(it.engine.state.rows, 0, j)
            if told["field"]:
                assert not fits
                assert getattr(it.jobs[name], told["field"]) not in (0, None, ())
            # Who was preempted at this very point waits for the next one.
            assert fits is (told["reason"] in ("ok", "blocked"))
            expected_ms = status["expected_start_ms"]
            if fits:
                assert expected_ms == until_ms
            assert expected_ms is None or expected_ms >= until_ms
        assert it.engine.log_hash == log_hash


@pytest.mark.parametrize("drain", [True, False])
async def test_without_a_node_nothing_binds(drain: bool) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    await s.orchestrator.submit_job(job("a", memory_per_worker_gb=4.0))
    await s.wait(1)
    await s.orchestrator.decommission_node("n0", drain)
    await s.wait(1)
    status = s.orchestrator.get_job_status("a")
    told = status["waits_for"]
    assert (told["reason"], told["field"], told["text"]) == (
        "no_capacity",
        "",
        "no node takes jobs now",
    )
    assert status["expected_start_ms"] is None


async def test_behind_a_service_nobody_knows_a_time() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    service = job("llm", kind=JobKind.SERVICE, gpus_per_worker=4, preemptible=False)
    await s.orchestrator.submit_job(service)
    await s.wait(1)
    await s.orchestrator.submit_job(job("a"))
    status = s.orchestrator.get_job_status("a")
    assert (status["queue_position"], status["expected_start_ms"]) == (1, None)
