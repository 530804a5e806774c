"""The agent's socket for workers: JSON lines, so that any language can speak them.

A worker connects to ``QUARTERMASTER_CONTROL`` and says ``{"hello": {"job", "run", "rank"}}``. From
then on the agent may say

- ``{"save": k}``: answer ``{"saved": k, "step": s}``, or ``{"failed": k, "reason": "..."}``;
- ``{"world": {"generation", "ranks", "master", "rank", "size"}}``: the workers are others from now
  on. ``ranks`` has, by new rank, the ``RANK`` that a worker was started with; ``rank`` is null for
  one that is not part of it any more. Who was started with ``QUARTERMASTER_WARM=1`` waits for one.
  Answer ``{"joined": generation}``;
- ``{"stop": reason}``: end before long;

and the worker, at will, ``{"progress": {"step": s, "fraction": f or null}}``, and a replica of a
service ``{"serving": {"port": p}}``: requests go there from now on (0: nowhere any more).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

__all__ = ["ControlDoor", "Speaker", "WorkerLine"]


_MOST_LINE = 65536  # bytes
_LONGEST_PATH = 107  # bytes, of a socket
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


_log = logging.getLogger(__name__)


class WorkerLine:
    """The connection of one worker."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def say(self, what: dict[str, Any]) -> None:
        """Send a line; lost if the worker has gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(what).encode() + b"\n")

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


class Speaker(Protocol):
    """A worker, as it is spoken with."""

    def greet(self, line: WorkerLine) -> None:
        """It has said hello on this connection; the last one counts."""

    def hear(self, said: dict[str, Any]) -> None:
        """It has said something."""


class ControlDoor:
    """Takes the connections of workers.

    Parameters
    ----------
    find : callable
        The worker whose process leads a session, or, if no session is known, that of a job, run
        and the rank that it was started with.
    folder : Path
        Where the socket is, unless its path would be too long for one.
    """

    def __init__(
        self, find: Callable[[int, tuple[str, int, int]], Speaker | None], folder: Path
    ) -> None:
        self._find = find
        self.path, self._own = str(folder / "control"), ""
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            self._own = tempfile.mkdtemp(prefix="quartermaster-")
            self.path = str(Path(self._own) / "control")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(
            self._serve, self.path, limit=_MOST_LINE, backlog=512
        )

    def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.close()
        with contextlib.suppress(OSError):
            Path(self.path).unlink()
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._converse(reader, writer)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("a worker says what nobody understands, and is not heard: %s", error)
        except OSError:
            pass  # it has gone
        finally:
            self._open.discard(writer)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear a worker until it goes."""
        first = await reader.readline()
        if not first:
            return
        hello = json.loads(first)["hello"]
        named = str(hello["job"]), int(hello["run"]), int(hello["rank"])
        speaker = self._find(_session_of(writer), named)
        if speaker is None:
            _log.warning("a process says that it is %s, which does not run here", named)
            return
        speaker.greet(WorkerLine(writer))
        while line := await reader.readline():
            said = json.loads(line)
            if not isinstance(said, dict):
                raise TypeError(f"{said!r:.80} is no object")
            speaker.hear(said)


def _session_of(writer: asyncio.StreamWriter) -> int:
    """The session of who is at the other end; -1 if it has gone."""
    link: socket.socket = writer.get_extra_info("socket")
    given = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    with contextlib.suppress(OSError):
        return os.getsid(_CREDENTIALS.unpack(given)[0])
    return -1
