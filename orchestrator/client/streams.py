"""What goes on and on, events and output: where a connection is lost, it is taken up again."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.client.forms import Event

__all__ = ["EventReader", "LineReader"]


class EventReader:
    """Server-sent events (WHATWG HTML, 9.2.6), and the place to go on from.

    Parameters
    ----------
    since : str or None
        After which event.

    Attributes
    ----------
    cursor : str or None
        The last event that was read to its end.
    """

    def __init__(self, since: str | None) -> None:
        self.cursor = since
        self._rest = b""
        self._fields: dict[str, list[str]] = {}

    def restart(self) -> None:
        """The connection was lost: what was half told will come again."""
        self._rest, self._fields = b"", {}

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            line = raw.decode("utf-8", "replace").removesuffix("\r")
            if line:
                name, _, value = line.partition(":")
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
                continue
            event = self._complete()
            if event is not None:
                yield event

    def _complete(self) -> Event | None:
        told, self._fields = self._fields, {}
        if "id" in told:
            self.cursor = told["id"][-1]
        if "data" not in told:
            return None  # a comment that keeps the line alive
        event: Any = json.loads("\n".join(told["data"]))
        if not isinstance(event, dict):
            return None
        found: Event = {**event}  # type: ignore[typeddict-item]
        if "cursor" in found:
            self.cursor = found["cursor"]
        return found


class LineReader:
    """Workers' output as lines, each told once though a connection may be lost.

    A new connection tells all from the beginning: as many lines of each worker as were told before
    are left out. If the server keeps less of it than before, they cannot be counted: then that is
    said, and all that is kept is told.
    """

    def __init__(self) -> None:
        self._begin: int | None = None
        self._lost = False
        self._told = Counter[bytes]()
        self._again = Counter[bytes]()
        self._rest = b""

    def restart(self) -> None:
        """The connection was lost: the next one begins at the first line."""
        self._again, self._rest = self._told.copy(), b""

    def opened(self, headers: Mapping[str, str]) -> None:
        """A connection was made; its headers say where what is kept begins."""
        begin = int(headers.get("X-Output-Begin", "0"))
        if self._begin is not None and begin > self._begin:
            self._again.clear()
            self._lost = bool(self._told)
        self._begin = begin

    def feed(self, data: bytes) -> Iterator[str]:
        """Lines that are complete now, with their ends."""
        if self._lost:
            self._lost = False
            yield "(output was lost: the server does not keep it all; lines may come twice here)\n"
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._new(line + b"\n")

    def finish(self) -> Iterator[str]:
        """What came after the last line's end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._new(rest)

    def _new(self, line: bytes) -> Iterator[str]:
        found = _WORKER.match(line)
        worker = found[0] if found else b""
        if self._again[worker] > 0:
            self._again[worker] -= 1
            return
        self._told[worker] += 1
        yield line.decode("utf-8", "replace")


_WORKER = re.compile(rb"\[\d+\] ")
