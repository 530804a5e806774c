"""Requests that are sent twice are carried out once: by the key that a client gives them.

What a key stands for is written before it is carried out, with the identity of the job to be, and
once more when it has been. So a server that is killed in between knows at the next start which job
to look for, and neither loses a submission nor makes it twice; and a job that was carried out long
ago is not made again when the table of jobs has forgotten it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orchestrator.errors import StorageError, ValidationError
from orchestrator.server.guard.files import write_private

__all__ = ["Attempt", "Repeats"]


_MOST = 50_000
_LONGEST = 200


@dataclass(frozen=True)
class Attempt:
    """Something that is asked for with a key.

    Parameters
    ----------
    key : str
        The client's, with the name of its token, as a digest.
    job_id : str
        Of the job that it submits.
    again : bool
        Whether it was asked for before.
    done : bool
        Whether it was carried out then, for certain: the job may be forgotten by now.
    """

    key: str
    job_id: str
    again: bool
    done: bool = False


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """A line of the file: what a key stands for; without a job, it stands for nothing any more."""

    key: str
    body: str = ""
    job_id: str = ""
    done: bool = False


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
    keep : int
        Keys that are kept, the last ones.

    Raises
    ------
    StorageError
        If the file cannot be used.

    Notes
    -----
    Lines are written and not forced to the disk: that would stop all that the server does, for each
    of them. A killed process loses nothing; a machine that loses power may lose the last keys, not
    the jobs.
    """

    def __init__(self, path: Path | None, *, keep: int = _MOST) -> None:
        self._path, self._keep = path, keep
        self._known: dict[str, _Line] = {}
        self._turns: dict[str, _Turn] = {}
        self._lines, self._file = 0, -1
        if path is None:
            return
        try:
            for line in _read(path):
                self._take(line)
            self._renew()
        except OSError as error:
            remedy = "see to the disk, or remove it: then repeated requests are new ones"
            raise StorageError(f"{path}: {error.strerror}; {remedy}") from error

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __len__(self) -> int:
        """Count the keys that are kept."""
        return len(self._known)

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
        StorageError
            If it cannot be written down.
        """
        if not 0 < len(key) <= _LONGEST:
            problem = f"has {len(key)} characters"
            raise ValidationError("request", "Idempotency-Key", problem, f"use 1 to {_LONGEST}")
        mine, digest = _digest(f"{who}\n{key}".encode(errors="replace")), _digest(body)
        turn = self._turns.setdefault(mine, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield self._begin(mine, digest, job_id)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[mine]

    def _begin(self, key: str, digest: str, job_id: str) -> Attempt:
        found = self._known.get(key)
        if found is not None:
            if found.body != digest:
                problem, remedy = "was used for another body", "use a new key for a new request"
                raise ValidationError("request", "Idempotency-Key", problem, remedy)
            return Attempt(key, found.job_id, again=True, done=found.done)
        self._note(_Line(key, digest, job_id))
        return Attempt(key, job_id, again=False)

    def forget(self, attempt: Attempt) -> None:
        """It was refused: the next one with this key is a new one."""
        self._note(_Line(attempt.key))

    def finish(self, attempt: Attempt) -> None:
        """It was carried out: whoever asks again is told so, and nothing is done."""
        line = self._known.get(attempt.key)
        if line is not None and not line.done:
            self._note(msgspec.structs.replace(line, done=True))

    def _note(self, line: _Line) -> None:
        """Write a line down, and know it."""
        if self._file >= 0:
            try:
                os.write(self._file, msgspec.json.encode(line) + b"\n")
                self._lines += 1
            except OSError as error:
                raise StorageError(f"{self._path}: {error.strerror}; see to the disk") from error
        self._take(line)
        if self._lines > 3 * self._keep + 1000:
            self._renew()

    def _take(self, line: _Line) -> None:
        self._known.pop(line.key, None)
        if line.job_id:
            self._known[line.key] = line
        if len(self._known) > self._keep:
            del self._known[next(iter(self._known))]

    def _renew(self) -> None:
        """Write the file anew, with what is kept."""
        if self._path is None:
            return
        text = b"".join(msgspec.json.encode(line) + b"\n" for line in self._known.values())
        write_private(self._path, text)
        self.close()
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._lines = len(self._known)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read(path: Path) -> Iterator[_Line]:
    """What a file holds; a line that was not written to its end is none."""
    with contextlib.suppress(FileNotFoundError):
        for text in path.read_bytes().splitlines():
            with contextlib.suppress(msgspec.MsgspecError):
                yield msgspec.json.decode(text, type=_Line)
