"""Gangs of real workers: who of a job is where, and what their ends mean for it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.messages import (
    CheckpointCommitted,
    Event,
    WorkerExited,
    WorkerPlacement,
    WorkersLost,
)
from orchestrator.node.protocol import Cause, Ended, Saved, Seen, World
from orchestrator.ports import Timer

__all__ = [
    "Gang",
    "Member",
    "endpoints_of",
    "left_over",
    "matched",
    "members_of",
    "verdict_of",
]


_TAIL = 600  # characters of a log that go into a reason
_LOST = (Cause.SIGNAL, Cause.NODE, Cause.LEASE, Cause.HALTED)
_REPLACED = (Cause.EXIT, Cause.SIGNAL, Cause.MEMORY, Cause.NODE)  # ends of replicas
_MOST_REPLACED, _REPLACED_MS = 5, 60_000  # workers of a run, within so long
_KILLED = 128 + signal.SIGKILL


@dataclass
class Member:
    """A worker of a gang, as far as is known here.

    ``rank`` is the one that it is started with, ``order`` the one that it has, or is to have.
    ``told``: its agent may have started it. ``fresh``: it is not part of a world yet. ``leaves``:
    it is to end, and the gang goes on without it. ``ended``: nothing of it is left. ``before``: a
    former orchestrator had begun it, though this one was told to. ``since``: the first generation
    that it may take part in; it does when it has joined that or a later one. ``halted``: why it was
    told to end. ``world``: generation and size of the world that it is in, by its agent.
    """

    worker: int
    node: str
    gpus: tuple[int, ...]
    rank: int
    told: bool = False
    ours: bool = False  # it was told to start here
    before: bool = False
    knows: bool = False
    port: int = 0  # where a replica answers requests
    fresh: bool = False
    leaves: bool = False
    since: int = 0
    joined: int = 0
    order: int = -1
    ended: Ended | None = None
    gone: bool = False  # with its node, without a report
    number: int = 0  # of the report of its end
    renews: bool = False  # a replica that is to end, and to be replaced
    halted: str = ""
    world: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """It has the place that it knows of."""
        self.order = self.rank if self.order < 0 else self.order

    @property
    def alive(self) -> bool:
        """Whether something of it may be left."""
        return self.told and self.ended is None and not self.gone


@dataclass(eq=False)
class Gang:
    """A run of a job, as far as is known here.

    ``verdict`` is what has to be reported, and ``heard`` whether somebody has taken it.
    ``size`` is how many workers it has by their own account, 0 where that is known here.
    """

    job: str
    run: int
    members: dict[int, Member] = field(default_factory=dict)
    size: int = 0
    generation: int = 0
    published: int = 0
    master: tuple[str, int] = ("127.0.0.1", 0)
    begun: bool = False
    replaced_ms: list[int] = field(default_factory=list)  # when workers were, of late
    service: bool = False  # its workers are replicas, each by itself
    told_here: bool = False  # it was started, or changed, by this runtime and no former one
    started_here: bool = False
    restarts: bool = False  # all its workers are to end, and others to begin
    saving: int = 0
    unsaved: set[int] = field(default_factory=set)
    leaving: bool = False
    seen_ms: int = -1
    verdict: Event | None = None
    heard: bool = True
    timers: dict[str, Timer] = field(default_factory=dict)
    worlds: dict[str, World] = field(default_factory=dict)  # by node: what was told of the last one

    @property
    def over(self) -> bool:
        """Whether it has ended, by what is to be reported: what is left of it ends, too."""
        return self.verdict is not None and not isinstance(self.verdict, CheckpointCommitted)

    @property
    def yields(self) -> bool:
        """Whether it gives up its place, and nobody of it can be asked to save."""
        return self.saving > 0 and not self.unsaved and self.verdict is None

    @property
    def wanted(self) -> bool:
        """Whether a worker of it that is missing is to be started."""
        return self.begun and not (self.restarts or self.yields) and self.verdict is None

    @property
    def present(self) -> list[Member]:
        """Workers that belong to it, in the order of their ranks."""
        found = [m for m in self.members.values() if not m.leaves]
        return sorted(found, key=lambda member: member.order)

    @property
    def alive(self) -> list[Member]:
        """Workers of which something may be left, those that leave included."""
        return [member for member in self.members.values() if member.alive]

    @property
    def knows(self) -> bool:
        """Whether its workers can be spoken with."""
        there = [member for member in self.present if member.alive]
        return bool(there) and all(member.knows for member in there)

    @property
    def next_rank(self) -> int:
        """What a newcomer is called by the others: no one of them was started with it."""
        return max((member.rank for member in self.members.values()), default=-1) + 1

    @property
    def next_worker(self) -> int:
        """Identity of a new worker."""
        return max(self.members, default=-1) + 1

    def nodes(self, members: Iterable[Member] | None = None) -> list[str]:
        """Where its workers are, each node once."""
        found = self.members.values() if members is None else members
        return list(dict.fromkeys(member.node for member in found))

    def cancel_timers(self) -> None:
        """Wait for nothing more."""
        for timer in self.timers.values():
            timer.cancel()
        self.timers.clear()

    def numbers(self) -> dict[str, list[int]]:
        """Reports of ends, by node, that are to be acknowledged."""
        found = dict[str, list[int]]()
        for member in self.members.values():
            if member.number:
                found.setdefault(member.node, []).append(member.number)
                member.number = 0
        return found

    def note_before(self, member: Member) -> None:
        """An agent knows a worker of this run; if nobody here has begun it, a former one has."""
        member.before = member.before or (self.started_here and not member.ours)

    @property
    def torn(self) -> bool:
        """Whether some have begun it before, and others are not theirs: these never meet.

        Replicas need not.
        """
        there = [member for member in self.present if member.told]
        before = [member for member in there if member.before]
        return bool(before) and len(before) < len(there) and not self.service

    @property
    def half_begun(self) -> bool:
        """Whether some have begun it before, and others were never told to begin."""
        before = any(member.before for member in self.present)
        return before and not all(member.told for member in self.present)

    @property
    def split(self) -> bool:
        """Whether a former orchestrator has told only some of them of its last world."""
        worlds = [member.world for member in self.present if member.alive]
        whole = not self.told_here and not self.service and bool(worlds) and self.knows
        return whole and len(set(worlds)) > 1 and len(self.present) == max(worlds)[1] == len(worlds)

    def missed(self, node: str, seen: Seen) -> World | None:
        """The world that an agent was told of and, by what it has of a worker, did not hear of."""
        world = self.worlds.get(node)
        if world is None or seen.generation >= world.generation:
            return None
        return world if seen.worker in dict(world.members) else None

    def try_survive(self, now_ms: int) -> bool:
        """Whether those that are left go on while others are started for those that were killed."""
        lost = [m.ended for m in self.present if m.ended is not None]
        stay = [m for m in self.present if m.alive and m.knows and not m.fresh]
        fine = bool(stay) and len(stay) + len(lost) == len(self.present)
        killed = {end.cause for end in lost} == {Cause.SIGNAL}
        return fine and killed and self._try_spend(len(lost), now_ms)

    def try_replace(self, now_ms: int) -> bool:
        """Whether replicas that have ended are replaced; one by one, and not again and again."""
        ends = [(m.ended, m.renews) for m in self.present if m.ended is not None]
        fine = self.service and bool(ends)
        fine = fine and all(told or (e.cause in _REPLACED and e.code != 0) for e, told in ends)
        return fine and self._try_spend(sum(not told for _, told in ends), now_ms)

    def renewing(self, place: tuple[str, int]) -> Member | None:
        """The replica with a number on a node, which is to end now and to be replaced.

        None: none is there.
        """
        node, index = place
        there = [member for member in self.present if member.node == node][index : index + 1]
        if not self.service or not there or not there[0].alive or self.saving:
            return None
        there[0].renews = True
        return there[0]

    def _try_spend(self, count: int, now_ms: int) -> bool:
        """Whether so many more are replaced; if so, they are counted."""
        recent = [then for then in self.replaced_ms if then > now_ms - _REPLACED_MS]
        if len(recent) + count > _MOST_REPLACED:
            return False
        self.replaced_ms = [*recent, *[now_ms] * count]
        return True

    def part_with_ended(self) -> list[Member]:
        """Workers that have ended belong to it no longer."""
        lost = [member for member in self.present if member.ended is not None]
        for member in lost:
            member.leaves = True
        return lost

    def replace_ended(self) -> list[Member]:
        """Others take the places of workers that have ended; they are to be started."""
        fresh = []
        for lost in self.part_with_ended():
            worker, rank = self.next_worker, self.next_rank
            fresh.append(Member(worker, lost.node, lost.gpus, rank, order=lost.order))
            self.members[worker] = fresh[-1]
        return fresh

    def reform(self, stay: list[Member], go: list[Member], places: list[WorkerPlacement]) -> None:
        """Some stay, some go, some are to come."""
        for member in go:
            member.leaves = True
        for order, member in enumerate(stay):
            member.order = order
        for order, place in enumerate(places, len(stay)):
            worker, rank = self.next_worker, self.next_rank
            fresh = Member(worker, place.node_id, place.gpus, rank, order=order)
            fresh.fresh = not self.service
            fresh.since = 0 if self.service else self.generation + 1
            self.members[worker] = fresh
        self.generation += 1
        self.told_here, self.size = True, 0

    def note_saved(self, saved: Saved) -> Event | None:
        """A worker has answered a save; what that means for the job, if it means something."""
        if saved.number != self.saving or self.verdict is not None:
            return None
        if saved.problem:
            reason = f"worker {saved.worker} could not save: {saved.problem}"
            return WorkersLost(self.job, self.run, reason)
        self.unsaved.discard(saved.worker)
        return None if self.unsaved else CheckpointCommitted(self.job, self.run)

    def note_end(self, node: str, ended: Ended, number: int) -> Member:
        """A worker has ended; its agent has told so with this number."""
        member = self.members.get(ended.worker)
        if member is None:
            member = Member(ended.worker, node, (), ended.rank, told=True)
            self.members[ended.worker] = member
        self.note_before(member)
        member.told = True
        member.ended, member.number = ended, number
        member.renews = member.renews or ended.renews
        if not self.told_here:
            self.begun, self.size = True, self.size or ended.size
            self.service = self.service or ended.replica
        return member

    def adopt(self, node: str, seen: Seen) -> Member:
        """An agent has a worker of this run."""
        member = self.members.get(seen.worker)
        if member is None:
            member = Member(seen.worker, node, seen.gpus, seen.rank)
            self.members[seen.worker] = member
        self.note_before(member)
        member.told, member.gone = True, False
        member.rank, member.order = seen.first_rank, seen.rank
        member.knows, member.port = member.knows or seen.knows, seen.port
        member.world = seen.generation, seen.size
        member.renews = member.renews or seen.renews
        if not self.told_here:
            self.size = seen.size if seen.generation >= self.generation else self.size
            self.service = self.service or seen.replica
        # Whoever ends because its lease is over is still missed; who is to leave is known here.
        ends = seen.halted and not seen.renews and not self.told_here
        member.leaves = member.leaves or seen.rank < 0 or ends
        self.generation = max(self.generation, seen.generation)
        self.published = max(self.published, seen.generation)
        self.begun = True
        return member


def members_of(workers: Sequence[WorkerPlacement], first: int = 0) -> dict[int, Member]:
    """Members for placements: identities from ``first`` on, ranks in their order."""
    return {
        first + rank: Member(first + rank, placed.node_id, placed.gpus, rank)
        for rank, placed in enumerate(workers)
    }


def endpoints_of(gang: Gang, host: Callable[[str], str]) -> dict[tuple[str, int], tuple[str, int]]:
    """Where replicas answer requests, by node and their number there."""
    found, seen = {}, Counter[str]()
    for member in gang.present:
        if member.alive and member.port:
            found[member.node, seen[member.node]] = host(member.node), member.port
        seen[member.node] += 1
    return found


def matched(
    members: Iterable[Member], workers: Sequence[WorkerPlacement]
) -> tuple[list[Member], list[WorkerPlacement]]:
    """Members that stay where they are, in the order of their ranks, and places of new ones."""
    there = sorted(members, key=lambda member: member.order)
    places = list(workers)
    stay = []
    for member in there:
        place = WorkerPlacement(member.node, member.gpus)
        if place in places:
            places.remove(place)
            stay.append(member)
    return stay, places


def left_over(gang: Gang) -> list[Member]:
    """Newcomers for whom nothing is left to do: all who took part have done it."""
    late = [m for m in gang.present if m.joined < m.since and m.ended is None and not m.gone]
    ends = [m.ended for m in gang.present if m.joined >= m.since]
    done = bool(ends) and all(e is not None and (e.cause, e.code) == (Cause.EXIT, 0) for e in ends)
    return late if done else []


def verdict_of(gang: Gang) -> Event | None:
    """What the ends of a gang's workers mean for its job; None: nothing yet."""
    for member in gang.present:
        ended = member.ended
        if ended is None or (ended.cause == Cause.EXIT and ended.code == 0 and not member.renews):
            continue
        reason = _told(member, ended)
        if ended.cause in _LOST or member.renews:
            return WorkersLost(gang.job, gang.run, reason)
        code = _KILLED if ended.cause == Cause.MEMORY else ended.code or 1
        return WorkerExited(gang.job, gang.run, code, reason)
    gone = [member for member in gang.present if member.gone and member.ended is None]
    if gone and not (gang.service and gang.alive):
        nodes = ", ".join(f"'{node}'" for node in gang.nodes(gone))
        return WorkersLost(gang.job, gang.run, f"lost with node {nodes}", gang.seen_ms)
    complete = len(gang.present) >= max(gang.size, 1)
    if complete and all(member.ended is not None for member in gang.present):
        return WorkerExited(gang.job, gang.run)
    return None


def _told(member: Member, ended: Ended) -> str:
    """Why a worker has ended, for people."""
    reason = f"rank {ended.rank} on node '{member.node}' {ended.reason}"
    tail = ended.tail.strip()[-_TAIL:]
    return f"{reason}; the end of its output:\n{tail}" if tail else reason
