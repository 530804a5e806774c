"""The sans-IO engine: commands and events in, effects out.

It owns one row of cluster state and is the only caller of the kernels' transitions when live. It
knows no clock, no network and no coroutine: the same entries in the same order give the same
state, effects and event-log hash, which is all that recovery needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import orchestrator.engine.copies  # noqa: F401  states, and engines, are copied with their memory
from orchestrator.engine.checks import MOST_SERVICES, check_message
from orchestrator.engine.effects import EffectReader, placements
from orchestrator.engine.history import History, JobNote
from orchestrator.engine.plans import PlanExecutor, late_workers, short_jobs
from orchestrator.engine.records import ShownFleet, check_quotas, tenant_records
from orchestrator.engine.snapshot import Snapshot
from orchestrator.engine.tables import JobTable, NodeTable, TableImage
from orchestrator.errors import QuartermasterError, ValidationError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.change import events as live
from orchestrator.kernels.run import rows as kernels
from orchestrator.kernels.state.codes import (
    NO_JOB,
    EventKind,
    JobCode,
    Reason,
    Status,
)
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.messages import (
    Action,
    Cancel,
    CheckpointCommitted,
    Command,
    Configure,
    Decide,
    Decommission,
    Effect,
    Entry,
    Establish,
    Event,
    JobOverdue,
    Lead,
    NodeFailed,
    NodeRecovered,
    Plan,
    Preempt,
    PreemptJob,
    Register,
    ReleaseNode,
    ResizeJob,
    Review,
    Scale,
    ScaleFleet,
    StopReason,
    Submit,
    Tick,
    Undrain,
    WorkerExited,
    WorkerPlacement,
    WorkersLost,
)
from orchestrator.semantics import Semantics
from orchestrator.types import NodeSpec, TenantSpec

__all__ = ["Engine", "EngineImage", "Outcome", "Room"]


_MAY_GROW = ("jobs", "workers", "nodes", "devices")
"""Capacities of a cluster that may be larger after a restart."""


_FREE = ("envs", "log", "effects", "kinds", "services")
"""Fields of a shape that change nothing of a live cluster's history."""


_TERMS = ("weight", "quota_units", "storage_quota_mib")
"""What a tenant is entitled to; the other fields of its record are its account."""


@dataclass(frozen=True)
class Outcome:
    """What came of an entry.

    Parameters
    ----------
    effects : tuple of Effect
        What is to be done.
    reason : Reason
        ``OK``, or why it was refused; what is refused changes nothing but counters.
    forgotten : str
        A job that had ended and whose row was needed, or ``""``.
    notes : tuple of JobNote
        What is to be told of jobs because of it.
    nodes : int
        Nodes that a policy orders, or gives up if negative.
    """

    effects: tuple[Effect, ...] = ()
    reason: Reason = Reason.OK
    forgotten: str = ""
    notes: tuple[JobNote, ...] = ()
    nodes: int = 0


@dataclass(frozen=True)
class EngineImage:
    """All that a cluster is, set aside; what happens to the cluster later does not change it.

    ``told`` are the last effects and their workers, the oldest first.
    """

    settings: Establish
    state: ClusterState
    told: tuple[NDArray[np.void], NDArray[np.void]]
    jobs: TableImage
    nodes: TableImage
    history: History
    begun: bool
    happened: bool
    opened_ms: int
    status: Status
    tick: Tick | None = None


@dataclass
class Room:
    """Memory for copies of a cluster, kept from one to the next."""

    state: ClusterState | None = None


