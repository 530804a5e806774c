"""Nothing waits for ever: no rule lets jobs undo each other's work, or overtake one without end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator import RULES, Semantics
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import JobCode, NodeCode, Placement, Preemption
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE, TENANT_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.scheduling.rules import Rule
from tests.twins.kernel_calls import load_tenants

_SHAPE = ClusterShape(envs=1, jobs=1024, workers=8, nodes=4, devices=8, log=1, tenants=3)

_MINUTE = 60_000

# Placement by fragmentation wants a trace's typical pods.
_NAMES = sorted(name for name, rule in RULES.items() if rule.placement != Placement.FGD)


def _play(
    rule: Rule, nodes: list[int], jobs: list[dict[str, Any]], semantics: Semantics
) -> ClusterState:
    """The end of an episode of nodes of so many GPUs, under a live cluster's semantics."""
    hosts = np.zeros(len(nodes), NODE_DTYPE)
    hosts["gpus"], hosts["state"], hosts["cpu_cap_milli"] = nodes, NodeCode.UP, 64_000
    asks = np.zeros(len(jobs), REQUEST_DTYPE)
    asks["gpu_milli"], asks["workers"], asks["gpus_per_worker"], asks["preemptible"] = 1000, 1, 1, 1
    for ask, fields in zip(asks, jobs, strict=True):
        for name, value in fields.items():
            ask[name] = value
    asks["requested_ms"] = asks["duration_ms"]
    asks = asks[np.argsort(asks["submit_ms"], kind="stable")]
    state = allocate(_SHAPE)
    semantics.write(state.rows)
    entry.begin_episode(state.rows, 0, 7, hosts, asks)
    load_tenants(state.rows, 0, np.zeros(3, TENANT_DTYPE))
    scratch = np.zeros(_SHAPE.jobs, np.int32)
    entry.replay(state.rows, 0, rule.to_record(), scratch[:8].copy(), scratch)
    assert_invariants(state, 0)
    return state


def _held_at_most(state: ClusterState) -> np.ndarray:
    """How long each job has held its place, if all of it was work or the price of preemptions."""
    count = state.rows[0]["num_jobs"]
    asks, runs = state.request[0, :count], state.job[0, :count]
    return np.asarray(asks["duration_ms"] + runs["preemptions"] * _stalls(asks))


def _stalls(asks: Any) -> Any:
    return asks["checkpoint_ms"].astype(np.int64) + asks["restart_ms"]


def _idle_at_no_time(state: ClusterState) -> bool:
    """Whether the end is where it is when somebody always holds a place while anybody is there."""
    count = state.rows[0]["num_jobs"]
    arrivals = state.request[0, :count]["submit_ms"]
    held = _held_at_most(state)
    behind = held[::-1].cumsum()[::-1]  # of a job and all that came later
    return bool(state.rows[0]["now_ms"] <= (arrivals + behind).max())


_work = st.fixed_dictionaries(
    {
        "submit_ms": st.integers(0, 90).map(lambda k: k * 20_000),
        "duration_ms": st.integers(1, 60).map(lambda k: k * _MINUTE),
        "workers": st.integers(1, 4),
        "gpus_per_worker": st.sampled_from([1, 1, 2]),
        "preemptible": st.sampled_from([1, 1, 1, 0]),
        "priority": st.integers(0, 3),
        "tenant": st.integers(0, 2),
        "checkpoint_ms": st.sampled_from([0, 5000, 60_000]),
        "restart_ms": st.sampled_from([0, 20_000, 120_000]),
    }
)
_EQUAL = {"duration_ms": 60 * _MINUTE, "checkpoint_ms": 5000, "restart_ms": 20_000}


def _ticks(hours: float, every_ms: int = 20_000) -> list[dict[str, Any]]:
    """Somebody else's little jobs without GPUs, each of which lets a rule decide anew."""
    tick = {"gpus_per_worker": 0, "cpu_milli": 1000, "duration_ms": 3000, "preemptible": 0}
    return [tick | {"submit_ms": k * every_ms} for k in range(int(hours * 3_600_000 / every_ms))]


@given(
    name=st.sampled_from(_NAMES),
    nodes=st.lists(st.sampled_from([4, 8]), min_size=1, max_size=3),
    jobs=st.lists(_work, min_size=1, max_size=12),
)
@example(name="las", nodes=[1], jobs=[_EQUAL, _EQUAL])
@example(name="gittins", nodes=[1], jobs=[_EQUAL, _EQUAL, _EQUAL])
def test_under_any_rule_every_job_ends(
    name: str, nodes: list[int], jobs: list[dict[str, Any]]
) -> None:
    fitting = [job for job in jobs if _fits_ever(job, nodes)]
    state = _play(RULES[name], nodes, fitting + _ticks(1.5), Semantics())
    count = state.rows[0]["num_jobs"]
    assert (state.job[0, :count]["state"] == JobCode.COMPLETED).all()
    assert _idle_at_no_time(state)
    if RULES[name].preemption == Preemption.SCORE:
        # Every preemption was paid for: four times what it costs went by before.
        runs, asks = state.job[0, :count], state.request[0, :count]
        assert (3 * runs["preemptions"] * _stalls(asks) <= asks["duration_ms"]).all()


