"""Who owns what: keys belong to shards by rendezvous hashing, shards to members by lease.

Rendezvous hashing: Thaler and Ravishankar, IEEE/ACM Transactions on Networking 6(1), 1998.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias, TypeVar

import msgspec

from orchestrator.errors import (
    ConfigurationError,
    CorruptedError,
    NotLeaderError,
    NotOwnerError,
    UnknownEntityError,
)
from orchestrator.ports import Clock, Lease, Leases

__all__ = ["HashShardManager", "LeasedShards", "Tenure", "spread"]


_log = logging.getLogger(__name__)


_T = TypeVar("_T")


class HashShardManager:
    """Each key belongs to the shard whose hash with it is highest.

    A shard that joins takes its keys from all others alike, and one that leaves gives them to all
    others; no other key moves.

    Parameters
    ----------
    shards : sequence of str
        Shards, at least one.
    """

    def __init__(self, shards: Sequence[str] = ("shard-0",)) -> None:
        self._shards: list[str] = []
        for shard in shards:
            self.add(shard)
        if not self._shards:
            raise ConfigurationError("HashShardManager: no shards; give at least one")

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards, in alphabetical order."""
        return tuple(self._shards)

    def add(self, shard: str) -> None:
        """A shard joins."""
        if shard in self._shards:
            raise ConfigurationError(f"HashShardManager: shard '{shard}' is there already")
        self._shards.append(shard)
        self._shards.sort()

    def remove(self, shard: str) -> None:
        """A shard leaves."""
        if shard not in self._shards:
            raise UnknownEntityError(f"no shard '{shard}'; known: {', '.join(self._shards)}")
        if len(self._shards) == 1:
            raise ConfigurationError(
                f"HashShardManager: '{shard}' is the last shard; add another one first"
            )
        self._shards.remove(shard)

    def owner(self, key: str) -> str:
        """The shard that owns a job or node."""
        return max(self._shards, key=lambda shard: _weight(shard, key))


def _weight(shard: str, key: str) -> bytes:
    # A length in front keeps ("a", "bc") and ("ab", "c") apart.
    text = f"{len(shard)}:{shard}:{key}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def spread(
    shards: Sequence[str], members: Sequence[str], holders: Mapping[str, str]
) -> dict[str, str]:
    """Who should hold each shard, so that loads differ by one at most and the fewest shards move.

    Whoever holds more than its share gives up the surplus, and nothing else leaves a member that is
    there; what nobody holds goes, of the members with room, to the one of the highest hash. If
    loads are even, who leaves takes nobody else's shards along, and one that joins ``m`` others
    takes ``len(shards) // (m + 1)``, which is the least that makes them even again.

    Parameters
    ----------
    shards : sequence of str
    members : sequence of str
        Who is there; nobody: nobody holds anything.
    holders : mapping of str to str
        By shard, who holds it now; others than ``members`` hold nothing.
    """
    if not members:
        return {}
    held: dict[str, list[str]] = {member: [] for member in members}
    for shard in shards:
        if holders.get(shard) in held:
            held[holders[shard]].append(shard)
    share, rest = divmod(len(shards), len(members))
    # One more than the share is for those who have it: it saves them a move.
    first = sorted(held, key=lambda member: (len(held[member]) <= share, member))
    room = {member: share + (at < rest) for at, member in enumerate(first)}
    wanted: dict[str, str] = {}
    for member, own in held.items():
        kept = sorted(own, key=lambda shard: _weight(member, shard), reverse=True)[: room[member]]
        wanted.update(dict.fromkeys(kept, member))
        room[member] -= len(kept)
    for shard in sorted(set(shards) - set(wanted)):
        best = max((m for m in members if room[m]), key=lambda member: _weight(member, shard))
        wanted[shard] = best
        room[best] -= 1
    return wanted


class Tenure:
    """A shard that this member holds, by a lease.

    Parameters
    ----------
    shard : str
    lease : Lease
    until_ms : int
        By this member's clock: earlier than anybody else can have the lease.
    clock : Clock
    tokens_from : int
        What is added to the lease's token.
    """

    def __init__(
        self, shard: str, lease: Lease, until_ms: int, clock: Clock, tokens_from: int = 0
    ) -> None:
        self.shard, self.lease, self._tokens_from = shard, lease, tokens_from
        self._until_ms, self._clock = until_ms, clock
        self._over = asyncio.Event()

    @property
    def token(self) -> int:
        """Larger than that of everybody who held the shard before."""
        return self._tokens_from + self.lease.token

    @property
    def holds(self) -> bool:
        """Whether this member may act for the shard; once it may not it never may again."""
        if self._clock.now_ms() >= self._until_ms:
            self.end()
        return not self._over.is_set()

    def require(self) -> None:
        """Raise a :class:`NotOwnerError` if this member may not act for the shard any more."""
        if not self.holds:
            raise NotOwnerError(self.shard)

    def end(self) -> None:
        """Do not act any more."""
        self._over.set()

    async def over(self) -> None:
        """Return when it is over; that time alone has ended it is found out by :attr:`holds`."""
        await self._over.wait()

    def extend(self, lease: Lease, until_ms: int) -> None:
        """The lease was renewed; who has ended does not begin again."""
        if self.holds:
            self.lease, self._until_ms = lease, max(until_ms, self._until_ms)


