"""One end of an HTTP connection: messages in, bytes out, and pressure back in both directions.

Whoever reads slowly stops the other side from sending: no more than a little is kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from orchestrator.worker.inference.parser import BodyTooLargeError, Head, MessageParser

__all__ = ["HttpChannel"]

_HIGH = 64 * 1024  # bytes that are kept before the other side has to wait


class HttpChannel(asyncio.Protocol):
    """A connection, for one reader and one writer at a time.

    Parameters
    ----------
    parser : MessageParser
        Of what the other side sends.
    greet : callable or None, optional
        Is told of the connection when it is there.
    """

    def __init__(
        self, parser: MessageParser, greet: Callable[[HttpChannel], None] | None = None
    ) -> None:
        self.parser = parser
        self.loop = asyncio.get_running_loop()
        self.received = 0
        """Bytes so far."""
        self.reads_since: float | None = None
        """Since when, on the loop's clock, somebody waits for the other side to send."""
        self.waited_s = 0.0
        """Seconds that somebody has waited for the other side to send, so far."""
        self.writes_since: float | None = None
        """Since when somebody waits for the other side to read."""
        self.left: Callable[[], None] | None = None
        """Is called when the other side says nothing more."""
        self._greet = greet
        self._transport: asyncio.Transport | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = self._held = self._lost = False

    # --- what the event loop says -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_HIGH)
        if self._greet is not None:
            self._greet(self)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        self.received += len(data)
        self.parser.feed(data)
        if self._reader is not None:
            self._wake_reader()
        elif self.parser.backlog > _HIGH and not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Nothing more will come; what is to be said can be said still."""
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lost = True
        self._end()
        self._wake_writer()

    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        self._full = True

    def resume_writing(self) -> None:
        """It has read most of it."""
        self._full = False
        self._wake_writer()

    def _end(self) -> None:
        self.parser.end()
        self._wake_reader()
        if self.left is not None:
            self.left()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _wake_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    # --- reading ----------------------------------------------------------------------------------

    @property
    def fresh(self) -> bool:
        """Whether another message can be sent, and nothing has come that nobody asked for."""
        closing = self._transport is None or self._transport.is_closing()
        return not (closing or self._lost or self.parser.ended or self.parser.backlog)

    async def head(self) -> Head | None:
        """Head of the next message; None: the connection has ended before one began.

        Raises
        ------
        HttpError
            If it is none that is understood, or ends in the middle.
        """
        while True:
            head = self.parser.head()
            if head is not None:
                return head
            if self.parser.ended:
                return None
            await self._more()

    async def piece(self) -> bytes:
        """The next piece of the body, all that is here; empty: it is over."""
        while True:
            piece, over = self.at_hand()
            if piece or over:
                return piece
            await self._more()

    def at_hand(self) -> tuple[bytes, bool]:
        """What is here of the body and was not asked for yet, and whether that is its end."""
        found = self.parser.piece()
        if not found:
            return b"", found is not None
        more = self.parser.piece()
        if not more:
            return found, more is not None
        pieces = [found]
        while more:
            pieces.append(more)
            more = self.parser.piece()
        return b"".join(pieces), more is not None

    async def whole(self, most: int) -> bytes:
        """The rest of the body at once, if it has no more than so many bytes."""
        pieces, size = [], 0
        while piece := await self.piece():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise BodyTooLargeError(f"the body is too long; send {most} bytes at most")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _more(self) -> None:
        """Wait until something has come, or nothing more will."""
        if self._held and self._transport is not None:
            self._held = False
            self._transport.resume_reading()
        self.reads_since = since_s = self.loop.time()
        self._reader = self.loop.create_future()
        try:
            await self._reader
        finally:
            self.reads_since = None
            self.waited_s += self.loop.time() - since_s

    # --- writing ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send something, now or when there is room; :meth:`drain` waits for room."""
        if self._transport is not None and not self._lost:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until what was written is on its way, most of it.

        Raises
        ------
        ConnectionResetError
            If the other side is gone.
        """
        if self._lost:
            raise ConnectionResetError("the other side has hung up")
        if not self._full:
            return
        self.writes_since = self.loop.time()
        self._writer = self.loop.create_future()
        try:
            await self._writer
        finally:
            self.writes_since = None
        if self._lost:
            raise ConnectionResetError("the other side has hung up")

    def close(self) -> None:
        """Hang up, after what was written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once: whoever reads must not take what it has for all."""
        if self._transport is not None:
            self._transport.abort()
