"""HTTP messages: wherever their bytes are split, and those that two could read differently."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.worker.inference.http import (
    HttpAnswer,
    HttpRequest,
    encode_answer,
    encode_request,
)
from orchestrator.worker.inference.parser import (
    AnswerParser,
    BodyTooLargeError,
    HeadTooLargeError,
    HttpError,
    Limits,
    MessageParser,
    RequestParser,
)


def _messages(parser: MessageParser, pieces: list[bytes]) -> list[tuple[Any, ...]]:
    """What is read when it comes in these pieces: first lines, headers, whole bodies."""
    found: list[tuple[Any, ...]] = []
    body: list[bytes] | None = None

    def read() -> None:
        nonlocal body
        while True:
            if body is None:
                head = parser.head()
                if head is None:
                    return
                found.append((head.first, head.fields, head.keeps))
                body = []
            piece = parser.piece()
            if piece is None:
                return
            if not piece:
                found.append((b"".join(body),))
                body = None
            else:
                body.append(piece)

    for piece in pieces:
        parser.feed(piece)
        read()
    parser.end()
    read()
    return found


_names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8).map(lambda x: f"x-{x}")
_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
_bodies = st.binary(max_size=40)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[bytes, tuple[Any, ...]]:
    """A request as bytes, and its method, target, headers and body."""
    method = draw(st.sampled_from(["GET", "POST", "PUT"]))
    headers = draw(st.dictionaries(_names, _values, max_size=4))
    body = draw(_bodies)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if draw(st.booleans()):
        data = (
            f"{method} /a?b HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
    else:
        data = f"{method} /a?b HTTP/1.1\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode()
        at = 0
        while at < len(body):
            size = draw(st.integers(1, len(body) - at))
            extension = draw(st.sampled_from([b"", b";x=y"]))
            data += b"%X%b\r\n%b\r\n" % (size, extension, body[at : at + size])
            at += size
        data += draw(st.sampled_from([b"0\r\n\r\n", b"000\r\nx-sum: 1\r\n\r\n"]))
    return data, (method, headers, body)


@pytest.mark.property
@settings(deadline=None, max_examples=150)
@given(st.lists(_requests(), min_size=1, max_size=3), st.data())
def test_what_is_read_does_not_depend_on_where_it_is_split(
    requests: list[tuple[bytes, tuple[Any, ...]]], data: st.DataObject
) -> None:
    stream = b"".join(said for said, _ in requests)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    found = _messages(RequestParser(), pieces)
    assert len(found) == 2 * len(requests)
    for k, (_, (method, headers, body)) in enumerate(requests):
        first, fields, keeps = found[2 * k]
        assert first == (method, "/a?b", "1")
        assert keeps
        assert dict(fields[:-1]) == headers
        assert found[2 * k + 1] == (body,)


def test_every_single_split_of_a_message_gives_the_same() -> None:
    data = (
        b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\ntransfer-encoding: chunked\r\n\r\n"
        b"5;ext\r\nhello\r\nb\r\n, you there\r\n0\r\nx: y\r\n\r\n"
        b"HTTP/1.0 404 \r\ncontent-length: 3\r\n\r\nnot"
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200\r\n\r\nuntil the end"
    )
    whole = _messages(AnswerParser(), [data])
    assert [x[0] for x in whole[1::2]] == [b"hello, you there", b"not", b"", b"until the end"]
    assert [x[2] for x in whole[0::2]] == [True, False, True, False]
    assert whole[0][1][:2] == (("set-cookie", "a"), ("set-cookie", "b"))
    for k in range(len(data) + 1):
        assert _messages(AnswerParser(), [data[:k], data[k:]]) == whole
    assert _messages(AnswerParser(), [data[k : k + 1] for k in range(len(data))]) == whole


def test_an_answer_to_head_has_no_body() -> None:
    parser = AnswerParser()
    parser.method = "HEAD"
    parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n")
    head = parser.head()
    assert head is not None
    assert head.headers["content-length"] == "7"
    assert parser.piece() == b""
    assert not parser.inside


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "both a"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "several headers"),
        (b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", "give digits"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n", "give digits"),
        (b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", "give digits"),
        (b"POST / HTTP/1.1\r\nContent-Length : 3\r\n\r\n", "is no header"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", "send chunks"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n", "send chunks"),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
            "several",
        ),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "send chunks"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "several headers 'host'"),
        (b"GET / HTTP/1.1\r\nx: a\r\n folded\r\n\r\n", "is no header"),
        (b"GET / HTTP/1.1\r\nx: a\nY: b\r\n\r\n", "is no header"),
        (b"GET / HTTP/1.1\r\nx: a\rb\r\n\r\n", "is no header"),
        (b"GET / HTTP/1.1\r\nx: a\x00b\r\n\r\n", "is no header"),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", "is no header"),
        (b"GET /\x7f HTTP/1.1\r\n\r\n", "a request begins with"),
        (b"GET /a b HTTP/1.1\r\n\r\n", "a request begins with"),
        (b"GET  / HTTP/1.1\r\n\r\n", "a request begins with"),
        (b"GET / HTTP/2.0\r\n\r\n", "a request begins with"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n", "begins no chunk"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", "begins no chunk"),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            "end it with CR LF",
        ),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", "no chunk"),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;" + b"x" * 2000,
            "begins no chunk",
        ),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx\r\n\r\n", "no trailer"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab", "middle of a body"),
        (b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab", "middle of a body"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(said: bytes, words: str) -> None:
    for pieces in ([said], [said[k : k + 1] for k in range(len(said))]):
        with pytest.raises(HttpError, match=words):
            _messages(RequestParser(), pieces)


def test_nobody_is_read_without_end() -> None:
    few = Limits(head_bytes=100, fields=3, body_bytes=10)
    begin = b"POST / HTTP/1.1\r\n"
    for said, kind in (
        (begin + b"x" * 200, HeadTooLargeError),
        (begin + b"a: b\r\n" * 4 + b"\r\n", HeadTooLargeError),
        (begin + b"content-length: 11\r\n\r\n", BodyTooLargeError),
        (begin + b"transfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n", BodyTooLargeError),
        (begin + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 99, HeadTooLargeError),
    ):
        with pytest.raises(kind):
            _messages(RequestParser(few), [said])
    assert (HeadTooLargeError.status, BodyTooLargeError.status, HttpError.status) == (431, 413, 400)


def test_noise_raises_nothing_else() -> None:
    draw = random.Random(5)
    good = b"POST /a HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        for parser in (RequestParser(), AnswerParser()):
            try:
                _messages(parser, [bytes(data)])
            except HttpError:
                continue


@pytest.mark.parametrize("text", ["a\r\nx: y", "a\nb", "a\rb"])
def test_no_header_gets_in_through_a_value(text: str) -> None:
    with pytest.raises(HttpError, match="line's end"):
        encode_request(HttpRequest(headers={"x": text}), "h")
    with pytest.raises(HttpError, match="line's end"):
        encode_answer(HttpAnswer(200, headers={text: "x"}))
    with pytest.raises(HttpError, match="without blanks"):
        encode_request(HttpRequest(path=f"/{text}"), "h")
    with pytest.raises(HttpError, match="letters that none may have"):
        encode_answer(HttpAnswer(200, headers={"x": "\u20ac"}))
    data = encode_request(HttpRequest(body=b"ab", headers={"content-length": "9"}), "h")
    assert data.count(b"content-length") == 1


def test_empty_lines_before_a_message_are_few() -> None:
    parser = RequestParser()
    parser.feed(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    assert parser.head() is not None
    assert parser.piece() == b""
    parser.feed(b"\r\n" * 131_072)
    with pytest.raises(HttpError, match="empty lines"):
        parser.head()
    assert parser.backlog > 200_000  # it stopped at once
    parser = RequestParser()
    for _ in range(3):
        parser.feed(b"\r\n")
        assert parser.head() is None
    parser.feed(b"\r\n")
    with pytest.raises(HttpError, match="empty lines"):
        parser.head()


def _busy_s(size: int) -> float:
    """Processor time that a body of so many bytes takes, in chunks of one byte."""
    data = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (size // 6)
    fastest_s = 1e9
    for _ in range(3):
        parser = RequestParser()
        parser.feed(data)
        begin_s = time.process_time()
        assert parser.head() is not None
        while parser.piece():
            pass
        fastest_s = min(fastest_s, time.process_time() - begin_s)
    return fastest_s


def test_many_small_chunks_take_no_longer_each_than_a_few() -> None:
    assert _busy_s(8 * 64 * 1024) < 24 * _busy_s(64 * 1024)  # 8 times, and 64 if all is copied
