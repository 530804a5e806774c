"""The way into the log and out of it: lead, propose, replay, and cut the log before it is full."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from orchestrator.engine.checks import check_entry, check_message
from orchestrator.engine.engine import Engine, EngineImage, Outcome
from orchestrator.errors import (
    ConfigurationError,
    InvariantError,
    NotLeaderError,
    QuartermasterError,
    ValidationError,
)
from orchestrator.messages import Command, Entry, Establish, Event, Lead
from orchestrator.ports import Clock, ConsensusEngine, CuttableLog

__all__ = ["Journal", "Kept", "settings_in"]


_log = logging.getLogger(__name__)


def settings_in(consensus: ConsensusEngine) -> Establish | None:
    """The settings that a log begins with; None: it does not say."""
    if isinstance(consensus, CuttableLog) and consensus.snapshot is not None:
        image = consensus.snapshot[1]
        return image.engine.settings if isinstance(image, _Image) else None
    for entry in consensus.entries():
        if isinstance(entry, Entry) and isinstance(entry.body, Establish):
            try:
                check_message(entry.body)
            except ValidationError:
                continue  # it was refused
            return entry.body
    return None


class Kept(Protocol):
    """What is derived from the log, besides the engine: a snapshot has to hold it."""

    def image(self) -> object:
        """All that it knows, set aside: what happens later does not change that."""

    def load(self, image: Any) -> None:
        """Know what was set aside, and nothing else."""


@dataclass(frozen=True)
class _Image:
    """What a cut log begins with."""

    engine: EngineImage
    established: bool
    leader: str
    term: int
    doubt: tuple[tuple[int, Outcome], ...]
    kept: tuple[tuple[str, object], ...]
    token: int = 0


class _Answer(NamedTuple):
    """An entry, and what came of it."""

    entry: Entry
    outcome: Outcome | QuartermasterError


_ANSWERS = 1024  # that are kept, more or less, for those who wait


class Journal:
    """Applies a consensus log to an engine.

    Making one replays what the log holds. The effects of these entries were carried out by whoever
    led when they were written, but for the last ones perhaps: :attr:`doubtful`.

    Parameters
    ----------
    consensus : ConsensusEngine
        The log.
    engine : Engine
        Who applies it, and nobody else does.
    clock : Clock
        Stamps new entries.
    carry_out : callable
        Told of every outcome of a new entry, in order, as soon as it is applied; of those that
        this leader has written.
    observe : callable or None, optional
        Told of every entry, its number first, and its outcome, replayed ones included, before that.
    kept : dict of str to Kept, optional
        What follows from these, for snapshots.
    settled : callable, optional
        Whether all effects so far were carried out.

    Attributes
    ----------
    applied : int
        Entries that were applied.
    leader, term : str, int
        Who leads, and the entry with which it took over; ``""`` and -1: nobody has.
    token : int
        Of the lease by which it leads; 0: by none.
    require_lease : callable
        Raises a :class:`NotLeaderError` once whoever made this may not act any more, whatever the
        log says; from then on always. To be set before it leads.
    established : bool
        Whether the log holds the cluster's settings.
    """

    def __init__(
        self,
        consensus: ConsensusEngine,
        engine: Engine,
        clock: Clock,
        carry_out: Callable[[Outcome], None],
        observe: Callable[[int, Entry, Outcome], None] = lambda at, entry, outcome: None,
        kept: Mapping[str, Kept] | None = None,
        settled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._consensus = consensus
        self._cuttable = consensus if isinstance(consensus, CuttableLog) else None
        self._engine = engine
        self._clock = clock
        self._carry_out = carry_out
        self._observe = observe
        self._kept = kept or {}
        self._settled = settled
        self._lock = asyncio.Lock()  # of who proposes or leads, until the log has the entry
        # Entries that the log was given, and has not answered for: how many were applied before.
        self._flying: dict[int, int] = {}
        self._flights = itertools.count()
        self._answers: dict[int, _Answer] = {}  # to those who gave them, by index
        self._most_answers = _ANSWERS
        self._cutting: asyncio.Task[None] | None = None
        self._applying = False
        self._senseless: set[int] = set()  # entries whose application raised an error
        self._doubt: deque[tuple[int, Outcome]] = deque()  # entries with effects, and these
        self._mine = -1  # my term
        self._replaying, self._first_term, self._first_token = True, -1, 0
        self.established, self.leader, self.term, self.token = False, "", -1, 0
        self.require_lease: Callable[[], object] = lambda: None
        self._resigned = False
        self._landed: asyncio.Future[None] | None = None  # for who resigns: nothing is under way
        # What the kept entries are applied to, and which of them is the first.
        self.applied, self._begin, self._first = 0, engine.image(), 0
        self._catch_up()
        self._replaying = False

    # --- leading -------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether nobody else has taken over, or may; reads what the log says by now.

        Of a replicated log that is what is known here: who is cut off may take itself for the
        leader. It then cannot append anything, so nothing new is decided; what it still tells
        the runtime carries its term, by which agents that know of a later one refuse it.
        """
        self.read()
        return self._acts()

    def _acts(self) -> bool:
        try:
            self._require_right()
        except NotLeaderError:
            return False
        return self.term == self._mine

    def read(self) -> None:
        """Apply what others have logged; whoever is writing to the log does this anyway."""
        if not self._resigned and not self._lock.locked():
            self._catch_up()

    def try_read(self) -> None:
        """Apply what others have logged, if that can be known: whoever asks does not take over."""
        try:
            self.read()
        except Exception:
            _log.exception("the log cannot be read; what was known before is told")

    def require_lead(self) -> None:
        """Raise a :class:`NotLeaderError` if somebody else has taken over, or may."""
        self._require_right()
        self._catch_up()
        if self.term != self._mine:
            raise NotLeaderError(self.leader, self.term)

    async def lead(self, name: str, token: int = 0) -> None:
        """Take over the log, by a lease if there is a token.

        Raises
        ------
        NotLeaderError
            If the lease is over.
        ConfigurationError
            If it is older than the last leader's.
        """
        async with self._lock:
            self._require_right()
            self._catch_up()
            if token < self.token:
                raise ConfigurationError(
                    f"the log was led last by '{self.leader}', by a lease of token {self.token}, "
                    f"and '{name}' has {token or 'none'}; lead it as a member of its cluster "
                    "(LeasedShards), or if its leases are lost with 'tokens_from' above that"
                )
            await self._cut()
            done = self._doubt[0][0] if self._doubt else self.applied
            lead = Entry(self._now_ms(), Lead(name, token), self.term, done)
            index = await self._append(lead, self.applied)
            self._catch_up()
            self._mine = index
            self.require_lead()

    async def resign(self) -> None:
        """Lead no more; returns when nothing of what was proposed is on its way into the log."""
        self._resigned = True
        async with self._lock:
            if self._flying:
                self._landed = asyncio.get_running_loop().create_future()
                await self._landed
            if self._cutting is not None and self._cuts_now():
                await asyncio.wait({self._cutting})

    def _require_right(self) -> None:
        """Raise a :class:`NotLeaderError` if this may not lead, whatever the log says."""
        self.require_lease()
        if self._resigned:
            raise NotLeaderError(self.leader, self.term)

    @property
    def doubtful(self) -> tuple[Outcome, ...]:
        """Outcomes whose effects may not all have been carried out, in order."""
        return tuple(outcome for _, outcome in self._doubt)

    # --- entries -------------------------------------------------------------------------------

    async def propose(self, body: Command | Event) -> Outcome:
        """Log and apply; what came of it.

        Raises
        ------
        QuartermasterError
            If it makes no sense. It is not even logged if that is clear beforehand.
        NotLeaderError
            If another orchestrator has taken over.
        """
        async with self._lock:
            self.require_lead()
            self._engine.check(body)
            checked = self.applied
            await self._cut()
            entry = Entry(self._now_ms(), body, self._mine, self._done())
            flight = next(self._flights)
            self._flying[flight] = checked
        try:
            # Others may propose meanwhile: a log commits together what comes together.
            index = await self._append(entry, checked)
            if index not in self._answers:
                self._catch_up(checked=index if checked == self.applied else -1)
            mine = self._answers.get(index)
        finally:
            self._land(flight)
        if mine is None:  # somebody else has cut the log behind it: it took over long ago
            raise NotLeaderError(self.leader, self.term)
        if isinstance(mine.outcome, QuartermasterError):
            raise mine.outcome
        return mine.outcome

    def _land(self, flight: int) -> None:
        """The log has answered for an entry; what nobody waits for any more is forgotten."""
        del self._flying[flight]
        if not self._flying:
            self._answers.clear()
            if self._landed is not None and not self._landed.done():
                self._landed.set_result(None)
        elif len(self._answers) > self._most_answers:
            first = min(self._flying.values())
            self._answers = {at: known for at, known in self._answers.items() if at >= first}
            self._most_answers = 2 * len(self._answers) + _ANSWERS

    def _now_ms(self) -> int:
        return max(self._clock.now_ms(), self._engine.now_ms)

    def _done(self) -> int:
        """The first entry whose effects may not all have been carried out."""
        if self._settled():
            self._doubt.clear()
        return self._doubt[0][0] if self._doubt else self.applied

    async def _append(self, entry: Entry, since: int) -> int:
        """Append an entry; an error after it was written loses the answer only.

        It cannot be one that was applied before it was made, of which there are ``since``. Of two
        equal ones that are under way at once, one answers for both.
        """
        try:
            return await self._consensus.append(entry)
        except Exception:
            self._catch_up()
            for at, mine in self._answers.items():  # the log may have been cut behind it
                if at >= since and mine.entry == entry:
                    _log.warning("entry %d was logged, though the log raised an error", at)
                    return at
            kept = self._consensus.entries(since)
            snapshot = self._snapshot()
            for at, known in enumerate(kept, max(since, snapshot[0] if snapshot else 0)):
                if known == entry:
                    _log.warning("entry %d was logged, though the log raised an error", at)
                    return at
            raise

    def _snapshot(self) -> tuple[int, object] | None:
        return self._cuttable.snapshot if self._cuttable is not None else None

    def _unread(self) -> Iterator[tuple[int, Entry]]:
        """Entries that were not applied, and their indices."""
        while True:
            entries = self._consensus.entries(self.applied)
            snapshot = self._snapshot()  # asked for after the entries: they may need a newer one
            if snapshot is not None and snapshot[0] > self.applied:
                self._load(*snapshot)  # what it contains cannot be read any more
                continue
            if snapshot is not None and snapshot[0] > self._first:
                self._begin_with(*snapshot)  # somebody else has cut the log
            return enumerate(entries, self.applied)

    def _catch_up(self, checked: int = -1) -> None:
        """Apply what the log holds by now; ``checked`` was found to make sense, if it is next."""
        if self._applying:
            return  # who carries out what an entry asks for wants to know who leads
        self._applying = True
        try:
            for at, entry in self._unread():
                apply = self._engine.apply if at == checked else self._engine.handle
                outcome = self._apply(entry, apply)
                checked = -1
                if self._flying and not self._replaying:
                    self._answers[at] = _Answer(entry, outcome)
        finally:
            self._applying = False

    def _apply(
        self, entry: Entry, apply: Callable[[Entry], Outcome]
    ) -> Outcome | QuartermasterError:
        """Apply the next entry. One that is refused is refused alike by every replica.

        So is one that cannot be applied, whatever is raised: the cluster is then as before.
        """
        at = self.applied
        try:
            check_entry(entry)
        except ValidationError as error:
            self.applied += 1
            self._senseless.add(at)
            _log.error("entry %d of the log is none and is refused: %s", at, error)
            return error
        if isinstance(entry.body, Lead) and entry.body.token >= self.token:
            self._follow(entry.body, at)
        elif isinstance(entry.body, Lead) or entry.term != self.term:
            self.applied += 1
            _log.warning("entry %d of the log is a former leader's and is refused", at)
            return NotLeaderError(self.leader, self.term)
        try:
            outcome = apply(entry)
        except Exception as error:
            self.applied += 1
            if isinstance(error, QuartermasterError) and not isinstance(error, InvariantError):
                _log.info("entry %d of the log was refused: %s", at, error)
                return error
            _log.exception("entry %d of the log cannot be applied", at)
            self._senseless.add(at)
            self._engine.restore(self._sensible(), self._begin)
            return InvariantError(
                f"entry {at} of the log cannot be applied and changes nothing "
                f"({type(error).__name__}: {error})"
            )
        self.applied += 1
        self._engine.logged = self.applied
        self._note(at, entry, outcome)
        return outcome

    def _follow(self, lead: Lead, term: int) -> None:
        if self._mine == self.term and self._mine >= 0:
            _log.error("orchestrator '%s' has taken over; '%s' stops", lead.name, self.leader)
        self.leader, self.term, self.token = lead.name, term, lead.token

    def _note(self, at: int, entry: Entry, outcome: Outcome) -> None:
        """Tell who follows, and have the effects carried out by whoever leads."""
        self.established |= isinstance(entry.body, Establish)
        while self._doubt and self._doubt[0][0] < entry.done:
            self._doubt.popleft()
        if outcome.effects or outcome.forgotten:
            self._doubt.append((at, outcome))
        self._observe(at, entry, outcome)
        if not self._replaying and self._acts():
            self._carry_out(outcome)

    def _sensible(self) -> list[Entry]:
        """What was applied up to now, and can be."""
        kept = self._consensus.entries()
        first = self.applied - (len(kept) - len(self._consensus.entries(self.applied)))
        numbered = list(enumerate(kept, first))[: self.applied - first]
        refused = self._senseless | self._foreign(numbered)
        return [entry for at, entry in numbered if at not in refused]

    def _foreign(self, numbered: list[tuple[int, Entry]]) -> set[int]:
        """Entries that a former leader wrote after it had been replaced."""
        found, term, token = set(), self._first_term, self._first_token
        for at, entry in numbered:
            if at in self._senseless:
                continue
            if isinstance(entry.body, Lead) and entry.body.token >= token:
                term, token = at, entry.body.token
            elif isinstance(entry.body, Lead) or entry.term != term:
                found.add(at)
        return found

    # --- snapshots -----------------------------------------------------------------------------

    async def _cut(self) -> None:
        """Have the log cut, if that is due: as things are now, while commands go on."""
        log = self._cuttable
        if log is None or not log.cut_due or self._cuts_now():
            return
        self._done()
        image = _Image(
            engine=self._engine.image(),
            established=self.established,
            leader=self.leader,
            term=self.term,
            doubt=tuple(self._doubt),
            kept=tuple((name, one.image()) for name, one in self._kept.items()),
            token=self.token,
        )
        self._cutting = asyncio.create_task(self._keep(log, self.applied, image))
        await asyncio.sleep(0)  # a log in memory is cut then, and has room

    def _cuts_now(self) -> bool:
        """Whether a cut is under way, on this event loop; one that has ended took it along."""
        task = self._cutting
        mine = task is not None and task.get_loop() is asyncio.get_running_loop()
        return task is not None and mine and not task.done()

    async def _keep(self, log: CuttableLog, index: int, image: _Image) -> None:
        """Cut the log; an error makes it longer, and nothing else."""
        try:
            await log.cut(index, image)
        except Exception:
            _log.exception("the log could not be cut at entry %d; it is tried again", index)
        else:
            if index > self._first:  # nobody else has cut it further meanwhile
                self._begin_with(index, image)

    def _begin_with(self, index: int, image: object) -> _Image:
        """The entries that are kept are those from an index on, and are applied to an image."""
        if not isinstance(image, _Image):
            raise ConfigurationError(
                f"the log's snapshot is a {type(image).__name__}, which this version cannot read; "
                "restart the version that wrote it"
            )
        self._begin, self._first = image.engine, index
        self._first_term, self._first_token = image.term, image.token
        self._senseless = {at for at in self._senseless if at >= index}
        return image

    def _load(self, index: int, snapshot: object) -> None:
        image = self._begin_with(index, snapshot)
        self._engine.load(image.engine)
        self.applied = self._engine.logged = index
        self.established, self.leader, self.term = image.established, image.leader, image.term
        self.token = image.token
        self._doubt = deque(image.doubt)
        for name, known in image.kept:
            if name in self._kept:
                self._kept[name].load(known)
