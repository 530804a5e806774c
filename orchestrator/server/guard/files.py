"""What a server keeps in its folder besides the log: who runs on it, where, and for whom."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from orchestrator.errors import ConfigurationError

__all__ = ["Endpoint", "FolderLock", "read_endpoint", "write_private"]


class Endpoint(msgspec.Struct, frozen=True):
    """Where a server answers, and the token of its operator.

    Parameters
    ----------
    url, token : str
        As clients need them.
    mesh_url : str
        Where services are reached; empty: nowhere.
    pid : int
        The server's process.
    """

    url: str
    token: str
    mesh_url: str = ""
    pid: int = 0

    def write(self, path: Path) -> None:
        """Write it so that only its owner can read it, whole or not at all."""
        write_private(path, msgspec.json.encode(self))


def read_endpoint(path: Path) -> Endpoint | None:
    """What a server has written; None: nothing, or nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Endpoint)
    except (OSError, msgspec.MsgspecError):
        return None


def write_private(path: Path, data: bytes) -> None:
    """Replace a file that only its owner may read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


class FolderLock:
    """Only one server runs on a folder; a killed one does not hold it any more.

    Parameters
    ----------
    path : Path
        A file in it.

    Raises
    ------
    ConfigurationError
        If another one does.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._handle, 32).decode(errors="replace") or "unknown"
            os.close(self._handle)
            problem = f"{path.parent}: another server runs on it (process {holder})"
            raise ConfigurationError(f"{problem}; stop that one, or use another 'dir'") from error
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let others run on it."""
        with contextlib.suppress(OSError):
            os.close(self._handle)
