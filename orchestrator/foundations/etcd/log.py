"""A log that etcd replicates: what is appended is on the disks of a majority of its members."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from orchestrator.errors import (
    ConfigurationError,
    CorruptedError,
    QuartermasterError,
    StorageError,
    UnknownSchemaError,
    ValidationError,
)
from orchestrator.foundations.etcd.connection import (
    CompactedError,
    Connection,
    created,
    get,
    has_value,
    none_in,
    put,
)
from orchestrator.foundations.etcd.forms import (
    MOST_BYTES,
    Keys,
    Marks,
    decode,
    make_meta,
    mark_of,
    open_meta,
    span,
)
from orchestrator.foundations.etcd.snapshots import EtcdSnapshots, Listed
from orchestrator.messages import Entry

__all__ = ["EtcdLog"]


_log = logging.getLogger(__name__)


_KEPT = 2  # snapshots


_PAUSES = 10  # of how many parts of ``cut_every`` one passes before a failed cut is tried again


_GROUP = 127  # entries of one transaction: etcd takes 128 operations, and the head is one


_PAGE = 512  # entries of one answer


_SOON_S = 0.01  # until what was cut meanwhile is read anew


_AGAIN_S = 0.5  # until a watch is tried again that had an error


@dataclass(eq=False)
class _Proposed:
    """An entry that somebody waits for."""

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


class EtcdLog:
    """An ordered log in etcd: a ``ConsensusEngine`` that can be cut. Made by :meth:`open`.

    Several orchestrators, on several machines, may each open it: the last one that has started
    leads, as on any other log, and the others see what it writes. An object belongs to the event
    loop in which it was opened.

    An entry is acknowledged when a majority of the members has it on disk. Entries that are
    appended while a transaction is under way go into the next one together. :meth:`entries` reads
    a copy in memory, which every append completes up to its own entry and a watch keeps up to date
    otherwise: on a machine that is cut off it may be old, but nothing can be appended there.

    After a ``StorageError`` an entry may be in the log all the same, or still get there: who has to
    know reads the log.
    """

    def __init__(self, connection: Connection, keys: Keys, cut_every: int) -> None:
        self._connection, self._keys = connection, keys
        self._snapshots = EtcdSnapshots(connection, keys)
        self._every, self._pause = cut_every, max(cut_every // _PAUSES, 1)
        self._due = cut_every  # so many entries behind a snapshot
        self._head_created = 0  # the revision that made the head: of another log it is another
        self._marks = Marks()
        self._tail: list[Entry] = []
        self._first, self._snapshot = 0, None
        self._revision = 0  # up to which the copy holds everything
        self._offered = 0  # the newest snapshot of anybody
        self._damaged: set[Listed] = set()
        self._wrong: QuartermasterError | None = None  # why the log cannot be read on
        self._cut_off = False  # etcd could not be reached when it was looked last
        self._reading = asyncio.Lock()
        self._waiting: deque[_Proposed] = deque()
        self._flying: dict[bytes, _Proposed] = {}  # by mark: of the transaction under way
        self._writing: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._closed = False

    _snapshot: tuple[int, object] | None

    @classmethod
    async def open(
        cls,
        endpoints: Sequence[str],
        *,
        prefix: str = "quartermaster",
        cut_every: int = 2000,
        timeout_s: float = 5.0,
        credentials: Any = None,
    ) -> EtcdLog:
        """Open the log under a prefix, or begin one.

        Parameters
        ----------
        endpoints : sequence of str
            Members of the cluster, ``host:port``; all of them, so that any may be lost.
        prefix : str
            With which the log's keys begin.
        cut_every : int
            Entries after which it is time for another snapshot: a restart applies at most about as
            many, and twice as many are kept.
        timeout_s : float
            How long etcd may take to answer, its elections included.
        credentials : grpc.ChannelCredentials, optional
            For TLS.

        Raises
        ------
        StorageError
            If etcd cannot be reached, or something else lies under the prefix.
        UnknownSchemaError
            If another version wrote the log.
        CorruptedError
            If neither snapshots nor entries make a whole log.
        """
        if cut_every < 1:
            raise ConfigurationError(f"EtcdLog: 'cut_every' is {cut_every}; give at least 1")
        keys = Keys(prefix)
        connection = Connection(endpoints, timeout_s=timeout_s, credentials=credentials)
        log = cls(connection, keys, cut_every)
        try:
            await log._prepare()
            await log._load()
        except BaseException:
            await connection.close()
            raise
        log._following = asyncio.create_task(log._follow(), name="etcd log")
        return log

    async def __aenter__(self) -> EtcdLog:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what was asked for, and give the connections up."""
        if self._closed:
            return
        self._closed = True
        if self._writing is not None:
            await self._writing
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._connection.close()

    def __str__(self) -> str:
        """Name where it lies."""
        return f"{self._connection}, '{self._keys.prefix.decode()}'"

    def __len__(self) -> int:
        """Count the entries behind the snapshot that this object knows."""
        return len(self._tail)

    @property
    def _end(self) -> int:
        return self._first + len(self._tail)

    # --- opening -------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Find the log, or make it."""
        keys = self._keys
        reply = await self._connection.change(
            [created(keys.meta, 0), created(keys.head, 0), none_in(*span(keys.log))],
            [put(keys.meta, make_meta()), put(keys.head, b"0")],
            [get(keys.meta), get(keys.head)],
        )
        if reply.succeeded:
            self._head_created = reply.header.revision
            return
        meta, head = (one.response_range.kvs for one in reply.responses)
        if not meta:
            raise CorruptedError(
                f"{self}: does not say what it is; restore it from a copy, or give another prefix"
            )
        open_meta(str(self), meta[0].value)
        if not head:
            raise CorruptedError(f"{self}: has no head; restore it from a copy")
        self._head_created = head[0].create_revision

    async def _load(self) -> None:
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
        known = self._end
        (head,), revision = await self._connection.consult(self._keys.head)
        return self._number(head, known), revision

    def _number(self, pairs: Sequence[Any], known: int) -> int:
        """The head's number; an error if it is that of another log."""
        if len(pairs) != 1 or pairs[0].create_revision != self._head_created:
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
        if first < self._first:
            return  # it was cut here meanwhile
        if first + len(tail) < self._end:  # more has come meanwhile
            tail += self._tail[first + len(tail) - self._first :]
        self._first, self._snapshot, self._tail = first, snapshot, tail
        self._revision = max(revision, self._revision)
        self._offered = max(self._offered, first)

    async def _newest(self, head: int, revision: int) -> tuple[int, object] | None:
        reply = await self._connection.read(*span(self._keys.entries), limit=1, revision=revision)
        first = Keys.number(reply.kvs[0].key) if reply.kvs else head
        for one in (await self._snapshots.listed(revision))[1]:
            if one.first > head:
                raise CorruptedError(
                    f"{self}: ends with entry {head}, and there is a snapshot of {one.first}: "
                    "entries are lost; restore both from one copy"
                )
            if one.first < first:
                break  # too old to begin with
            try:
                return one.first, await self._snapshots.read(one, revision)
            except CorruptedError as error:
                self._damaged.add(one)
                _log.error("%s; the one before is used, and the entries since", error)
        if first > 0:
            raise CorruptedError(
                f"{self}: begins with entry {first}, and no snapshot of what was before is whole; "
                "restore both from one copy"
            )
        return None

    # --- reading -------------------------------------------------------------------------------

    def entries(self, start: int = 0) -> Sequence[Entry]:
        """All entries behind the snapshot that are known here, from index ``start`` on.

        Raises
        ------
        CorruptedError, UnknownSchemaError
            If the log is damaged, or another version has written to it.
        """
        if self._wrong is not None:
            raise self._wrong
        return tuple(self._tail[max(start - self._first, 0) :])

    async def _page(self, start: int, head: int, revision: int = 0) -> list[Entry]:
        """Some entries from an index on; none: they were cut."""
        keys = self._keys
        reply = await self._connection.read(
            keys.entry(start), keys.entry(head), limit=_PAGE, revision=revision
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
        mine = self._flying.get(mark_of(value))
        if mine is not None:
            mine.index = index
            return mine.entry
        try:
            return decode(value)
        except CorruptedError as error:
            raise CorruptedError(f"{self}, entry {index}: {error}") from error

    def _take(self, pairs: Sequence[Any]) -> bool:
        """Know more entries, and of snapshots; whether none is missing before them."""
        for pair in pairs:
            number = Keys.number(pair.key)
            if pair.key.startswith(self._keys.manifests):
                self._offered = max(self._offered, number)
            elif number > self._end:
                return False
            elif number == self._end:
                self._tail.append(self._decoded(number, pair.value))
        return True

    async def _read_on(self, head: int) -> None:
        """Read the entries up to a number; begin with a snapshot if some are gone."""
        while self._end < head:
            async with self._reading:
                start = self._end
                page = await self._page(start, head) if start < head else []
                self._tail += page[self._end - start :]
            if not page and self._end < head:
                await self._load()

    async def _follow(self) -> None:
        """Know what others write."""
        while True:
            try:
                await self._watch()
            except CompactedError:
                _log.debug("%s: the watch was late, and etcd has forgotten", self)
                self._revision = 0
            except (CorruptedError, UnknownSchemaError) as error:
                if self._wrong is None:
                    _log.error("the log cannot be read on: %s", error)
                self._wrong, self._revision = error, 0
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
        if not self._revision:
            await self._look()
        start, end = span(self._keys.log)
        async for pairs in self._connection.watch(start, end, self._revision + 1):
            if pairs and self._take(pairs):
                self._revision = max(self._revision, pairs[-1].mod_revision)
            elif await self._look():
                return  # the member is stopped, or behind
            # Others' snapshots are used when entries are missed, and before memory runs out.
            if len(self._tail) > 2 * self._every + self._pause and self._offered > self._first:
                await self._load()
        await self._look()

    async def _look(self) -> bool:
        """Read what there is; whether this object did not know it."""
        known = self._end
        head, revision = await self._read_head()
        await self._read_on(head)
        self._revision, self._wrong = max(revision, self._revision), None
        self._cut_off = False
        return known < head

    # --- writing -------------------------------------------------------------------------------

    async def append(self, entry: Entry) -> int:
        """Append an entry; its index, once a majority of the members has it on disk.

        Raises
        ------
        ValidationError
            If it is not well formed: it could not be read again.
        CapacityError
            If it is too large for etcd.
        StorageError
            If etcd does not answer, or does not take it. Where it says so, the entry may be in the
            log all the same, or get there still.
        CorruptedError, UnknownSchemaError
            If the log is damaged, or another version has written to it.
        """
        if self._closed:
            raise StorageError(f"{self}: is closed; open it anew")
        mark, value = self._marks.seal(entry)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Proposed(entry, mark, value, answer))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="etcd log writer")
        return await answer

    async def _write(self) -> None:
        """Write what waits, one transaction after the other."""
        while self._waiting:
            group = self._group()
            self._flying = {one.mark: one for one in group}
            try:
                await self._commit(group)
            except BaseException as error:
                known = error if isinstance(error, QuartermasterError) else None
                if known is None:
                    _log.exception("%s: entries cannot be appended", self)
                    known = StorageError(f"{self}: {error!r}; look at its log")
                # Whoever waits for the next transaction has waited as long as these.
                self._answer([*group, *self._waiting], known)
                self._waiting.clear()
                if not isinstance(error, Exception):
                    raise
            else:
                self._answer(group)
            finally:
                self._flying = {}

    @staticmethod
    def _answer(proposed: Sequence[_Proposed], error: QuartermasterError | None = None) -> None:
        for one in proposed:
            one.tell(error if error is not None and one.index < 0 else one.index)

    def _group(self) -> list[_Proposed]:
        """What goes into the next transaction."""
        group, size = list[_Proposed](), 0
        while self._waiting and len(group) < _GROUP:
            size += len(self._waiting[0].value)
            if group and size > MOST_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    async def _commit(self, group: Sequence[_Proposed]) -> None:
        """Append a group behind all that is there."""
        keys, lost = self._keys, self._connection.lost
        while group[0].index < 0:
            at = self._end
            # Only behind the entry before, and only once: the head says how many there have been,
            # also of those that are cut. So a request that arrives late changes nothing.
            reply = await self._connection.change(
                [
                    created(keys.head, self._head_created),
                    has_value(keys.head, b"%d" % at),
                    created(keys.entry(at), 0),
                ],
                [put(keys.head, b"%d" % (at + len(group)))]
                + [put(keys.entry(k), one.value) for k, one in enumerate(group, at)],
                [get(keys.head), get(keys.entry(at), keys.entry(at + _PAGE), _PAGE)],
            )
            if reply.succeeded:
                for one in group[self._end - at :]:  # the watch may have told of some
                    self._tail.append(one.entry)
                for index, one in enumerate(group, at):
                    one.index = index
                return
            head, after = (one.response_range.kvs for one in reply.responses)
            number = self._number(head, at)
            if number == at:
                raise self._stray(at)
            self._take(after)
            begin = self._end
            await self._read_on(number)
            if self._first > begin and group[0].index < 0 and self._connection.lost > lost:
                raise StorageError(
                    f"{self}: the log was cut behind entry {self._first} while an answer was "
                    "lost; what was to be appended may be in it, or not: read what it has done"
                )

    def _stray(self, index: int) -> CorruptedError:
        return CorruptedError(
            f"{self}: ends with entry {index}, and there is one behind it; restore it from a copy"
        )

    # --- snapshots -----------------------------------------------------------------------------

    @property
    def cut_due(self) -> bool:
        """Whether there are so many entries behind the snapshot that it is time for another one."""
        return len(self._tail) >= self._due

    @property
    def snapshot(self) -> tuple[int, object] | None:
        """The last snapshot, and the index of the first entry that it does not contain."""
        return self._snapshot

    async def cut(self, index: int, snapshot: object) -> None:
        """Keep a snapshot of what all entries before an index have made, then drop needless ones.

        Raises
        ------
        ValidationError
            If the snapshot holds what cannot be kept, or the log is not so long.
        StorageError
            If etcd does not take it; the log is then as before.
        """
        if self._closed:
            raise StorageError(f"{self}: is closed; open it anew")
        if not self._first <= index <= self._end:
            given = f"is {index}, and the log holds {self._first} to {self._end}"
            raise ValidationError("EtcdLog", "index", given, "cut it within")
        self._due = len(self._tail) + self._pause  # unless this succeeds
        guard = [created(self._keys.head, self._head_created)]
        try:
            await self._snapshots.write(index, snapshot, guard)
            kept = await self._snapshots.whole(_KEPT, self._damaged)
            if len(kept) == _KEPT:  # should the only one be damaged, the whole log is still there
                await self._snapshots.keep_from(kept[-1].first, self._head_created)
        except CompactedError as error:
            raise StorageError(f"{self}: {error}; another one has cut it meanwhile") from error
        if index >= self._first:  # nobody else has cut it further meanwhile
            self._snapshot = index, snapshot
            del self._tail[: index - self._first]
            self._first, self._due = index, self._every