Occupy: TypeAlias = Callable[[Tenure], AbstractAsyncContextManager[object]]
"""What is entered when a shard was acquired, and left before it is released."""


@dataclass(frozen=True)
class _View:
    """What a member has seen last: who is there and where, and who holds what."""

    members: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    holders: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_TTL_MS = 10_000


_RENEWALS = 3  # in the time of a lease
_LOOKS = 8
_MOST_WAIT_MS = 60_000  # before a shard that could not be opened is tried again


_SHARDS = tuple(f"shard-{number}" for number in range(8))


class LeasedShards:
    """Shards whose owner is agreed upon by leases: a ``ShardManager`` of several processes.

    Keys belong to shards by rendezvous hashing, for ever. Each process is a *member*: it shows that
    it is there by a lease of its own, and holds a shard by a lease of the shard's. Every member
    looks who is there and who holds what, and does its part of :func:`spread`: it gives up what
    another one should have, and takes what it should have and nobody holds.

    A member stops to act for a shard ``margin_ms`` before anybody else can have its lease, counted
    from when it last asked for it, by its own clock. Whoever acts late all the same, because it was
    stopped in the middle, is refused by the token (:attr:`Tenure.token`).

    If the process stands still for longer than a lease, it loses what it holds, and comes back.

    Parameters
    ----------
    leases : Leases
        Where all members agree.
    clock : Clock
        Time of this member. Leases that tell the time themselves need one that agrees with others'
        to within the margin: on one machine, wall clocks between whose making nobody has set the
        time.
    member : str
        A name that no other member has.
    shards : sequence of str
        All shards, the same for all members.
    ttl_ms : int
        How long a lease lasts that is not renewed: after it a dead member's shards are others'.
    margin_ms : int or None
        From the end of acting to the end of the lease, for clocks of different rates; None: a
        tenth of ``ttl_ms``.
    address : str
        Where this member is to be found; others tell who asks them for its shards.
    tokens_from : int
        Is added to the tokens of leases: should the place where they are kept be lost, and numbers
        begin anew there, something above all that logs have seen (the error says it).
    prefix : str
        What the names of keys and leases begin with: of several clusters at one place each has its
        own.

    Attributes
    ----------
    errors : int
        How often something failed: asking for leases, or opening and closing shards.
    """

    def __init__(
        self,
        leases: Leases,
        clock: Clock,
        member: str,
        shards: Sequence[str] = _SHARDS,
        *,
        ttl_ms: int = _TTL_MS,
        margin_ms: int | None = None,
        address: str = "",
        tokens_from: int = 0,
        prefix: str = "",
    ) -> None:
        self.member, self.address, self.errors = member, address, 0
        self._leases, self._clock, self._prefix = leases, clock, prefix
        self._tokens_from = tokens_from
        self._keys = HashShardManager(shards)
        self.ttl_ms, self._margin_ms = ttl_ms, ttl_ms // 10 if margin_ms is None else margin_ms
        if not member:
            raise ConfigurationError("LeasedShards: 'member' is empty; give each process a name")
        if ttl_ms < 10 * _LOOKS or not 0 < self._margin_ms < ttl_ms // 2:
            raise ConfigurationError(
                f"LeasedShards: 'ttl_ms' is {ttl_ms} and 'margin_ms' {self._margin_ms}; give at "
                f"least {10 * _LOOKS} ms, and a margin below half of that"
            )
        self._wait_ms = ttl_ms // _RENEWALS  # for an answer
        self._membership: Lease | None = None
        self._view = _View()
        self._tenures: dict[str, Tenure] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._closing_ms: dict[str, int] = {}  # since when it is tried
        self._failures: dict[str, tuple[int, int]] = {}  # to open: how many, and when to try again
        self._loops: list[asyncio.Task[None]] = []
        self._occupy: Occupy | None = None

    # --- who owns what -------------------------------------------------------------------------

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards, in alphabetical order."""
        return self._keys.shards

    def owner(self, key: str) -> str:
        """The shard that owns a job or node."""
        return self._keys.owner(key)

    @property
    def members(self) -> Mapping[str, str]:
        """Members that were there at the last look, and their addresses."""
        return self._view.members

    @property
    def holders(self) -> dict[str, str]:
        """By shard, the member that holds it, as far as is known here."""
        others = {s: m for s, m in self._view.holders.items() if m != self.member}
        return others | dict.fromkeys(self._tenures, self.member)

    def tenure(self, shard: str) -> Tenure | None:
        """By what this member holds a shard; None: it does not, or acts for it no more."""
        tenure = self._tenures.get(shard)
        return tenure if tenure is not None and tenure.holds else None

    def not_owner(self, shard: str) -> NotOwnerError:
        """Say who owns a shard that is not led here."""
        owner = self._view.holders.get(shard, "")
        if owner == self.member:
            owner = ""
        return NotOwnerError(shard, owner, self._view.members.get(owner, ""))

    # --- life ----------------------------------------------------------------------------------

    def start(self, occupy: Occupy) -> None:
        """Be a member from now on, and occupy what falls to it."""
        if self._loops:
            raise ConfigurationError(f"LeasedShards: member '{self.member}' has started already")
        self._occupy = occupy
        self._loops = [
            self._loop(self._renew_all, self.ttl_ms // _RENEWALS),
            self._loop(self._balance, self.ttl_ms // _LOOKS),
        ]

    def _loop(self, act: Callable[[], Awaitable[None]], period_ms: int) -> asyncio.Task[None]:
        async def go_on() -> None:
            while True:
                due_ms = self._clock.now_ms() + period_ms
                try:
                    await act()
                except Exception as error:
                    self._fail("its round", error)
                await self._clock.sleep_until(due_ms)

        return asyncio.ensure_future(go_on())

    async def leave(self) -> None:
        """Give everything up, in order: what is open is closed before others can have it."""
        for task in self._loops[1:]:
            await _cancelled(task)
        if self._membership is not None:
            await self._give_back(self._membership)
        for tenure in self._tenures.values():
            tenure.end()
        if self._keeping:
            try:
                await self._within(asyncio.gather(*self._keeping.values()), self.ttl_ms)
            except TimeoutError as error:
                self._fail("closing its shards", error)
        for task in self._loops[:1]:  # leases are held until all is closed
            await _cancelled(task)
        self._loops, self._membership, self._view = [], None, _View()

    def _fail(self, what: str, error: BaseException) -> None:
        self.errors += 1
        problem = f"{type(error).__name__}: {error}"
        _log.warning("member '%s' failed at %s (%s)", self.member, what, problem)

    async def _within(self, asked: Awaitable[_T], wait_ms: int = 0) -> _T:
        """An answer, or a ``TimeoutError``: nobody waits for ever."""
        until_ms = self._clock.now_ms() + (wait_ms or self._wait_ms)
        answer = asyncio.ensure_future(asked)
        late = asyncio.ensure_future(self._clock.sleep_until(until_ms))
        try:
            await asyncio.wait((answer, late), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise TimeoutError("no answer in time")
        finally:
            answer.cancel()
            late.cancel()

    # --- leases --------------------------------------------------------------------------------

    def _name(self, kind: str, name: str = "") -> str:
        return f"{self._prefix}{kind}/{name}" if name else f"{self._prefix}{kind}"

    def _safe_ms(self, asked_ms: int) -> int:
        """Until when one may act by a lease that was asked for at a time."""
        return asked_ms + self.ttl_ms - self._margin_ms

    async def _renew_all(self) -> None:
        held = [self._renew(tenure) for tenure in self._tenures.values()]
        await asyncio.gather(self._renew_membership(), *held)

    async def _renew_membership(self) -> None:
        try:
            if self._membership is not None:
                renewed = self._leases.renew(self._membership, self.ttl_ms)
                self._membership = await self._within(renewed)
            if self._membership is None:
                name = self._name("member", self.member)
                asked = self._leases.acquire(name, self.member, self.ttl_ms)
                self._membership = await self._within(asked)
                if self._membership is None:
                    _log.info("member '%s' is there already: by another process", self.member)
        except Exception as error:
            self._fail("showing that it is there", error)

    async def _renew(self, tenure: Tenure) -> None:
        asked_ms = self._clock.now_ms()
        try:
            lease = await self._within(self._leases.renew(tenure.lease, self.ttl_ms))
        except Exception as error:
            self._fail(f"renewing '{tenure.shard}'", error)
            return
        if lease is None:
            tenure.end()
        else:
            tenure.extend(lease, self._safe_ms(asked_ms))

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self._within(self._leases.release(lease))
        except Exception as error:
            self._fail(f"releasing '{lease.name}'", error)  # it ends by itself

    # --- looking -------------------------------------------------------------------------------

    async def _look(self) -> _View:
        """Who is there, and who holds what."""
        pair = await self._leases.get(self._name("members"))
        try:
            roster = msgspec.json.decode(pair.value or b"{}", type=dict[str, str])
        except msgspec.DecodeError as error:
            raise CorruptedError(
                f"leases: key '{pair.key}' is no list of members ({error}); delete it, and all who "
                "are there write themselves into it again"
            ) from error
        names = [self._name("member", name) for name in roster]
        names += [self._name("shard", shard) for shard in self.shards]
        leases = await asyncio.gather(*(self._leases.holder(name) for name in names))
        by = {name: lease.holder for name, lease in zip(names, leases, strict=True) if lease}
        there = {m: where for m, where in roster.items() if self._name("member", m) in by}
        if self._membership is not None and self.member not in roster:
            # Who is written down and not there is dropped; if it comes back it does as we do.
            there[self.member] = self.address
            await self._leases.set(pair.key, msgspec.json.encode(there), pair.revision)
        held = {s: by[self._name("shard", s)] for s in self.shards if self._name("shard", s) in by}
        return _View(there, held)

    # --- moving --------------------------------------------------------------------------------

    async def _balance(self) -> None:
        """Do what follows from who is there and who holds what."""
        self._end_lapsed()
        self._view = await self._within(self._look())
        if self._membership is None or self.member not in self._view.members:
            return  # others cannot see us yet
        holders = self.holders
        wanted = spread(self.shards, sorted(self._view.members), holders)
        for shard, tenure in self._tenures.items():
            if wanted[shard] != self.member:
                tenure.end()
        mine = [shard for shard in self.shards if wanted[shard] == self.member]
        await asyncio.gather(*(self._take(s) for s in mine if self._is_free(s, holders)))

    def _is_free(self, shard: str, holders: Mapping[str, str]) -> bool:
        """Whether a shard may be taken: who is dead may hold it, for some time still."""
        again_ms = self._failures.get(shard, (0, 0))[1]
        taken = shard in self._tenures or holders.get(shard, "") in self._view.members
        return not taken and self._clock.now_ms() >= again_ms

    def _end_lapsed(self) -> None:
        """Close what this member may not act for any more; what does not close is cut off."""
        now_ms = self._clock.now_ms()
        for shard, tenure in self._tenures.items():
            if not tenure.holds:
                since_ms = self._closing_ms.setdefault(shard, now_ms)
                if now_ms - since_ms >= self.ttl_ms:
                    self._keeping[shard].cancel()

    async def _take(self, shard: str) -> None:
        asked_ms = self._clock.now_ms()
        asked = self._leases.acquire(self._name("shard", shard), self.member, self.ttl_ms)
        lease = await self._within(asked)
        if lease is not None:
            until_ms = self._safe_ms(asked_ms)
            tenure = Tenure(shard, lease, until_ms, self._clock, self._tokens_from)
            self._tenures[shard] = tenure
            self._keeping[shard] = asyncio.ensure_future(self._keep(tenure))

    async def _keep(self, tenure: Tenure) -> None:
        """Occupy a shard until its tenure is over, then let others have it."""
        assert self._occupy is not None
        shard = tenure.shard
        try:
            async with self._occupy(tenure):
                self._failures.pop(shard, None)
                await tenure.over()
        except asyncio.CancelledError:
            _log.warning("member '%s' is cut off from '%s'", self.member, shard)
        except Exception as error:
            if isinstance(error, NotLeaderError) and not tenure.holds:
                _log.info("member '%s' has lost '%s' while it opened it", self.member, shard)
            else:
                self._set_back(shard, error)
        try:
            tenure.end()
            await self._give_back(tenure.lease)
        finally:
            for known in (self._tenures, self._keeping, self._closing_ms):
                known.pop(shard, None)

    def _set_back(self, shard: str, error: Exception) -> None:
        """A shard could not be opened, or closed: it is left alone for a while."""
        self._fail(f"keeping '{shard}'", error)
        failures = self._failures.get(shard, (0, 0))[0] + 1
        wait_ms = min(self.ttl_ms * 2 ** min(failures - 1, 16), _MOST_WAIT_MS)
        self._failures[shard] = failures, self._clock.now_ms() + wait_ms


async def _cancelled(task: asyncio.Task[None]) -> None:
    """End a task, and wait until it has."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
