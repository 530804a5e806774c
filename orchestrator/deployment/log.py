"""The log of decisions: one SQLite file of bounded size, written by a thread of its own."""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.deployment.records import DecisionRecord, pack_choices, unpack_choices
from orchestrator.errors import ConfigurationError, StorageError

__all__ = ["DecisionLog", "LoggedDecision", "read_decisions"]


_MEBIBYTE = 1 << 20
_WAITING = 1024  # decisions that may wait to be written
_BATCH = 64
_ROW = 400  # bytes of a decision besides its choices, about
_FORMAT = 1
_COLUMNS = (
    *("entry", "time_ms", "point", "state", "mode", "policy", "digest", "verdict"),
    *("latency_us", "agreed", "plan", "detail"),
)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, entry INTEGER, time_ms INTEGER, point INTEGER, state TEXT,
    mode TEXT, policy TEXT, digest TEXT, verdict TEXT, latency_us INTEGER, agreed INTEGER,
    plan TEXT, detail TEXT, choices BLOB, size INTEGER
);
PRAGMA user_version = {_FORMAT};
"""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedDecision:
    """A decision, and its number in the log."""

    number: int
    record: DecisionRecord

    def as_dict(self) -> dict[str, Any]:
        """Plain data: the alternatives of the first choice, and not what it was shown."""
        record = self.record
        plain = {name: getattr(record, name) for name in _COLUMNS}
        first = record.choices[0] if record.choices else None
        return {
            "id": self.number,
            **plain,
            "plan": list(record.plan),
            "choices": len(record.choices),
            "alternatives": [{"action": text, "score": score} for text, score in first.alternatives]
            if first is not None
            else [],
            "observation": first.digest if first is not None else None,
        }


class DecisionLog:
    """Keeps the last decisions.

    Whoever decides hands a record over and goes on: it is compressed and written elsewhere. If
    the disk cannot follow, records are dropped, and counted.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    most_mib : float, optional
        How much is kept, MiB; the oldest go first. The file may be a little larger.
    """

    def __init__(self, path: Path, most_mib: float = 256.0) -> None:
        if most_mib <= 0:
            raise ConfigurationError(f"decisions: 'most_mib' is {most_mib}; give more than 0")
        self.path = path
        self.dropped = 0
        self._most = int(most_mib * _MEBIBYTE)
        self._waiting: queue.Queue[DecisionRecord | threading.Event | None] = queue.Queue(_WAITING)
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_opened(path)) as database:
            total = database.execute("SELECT COALESCE(SUM(size), 0) FROM decisions").fetchone()[0]
        self.bytes = int(total)
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="decisions", daemon=True)
        self._writer.start()

    def add(self, record: DecisionRecord) -> None:
        """Keep a decision; returns at once."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was added before is written; whether it is."""
        written = threading.Event()
        try:
            self._waiting.put(written, timeout=timeout_s)
        except queue.Full:
            return False
        return written.wait(timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what waits, and end; what is not written by then is left behind."""
        if self._closed:
            return
        self._closed = True
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            _log.error("%s: nobody writes; %d decisions lost", self.path, self._waiting.qsize())
            return
        self._writer.join(timeout_s)

    def last(self, limit: int = 100, before: int | None = None) -> list[LoggedDecision]:
        """The last decisions, newest first.

        Parameters
        ----------
        limit : int, optional
            How many at most.
        before : int or None, optional
            Only those with a smaller number: the last one's of the page before.
        """
        below = (1 << 62) if before is None else before
        with closing(_opened(self.path)) as database:
            found = _select(database, "WHERE id < ? ORDER BY id DESC LIMIT ?", (below, limit))
            return list(found)

    def _write(self) -> None:
        with closing(_opened(self.path)) as database:
            going_on, failing = True, False
            while going_on:
                batch = [self._waiting.get()]
                while len(batch) < _BATCH and not self._waiting.empty():
                    batch.append(self._waiting.get())
                going_on = None not in batch
                records = [one for one in batch if isinstance(one, DecisionRecord)]
                try:
                    self._keep(database, records)
                    failing = failing and not records
                except Exception:  # of whatever a policy has told: the next ones may be fine
                    if not failing:  # once, not for each batch on a full disk
                        _log.exception("decisions could not be written to %s", self.path)
                    failing = True
                    self.dropped += len(records)
                for one in batch:
                    if isinstance(one, threading.Event):
                        one.set()

    def _keep(self, database: sqlite3.Connection, records: Sequence[DecisionRecord]) -> None:
        rows = [_row(record) for record in records]
        if not rows:
            return
        marks = ", ".join("?" * (len(_COLUMNS) + 2))
        with database:
            database.executemany(
                f"INSERT INTO decisions ({', '.join(_COLUMNS)}, choices, size) VALUES ({marks})",
                rows,
            )
            total = self.bytes + sum(row[-1] for row in rows)
            while total > self._most:
                oldest = database.execute(
                    "SELECT id, size FROM decisions ORDER BY id LIMIT ?", (_BATCH,)
                ).fetchall()
                gone = []
                for number, size in oldest[: max(len(oldest) - 1, 1)]:  # the last one stays
                    if total > self._most:
                        gone.append((number,))
                        total -= size
                database.executemany("DELETE FROM decisions WHERE id = ?", gone)
                if len(oldest) <= 1:
                    break
        self.bytes = total  # now it is so in the file


def read_decisions(path: Path) -> Iterator[LoggedDecision]:
    """All decisions of a file, oldest first.

    Raises
    ------
    ConfigurationError
        If there is no such file.
    StorageError
        If it is none of decisions.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"decisions: there is no file {path}; give that of a cluster whose policy was deployed"
        )
    with closing(_opened(path)) as database:
        yield from _select(database, "ORDER BY id", ())


def _opened(path: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path, timeout=10.0)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _FORMAT):
            database.close()
            raise StorageError(
                f"{path} has format {version}, not {_FORMAT}; read it with the release that wrote "
                "it, or delete it"
            )
        if version == 0:
            # What is deleted makes room for what comes; the last second may be lost with power.
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_SCHEMA)
        database.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error as error:
        raise StorageError(
            f"{path} is no log of decisions ({error}); move it away, and a new one is begun"
        ) from error
    return database


def _row(record: DecisionRecord) -> tuple[Any, ...]:
    values = [getattr(record, name) for name in _COLUMNS]
    values[_COLUMNS.index("plan")] = json.dumps(record.plan)
    choices = pack_choices(record.choices)
    return (*values, choices, len(choices) + _ROW)


def _select(
    database: sqlite3.Connection, which: str, given: tuple[int, ...]
) -> Iterator[LoggedDecision]:
    names = ", ".join(_COLUMNS)
    for row in database.execute(f"SELECT id, {names}, choices FROM decisions {which}", given):
        number, *values, choices = row
        told = dict(zip(_COLUMNS, values, strict=True))
        told["plan"] = tuple(json.loads(told["plan"]))
        told["agreed"] = None if told["agreed"] is None else bool(told["agreed"])
        yield LoggedDecision(number, DecisionRecord(**told, choices=unpack_choices(choices)))
