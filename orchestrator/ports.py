"""What the orchestrator needs from outside, as small protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from orchestrator.messages import Effect, Entry, Event, Plan, Sizing
from orchestrator.node.gpus import Gpu
from orchestrator.types import JobSpec, NodeSpec

if TYPE_CHECKING:
    from orchestrator.engine.snapshot import Snapshot

__all__ = [
    "Admission",
    "Catalogue",
    "Checkpoint",
    "CheckpointManager",
    "Clock",
    "ConsensusEngine",
    "CuttableLog",
    "FaultDetector",
    "Fenced",
    "Lease",
    "Leases",
    "NodeHealth",
    "Output",
    "Pair",
    "Planner",
    "Policy",
    "Provisioner",
    "Readable",
    "Renewing",
    "Runtime",
    "ServiceSizer",
    "ShardManager",
    "Sized",
    "SizingPolicy",
    "Timer",
    "WakefulPolicy",
    "WorkerOutput",
    "WorkloadManager",
]


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
    """A totally ordered, durable log. One that can be cut is a :class:`CuttableLog`, too."""

    async def append(self, entry: Entry) -> int:
        """Append an entry; its index, once it can no longer be lost.

        May be called again before it has answered: what is under way at once may become durable
        together.
        """

    def entries(self, start: int = 0) -> Sequence[Entry]:
        """Committed entries that this replica knows, from index ``start`` on."""


@runtime_checkable
class CuttableLog(Protocol):
    """A log that drops what a snapshot makes needless; entries keep their indices.

    ``entries`` then begins with the first one that is kept.
    """

    @property
    def cut_due(self) -> bool:
        """Whether it is time to cut it; long before it is full."""

    @property
    def snapshot(self) -> tuple[int, object] | None:
        """The last snapshot, and the index of the first entry that it does not contain."""

    async def cut(self, index: int, snapshot: object) -> None:
        """Keep a snapshot of what all entries before an index have made, then drop these."""


@dataclass(frozen=True)
class Pair:
    """A key and what it has: bytes, or nothing if it was deleted or never set.

    ``revision`` grows with every change of any key of the same store; 0: never set.
    """

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True)
class Lease:
    """What somebody holds until a time, unless it is renewed before.

    ``token`` is larger than that of everybody who held it before: whoever acts for a holder sends
    it along, and whoever has seen a larger one refuses it.
    """

    name: str
    holder: str
    token: int
    expires_ms: int


class Leases(Protocol):
    """Pairs that are compared and set, and leases: who owns what, agreed upon by all."""

    async def get(self, key: str) -> Pair:
        """What a key has; revision 0 and no value: it was never set."""

    async def set(self, key: str, value: bytes | None, revision: int) -> Pair | None:
        """Set a key if it still has a revision (None: delete it); None: it has another."""

    async def acquire(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        """Take a lease that nobody holds; None: somebody does."""

    async def renew(self, lease: Lease, ttl_ms: int) -> Lease | None:
        """Hold a lease for longer, from now; None: it has ended."""

    async def release(self, lease: Lease) -> None:
        """Give a lease back; one that has ended is ignored."""

    async def holder(self, name: str) -> Lease | None:
        """Who holds a lease now."""

    def watch(self, prefix: str, since: int = 0) -> AsyncIterator[Pair]:
        """Keys that begin so, each time one is set after a revision: the last value of each."""


class ShardManager(Protocol):
    """Who is responsible for a job or node."""

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards."""

    def owner(self, key: str) -> str:
        """The shard that owns a job or node."""


