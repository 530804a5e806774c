"""HTTP/1.1 messages out of bytes, as they come: heads, and pieces of bodies. Nothing is waited for.

It is strict where two readers could understand a message differently: a body has a length or
comes in chunks, never both; lines end with CR LF; a name is a token and stands at its line's
beginning; lengths are digits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.errors import QuartermasterError

__all__ = [
    "AnswerParser",
    "BodyTooLargeError",
    "Head",
    "HeadTooLargeError",
    "HttpError",
    "Limits",
    "MessageParser",
    "RequestParser",
]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TEXT = r"[\t\x20-\x7e\x80-\xff]*"
_FIELD = re.compile(rf"({_TOKEN}):[ \t]*({_TEXT})\r\n")
_FIELDS = re.compile(rf"(?:{_TOKEN}:{_TEXT}\r\n)*\r\n")
_REQUEST = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_ANSWER = re.compile(rf"HTTP/1\.([01]) ([1-9]\d\d)(?: ({_TEXT}))?\r\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,15}")

_HEAD_END, _LINE_END = b"\r\n\r\n", b"\r\n"
_MOST_LINE = 1024  # bytes of the line before a chunk
_MOST_BLANK = 2  # empty lines before a message
_ONCE = ("content-length", "host", "transfer-encoding")  # headers that are given once
_NO_BODY = ("204", "304")


class HttpError(QuartermasterError, ConnectionError):
    """What came over a connection is no message of HTTP/1.1 that is understood here."""

    status = 400


class HeadTooLargeError(HttpError):
    """The headers of a message are more than is read."""

    status = 431


class BodyTooLargeError(HttpError):
    """The body of a message is more than is read."""

    status = 413


@dataclass(frozen=True)
class Limits:
    """How much of a message is read.

    Parameters
    ----------
    head_bytes, fields : int
        Of its first line and headers together, and how many headers.
    body_bytes : int
        Of its body; a message that says that it has more is refused before it is read.
    """

    head_bytes: int = 32 * 1024
    fields: int = 128
    body_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Head:
    """First line and headers of a message.

    ``first``: method, target and minor version of a request; minor version, status and phrase of
    an answer. ``fields``: the headers in their order, names in lower case; ``headers``: the same
    by name, values of one name joined. ``length``: of the body in bytes; None: nobody knows yet.
    ``keeps``: whether the connection stays open.
    """

    first: tuple[str, str, str]
    fields: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    length: int | None
    keeps: bool


class MessageParser:
    """Messages of one side of a connection, one after the other.

    :meth:`feed` it what comes, ask for the :meth:`head` of the next message, and then for pieces
    of its body until there is an empty one.

    Parameters
    ----------
    limits : Limits, optional
        How much is read.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits if limits is not None else Limits()
        self.ended = False
        """Whether nothing more will come."""
        self._data = b""
        self._at = (
            0  # where what nobody has asked for yet begins: what is before it is dropped late
        )
        self._sought = 0  # where an end of a head is to be sought
        self._blank = 0  # empty lines before this message
        self._left: int | None = 0  # bytes of a body, or of a chunk; None: until the end
        self._chunked = self._inside = False
        self._read = 0  # bytes of this body

    @property
    def backlog(self) -> int:
        """Bytes that nobody has asked for yet."""
        return len(self._data) - self._at

    @property
    def inside(self) -> bool:
        """Whether the body of a message is not read to its end."""
        return self._inside

    def feed(self, data: bytes) -> None:
        """More has come."""
        left = self._data[self._at :]
        self._data = left + data if left else bytes(data)
        self._sought, self._at = max(self._sought - self._at, 0), 0

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True

    def head(self) -> Head | None:
        """Head of the next message; None: not all of it is here.

        Raises
        ------
        HttpError
            If it is none.
        """
        while self.backlog > len(_LINE_END) and self._data.startswith(_LINE_END, self._at):
            self._at += len(_LINE_END)  # some send one more after a body
            self._blank += 1
            if self._blank > _MOST_BLANK:
                raise HttpError(f"{self._blank} empty lines before a message; leave them out")
        begin, most = self._at, self.limits.head_bytes
        at = self._data.find(_HEAD_END, max(self._sought - 3, begin), begin + most)
        if at < 0:
            self._sought = len(self._data)
            if self.backlog >= most:
                raise HeadTooLargeError(f"the headers are too long; give {most} bytes at most")
            if self.ended and self.backlog:
                raise HttpError("the connection ended in the middle of a message; send all of it")
            return None
        text = self._data[begin : at + 4].decode("latin-1")
        self._at = at + 4
        self._sought = self._blank = 0
        head = self._judge(text)
        self._read, self._inside = 0, True
        return head

    def _judge(self, text: str) -> Head:
        """Read a head, and begin its body."""
        first, behind = self._first(text)
        if _FIELDS.fullmatch(text, behind) is None:
            lines = text[behind:-4].split("\r\n")
            bad = next((x for x in lines if _FIELDS.fullmatch(f"{x}\r\n\r\n") is None), "")
            raise HttpError(f"{bad!r:.80} is no header; send lines 'name: value'")
        found = _FIELD.findall(text, behind)
        if len(found) > self.limits.fields:
            raise HeadTooLargeError(f"{len(found)} headers; send {self.limits.fields} at most")
        fields = tuple([(name.lower(), value.rstrip(" \t")) for name, value in found])
        headers = dict(fields)
        if len(headers) < len(fields):
            headers = _joined(fields)
        words = headers.get("connection", "").lower()
        minor = first[0] if self._answers else first[2]
        keeps = "close" not in words if minor == "1" else "keep-alive" in words
        self._frame(first, headers, minor)
        length = None if self._chunked else self._left
        return Head(first, fields, headers, length, keeps and self._left is not None)

    _answers = False

    def _first(self, text: str) -> tuple[tuple[str, str, str], int]:
        """First line, and where it ends."""
        raise NotImplementedError

    def _frame(self, first: tuple[str, str, str], headers: dict[str, str], minor: str) -> None:
        """Find out where the body ends."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        self._chunked = coding is not None
        self._left = 0
        if coding is not None:
            if length is not None:
                problem = "a body has both a Content-Length and a Transfer-Encoding"
                raise HttpError(f"{problem}; send one of them")
            if coding.lower() != "chunked" or minor != "1":
                raise HttpError(f"Transfer-Encoding is {coding!r:.40}; send chunks of HTTP/1.1")
        elif length is not None:
            if _LENGTH.fullmatch(length) is None:
                raise HttpError(f"Content-Length is {length!r:.40}; give digits")
            self._left = int(length)
            self._count(self._left)
            self._read = 0

    def piece(self) -> bytes | None:
        """The next piece of the body; empty: it is over; None: nothing is here yet.

        Raises
        ------
        HttpError
            If what comes is no body, or ends in the middle.
        """
        if self._chunked and not self._left and self._inside and not self._begin_chunk():
            self._demand_more()
            return None
        if not self._inside or self._left == 0:
            self._inside = False
            return b""
        if not self.backlog:
            if self._left is None and self.ended:
                self._inside, self._left = False, 0
                return b""
            self._demand_more()
            return None
        begin, left = self._at, self._left
        self._at = len(self._data) if left is None else min(begin + left, len(self._data))
        data = self._data[begin : self._at]
        if self._at == len(self._data):
            self._data, self._at = b"", 0
        if left is not None:
            self._left = left - len(data)
        if left is None or self._chunked:
            self._count(len(data))
        return data

    def _demand_more(self) -> None:
        if self.ended:
            raise HttpError("the connection ended in the middle of a body; send all of it")

    def _count(self, more: int) -> None:
        self._read += more
        most = self.limits.body_bytes
        if self._read > most:
            raise BodyTooLargeError(f"the body is too long; Content-Length: {most} bytes at most")

    _between = False  # whether the end of a chunk is still to come

    def _begin_chunk(self) -> bool:
        """Whether the next chunk has begun, or the last one is over."""
        if self._between:
            if self.backlog < len(_LINE_END):
                return False
            if not self._data.startswith(_LINE_END, self._at):
                bad = self._data[self._at : self._at + 2]
                raise HttpError(f"a chunk ends with {bad!r}; end it with CR LF")
            self._at, self._between = self._at + len(_LINE_END), False
        begin = self._at
        at = self._data.find(_LINE_END, begin, begin + _MOST_LINE + len(_LINE_END))
        if at < 0 and self.backlog <= _MOST_LINE:
            return False
        found = _CHUNK.fullmatch(self._data, begin, at + 2) if at >= 0 else None
        if found is None:
            bad = self._data[begin : begin + 16]
            raise HttpError(f"{bad!r} begins no chunk; send its length in hex")
        size = int(found[1], 16)
        if size:
            self._at, self._left, self._between = at + 2, size, True
            return True
        return self._skip_trailers(at)

    def _skip_trailers(self, at: int) -> bool:
        """What may follow the last chunk; nobody here wants it."""
        end = self._data.find(_HEAD_END, at)
        if end < 0:
            if len(self._data) - at > self.limits.head_bytes:
                raise HeadTooLargeError("the trailers are too long; leave them out")
            return False
        text = self._data[at + 2 : end + 4].decode("latin-1")
        if end > at and _FIELDS.fullmatch(text) is None:
            raise HttpError(f"{text!r:.80} is no trailer; leave it out")
        self._at, self._chunked, self._left = end + 4, False, 0
        return True


class RequestParser(MessageParser):
    """Requests, as a server reads them."""

    def _first(self, text: str) -> tuple[tuple[str, str, str], int]:
        found = _REQUEST.match(text)
        if found is None:
            line = text.partition("\r\n")[0]
            raise HttpError(f"a request begins with {line!r:.80}; send 'METHOD /path HTTP/1.1'")
        return (found[1], found[2], found[3]), found.end()


class AnswerParser(MessageParser):
    """Answers, as whoever asks reads them."""

    _answers = True
    method = "GET"
    """Of the request: an answer to HEAD has no body."""

    def _first(self, text: str) -> tuple[tuple[str, str, str], int]:
        found = _ANSWER.match(text)
        if found is None:
            line = text.partition("\r\n")[0]
            raise HttpError(f"an answer begins with {line!r:.80}; send 'HTTP/1.1 STATUS'")
        return (found[1], found[2], found[3] or ""), found.end()

    def _frame(self, first: tuple[str, str, str], headers: dict[str, str], minor: str) -> None:
        super()._frame(first, headers, minor)
        if first[1].startswith("1") or first[1] in _NO_BODY or self.method == "HEAD":
            self._chunked, self._left = False, 0
        elif not self._chunked and "content-length" not in headers:
            self._left = None


def _joined(fields: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Headers by name, where some name comes more than once."""
    found = dict[str, str]()
    for name, value in fields:
        if name not in found:
            found[name] = value
        elif name not in _ONCE:
            found[name] = f"{found[name]}, {value}"
        elif name != "content-length" or value != found[name]:
            raise HttpError(f"there are several headers {name!r}; send one")
    return found
