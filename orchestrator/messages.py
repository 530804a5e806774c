"""What is said between policies, commanders, the engine and runtimes: immutable messages.

An *action* is what a policy may decide. A *command* is what somebody asks, an *event* is what
happened; the consensus engine puts them into one order. An *effect* is what the engine wants done;
a runtime carries it out and answers with events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, assert_never

from orchestrator.errors import IllegalActionError, ValidationError
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, Placement
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.semantics import Semantics
from orchestrator.types import JobSpec, NodeSpec, TenantSpec

__all__ = [
    "Action",
    "Cancel",
    "CheckpointCommitted",
    "Command",
    "Configure",
    "Decide",
    "Decommission",
    "Effect",
    "Entry",
    "Establish",
    "Event",
    "FleetSeen",
    "JobOverdue",
    "Lead",
    "MigrateJob",
    "NodeFailed",
    "NodeRecovered",
    "PlaceJob",
    "Plan",
    "Preempt",
    "PreemptJob",
    "Register",
    "RegroupJob",
    "ReleaseNode",
    "ResizeJob",
    "Review",
    "SaveCheckpoint",
    "Scale",
    "ScaleFleet",
    "ScaleService",
    "ServiceSeen",
    "Sizing",
    "StartJob",
    "StopJob",
    "StopReason",
    "Submit",
    "Tick",
    "Undrain",
    "Wait",
    "WorkerExited",
    "WorkerPlacement",
    "WorkersLost",
    "from_code",
    "to_code",
]


# --- actions: what a policy may decide -----------------------------------------------------------


@dataclass(frozen=True)
class PlaceJob:
    """Start a waiting job, all workers or none, where a placement generator puts them.

    None leaves the place to the job: best fit, and close together if it is ``topology_aware``.
    """

    job_id: str
    generator: Placement | None = None


@dataclass(frozen=True)
class PreemptJob:
    """Save a running job and put it back into the queue; ``reason`` is told in its history."""

    job_id: str
    reason: str = ""


@dataclass(frozen=True)
class ResizeJob:
    """Give a running elastic job, or service, another number of workers; it is not restarted."""

    job_id: str
    workers: int


@dataclass(frozen=True)
class MigrateJob:
    """Move a running job to a better place, if the generator proposes one."""

    job_id: str
    generator: Placement = Placement.BEST_FIT


@dataclass(frozen=True)
class ScaleService:
    """Give a running service another number of replicas, at a :class:`Tick`."""

    job_id: str
    replicas: int


@dataclass(frozen=True)
class ScaleFleet:
    """Order so many nodes, or give them up if negative, at a :class:`Tick`.

    Which ones is for the fleet's controller to find out; where fewer can be given up, fewer are.
    """

    nodes: int


@dataclass(frozen=True)
class Wait:
    """Decide nothing more until something happens."""


Action: TypeAlias = (
    PlaceJob | PreemptJob | ResizeJob | MigrateJob | ScaleService | ScaleFleet | Wait
)


def to_code(action: Action, find: Callable[[str], int]) -> tuple[ActionKind, int, int]:
    """An action as kernels take it.

    Parameters
    ----------
    action : Action
    find : callable
        Index of a job in the job table, by its name.

    Returns
    -------
    tuple of ActionKind and int
        (kind, job, value); no job where the action is about none, and 0 to wait. Kernels know a
        service by its own number, which whoever carries the action out has to look up.
    """
    match action:
        case PlaceJob(job_id, generator):
            chosen = Placement.BEST_FIT if generator is None else generator
            return ActionKind.PLACE, find(job_id), int(chosen)
        case PreemptJob(job_id):
            return ActionKind.PREEMPT, find(job_id), 0
        case ResizeJob(job_id, workers):
            return ActionKind.RESIZE, find(job_id), workers
        case MigrateJob(job_id, generator):
            return ActionKind.MIGRATE, find(job_id), int(generator)
        case ScaleService(job_id, replicas):
            return ActionKind.SERVICE, find(job_id), replicas
        case ScaleFleet(nodes):
            return ActionKind.CAPACITY, NO_JOB, nodes
        case Wait():
            return ActionKind.WAIT, NO_JOB, 0
        case _:
            assert_never(action)


def from_code(kind: int, job_id: str, value: int) -> Action:
    """An action as kernels put it, as a policy does: the inverse of :func:`to_code`.

    Parameters
    ----------
    kind : int
        An ``ActionKind``.
    job_id : str
        Name of the job; ignored when waiting, and of the fleet.
    value : int
        A ``Placement``, or a number of workers, replicas or nodes.

    Raises
    ------
    IllegalActionError
        If there is no such kind.
    """
    match kind:
        case ActionKind.PLACE:
            return PlaceJob(job_id, Placement(value))
        case ActionKind.PREEMPT:
            return PreemptJob(job_id)
        case ActionKind.RESIZE:
            return ResizeJob(job_id, int(value))
        case ActionKind.MIGRATE:
            return MigrateJob(job_id, Placement(value))
        case ActionKind.SERVICE:
            return ScaleService(job_id, int(value))
        case ActionKind.CAPACITY:
            return ScaleFleet(int(value))
        case ActionKind.WAIT:
            return Wait()
    known = ", ".join(f"{known} {known.name.lower()}" for known in ActionKind)
    raise IllegalActionError(f"action kind {kind}: there is no such kind; give one of {known}")


@dataclass(frozen=True)
class Plan:
    """What a policy wants done now, in this order: all of it, or nothing if any part is refused.

    A plan without actions is the same as *wait*.
    """

    actions: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        """Check that nothing comes after *wait*."""
        actions = self.actions if isinstance(self.actions, tuple | list) else ()
        if any(isinstance(action, Wait) for action in actions[:-1]):
            raise ValidationError("Plan", "actions", "go on after Wait", "make Wait the last one")


# --- commands: what somebody asks ----------------------------------------------------------------


@dataclass(frozen=True)
class Submit:
    """Queue a job.

    ``awaits_order``: the nodes that there are will never hold it, but such as can be ordered would.
    Who may order them says so; a replica that replays the log has nobody to ask.
    """

    spec: JobSpec
    awaits_order: bool = False


@dataclass(frozen=True)
class Preempt:
    """Save a running job and put it back into the queue, because somebody says so."""

    job_id: str
    reason: str = ""


@dataclass(frozen=True)
class Scale:
    """Change the number of workers of a running job, because somebody says so."""

    job_id: str
    workers: int


@dataclass(frozen=True)
class Cancel:
    """A job that has not ended is to end, because somebody says so; it is not saved."""

    job_id: str
    reason: str = ""


@dataclass(frozen=True)
class Register:
    """A node joins, or comes back under another description.

    ``rented``: it was ordered and delivered, and may be given back when nobody needs it.
    """

    spec: NodeSpec
    rented: bool = False


@dataclass(frozen=True)
class Decommission:
    """A node is to leave: once its jobs are saved (``drain``), or at once."""

    node_id: str
    drain: bool = True


@dataclass(frozen=True)
class Undrain:
    """A node that was to leave, and has not yet, stays."""

    node_id: str


@dataclass(frozen=True)
class NodeFailed:
    """A node does not answer any more.

    ``seen_ms`` is when it last did: no checkpoint was written after that. Below 0: until now.
    """

    node_id: str
    seen_ms: int = -1


@dataclass(frozen=True)
class NodeRecovered:
    """A node that had failed is back, empty."""

    node_id: str


@dataclass(frozen=True)
class Review:
    """See whether there is something to decide."""


@dataclass(frozen=True)
class Decide:
    """Carry out a plan, if it is still legal."""

    plan: Plan


@dataclass(frozen=True)
class Sizing:
    """How a fleet or a service is sized.

    Parameters
    ----------
    unit_capacity : float
        Demand that a node or replica serves at full use: capacity units, or requests per second.
    target, tolerance : float
        Use of a unit to aim for, and relative distance from the desired size that is left alone.
    min_size, max_size : int
        Its bounds.
    step_up, step_down : int
        Most units added or removed at once; 0: no limit.
    up_window_ms, down_window_ms : int
        After a change, time before the next one up, or down.
    """

    unit_capacity: float
    target: float
    tolerance: float
    min_size: int
    max_size: int
    step_up: int
    step_down: int
    up_window_ms: int
    down_window_ms: int


@dataclass(frozen=True)
class ServiceSeen:
    """How a service has done since the tick before.

    Parameters
    ----------
    job_id : str
        The job whose workers are its replicas.
    slots : int
        Requests that a replica serves at a time.
    service_ms, objective_ms : float
        Mean time that one takes there, and time within which it should be answered.
    sizing : Sizing
        How it is sized.
    rate_rps, ahead_rps : float
        Requests per second that came, and that are to be prepared for.
    latency_ms : float
        A high percentile of the response times.
    missed_share : float
        Of the requests, those that were not answered in time.
    backlog : float
        Requests that wait.
    ready : int
        Replicas that answer.
    breaker : int
        ``BreakerMode`` of the endpoint that is worst off.
    """

    job_id: str
    slots: int
    service_ms: float
    objective_ms: float
    sizing: Sizing
    rate_rps: float
    ahead_rps: float
    latency_ms: float
    missed_share: float
    backlog: float
    ready: int
    breaker: int


@dataclass(frozen=True)
class FleetSeen:
    """What can be done about the number of nodes, and what is under way.

    Parameters
    ----------
    kind : NodeSpec or None
        What is ordered; None: nothing can be.
    coming : int
        Nodes on order.
    spare, surplus : int
        How many more may be ordered, and how many given up.
    sizing : Sizing
        How it is sized.
    scaled_ms, scaled_by : int
        When nodes were last ordered or given up, and how many: more than 0 if ordered.
    """

    kind: NodeSpec | None
    coming: int
    spare: int
    surplus: int
    sizing: Sizing
    scaled_ms: int
    scaled_by: int


@dataclass(frozen=True)
class Tick:
    """The size of services and fleet may be decided on now, by what was measured.

    All that a policy sees of them is in here, so that its decisions can be made again. ``tick_ms``
    is the time from tick to tick.
    """

    tick_ms: int
    services: tuple[ServiceSeen, ...]
    fleet: FleetSeen


@dataclass(frozen=True)
class Configure:
    """Something was set that the cluster's state does not hold: rules of a service, the policy.

    The engine does nothing about it; who reads the log after a restart does.
    """

    subject: str
    value: object


@dataclass(frozen=True)
class Establish:
    """The settings of the cluster: from its beginning, or, if that is past, from now on.

    From now on others may hold for semantics and tenants, and the capacities may be larger. Nodes
    and seed are those of the beginning; what comes later registers.

    ``awaits_order``: quotas may be more than the nodes that there are, as others can be ordered.
    Who may order them says so; a replica that replays the log has nobody to ask.
    """

    shape: ClusterShape
    nodes: tuple[NodeSpec, ...]
    semantics: Semantics
    tenants: tuple[TenantSpec, ...]
    seed: int
    awaits_order: bool = False


@dataclass(frozen=True)
class Lead:
    """An orchestrator takes over: whoever led before must not act any more.

    The number of this entry is the new leader's term. ``token`` is that of the lease by which it
    may (0: by none): whoever comes late with a smaller one than the last leader's does not lead.
    """

    name: str
    token: int = 0


Command: TypeAlias = (
    Submit
    | Preempt
    | Scale
    | Cancel
    | Register
    | Decommission
    | Undrain
    | NodeFailed
    | NodeRecovered
    | Review
    | Decide
    | Tick
    | Configure
    | Establish
    | Lead
)


# --- events: what a runtime reports --------------------------------------------------------------
#
# ``run`` counts the starts of a job. It tells a report about this run from one about a former run
# that was overtaken by a stop.


@dataclass(frozen=True)
class WorkerExited:
    """The workers of a job have ended; another code than 0 means failure, ``reason`` says why."""

    job_id: str
    run: int
    exit_code: int = 0
    reason: str = ""


@dataclass(frozen=True)
class CheckpointCommitted:
    """The checkpoint that :class:`SaveCheckpoint` asked for is safe."""

    job_id: str
    run: int


@dataclass(frozen=True)
class WorkersLost:
    """The workers of a job could not be started, or are gone without an exit code.

    ``seen_ms`` is when they were there last: no checkpoint was written after that. Below 0: until
    now.
    """

    job_id: str
    run: int
    reason: str = ""
    seen_ms: int = -1


@dataclass(frozen=True)
class JobOverdue:
    """A job has run for as long as it may, and is warned: it will be ended before long."""

    job_id: str
    run: int
    reason: str = ""


Event: TypeAlias = WorkerExited | CheckpointCommitted | WorkersLost | JobOverdue


@dataclass(frozen=True)
class Entry:
    """An entry of the log: when, and what.

    ``term`` is that of the leader who wrote it, -1 before there was one: an entry of a former
    leader is refused. ``done`` is the first entry whose effects may not all have been carried out
    by then.
    """

    time_ms: int
    body: Command | Event
    term: int = -1
    done: int = 0


# --- effects: what a runtime is to do ------------------------------------------------------------


@dataclass(frozen=True)
class WorkerPlacement:
    """Where one worker goes: its node, and the indices of its GPUs there."""

    node_id: str
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class StartJob:
    """Start all workers of a job, from its last checkpoint if there is one.

    ``restart_ms`` pass until work goes on (0 for a first start) from ``progress_ms``, the work
    that the checkpoint holds, at ``speed_milli`` thousandths of the nominal speed.
    """

    job_id: str
    run: int
    spec: JobSpec
    workers: tuple[WorkerPlacement, ...]
    start_ms: int
    restart_ms: int
    progress_ms: int
    speed_milli: int = 1000


@dataclass(frozen=True)
class RegroupJob:
    """The workers of a running job are these from now on; those that stay are not restarted.

    Work goes on at ``resume_ms`` from ``progress_ms``, at ``speed_milli`` thousandths of the
    nominal speed. Where no worker stays (``moved``), the job is saved and started again elsewhere.
    """

    job_id: str
    run: int
    spec: JobSpec
    workers: tuple[WorkerPlacement, ...]
    resume_ms: int
    progress_ms: int
    speed_milli: int
    moved: bool = False


@dataclass(frozen=True)
class SaveCheckpoint:
    """Stop work on a job, save it, and report :class:`CheckpointCommitted`."""

    job_id: str
    run: int
    cost_ms: int
    progress_ms: int


class StopReason(Enum):
    """Why the workers of a job are to be stopped."""

    PREEMPTED = "preempted"
    """It is saved, and gives up its place."""
    INTERRUPTED = "interrupted"
    """It lost its workers, or a node under them, and falls back to its last checkpoint."""
    CANCELLED = "cancelled"
    """Somebody does not want it any more: it is not saved, and does not come back."""
    UNEXPECTED = "unexpected"
    """They were found at start-up, and nothing is known of this run."""


@dataclass(frozen=True)
class StopJob:
    """Stop what is left of a job's workers; nothing is reported.

    ``save`` asks for a checkpoint first: one that costs nothing, so that nobody waits for it.
    ``progress_ms`` is the work that the job will go on from, ``lost_ms`` what is gone beyond it.
    """

    job_id: str
    run: int
    reason: StopReason
    progress_ms: int
    lost_ms: int = 0
    save: bool = False


@dataclass(frozen=True)
class ReleaseNode:
    """A node that was to leave is empty now."""

    node_id: str


Effect: TypeAlias = StartJob | RegroupJob | SaveCheckpoint | StopJob | ReleaseNode
