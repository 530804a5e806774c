"""Requests and answers of HTTP/1.1, whole ones and ones that come in pieces, and their bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TypeVar

from orchestrator.worker.inference.parser import HttpError

__all__ = [
    "CONTINUE",
    "IDEMPOTENT",
    "LAST_CHUNK",
    "HttpAnswer",
    "HttpExchange",
    "HttpRequest",
    "HttpStream",
    "chunk",
    "encode_answer",
    "encode_head",
    "encode_request",
    "first_line",
    "framing",
]

LAST_CHUNK = b"0\r\n\r\n"
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")
"""Methods of requests that may be sent twice, as RFC 9110 says."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TIMEOUT, _TENANT, _KEY = "x-request-timeout-ms", "x-tenant", "idempotency-key"
_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_FRAMES = ("content-length", "transfer-encoding")
_BARE = ("GET", "HEAD")  # they have no body, and do not say so
_Timed = TypeVar("_Timed", bound="HttpRequest")


@dataclass(frozen=True)
class HttpRequest:
    """A request with its whole body, for a whole answer; names of headers are in lower case."""

    method: str = "POST"
    path: str = "/infer"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = field(default=IDEMPOTENT, kw_only=True)
    """Of requests that may be sent twice where it goes (``RetrySpec.methods``)."""

    @property
    def keeps(self) -> bool:
        """Whether the connection stays open for another one."""
        return self.headers.get("connection", "").lower() != "close"

    @property
    def timeout_ms(self) -> float:
        """Within which it has to be answered, ``X-Request-Timeout-Ms``; 0: nobody says.

        Raises
        ------
        HttpError
            If that is no number greater than 0.
        """
        text = self.headers.get(_TIMEOUT, "")
        if not text:
            return 0.0
        if not text.isdecimal() or not 0 < int(text) < 1 << 40:
            raise HttpError(f"X-Request-Timeout-Ms is {text!r:.40}; give milliseconds, 1 or more")
        return float(text)

    @property
    def tenant(self) -> str:
        """For whom it is, ``X-Tenant``."""
        return self.headers.get(_TENANT, "")

    def within(self: _Timed, left_ms: float) -> _Timed:
        """The same, to be answered within so long."""
        left = str(max(int(left_ms), 1))
        return replace(self, headers={**self.headers, _TIMEOUT: left})

    def may_repeat(self, methods: Iterable[str]) -> bool:
        """Whether it may be sent twice: by its method, or because it has a key."""
        return self.method in methods or _KEY in self.headers


@dataclass(frozen=True)
class HttpExchange(HttpRequest):
    """A request that is carried as it is, and answered by an :class:`HttpStream`.

    ``rest``: what follows ``body``, in pieces; None: nothing. ``length``: of all; None: it goes in
    chunks.
    """

    rest: AsyncGenerator[bytes, None] | None = None
    length: int | None = None

    def may_repeat(self, methods: Iterable[str]) -> bool:
        """As any request; but pieces that were sent are gone."""
        return self.rest is None and super().may_repeat(methods)


@dataclass(frozen=True)
class HttpAnswer:
    """A whole answer; names of headers are in lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        """Whether the connection stays open for another request."""
        return self.headers.get("connection", "").lower() != "close"


class HttpStream:
    """An answer that has begun: status and headers, and a body that is read piece by piece.

    It has to be read to its end, or closed.

    Parameters
    ----------
    status : int
    fields : tuple of pairs
        Headers in their order, names in lower case.
    body : bytes
        What is there of it already.
    rest : async generator of bytes or None
        What follows; None: nothing.
    length : int or None
        Of all of it in bytes; None: nobody knows.
    cut : callable or None
        Breaks off what follows.
    """

    def __init__(
        self,
        status: int,
        fields: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
        rest: AsyncGenerator[bytes, None] | None = None,
        length: int | None = None,
        cut: Callable[[], None] | None = None,
    ) -> None:
        self.status, self.fields, self.body, self.length = status, fields, body, length
        self.whole = rest is None
        """Whether ``body`` is all."""
        self.expired = False
        """Whether its time was up before its end."""
        self._rest, self._cut = rest, cut
        self._on_end: Callable[[BaseException | None], None] | None = None

    def watch(self, on_end: Callable[[BaseException | None], None]) -> None:
        """Say who is told, once, that it has ended: well (None), or by which error."""
        self._on_end = on_end

    def expire(self) -> None:
        """Its time is up: whoever reads gets a ``TimeoutError``."""
        if self._on_end is not None:
            self.expired = True
            if self._cut is not None:
                self._cut()

    def _end(self, error: BaseException | None = None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(error)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body, as it comes."""
        try:
            if self.body:
                yield self.body
            if self._rest is not None:
                async for piece in self._rest:
                    yield piece
            if self.expired:
                raise TimeoutError("the answer did not end in time")
        except Exception as error:
            self._end(error)
            if self.expired and not isinstance(error, TimeoutError):
                raise TimeoutError("the answer did not end in time") from error
            raise
        finally:
            await self.close()

    async def read(self) -> bytes:
        """The rest of the body at once."""
        return b"".join([piece async for piece in self.pieces()])

    async def close(self) -> None:
        """Whoever asked wants no more of it."""
        rest, self._rest = self._rest, None
        try:
            if rest is not None:
                await rest.aclose()
        finally:
            self._end()


def encode_request(request: HttpRequest, host: str) -> bytes:
    """A request as bytes, with what is at hand of its body."""
    for name, value in (("method", request.method), ("path", request.path)):
        if not value.isascii() or any(letter <= " " for letter in value) or not value:
            raise HttpError(f"the {name} of a request is {value!r}; give ASCII without blanks")
    length: int | None = len(request.body)
    if isinstance(request, HttpExchange) and request.rest is not None:
        length = request.length
    fields = [("host", host), *_unframed(request.headers)]
    if length != 0 or request.method not in _BARE:
        fields.append(framing(length))
    head = encode_head(f"{request.method} {request.path} HTTP/1.1", fields)
    return head + (request.body if length is not None else chunk(request.body))


def encode_answer(answer: HttpAnswer, method: str = "GET") -> bytes:
    """An answer to a request of a method as bytes; to HEAD without its body."""
    fields = [*_unframed(answer.headers), framing(len(answer.body))]
    head = encode_head(first_line(answer.status), fields)
    return head if method == "HEAD" else head + answer.body


def _unframed(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Headers without those that are made here."""
    return [(name, value) for name, value in headers.items() if name not in _FRAMES]


def first_line(status: int) -> str:
    """First line of an answer."""
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}"


def framing(length: int | None) -> tuple[str, str]:
    """The header that says where a body ends; None: it comes in chunks."""
    if length is None:
        return "transfer-encoding", "chunked"
    return "content-length", str(length)


def encode_head(first: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """First line and headers as bytes."""
    lines = [first, *[f"{name}: {value}" for name, value in fields]]
    text = "\r\n".join(lines)
    if not text.count("\r") == text.count("\n") == len(lines) - 1:
        bad = next(line for line in lines if "\r" in line or "\n" in line)
        raise HttpError(f"header {bad!r:.80} has a line's end in it; leave it out")
    try:
        return f"{text}\r\n\r\n".encode("latin-1")
    except UnicodeEncodeError as error:
        raise HttpError(f"a header has letters that none may have: {error}") from None


def chunk(piece: bytes) -> bytes:
    """A piece of a body that comes in chunks; empty: nothing, and not its end."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
