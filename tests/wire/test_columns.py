"""Long sequences are written by columns, short ones one by one; both are read as they were."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engine.history import JobNote
from orchestrator.errors import CorruptedError, UnknownSchemaError
from orchestrator.messages import WorkerPlacement
from orchestrator.types import JobKind, JobPriority
from orchestrator.wire import values as wire
from orchestrator.wire.entries import decode_snapshot, encode_snapshot
from orchestrator.wire.seals import Content, seal
from orchestrator.wire.values import Reader, Writer
from tests.engine.builders import job

_SPECS = [
    job(f"j{k}", priority=JobPriority(k % 4), gpu_models=("a",) * (k % 3), kind=JobKind(k % 2))
    for k in range(5)
]


_ONES = st.sampled_from(
    [
        None,
        True,
        1,
        1.0,
        -0.0,
        2**63,
        -(2**70),
        "text",
        b"bytes",
        np.float32(0.5),
        np.arange(3),
        JobPriority.BATCH,
        {"a": 1},
        {1, 2},
        (),
        (1, "two"),
        [[]],
        deque([1], 4),
        deque([2], 5),
        deque([2]),
        WorkerPlacement("n", (1, 2)),
        JobNote(1, "a", "started", run=2),
        *_SPECS,
    ]
)
_LONG = st.one_of(
    st.lists(st.one_of(_ONES, st.lists(_ONES, max_size=3)), min_size=10, max_size=40),
    *(
        st.builds(lambda ones, times: [*ones * times], st.lists(one, min_size=1, max_size=4), n)
        for n in (st.integers(10, 20),)
        for one in (
            st.sampled_from(_SPECS),
            st.integers(-(2**65), 2**65),
            st.sampled_from(list(JobPriority)),
            st.tuples(st.text(max_size=2), st.sampled_from(_SPECS)),
            st.tuples(st.text(max_size=2), _ONES),
            st.lists(st.integers(0, 3), max_size=3).map(tuple),
            st.lists(st.builds(JobNote, st.integers(0, 9), st.text(max_size=1), st.just("saved"))),
            st.lists(_ONES, max_size=2).map(lambda ones: deque(ones, 7)),
        )
    ),
)


def _read(tree: Any, classes: list[Any]) -> Any:
    """A tree as it comes out of a file."""
    held = msgspec.msgpack.decode(msgspec.msgpack.encode([classes, tree]))
    return Reader(held[0]).value(held[1])


@pytest.mark.property
@settings(max_examples=150, deadline=None)
@given(_LONG, st.sampled_from([list, tuple, deque, lambda ones: dict(enumerate(ones))]))
def test_a_long_sequence_is_read_as_it_was_written(ones: list[Any], make: Any) -> None:
    value = make(ones)
    read: Any = decode_snapshot(encode_snapshot(value))
    assert repr(read) == repr(value)
    assert type(read) is type(value)


def test_what_was_written_one_by_one_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"specs": tuple((spec.job_id, spec) for spec in _SPECS * 8), "many": list(range(99))}
    packed = Writer()
    columns = packed.tree(value)
    monkeypatch.setattr(wire, "_LONG", 10**9)
    plain = Writer()
    one_by_one = plain.tree(value)
    assert len(msgspec.msgpack.encode(columns)) < len(msgspec.msgpack.encode(one_by_one))
    for writer, tree in ((packed, columns), (plain, one_by_one)):
        assert repr(_read(tree, writer.classes)) == repr(value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed.pop(),  # a column is missing
        lambda packed: packed[3][1].pop(),  # one is shorter than the others
        lambda packed: packed.__setitem__(2, 99),  # a class that is not there
    ],
)
def test_columns_that_do_not_fit_together_are_refused(spoil: Any) -> None:
    writer = Writer()
    tree = writer.tree([JobNote(k, "a", "saved") for k in range(20)])
    packed = tree[1][0]  # _PACKED, _OBJECTS, the class's number, columns
    spoil(packed)
    with pytest.raises((CorruptedError, UnknownSchemaError)):
        decode_snapshot(_sealed(writer, tree))


def test_ragged_sequences_of_another_length_than_their_parts_are_refused() -> None:
    for change in (1, -1):
        writer = Writer()
        tree = writer.tree([(1,) * (k % 3) for k in range(20)])
        lengths = tree[1][0][4]
        lengths[2] += change
        with pytest.raises(CorruptedError, match="another length than its parts"):
            decode_snapshot(_sealed(writer, tree))


def _sealed(writer: Writer, tree: Any) -> bytes:
    inside = msgspec.msgpack.encode([writer.classes, tree])
    return seal(Content.SNAPSHOT, zlib.compress(inside, 1))


@pytest.mark.parametrize("count", [1, 20])
def test_a_field_that_came_in_later_has_its_default(count: int) -> None:
    notes = [JobNote(k, "a", "started", run=2) for k in range(count)]
    writer = Writer()
    tree = writer.tree(notes)
    ((name, known),) = writer.classes
    assert known[-1] == "nodes"
    older = Writer()
    older._numbers[JobNote] = 0  # as the release wrote it that did not know the field
    older.classes.append((name, known[:-1]))
    before = older.tree(notes)
    assert before != tree
    read = Reader(older.classes).value(before)
    assert read == notes
    assert all(vars(note)["nodes"] == () for note in read)
    again = Writer()
    assert again.tree(read) == tree
    with pytest.raises(UnknownSchemaError, match="JobNote"):
        Reader([(name, known[1:])])  # not the last ones
    with pytest.raises(UnknownSchemaError, match="JobNote"):
        Reader([(name, known[:2])])  # nobody can say what they would be