@dataclass(frozen=True)
class NodeHealth:
    """A change in what a fault detector thinks of a node.

    ``seen_ms``: when it last showed itself, below 0 if that is not known.
    """

    node_id: str
    alive: bool
    seen_ms: int = field(default=-1, compare=False)


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
    """Carries effects out.

    What it is told it may be told again, by an orchestrator that was restarted and does not know
    how far its predecessor got: a run that is there is not started again, one that is being saved
    goes on being saved.

    A run does not begin before nothing can be left of the one before: that may still have workers
    on a node that is cut off, which a stop does not reach, until their lease is over.
    """

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        """Say where events go; the last call counts.

        An event that raises an error there, or comes back False, is not in the log: it has to be
        reported again, at the latest to whoever is bound next.
        """

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Begin to carry effects out, in this order.

        Returns at once and delivers no event before it has: what comes of the effects, failures
        included, is delivered later.
        """

    def observe(self) -> Mapping[str, int]:
        """Jobs whose workers exist, or whose end is not reported yet, and their runs."""


@runtime_checkable
class Serving(Protocol):
    """A runtime whose replicas of services answer requests at addresses of their own."""

    def endpoints(self, job_id: str) -> Mapping[tuple[str, int], tuple[str, int]]:
        """Where the replicas of a job answer that do: (node, index there) -> (host, port)."""


@runtime_checkable
class Renewing(Serving, Protocol):
    """A runtime that replaces replicas of services one by one."""

    def renew(self, job_id: str, place: tuple[str, int]) -> bool:
        """Have a replica end, and another one begin in its place; whether there is one."""

    def recall(self, specs: Mapping[str, JobSpec]) -> None:
        """Learn what the services are whose replicas run already.

        A runtime that was restarted knows their processes only. From now on it replaces those that
        end, as it does with those that it has started.
        """


@dataclass(frozen=True)
class WorkerOutput:
    """What is kept of what a worker has written to its standard output and error.

    Parameters
    ----------
    job_id, node_id : str
        Whose it is, and where.
    run, worker : int
        Which run of the job, and which worker of that: from 0, in the order of ranks as long as a
        run keeps its workers.
    begin, end : int
        Bytes of its whole output: from the first one that is still kept, to behind the last one.
    ended : bool
        Whether it has ended, and writes nothing more.
    """

    job_id: str
    run: int
    worker: int
    node_id: str
    begin: int
    end: int
    ended: bool


@dataclass(frozen=True)
class Output:
    """A part of what a worker has written.

    Parameters
    ----------
    data : bytes
        The part; empty: there is nothing at the offset, or nothing yet.
    offset : int
        Where it begins in the worker's whole output: later than was asked for if what was before
        is not kept any more.
    next_offset : int
        Where the next part begins.
    run : int
        Which run of the job it is of.
    ended : bool
        Whether it is the end: the worker has ended, and nothing comes after it.
    """

    data: bytes
    offset: int
    next_offset: int
    run: int
    ended: bool


@runtime_checkable
class Readable(Protocol):
    """A runtime that keeps what workers write."""

    async def outputs(self, job_id: str, run: int | None = None) -> Sequence[WorkerOutput]:
        """What there is of a run of a job, by worker; None: of its last run that there is.

        Empty: nothing is kept, or nothing was ever written.
        """

    async def output(
        self,
        job_id: str,
        worker: int,
        *,
        run: int | None = None,
        offset: int = 0,
        limit: int = 65_536,
        wait_s: float = 0.0,
    ) -> Output:
        """A part of what a worker has written, from an offset on.

        With ``wait_s`` it waits for so long until there is some. An offset below 0 counts from the
        end.

        Raises
        ------
        UnknownEntityError
            If nothing is kept of such a worker.
        UnreachableError
            If it is on a node that is gone, or does not answer.
        """


@runtime_checkable
class Equipped(Protocol):
    """A runtime that knows which GPUs its nodes really have."""

    def devices(self, node_id: str) -> Sequence[Gpu] | None:
        """Those that were found on a node; None: nobody could look."""


@runtime_checkable
class Fenced(Protocol):
    """A runtime that can tell the orders of a leader from those of one that was replaced."""

    def fence(self, term: int, index: int) -> None:
        """Say who orders from now on: the leader of a term, by an entry of its log."""


@runtime_checkable
class Admission(Protocol):
    """Who sees jobs before they are submitted.

    Managers of workloads; policies and runtimes that want to.
    """

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it should be submitted; raises an error if it must not be."""


class WorkloadManager(Admission, Protocol):
    """Who sees to the jobs of one kind."""

    async def review(self) -> None:
        """See to one's running jobs; whenever the cluster's size is decided on."""


@runtime_checkable
class Policy(Protocol):
    """Decides. It sees a snapshot, touches nothing, and returns a plan."""

    def decide(self, snapshot: Snapshot) -> Plan:
        """What to do at the decision point at which the snapshot was taken."""


@runtime_checkable
class Planner(Policy, Protocol):
    """Decides a whole scheduling cycle at once."""

    def plan(self, snapshot: Snapshot) -> Plan:
        """All that it would decide, one after the other, until it waits; the snapshot is spoilt."""


@dataclass(frozen=True)
class Sized:
    """What of a cluster's size a policy decides on: so many services, the first ones; and nodes."""

    services: int = 0
    nodes: bool = False


@runtime_checkable
class SizingPolicy(Policy, Protocol):
    """A policy that may size services and the fleet: at ticks it is asked, and told about them."""

    @property
    def sizes(self) -> Sized:
        """What it decides on, or would."""

    def sized(self, since: int) -> Sized:
        """What it has decided on at an entry of the log from ``since`` on; the rest it did not."""


@runtime_checkable
class ServiceSizer(Protocol):
    """A manager who knows how services are to be sized."""

    def sizing_of(self, job_id: str) -> Sizing | None:
        """How the service of a job is; None: it does not know."""


@runtime_checkable
class WakefulPolicy(Policy, Protocol):
    """Decides between events as well, where it can be asked: in evaluations.

    A live cluster asks all policies alike, at events and reviews.
    """

    wake_ms: int | None
    """When it wants to be asked again if nothing happens before; None: not before."""


class Provisioner(Protocol):
    """Where new nodes come from, and where they go when nobody needs them."""

    @property
    def template(self) -> NodeSpec:
        """What it delivers; every node gets an identity of its own."""

    @property
    def pending(self) -> int:
        """Nodes that are ordered and not delivered yet."""

    def bind(self, join: Callable[[NodeSpec], Awaitable[object]]) -> None:
        """Say who takes nodes that arrive; the last call counts.

        A node at which an error is raised, or False comes back, was not taken: it is handed over
        again, at the latest to whoever is bound next.
        """

    def order(self, count: int) -> None:
        """Order nodes. Returns at once; each is handed over when it is there."""

    def release(self, node_ids: Sequence[str]) -> None:
        """Nodes have left the cluster and are given back; those of other origin are ignored."""


@runtime_checkable
class Catalogue(Provisioner, Protocol):
    """A provisioner that delivers nodes of several kinds."""

    @property
    def templates(self) -> tuple[NodeSpec, ...]:
        """All that it delivers, the usual kind (``template``) first."""

    def order(self, count: int, template: NodeSpec | None = None) -> None:
        """Order nodes of a kind; None: of the usual one."""
