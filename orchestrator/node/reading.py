"""Reading what workers have written, for whoever asks the agent of their node.

Paths are made here, of the job's identity and of numbers; nobody gives one. A worker can write into
its agent's folder, as it runs as the same user: what is no plain file there is not read.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from orchestrator.node.output import Folders, begin_of
from orchestrator.node.protocol import Found, Kept, Look, Part, Read

__all__ = ["MOST_READ", "Reading"]


MOST_READ = 2**20
"""Bytes that are read at once."""


_GATHER_S = 0.02  # for more, once somebody who waits gets something
_MOST_WAITING = 1024  # questions; more are answered at once
_LONGEST_MS = 60_000
_RUN, _LOG = re.compile(r"run-(\d{1,19})"), re.compile(r"rank-(\d{1,19})\.log")


_Key: TypeAlias = tuple[str, int, int]  # job, run, worker


class Reading:
    """Answers questions about what workers have written.

    Parameters
    ----------
    folders : Folders
        Where it is.
    is_there : callable
        Whether a worker, (job, run, worker), is still there.
    tell : callable
        Takes the answers.
    """

    def __init__(
        self,
        folders: Folders,
        is_there: Callable[[_Key], bool],
        tell: Callable[[Found | Part], None],
    ) -> None:
        self._folders, self._is_there, self._tell = folders, is_there, tell
        self._waiting: dict[Read, asyncio.TimerHandle] = {}
        self._woken: set[Read] = set()
        self._loop = asyncio.get_running_loop()

    def look(self, asked: Look) -> None:
        """Say which workers of a job have written something here."""
        runs = _numbered(self._folders.job(asked.job), _RUN)
        wanted = max(runs, default=-1) if asked.run is None else asked.run
        found = []
        for worker, path in sorted(_numbered(runs.get(wanted, Path()), _LOG).items()):
            begin, start, size = _span(path)
            ended = not self._is_there((asked.job, wanted, worker))
            found.append(Kept(wanted, worker, begin, start + size, ended))
        self._tell(Found(asked.number, tuple(found)))

    def read(self, asked: Read) -> None:
        """Read a part; if there is none yet, and the worker is there, wait for it for a while."""
        part = self._part(asked)
        nothing = not part.data and not part.ended and part.there
        if not nothing or asked.wait_ms <= 0 or len(self._waiting) >= _MOST_WAITING:
            self._tell(part)
            return
        wait_s = min(asked.wait_ms, _LONGEST_MS) / 1000
        self._waiting[asked] = self._loop.call_later(wait_s, self._answer, asked)

    def wake(self, key: _Key) -> None:
        """A worker has written something, or has ended."""
        for asked in [one for one in self._waiting if (one.job, one.run, one.worker) == key]:
            if asked not in self._woken:
                self._woken.add(asked)
                self._waiting[asked].cancel()
                self._waiting[asked] = self._loop.call_later(_GATHER_S, self._answer, asked)

    def close(self) -> None:
        """Nobody is answered any more."""
        for timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()

    def _answer(self, asked: Read) -> None:
        self._waiting.pop(asked, None)
        self._woken.discard(asked)
        self._tell(self._part(asked))

    def _part(self, asked: Read) -> Part:
        there = self._is_there((asked.job, asked.run, asked.worker))  # before the file is read
        folder = self._folders.job(asked.job) / f"run-{asked.run}"
        path = folder / f"rank-{asked.worker}.log"
        if not _is_plain(path):
            return Part(asked.number, b"", 0, 0, ended=not there, there=there)
        begin, start, size = _span(path)
        end = start + size
        offset = end + asked.offset if asked.offset < 0 else asked.offset
        offset = max(offset, begin)
        limit = max(0, min(asked.limit, MOST_READ))
        data = b""
        if offset < start:
            data = _bytes(_before(path), offset - begin, limit)
        elif offset < end:
            data = _bytes(path, offset - start, limit)
        following = offset + len(data)
        ended = not there and following >= end
        return Part(asked.number, data, offset, following, ended=ended, there=True)


def _before(path: Path) -> Path:
    """The file before a worker's present one."""
    return path.with_name(path.name + ".1")


def _span(path: Path) -> tuple[int, int, int]:
    """First byte of a worker's output that is kept, first one of its present file, size of that."""
    start, before = begin_of(path), _before(path)
    return max(start - _size(before), 0), start, _size(path)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if _is_plain(path) else 0
    except OSError:
        return 0


def _is_plain(path: Path) -> bool:
    """Whether it is a file, and no link to one, in a folder that is none either."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()
    except OSError:
        return False


def _bytes(path: Path, offset: int, limit: int) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""  # it was dropped just now
    try:
        return os.pread(file, limit, offset)
    finally:
        os.close(file)


def _numbered(folder: Path, form: re.Pattern[str]) -> dict[int, Path]:
    """What is in a folder and has a number in its name."""
    found = dict[int, Path]()
    if folder == Path() or folder.is_symlink():
        return found
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return found
    for name in names:
        if (fits := form.fullmatch(name)) is not None:
            found[int(fits[1])] = folder / name
    return found
