"""A recorded run again, in virtual time: the same jobs, arrivals and misfortunes, simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from agents.live.fit import FittedCosts, can_save, work_done_ms
from agents.live.record import JobRecord, LiveRecord, recorded
from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.foundations import in_memory
from orchestrator.foundations.consensus import InMemoryConsensus
from orchestrator.kernels.state.codes import EventKind
from orchestrator.messages import (
    Cancel,
    Command,
    Decommission,
    Event,
    NodeFailed,
    NodeRecovered,
    Preempt,
    Register,
    Scale,
    Undrain,
    WorkersLost,
)
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Policy
from orchestrator.runtimes import Conduct, SimulatedRuntime
from orchestrator.scheduling.rules import Rule
from orchestrator.types import JobSpec

__all__ = ["replay", "simulated_spec"]


_MS_PER_HOUR = 3_600_000
_STEP_MS = 1000
_LONGER = 4  # times as long as the live run: then the simulated one is given up


def simulated_spec(job: JobRecord, fitted: FittedCosts, *, declared: bool) -> JobSpec:
    """A job as it is simulated: for as long as it says, or (not ``declared``) as it has worked."""
    if declared and job.spec.duration_hours is not None:
        return job.spec
    return replace(job.spec, duration_hours=work_done_ms(job, fitted) / _MS_PER_HOUR)


class _Replay:
    """The simulated cluster, and what happens to it."""

    def __init__(self, record: LiveRecord, fitted: FittedCosts, policy: Policy | Rule | None):
        self.record, self.fitted = record, fitted
        self.clock = VirtualClock(record.begin_ms)
        conduct = {
            name: Conduct(job.exit_code, can_save(job, fitted), fitted.costs_of(job.spec))
            for name, job in record.jobs.items()
        }
        self.runtime = SimulatedRuntime(self.clock, costs=fitted.costs, conduct=conduct)
        self.log = InMemoryConsensus()
        settings = record.settings
        registered = [body.spec for _, body in record.happenings if isinstance(body, Register)]
        self._nodes = {spec.node_id: spec for spec in (*settings.nodes, *registered)}
        self.orchestrator = InfrastructureOrchestrator(
            *in_memory(self.clock)._replace(consensus_engine=self.log),
            clock=self.clock,
            runtime=self.runtime,
            policy=record.rule if policy is None else policy,
            shape=settings.shape,
            nodes=settings.nodes,
            semantics=settings.semantics,
            tenants=settings.tenants,
            seed=settings.seed,
            schedule_on_events=True,
            decide_after_ms=fitted.decide_ms,
        )

    def happen(self, time_ms: int, body: Command | Event) -> None:
        """Have something done to the cluster that was done to the live one."""
        kind = EventKind.NONE
        if isinstance(body, NodeFailed):
            kind = EventKind.NODE_FAILURE
        elif isinstance(body, NodeRecovered | Register | Undrain):
            kind = EventKind.NODE_RECOVERY
        elif isinstance(body, Decommission):
            kind = EventKind.NODE_DRAIN
        self.clock.call_at(time_ms, self._act_of(body), order=int(kind))

    def _act_of(self, body: Command | Event) -> Callable[[], Awaitable[object] | None]:
        them = self.orchestrator
        match body:
            case NodeFailed(node_id):
                return lambda: them.handle_node_failure(node_id)
            case NodeRecovered(node_id):
                return lambda: them.handle_node_recovery(node_id)
            case Register(spec):
                return lambda: them.register_node(spec)
            case Decommission(node_id, drain):
                return lambda: them.decommission_node(node_id, drain)
            case Preempt(job_id, reason):
                return lambda: self._if_there(job_id, lambda: them.preempt_job(job_id, reason))
            case Cancel(job_id, reason):
                return lambda: self._if_there(job_id, lambda: them.cancel_job(job_id, reason))
            case Undrain(node_id):
                return lambda: self._stay(node_id)
            case Scale(job_id, workers):
                return lambda: self._if_there(job_id, lambda: them.scale_job(job_id, workers))
            case WorkersLost(job_id, _, reason):
                return lambda: self.runtime.lose(job_id, reason)
        raise ConfigurationError(f"a {type(body).__name__} of a live run cannot be replayed")

    async def _stay(self, node_id: str) -> None:
        """A node stays that was to leave; one that was empty sooner than the live one is back."""
        try:
            await self.orchestrator.undrain_node(node_id)
        except IllegalActionError:
            await self.orchestrator.register_node(self._nodes[node_id])

    async def _if_there(self, job_id: str, act: Callable[[], Awaitable[object]]) -> None:
        if job_id in self.orchestrator.jobs:
            await act()

    def submit(self, job: JobRecord, spec: JobSpec) -> None:
        """Have a job submitted when the live one was."""
        order = int(EventKind.ARRIVAL)
        self.clock.call_at(job.submit_ms, lambda: self.orchestrator.submit_job(spec), order=order)

    async def play(self, jobs: int, until_ms: int) -> LiveRecord:
        """Let time pass until all jobs have ended; what the log then tells."""
        await self.orchestrator.start()
        while self.clock.now_ms() < until_ms:
            await self.clock.advance_to(self.clock.now_ms() + _STEP_MS)
            known = self.orchestrator.jobs
            if len(known) == jobs and not self.orchestrator.engine.unended():
                break
        return recorded(self.log)


def replay(
    record: LiveRecord,
    fitted: FittedCosts,
    policy: Policy | Rule | None = None,
    *,
    declared: bool = True,
    in_specifications: bool = False,
) -> LiveRecord:
    """Simulate a live run.

    Parameters
    ----------
    record : LiveRecord
        Its jobs that have ended, when they were submitted, and what was done to it besides.
    fitted : FittedCosts
        What running jobs costs.
    policy : Policy, Rule or None, optional
        Who decides; None: who did, if the log says so, else the default of orchestrators.
    declared : bool, optional
        Jobs work for as long as they say (``duration_hours``); those that do not say, and all if
        False, for as long as they have in the live run.
    in_specifications : bool, optional
        Jobs are charged with costs by their specifications, which is all that environments know
        (:meth:`agents.live.fit.FittedCosts.priced`), and nothing else costs anything.

    Returns
    -------
    LiveRecord
        What the simulated cluster's log tells.
    """
    ended = {name: job for name, job in record.jobs.items() if job.end_ms is not None}
    if not ended:
        raise ConfigurationError("no job of the live run has ended; record a longer one")
    cluster = _Replay(record, FittedCosts({}) if in_specifications else fitted, policy)
    for job in ended.values():
        spec = simulated_spec(job, fitted, declared=declared)
        spec = fitted.priced(spec) if in_specifications else spec
        cluster.submit(job, spec)
    for time_ms, body in record.happenings:
        cluster.happen(time_ms, body)
    last_ms = max(job.end_ms or 0 for job in ended.values())
    until_ms = record.begin_ms + _LONGER * (last_ms - record.begin_ms) + 60 * _STEP_MS
    return asyncio.run(cluster.play(len(ended), until_ms))
