"""Small explicit clusters, played by the kernels and by their twin at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, NodeCode, Reason, Status
from orchestrator.kernels.state.records import (
    INCIDENT_DTYPE,
    NODE_DTYPE,
    REQUEST_DTYPE,
    TENANT_DTYPE,
)
from orchestrator.kernels.state.row import ClusterState
from orchestrator.scheduling.rules import Rule
from tests.naive.engine import NaiveEngine
from tests.twins.cases import Case, assert_same, begin, nodes_buffer, scratch


def scene(
    gpus: list[int],
    jobs: list[dict[str, Any]],
    incidents: list[tuple[int, int, int]] | None = None,
    quotas: list[int] | None = None,
    **config: int,
) -> Case:
    """Nodes of so many GPUs, jobs of one GPU unless they say otherwise, tenants' quotas of GPUs."""
    nodes = np.zeros(len(gpus), NODE_DTYPE)
    nodes["gpus"], nodes["state"] = gpus, NodeCode.UP
    requests = np.zeros(len(jobs), REQUEST_DTYPE)
    for name, value in {"gpu_milli": 1000, "gpus_per_worker": 1, "workers": 1}.items():
        requests[name] = value
    for record, fields in zip(requests, jobs, strict=True):
        for name, value in fields.items():
            record[name] = value
    requests["requested_ms"] = requests["duration_ms"]
    tenants = np.zeros(len(quotas or []), TENANT_DTYPE)
    tenants["quota_units"] = [1000 * quota for quota in quotas or []]
    config = {"information": 1, "keep_log": 1, "slowdown_bound_ms": 10_000} | config
    return Case(nodes, requests, np.array(incidents or [], INCIDENT_DTYPE), config, 7, tenants)


def replayed(case: Case, rule: Rule) -> tuple[ClusterState, NaiveEngine]:
    """The end of a scene under a rule."""
    state, twin = begin(case)
    entry.replay(state.rows, 0, rule.to_record(), nodes_buffer(), scratch())
    twin.replay(rule)
    assert_same(state, 0, twin)
    assert_invariants(state, 0)
    return state, twin


class Play:
    """A scene, action by action; whoever is not asked about is where the last wait left him."""

    def __init__(self, case: Case) -> None:
        self.state, self.twin = begin(case)
        self._buffer = nodes_buffer()
        self.advance()

    @property
    def row(self) -> Any:
        return self.state.rows[0]

    def job(self, j: int) -> Any:
        return self.state.job[0, j]

    def nodes_of(self, j: int) -> list[int]:
        run = self.job(j)
        return [int(n) for n in self.state.worker[0, j, : run["workers_now"]]["node"]]

    def advance(self) -> Status:
        """Let everything happen up to the next decision point."""
        status = Status(entry.advance(self.state.rows, 0, self._buffer))
        assert status == self.twin.advance()
        assert_same(self.state, 0, self.twin)
        assert_invariants(self.state, 0)
        return status

    def wait_until(self, time_ms: int) -> None:
        """Wait at every decision point before a time; there must be one at that time."""
        self.advance()
        while self.row["now_ms"] < time_ms:
            assert self.act(ActionKind.WAIT) == Reason.OK
            self.advance()
        assert self.row["now_ms"] == time_ms

    def act(self, kind: int, j: int = -1, value: int = 0) -> Reason:
        """Try an action; it is refused or carried out alike by both."""
        reason = Reason(entry.commit(self.state.rows, 0, int(kind), j, value, self._buffer))
        assert reason == self.twin.commit(kind, j, value)
        assert_same(self.state, 0, self.twin)
        assert_invariants(self.state, 0)
        return reason
