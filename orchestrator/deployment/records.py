"""Decisions as they are kept: what was seen, what each choice was worth, and what was taken."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import CorruptedError
from orchestrator.kernels.state.row import ZEROED
from orchestrator.messages import (
    Action,
    MigrateJob,
    PlaceJob,
    Plan,
    PreemptJob,
    ResizeJob,
    ScaleFleet,
    ScaleService,
)
from orchestrator.ports import Policy
from orchestrator.twin.scene.cast import Understudy

__all__ = [
    "Choice",
    "Considered",
    "DecisionRecord",
    "LearnedPolicy",
    "LeavesJobs",
    "Mode",
    "Understood",
    "Verdict",
    "essence_of",
    "pack_choices",
    "state_digest",
    "text_of",
    "unpack_choices",
    "without_sizes",
]


class Mode(Enum):
    """Who decides, and what is done with a candidate."""

    FALLBACK = "fallback"
    """The rule decides; there is no candidate."""
    SHADOW = "shadow"
    """The rule decides; the candidate is asked beside it, and nothing is done about its answers."""
    CANARY = "canary"
    """The candidate decides at a share of the decision points."""
    ACTIVE = "active"
    """The candidate decides."""


class Verdict(Enum):
    """What became of a decision."""

    TAKEN = "taken"
    """It was handed to the orchestrator."""
    SHADOWED = "shadowed"
    """It was only compared with the rule's."""
    LATE = "late"
    """It did not come before its deadline; the rule has decided."""
    FAILED = "failed"
    """The policy raised an error; the rule has decided."""
    ILLEGAL = "illegal"
    """It was none that may be taken; the rule has decided."""


