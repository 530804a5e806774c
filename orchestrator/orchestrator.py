"""The async shell: one live cluster.

Every command and every event goes into the consensus log first and is applied in the log's order;
the runtime then carries out the effects. Starting up is replaying the log: an orchestrator that
is made on a log with entries continues where they end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.autoscaler.fleet import ORDER_AGE_S, FleetController, FleetScaler
from orchestrator.autoscaler.services import RateForecasting, ServiceWatch
from orchestrator.autoscaler.ticks import Ticks
from orchestrator.clock import LogClock, WallClock
from orchestrator.engine.engine import Engine, Outcome
from orchestrator.happenings import ANNOUNCED, Happenings
from orchestrator.kernels.state.codes import JobCode, NodeCode, Reason
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.live.crashes import CrashLoops
from orchestrator.live.cycle import AskAside, SchedulingCycle, ask_here
from orchestrator.live.deadlines import SaveDeadlines
from orchestrator.live.journal import Journal, settings_in
from orchestrator.live.limits import TimeLimits
from orchestrator.live.outbox import CheckpointKeeper, Outbox, Places
from orchestrator.live.retry import Inbox, Managers, Persistent, Reports, Watch, check_health
from orchestrator.live.settings import Settings
from orchestrator.live.takeover import Wanted, lost_workers, observe, unfinished
from orchestrator.mesh.mesh import ServiceMesh, Transport
from orchestrator.mesh.replicas import ReplicaRegistry
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.messages import (
    Cancel,
    Command,
    Configure,
    Decommission,
    Effect,
    Entry,
    Event,
    MigrateJob,
    NodeFailed,
    NodeRecovered,
    Preempt,
    Register,
    ReleaseNode,
    Scale,
    Submit,
    Undrain,
    WorkersLost,
)
from orchestrator.metrics import OrchestratorMetrics
from orchestrator.ports import (
    CheckpointManager,
    Clock,
    ConsensusEngine,
    FaultDetector,
    Fenced,
    NodeHealth,
    Policy,
    Provisioner,
    Runtime,
    Serving,
    ShardManager,
    WorkloadManager,
)
from orchestrator.questions.interface import Questions
from orchestrator.runtimes.simulated import SimulatedRuntime
from orchestrator.scheduling.rules import Rule, RulePolicy, Scheduler, policy_of
from orchestrator.semantics import Semantics
from orchestrator.status import (
    Owners,
    failure_report,
    load_answers,
    warn_of_devices,
)
from orchestrator.twin.aside import Here, Thinker, TwinProcess
from orchestrator.types import JobSpec, NodeSpec, ScalingDecision, ScalingDirection, TenantSpec

__all__ = ["DEFAULT_SHAPE", "InfrastructureOrchestrator"]


DEFAULT_SHAPE = ClusterShape(envs=1, jobs=4096, workers=64, nodes=256, devices=16, tenants=256)


_log = logging.getLogger(__name__)


class InfrastructureOrchestrator(Questions):
    """Runs jobs on nodes.

    Parameters
    ----------
    consensus_engine : ConsensusEngine
        The log of commands and events. If it has entries, they are replayed, under the settings
        that they were written with: these are in the log. Other ``semantics`` and ``tenants``, a
        larger ``shape`` and new ``nodes`` hold from then on, by an entry of their own. Who has
        called :meth:`start` last, or acted first since it was made, leads; nobody else acts.
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
    policy : Policy, Rule, Scheduler or None
        Who decides; None: the rule that was set last, by the log, or else a
        :class:`orchestrator.scheduling.rules.Scheduler` as it is by default: more important
        classes are served first and preempt others; within a class it is first come, first
        served, and who does not fit is overtaken by those who do not delay it.
    shape : ClusterShape or None
        Capacities; None: those of the log, or ``DEFAULT_SHAPE``.
    nodes, semantics, tenants, seed, check
        See :class:`orchestrator.engine.engine.Engine`.
    schedule_on_events, review_ms
        See :class:`orchestrator.live.cycle.SchedulingCycle`. If it does not run by itself,
        only :meth:`schedule` does, and :meth:`handle_node_failure`.
    decide_after_ms : int
        With ``schedule_on_events``: how long after something happened the policy is asked, about
        that and all that has happened by then. Simulations have it be as slow as a live cluster.
    save_grace_ms : int
        How much longer than expected saving a job may take; see
        :class:`orchestrator.live.deadlines.SaveDeadlines`.
    time_limit_grace_s : float or None
        Seconds for which a job may go on when it has had its ``max_duration_hours`` and was warned;
        None: jobs have no limit. See :class:`orchestrator.live.limits.TimeLimits`.
    autoscaler, provisioner, order_age_s
        See :class:`orchestrator.autoscaler.fleet.FleetController`.
    forecasting
        Of services' rates, for policies that size them; see
        :class:`orchestrator.autoscaler.services.ServiceWatch`.
    mesh, transport
        See :class:`orchestrator.mesh.replicas.ReplicaRegistry`; with the default of ``runtime``,
        or another simulated one, replicas are simulated too; a runtime that is ``Serving`` says
        where real ones answer, by HTTP. Replicas of services that get
        requests are probed; a mesh of your own says how. ``orchestrator.mesh.add_service``
        gives a service other rules than the defaults; the log keeps them. Health that was set is
        not kept: it is found out anew.
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
        policy: Policy | Rule | Scheduler | None = None,
        shape: ClusterShape | None = None,
        nodes: Sequence[NodeSpec] = (),
        semantics: Semantics | None = None,
        tenants: Sequence[TenantSpec] = (),
        seed: int = 0,
        schedule_on_events: bool = False,
        review_ms: int | None = 1000,
        decide_after_ms: int = 0,
        save_grace_ms: int = 60_000,
        time_limit_grace_s: float | None = 300.0,
        check: bool = False,
        autoscaler: FleetScaler | None = None,
        provisioner: Provisioner | None = None,
        order_age_s: float = ORDER_AGE_S,
        forecasting: RateForecasting | None = None,
        mesh: ServiceMesh | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.consensus = consensus_engine
        self.shards, self._owners = shard_manager, Owners(shard_manager)
        self.faults = fault_detector
        self.checkpoints = checkpoint_manager
        self.clock: Clock = WallClock() if clock is None else clock
        self._time = LogClock(self.clock)
        self.runtime: Runtime = SimulatedRuntime(self._time) if runtime is None else runtime
        self._wanted = Wanted(
            shape, tuple(nodes), semantics, tuple(tenants), awaits_order=provisioner is not None
        )
        begin = settings_in(consensus_engine) or self._wanted.founding(DEFAULT_SHAPE, seed)
        self.engine = Engine.of(begin, check=check)
        timing = schedule_on_events, review_ms, decide_after_ms
        self._cycle = self._new_cycle(policy_of(policy), *timing)
        self._keeper = CheckpointKeeper(checkpoint_manager)
        self._places = Places()
        self._outbox = Outbox(self.runtime, self._time, self._places, may_act=lambda: self.leads)
        simulated = isinstance(self.runtime, SimulatedRuntime)
        serving = self.runtime if isinstance(self.runtime, Serving) else None
        self._replicas = ReplicaRegistry(
            self._time, mesh, transport, simulated=simulated, serving=serving
        )
        self.mesh = self._replicas.mesh
        self.metrics = OrchestratorMetrics(self.engine, self._replicas.counts)
        scaler = autoscaler, provisioner, self.metrics.scaling, self._rule
        self._fleet = FleetController(self.engine, self._time, *scaler, order_age_s=order_age_s)
        self._hear(save_grace_ms, time_limit_grace_s)
        looks = self.engine, self._time, self.mesh, self._managers.sizing_of
        watch = ServiceWatch(*looks, forecasting)
        self._ticks = Ticks(self.engine, self._cycle, watch, self._fleet, self._propose)
        self._read_log()
        self._listen(own_policy=policy is None)

    def _hear(self, save_grace_ms: int, time_limit_grace_s: float | None) -> None:
        """Have somebody for all that is reported, or is not reported in time."""
        self._managers = Managers()
        self._asking = asyncio.Lock()  # questions to the twin, one at a time
        self._thinker: Thinker = TwinProcess() if isinstance(self.clock, WallClock) else Here()
        self._watch = Watch(self.faults)
        self._keeping = Persistent("noting checkpoints", self._keeper.flush, self._time)
        self._inbox = Inbox(self._take_report, self._time, lambda event: event.job_id)
        self._health = Inbox(self._take_health, self._time)
        reports = Reports(self.engine, self._time, self._inbox.deliver)
        self._crashes = CrashLoops(reports)
        self._saves = SaveDeadlines(reports, save_grace_ms)
        self._limits = TimeLimits(reports, time_limit_grace_s, self._places.late)
        self._fleet.bind(self._join_rented)
        self._settings = Settings(self._time, (), lambda body: self._journal.propose(body))

    def _new_cycle(
        self, policy: Policy, on_events: bool, review_ms: int | None, delay_ms: int
    ) -> SchedulingCycle:
        return SchedulingCycle(
            self.engine,
            self._time,
            policy,
            self._propose,
            on_events=on_events,
            review_ms=review_ms,
            fallback=policy_of(None),
            may_act=lambda: self.leads,
            ask=AskAside() if isinstance(self.clock, WallClock) else ask_here,
            delay_ms=delay_ms,
        )

    def _read_log(self) -> None:
        """Become what the log says; raises if the settings cannot be those of its cluster."""
        self._leading = self._reconciled = False
        self._token = 0
        self._happenings = Happenings(self.engine)
        self._starting = asyncio.Lock()
        self._journal = Journal(
            self.consensus,
            self.engine,
            self._time,
            self._carry_out,
            self._observe,
            kept={
                "crashes": self._crashes,
                "metrics": self.metrics,
                "places": self._places,
                "replicas": self._replicas,
                "settings": self._settings,
            },
            settled=self._is_settled,
        )
        self._time.not_before(self.engine.now_ms)
        self._wanted.check(self.engine)
        self._taking_over = Persistent("taking over", self._reconcile, self._time)

    def _listen(self, *, own_policy: bool) -> None:
        """Hear of jobs and settings that are there already, of events and of nodes' health."""
        self._replicas.declare(*(self.jobs[job_id] for job_id in self.engine.unended()))
        for rules in self._settings.of("service"):
            if isinstance(rules, ServiceSpec):
                self._replicas.restore(rules)
        for rule in self._settings.of("policy") if own_policy else ():
            if isinstance(rule, Rule):
                self._cycle.policy = policy_of(rule)
        self.mesh.subscribe(self._on_rules)
        self.runtime.bind(self._hear_runtime)
        self.faults.subscribe(self._health.deliver)

    @property
    def leads(self) -> bool:
        """Whether it leads the log; if not, somebody else does, and it changes nothing."""
        return self._journal.leads

    @property
    def policy(self) -> Policy:
        """Who decides. Set it, to a policy or a rule, to have somebody else decide from now on.

        A rule is kept in the log: it decides after a restart too, unless that is given a policy.
        A policy of another kind is not; give it again.
        """
        return self._cycle.policy

    @policy.setter
    def policy(self, policy: Policy | Rule | Scheduler) -> None:
        chosen = policy_of(policy)
        self._cycle.policy = chosen
        self._settings.note("policy", chosen.rule if isinstance(chosen, RulePolicy) else None)

    def _on_rules(self, service: str, spec: ServiceSpec | None) -> None:
        if spec is None or not self._replicas.is_default(spec):
            self._settings.note(f"service:{service}", spec)

    # --- jobs ----------------------------------------------------------------------------------

    async def submit_job(self, job: JobSpec) -> str:
        """Submit a job for scheduling; its identity.

        Raises
        ------
        ValidationError
            If the id is taken, or neither the nodes that there are nor those that the provisioner
            delivers will ever hold the job.
        CapacityError
            If all jobs that there may be wait or run.
        """
        if self._journal.applied > 0:  # a log does not begin for what is refused
            await self.start()
        job = self._managers.admit(job, self.policy, self.runtime)
        await self._propose(Submit(job, self._fleet.needs_order(job)))
        self._replicas.declare(job)
        await self._cycle.react()
        return job.job_id

    def check_job(self, job: JobSpec) -> None:
        """Raise what :meth:`submit_job` would raise for a job now; nothing is submitted."""
        self.engine.check(Submit(job, self._fleet.needs_order(job)))

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
        return await self._is_done(
            job_id, "preempted", await self._propose(Preempt(job_id, reason))
        )

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
        return await self._is_done(job_id, "scaled", outcome)

    async def migrate_job(self, job_id: str) -> bool:
        """Move a running job to a tighter place: saved where it is, started again where it goes.

        False if it is not running, may not be moved (now), or has no tighter place.
        """
        await self.start()
        self.engine.jobs.index.find(job_id)
        return await self._is_done(job_id, "moved", await self._cycle.act(MigrateJob(job_id)))

    async def _is_done(self, job_id: str, what: str, outcome: Outcome) -> bool:
        await self._cycle.react()
        if outcome.reason != Reason.OK:
            _log.info("job '%s' was not %s: %s", job_id, what, outcome.reason.name.lower())
        return outcome.reason == Reason.OK

    async def cancel_job(self, job_id: str, reason: str = "") -> bool:
        """End a job that has not ended: it is not saved, and does not come back.

        Its workers, if it has any, are told to end, and are killed after the runtime's grace. Its
        last checkpoint stays. It counts as failed, with the reason ``cancelled: ...`` and no exit
        code.

        Returns
        -------
        bool
            False if the job had ended.

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        """
        await self.start()
        ended = self.engine.jobs.code(job_id) in (JobCode.COMPLETED, JobCode.FAILED)
        outcome = Outcome() if ended else await self._propose(Cancel(job_id, reason))
        await self._cycle.react()
        return not ended and outcome.reason == Reason.OK

    async def schedule(self) -> list[tuple[str, str]]:
        """Run a scheduling cycle: ask the policy until it waits.

        Returns
        -------
        list of (str, str)
            (job, node) for every worker that was started, in order.
        """
        await self.start()  # may run a cycle by itself
        return await self._cycle.run(review=True)

    # --- nodes ---------------------------------------------------------------------------------

    async def register_node(self, node: NodeSpec) -> bool:
        """Register a new node, or one that was down or had left, perhaps with other hardware.

        Raises
        ------
        ValidationError, CapacityError
            If a node of that id is in service, or there is no room for another one.
        """
        await self._join(Register(node))
        return True

    async def _join_rented(self, node: NodeSpec) -> None:
        await self._join(Register(node, rented=True))

    async def _join(self, register: Register) -> None:
        await self._propose(register)
        self._watch.trust(register.spec.node_id)
        warn_of_devices([register.spec], self.runtime)
        await self._cycle.react()

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
        code = self.engine.nodes.code(node_id)
        await self._propose(Decommission(node_id, drain))
        await self._cycle.react()
        return code in (NodeCode.UP, NodeCode.DOWN) or (code == NodeCode.DRAINING and not drain)

    async def undrain_node(self, node_id: str) -> bool:
        """A node that was to leave stays: jobs may be placed there again.

        Jobs that were saved because of it, or are just being saved, stay in the queue.

        Returns
        -------
        bool
            False if the node was not to leave.

        Raises
        ------
        UnknownEntityError
            If there is no such node.
        IllegalActionError
            If it has left by now: :meth:`register_node` brings it back.
        """
        await self.start()
        drains = self.engine.nodes.code(node_id) == NodeCode.DRAINING
        await self._propose(Undrain(node_id))
        await self._cycle.react()
        return drains

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
        return await self._fail_node(node_id)

    async def _fail_node(self, node_id: str, seen_ms: int = -1) -> dict[str, Any]:
        outcome = await self._propose(NodeFailed(node_id, seen_ms))
        report = failure_report(self.engine, node_id, outcome, self.checkpoints)
        if node_id in self.nodes:
            await self._watch.report(node_id)
        if self._cycle.on_events:
            await self._cycle.react()
        else:
            report["rescheduled"] = await self.schedule()
        return report

    async def handle_node_recovery(self, node_id: str) -> bool:
        """A node that had failed is back, as it was and empty; False if it was not down."""
        await self.start()
        down = self.engine.nodes.code(node_id) == NodeCode.DOWN
        await self._propose(NodeRecovered(node_id))
        self._watch.trust(node_id)
        await self._cycle.react()
        return down

    # --- capacity and services -----------------------------------------------------------------

    async def auto_scale_cluster(self) -> ScalingDecision:
        """Compare demand (what jobs hold and wait for) with capacity; order or drain nodes.

        What it takes to let in who waits is rehearsed on a copy of the cluster. What changes the
        cluster is in its log: nodes that arrive are registered, and of those that were ordered, the
        ones that cost least to empty are decommissioned, if all of their work fits elsewhere.
        """
        await self.start()
        self._journal.require_lead()
        self._replicas.refresh(self._watch.suspects())
        decision = await self._ticks.offer()
        if decision is None:
            decision = await self._fleet.scale(self.decommission_node, self.scale_job)
        await self._managers.review()
        if decision.direction != ScalingDirection.NONE:
            self._settings.note("scaling", decision)
        return decision

    async def announce(self, kind: str, what: str, reason: str = "", **details: Any) -> None:
        """Have something told to all who follow, and kept in the log: see :meth:`follow`.

        Parameters
        ----------
        kind, what, reason : str
            See :class:`orchestrator.happenings.Happening`.
        **details : object
            More: plain values, and lists and dicts of these.
        """
        told = {**details, "what": what, "reason": reason}
        await self._propose(Configure(f"{ANNOUNCED}:{kind}", told))

    def manage(self, *managers: WorkloadManager) -> None:
        """Have managers see every job that is submitted, and review theirs whenever it is scaled.

        They are clients of this interface, and not in the log: after a restart, give them again.
        """
        self._managers.add(*managers)

    # --- the log -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over the log and make the runtime agree with it.

        The first command or event does this too. From then on whoever led before does not act any
        more: see :class:`orchestrator.NotLeaderError`.
        """
        if self._leading:
            return
        async with self._starting:
            if not self._leading:
                await self._take_over()

    def lead_by(self, token: int, require_lease: Callable[[], object]) -> None:
        """Lead as long as a lease is held, and no longer; to be said before :meth:`start`.

        Parameters
        ----------
        token : int
            Of the lease: whoever has led by a later one is not followed by this orchestrator.
        require_lease : callable
            Raises a :class:`NotLeaderError` once the lease may be somebody else's; asked before
            every entry and every effect.
        """
        self._token, self._journal.require_lease = token, require_lease

    async def stop(self) -> None:
        """Act no more, for good; what is on its way into the log gets there first.

        Runtime and log are not closed: they are whose they were.
        """
        await self._journal.resign()
        self._happenings.close()
        self._saves.stop()
        self._limits.stop()
        await self._replicas.prober.stop()
        await self._thinker.close()

    async def _take_over(self) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"
        await self._journal.lead(name, self._token)
        self._time.not_before(self.engine.now_ms)
        self._doubtful, self._seen_ms = self._journal.doubtful, self.engine.now_ms
        await self._wanted.settle(
            self.engine, self._journal.propose, known=self._journal.established
        )
        self._leading = True
        await self._taking_over.run()
        warn_of_devices(self.nodes.values(), self.runtime)
        self._saves.start()
        self._limits.arm()
        if isinstance(self.clock, WallClock):
            await asyncio.to_thread(load_answers, self._known_rule())
        await self._cycle.resume()

    def _fence(self) -> None:
        """Have a runtime that can tell leaders apart know whose orders come next."""
        if isinstance(self.runtime, Fenced):
            self.runtime.fence(self._journal.term, self._journal.applied)

    async def _reconcile(self) -> None:
        """Have done what was logged and not done, and say who is gone."""
        self._fence()
        self.runtime.bind(self._hear_runtime)
        self._fleet.bind(self._join_rented)
        observed = observe(self.runtime, self.engine)
        effects = unfinished(self.engine, observed, self._doubtful)
        gone = lost_workers(self.engine, observed, effects, self._seen_ms)
        for outcome in self._doubtful:
            self._keeper.note(outcome, self.engine.now_ms)
        self._keeping.run_now()
        self._give_back(effects)
        self._outbox.send(effects)
        self._reconciled, self._doubtful = True, ()
        # A detector that is new here has to hear who is down: otherwise their heartbeats say that
        # nothing has changed, and they never come back.
        for node_id in self.nodes:
            if self.engine.nodes.code(node_id) == NodeCode.DOWN:
                await self._watch.report(node_id)
        for event in gone:
            await self._crashes.hear(event)

    def _is_settled(self) -> bool:
        """Whether all effects of what was logged were carried out."""
        waits = len(self._outbox) or len(self._keeper)
        return self._reconciled and not waits and self._fleet.all_returned

    async def _propose(self, body: Command | Event) -> Outcome:
        """Log and apply; what came of it. Raises if it makes no sense."""
        if self._journal.applied == 0:
            self.engine.check(body)  # a log does not begin for what is refused
        await self.start()
        await self._settings.flush()
        outcome = await self._journal.propose(body)
        await self._ticks.change_fleet(outcome.nodes)
        return outcome

    def _observe(self, at: int, entry: Entry, outcome: Outcome) -> None:
        self._happenings.note(at, entry, outcome)
        self.metrics.note(outcome)
        self._replicas.note(outcome, self.engine)
        self._settings.read(entry)
        self._crashes.note(entry, outcome)
        self._places.note(entry, outcome)
        self._owners.note(entry, outcome)

    def _carry_out(self, outcome: Outcome) -> None:
        self._keeper.note(outcome, self.engine.now_ms)
        self._keeping.run_now()
        self._saves.note(outcome)
        self._limits.note(outcome)
        self._give_back(outcome.effects)
        if outcome.effects:
            self._fence()
            self._outbox.send(outcome.effects)
        self._cycle.note(outcome)

    def _give_back(self, effects: Sequence[Effect]) -> None:
        """Nodes that have left are not watched any more, and go where they came from."""
        gone = [effect.node_id for effect in effects if isinstance(effect, ReleaseNode)]
        for node_id in gone:
            self._watch.forget(node_id)
        self._fleet.left(gone)

    # --- what is reported ------------------------------------------------------------------------

    async def _hear_runtime(self, event: Event) -> object:
        """The runtime reports something; False: it is not in the log, or not yet."""
        if isinstance(event, WorkersLost) and isinstance(event.seen_ms, int):
            event = replace(event, seen_ms=self._time.of(event.seen_ms))
        return await self._crashes.hear(event)

    async def _take_report(self, event: Event) -> None:
        """Something is reported of a job."""
        self._journal.read()
        if self.engine.is_current(event):
            await self._propose(event)
            await self._cycle.react()

    async def _take_health(self, health: NodeHealth) -> None:
        """The fault detector has changed its mind about a node; so has whoever leads, perhaps."""
        check_health(health)
        self._journal.read()
        if health.node_id not in self.nodes:
            if not health.alive:
                self._watch.forget(health.node_id)  # a stranger, who has fallen silent
            return
        code = self.engine.nodes.code(health.node_id)
        if health.alive and code == NodeCode.DOWN:
            await self.handle_node_recovery(health.node_id)
        elif not health.alive and code in (NodeCode.UP, NodeCode.DRAINING):
            await self._fail_node(health.node_id, self._time.of(health.seen_ms))
