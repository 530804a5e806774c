"""The picture for many listeners, looked at once for all while somebody listens; its routes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header
from starlette.responses import Response

from orchestrator.server.guard.access import Who, answers, only
from orchestrator.server.guard.tokens import Role
from orchestrator.server.parts import JSON, Parts
from orchestrator.server.view.picture import ClusterPicture

__all__ = ["ViewStream", "routes"]


_log = logging.getLogger(__name__)


_KEPT = 64
"""Frames that a listener may be late by; then it gets the whole picture again."""


def _event(ident: str, part: dict[str, Any]) -> bytes:
    """A frame as a server-sent event; JSON has no line breaks."""
    return b"id: %b\nevent: frame\ndata: %b\n\n" % (ident.encode(), msgspec.json.encode(part))


class ViewStream:
    """Frames of a cluster's picture: the whole of it once, then what has changed.

    Parameters
    ----------
    picture : ClusterPicture
        What is told.
    tick_s : float, optional
        How often it is asked whether anything has happened, which costs next to nothing, seconds.
    gap_s : float, optional
        Least time between two frames, seconds.
    rest_s : float, optional
        Greatest time between two looks at the picture: loads of services are in no log, seconds.
    """

    def __init__(
        self,
        picture: ClusterPicture,
        *,
        tick_s: float = 0.02,
        gap_s: float = 0.1,
        rest_s: float = 1.0,
    ) -> None:
        self._picture = picture
        self._tick_s, self._gap_s, self._rest_s = tick_s, gap_s, rest_s
        self._epoch = secrets.token_hex(4)  # frames of another process are other frames
        self._number = 0
        self._frames: deque[bytes] = deque(maxlen=_KEPT)
        self._news = asyncio.Event()
        self._whole: tuple[int, bytes] = (-1, b"")
        self._plain: tuple[int, bytes] = (-1, b"")
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._listeners

    def whole(self) -> bytes:
        """The whole picture as it is now, JSON."""
        self._advance()
        if self._plain[0] != self._number:  # only the time goes on when nothing has changed
            picture = self._picture.whole()
            del picture["now_ms"]
            self._plain = self._number, msgspec.json.encode(picture)
        return b'{"now_ms":%d,%b' % (self._picture.now_ms, self._plain[1][1:])

    async def frames(self, last_id: str = "") -> AsyncIterator[bytes]:
        """Server-sent events for one listener, for ever.

        Parameters
        ----------
        last_id : str, optional
            The last frame that it has; if it is known what came after it, it gets that, and else
            the whole picture first.
        """
        self._listeners += 1
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            self._advance()
            number = self._after(last_id)
            while True:
                if number < self._number - len(self._frames):
                    number = self._number
                    yield self._all()
                while number < self._number:
                    late = self._number - number
                    if late > len(self._frames):
                        break
                    number += 1
                    yield self._frames[-late]
                if number == self._number:
                    await self._news.wait()
        finally:
            self._listeners -= 1
            if not self._listeners and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def _after(self, last_id: str) -> int:
        """The number of the frame that a listener has; -1: none that is known."""
        epoch, _, number = last_id.partition("-")
        if epoch != self._epoch or not number.isdecimal() or int(number) > self._number:
            return -1
        return int(number)

    def _ident(self) -> str:
        return f"{self._epoch}-{self._number}"

    def _all(self) -> bytes:
        """The whole picture as of the last frame; made once for all who ask between two frames."""
        if self._whole[0] != self._number:
            self._whole = self._number, _event(self._ident(), self._picture.whole())
        return self._whole[1]

    def _advance(self) -> None:
        """Look at the picture; a frame if anything has changed."""
        part = self._picture.changes()
        if part:
            self._number += 1
            self._frames.append(_event(self._ident(), part))
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def _look(self) -> None:
        """Look whenever something has happened, and now and then."""
        loop = asyncio.get_running_loop()
        seen, looked_s = self._picture.version, loop.time()
        while True:
            await asyncio.sleep(self._tick_s)
            passed_s = loop.time() - looked_s
            wait_s = self._rest_s
            if self._picture.version != seen:
                wait_s = self._gap_s
            elif self._picture.behind:
                wait_s = min(3 * self._gap_s, self._rest_s)  # it is in no hurry
            if passed_s >= wait_s:
                seen, looked_s = self._picture.version, loop.time()
                try:
                    self._advance()
                except Exception:  # whoever listens is better off with an old picture than none
                    _log.exception("the picture of the cluster could not be drawn")


_BEAT = b": nothing has happened\n\n"


def routes(parts: Parts) -> APIRouter:
    """Routes of the picture of a cluster; one picture serves all who look."""
    router = APIRouter(tags=["view"])
    view = ViewStream(ClusterPicture(parts.orchestrator, deployed=parts.deployment is not None))

    @router.get("/view", dependencies=only(Role.VIEWER), responses=answers())
    async def show_view() -> Response:
        """What the page draws, all of it, as it is now.

        A compact form for programs that draw: tables are columns, and what is in them refers to
        other tables by row. See ``/cluster``, ``/queue``, ``/nodes`` and ``/jobs`` for the same in
        words.
        """
        return Response(view.whole(), media_type=JSON)

    @router.get(
        "/view/stream",
        dependencies=only(Role.VIEWER),
        responses=answers() | {200: {"content": {"text/event-stream": {}}}},
    )
    async def stream_view(
        who: Who,
        last_event_id: Annotated[str, Header(max_length=64, description="Go on after it.")] = "",
    ) -> Response:
        """The same as server-sent events: all of it once, then what has changed, until you leave.

        Frames are told at most about ten times a second. An event's id is that of its frame: a
        client that comes back with the last one gets what it has missed, if that is still known,
        and else all of it; such a frame has the field ``reset``.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return parts.streams.stream(
            who, view.frames(last_event_id), "text/event-stream", beat=_BEAT, headers=headers
        )

    return router
