"""The picture for many listeners: it is looked at once for all, and only while somebody listens."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from orchestrator.server.view.picture import ClusterPicture

__all__ = ["ViewStream"]


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
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._listeners

    def whole(self) -> bytes:
        """The whole picture as it is now, JSON."""
        self._advance()
        return msgspec.json.encode(self._picture.whole())

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
            changed = self._picture.behind or self._picture.version != seen
            if passed_s >= self._rest_s or (changed and passed_s >= self._gap_s):
                seen, looked_s = self._picture.version, loop.time()
                try:
                    self._advance()
                except Exception:  # whoever listens is better off with an old picture than none
                    _log.exception("the picture of the cluster could not be drawn")
