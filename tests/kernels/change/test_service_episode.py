"""Services in whole episodes: their jobs are placed, fail and return like any other."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.see.metrics import Metric
from orchestrator.kernels.state.codes import (
    FOREVER_MS,
    EventKind,
    JobCode,
    JobKind,
    NodeCode,
    RuleKey,
)
from orchestrator.kernels.state.records import INCIDENT_DTYPE, NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.mesh.specs import ServiceSpec, service_records
from orchestrator.scheduling.rules import Rule
from tests.kernels.requests import kernel_calls as calls
from tests.twins.kernel_calls import load_incidents

_TICK_MS = 10_000
_RATES = np.full((1, 40), 5.0, np.float32)
_SPEC = ServiceSpec("llm", 100.0, replicas=2)


def _play(
    jobs: list[dict[str, int]],
    incidents: list[tuple[int, int, int]],
    *,
    tick_ms: int = _TICK_MS,
    lifetime_ms: int = FOREVER_MS,
) -> ClusterState:
    """Replay first come, first served: a service of two replicas, and these jobs after it."""
    state = allocate(ClusterShape(1, 8, workers=2, nodes=3, devices=2, incidents=8))
    rows = state.rows
    rows["tick_ms"], rows["series_at"] = tick_ms, _RATES.ctypes.data
    rows["series_len"] = rows["series_stop"] = _RATES.shape[1]
    nodes = np.zeros(3, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = 2, NodeCode.UP
    requests = np.zeros(1 + len(jobs), REQUEST_DTYPE)
    requests["gpu_milli"], requests["gpus_per_worker"], requests["workers"] = 1000, 1, 1
    requests["workers"][0], requests["kind"][0] = 2, JobKind.SERVICE
    requests["gpus_per_worker"][0], requests["duration_ms"][0] = 2, lifetime_ms
    for record, fields in zip(requests[1:], jobs, strict=True):
        for name, value in fields.items():
            record[name] = value
    requests["requested_ms"] = requests["duration_ms"]
    calls.begin(rows, 0, 1, nodes, requests, service_records([_SPEC], [0]))
    load_incidents(rows, 0, np.array(incidents, INCIDENT_DTYPE))
    rule = Rule("fcfs", RuleKey.FCFS)
    entry.replay(rows, 0, rule.to_record(), np.zeros(8, np.int32), np.zeros(8, np.int32))
    assert_invariants(state, 0)
    assert rows[0]["done"] == 1
    own = state.service[0, 0]
    came, went = own["offered"] + own["retried"], own["shed"] + own["failed"] + own["served"]
    assert came == pytest.approx(went + own["backlog"])
    return state


def test_an_episode_ends_with_its_last_other_job() -> None:
    state = _play([{"duration_ms": 95_000}, {"duration_ms": 42_000, "submit_ms": 13_000}], [])
    row = state.rows[0]
    assert row["now_ms"] == 95_000
    assert row["tick"] == 9
    assert row["requests_offered"] == 9 * 50
    assert row["replica_ms"] == 9 * 2 * _TICK_MS
    assert row["request_violations"] < 1.0
    assert state.job[0, 0]["state"] == JobCode.RUNNING
    assert (row["active_jobs"], row["completed_jobs"]) == (1, 2)


def test_a_series_ends_an_episode_that_nothing_else_does() -> None:
    state = _play([], [])
    assert state.rows[0]["tick"] == 40
    assert state.rows[0]["now_ms"] == 400_000
    never_fits = [{"duration_ms": 1000, "gpus_per_worker": 64}]
    assert _play(never_fits, []).rows[0]["tick"] == 40


def test_without_ticks_a_service_is_a_job_like_any_other() -> None:
    state = _play([{"duration_ms": 95_000}], [], tick_ms=0)
    assert (state.rows[0]["tick"], state.rows[0]["now_ms"]) == (0, 95_000)
    assert state.service[0, 0]["offered"] == 0.0


def test_a_lifetime_ends_a_service() -> None:
    state = _play([{"duration_ms": 95_000}], [], lifetime_ms=34_000)
    assert state.job[0, 0]["state"] == JobCode.COMPLETED
    own = state.service[0, 0]
    assert own["served"] == pytest.approx(3 * 50, abs=1)
    assert own["failed"] == pytest.approx(6 * 50, abs=1)  # nobody is there any more


def test_a_failed_node_takes_the_service_down_until_it_is_placed_again() -> None:
    down = (25_000, EventKind.NODE_FAILURE, 0)
    others = [{"duration_ms": 155_000, "gpus_per_worker": 2}]
    # the third node is taken by the job, so the service waits for the first one to come back
    state = _play(others, [down, (71_000, EventKind.NODE_RECOVERY, 0)])
    own = state.service[0, 0]
    assert state.job[0, 0]["interruptions"] == 1
    assert own["failed"] == pytest.approx(5 * 50, abs=1)  # ticks at 30, 40, 50, 60 and 70 s
    assert own["served"] == pytest.approx(10 * 50, abs=1)
    assert own["violations"] == pytest.approx(5 * 50, abs=2)


def test_metrics_are_the_row_s_totals() -> None:
    state = _play([{"duration_ms": 95_000}], [(5000, EventKind.NODE_FAILURE, 0)])
    values = np.zeros(len(Metric))
    entry.read_metrics(state.rows, 0, values)
    assert values[Metric.SERVICE_VIOLATIONS] == state.rows[0]["request_violations"] > 100
    assert values[Metric.SERVICE_SHED] == 0.0
    assert values[Metric.PREEMPTIONS] == 0.0
