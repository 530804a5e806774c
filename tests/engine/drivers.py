"""Ways to live through a case. Each must come to the same end, by the same way.

A driver takes a :class:`Case` and returns a :class:`Trace`. What else can run a case, an
environment for example, is added to ``DRIVERS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.clock import VirtualClock
from orchestrator.engine.records import node_records, request_record, tenant_records
from orchestrator.engine.snapshot import Snapshot
from orchestrator.foundations import in_memory
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.change.events import put_tenants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, EventKind, Placement, Reason, Status
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.messages import (
    MigrateJob,
    PlaceJob,
    Plan,
    PreemptJob,
    ResizeJob,
    Wait,
)
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Policy
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.scheduling.rules import Rule, RulePolicy
from orchestrator.types import TenantSpec
from tests.engine.cases import SHAPE, Case, choose, log_of
from tests.engine.mortal import Mortal

_COMPARED = (
    "now_ms",
    "point",
    "job_ms",
    "wait_ms",
    "busy_unit_ms",
    "capacity_unit_ms",
    "lost_unit_ms",
    "settled_excess",
    "preemptions",
    "interruptions",
    "resizes",
    "migrations",
    "completed_jobs",
    "queue_len",
    "committed",
)


@dataclass(frozen=True)
class Trace:
    """What came of a case."""

    log_hash: int
    log: list[tuple[int, int, int, int]]
    totals: dict[str, float]


def trace_of(state: ClusterState) -> Trace:
    row = state.rows[0]
    totals = {name: row[name].item() for name in _COMPARED}
    return Trace(int(row["log_hash"]), log_of(state), totals)


# --- a row of the kernels, as environments and replays use it ------------------------------------


def load(case: Case, shape: ClusterShape = SHAPE) -> ClusterState:
    """A case as a row that has just begun."""
    state = allocate(shape)
    row = state.rows[0]
    case.semantics.write(state.rows)
    row["keep_log"] = 1
    requests = np.concatenate([request_record(spec, submit, 0) for submit, spec in case.jobs])
    entry.begin_episode(state.rows, 0, case.seed, node_records(case.nodes), requests)
    # A live cluster has accounts, of whoever comes, and none of them a quota.
    accounts = [TenantSpec(f"tenant {k}") for k in range(shape.tenants)]
    put_tenants(state.rows, 0, tenant_records(accounts))
    state.rows["num_incidents"] = len(case.incidents)
    for at, (time_ms, kind, n) in enumerate(case.incidents):
        state.incident[0, at] = (time_ms, int(kind), n)
    return state


def drive_row(case: Case) -> Trace:
    """The kernels alone: one row, stepped from decision to decision."""
    return trace_of(play_row(case))


def play_row(case: Case, shape: ClusterShape = SHAPE) -> ClusterState:
    """The row at the end of that."""
    state = load(case, shape)
    nodes = np.zeros(SHAPE.workers, np.int32)
    assert_invariants(state, 0)
    while entry.advance(state.rows, 0, nodes) == Status.DECISION:
        assert_invariants(state, 0)
        kind, j, value = choose(state, case.semantics, case.seed)
        reason = entry.commit(state.rows, 0, int(kind), j, value, nodes)
        assert_invariants(state, 0)
        if reason == Reason.NOTHING_TO_WAIT_FOR and kind == ActionKind.WAIT:
            break  # the policy wants nothing more, and nothing more will happen
        assert reason == Reason.OK
    assert_invariants(state, 0)
    return state


# --- the orchestrator on a virtual clock ---------------------------------------------------------


@dataclass(frozen=True)
class RandomPolicy:
    """The random policy of a case, behind the interface of live policies."""

    case: Case

    def decide(self, snapshot: Snapshot) -> Plan:
        kind, j, value = choose(snapshot.state, self.case.semantics, self.case.seed)
        if kind == ActionKind.PLACE:
            return Plan((PlaceJob(snapshot.job_ids[j], Placement(value)),))
        if kind == ActionKind.RESIZE:
            return Plan((ResizeJob(snapshot.job_ids[j], value),))
        if kind == ActionKind.MIGRATE:
            return Plan((MigrateJob(snapshot.job_ids[j], Placement(value)),))
        if kind == ActionKind.PREEMPT:
            return Plan((PreemptJob(snapshot.job_ids[j]),))
        return Plan((Wait(),))


@dataclass
class Watched:
    """A policy, and whether its last answer was to wait."""

    policy: Policy
    waits: bool = False

    def decide(self, snapshot: Snapshot) -> Plan:
        plan = self.policy.decide(snapshot)
        self.waits = plan.actions[-1:] == (Wait(),)
        return plan


class Live:
    """A case as an orchestrator lives through it; the case's random policy, or another one."""

    def __init__(self, case: Case, policy: Policy | None = None) -> None:
        self.case = case
        self.clock = VirtualClock()
        self.runtime = SimulatedRuntime(self.clock)
        self.policy = Watched(policy or RandomPolicy(case))
        self.lasting = in_memory(self.clock)  # what outlives an orchestrator: log, checkpoints
        self.process = Mortal(self.clock)
        self.orchestrator = self.start()
        for submit_ms, spec in case.jobs:
            self._at(submit_ms, EventKind.ARRIVAL, "submit_job", spec)
        actions = {
            EventKind.NODE_FAILURE: "handle_node_failure",
            EventKind.NODE_RECOVERY: "handle_node_recovery",
            EventKind.NODE_DRAIN: "decommission_node",
        }
        for time_ms, kind, n in case.incidents:
            self._at(time_ms, kind, actions[kind], case.nodes[n].node_id)

    def start(self) -> InfrastructureOrchestrator:
        """An orchestrator on whatever is in the log so far."""
        self.process.die()  # of the one before, if there was one
        self.process = Mortal(self.clock)
        fresh = in_memory(self.clock)
        return InfrastructureOrchestrator(
            self.lasting.consensus_engine,
            fresh.shard_manager,
            fresh.fault_detector,
            self.lasting.checkpoint_manager,
            clock=self.process,
            runtime=self.runtime,
            policy=self.policy,
            shape=SHAPE,
            nodes=self.case.nodes,
            semantics=self.case.semantics,
            seed=self.case.seed,
            schedule_on_events=True,
            review_ms=None,
            time_limit_grace_s=None,  # nobody ends jobs in a replay
            check=True,
        )

    def _at(self, time_ms: int, order: EventKind, method: str, subject: Any) -> None:
        self.clock.call_at(
            time_ms, lambda: getattr(self.orchestrator, method)(subject), order=int(order)
        )

    async def finish(self) -> Trace:
        """Let everything happen that will.

        A simulation knows when nothing else will ever happen, and then gives the victims of the
        last decision point another chance; a live cluster is told here that this is so.
        """
        row = self.orchestrator.engine.row
        await self.clock.run_until_idle()
        while not self.policy.waits and row["queue_len"] > 0 and row["preemptions_here"] > 0:
            await self.orchestrator.schedule()
            await self.clock.run_until_idle()
        return trace_of(self.orchestrator.engine.state)


