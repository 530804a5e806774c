"""What routes share: the orchestrator, who may ask it, and how answers are written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
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
from orchestrator.server.guard.gate import BAD_TOKEN, Limits
from orchestrator.server.guard.repeats import Repeats
from orchestrator.server.guard.tokens import Principal, TokenStore
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
_GOING_DOWN = Problem(
    "going down",
    503,
    "the server is going down; ask again when it is back",
    headers={"Retry-After": "1"},
)


class Streams:
    """Answers without an end: so many at once, and all end when the server does.

    One token has a quarter of them at most, and its answers end when it is revoked or expires.

    Parameters
    ----------
    most : int
        How many.
    tokens : TokenStore
        Who may still ask.
    beat_s : float, optional
        How often that is looked at, and something is sent where nothing happens, seconds.
    """

    def __init__(self, most: int, tokens: TokenStore, beat_s: float = 10.0) -> None:
        self._most, self._tokens, self._beat_s = most, tokens, beat_s
        self._held: Counter[str] = Counter()
        self._closing = asyncio.Event()

    @property
    def open(self) -> int:
        """How many there are now."""
        return self._held.total()

    def close(self) -> None:
        """End all of them, and let no more begin."""
        self._closing.set()

    def reserve(self, who: Principal) -> None:
        """Raise a :class:`ProblemError` if there are too many."""
        if self._closing.is_set():
            raise ProblemError(_GOING_DOWN)
        later = {"Retry-After": "5"}
        if self.open >= self._most:
            detail = f"{self.open} answers are being streamed; close some, or ask again later"
            raise ProblemError(Problem("too many streams", 503, detail, headers=later))
        mine = self._held[who.name]
        if mine >= max(1, self._most // 4):
            detail = f"{mine} answers are being streamed to token '{who.name}'"
            remedy = "close some, or use a token of its own for each program"
            problem = Problem("too many streams", 429, f"{detail}; {remedy}", headers=later)
            raise ProblemError(problem)

    @contextlib.contextmanager
    def _counted(self, who: Principal) -> Iterator[None]:
        self._held[who.name] += 1
        try:
            yield
        finally:
            self._held[who.name] -= 1
            if not self._held[who.name]:
                del self._held[who.name]

    async def race(
        self, who: Principal, event: Coroutine[Any, Any, object], timeout_s: float
    ) -> None:
        """Wait for something, but for no longer than a time.

        Raises
        ------
        ProblemError
            If the server goes down, or the token does not hold any more.
        """
        closing = asyncio.ensure_future(self._closing.wait())
        coming = asyncio.ensure_future(event)
        both: set[asyncio.Future[Any]] = {coming, closing}
        until_s = time.monotonic() + timeout_s
        try:
            with self._counted(who):
                while not coming.done() and (left_s := until_s - time.monotonic()) > 0:
                    await asyncio.wait(
                        both,
                        timeout=min(left_s, self._beat_s),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if closing.done() and not coming.done():
                        raise ProblemError(_GOING_DOWN)
                    if not self._tokens.holds(who):
                        raise ProblemError(BAD_TOKEN)
            if coming.done():
                coming.result()
        finally:
            for one in both:
                one.cancel()

    def stream(
        self,
        who: Principal,
        parts: AsyncIterator[bytes],
        media_type: str,
        *,
        beat: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Answer with what comes, until it ends, the client leaves, or the server goes down.

        Parameters
        ----------
        who : Principal
            Who asks; it ends when that token does.
        parts : async iterator of bytes
            What is sent; closed in any case.
        media_type : str
        beat : bytes
            Sent when there was nothing for a while; empty: nothing is.
        headers : mapping, optional
            Of the answer.
        """
        self.reserve(who)
        return StreamingResponse(
            self._running(who, parts, beat), media_type=media_type, headers=dict(headers or {})
        )

    async def _running(
        self, who: Principal, parts: AsyncIterator[bytes], beat: bytes
    ) -> AsyncIterator[bytes]:
        closing = asyncio.ensure_future(self._closing.wait())
        coming: asyncio.Future[bytes] | None = None
        looked_s = time.monotonic()
        try:
            with self._counted(who):
                while not closing.done():
                    if coming is None:
                        coming = asyncio.ensure_future(anext(parts))
                    both: set[asyncio.Future[Any]] = {coming, closing}
                    first = asyncio.FIRST_COMPLETED
                    await asyncio.wait(both, timeout=self._beat_s, return_when=first)
                    if time.monotonic() - looked_s >= self._beat_s:
                        looked_s = time.monotonic()
                        if not self._tokens.holds(who):
                            return
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
    streams : Streams
        Answers without an end.
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
    begun_s : float
        When it was made, on the monotonic clock.
    """

    orchestrator: InfrastructureOrchestrator
    tokens: TokenStore
    repeats: Repeats
    streams: Streams
    limits: Limits = field(default_factory=Limits)
    load_policy: Callable[[str], Policy] | None = None
    deployment: Any = None
    proxy: Any = None
    services: InferenceJobManager | None = None
    ready: Callable[[], str] = lambda: ""
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
