"""What one process knows of a log on etcd: a copy of its end, kept up to date by a watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator.errors import (
    CorruptedError,
    QuartermasterError,
    StorageError,
    UnknownSchemaError,
)
from orchestrator.foundations.etcd.connection import (
    CompactedError,
    Connection,
    created,
    get,
    none_in,
    put,
)
from orchestrator.foundations.etcd.forms import Keys, decode, make_meta, mark_of, open_meta, span
from orchestrator.foundations.etcd.snapshots import EtcdSnapshots, Listed
from orchestrator.messages import Entry

__all__ = ["PAGE", "Proposed", "Replica"]


_log = logging.getLogger(__name__)


PAGE = 512
"""Most entries of one answer."""


_SOON_S = 0.01  # until what was cut meanwhile is read anew


_AGAIN_S = 0.5  # until a watch is tried again that had an error


@dataclass(eq=False)
class Proposed:
    """An entry that somebody waits for; its index, once it has one."""

    entry: Entry
    mark: bytes
    value: bytes
    answer: asyncio.Future[int]
    index: int = -1

    def tell(self, result: int | Exception) -> None:
        """Answer, unless nobody waits any more."""
        if self.answer.done():
            return
        if isinstance(result, Exception):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class Replica:
    """The newest snapshot of a log that is needed here, and all entries behind it.

    Parameters
    ----------
    connection : Connection
    keys : Keys
        Of the log.
    most : int
        Entries behind the snapshot from which on a newer one of anybody is begun with.

    Attributes
    ----------
    first : int
        The first entry that the snapshot does not contain.
    tail : list of Entry
        From that one on.
    flying : dict of bytes to Proposed
        Entries that are under way, by mark: they get their index when they are seen.
    head_created : int
        The revision that made the log's head: of another log it is another.
    """

    def __init__(self, connection: Connection, keys: Keys, most: int) -> None:
        self._connection, self._keys, self._most = connection, keys, most
        self.snapshots = EtcdSnapshots(connection, keys)
        self.first, self.tail = 0, list[Entry]()
        self.snapshot: tuple[int, object] | None = None
        self.flying: dict[bytes, Proposed] = {}
        self.head_created = 0
        self.damaged: set[Listed] = set()
        self.wrong: QuartermasterError | None = None  # why the log cannot be read on
        self.revision = 0  # up to which this holds everything
        self._offered = 0  # the newest snapshot of anybody
        self._cut_off = False  # etcd could not be reached when it was looked last
        self._reading = asyncio.Lock()

    def __str__(self) -> str:
        """Name where the log lies."""
        return f"{self._connection}, '{self._keys.prefix.decode()}'"

    @property
    def end(self) -> int:
        """How many entries there have been, as far as is known here."""
        return self.first + len(self.tail)

    # --- opening -------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Find the log, or make it."""
        keys = self._keys
        reply = await self._connection.change(
            [created(keys.meta, 0), created(keys.head, 0), none_in(*span(keys.log))],
            [put(keys.meta, make_meta()), put(keys.head, b"0")],
            [get(keys.meta), get(keys.head)],
        )
        if reply.succeeded:
            self.head_created = reply.header.revision
            return
        meta, head = (one.response_range.kvs for one in reply.responses)
        if not meta:
            raise CorruptedError(
                f"{self}: does not say what it is; restore it from a copy, or give another prefix"
            )
        open_meta(str(self), meta[0].value)
        if not head:
            raise CorruptedError(f"{self}: has no head; restore it from a copy")
        self.head_created = head[0].create_revision

    async def load(self) -> None:
        """Know the newest snapshot that is whole, and the entries behind it."""
        async with self._reading:
            while True:
                try:
                    return await self._load_at(*await self._read_head())
                except CompactedError:
                    _log.debug("%s: it was cut while it was read; once more", self)
                    await asyncio.sleep(_SOON_S)

    async def _read_head(self) -> tuple[int, int]:
        """How many entries there have been, and by which revision."""
        known = self.end
        (head,), revision = await self._connection.consult(self._keys.head)
        return self.number(head, known), revision

    def number(self, pairs: Sequence[Any], known: int) -> int:
        """The head's number; an error if it is that of another log."""
        if len(pairs) != 1 or pairs[0].create_revision != self.head_created:
            self._raise_replaced("another one is in its place")
        number = int(pairs[0].value) if pairs[0].value.isdigit() else -1
        if number < known:
            self._raise_replaced(f"it had {known} entries and has {number}")
        return number

    def _raise_replaced(self, problem: str) -> NoReturn:
        raise CorruptedError(
            f"{self}: was replaced while in use ({problem}); restore it from a copy, and begin anew"
        )

    async def _load_at(self, head: int, revision: int) -> None:
        """Know what there was at a revision."""
        snapshot = await self._newest(head, revision)
        first = snapshot[0] if snapshot else 0
        tail: list[Entry] = []
        while first + len(tail) < head:
            tail += await self._page(first + len(tail), head, revision)
        if first < self.first:
            return  # it was cut here meanwhile
        if first + len(tail) < self.end:  # more has come meanwhile
            tail += self.tail[first + len(tail) - self.first :]
        self.first, self.snapshot, self.tail = first, snapshot, tail
        self.revision = max(revision, self.revision)
        self._offered = max(self._offered, first)

    async def _newest(self, head: int, revision: int) -> tuple[int, object] | None:
        reply = await self._connection.read(*span(self._keys.entries), limit=1, revision=revision)
        first = Keys.number(reply.kvs[0].key) if reply.kvs else head
        for one in (await self.snapshots.listed(revision))[1]:
            if one.first > head:
                raise CorruptedError(
                    f"{self}: ends with entry {head}, and there is a snapshot of {one.first}: "
                    "entries are lost; restore both from one copy"
                )
            if one.first < first:
                break  # too old to begin with
            try:
                return one.first, await self.snapshots.read(one, revision)
            except CorruptedError as error:
                self.damaged.add(one)
                _log.error("%s; the one before is used, and the entries since", error)
        if first > 0:
            raise CorruptedError(
                f"{self}: begins with entry {first}, and no snapshot of what was before is whole; "
                "restore both from one copy"
            )
        return None

    # --- what there is -------------------------------------------------------------------------

    def cut(self, index: int, snapshot: object) -> None:
        """Begin with a snapshot that was made here."""
        self.snapshot = index, snapshot
        del self.tail[: index - self.first]
        self.first = index

    async def _page(self, start: int, head: int, revision: int = 0) -> list[Entry]:
        """Some entries from an index on; none: they were cut."""
        keys = self._keys
        reply = await self._connection.read(
            keys.entry(start), keys.entry(head), limit=PAGE, revision=revision
        )
        found = []
        for at, pair in enumerate(reply.kvs, start):
            if Keys.number(pair.key) != at:
                if at == start and not revision:
                    break
                raise self._gap(at)
            found.append(self._decoded(at, pair.value))
        if not found and revision:
            raise self._gap(start)
        return found

    def _gap(self, index: int) -> CorruptedError:
        return CorruptedError(f"{self}: entry {index} is missing; restore it from a copy")

    def _decoded(self, index: int, value: bytes) -> Entry:
        """An entry; one's own need not be read, and is answered for."""
        mine = self.flying.get(mark_of(value))
        if mine is not None:
            mine.index = index
            return mine.entry
        try:
            return decode(value)
        except CorruptedError as error:
            raise CorruptedError(f"{self}, entry {index}: {error}") from error

    def take(self, pairs: Sequence[Any]) -> bool:
        """Know more entries, and of snapshots; whether none is missing before them."""
        for pair in pairs:
            number = Keys.number(pair.key)
            if pair.key.startswith(self._keys.manifests):
                self._offered = max(self._offered, number)
            elif number > self.end:
                return False
            elif number == self.end:
                self.tail.append(self._decoded(number, pair.value))
        return True

    async def read_on(self, head: int) -> None:
        """Read the entries up to a number; begin with a snapshot if some are gone."""
        while self.end < head:
            async with self._reading:
                start = self.end
                page = await self._page(start, head) if start < head else []
                self.tail += page[self.end - start :]
            if not page and self.end < head:
                await self.load()

    async def follow(self) -> None:
        """Know what others write."""
        while True:
            try:
                await self._watch()
            except CompactedError:
                _log.debug("%s: the watch was late, and etcd has forgotten", self)
                self.revision = 0
            except (CorruptedError, UnknownSchemaError) as error:
                if self.wrong is None:
                    _log.error("the log cannot be read on: %s", error)
                self.wrong, self.revision = error, 0
                await asyncio.sleep(_AGAIN_S)
            except StorageError as error:
                _log.log(logging.DEBUG if self._cut_off else logging.WARNING, "%s", error)
                self._cut_off = True
                await asyncio.sleep(_AGAIN_S)
            except Exception:
                _log.exception("%s: the log cannot be followed; it is tried again", self)
                await asyncio.sleep(_AGAIN_S)

    async def _watch(self) -> None:
        """Take what one watch tells, as long as it does."""
        if not self.revision:
            await self._look()
        start, end = span(self._keys.log)
        async with aclosing(self._connection.watch(start, end, self.revision + 1)) as changes:
            async for pairs in changes:
                if pairs and self.take(pairs):
                    self.revision = max(self.revision, pairs[-1].mod_revision)
                elif await self._look():
                    return  # the member is stopped, or behind
                # Others' snapshots are used when entries are missed, and before memory runs out.
                if len(self.tail) > self._most and self._offered > self.first:
                    await self.load()
        await self._look()

    async def _look(self) -> bool:
        """Read what there is; whether this object did not know it."""
        known = self.end
        head, revision = await self._read_head()
        await self.read_on(head)
        self.revision, self.wrong = max(revision, self.revision), None
        self._cut_off = False
        return known < head
