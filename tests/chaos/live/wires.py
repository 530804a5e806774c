"""The line between an agent and its orchestrator: cut, held up, and with reports that come twice.

Both are told of the other's end only when the line carries something, as on a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

_HEADER = 4
_MOST_LATE_S = 0.6
_AGAIN_S = 0.05


@dataclass(frozen=True)
class Chances:
    """How often what goes wrong, per report."""

    held: float = 0.0  # with all that comes after it
    late: float = 0.0  # it alone: others overtake it
    twice: float = 0.0  # it comes again, at once or later


class Wire:
    """The line of a node.

    Parameters
    ----------
    path : Path
        Where its agent connects.
    rng : random.Random
    chances : Chances
    """

    def __init__(self, path: Path, rng: random.Random, chances: Chances) -> None:
        self.path = path
        self.leader = path  # where the orchestrator listens; at first nowhere
        self._rng, self._chances = rng, chances
        self._clear = asyncio.Event()
        self._clear.set()
        self._calm = False
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def close(self) -> None:
        """End, and everything on it."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.snap()

    def cut(self) -> None:
        """Carry nothing until further notice; what is said meanwhile arrives then."""
        self._clear.clear()

    def mend(self) -> None:
        """Carry everything again."""
        self._clear.set()

    def calm(self) -> None:
        """Nothing more goes wrong."""
        self._calm = True
        self.mend()

    def snap(self) -> None:
        """All connections on it end, at both ends."""
        for writer in list(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._note_task()
        self._open.add(writer)
        try:
            await self._clear.wait()
            if self.leader == self.path:
                raise ConnectionRefusedError("nobody leads yet")
            there, onward = await asyncio.open_unix_connection(str(self.leader))
        except (OSError, asyncio.CancelledError):
            self._close(writer)
            return
        self._open.add(onward)
        pumps = [
            asyncio.ensure_future(self._pump(reader, onward, mischief=True)),
            asyncio.ensure_future(self._pump(there, writer, mischief=False)),
        ]
        self._tasks.update(pumps)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(pumps)
        self._tasks.difference_update(pumps)
        self._close(onward)
        self._close(writer)

    def _note_task(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, mischief: bool
    ) -> None:
        """Carry frames one way, until there are no more."""
        with contextlib.suppress(OSError):
            while True:
                frame = await _frame(reader)
                await self._clear.wait()
                if frame is None or writer.is_closing():
                    return
                if mischief and not self._calm and _is_report(frame):
                    await self._carry(frame, writer)
                else:
                    writer.write(frame)

    async def _carry(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        """Carry a report, sooner or later, once or twice."""
        rng, chances = self._rng, self._chances
        loop = asyncio.get_running_loop()
        if rng.random() < chances.held:
            await asyncio.sleep(rng.uniform(0.0, _MOST_LATE_S))
        if rng.random() < chances.late:
            loop.call_later(rng.uniform(0.0, _MOST_LATE_S), self._write, writer, frame)
        else:
            writer.write(frame)
        if rng.random() < chances.twice:
            loop.call_later(rng.choice([0.0, _MOST_LATE_S]), self._write, writer, frame)

    def _write(self, writer: asyncio.StreamWriter, frame: bytes) -> None:
        if not self._clear.is_set():  # a line loses nothing but at its end
            asyncio.get_running_loop().call_later(_AGAIN_S, self._write, writer, frame)
        elif not writer.is_closing():
            writer.write(frame)


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """A frame with its header; None at the end of the line."""
    try:
        header = await reader.readexactly(_HEADER)
        return header + await reader.readexactly(int.from_bytes(header, "big"))
    except (asyncio.IncompleteReadError, OSError):
        return None


def _is_report(frame: bytes) -> bool:
    return bool(msgspec.msgpack.decode(frame[_HEADER:])["type"] == "report")
