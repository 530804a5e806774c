"""Random clusters, workloads and incidents, as specifications; and a random policy."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from orchestrator.engine.records import node_records, request_record
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    ActionKind,
    EventKind,
    JobCode,
    NodeCode,
    Placement,
    Reason,
)
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.semantics import Semantics
from orchestrator.types import JobPriority, JobSpec, NodeSpec

MAX_JOBS = 12
MAX_INCIDENTS = 10
SHAPE = ClusterShape(
    envs=1, jobs=MAX_JOBS, workers=4, nodes=4, devices=4, incidents=MAX_INCIDENTS, log=8192
)
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Case:
    """What is asked of a cluster, what befalls it, and by which semantics."""

    nodes: tuple[NodeSpec, ...]
    jobs: tuple[tuple[int, JobSpec], ...]  # (submit_ms, spec), by time
    incidents: tuple[tuple[int, EventKind, int], ...]  # (time_ms, kind, node), sorted
    semantics: Semantics
    seed: int


def _tenths(low: int, high: int) -> st.SearchStrategy[int]:
    """Milliseconds in coarse steps, so that things coincide."""
    return st.integers(low, high).map(lambda tenths: 100 * tenths)


@st.composite
def _job(draw: st.DrawFn, *, pool: bool) -> dict[str, Any]:
    gpus = 0 if pool else draw(st.sampled_from([0, 1, 1, 1, 2, 4]))
    cpus = draw(st.sampled_from([0.5, 1.0, 3.0] if gpus == 0 else [0.0, 0.0, 0.5, 2.0]))
    workers = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    return {
        "num_workers": workers,
        "elastic": draw(st.booleans()),
        "min_workers": draw(st.integers(1, workers)),
        "max_workers": draw(st.integers(workers, 5)),
        "gpus_per_worker": gpus,
        "gpu_fraction": draw(st.sampled_from([1.0, 1.0, 0.5, 0.35, 0.25])) if gpus else 1.0,
        "cpus_per_worker": cpus,
        "memory_per_worker_gb": draw(st.sampled_from([0.0, 0.5, 2.0])),
        "duration_hours": draw(_tenths(1, 40)) / HOUR_MS,
        "max_duration_hours": draw(_tenths(1, 60)) / HOUR_MS,
        "checkpoint_interval_steps": draw(st.sampled_from([0, 1, 7])),
        "step_seconds": 0.1,
        "checkpoint_seconds": draw(st.sampled_from([0.0, 0.0, 0.1, 0.7])),
        "restart_seconds": draw(st.sampled_from([0.0, 0.1, 0.4])),
        "preemptible": draw(st.booleans()),
        "priority": draw(st.sampled_from(JobPriority)),
        "topology_aware": False,  # rows know no preferences
    }


@st.composite
def _node(draw: st.DrawFn, *, pool: bool) -> dict[str, Any]:
    return {
        "gpus": 0 if pool else draw(st.integers(0, 4)),
        "cpu_cores": draw(st.sampled_from([1, 4, 8])),
        "memory_gb": draw(st.sampled_from([4.0, 16.0])),
        "available": draw(st.sampled_from([True, True, True, False])),
        "rack": draw(st.integers(0, 1)),
    }


@st.composite
def _incidents(draw: st.DrawFn, nodes: int) -> tuple[tuple[int, EventKind, int], ...]:
    """Failures and recoveries of any node, in any order; the first node is never drained."""
    kinds = [EventKind.NODE_FAILURE, EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY]
    if nodes > 1:
        kinds.append(EventKind.NODE_DRAIN)
    drawn = []
    for _ in range(draw(st.integers(0, MAX_INCIDENTS))):
        kind = draw(st.sampled_from(kinds))
        first = 1 if kind == EventKind.NODE_DRAIN else 0
        drawn.append((draw(_tenths(0, 90)), kind, draw(st.integers(first, nodes - 1))))
    return tuple(sorted(drawn))


@st.composite
def cases(draw: st.DrawFn, *, commitment: bool, backfill: bool = False) -> Case:
    """A random case under given semantics."""
    pool = draw(st.sampled_from([False, False, True]))
    described = draw(st.lists(_node(pool=pool), min_size=1, max_size=4))
    nodes = tuple(
        NodeSpec(
            node_id=f"node-{n}",
            gpu_memory_gb=80.0,
            network_bandwidth_gbps=100.0,
            gpu_topology="NVLink",
            **fields,
        )
        for n, fields in enumerate(described)
    )
    incidents = draw(_incidents(len(nodes)))
    drained = {n for _, kind, n in incidents if kind == EventKind.NODE_DRAIN}
    time_ms = 0
    jobs: list[tuple[int, JobSpec]] = []
    for fields in draw(st.lists(_job(pool=pool), min_size=1, max_size=MAX_JOBS)):
        time_ms += draw(_tenths(0, 9))
        spec = JobSpec(job_id=f"job-{len(jobs)}", name="", **fields)
        if fits_when_empty(nodes, drained, spec):
            jobs.append((time_ms, spec))
    shift_ms = jobs[0][0] if jobs else 0
    return Case(
        nodes=nodes,
        jobs=tuple(jobs),
        incidents=tuple((shift_ms + t, kind, n) for t, kind, n in incidents),
        semantics=Semantics(
            min_run_seconds=draw(st.sampled_from([0.0, 0.0, 0.5])),
            preemption_limit=draw(st.sampled_from([0, 1, 3])),
            commitment=commitment,
            backfill=backfill,
            resize=draw(st.booleans()),
            migrate=draw(st.booleans()),
            ageing_seconds=draw(st.sampled_from([0.0, 1.0])),
        ),
        seed=draw(st.integers(0, 1 << 32)),
    )


def fits_when_empty(nodes: tuple[NodeSpec, ...], drained: set[int], spec: JobSpec) -> bool:
    """Whether a job fits into the nodes that will not be drained: else the orchestrator refuses."""
    records = node_records(nodes)
    records["state"][list(drained)] = NodeCode.ABSENT
    state = allocate(SHAPE)
    entry.begin_episode(state.rows, 0, 0, records, request_record(spec, 0, 0))
    return entry.can_ever_fit(state.rows, 0, 0)


def choose(state: ClusterState, semantics: Semantics, seed: int) -> tuple[ActionKind, int, int]:
    """A random legal action: (kind, job, value), a function of the state and a seed only."""
    row = state.rows[0]
    dice = random.Random(f"{seed} {row['point']} {row['decisions']}")
    generator = int(dice.choice(list(Placement)))
    options = [(ActionKind.PLACE, j, generator) for j in _placeable(state, semantics)]
    if not semantics.commitment or not options:
        options += [(ActionKind.WAIT, -1, 0)]
    if not semantics.commitment:
        options += [(ActionKind.PREEMPT, j, 0) for j in _preemptible(state, semantics)]
    return dice.choice(options + _changes(state, semantics, generator))


def _changes(
    state: ClusterState, semantics: Semantics, generator: int
) -> list[tuple[ActionKind, int, int]]:
    """Legal resizes and moves, found by trying them on a copy."""
    row = state.rows[0]
    wanted = []
    for j in [int(j) for j in state.running[0, : row["running_len"]]["job"]]:
        if semantics.resize and state.request[0, j]["elastic"]:
            wanted += [(ActionKind.RESIZE, j, workers) for workers in range(1, 5)]
        wanted.append((ActionKind.MIGRATE, j, generator))
    legal, trial = [], allocate(state.shape)
    nodes = np.zeros(SHAPE.workers, np.int32)
    for kind, j, value in wanted:
        entry.copy_row(state.rows, 0, trial.rows, 0)
        if entry.commit(trial.rows, 0, int(kind), j, value, nodes) == Reason.OK:
            legal.append((kind, j, value))
    return legal


def _placeable(state: ClusterState, semantics: Semantics) -> list[int]:
    row = state.rows[0]
    waiting = [int(j) for j in state.queue[0, : row["queue_len"]]["job"]]
    here = [j for j in waiting if state.job[0, j]["blocked_point"] != row["point"]]
    return [j for j in here if semantics.commitment or entry.fits(state.rows, 0, j)]


def _preemptible(state: ClusterState, semantics: Semantics) -> list[int]:
    row = state.rows[0]
    if row["preemptions_here"] >= semantics.preemption_limit:
        return []
    placed = [int(j) for j in state.running[0, : row["running_len"]]["job"]]
    return [
        j
        for j in placed
        if state.job[0, j]["state"] == JobCode.RUNNING
        and state.request[0, j]["preemptible"]
        and row["now_ms"] - state.job[0, j]["start_ms"] >= 1000 * semantics.min_run_seconds
    ]


def log_of(state: ClusterState, since: int = 0) -> list[tuple[int, int, int, int]]:
    """The event log as (time_ms, kind, subject, value); all of it must have been kept."""
    count = int(state.rows[0]["log_count"])
    assert count <= state.shape.log
    log = state.log[0, since:count]
    columns = (log[name].tolist() for name in ("time_ms", "kind", "subject", "value"))
    return list(zip(*columns, strict=True))