@dataclass(frozen=True)
class Choice:
    """One choice of a learned policy; a plan is made of several.

    Parameters
    ----------
    observation : mapping of str to ndarray
        What it was shown, one row.
    actions : int64 [N]
        Numbers of the legal actions.
    scores : float [N]
        What it thinks of each.
    chosen : int
        Number of the one that it takes.
    alternatives : sequence of (str, float), optional
        The best ones in words, and their scores.
    """

    observation: Mapping[str, NDArray[Any]]
    actions: NDArray[np.int64]
    scores: NDArray[np.floating[Any]]
    chosen: int
    alternatives: Sequence[tuple[str, float]] = ()

    @property
    def digest(self) -> str:
        """Of the observation: names, types and values."""
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self.observation):
            part = self.observation[name]
            digest.update(f"{name} {part.dtype.str} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def same_scores(self, other: Choice) -> bool:
        """Whether another one found the same actions legal, and worth the same, bit for bit."""
        return (
            self.scores.dtype == other.scores.dtype
            and self.actions.tobytes() == other.actions.tobytes()
            and self.scores.tobytes() == other.scores.tobytes()
        )


@dataclass(frozen=True)
class Considered:
    """A plan, and the choices that it is made of, in their order."""

    plan: Plan
    choices: tuple[Choice, ...] = ()


@runtime_checkable
class LearnedPolicy(Policy, Protocol):
    """A policy that says what it saw, and what it thinks of what it does not do.

    The same digest decides alike, bit for bit.
    """

    @property
    def name(self) -> str:
        """For tables."""

    @property
    def digest(self) -> str:
        """Of all that it decides by."""

    def consider(self, snapshot: Snapshot) -> Considered:
        """All that it would decide, until it waits; the snapshot is spoilt."""


@runtime_checkable
class LeavesJobs(Protocol):
    """A policy that may have been trained to size services and fleet, and nothing else."""

    def leave_jobs_to(self, rule: Policy) -> None:
        """Say who places jobs then."""


@runtime_checkable
class Understood(Protocol):
    """A policy that may be played in futures, without leaving compiled code."""

    @property
    def understudy(self) -> Understudy | None:
        """Who plays in its place; None: nobody can."""


@dataclass(frozen=True)
class DecisionRecord:
    """A decision of a candidate.

    Parameters
    ----------
    entry : int
        Entries of the cluster's log before it.
    time_ms, point : int
        When; number of the decision point.
    state : str
        Digest of the cluster as it was; see :func:`state_digest`.
    mode : str
        A :class:`Mode`.
    policy, digest : str
        Name and digest of the policy.
    verdict : str
        A :class:`Verdict`.
    latency_us : int
        From the question to the answer, or to the deadline; what is copied for it counts.
    agreed : bool or None
        Whether the rule wanted the same; None: it was not asked.
    plan : tuple of str
        Actions, in words.
    detail : str
        Why it was not taken.
    choices : tuple of Choice
        None where there was no answer in time.
    """

    entry: int
    time_ms: int
    point: int
    state: str
    mode: str
    policy: str
    digest: str
    verdict: str
    latency_us: int
    agreed: bool | None = None
    plan: tuple[str, ...] = ()
    detail: str = ""
    choices: tuple[Choice, ...] = field(default=(), compare=False)


def state_digest(snapshot: Snapshot) -> str:
    """Of a cluster as it is: its clock, counters and sums, and the hash of all that has changed.

    What is only remembered to save time is not part of it, nor how what is to be shown is set up.
    """
    offset, size = ZEROED
    row = snapshot.state.rows[:1].view(np.uint8)[offset : offset + size]
    return hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest()


def text_of(action: Action) -> str:
    """An action in words."""
    match action:
        case PlaceJob(job_id, generator):
            where = "" if generator is None else f" ({generator.name.lower()})"
            return f"place {job_id}{where}"
        case PreemptJob(job_id):
            return f"preempt {job_id}"
        case ResizeJob(job_id, workers):
            return f"resize {job_id} to {workers}"
        case MigrateJob(job_id):
            return f"move {job_id}"
        case ScaleService(job_id, replicas):
            return f"scale {job_id} to {replicas}"
        case ScaleFleet(nodes):
            many = "s" * (abs(nodes) != 1)
            return f"{'order' if nodes > 0 else 'give up'} {abs(nodes)} node{many}"
    return "wait"


def essence_of(plan: Plan) -> tuple[str, ...]:
    """What a plan comes to, in words, whatever its order.

    To wait at the end goes without saying, and so do the sizes on the way to the last one.
    """
    sizes, nodes, found = dict[str, str](), 0, list[str]()
    for action in plan.actions:
        match action:
            case ScaleService(job_id):
                sizes[job_id] = text_of(action)
            case ScaleFleet(more):
                nodes += more
            case _:
                found.append(text_of(action).split(" (")[0])
    found += [*sizes.values(), *([text_of(ScaleFleet(nodes))] if nodes else [])]
    return tuple(sorted(text for text in found if text != "wait"))


def without_sizes(plan: Plan) -> Plan:
    """A plan without what it does about services and nodes."""
    kept = [one for one in plan.actions if not isinstance(one, ScaleService | ScaleFleet)]
    return Plan(tuple(kept))


# --- as bytes ------------------------------------------------------------------------------------


class _Array(msgspec.Struct, array_like=True, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    observation: dict[str, _Array]
    actions: _Array
    scores: _Array
    chosen: int
    alternatives: list[tuple[str, float]]


def _array(values: NDArray[Any]) -> _Array:
    return _Array(values.dtype.str, values.shape, np.ascontiguousarray(values).tobytes())


def _values(array: _Array) -> NDArray[Any]:
    dtype = np.dtype(array.dtype)
    if dtype.hasobject:
        raise ValueError(f"arrays of type {array.dtype} are not read")
    return np.frombuffer(array.data, dtype).reshape(array.shape)


def pack_choices(choices: Sequence[Choice]) -> bytes:
    """Choices as bytes, compressed."""
    packed = [
        _Packed(
            {name: _array(part) for name, part in choice.observation.items()},
            _array(choice.actions),
            _array(choice.scores),
            choice.chosen,
            list(choice.alternatives),
        )
        for choice in choices
    ]
    return zlib.compress(msgspec.msgpack.encode(packed), 1)


def unpack_choices(data: bytes) -> tuple[Choice, ...]:
    """The inverse of :func:`pack_choices`.

    Raises
    ------
    CorruptedError
        If the bytes are none of choices.
    """
    try:
        packed = msgspec.msgpack.decode(zlib.decompress(data), type=list[_Packed])
        return tuple(
            Choice(
                {name: _values(part) for name, part in one.observation.items()},
                _values(one.actions),
                _values(one.scores),
                one.chosen,
                one.alternatives,
            )
            for one in packed
        )
    except (ValueError, TypeError, zlib.error, msgspec.MsgspecError) as error:
        raise CorruptedError(
            f"a logged decision cannot be read ({error}); delete the file of decisions, or restore "
            "it from a copy"
        ) from error
