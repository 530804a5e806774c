"""The async shell: one live cluster.

Every command and every event goes into the consensus log first and is applied in the log's order;
the runtime then carries out the effects. Starting up is replaying the log: an orchestrator that
is made on a log with entries continues where they end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from orchestrator.clock import WallClock
from orchestrator.engine import Engine, Outcome
from orchestrator.foundations.journal import Journal
from orchestrator.foundations.keeper import CheckpointKeeper
from orchestrator.kernels.codes import NodeCode, Reason
from orchestrator.kernels.state import ClusterShape
from orchestrator.messages import (
    Command,
    Decommission,
    Event,
    NodeFailed,
    NodeRecovered,
    Preempt,
    Register,
    ReleaseNode,
    Scale,
    StopJob,
    Submit,
    WorkersLost,
)
from orchestrator.ports import (
    CheckpointManager,
    Clock,
    ConsensusEngine,
    FaultDetector,
    NodeHealth,
    Policy,
    Runtime,
    ShardManager,
)
from orchestrator.resources.status import checkpoint_status, cluster_status, job_status
from orchestrator.runtimes.simulated import SimulatedRuntime
from orchestrator.scheduler.cycle import SchedulingCycle
from orchestrator.scheduler.policy import RulePolicy
from orchestrator.scheduler.rules import RULES, Rule
from orchestrator.semantics import Semantics
from orchestrator.types import JobSpec, NodeSpec, TenantSpec

__all__ = ["DEFAULT_SHAPE", "InfrastructureOrchestrator"]

DEFAULT_SHAPE = ClusterShape(envs=1, jobs=4096, workers=64, nodes=256, devices=16, tenants=256)

_log = logging.getLogger(__name__)


class InfrastructureOrchestrator:
    """Runs jobs on nodes.

    Parameters
    ----------
    consensus_engine : ConsensusEngine
        The log of commands and events. If it has entries, they are replayed; the other arguments
        must then be those with which they were written.
    shard_manager : ShardManager
        Who is responsible for a job or node.
    fault_detector : FaultDetector
        Reports nodes that fail and come back.
    checkpoint_manager : CheckpointManager
        Metadata of saved jobs.
    runtime : Runtime or None
        Carries effects out; None: a simulated one on the same clock.
    clock : Clock or None
        Time; None: real time.
    policy : Policy, Rule or None
        Who decides; None: first come, first served, where later jobs may overtake one that does
        not fit.
    shape : ClusterShape or None
        Capacities; None: ``DEFAULT_SHAPE``.
    nodes : sequence of NodeSpec
        Machines that are there from the beginning, without being registered.
    semantics : Semantics or None
        What is legal; None: the defaults.
    tenants : sequence of TenantSpec
        Who is entitled to what.
    seed : int
        Seed of random placements and orders.
    schedule_on_events : bool
        Schedule by itself, once everything of an instant has happened. Otherwise only
        :meth:`schedule` does, and :meth:`handle_node_failure`.
    review_ms : int or None
        With ``schedule_on_events``: how long a preempted job that nothing else happens to waits
        for its next chance; None: until something happens.
    check : bool
        Check the invariants after every transition (slow).
    """

    def __init__(
        self,
        consensus_engine: ConsensusEngine,
        shard_manager: ShardManager,
        fault_detector: FaultDetector,
        checkpoint_manager: CheckpointManager,
        *,
        runtime: Runtime | None = None,
        clock: Clock | None = None,
        policy: Policy | Rule | None = None,
        shape: ClusterShape | None = None,
        nodes: Sequence[NodeSpec] = (),
        semantics: Semantics | None = None,
        tenants: Sequence[TenantSpec] = (),
        seed: int = 0,
        schedule_on_events: bool = False,
        review_ms: int | None = 1000,
        check: bool = False,
    ) -> None:
        self.consensus = consensus_engine
        self.shards = shard_manager
        self.faults = fault_detector
        self.checkpoints = checkpoint_manager
        self.clock: Clock = WallClock() if clock is None else clock
        self.runtime: Runtime = SimulatedRuntime(self.clock) if runtime is None else runtime
        self.engine = Engine(
            shape or DEFAULT_SHAPE,
            nodes=nodes,
            semantics=semantics,
            tenants=tenants,
            seed=seed,
            check=check,
        )
        self.jobs: dict[str, JobSpec] = self.engine.jobs.specs
        self.nodes: dict[str, NodeSpec] = self.engine.nodes.specs
        self._reconciled = False
        self._cycle = SchedulingCycle(
            self.engine,
            self.clock,
            _policy_of(policy),
            self._propose,
            on_events=schedule_on_events,
            review_ms=review_ms,
        )
        self._keeper = CheckpointKeeper(checkpoint_manager)
        self._journal = Journal(consensus_engine, self.engine, self.clock, self._carry_out)
        self.runtime.bind(self._on_event)
        self.faults.subscribe(self._on_health)

    @property
    def policy(self) -> Policy:
        """Who decides. Set it, to a policy or a rule, to have somebody else decide from now on."""
        return self._cycle.policy

    @policy.setter
    def policy(self, policy: Policy | Rule) -> None:
        self._cycle.policy = _policy_of(policy)

    # --- jobs ----------------------------------------------------------------------------------

    async def submit_job(self, job: JobSpec) -> str:
        """Submit a job for scheduling; its identity.

        Raises
        ------
        ValidationError
            If the id is taken, or the cluster can never hold the job.
        CapacityError
            If all jobs that there may be wait or run.
        """
        await self._propose(Submit(job))
        await self._cycle.react()
        return job.job_id

    async def preempt_job(self, job_id: str, reason: str) -> bool:
        """Checkpoint a running job, then put it back into the queue.

        Returns
        -------
        bool
            False if the job is not running, or may not be preempted (now).

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        """
        outcome = await self._propose(Preempt(job_id, reason))
        await self._cycle.react()
        if outcome.reason != Reason.OK:
            _log.info("job '%s' was not preempted: %s", job_id, outcome.reason.name.lower())
        return outcome.reason == Reason.OK

    async def scale_job(self, job_id: str, new_worker_count: int) -> bool:
        """Give a running elastic job, or service, another number of workers.

        It is not restarted: the workers that stay go on from where they are.

        Returns
        -------
        bool
            False if the job is not running, is not elastic, or cannot have so many workers (now).

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        """
        outcome = await self._propose(Scale(job_id, new_worker_count))
        await self._cycle.react()
        if outcome.reason != Reason.OK:
            _log.info("job '%s' was not scaled: %s", job_id, outcome.reason.name.lower())
        return outcome.reason == Reason.OK

    async def schedule(self) -> list[tuple[str, str]]:
        """Run a scheduling cycle: ask the policy until it waits.

        Returns
        -------
        list of (str, str)
            (job, node) for every worker that was started, in order.
        """
        await self.start()  # may run a cycle by itself
        started = await self._cycle.run(review=True)
        return [(job.job_id, worker.node_id) for job in started for worker in job.workers]

    # --- nodes ---------------------------------------------------------------------------------

    async def register_node(self, node: NodeSpec) -> bool:
        """Register a new node, or one that was down or had left, perhaps with other hardware.

        Raises
        ------
        ValidationError, CapacityError
            If a node of that id is in service, or there is no room for another one.
        """
        await self._propose(Register(node))
        self._trust(node.node_id)
        await self._cycle.react()
        return True

    async def decommission_node(self, node_id: str, drain: bool = True) -> bool:
        """Take a node out of service.

        With ``drain`` its jobs are checkpointed first; it leaves when the last one is saved. Jobs
        on other nodes are not touched. Without, they fall back to their last checkpoints.

        Returns
        -------
        bool
            False if the node had left, or was leaving already.
        """
        await self.start()
        self.engine.check(Decommission(node_id))
        code = self.engine.nodes.code(node_id)
        await self._propose(Decommission(node_id, drain))
        await self._cycle.react()
        return code in (NodeCode.UP, NodeCode.DOWN) or (code == NodeCode.DRAINING and not drain)

    async def handle_node_failure(self, node_id: str) -> dict[str, Any]:
        """A node has failed: its jobs fall back to their last checkpoints and queue again.

        Returns
        -------
        dict
            ``node_id``, ``time_ms``; ``interrupted_jobs`` (list); by job, ``checkpoints`` from
            which they resume (None: from the beginning) and ``lost_work_ms``; ``rescheduled``,
            (job, node) pairs as :meth:`schedule` returns them (with ``schedule_on_events`` that
            happens after this call).
        """
        outcome = await self._propose(NodeFailed(node_id))
        stops = [effect for effect in outcome.effects if isinstance(effect, StopJob)]
        latest = {stop.job_id: self.checkpoints.latest(stop.job_id) for stop in stops}
        report = {
            "node_id": node_id,
            "time_ms": self.engine.now_ms,
            "interrupted_jobs": list(latest),
            "checkpoints": {job_id: checkpoint_status(last) for job_id, last in latest.items()},
            "lost_work_ms": {stop.job_id: stop.lost_ms for stop in stops},
            "rescheduled": [],
        }
        if node_id in self.nodes:
            await self.faults.report(node_id)
        if self._cycle.on_events:
            await self._cycle.react()
        else:
            report["rescheduled"] = await self.schedule()
        return report

    async def handle_node_recovery(self, node_id: str) -> bool:
        """A node that had failed is back, as it was and empty; False if it was not down."""
        await self.start()
        self.engine.check(NodeRecovered(node_id))
        down = self.engine.nodes.code(node_id) == NodeCode.DOWN
        await self._propose(NodeRecovered(node_id))
        self._trust(node_id)
        await self._cycle.react()
        return down

    def _trust(self, node_id: str) -> None:
        """A node that was taken for dead is back by word of mouth: wait for its next heartbeat."""
        if node_id in self.faults.suspects():
            self.faults.forget(node_id)

    # --- status --------------------------------------------------------------------------------

    def get_cluster_status(self) -> dict[str, Any]:
        """What is going on: see :func:`orchestrator.resources.status.cluster_status`."""
        return {
            **cluster_status(self.engine, self.clock.now_ms(), self.shards),
            "suspects": list(self.faults.suspects()),
            "log_entries": self._journal.applied,
        }

    def get_job_status(self, job_id: str) -> dict[str, Any]:
        """What is known of a job: see :func:`orchestrator.resources.status.job_status`."""
        now_ms = self.clock.now_ms()
        return job_status(self.engine, now_ms, job_id, self.checkpoints, self.shards)

    # --- the log -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Compare what should run with what does, before anything else is done.

        Jobs whose workers are gone fall back to their last checkpoints; workers that should not
        exist are stopped. The first command or event does this too.
        """
        if self._reconciled:
            return
        self._reconciled = True
        placed, observed = self.engine.placed(), self.runtime.observe()
        self.runtime.carry_out(
            [
                StopJob(job_id, run, "not expected at start-up", 0)
                for job_id, run in observed.items()
                if placed.get(job_id) != run
            ]
        )
        for job_id, run in placed.items():
            if observed.get(job_id) != run:
                await self._propose(WorkersLost(job_id, run, "not found at start-up"))
        if self.engine.undecided:
            await self._cycle.react()

    async def _propose(self, body: Command | Event) -> Outcome:
        """Log and apply; what came of it. Raises if it makes no sense."""
        await self.start()
        return await self._journal.propose(body)

    def _carry_out(self, outcome: Outcome) -> None:
        self._keeper.note(outcome, self.engine.now_ms)
        for effect in outcome.effects:
            if isinstance(effect, ReleaseNode):
                self.faults.forget(effect.node_id)
        self.runtime.carry_out(outcome.effects)

    # --- what is reported ------------------------------------------------------------------------

    async def _on_event(self, event: Event) -> None:
        """The runtime reports something."""
        if self.engine.is_current(event):
            await self._propose(event)
            await self._cycle.react()

    async def _on_health(self, health: NodeHealth) -> None:
        """The fault detector has changed its mind about a node."""
        if health.node_id not in self.nodes:
            return
        code = self.engine.nodes.code(health.node_id)
        if health.alive and code == NodeCode.DOWN:
            await self.handle_node_recovery(health.node_id)
        elif not health.alive and code in (NodeCode.UP, NodeCode.DRAINING):
            await self.handle_node_failure(health.node_id)


def _policy_of(policy: Policy | Rule | None) -> Policy:
    rule = RULES["fcfs"] if policy is None else policy
    return RulePolicy(rule) if isinstance(rule, Rule) else rule