def drive_orchestrator(case: Case) -> Trace:
    """The orchestrator, told of everything when it happens."""
    return asyncio.run(Live(case).finish())


def drive_rule(case: Case, rule: Rule) -> tuple[Trace, Trace]:
    """A rule, replayed by the kernels, and as the policy of an orchestrator."""
    state = load(case)
    nodes, scratch = np.zeros(SHAPE.workers, np.int32), np.zeros(SHAPE.jobs, np.int32)
    entry.replay(state.rows, 0, rule.to_record(), nodes, scratch)
    return trace_of(state), asyncio.run(Live(case, RulePolicy(rule)).finish())


def drive_replay(case: Case) -> Trace:
    """An orchestrator that reads all of it in the log of another one."""

    async def run() -> Trace:
        live = Live(case)
        await live.finish()
        return trace_of(live.start().engine.state)

    return asyncio.run(run())


def drive_restart(case: Case) -> Trace:
    """An orchestrator that is replaced by a new one halfway, while the jobs go on running."""

    async def run() -> Trace:
        live = Live(case)
        await live.clock.advance_to(case.jobs[len(case.jobs) // 2][0] + 500)
        live.orchestrator = live.start()
        return await live.finish()

    return asyncio.run(run())


DRIVERS: dict[str, Callable[[Case], Trace]] = {
    "row": drive_row,
    "orchestrator": drive_orchestrator,
    "replay": drive_replay,
    "restart": drive_restart,
}
