"""What has happened in a cluster, in order, with cursors that hold over restarts.

Made of the entries of the log and of what came of them. A cursor is the number of an entry and that
of a happening in it, ``"ENTRY.K"``: a restart that replays the log's tail tells the same under the
same cursors. What is kept is bounded; whoever asks for more than that is told of the gap, and
nobody waits for those who read slowly.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import ValidationError
from orchestrator.kernels.state.codes import JobCode, JobKind, NodeCode, Reason
from orchestrator.messages import (
    Command,
    Configure,
    Decide,
    Decommission,
    Entry,
    Event,
    NodeFailed,
    NodeRecovered,
    PlaceJob,
    PreemptJob,
    Register,
    RegroupJob,
    ReleaseNode,
    ResizeJob,
    ScaleFleet,
    ScaleService,
    StartJob,
    StopJob,
    Undrain,
    Wait,
)
from orchestrator.types import JobState, ScalingDecision

__all__ = ["ANNOUNCED", "MOST_HAPPENINGS", "Happening", "Happenings"]


MOST_HAPPENINGS = 16_384
"""Happenings that are kept, the last ones; up to twice as many for a while."""


_Place: TypeAlias = tuple[int, int]  # in the log: entry, number in it
_Body: TypeAlias = Command | Event


_NAMED = 8  # actions of a decision that are told one by one
_PART = 256  # happenings that a follower takes at once


@dataclass(frozen=True)
class Happening:
    """Something that happened.

    Parameters
    ----------
    entry, number : int
        Which entry of the log it came of, and which happening of that entry it is, from 1.
    time_ms : int
        When.
    kind : str
        To what: ``job``, ``node``, ``decision``, ``scaling``, ``service`` or ``policy``, or what
        whoever announced it says. ``gap``: earlier happenings are not kept any more.
    what : str
        In a word or two.
    reason : str
        For people.
    job_id, node_id : str or None
        Whom it is about.
    details : mapping
        More, as plain data.
    """

    entry: int
    number: int
    time_ms: int
    kind: str
    what: str
    reason: str = ""
    job_id: str | None = None
    node_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cursor(self) -> str:
        """Where it is: ask with it for what came after."""
        return f"{self.entry}.{self.number}"

    def as_dict(self) -> dict[str, Any]:
        """As plain data, without what is not known."""
        told: dict[str, Any] = {"cursor": self.cursor, "time_ms": self.time_ms, "kind": self.kind}
        told |= {"gap": True} if self.kind == "gap" else {}
        for name in ("job_id", "node_id"):
            if getattr(self, name) is not None:
                told[name] = getattr(self, name)
        return {**told, "what": self.what, "reason": self.reason, **self.details}


def _place_of(cursor: str) -> _Place:
    """Where a cursor points to."""
    entry, dot, number = str(cursor).partition(".")
    if not (dot and entry.isdecimal() and number.isdecimal()):
        problem = f"is {cursor!r:.80}"
        raise ValidationError("happenings", "since", problem, "give a cursor that was told")
    return int(entry), int(number)


class Happenings:
    """Keeps what has happened of late, and tells those who follow.

    Parameters
    ----------
    engine : Engine
        The cluster, which has applied whatever is noted.
    most : int
        How many are kept.
    """

    def __init__(self, engine: Engine, most: int = MOST_HAPPENINGS) -> None:
        self._engine, self._most = engine, most
        self._kept: list[Happening] = []
        self._lost: _Place = (0, 0)  # what came up to here is not kept
        self._next = 0  # entry
        self._codes: dict[str, int] = dict(engine.nodes.codes)
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    # --- noting --------------------------------------------------------------------------------

    def note(self, at: int, entry: Entry, outcome: Outcome) -> None:
        """An entry of the log, number ``at``, was applied."""
        if at != self._next:  # a snapshot stands for what was before
            self._kept.clear()
            self._lost = (at, 0)
        self._next = at + 1
        time_ms = self._engine.now_ms
        fresh = [
            Happening(at, number, time_ms, **told)
            for number, told in enumerate(self._told(entry.body, outcome), 1)
        ]
        if not fresh:
            return
        self._kept += fresh
        if len(self._kept) > 2 * self._most:
            last = self._kept[-self._most - 1]
            self._lost = last.entry, last.number
            del self._kept[: -self._most]
        self._wake()

    def _told(self, body: _Body, outcome: Outcome) -> Iterator[dict[str, Any]]:
        if isinstance(body, Decide):
            yield from _of_decision(body, outcome.reason)
        elif isinstance(body, Configure):
            yield from _of_setting(body)
        for note in outcome.notes:
            known = note.job_id in self._engine.jobs.index
            values = ((name, getattr(note, name)) for name in _OF_JOBS)
            details: dict[str, Any] = {n: value for n, value in values if value not in _UNKNOWN}
            if known:
                details["state"] = _STATES[self._engine.jobs.code(note.job_id)]
            yield {
                "kind": "job",
                "what": note.what,
                "reason": note.reason,
                "job_id": note.job_id,
                "details": details,
            }
        yield from self._of_nodes(body, outcome)
        yield from self._of_services(outcome)

    def _of_nodes(self, body: _Body, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """Nodes whose state has changed."""
        touched = dict[str, str]()
        if isinstance(body, Register):
            touched[body.spec.node_id] = "it was registered"
        elif isinstance(body, Decommission | Undrain | NodeFailed | NodeRecovered):
            touched[body.node_id] = _why_node(body)
        for effect in outcome.effects:
            if isinstance(effect, ReleaseNode):
                touched.setdefault(effect.node_id, "its last job has left it")
        for node_id, reason in touched.items():
            before = self._codes.get(node_id, NodeCode.ABSENT)
            there = node_id in self._engine.nodes.specs
            after = self._engine.nodes.code(node_id) if there else NodeCode.ABSENT
            if after == before:
                continue
            self._codes[node_id] = after
            if after == NodeCode.ABSENT:
                del self._codes[node_id]
            yield {
                "kind": "node",
                "what": _TURNS.get((before, after), NodeCode(after).name.lower()),
                "reason": reason,
                "node_id": node_id,
                "details": {"state": NodeCode(after).name.lower()},
            }

    def _of_services(self, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """Services that have another number of replicas, or have them elsewhere."""
        specs = self._engine.jobs.specs
        for effect in outcome.effects:
            if not isinstance(effect, StartJob | RegroupJob | StopJob):
                continue
            spec = specs.get(effect.job_id)
            if spec is None or spec.kind != JobKind.SERVICE:
                continue
            count = len(self._engine.workers_of(effect.job_id))
            yield {
                "kind": "service",
                "what": "replicas",
                "reason": f"service '{spec.name}' has {count} in job '{effect.job_id}'",
                "job_id": effect.job_id,
                "details": {"service": spec.name, "replicas": count},
            }

    # --- asking --------------------------------------------------------------------------------

    @property
    def cursor(self) -> str:
        """Behind all that has happened so far."""
        if self._kept:
            return self._kept[-1].cursor
        return f"{self._next}.0"

    def since(self, cursor: str | None, limit: int) -> tuple[list[Happening], bool]:
        """What came after a cursor, and whether something before that is not kept any more.

        None: the last ones.
        """
        if limit < 1:
            raise ValidationError("happenings", "limit", f"is {limit}", "give at least 1")
        if cursor is None:
            return self._kept[-limit:], False
        place = _place_of(cursor)
        first = bisect_right(self._kept, place, key=lambda one: (one.entry, one.number))
        return self._kept[first : first + limit], place < self._lost

    def follow(self, cursor: str | None) -> AsyncIterator[Happening]:
        """What comes after a cursor, as it happens; None: from now on.

        Whoever reads so slowly that something is dropped meanwhile gets a happening of the kind
        ``gap``, and then what is kept.
        """
        at = self.cursor if cursor is None else cursor
        _place_of(at)
        return self._follow(at)

    async def _follow(self, at: str) -> AsyncIterator[Happening]:
        while not self._closed:
            found, gap = self.since(at, _PART)
            if gap:
                entry, number = self._lost
                time_ms = found[0].time_ms if found else self._engine.now_ms
                reason = "what happened before is not kept any more; read the state anew"
                at = f"{entry}.{number}"
                yield Happening(entry, number, time_ms, "gap", "gap", reason)
                continue
            for one in found:
                at = one.cursor
                yield one
            if not found:
                await self._something()

    async def _something(self) -> None:
        waits = asyncio.get_running_loop().create_future()
        self._waiting.add(waits)
        try:
            await waits
        finally:
            self._waiting.discard(waits)

    def _wake(self) -> None:
        for waits in self._waiting:
            if not waits.done():
                waits.set_result(None)

    def close(self) -> None:
        """Nothing more happens: those who follow come to the end."""
        self._closed = True
        self._wake()


_OF_JOBS = ("cause", "by", "run", "exit_code")  # what is told of a note besides
_UNKNOWN = (None, "")
# By code: looking members of enumerations up, for each job of a cycle, costs as much as all else.
_STATES = {code: JobState[code.name].value for code in JobCode if code.name in JobState.__members__}


_TURNS: dict[tuple[int, int], str] = {
    (NodeCode.ABSENT, NodeCode.UP): "joined",
    (NodeCode.ABSENT, NodeCode.DOWN): "registered",
    (NodeCode.DOWN, NodeCode.UP): "recovered",
    (NodeCode.DRAINING, NodeCode.UP): "stays",
    (NodeCode.UP, NodeCode.DRAINING): "draining",
    (NodeCode.UP, NodeCode.DOWN): "failed",
    (NodeCode.UP, NodeCode.ABSENT): "left",
    (NodeCode.DOWN, NodeCode.ABSENT): "left",
    (NodeCode.DRAINING, NodeCode.ABSENT): "left",
}
"""What a change of a node's state is called."""


