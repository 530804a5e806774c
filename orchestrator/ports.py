"""What the orchestrator needs from outside, as small protocols, and the messages between them.

A *command* is what somebody asks, an *event* is what happened; both are immutable, and the
consensus engine puts them into one order. An *effect* is what the engine wants done; a runtime
carries it out and answers with events. An *action* is what a policy may decide.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from orchestrator.errors import ValidationError
from orchestrator.kernels.codes import Placement
from orchestrator.types import JobSpec, NodeSpec

if TYPE_CHECKING:
    from orchestrator.scheduler.snapshot import Snapshot

__all__ = [
    "Action",
    "Checkpoint",
    "CheckpointCommitted",
    "CheckpointManager",
    "Clock",
    "Command",
    "ConsensusEngine",
    "Decide",
    "Decommission",
    "Effect",
    "Entry",
    "Event",
    "FaultDetector",
    "NodeFailed",
    "NodeHealth",
    "NodeRecovered",
    "PlaceJob",
    "Plan",
    "Policy",
    "Preempt",
    "PreemptJob",
    "Register",
    "ReleaseNode",
    "Review",
    "Runtime",
    "SaveCheckpoint",
    "ShardManager",
    "StartJob",
    "StopJob",
    "Submit",
    "Timer",
    "Wait",
    "WorkerExited",
    "WorkerPlacement",
    "WorkersLost",
]

# --- actions: what a policy may decide -----------------------------------------------------------


@dataclass(frozen=True)
class PlaceJob:
    """Start a waiting job, all workers or none, where a placement generator puts them."""

    job_id: str
    generator: Placement = Placement.BEST_FIT


@dataclass(frozen=True)
class PreemptJob:
    """Save a running job and put it back into the queue."""

    job_id: str


@dataclass(frozen=True)
class Wait:
    """Decide nothing more until something happens."""


Action: TypeAlias = PlaceJob | PreemptJob | Wait


@dataclass(frozen=True)
class Plan:
    """What a policy wants done now, in this order: all of it, or nothing if any part is refused.

    A plan without actions is the same as *wait*.
    """

    actions: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        """Check that nothing comes after *wait*."""
        if any(isinstance(action, Wait) for action in self.actions[:-1]):
            raise ValidationError("Plan", "actions", "go on after Wait", "make Wait the last one")


# --- commands: what somebody asks ----------------------------------------------------------------


@dataclass(frozen=True)
class Submit:
    """Queue a job."""

    spec: JobSpec


@dataclass(frozen=True)
class Preempt:
    """Save a running job and put it back into the queue, because somebody says so."""

    job_id: str
    reason: str = ""


@dataclass(frozen=True)
class Register:
    """A node joins, or comes back under another description."""

    spec: NodeSpec


@dataclass(frozen=True)
class Decommission:
    """A node is to leave: once its jobs are saved (``drain``), or at once."""

    node_id: str
    drain: bool = True


@dataclass(frozen=True)
class NodeFailed:
    """A node does not answer any more."""

    node_id: str


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


Command: TypeAlias = (
    Submit | Preempt | Register | Decommission | NodeFailed | NodeRecovered | Review | Decide
)

# --- events: what a runtime reports --------------------------------------------------------------
#
# ``run`` counts the starts of a job. It tells a report about this run from one about a former run
# that was overtaken by a stop.


@dataclass(frozen=True)
class WorkerExited:
    """The workers of a job have ended by themselves; another code than 0 means failure."""

    job_id: str
    run: int
    exit_code: int = 0


@dataclass(frozen=True)
class CheckpointCommitted:
    """The checkpoint that :class:`SaveCheckpoint` asked for is safe."""

    job_id: str
    run: int


@dataclass(frozen=True)
class WorkersLost:
    """The workers of a job could not be started, or are gone without an exit code."""

    job_id: str
    run: int
    reason: str = ""


Event: TypeAlias = WorkerExited | CheckpointCommitted | WorkersLost


@dataclass(frozen=True)
class Entry:
    """An entry of the log: when, and what."""

    time_ms: int
    body: Command | Event


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
    that the checkpoint holds.
    """

    job_id: str
    run: int
    spec: JobSpec
    workers: tuple[WorkerPlacement, ...]
    start_ms: int
    restart_ms: int
    progress_ms: int


