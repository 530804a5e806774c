"""What routes share: the orchestrator, who may ask it, and how answers are written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from fastapi import Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response, StreamingResponse

from orchestrator.errors import ValidationError
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Policy
from orchestrator.server.guard.gate import Limits
from orchestrator.server.guard.repeats import Repeats
from orchestrator.server.guard.tokens import TokenStore
from orchestrator.server.problems import Problem, ProblemError
from orchestrator.workloads.serving import InferenceJobManager

__all__ = [
    "EVENTS",
    "JSON",
    "Cursor",
    "Limit",
    "Parts",
    "Streams",
    "StrictBody",
    "event_of",
    "member",
    "told",
]

Named = TypeVar("Named", bound=Enum)

Limit: TypeAlias = Annotated[int, Query(ge=1, le=1000, description="Most items of the answer.")]
Cursor: TypeAlias = Annotated[
    str | None, Query(max_length=500, description="What the answer before gave as next_cursor.")
]


JSON, EVENTS = "application/json", "text/event-stream"
_BEAT_S = 10.0


class Streams:
    """Answers without an end: so many at once, and all end when the server does.

    Parameters
    ----------
    most : int
        How many.
    """

    def __init__(self, most: int) -> None:
        self._most, self.open = most, 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all of them, and let no more begin."""
        self._closing.set()

    def reserve(self) -> None:
        """Raise a :class:`ProblemError` if there are too many."""
        if self._closing.is_set():
            detail = "the server is going down; ask again when it is back"
            raise ProblemError(Problem("going down", 503, detail, headers={"Retry-After": "1"}))
        if self.open >= self._most:
            detail = f"{self.open} answers are being streamed; close some, or ask again later"
            raise ProblemError(
                Problem("too many streams", 503, detail, headers={"Retry-After": "5"})
            )

    async def race(self, event: Coroutine[Any, Any, object], timeout_s: float) -> None:
        """Wait for something, but for no longer than a time, and not beyond the server's end."""
        self.open += 1
        closing = asyncio.ensure_future(self._closing.wait())
        coming = asyncio.ensure_future(event)
        try:
            both: set[asyncio.Future[Any]] = {coming, closing}
            await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                coming.result()
        finally:
            self.open -= 1
            for one in (coming, closing):
                one.cancel()

    def stream(
        self,
        parts: AsyncIterator[bytes],
        media_type: str,
        *,
        beat: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Answer with what comes, until it ends, the client leaves, or the server goes down.

        Parameters
        ----------
        parts : async iterator of bytes
            What is sent; closed in any case.
        media_type : str
        beat : bytes
            Sent when there was nothing for ten seconds; empty: nothing is.
        headers : mapping, optional
            Of the answer.
        """
        self.reserve()
        return StreamingResponse(
            self._running(parts, beat), media_type=media_type, headers=dict(headers or {})
        )

    async def _running(self, parts: AsyncIterator[bytes], beat: bytes) -> AsyncIterator[bytes]:
        self.open += 1
        closing = asyncio.ensure_future(self._closing.wait())
        coming: asyncio.Future[bytes] | None = None
        try:
            while not closing.done():
                if coming is None:
                    coming = asyncio.ensure_future(anext(parts))
                both: set[asyncio.Future[Any]] = {coming, closing}
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait(both, timeout=_BEAT_S if beat else None, return_when=first)
                if coming.done():
                    try:
                        part = coming.result()
                    except StopAsyncIteration:
                        return
                    coming = None
                    yield part
                elif beat:
                    yield beat
        finally:
            self.open -= 1
            closing.cancel()
            if coming is not None:
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                    await coming
            close = getattr(parts, "aclose", None)
            if close is not None:
                await close()


@dataclass(frozen=True)
class Parts:
    """What an application is made of.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
        Started by whoever made it.
    tokens : TokenStore
        Who may ask.
    repeats : Repeats
        What was asked with which key.
    limits : Limits
    load_policy : callable or None
        Makes a policy of a bundle's folder; None: nobody can.
    deployment : object or None
        Who puts policies in charge.
    proxy : object or None
        Where services are reached.
    services : InferenceJobManager or None
        Who replaces their replicas; None: nobody does.
    ready : callable
        Why the server is not ready yet; empty: it is.
    streams : Streams
        Answers without an end.
    begun_s : float
        When it was made, on the monotonic clock.
    """

    orchestrator: InfrastructureOrchestrator
    tokens: TokenStore
    repeats: Repeats
    limits: Limits = field(default_factory=Limits)
    load_policy: Callable[[str], Policy] | None = None
    deployment: Any = None
    proxy: Any = None
    services: InferenceJobManager | None = None
    ready: Callable[[], str] = lambda: ""
    streams: Streams = field(default_factory=lambda: Streams(Limits().streams))
    begun_s: float = field(default_factory=time.monotonic)


class StrictBody(BaseModel):
    """A request's body whose fields are of the types that they say, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def member(subject: str, field: str, name: str, kind: type[Named]) -> Named:
    """The member of an enumeration that a name means, in any case.

    Raises
    ------
    ValidationError
        If there is none.
    """
    found = kind.__members__.get(name.upper())
    if found is None:
        names = ", ".join(kind.__members__)
        raise ValidationError(subject, field, f"is {name!r}", f"use one of {names}")
    return found


_encode = msgspec.json.Encoder(enc_hook=lambda value: value.item()).encode  # NumPy's numbers


def told(answer: object, status: int = 200) -> Response:
    """Answer with plain data, as JSON."""
    return Response(_encode(answer), status, media_type=JSON)


def event_of(data: object, name: str = "", cursor: str = "") -> bytes:
    """A server-sent event; ``cursor`` is what a client that comes back sends."""
    lines = [f"event: {name}"] if name else []
    lines += [f"id: {cursor}"] if cursor else []
    lines.append(f"data: {_encode(data).decode()}")
    return ("\n".join(lines) + "\n\n").encode()
