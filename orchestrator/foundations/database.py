"""A SQLite file that several processes write: one thread each, whose commits carry a group.

Whatever is asked for while one commit is under way goes into the next one, so that a disk that
takes a millisecond to be sure does not make everybody wait for one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orchestrator.errors import QuartermasterError, StorageError, UnknownSchemaError
from orchestrator.wire.seals import SCHEMA

__all__ = ["Database"]


_log = logging.getLogger(__name__)


_T = TypeVar("_T")


_APPLICATION = 0x516D6C67  # "Qmlg": what `file` and this module know a log by


_WAL_BYTES = 16 << 20  # to which the write-ahead log is cut after a burst


_AGAIN_S = 0.01  # between two tries to open what another process is making


_TABLES = """
CREATE TABLE log (id TEXT NOT NULL);
CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE pairs (key TEXT PRIMARY KEY, value BLOB, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE counter (revision INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
"""


_HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
"""What SQLite says of a file that another process is about to change."""


_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another process holds it; end that one, or raise 'busy_s'",
    sqlite3.SQLITE_LOCKED: "another process holds it; end that one, or raise 'busy_s'",
    sqlite3.SQLITE_CANTOPEN: "give the path of a file in a folder that exists and may be written",
    sqlite3.SQLITE_CORRUPT: "restore it from a copy",
    sqlite3.SQLITE_FULL: "free some space; nothing that was acknowledged is lost",
    sqlite3.SQLITE_IOERR: "look at the disk; nothing that was acknowledged is lost",
    sqlite3.SQLITE_PROTOCOL: "another process was held up, or ended, while it wrote; start again",
    sqlite3.SQLITE_NOTADB: "give the path of a log, or of a file that does not exist yet",
    sqlite3.SQLITE_READONLY: "let this process write the file and its folder",
}


class _Request(NamedTuple):
    """What somebody wants written."""

    change: Callable[[sqlite3.Connection], Any]
    done: Callable[[Any], None]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class Database:
    """A file with the tables of a log and of leases.

    Parameters
    ----------
    path : Path
        The file; made if it does not exist.
    busy_s : float
        How long to wait for another process that writes.
    group : int
        Most changes of one commit.

    Raises
    ------
    StorageError
        If it cannot be opened, or is something else.
    UnknownSchemaError
        If another version made it.
    """

    def __init__(self, path: Path, *, busy_s: float, group: int) -> None:
        self.path = path
        self._group = group
        self._busy_s = busy_s
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._reader = self._writer = self._connect()
        try:
            self.identity = self._prepare()
            self._reader = self._connect()
        except BaseException:
            self._writer.close()
            raise

    # --- opening -------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(
                self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._told(error) from error

    def _prepare(self) -> str:
        """Make the tables if there are none; the log's identity."""
        until = time.monotonic() + self._busy_s
        while True:
            try:
                return self._open()
            except sqlite3.Error as error:
                # Two processes that make one file at once: SQLite does not wait for all of it. Nor
                # for one whose disk hangs in the middle of a commit.
                if _code(error) not in _HELD or time.monotonic() > until:
                    raise self._told(error) from error
            time.sleep(_AGAIN_S)

    def _open(self) -> str:
        made_by = self._pragma("application_id"), self._pragma("user_version")
        tables = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if made_by[0] != _APPLICATION and (made_by != (0, 0) or tables):
            raise StorageError(
                f"{self.path}: is another program's database; give the path of a log, or of a file "
                "that does not exist yet"
            )
        if tables and made_by[1] != SCHEMA:
            raise UnknownSchemaError(
                f"{self.path}: has schema version {made_by[1]}, and this program reads {SCHEMA}; "
                "run the version that wrote it, or begin a new log"
            )
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if not tables:
            self._make()
        return str(self._writer.execute("SELECT id FROM log").fetchone()[0])

    def _make(self) -> None:
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            if self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return  # another process was faster
            self._writer.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._writer.execute(f"PRAGMA user_version = {SCHEMA}")
            for statement in _TABLES.split(";")[:-1]:
                self._writer.execute(statement)
            self._writer.execute("INSERT INTO log VALUES (?)", (uuid.uuid4().hex[:12],))

    def _pragma(self, name: str) -> int:
        return int(self._writer.execute(f"PRAGMA {name}").fetchone()[0])

    # --- reading -------------------------------------------------------------------------------

    def version(self) -> int:
        """Another number than before if anybody, this process included, has written since."""
        return int(self.read("PRAGMA data_version")[0][0])

    def read(self, statement: str, *values: object) -> list[Any]:
        """Rows that a statement selects of what is committed."""
        try:
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._told(error) from error

    # --- writing -------------------------------------------------------------------------------

    async def write(
        self,
        change: Callable[[sqlite3.Connection], _T],
        done: Callable[[_T], None] = lambda result: None,
    ) -> _T:
        """Have something changed; what the change returns, once it can no longer be lost.

        Changes are made in the order of these calls.

        Parameters
        ----------
        change : callable
            Called by the writing thread, within a transaction with others' changes: it must not
            raise anything once it has written.
        done : callable
            Called by that thread when the change is committed.

        Raises
        ------
        StorageError
            If the file does not take it; it is not changed then.
        """
        if self._closed:
            raise StorageError(f"{self.path}: is closed; open it anew")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        self._requests.put(_Request(change, done, loop, answer))
        return await answer

    def _run(self) -> None:
        last = False
        while not last:
            wanted = [self._requests.get()]
            while len(wanted) < self._group and not self._requests.empty():
                wanted.append(self._requests.get())
            group = [request for request in wanted if request is not None]
            last = len(group) < len(wanted)
            if group:
                _answer(group, self._commit(group))

    def _commit(self, group: Sequence[_Request]) -> list[Any]:
        """Make changes and commit them: what came of each, an error or its result."""
        results: list[Any] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for request in group:
                try:
                    results.append(request.change(self._writer))
                except QuartermasterError as error:
                    results.append(error)
            self._writer.execute("COMMIT")
        except Exception as error:
            try:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            except sqlite3.Error:
                _log.exception("%s: a transaction could not be undone", self.path)
            if not isinstance(error, sqlite3.Error):
                _log.exception("%s: a change cannot be made", self.path)
            return [self._told(error)] * len(group)
        for request, result in zip(group, results, strict=True):
            if not isinstance(result, Exception):
                request.done(result)
        return results

    def _told(self, error: Exception) -> StorageError:
        remedy = _REMEDIES.get(_code(error), "look at the disk, and at the file")
        return StorageError(f"{self.path}: {error}; {remedy}")

    def close(self) -> None:
        """End the thread when all that was asked for is written, and close the file."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join()
        self._reader.close()
        self._writer.close()


def _code(error: Exception) -> int:
    """SQLite's primary code of an error; extended ones say where it was found."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _answer(group: Sequence[_Request], results: Sequence[Any]) -> None:
    """Tell each event loop once what came of its requests."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for request, result in zip(group, results, strict=True):
        by_loop.setdefault(request.loop, []).append((request.answer, result))
    for loop, answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, answers)
        except RuntimeError:
            _log.debug("nobody waits any more for %d changes: their loop is closed", len(answers))


def _resolve(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for answer, result in answers:
        if answer.cancelled():
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
