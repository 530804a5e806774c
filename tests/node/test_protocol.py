"""Frames, addresses and greetings."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigurationError
from orchestrator.node import protocol
from orchestrator.node.protocol import (
    VERSION,
    Address,
    Cause,
    Ended,
    Halt,
    Hello,
    Launch,
    Line,
    ProtocolError,
    Refused,
    Report,
    read_hello,
    token_fits,
)

_HELLO = Hello(VERSION, "token", "n", "boot", "127.0.0.1", 1, 2, (-1, -1))


class _Sent:
    """The end of a line at which somebody listens."""

    def __init__(self) -> None:
        self.data, self.closed, self.waiting = b"", False, 0
        self.transport = self

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.data += data

    def close(self) -> None:
        self.closed = True


def _line(data: bytes = b"") -> tuple[Line, _Sent]:
    reader, sent = asyncio.StreamReader(), _Sent()
    reader.feed_data(data)
    reader.feed_eof()
    return Line(reader, sent), sent


_texts = st.text(max_size=20)
_orders = st.one_of(
    st.builds(
        Launch,
        fence=st.tuples(st.integers(-1, 2**40), st.integers(-1, 2**40)),
        job=_texts,
        run=st.integers(0, 2**60),
        worker=st.integers(0, 1000),
        command=st.lists(_texts, max_size=4).map(tuple),
        rank=st.integers(0, 99),
        size=st.integers(1, 99),
        local_rank=st.integers(0, 9),
        local_size=st.integers(1, 9),
        node_rank=st.integers(0, 9),
        master=st.tuples(_texts, st.integers(0, 65535)),
        environment=st.lists(st.tuples(_texts, _texts), max_size=3).map(tuple),
        gpus=st.lists(st.integers(0, 63), max_size=3).map(tuple),
    ),
    st.builds(
        Halt,
        fence=st.just((0, 0)),
        job=_texts,
        run=st.integers(0, 9),
        workers=st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
        reason=_texts,
        grace_ms=st.integers(0, 10**6),
    ),
)


@given(st.lists(_orders, max_size=5))
def test_what_is_sent_is_read(orders: list[Launch | Halt]) -> None:
    async def there_and_back() -> list[object]:
        line, sent = _line()
        for order in orders:
            line.send(order)
        line.close()
        assert sent.closed
        back, _ = _line(sent.data)
        return [await back.for_agent() for _ in range(len(orders) + 1)]

    assert asyncio.run(there_and_back()) == [*orders, None]


async def test_messages_of_one_turn_go_out_together_in_the_next() -> None:
    line, sent = _line()
    report = Report(1, Ended("a", 1, 0, 0, 1, 3, Cause.EXIT, "why", "tail"))
    line.send(report)
    line.send(report)
    assert sent.data == b""
    await asyncio.sleep(0)
    back, _ = _line(sent.data)
    assert [await back.for_orchestrator() for _ in range(3)] == [report, report, None]


async def test_who_does_not_read_is_left() -> None:
    line, sent = _line()
    sent.waiting = 10**9
    line.send(_HELLO)
    await asyncio.sleep(0)
    assert sent.closed
    assert not line.is_open


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2\x92\x01", b"\0\0\0\1\x80"],
)
async def test_noise_is_told_from_messages(data: bytes) -> None:
    line, _ = _line(data)
    with pytest.raises(ProtocolError):
        await line.for_agent()


async def test_half_a_frame_is_the_end_of_a_line() -> None:
    line, _ = _line(b"\0\0\0\7abc")
    assert await line.for_agent() is None


def test_greetings_of_another_version_are_refused_whatever_else_is_in_them() -> None:
    encode = msgspec.msgpack.encode
    assert read_hello(encode(_HELLO)) == _HELLO
    older = read_hello(encode(_HELLO).replace(b"version\x03", b"version\x02"))
    assert isinstance(older, Hello)
    assert older.version == 2
    newer = read_hello(encode({"type": "hello", "version": 9, "what": ["else"]}))
    assert isinstance(newer, Refused)
    assert "speaks version 9" in newer.reason
    for no_hello in (b"", b"\xc1", encode([1]), encode({"type": "beat"})):
        with pytest.raises(ProtocolError):
            read_hello(no_hello)
    with pytest.raises(ProtocolError):
        read_hello(encode({"type": "hello", "version": VERSION}))


def test_tokens() -> None:
    assert token_fits("ü", "ü")
    assert not token_fits("", "ü")


@pytest.mark.parametrize("text", ["127.0.0.1:80", "host:0", "unix:/tmp/x", "::1:5"])
def test_addresses(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "host", ":80", "host:port", "host:99999", "unix:"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="give one of these"):
        Address.parse(text)


def test_every_message_has_a_tag_of_its_own() -> None:
    structs = [
        value
        for value in vars(protocol).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    ]
    tags = [struct.__struct_config__.tag for struct in structs if struct.__struct_config__.tag]
    assert len(tags) == len(set(tags)) > 15
