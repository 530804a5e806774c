"""What workers write: into files that are rotated, and the end of it into reports."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections import deque
from pathlib import Path
from urllib.parse import quote

__all__ = ["Folders", "RotatedLog", "begin_of", "folder_name"]


_TAIL = 4096  # bytes that are kept for reports
_LONGEST_NAME = 200  # characters of a folder's name
_MOST_RUNS = 512  # whose logs are kept


class RotatedLog:
    """A file that is begun anew when it is full; the one before it is kept, and no other.

    Whoever writes without end fills two files, and then the same two again. Where the present one
    begins in the whole output is kept beside it: see :func:`begin_of`.

    Parameters
    ----------
    path : Path
        The file; the one before it is called ``*.1``.
    limit : int
        Bytes of one file.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()
        self._tail = b""
        self.problem = ""

    def write(self, data: bytes) -> None:
        """Add what a worker has written; a full disk costs the log, not the worker."""
        self._tail = (self._tail + data)[-_TAIL:]
        begin = 0  # of a new file
        try:
            if self._size and self._size + len(data) > self._limit:
                self._file.close()
                begin = begin_of(self._path) + self._size
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("ab", buffering=0)
                self._size = 0
            self._size += self._file.write(data)
            if begin:
                _keep_begin(self._path, begin)
        except (OSError, ValueError) as error:
            self.problem = f"its log is not whole: {error}"

    @property
    def tail(self) -> str:
        """The end of it."""
        return self._tail.decode(errors="replace")

    def close(self) -> None:
        """Nothing is written any more."""
        self._file.close()


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".begin")


def begin_of(path: Path) -> int:
    """Bytes that a worker had written before the first one of its present file."""
    try:
        return int(_beside(path).read_bytes()[:32])
    except (OSError, ValueError):
        return 0


def _keep_begin(path: Path, begin: int) -> None:
    """Note it, whole or not at all."""
    new = _beside(path).with_suffix(".new")
    new.write_text(str(begin))
    new.replace(_beside(path))


class Folders:
    """Where the files of an agent's jobs are.

    Parameters
    ----------
    root : Path
        The agent's own folder: ``jobs/<job>/run-<n>/rank-<r>.log``, and ``jobs/<job>/work``, where
        jobs run that name no folder.
    log_bytes : int
        Of one log file.
    """

    def __init__(self, root: Path, log_bytes: int) -> None:
        self.root, self._log_bytes = root, log_bytes
        self._runs: deque[Path] = deque()

    def job(self, job: str) -> Path:
        """All that there is of a job."""
        return self.root / "jobs" / folder_name(job)

    def work(self, job: str) -> Path:
        """Where it runs if it does not say."""
        folder = self.job(job) / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, job: str, run: int, worker: int) -> RotatedLog:
        """The log of a worker."""
        folder = self.job(job) / f"run-{run}"
        folder.mkdir(parents=True, exist_ok=True)
        return RotatedLog(folder / f"rank-{worker}.log", self._log_bytes)

    def ended(self, job: str, run: int) -> None:
        """A worker has ended; logs of the runs that ended before all others may go for it."""
        folder = self.job(job) / f"run-{run}"
        if not self._runs or self._runs[-1] != folder:
            self._runs.append(folder)
        while len(self._runs) > _MOST_RUNS:
            self._drop(self._runs.popleft())

    def _drop(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in (folder.parent / "work", folder.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()


def folder_name(job: str) -> str:
    """A job's identity as the name of a folder: one for each, whatever is in it."""
    name = quote(job, safe=" ").replace(".", "%2E") if job.startswith(".") else quote(job, safe=" ")
    if len(name) > _LONGEST_NAME:
        digest = hashlib.blake2b(os.fsencode(job), digest_size=12).hexdigest()
        name = f"{name[:_LONGEST_NAME]}-{digest}"
    return name
