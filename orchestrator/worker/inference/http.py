"""The part of HTTP/1.1 that replicas and whoever asks them need: messages with a length.

Bodies have a ``Content-Length``; others are refused. Connections are kept unless one side says that
it closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from orchestrator.errors import QuartermasterError

__all__ = [
    "HttpAnswer",
    "HttpError",
    "HttpRequest",
    "encode_answer",
    "encode_request",
    "read_answer",
    "read_request",
]

_MOST_HEAD = 32 * 1024  # bytes
_MOST_BODY = 64 * 2**20  # bytes
_NO_BODY = (204, 304)


class HttpError(QuartermasterError, ConnectionError):
    """What came over a connection is no message of HTTP/1.1 that is understood here."""


@dataclass(frozen=True)
class HttpRequest:
    """A request; names of headers are in lower case."""

    method: str = "POST"
    path: str = "/infer"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        """Whether the connection stays open for another one."""
        return self.headers.get("connection", "").lower() != "close"


@dataclass(frozen=True)
class HttpAnswer:
    """An answer; names of headers are in lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        """Whether the connection stays open for another request."""
        return self.headers.get("connection", "").lower() != "close"


def encode_request(request: HttpRequest, host: str) -> bytes:
    """A request as bytes."""
    for name, value in (("method", request.method), ("path", request.path)):
        if not value.isascii() or any(letter <= " " for letter in value) or not value:
            raise HttpError(f"the {name} of a request is {value!r}; give ASCII without blanks")
    first = f"{request.method} {request.path} HTTP/1.1"
    return _encode(first, {"host": host, **request.headers}, request.body)


def encode_answer(answer: HttpAnswer) -> bytes:
    """An answer as bytes."""
    known = answer.status in list(HTTPStatus)
    phrase = HTTPStatus(answer.status).phrase if known else ""
    return _encode(f"HTTP/1.1 {answer.status} {phrase}", answer.headers, answer.body)


def _encode(first: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [first]
    for name, value in {**headers, "content-length": str(len(body))}.items():
        if "\r" in f"{name}{value}" or "\n" in f"{name}{value}":
            raise HttpError(f"header {name!r} has a line's end in it; leave it out")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def read_request(reader: asyncio.StreamReader) -> HttpRequest | None:
    """Read a request; None if the connection ends before one begins.

    Raises
    ------
    HttpError
        If it is none that is understood, or ends in the middle.
    """
    head = await _head(reader)
    if head is None:
        return None
    words, headers = head
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise HttpError(f"a request begins with {' '.join(words)!r:.80}")
    return HttpRequest(words[0], words[1], await _body(reader, headers), headers)


async def read_answer(reader: asyncio.StreamReader) -> HttpAnswer | None:
    """Read an answer; None if the connection ends before one begins."""
    head = await _head(reader)
    if head is None:
        return None
    words, headers = head
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise HttpError(f"an answer begins with {' '.join(words)!r:.80}")
    status = int(words[1])
    body = b"" if status in _NO_BODY else await _body(reader, headers)
    return HttpAnswer(status, body, headers)


async def _head(reader: asyncio.StreamReader) -> tuple[list[str], dict[str, str]] | None:
    """First line, in words, and headers."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise HttpError("the connection ended in the middle of a message") from error
    except asyncio.LimitOverrunError as error:
        raise HttpError("the headers of a message are too long") from error
    if len(data) > _MOST_HEAD:
        raise HttpError(f"the headers of a message are {len(data)} bytes; at most {_MOST_HEAD}")
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HttpError(f"{line!r:.80} is no header")
        headers[name.lower()] = value.strip()
    return first.split(" ", 2), headers


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        raise HttpError("a body comes in chunks; send it with a Content-Length")
    text = headers.get("content-length", "0")
    if not text.isdecimal() or int(text) > _MOST_BODY:
        raise HttpError(f"Content-Length is {text!r:.40}; give 0 to {_MOST_BODY}")
    try:
        return await reader.readexactly(int(text))
    except asyncio.IncompleteReadError as error:
        raise HttpError("the connection ended in the middle of a body") from error
