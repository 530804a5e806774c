"""Requests that are sent twice are carried out once: by the key that a client gives them.

What a key stands for is written before it is carried out, with the identity of the job to be. So a
server that is killed in between knows at the next start which job to look for, and neither loses a
submission nor makes it twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StorageError, ValidationError
from orchestrator.ports import Clock

__all__ = ["Attempt", "Repeats"]


_MOST = 100_000
_PRUNE_EVERY = 1000
_LONGEST = 200


@dataclass(frozen=True)
class Attempt:
    """Something that is asked for with a key.

    Parameters
    ----------
    key : str
        The client's, with the name of its token.
    job_id : str
        Of the job that it submits.
    again : bool
        Whether it was asked for before.
    """

    key: str
    job_id: str
    again: bool


class _Turn:
    """Whose turn it is with a key, and how many want it."""

    def __init__(self) -> None:
        self.lock, self.users = asyncio.Lock(), 0


class Repeats:
    """Which keys were used, for what; in a file, or in memory.

    Parameters
    ----------
    path : Path or None
        The file; made if it does not exist. None: memory.
    clock : Clock
        Time.
    keep : int
        Keys that are kept, the last ones.

    Notes
    -----
    A killed process loses nothing of what it has written. A machine that loses power may lose the
    last keys, not the jobs: whoever then repeats a request with a job id of its own is told that
    the id is taken.
    """

    def __init__(self, path: Path | None, clock: Clock, *, keep: int = _MOST) -> None:
        self._clock, self._keep = clock, keep
        self._turns: dict[str, _Turn] = {}
        self._written = 0
        try:
            self._table = sqlite3.connect(":memory:" if path is None else path)
            if path is not None:
                path.chmod(0o600)
            self._table.execute("PRAGMA journal_mode = WAL")
            self._table.execute("PRAGMA synchronous = NORMAL")
            self._table.execute(
                "CREATE TABLE IF NOT EXISTS repeats (number INTEGER PRIMARY KEY, key TEXT UNIQUE, "
                "digest BLOB, job_id TEXT, time_ms INTEGER)"
            )
            self._table.commit()
        except sqlite3.Error as error:
            remedy = "see to the disk, or remove the file: then repeated requests are new ones"
            raise StorageError(f"{path}: {error}; {remedy}") from error

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    @asynccontextmanager
    async def attempt(self, who: str, key: str, body: bytes, job_id: str) -> AsyncIterator[Attempt]:
        """Carry something out under a key; nobody else does, under the same, meanwhile.

        Parameters
        ----------
        who : str
            The token's name: keys of different tokens are different ones.
        key : str
            Given by the client.
        body : bytes
            What is asked for.
        job_id : str
            Of the job to be, if it is new.

        Raises
        ------
        ValidationError
            If the key was used for something else, or is too long.
        """
        if not 0 < len(key) <= _LONGEST:
            problem = f"has {len(key)} characters"
            raise ValidationError("request", "Idempotency-Key", problem, f"use 1 to {_LONGEST}")
        mine, digest = f"{who}\n{key}", hashlib.sha256(body).digest()
        turn = self._turns.setdefault(mine, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield self._begin(mine, digest, job_id)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[mine]

    def _begin(self, key: str, digest: bytes, job_id: str) -> Attempt:
        row = self._table.execute("SELECT digest, job_id FROM repeats WHERE key = ?", (key,))
        found = row.fetchone()
        if found is not None:
            if found[0] != digest:
                problem, remedy = "was used for another body", "use a new key for a new request"
                raise ValidationError("request", "Idempotency-Key", problem, remedy)
            return Attempt(key, found[1], again=True)
        self._write(
            "INSERT INTO repeats (key, digest, job_id, time_ms) VALUES (?, ?, ?, ?)",
            (key, digest, job_id, self._clock.now_ms()),
        )
        return Attempt(key, job_id, again=False)

    def forget(self, attempt: Attempt) -> None:
        """It was refused: the next one with this key is a new one."""
        self._write("DELETE FROM repeats WHERE key = ?", (attempt.key,))

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._table.execute(statement, values)
            self._written += 1
            if self._written % _PRUNE_EVERY == 0:
                self._table.execute(
                    "DELETE FROM repeats WHERE number <= (SELECT max(number) FROM repeats) - ?",
                    (self._keep,),
                )
            self._table.commit()
        except sqlite3.Error as error:
            self._table.rollback()
            raise StorageError(f"idempotency keys: {error}; see to the disk") from error
