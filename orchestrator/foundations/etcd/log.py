"""A log that etcd replicates: what is appended is on the disks of a majority of its members."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import (
    ConfigurationError,
    CorruptedError,
    QuartermasterError,
    StorageError,
    ValidationError,
)
from orchestrator.foundations.etcd.connection import (
    Closing,
    CompactedError,
    Connection,
    created,
    get,
    has_value,
    put,
)
from orchestrator.foundations.etcd.forms import MOST_BYTES, Keys, Marks
from orchestrator.foundations.etcd.replica import PAGE, Proposed, Replica
from orchestrator.foundations.snapshots import KEPT, PAUSES
from orchestrator.messages import Entry

__all__ = ["EtcdLog"]


_log = logging.getLogger(__name__)


_GROUP = 127  # entries of one transaction: etcd takes 128 operations, and the head is one


class EtcdLog(Closing):
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
        self._every, self._pause = cut_every, max(cut_every // PAUSES, 1)
        self._due = cut_every  # so many entries behind a snapshot
        self._replica = Replica(connection, keys, 2 * cut_every + self._pause)
        self._marks = Marks()
        self._waiting: deque[Proposed] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._closed = False

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
            await log._replica.prepare()
            await log._replica.load()
        except BaseException:
            await connection.close()
            raise
        log._following = asyncio.create_task(log._replica.follow(), name="etcd log")
        return log

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
        return str(self._replica)

    def __len__(self) -> int:
        """Count the entries behind the snapshot that this object knows."""
        return len(self._replica.tail)

    # --- reading -------------------------------------------------------------------------------

    def entries(self, start: int = 0) -> Sequence[Entry]:
        """All entries behind the snapshot that are known here, from index ``start`` on.

        Raises
        ------
        CorruptedError, UnknownSchemaError
            If the log is damaged, or another version has written to it.
        """
        replica = self._replica
        if replica.wrong is not None:
            raise replica.wrong
        return tuple(replica.tail[max(start - replica.first, 0) :])

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
        self._waiting.append(Proposed(entry, mark, value, answer))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="etcd log writer")
        return await answer

    async def _write(self) -> None:
        """Write what waits, one transaction after the other."""
        while self._waiting:
            group = self._group()
            self._replica.flying = {one.mark: one for one in group}
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
                self._replica.flying = {}

    @staticmethod
    def _answer(proposed: Sequence[Proposed], error: QuartermasterError | None = None) -> None:
        for one in proposed:
            one.tell(error if error is not None and one.index < 0 else one.index)

    def _group(self) -> list[Proposed]:
        """What goes into the next transaction."""
        group, size = list[Proposed](), 0
        while self._waiting and len(group) < _GROUP:
            size += len(self._waiting[0].value)
            if group and size > MOST_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    async def _commit(self, group: Sequence[Proposed]) -> None:
        """Append a group behind all that is there."""
        keys, replica, lost = self._keys, self._replica, self._connection.lost
        while group[0].index < 0:
            at = replica.end
            # Only behind the entry before, and only once: the head says how many there have been,
            # also of those that are cut. So a request that arrives late changes nothing.
            reply = await self._connection.change(
                [
                    created(keys.head, replica.head_created),
                    has_value(keys.head, b"%d" % at),
                    created(keys.entry(at), 0),
                ],
                [put(keys.head, b"%d" % (at + len(group)))]
                + [put(keys.entry(k), one.value) for k, one in enumerate(group, at)],
                [get(keys.head), get(keys.entry(at), keys.entry(at + PAGE), PAGE)],
            )
            if reply.succeeded:
                replica.tail += [one.entry for one in group[replica.end - at :]]  # unless watched
                for index, one in enumerate(group, at):
                    one.index = index
                return
            head, after = (one.response_range.kvs for one in reply.responses)
            number = replica.number(head, at)
            if number == at:
                raise self._stray(at)
            replica.take(after)
            begin = replica.end
            await replica.read_on(number)
            if replica.first > begin and group[0].index < 0 and self._connection.lost > lost:
                raise StorageError(
                    f"{self}: the log was cut behind entry {replica.first} while an answer was "
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
        return len(self) >= self._due

    @property
    def snapshot(self) -> tuple[int, object] | None:
        """The last snapshot, and the index of the first entry that it does not contain."""
        return self._replica.snapshot

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
        replica = self._replica
        if not replica.first <= index <= replica.end:
            given = f"is {index}, and the log holds {replica.first} to {replica.end}"
            raise ValidationError("EtcdLog", "index", given, "cut it within")
        self._due = len(self) + self._pause  # unless this succeeds
        guard = [created(self._keys.head, replica.head_created)]
        try:
            await replica.snapshots.write(index, snapshot, guard)
            kept = await replica.snapshots.whole(KEPT, replica.damaged)
            if len(kept) == KEPT:  # should the only one be damaged, the whole log is still there
                await replica.snapshots.keep_from(kept[-1].first, replica.head_created)
        except CompactedError as error:
            raise StorageError(f"{self}: {error}; another one has cut it meanwhile") from error
        if index >= replica.first:  # nobody else has cut it further meanwhile
            replica.cut(index, snapshot)
            self._due = self._every
