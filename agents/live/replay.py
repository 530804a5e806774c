"""A recorded run again, in virtual time: the same jobs, arrivals and misfortunes, simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.live.fit import FittedCosts, can_save, fit_costs, work_done_ms
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
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.types import JobSpec

__all__ = ["PolicyOutcome", "compare", "outcome_of", "replay", "simulated_spec"]


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


# --- under another policy ------------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyOutcome:
    """How the jobs of a recorded run fared.

    Parameters
    ----------
    name : str
        Who decided.
    jobs : int
        That have ended.
    wait_s, completion_s, late_s, slowdown : float
        Means over jobs of the time until the first start, until the end, and of the bounded
        slowdown; ``late_s``: the 95th percentile of the time until the end.
    preemptions : int
        Runs that were saved, or not, for the sake of others.
    sooner, later : int
        Jobs that ended more than a second sooner, or later, than in what this is compared with.
    """

    name: str
    jobs: int
    wait_s: float
    completion_s: float
    late_s: float
    slowdown: float
    preemptions: int
    sooner: int = 0
    later: int = 0


def outcome_of(name: str, record: LiveRecord, beside: LiveRecord | None = None) -> PolicyOutcome:
    """How the jobs of a run fared that have ended; ``beside``: the one it is compared with."""
    ended = {key: job for key, job in record.jobs.items() if job.end_ms is not None and job.runs}
    submits = np.array([job.submit_ms for job in ended.values()], np.float64)
    starts = np.array([job.start_ms for job in ended.values()], np.float64)
    ends = np.array([job.end_ms for job in ended.values()], np.float64)
    ran = np.array([_run_ms(job) for job in ended.values()], np.float64)
    bound_ms = 1000 * record.settings.semantics.slowdown_bound_seconds
    slowdown = np.maximum((ends - submits) / np.maximum(ran, bound_ms), 1.0)
    before = {} if beside is None else beside.jobs
    moved = [
        (job.end_ms or 0) - (before[key].end_ms or 0)
        for key, job in ended.items()
        if key in before and before[key].end_ms is not None
    ]
    return PolicyOutcome(
        name=name,
        jobs=len(ended),
        wait_s=float((starts - submits).mean()) / 1000,
        completion_s=float((ends - submits).mean()) / 1000,
        late_s=float(np.quantile(ends - submits, 0.95)) / 1000,
        slowdown=float(slowdown.mean()),
        preemptions=sum(run.asked_ms is not None for job in ended.values() for run in job.runs),
        sooner=sum(apart < -1000 for apart in moved),
        later=sum(apart > 1000 for apart in moved),
    )


def _run_ms(job: JobRecord) -> int:
    return sum((run.end_ms or run.begin_ms) - run.begin_ms for run in job.runs)


def compare(record: LiveRecord, rules: Sequence[str]) -> list[PolicyOutcome]:
    """Would it have gone better under another rule? The run simulated under each.

    Jobs come as they did, work as long as they did, and nodes are lost when they were; costs are
    those of the log, or none where no job tells them.

    Parameters
    ----------
    record : LiveRecord
    rules : sequence of str
        Names of rules.

    Returns
    -------
    list of PolicyOutcome
        Of the live run; of the same simulated (where a learned policy was in charge: under the
        rule that it falls back to); and under each rule, compared with that.
    """
    chosen = {name: rule_named(name) for name in rules}
    try:
        fitted = fit_costs(record)
    except ConfigurationError:
        fitted = FittedCosts({})
    same = replay(record, fitted, declared=False)
    who = "the default rule" if record.rule is None else record.rule.name
    found = [outcome_of("live", record), outcome_of(f"simulated: {who}", same, record)]
    for name, rule in chosen.items():
        found.append(outcome_of(name, replay(record, fitted, rule, declared=False), same))
    return found
