"""A durable log in one SQLite file, with snapshots beside it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from orchestrator.errors import (
    ConfigurationError,
    CorruptedError,
    StorageError,
    ValidationError,
)
from orchestrator.foundations.database import Database
from orchestrator.foundations.snapshots import KEPT, PAUSES, SnapshotFiles
from orchestrator.messages import Entry
from orchestrator.wire.entries import decode_entry, encode_entry

__all__ = ["SQLiteLog"]


_log = logging.getLogger(__name__)


class SQLiteLog:
    """An ordered, durable log in a file: a ``ConsensusEngine`` that can be cut.

    Several orchestrators, of several processes, may be made on one file: the last one that has
    started leads, as on any other log, and the others see what it writes.

    An entry is acknowledged when SQLite has it on disk (write-ahead log, ``synchronous = FULL``).
    Entries that are appended while that goes on are committed together. The last two snapshots are
    kept, and the entries from the first of them on; if the newer one is damaged, the other is used.

    Parameters
    ----------
    path : str or Path
        The file, in a folder that exists, on a disk of this machine. Made if it does not exist.
    cut_every : int
        Entries after which it is time for another snapshot: a restart applies at most about as
        many, and twice as many are kept.
    busy_s : float
        How long to wait for another process that is writing.
    group : int
        Most entries of one commit.

    Raises
    ------
    StorageError
        If the file cannot be opened, or is something else.
    UnknownSchemaError
        If another version wrote it.
    CorruptedError
        If neither snapshots nor entries make a whole log.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cut_every: int = 2000,
        busy_s: float = 5.0,
        group: int = 1024,
    ) -> None:
        for name, value in (("cut_every", cut_every), ("group", group)):
            if value < 1:
                raise ConfigurationError(f"SQLiteLog: '{name}' is {value}; give at least 1")
        self._every, self._pause = cut_every, max(cut_every // PAUSES, 1)
        self._due = cut_every  # so many entries behind a snapshot
        self._database = Database(Path(path), busy_s=busy_s, group=group)
        self._files = SnapshotFiles(self._database.path, self._database.identity)
        self._own: dict[int, Entry] = {}  # committed by this object, and not in the tail yet
        self._damaged: set[int] = set()
        try:
            self._load()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> SQLiteLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what was asked for, and close the file."""
        self._database.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def __len__(self) -> int:
        """Count the entries behind the snapshot that this object knows."""
        self._take_own()
        return len(self._tail)

    # --- reading -------------------------------------------------------------------------------

    def _load(self) -> None:
        """Know the newest snapshot that is whole, and the entries behind it."""
        self._own.clear()
        version = self._database.version()
        first, head = self._extent()
        self._snapshot = self._newest(first, head)
        self._first = first if self._snapshot is None else self._snapshot[0]
        self._tail: list[Entry] = []
        self._read_on(head)
        self._version = version

    def _extent(self) -> tuple[int, int]:
        """The first entry that is kept, and the number of entries that there have been."""
        rows = self._database.read(
            "SELECT (SELECT min(number) FROM entries), (SELECT seq FROM sqlite_sequence "
            "WHERE name = 'entries')"
        )
        first, head = rows[0]
        return (head or 0) if first is None else first - 1, head or 0

    def _newest(self, first: int, head: int) -> tuple[int, object] | None:
        for index in self._files.indices():
            if index > head:
                raise CorruptedError(
                    f"{self.path}: ends with entry {head}, and there is a snapshot of {index}: "
                    "entries are lost; restore both from one copy"
                )
            try:
                found = self._files.read(index)
            except CorruptedError as error:
                self._damaged.add(index)
                _log.error("%s; the one before is used, and the entries since", error)
                continue
            if index < first:
                break  # too old to begin with
            return index, found
        if first > 0:
            raise CorruptedError(
                f"{self.path}: begins with entry {first}, and no snapshot of what was before is "
                "whole; restore both from one copy"
            )
        return None

    @property
    def _end(self) -> int:
        return self._first + len(self._tail)

    def _take_own(self) -> None:
        """Know what this object has committed, as far as nobody else's comes before."""
        while (mine := self._own.pop(self._end, None)) is not None:
            self._tail.append(mine)

    def _refresh(self) -> None:
        """Know what was committed since, by this process and by others."""
        self._take_own()
        version = self._database.version()
        if version == self._version:
            return
        first, head = self._extent()
        if head < self._end:
            raise CorruptedError(
                f"{self.path}: had {self._end} entries and has {head}; it was replaced while "
                "in use: restore it from a copy, and begin anew"
            )
        # Others' snapshots are used when entries are missed, and before memory runs out.
        if first > self._end or len(self._tail) > 2 * self._every + self._pause:
            self._adopt()
        elif head > self._end:
            self._read_on(head)
        self._version = version  # what could not be read is tried again

    def _adopt(self) -> None:
        """Begin with the newest snapshot, whoever has written it."""
        newest = next((i for i in self._files.indices() if i not in self._damaged), self._first)
        if newest > self._first:
            self._load()
        else:
            self._read_on(self._extent()[1])

    def _read_on(self, head: int) -> None:
        """Read the entries up to a number."""
        rows = self._database.read(
            "SELECT number, body FROM entries WHERE number > ? AND number <= ? ORDER BY number",
            self._end,
            head,
        )
        read = []
        for at, (number, body) in enumerate(rows, self._end):
            if number != at + 1:
                raise self._gap(at)
            read.append(self._decoded(at, body))
        self._tail += read
        if self._end < head:
            raise self._gap(self._end)

    def _gap(self, index: int) -> CorruptedError:
        return CorruptedError(f"{self.path}: entry {index} is missing; restore it from a copy")

    def _decoded(self, index: int, body: bytes) -> Entry:
        try:
            return decode_entry(body)
        except CorruptedError as error:
            raise CorruptedError(f"{self.path}, entry {index}: {error}") from error

    def entries(self, start: int = 0) -> Sequence[Entry]:
        """All entries behind the snapshot, from index ``start`` on.

        Raises
        ------
        StorageError, CorruptedError
            If the file cannot be read, or is damaged.
        """
        self._refresh()
        return tuple(self._tail[max(start - self._first, 0) :])

    # --- writing -------------------------------------------------------------------------------

    async def append(self, entry: Entry) -> int:
        """Append an entry; its index, once it is on disk.

        Raises
        ------
        ValidationError
            If it is not well formed: it could not be read again.
        StorageError
            If the disk does not take it; the log is then as before.
        """
        sealed = encode_entry(entry)

        def insert(connection: sqlite3.Connection) -> int:
            row = connection.execute("INSERT INTO entries (body) VALUES (?)", (sealed,))
            return int(row.lastrowid or 0) - 1

        def note(index: int) -> None:
            self._own[index] = entry  # it need not be read

        index = await self._database.write(insert, note)
        if index < self._end:
            self._own.pop(index, None)  # it was read before this got to know
        return index

    # --- snapshots -----------------------------------------------------------------------------

    @property
    def cut_due(self) -> bool:
        """Whether there are so many entries behind the snapshot that it is time for another one."""
        return len(self) >= self._due

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
            If the disk does not take it; the log is then as before.
        """
        self._refresh()
        if not self._first <= index <= self._end:
            given = f"is {index}, and the log holds {self._first} to {self._end}"
            raise ValidationError("SQLiteLog", "index", given, "cut it within")
        self._due = len(self._tail) + self._pause  # unless this succeeds
        try:
            await asyncio.to_thread(self._files.write, index, snapshot)
            await self._drop()
        except OSError as error:
            raise StorageError(f"{self.path}: {error}; see to the disk") from error
        if index >= self._first:  # nobody else has cut it further meanwhile
            self._snapshot = index, snapshot
            del self._tail[: index - self._first]
            self._first, self._due = index, self._every

    async def _drop(self) -> None:
        """Drop what is older than the last snapshots."""
        kept = await asyncio.to_thread(self._counted_on)
        if len(kept) < KEPT:
            return  # should the only one be damaged, the whole log is still there

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM entries WHERE number <= ?", (kept[-1],))

        await self._database.write(delete)
        await asyncio.to_thread(self._files.keep_from, kept[-1])

    def _counted_on(self) -> list[int]:
        """The last snapshots that are whole."""
        found: list[int] = []
        for index in self._files.indices():
            if len(found) < KEPT and index not in self._damaged and self._files.is_whole(index):
                found.append(index)
        return found