class Engine:
    """One cluster.

    Parameters
    ----------
    shape : ClusterShape
        Capacities of one cluster; ``jobs`` bounds the jobs that are waiting, running, or remembered
        after their end.
    nodes : sequence of NodeSpec
        Machines that are there from the beginning.
    semantics : Semantics or None
        What is legal; None: the defaults.
    tenants : sequence of TenantSpec
        Who is entitled to what; tenants that are not named have weight 1 and no quota.
    seed : int
        Seed of random placements and orders.
    check : bool
        Check the invariants after every transition (slow).

    Attributes
    ----------
    applied : int
        Entries that were applied; it tells whether something has changed. ``logged``: those of the
        log up to the last one, as whoever reads it says, or -1.
    loads : int
        How often it became what was set aside: nothing is as it was known to be then.
    """

    def __init__(
        self,
        shape: ClusterShape,
        *,
        nodes: Sequence[NodeSpec] = (),
        semantics: Semantics | None = None,
        tenants: Sequence[TenantSpec] = (),
        seed: int = 0,
        check: bool = False,
    ) -> None:
        self._check, self.applied, self.loads, self.logged = check, 0, 0, -1
        self._found(
            Establish(shape, tuple(nodes), semantics or Semantics(), tuple(tenants), int(seed))
        )

    @classmethod
    def of(cls, settings: Establish, *, check: bool = False) -> Engine:
        """One that begins with these settings, as a log has them."""
        engine = cls.__new__(cls)
        engine._check, engine.applied, engine.loads, engine.logged = check, 0, 0, -1
        engine._found(settings)
        return engine

    def __copy__(self) -> Engine:
        """A copy that goes on by itself: shared state would be changed by both."""
        return deepcopy(self)

    def _found(self, settings: Establish) -> None:
        """Begin with a cluster's tenants and first nodes; nothing has happened yet."""
        self._begin(settings)
        check_quotas(settings.tenants, settings.nodes, awaits_order=settings.awaits_order)
        self._found_tenants(settings.tenants)
        for spec in settings.nodes:
            self.nodes.check(spec)
            self.nodes.found(spec)
        self._reader = EffectReader(self.state, self.jobs, self.nodes)

    def _begin(self, settings: Establish) -> None:
        """Begin with nobody there."""
        self.settings = settings
        self.semantics = settings.semantics
        shape = settings.shape
        # An action changes one job and releases nodes, and jobs may start in its wake; an event may
        # stop all jobs before that. The job table has a spare row (see JobTable).
        self._most_effects = shape.jobs + shape.nodes + 1  # of an action
        effects = self._most_effects + shape.jobs
        own = {"envs": 1, "effects": effects, "services": MOST_SERVICES}
        self.shape = replace(shape, jobs=shape.jobs + 1, **own)
        self.state = allocate(self.shape)
        self._copied = replace(self.state.shape, log=0, effects=0)  # nobody acts on what-ifs
        self.semantics.write(self.state.rows)
        self.state.rows["keep_log"] = int(self.shape.log > 0)
        no_nodes, no_jobs = np.zeros(0, NODE_DTYPE), np.zeros(0, REQUEST_DTYPE)
        kernels.begin_episode(self.state.rows, 0, settings.seed, no_nodes, no_jobs)
        self.nodes = NodeTable(self.state)
        self.jobs = JobTable(self.state, self.nodes)
        self._reader = EffectReader(self.state, self.jobs, self.nodes)
        self._effects: list[Effect] = []  # of the entry that is being applied
        self.history = History()
        self._plans = PlanExecutor(self.state, 0, self._find, self.jobs.preference)
        self._fitting: dict[int, bool] = {}  # by what jobs ask for, see unplaceable
        self._fitting_for = -1
        self._known: deque[Plan] = deque()  # plans that were played on a copy, the next ones
        self._known_at = 0  # and the entries that were applied before them
        self._excused: set[int] = set()  # tenants whose quotas were lowered below what they hold
        self._begun = False  # time begins with the first entry, whenever that is
        self._happened = False  # something did since the last decision point opened
        self._opened_ms = -1  # when that was

    def _found_tenants(self, tenants: Sequence[TenantSpec]) -> None:
        """Open an account for every tenant that there may be."""
        for tenant in tenants:
            self.jobs.tenants.number(tenant.name)
        others = [TenantSpec(f"tenant {k}") for k in range(len(tenants), self.shape.tenants)]
        live.put_tenants(self.state.rows, 0, tenant_records([*tenants, *others]))

    def image(self, notes_of: Collection[str] | None = None) -> EngineImage:
        """Set aside all that the cluster is; None: with what happened to every job."""
        state = allocate(self._copied)
        kernels.copy_row(self.state.rows, 0, state.rows, 0)
        told = self._told()
        effects = self.state.effect[0, told]
        widest = int(effects["workers"].max(initial=0))  # the table is wide, and jobs are narrow
        return EngineImage(
            settings=self.settings,
            state=state,
            told=(effects, self.state.effect_worker[0, :, :widest][told]),
            jobs=self.jobs.image(),
            nodes=self.nodes.image(),
            history=self.history.image(notes_of),
            begun=self._begun,
            happened=self._happened,
            opened_ms=self._opened_ms,
            status=self._plans.status,
            tick=None if self._plans.fleet is None else self._plans.fleet.tick,
        )

    def _over_quota(self) -> set[int]:
        """Tenants that hold more than they are entitled to, as when their quotas are lowered."""
        accounts = self.state.tenant[0]
        return set(np.flatnonzero(accounts["used_units"] > accounts["quota_units"]).tolist())

    def _told(self) -> NDArray[np.int64]:
        """Where in their ring the last effects are, the oldest first."""
        count, ring = int(self.row["effect_count"]), self.shape.effects
        return np.arange(max(count - ring, 0), count) % ring

    def load(self, image: EngineImage) -> None:
        """Be what was set aside. Records of the event log are not kept; its hash is."""
        self.applied += 1  # whatever was known of the entry that comes next
        self.loads += 1
        self._begin(image.settings)
        kernels.copy_row(image.state.rows, 0, self.state.rows, 0)
        effects, workers = image.told
        slots = self._told()[-len(effects) or self.shape.effects :]
        self.state.effect[0, slots] = effects
        self.state.effect_worker[0, slots, : workers.shape[1]] = workers
        self.jobs.load(image.jobs)
        self.nodes.load(image.nodes)
        self.history = image.history.image()
        self._reader = EffectReader(self.state, self.jobs, self.nodes)
        self._excused = self._over_quota()
        self._begun, self._happened = image.begun, image.happened
        self._opened_ms, self._plans.status = image.opened_ms, image.status
        if image.tick is not None:
            self._see_fleet(image.tick)

    def grown(self, shape: ClusterShape) -> ClusterShape:
        """A shape that is at least as large as that of the cluster, where it may be larger."""
        now = self.settings.shape
        return replace(
            shape, **{name: max(getattr(shape, name), getattr(now, name)) for name in _MAY_GROW}
        )

    def _check_settings(self, settings: Establish) -> None:
        """Raise unless these may be the settings from now on."""
        now, wanted = self.settings.shape, settings.shape
        for name in (field.name for field in fields(wanted) if field.name not in _FREE):
            least, given = getattr(now, name), getattr(wanted, name)
            fine = given == least or (name in _MAY_GROW and given > least)
            if self._begun and not fine:
                problem = f"is {given}, and the cluster of this log has {least}"
                remedy = f"give what it has; {', '.join(_MAY_GROW)} may be more"
                raise ValidationError("ClusterShape", name, problem, remedy)
        nodes = self.nodes.specs.values() if self._begun else settings.nodes
        if not self._begun or settings.tenants != self.settings.tenants:
            check_quotas(settings.tenants, tuple(nodes), awaits_order=settings.awaits_order)
        for tenant in settings.tenants:
            self.jobs.tenants.require_room(tenant.name)

    def _establish(self, settings: Establish) -> None:
        """Have the cluster begin with these settings, or live by them from now on."""
        if settings == self.settings:
            return
        if not self._begun:
            self._found(settings)
            return
        named = {tenant.name for tenant in settings.tenants}
        gone = [TenantSpec(old.name) for old in self.settings.tenants if old.name not in named]
        before = self.settings
        settings = replace(settings, nodes=before.nodes, seed=before.seed)
        if settings.shape != before.shape:
            self.load(replace(self.image(), settings=settings))
        self.settings, self.semantics = settings, settings.semantics
        self.semantics.write(self.state.rows)
        tenants = [*settings.tenants, *gone]
        for tenant, record in zip(tenants, tenant_records(tenants), strict=True):
            account = self.state.tenant[0, self.jobs.tenants.number(tenant.name)]
            for term in _TERMS:
                account[term] = record[term]
        self._excused = self._over_quota()
        self._happened = True

    # --- reading -------------------------------------------------------------------------------

    @property
    def row(self) -> Any:
        """The scalars of the cluster (a ROW_DTYPE record); to be read only."""
        return self.state.rows[0]

    @property
    def now_ms(self) -> int:
        """Time of the last entry."""
        return int(self.row["now_ms"])

    @property
    def log_hash(self) -> int:
        """Hash of the event log, 64 bits: equal histories have equal ones."""
        return int(self.row["log_hash"])

    @property
    def decision_open(self) -> bool:
        """Whether there is something to decide."""
        return self._plans.status == Status.DECISION

    @property
    def happened(self) -> bool:
        """Whether something happened since the last decision point opened."""
        return self._happened

    @property
    def undecided(self) -> bool:
        """Whether something happened that no policy has had the chance to react to."""
        return self._happened or self.decision_open or bool(self.row["point_open"])

    def can_ever_fit(self, job_id: str) -> bool:
        """Whether a job would fit into the nodes that there are, if they were empty."""
        return kernels.can_ever_fit(self.state.rows, 0, self.jobs.index.find(job_id))

    def unplaceable(self) -> list[str]:
        """Waiting jobs that would not fit into the nodes that there are, if they were empty.

        Jobs that ask for the same are looked at once, and again only when nodes have changed.
        """
        jobs = self.state.queue[0, : int(self.row["queue_len"])]["job"]
        asked = self.jobs.asked[jobs]
        kinds = np.flatnonzero(np.bincount(asked)).tolist()
        if self._fitting_for != self.nodes.changes:
            self._fitting, self._fitting_for = {}, self.nodes.changes
        for kind in kinds:
            if kind not in self._fitting:
                first = int(jobs[np.argmax(asked == kind)])
                self._fitting[kind] = kernels.can_ever_fit(self.state.rows, 0, first)
        never = [kind for kind in kinds if not self._fitting[kind]]
        if not never:
            return []
        ids = self.jobs.index.ids
        return [ids[j] for j in jobs[np.isin(asked, never)]]

    def placed(self) -> dict[str, int]:
        """Jobs whose workers exist or are about to, and the number of their run."""
        jobs, ids = self.state.job[0], self.jobs.index.ids
        there = np.flatnonzero(jobs["workers_now"] > 0).tolist()
        return {ids[j]: self.jobs.run_of(j) for j in there}

    def unended(self) -> list[str]:
        """Jobs that wait or run."""
        states = self.state.job[0, : len(self.jobs.index.ids)]["state"]
        ended = np.isin(states, (JobCode.COMPLETED, JobCode.FAILED))
        return [self.jobs.index.ids[j] for j in np.flatnonzero(~ended)]

    def saving(self) -> dict[str, tuple[int, int]]:
        """Jobs that are being saved: the number of their run, and how long that takes, ms."""
        jobs, asks, ids = self.state.job[0], self.state.request[0], self.jobs.index.ids
        busy = np.flatnonzero(jobs["state"] == JobCode.CHECKPOINTING).tolist()
        return {ids[j]: (self.jobs.run_of(j), int(asks["checkpoint_ms"][j])) for j in busy}

    def run_of(self, job_id: str) -> int:
        """The number of a job's last run: no former job of its id had one of that number."""
        return self.jobs.run_of(self.jobs.index.find(job_id))

    def runs_of(self, job_id: str) -> int:
        """How often a job has started."""
        return int(self.state.job[0, self.jobs.index.find(job_id)]["runs"])

    def started_ms(self, job_id: str) -> int:
        """When the present run of a job started."""
        return int(self.state.job[0, self.jobs.index.find(job_id)]["start_ms"])

    def workers_of(self, job_id: str) -> tuple[WorkerPlacement, ...]:
        """Where the workers of a job are; empty if it is not placed."""
        j = self.jobs.index.find(job_id)
        workers = self.state.worker[0, j, : self.state.job[0, j]["workers_now"]]
        return placements(workers, self.nodes)

    def late_workers(self) -> tuple[ResizeJob, ...]:
        """Workers that can join running jobs without ``gang_schedule``, which began with fewer."""
        if not (self.jobs.loose and len(short_jobs(self.state, len(self.jobs.index.ids)))):
            return ()  # the copy costs more than the look
        return late_workers(self.state_at(self.now_ms), self.jobs.index.ids)

    def next_join_ms(self) -> int | None:
        """When the next such job, which has run or kept its size for too short a time, may grow."""
        if not self.jobs.loose:
            return None
        short = short_jobs(self.state, len(self.jobs.index.ids))
        due_ms = self.state.job[0]["resized_ms"][short] + int(self.row["resize_lock_ms"])
        due_ms = due_ms[due_ms > self.now_ms]
        return int(due_ms.min()) if len(due_ms) else None

    def is_current(self, event: Event) -> bool:
        """Whether an event is about the present run of a job, and not overtaken."""
        if event.job_id not in self.jobs.index:
            return False
        j = self.jobs.index.find(event.job_id)
        if self.state.job[0, j]["workers_now"] == 0 or self.jobs.run_of(j) != event.run:
            return False
        saving = self.jobs.code(event.job_id) == JobCode.CHECKPOINTING
        return saving or not isinstance(event, CheckpointCommitted)

    def snapshot(self, room: Room | None = None) -> Snapshot:
        """A copy of the cluster as it is now, for a policy; ``room`` as for :meth:`state_at`."""
        state, prefer = self.state_at(self.now_ms, room), self.jobs.preference.copy()
        ids = tuple(self.jobs.index.ids), tuple(self.nodes.index.ids)
        return Snapshot(state, *ids, prefer, self.logged, self._plans.fleet)

    def state_at(self, time_ms: int, room: Room | None = None) -> ClusterState:
        """A copy of the cluster's state, as it will be at a time if nothing happens before.

        Asking for memory for a large cluster takes longer than copying it: whoever needs copies
        again and again keeps ``room`` for them. The copy is good until the next one is made there.
        """
        state = room.state if room is not None else None
        if state is None or state.shape != self._copied:
            state = allocate(self._copied)
        if room is not None:
            room.state = state
        kernels.copy_row(self.state.rows, 0, state.rows, 0)
        kernels.apply_event(state.rows, 0, time_ms, int(EventKind.NONE), 0)
        return state

    def expect(self, plans: Iterable[Plan], applied: int) -> None:
        """Plans are legal, one after the other, after so many entries: they need no rehearsal.

        They were played on a copy of the cluster as it was then. If anything else is applied before
        one of them, it is rehearsed as any other. Time may go on: it makes nothing illegal that a
        policy may decide.
        """
        self._known, self._known_at = deque(plans), applied

    def _knows(self, plan: Plan) -> bool:
        """Whether the next plan that is expected is this one."""
        if self._known and self._known_at == self.applied and self._known[0] == plan:
            self._known.popleft()
            self._known_at += 1
            return True
        self._known.clear()
        return False

    def _find(self, job_id: str) -> int:
        return self.jobs.index.find(job_id) if job_id in self.jobs.index else NO_JOB

    # --- entries -------------------------------------------------------------------------------

    def check(self, body: Command | Event) -> None:
        """Raise a :class:`QuartermasterError` if a command makes no sense as things are."""
        check_message(body)
        if isinstance(body, Submit):
            self.jobs.check(body.spec, awaits_order=body.awaits_order)
        elif isinstance(body, Register):
            self.nodes.check(body.spec)
        elif isinstance(body, Preempt | Scale | Cancel):
            self.jobs.index.find(body.job_id)
        elif isinstance(body, Tick):
            for seen in body.services:
                self.jobs.index.find(seen.job_id)
        elif isinstance(body, Decommission | NodeFailed | NodeRecovered):
            self.nodes.index.find(body.node_id)
        elif isinstance(body, Undrain):
            self.nodes.check_stays(body.node_id)
        elif isinstance(body, Establish):
            self._check_settings(body)

    def handle(self, entry: Entry) -> Outcome:
        """Apply an entry of the log, if it makes sense.

        Raises
        ------
        QuartermasterError
            If it makes none (:meth:`check`); nothing changed then.
        """
        self.check(entry.body)
        return self.apply(entry)

    def restore(self, entries: Iterable[Entry], image: EngineImage) -> None:
        """Be what entries of the log make of what was set aside before them.

        For when an entry could not be applied, and left the cluster between two states.
        """
        self.load(image)
        for entry in entries:
            try:
                self.handle(entry)
            except QuartermasterError:
                continue  # as it was when it came

    def apply(self, entry: Entry) -> Outcome:
        """Apply an entry of the log that makes sense as things are: :meth:`check` has said so."""
        outcome = self._apply(entry)
        self.applied += 1
        return outcome

    def _apply(self, entry: Entry) -> Outcome:
        time_ms = max(entry.time_ms, self.now_ms)
        if isinstance(entry.body, Lead | Establish):
            if isinstance(entry.body, Establish):
                self._establish(entry.body)
            return Outcome()
        if self._begun:
            kernels.apply_event(self.state.rows, 0, time_ms, int(EventKind.NONE), 0)
        else:
            live.begin_time(self.state.rows, 0, time_ms)
            self._begun = True
        reason, forgotten, nodes = Reason.OK, "", 0
        body = entry.body
        if isinstance(body, Decide):
            reason = self._plans.carry_out(
                body.plan, self._make_room, rehearsed=self._knows(body.plan)
            )
            nodes = self._change_fleet(body.plan) if reason == Reason.OK else 0
        elif isinstance(body, Review):
            self._open_point()
            self._plans.settle()
        elif isinstance(body, Tick):
            self._tell(body)
        elif isinstance(body, Preempt | Scale | Cancel):
            reason = self._command(body)
        elif isinstance(body, WorkerExited | CheckpointCommitted | WorkersLost | JobOverdue):
            reason = self._report(time_ms, body)
        elif not isinstance(body, Configure):
            if isinstance(body, Submit):
                forgotten = self.jobs.submit(time_ms, body.spec)
            elif isinstance(body, Register):
                self.nodes.register(time_ms, body.spec, rented=body.rented)
                if body.rented and self._plans.fleet is not None:
                    self._plans.fleet = self._plans.fleet.arrived()
            else:
                if isinstance(body, NodeFailed) and 0 <= body.seen_ms < time_ms:
                    self.jobs.lose_unseen(time_ms, body.seen_ms, self.jobs.gangs_on(body.node_id))
                self.nodes.change(time_ms, body)
            self._note_event()
        if self._check:
            self._excused &= self._over_quota()
            assert_invariants(self.state, 0, self._excused)
        self._collect()
        effects, self._effects = tuple(self._effects), []
        for effect in effects:
            if isinstance(effect, ReleaseNode):
                self.nodes.forget(effect.node_id)
        if forgotten:
            self.history.forget(forgotten)
        return Outcome(
            effects, reason, forgotten, self.history.note(time_ms, body, effects, reason), nodes
        )

    def commit(self, action: Action, time_ms: int | None = None) -> Outcome:
        """Carry out one action now, if it is legal; the outcome's reason says whether it was."""
        now_ms = self.now_ms if time_ms is None else time_ms
        return self.handle(Entry(now_ms, Decide(Plan((action,)))))

    def _command(self, body: Preempt | Scale | Cancel) -> Reason:
        if isinstance(body, Cancel):
            if not self.jobs.cancel(self.now_ms, body.job_id):
                return Reason.NOT_RUNNING
            self._effects += self._reader.read(lost=StopReason.CANCELLED)
            self._note_event()
            return Reason.OK
        self._open_point()
        wanted: Action = PreemptJob(body.job_id)
        if isinstance(body, Scale):
            if not self.jobs.specs[body.job_id].elastic:
                return Reason.NOT_ELASTIC  # though workers may join a job that is no gang
            wanted = ResizeJob(body.job_id, body.workers)
        before = len(self.workers_of(body.job_id))
        reason = self._plans.act(wanted)
        if isinstance(body, Scale) and reason == Reason.OK:
            self.jobs.note_scaled(body.job_id, body.workers - before)
        if self.semantics.commitment:
            self._plans.settle()
        return reason

    def _report(self, time_ms: int, event: Event) -> Reason:
        if not self.is_current(event):
            return Reason.NOT_RUNNING
        if isinstance(event, JobOverdue):
            return Reason.OK
        rows, j = self.state.rows, self.jobs.index.find(event.job_id)
        runs = self.jobs.code(event.job_id) == JobCode.RUNNING
        if isinstance(event, CheckpointCommitted):
            kernels.apply_event(rows, 0, time_ms, int(EventKind.CHECKPOINTED), j)
        elif isinstance(event, WorkersLost) or not runs:
            # Workers that end while they are being saved leave no checkpoint behind.
            seen_ms = event.seen_ms if isinstance(event, WorkersLost) else -1
            self.jobs.lose_unseen(time_ms, time_ms if seen_ms < 0 else seen_ms, [j])
        elif event.exit_code == 0:
            live.complete_live_job(rows, 0, time_ms, j)
        else:
            live.fail_live_job(rows, 0, time_ms, j)
        self._note_event()
        return Reason.OK

    # --- decisions -----------------------------------------------------------------------------

    def _tell(self, tick: Tick) -> None:
        """Services and fleet were looked at: whoever sizes them may do so at this point."""
        self._open_point()
        self.jobs.tell_services(tick)
        self._see_fleet(tick)
        if self.semantics.commitment:
            self._plans.settle()  # nothing but jobs is decided on
        else:
            self._plans.status = Status.DECISION  # a policy may see more of the fleet than the row

    def _see_fleet(self, tick: Tick) -> None:
        kind = tick.fleet.kind
        models = () if kind is None else self.nodes.models_with([kind.gpu_model])
        model = 0 if kind is None else models.index(kind.gpu_model)
        self._plans.fleet = ShownFleet(tick, model)

    def _change_fleet(self, plan: Plan) -> int:
        """Note what a plan that is legal does to the fleet; how many nodes it orders in all."""
        nodes = sum(action.nodes for action in plan.actions if isinstance(action, ScaleFleet))
        if nodes != 0 and self._plans.fleet is not None:
            self._plans.fleet = self._plans.fleet.changed(nodes, self.now_ms)
        return nodes

    def _note_event(self) -> None:
        """Something happened. Under commitment every event is a decision point by itself."""
        self._happened = True
        if self.semantics.commitment:
            self._open_point()
            self._plans.settle()

    def _open_point(self) -> None:
        """Open a decision point, unless one of this instant is open and has seen everything."""
        if self._happened or self._opened_ms != self.now_ms or not self.row["point_open"]:
            kernels.open_point(self.state.rows, 0)
            self._happened = False
            self._opened_ms = self.now_ms

    def _collect(self) -> None:
        self._effects += self._reader.read()

    def _make_room(self, done: int) -> int:
        """A plan that is so long that its effects fill the ring is read in parts."""
        if done > 0 and self._reader.room < self._most_effects:
            self._collect()
        return self._reader.until(self._most_effects)