@dataclass(frozen=True)
class SaveCheckpoint:
    """Stop work on a job, save it, and report :class:`CheckpointCommitted`."""

    job_id: str
    run: int
    cost_ms: int
    progress_ms: int


@dataclass(frozen=True)
class StopJob:
    """Stop what is left of a job's workers; nothing is reported.

    ``save`` asks for a checkpoint first: one that costs nothing, so that nobody waits for it.
    ``progress_ms`` is the work that the job will go on from, ``lost_ms`` what is gone beyond it.
    """

    job_id: str
    run: int
    reason: str
    progress_ms: int
    lost_ms: int = 0
    save: bool = False


@dataclass(frozen=True)
class ReleaseNode:
    """A node that was to leave is empty now."""

    node_id: str


Effect: TypeAlias = StartJob | SaveCheckpoint | StopJob | ReleaseNode

# --- protocols -----------------------------------------------------------------------------------

Callback: TypeAlias = Callable[[], Awaitable[object] | None]


class Timer(Protocol):
    """Something that will happen unless it is cancelled."""

    def cancel(self) -> None:
        """Make it not happen; too late, or again, is fine."""


class Clock(Protocol):
    """Time. Everything above the kernels that knows the time has it from here."""

    def now_ms(self) -> int:
        """Milliseconds on this clock; never decreases."""

    def call_at(self, time_ms: int, callback: Callback, *, order: int = 0) -> Timer:
        """Call back at a time, or as soon as possible if it has passed.

        What is due at one instant goes by ``order``, then in the order of these calls. The
        callback may be a coroutine function.
        """

    async def sleep_until(self, time_ms: int) -> None:
        """Return at a time, or at once if it has passed."""


class ConsensusEngine(Protocol):
    """A totally ordered, durable log."""

    async def append(self, entry: Entry) -> int:
        """Append an entry; its index, once it can no longer be lost."""

    def entries(self, start: int = 0) -> Sequence[Entry]:
        """Committed entries that this replica knows, from index ``start`` on."""


class ShardManager(Protocol):
    """Who is responsible for a job or node."""

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards."""

    def owner(self, key: str) -> str:
        """The shard that owns a job or node."""


@dataclass(frozen=True)
class NodeHealth:
    """A change in what a fault detector thinks of a node."""

    node_id: str
    alive: bool


HealthListener: TypeAlias = Callable[[NodeHealth], Awaitable[object] | None]


class FaultDetector(Protocol):
    """Who is alive. A node is watched from its first heartbeat on."""

    async def heartbeat(self, node_id: str) -> None:
        """A node has shown that it is alive."""

    async def report(self, node_id: str) -> None:
        """Somebody knows that a node is dead."""

    def forget(self, node_id: str) -> None:
        """A node has left: do not watch it any more."""

    def suspects(self) -> tuple[str, ...]:
        """Nodes taken for dead, in alphabetical order."""

    def subscribe(self, listener: HealthListener) -> None:
        """Have changes told to a listener."""


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a saved job."""

    checkpoint_id: str
    job_id: str
    progress_ms: int
    time_ms: int


class CheckpointManager(Protocol):
    """Metadata of saved jobs. A checkpoint counts from when it is committed."""

    def save(self, job_id: str, progress_ms: int, time_ms: int) -> str:
        """A checkpoint has begun; its identity."""

    def commit(self, checkpoint_id: str) -> None:
        """A checkpoint is complete."""

    def discard(self, checkpoint_id: str) -> None:
        """A checkpoint will not be completed."""

    def latest(self, job_id: str) -> Checkpoint | None:
        """The last committed checkpoint of a job."""

    def forget(self, job_id: str) -> None:
        """Nobody will ask for a job any more."""


class Runtime(Protocol):
    """Carries effects out."""

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        """Say where events go; the last call counts."""

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Begin to carry effects out, in this order.

        Returns at once and delivers no event before it has: what comes of the effects, failures
        included, is delivered later.
        """

    def observe(self) -> Mapping[str, int]:
        """Jobs whose workers exist, or whose end is not reported yet, and their runs."""


class Policy(Protocol):
    """Decides. It sees a snapshot, touches nothing, and returns a plan."""

    def decide(self, snapshot: Snapshot) -> Plan:
        """What to do at the decision point at which the snapshot was taken."""
