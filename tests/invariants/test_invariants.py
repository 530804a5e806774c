"""The checker of invariants: silent on healthy state, precise about every way of breaking it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from orchestrator.errors import InvariantError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    ActionKind,
    EffectKind,
    EventKind,
    Information,
    JobCode,
    JobKind,
    NodeCode,
    Reason,
)
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate

_DONE, _RUNS, _SAVES, _WAITS, _ALSO_WAITS, _TO_COME = range(6)


@pytest.fixture
def state() -> ClusterState:
    """One job of each kind: completed, running, checkpointing, waiting (two), to come."""
    state = allocate(ClusterShape(envs=1, jobs=8, workers=2, nodes=2, devices=2, effects=8))
    state.rows["information"] = Information.ESTIMATE
    state.rows["preemption_limit"] = 4
    nodes = np.zeros(2, NODE_DTYPE)
    nodes["gpus"], nodes["cpu_cap_milli"], nodes["memory_cap_mib"] = 2, 4000, 1000
    nodes["state"] = NodeCode.UP
    requests = np.zeros(6, REQUEST_DTYPE)
    requests["submit_ms"] = (0, 0, 0, 6000, 7000, 90_000)
    requests["duration_ms"] = (5000, 40_000, 30_000, 50_000, 5000, 1000)
    requests["requested_ms"] = requests["duration_ms"]
    requests["workers"] = (1, 2, 1, 2, 1, 1)
    requests["gpus_per_worker"] = 1
    requests["gpu_milli"] = (500, 1000, 500, 1000, 1000, 1000)
    requests["cpu_milli"], requests["memory_mib"] = 1000, 100
    requests["checkpoint_interval_ms"], requests["checkpoint_ms"] = 2000, 3000
    requests["preemptible"] = 1
    entry.begin_episode(state.rows, 0, 0, nodes, requests)
    buffer = np.zeros(2, np.int32)
    entry.advance(state.rows, 0, buffer)
    for j in range(3):
        assert entry.commit(state.rows, 0, ActionKind.PLACE, j, 1, buffer) == Reason.OK
        assert_invariants(state, 0)
    while state.rows[0]["queue_len"] < 2:
        entry.advance(state.rows, 0, buffer)
        assert_invariants(state, 0)
        if state.rows[0]["queue_len"] < 2:
            entry.commit(state.rows, 0, ActionKind.WAIT, -1, 0, buffer)
    assert entry.commit(state.rows, 0, ActionKind.PREEMPT, _SAVES, 0, buffer) == Reason.OK
    return state


def test_healthy_state_passes(state: ClusterState) -> None:
    codes = [JobCode(x) for x in state.job[0, :6]["state"]]
    assert codes == [
        JobCode.COMPLETED,
        JobCode.RUNNING,
        JobCode.CHECKPOINTING,
        JobCode.PENDING,
        JobCode.PENDING,
        JobCode.ABSENT,
    ]
    assert_invariants(state, 0)


def _set(table: str, index: tuple[int, ...], field: str, value: int) -> Callable[..., None]:
    def corrupt(state: ClusterState) -> None:
        getattr(state, table)[(0, *index)][field] = value

    return corrupt


def _add(table: str, index: tuple[int, ...], field: str, value: float) -> Callable[..., None]:
    def corrupt(state: ClusterState) -> None:
        getattr(state, table)[(0, *index)][field] += value

    return corrupt


def _swap(table: str) -> Callable[..., None]:
    def corrupt(state: ClusterState) -> None:
        entries = getattr(state, table)[0]
        entries[[0, 1]] = entries[[1, 0]]

    return corrupt


_BREACHES = {
    "device over-allocated": (_set("device", (0, 0), "free_milli", -500), "has -500 of 1000 milli"),
    "device above capacity": (_set("device", (1, 0), "free_milli", 1500), "has 1500 of 1000 milli"),
    "device leaks": (_add("device", (0, 0), "free_milli", 100), "free share of 0:0 is 600"),
    "cpu leaks": (_add("node", (1,), "cpu_free_milli", 1000), "cpu_free_milli of node 1"),
    "memory leaks": (_add("node", (0,), "memory_free_mib", -1), "memory_free_mib of node 0"),
    "gpu sum": (_add("node", (0,), "gpu_free_milli", 1), "gpu_free_milli of node 0"),
    "whole devices": (_add("node", (0,), "whole_free", 1), "whole_free of node 0"),
    "workers of a node": (_add("node", (0,), "workers", 1), "workers of node 0"),
    "placed on a lost node": (_set("node", (0,), "state", NodeCode.DOWN), "which is not up"),
    "capacity": (_add("rows", (), "capacity_units", 1000), "capacity_units is 5000"),
    "free capacity": (_add("rows", (), "free_units", -1), "free_units is"),
    "units of a job": (_add("job", (_WAITS,), "units", 1), "units of job 3 is 2001"),
    "half a gang": (_set("job", (_RUNS,), "workers_now", 1), "a gang is whole or absent"),
    "a gang nowhere": (_set("job", (_WAITS,), "workers_now", 2), "a gang is whole or absent"),
    "a device twice": (_set("worker", (_RUNS, 0), "devices", 0), "GPUs of worker 0 of job 1"),
    "a device too many": (_set("worker", (_SAVES, 0), "devices", 4), "not all exist"),
    "a node too many": (_set("worker", (_RUNS, 1), "node", 7), "on node 7, there are 2"),
    "queue order": (_swap("queue"), "the queue is [4, 3], should be [3, 4]"),
    "queued twice": (_set("queue", (1,), "job", _WAITS), "the queue is [3, 3]"),
    "running not queued": (_set("queue", (1,), "job", _RUNS), "the queue is [3, 1]"),
    "running order": (_swap("running"), "the running list is not sorted"),
    "running job": (_set("running", (0,), "job", _WAITS), "jobs of the running list"),
    "running units": (_add("running", (0,), "units", 1), "listed units of job"),
    "heap slot": (_set("job", (_RUNS,), "heap_slot", 0), "heap_slot of job 1 is 0"),
    "heap order": (_set("heap", (1,), "time_ms", 0), "goes before its parent"),
    "heap entity": (_set("heap", (1,), "entity", _WAITS), "jobs with a pending event"),
    "heap kind": (_set("heap", (0,), "kind", EventKind.COMPLETION), "kind of job 2's event"),
    "stray slot": (_set("job", (_WAITS,), "heap_slot", 1), "job 3 has a heap_slot but no event"),
    "unknown state": (_set("job", (_WAITS,), "state", 77), "job 3 has the unknown state 77"),
    "passing state": (_set("job", (_RUNS,), "state", JobCode.SCHEDULED), "passing state SCHEDULED"),
    "lost job": (_set("job", (_WAITS,), "state", JobCode.ABSENT), "the queue is"),
    "active jobs": (_add("rows", (), "active_jobs", 1), "active_jobs is 5, should be 4"),
    "active services": (
        _add("rows", (), "active_services", 1),
        "active_services is 1, should be 0",
    ),
    "a job that serves": (
        _set("request", (_RUNS,), "kind", JobKind.SERVICE),
        "active_services is 0",
    ),
    "completed jobs": (_add("rows", (), "completed_jobs", 1), "completed_jobs is 2"),
    "failed jobs": (_add("rows", (), "failed_jobs", 1), "failed_jobs is 1, should be 0"),
    "preemptions": (_add("rows", (), "preemptions", 1), "preemptions is 2, should be 1"),
    "before its start": (_set("job", (_DONE,), "end_ms", 1 << 40), "job 0 ended at"),
    "starts in the future": (_set("job", (_RUNS,), "start_ms", 1 << 40), "times out of order"),
    "too early": (_set("request", (_WAITS,), "submit_ms", 8000), "before its submission"),
    "end while running": (_set("job", (_RUNS,), "end_ms", 5), "end of the RUNNING job 1 is 5"),
    "progress from nothing": (_set("job", (_RUNS,), "progress_ms", 1 << 40), "has done"),
    "negative progress": (_set("job", (_WAITS,), "progress_ms", -1), "onset_ms of job 3"),
    "unfinished": (_set("job", (_DONE,), "progress_ms", 1), "the completed job 0 has done 1 ms"),
    "lost too much": (_set("job", (_WAITS,), "lost_ms", 1), "job 3 lost 1 ms in 0 interruptions"),
    "queue rate": (_add("rows", (), "queue_rate", 1e-8), "queue_rate is"),
    "queue onset": (_add("rows", (), "queue_onset", 1e-6), "queue_onset is"),
    "request rate": (_add("rows", (), "request_rate", 1e-8), "request_rate is"),
    "queued work": (_add("rows", (), "queued_unit_ms", 1), "queued_unit_ms is"),
    "settled excess": (_add("rows", (), "settled_excess", 1e-6), "settled_excess is"),
    "commitment": (_set("rows", (), "committed", _RUNS), "committed to job 1, which does not wait"),
    "runs of nobody": (_set("job", (_WAITS,), "runs", 1), "the PENDING job 3 has 1 runs"),
    "another run": (_set("job", (_RUNS,), "runs", 2), "run last told of job 1 is 1, should be 2"),
    "untold": (
        _set("effect", (3,), "kind", EffectKind.RELEASE),
        "last told of the CHECKPOINTING job 2 is START",
    ),
    "told otherwise": (
        _set("effect", (1,), "kind", EffectKind.STOP),
        "last told of the RUNNING job 1 is STOP",
    ),
    "told another size": (
        _set("effect", (1,), "workers", 1),
        "workers last told of job 1 is 1, should be 2",
    ),
    "told another place": (
        _set("effect_worker", (1, 1), "devices", 0),
        "the workers of job 1 are elsewhere than was last told",
    ),
    "too many jobs": (_set("rows", (), "num_jobs", 9), "num_jobs is 9, outside 0..8"),
}


@pytest.mark.parametrize("name", list(_BREACHES))
def test_breach_is_reported(name: str, state: ClusterState) -> None:
    corrupt, message = _BREACHES[name]
    corrupt(state)
    with pytest.raises(InvariantError) as caught:
        assert_invariants(state, 0)
    assert message in str(caught.value)
