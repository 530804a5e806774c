"""What goes on and on, events and output: where a connection is lost, it is taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orchestrator.client.forms import Event
from orchestrator.client.problems import RequestFailedError

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
    """Workers' output as lines, each told once though connections are lost.

    What comes are records (JSON, one a line), each with its place in its worker's whole output: the
    next connection goes on there, whatever has become of the files that hold it. What is not kept
    any more by then is said to be lost.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._read: dict[tuple[int, int], int] = {}  # bytes, by run and worker

    @property
    def since(self) -> str | None:
        """What was read of each worker, for the next connection; None: nothing yet."""
        read = sorted(self._read.items())
        return ",".join(f"{run}.{worker}:{end}" for (run, worker), end in read) or None

    def restart(self) -> None:
        """The connection was lost: what was half told will come again."""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """Lines that have come, with their ends.

        Raises
        ------
        RequestFailedError
            If it is no record: somebody else answers, or a server of another release.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._lines(_record(line))

    def _lines(self, record: dict[str, Any]) -> Iterator[str]:
        if "worker" in record:
            whose = record["run"], record["worker"]
            if record["offset"] > self._read.get(whose, record["offset"]):
                yield "(output was lost here: the server does not keep it all)\n"
            self._read[whose] = record["next"]
        *lines, rest = record["text"].split("\n")
        yield from (line + "\n" for line in lines)
        if rest:
            yield rest


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if isinstance(record["text"], str):
            return dict(record)
    except (ValueError, KeyError, TypeError):
        pass
    raise RequestFailedError(
        f"the answer is no record of output: {line[:80]!r}; is a Quartermaster server of this "
        "release at that address?",
        200,
    )