def _fits_ever(job: dict[str, Any], nodes: list[int]) -> bool:
    """Whether there is room for all workers when nobody else is there."""
    gpus = job.get("gpus_per_worker", 1)
    return sum(node // gpus for node in nodes) >= job.get("workers", 1)


def test_without_what_preemption_costs_equal_jobs_undo_each_other() -> None:
    """That the property above can fail: the same jobs under semantics without a minimum."""
    for costs, end_h in ((4, (2.0, 3.0)), (0, (4.0, 9.0))):
        state = _play(
            RULES["las"], [1], [_EQUAL, _EQUAL, *_ticks(4.0)], Semantics(min_run_costs=costs)
        )
        ends = state.job[0, : state.rows[0]["num_jobs"]]["end_ms"]
        last_h = ends[state.request[0, : len(ends)]["gpus_per_worker"] > 0].max() / 3_600_000
        assert end_h[0] <= last_h <= end_h[1], (costs, last_h)


@given(
    name=st.sampled_from(["priority", "reclaim", "drf"]),
    same_class=st.booleans(),
    nodes=st.lists(st.sampled_from([4, 8]), min_size=1, max_size=3),
    stream=st.lists(
        st.fixed_dictionaries(
            {
                "duration_ms": st.integers(1, 60).map(lambda k: k * _MINUTE),
                "gpus_per_worker": st.sampled_from([1, 1, 1, 2, 4]),
                "workers": st.sampled_from([1, 1, 2]),
            }
        ),
        min_size=4,
        max_size=16,
    ),
    every_ms=st.sampled_from([_MINUTE, 3 * _MINUTE, 8 * _MINUTE]),
)
def test_a_gang_is_not_overtaken_for_ever(
    name: str, same_class: bool, nodes: list[int], stream: list[dict[str, Any]], every_ms: int
) -> None:
    """It starts once those have ended that ran when it was first, whatever comes later."""
    state, arrival, latest = _overtaken(RULES[name], same_class, nodes, stream, every_ms)
    gang = state.request[0, : state.rows[0]["num_jobs"]]["submit_ms"] == arrival
    assert state.job[0, : len(gang)]["first_start_ms"][gang] <= latest


@pytest.mark.parametrize("name", ["priority", "drf"])
def test_without_reservation_a_gang_is_overtaken_for_ever(name: str) -> None:
    """That the property above can fail."""
    stream = [{"duration_ms": 60 * _MINUTE}]
    for keeps, late in ((True, False), (False, True)):
        rule = replace(RULES[name], reservation=keeps)
        state, arrival, latest = _overtaken(rule, False, [8], stream, 3 * _MINUTE)
        gang = state.request[0, : state.rows[0]["num_jobs"]]["submit_ms"] == arrival
        assert bool(state.job[0, : len(gang)]["first_start_ms"][gang] > latest) is late


def _overtaken(
    rule: Rule, same_class: bool, nodes: list[int], stream: list[dict[str, Any]], every_ms: int
) -> tuple[ClusterState, int, int]:
    """A gang of the whole cluster in a stream of jobs; when it comes, by when it should start."""
    arrival = 2 * every_ms * len(stream) + 1
    held = {"preemptible": 0, "priority": 3, "tenant": 1, "gpu_milli": 1000}
    jobs = []
    for k in range(int(max(4 * arrival, 36 * 3_600_000 // 8) // every_ms)):
        job = stream[k % len(stream)] | held | {"submit_ms": k * every_ms}
        if len(jobs) < 900 and _fits_ever(job, nodes):
            jobs.append(job)
    whole = {"duration_ms": 30 * _MINUTE, "workers": sum(nodes) // 4, "gpus_per_worker": 4}
    gang = held | whole | {"submit_ms": arrival, "tenant": 2}
    jobs.append(gang | {"priority": 3 if same_class else 0})
    state = _play(rule, nodes, jobs, Semantics())
    count = state.rows[0]["num_jobs"]
    asks, runs = state.request[0, :count], state.job[0, :count]
    # Those that wait already go first in its own class, and whenever nobody holds anything: shares
    # are equal then. From then on it is the first.
    before = asks["submit_ms"] < arrival
    if not same_class and rule.name != "drf":
        before &= runs["first_start_ms"] <= arrival
    first_ms = max(int(runs["first_start_ms"][before].max(initial=0)), arrival)
    there = (runs["first_start_ms"] <= first_ms) & (asks["submit_ms"] != arrival)
    return state, arrival, max(int(runs["end_ms"][there].max(initial=0)), first_ms)