def _why_node(body: Decommission | Undrain | NodeFailed | NodeRecovered) -> str:
    match body:
        case Decommission(_, drain):
            return "it is to be drained" if drain else "it was removed"
        case Undrain():
            return "it is not to leave any more"
        case NodeFailed():
            return "it does not answer"
    return "it answers again"


def _of_decision(body: Decide, reason: Reason) -> Iterator[dict[str, Any]]:
    """What a policy has decided; that it waits is not told."""
    actions = [action for action in body.plan.actions if not isinstance(action, Wait)]
    if not actions:
        return
    first = [_action(action) for action in actions[:_NAMED]]
    refused = reason != Reason.OK
    yield {
        "kind": "decision",
        "what": "refused" if refused else "decided",
        "reason": reason.name.lower() if refused else "",
        "details": {"count": len(actions), "actions": first},
    }


def _action(action: object) -> dict[str, Any]:
    """An action as plain data."""
    match action:
        case PlaceJob(job_id, generator):
            where = None if generator is None else int(generator)
            return {"action": "place", "job_id": job_id, "generator": where}
        case PreemptJob(job_id, reason):
            return {"action": "preempt", "job_id": job_id, "reason": reason}
        case ResizeJob(job_id, workers):
            return {"action": "resize", "job_id": job_id, "workers": int(workers)}
        case ScaleService(job_id, replicas):
            return {"action": "scale", "job_id": job_id, "workers": int(replicas)}
        case ScaleFleet(nodes):
            return {"action": "order" if nodes > 0 else "give up", "nodes": abs(int(nodes))}
    return {"action": "migrate", "job_id": getattr(action, "job_id", None)}


