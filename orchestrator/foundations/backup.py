"""Copy a log that is in use: ``python -m orchestrator.foundations.backup DIR/log.sqlite FOLDER``.

SQLite copies the file as it is at one moment while others go on writing; a plain copy of it would
be torn. The snapshots beside it belong to it. What is made is opened before it counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import (
    ConfigurationError,
    CorruptedError,
    QuartermasterError,
    StorageError,
)
from orchestrator.foundations.sqlite import SQLiteLog

__all__ = ["Backup", "back_up"]


_TRIES = 5  # while it is copied it may be cut, twice even: its snapshots are others then


class Backup(NamedTuple):
    """A copy of a log.

    Parameters
    ----------
    log : Path
        The file.
    entries : int
        Entries that the log has had.
    snapshots : int
        Snapshots that lie beside it.
    """

    log: Path
    entries: int
    snapshots: int


def back_up(log: str | Path, folder: str | Path) -> Backup:
    """Copy a log and its snapshots, whoever writes it meanwhile.

    To restore it, give the folder (or its content, in a new one) to whoever leads the log.

    Parameters
    ----------
    log : str or Path
        The file of a :class:`SQLiteLog`.
    folder : str or Path
        Where the copy goes, under the same name; made if it does not exist.

    Returns
    -------
    Backup

    Raises
    ------
    ConfigurationError
        If there is no such log, or the folder has one already.
    StorageError
        If the disk does not take it.
    CorruptedError
        If the log cannot be copied whole: it is damaged.
    """
    source, target = Path(log), Path(folder) / Path(log).name
    if not source.is_file():
        raise ConfigurationError(f"{source}: there is no log; give the path of DIR/log.sqlite")
    if target.exists():
        raise ConfigurationError(f"{target}: is there already; give a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return _copy(source, target, _TRIES)
    except (OSError, sqlite3.Error) as error:
        _remove(target)
        raise StorageError(f"{target}: {error}; see to the disk, and begin again") from error


def _copy(source: Path, target: Path, tries: int) -> Backup:
    """Copy everything until it is whole, so often at most."""
    try:
        return _copy_once(source, target)
    except CorruptedError:
        _remove(target)
        if tries == 1:
            raise
    return _copy(source, target, tries - 1)


def _copy_once(source: Path, target: Path) -> Backup:
    """Copy everything, and open it."""
    # Snapshots first: the file that is read later holds whatever entries follow on them.
    snapshots = sorted(source.parent.glob(f"{source.name}.*.snapshot"))
    for path in snapshots:
        with suppress(FileNotFoundError):  # dropped by now, so it is not needed
            shutil.copyfile(path, target.parent / path.name)
    uri = f"{source.resolve().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True)) as there,
        closing(sqlite3.connect(target)) as here,
    ):
        there.backup(here)
    with SQLiteLog(target) as copied:
        held = copied.snapshot
        entries = len(copied) + (0 if held is None else held[0])
    kept = list(target.parent.glob(f"{target.name}*"))
    for path in [*kept, target.parent]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return Backup(target, entries, sum(path.suffix == ".snapshot" for path in kept))


def _remove(target: Path) -> None:
    for path in target.parent.glob(f"{target.name}*"):
        path.unlink(missing_ok=True)


def main(given: Sequence[str] | None = None) -> int:
    """Copy a log; an exit code."""
    parser = argparse.ArgumentParser(description="Copy a log that is in use, whole.")
    parser.add_argument("log", type=Path, help="DIR/log.sqlite of a server")
    parser.add_argument("folder", type=Path, help="where the copy goes")
    options = parser.parse_args(given)
    try:
        made = back_up(options.log, options.folder)
    except QuartermasterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{made.log}: {made.entries:,} entries, {made.snapshots} snapshots\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
