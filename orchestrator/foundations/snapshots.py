"""Snapshots as files beside a log: written whole or not at all, and read only if they are whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import CorruptedError, StorageError
from orchestrator.wire.entries import decode_snapshot, encode_snapshot
from orchestrator.wire.seals import Content, open_seal

__all__ = ["KEPT", "PAUSES", "SnapshotFiles"]


KEPT = 2
"""Snapshots that a log keeps: should the newer one be damaged, there is the other."""


PAUSES = 10
"""A cut that has failed is tried again after this part of the entries of a whole one."""


_log = logging.getLogger(__name__)


_END, _UNFINISHED = ".snapshot", ".unfinished"


class SnapshotFiles:
    """The snapshots of one log: ``<log>.<identity>.<index>.snapshot``.

    Parameters
    ----------
    log : Path
        The log's file.
    identity : str
        The log's: snapshots of another log that was in this place are not looked at.
    """

    def __init__(self, log: Path, identity: str) -> None:
        self._folder = log.parent
        self._begin = f"{log.name}.{identity}."

    def indices(self) -> list[int]:
        """Of all that there are: the first entry that each does not contain, the newest first."""
        return sorted(self._numbered(_END), reverse=True)

    def _numbered(self, end: str) -> Iterator[int]:
        for path in self._folder.iterdir():
            if path.name.startswith(self._begin) and path.name.endswith(end):
                number = path.name[len(self._begin) :].split(".", 1)[0]
                if number.isdigit():
                    yield int(number)

    def _path(self, index: int, end: str = _END) -> Path:
        return self._folder / f"{self._begin}{index:020d}{end}"

    def write(self, index: int, snapshot: object) -> None:
        """Keep a snapshot; when this returns it can no longer be lost.

        Raises
        ------
        ValidationError
            If it holds what cannot be kept.
        StorageError
            If the disk does not take it; nothing is left of it then.
        """
        sealed = encode_snapshot((index, snapshot))
        beside = self._path(index, f".{os.getpid()}{_UNFINISHED}")
        try:
            with beside.open("wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path(index))
            self._sync_folder()
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise StorageError(
                f"{beside}: {error.strerror or error}; see to the disk: until then the log grows"
            ) from error

    def _sync_folder(self) -> None:
        """Make new names durable."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, index: int) -> object:
        """A snapshot.

        Raises
        ------
        UnknownSchemaError
            If another version wrote it.
        CorruptedError
            If it is not what was written, or cannot be read.
        """
        path = self._path(index)
        try:
            held = decode_snapshot(path.read_bytes())
        except OSError as error:
            raise CorruptedError(f"{path}: {error}; restore it from a copy") from error
        except CorruptedError as error:
            raise CorruptedError(f"{path}: {error}") from error
        if not (isinstance(held, tuple) and len(held) == 2 and held[0] == index):
            raise CorruptedError(f"{path}: is of another index; restore it from a copy")
        return held[1]

    def is_whole(self, index: int) -> bool:
        """Whether a snapshot is there, as it was written; it is not looked at further."""
        try:
            open_seal(Content.SNAPSHOT, self._path(index).read_bytes())
        except (OSError, CorruptedError) as error:
            _log.error("a snapshot is not counted on: %s", error)
            return False
        return True

    def keep_from(self, index: int) -> None:
        """Remove those before an index, and what a process left that died while it wrote one."""
        for end in (_END, _UNFINISHED):
            for number in self._numbered(end):
                if number < index:
                    for path in self._folder.glob(f"{self._begin}{number:020d}.*"):
                        path.unlink(missing_ok=True)