ANNOUNCED = "happening"
"""Of what nobody else needs to know after a restart: ``Configure("happening:KIND", {...})``."""


def _of_setting(body: Configure) -> Iterator[dict[str, Any]]:
    """What was set, or announced."""
    kind, _, name = body.subject.partition(":")
    value = body.value
    if kind == ANNOUNCED and isinstance(value, dict):
        told = {str(key): one for key, one in value.items()}
        yield {
            "kind": name,
            "what": str(told.pop("what", "")),
            "reason": str(told.pop("reason", "")),
            "job_id": told.pop("job_id", None),
            "node_id": told.pop("node_id", None),
            "details": told,
        }
    elif kind == "policy" and not name:
        rule = getattr(value, "name", None)
        said = "another policy decides" if rule is None else f"rule '{rule}' decides"
        yield {"kind": "policy", "what": "set", "reason": said, "details": {"rule": rule}}
    elif kind == "service":
        what = "removed" if value is None else "rules"
        said = f"service '{name}' has no rules of its own" if value is None else "its rules are new"
        yield {"kind": "service", "what": what, "reason": said, "details": {"service": name}}
    elif kind == "scaling" and isinstance(value, ScalingDecision):
        details = {"target_nodes": value.target_nodes, "predicted_demand": value.predicted_demand}
        what = value.direction.value
        yield {"kind": "scaling", "what": what, "reason": value.reason, "details": details}
