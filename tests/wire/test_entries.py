"""What is written is what is read; what was damaged is refused, never read as something else."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.config import CLUSTER
from orchestrator.errors import CorruptedError, UnknownSchemaError, ValidationError
from orchestrator.kernels.state.codes import Placement
from orchestrator.kernels.state.records import NODE_DTYPE
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import (
    Action,
    Command,
    Configure,
    Decide,
    Entry,
    Establish,
    Event,
    PlaceJob,
    Plan,
    ResizeJob,
    Review,
    Submit,
    Wait,
)
from orchestrator.types import JobSpec
from orchestrator.wire import entries as wire
from orchestrator.wire import seals
from orchestrator.wire.entries import (
    decode_entry,
    decode_snapshot,
    encode_entry,
    encode_snapshot,
)
from orchestrator.wire.seals import Content, seal
from tests.engine.builders import job
from tests.live.restarts import World, draw_day
from tests.wire.messages import ENTRIES

_REFUSED = (CorruptedError, UnknownSchemaError)


@pytest.mark.property
@settings(max_examples=300, deadline=None)
@given(ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    read = decode_entry(encode_entry(entry))
    assert read == entry
    assert repr(read) == repr(entry)  # whole numbers stay whole, members stay members


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(ENTRIES, st.data())
def test_a_damaged_entry_is_refused(entry: Entry, data: Any) -> None:
    sealed = encode_entry(entry)
    end = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(_REFUSED):
        decode_entry(sealed[:end])
    with pytest.raises(_REFUSED):
        decode_entry(sealed + data.draw(st.binary(min_size=1, max_size=4)))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(_REFUSED):
        decode_entry(bytes(flipped))


@pytest.mark.property
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_sealed_or_not(junk: bytes) -> None:
    for decode, content in ((decode_entry, Content.ENTRY), (decode_snapshot, Content.SNAPSHOT)):
        with pytest.raises(_REFUSED):
            decode(junk)
        with pytest.raises(_REFUSED):
            decode(seal(content, junk))


def test_every_message_and_action_has_a_form() -> None:
    assert {kind.__name__ for kind in get_args(Command | Event)} == set(wire._KINDS)
    assert set(get_args(Action)) == set(wire._ACTIONS)


def test_numpys_numbers_are_written_as_what_they_are() -> None:
    plan: Any = Plan((ResizeJob("a", np.int64(3)), PlaceJob("b", np.int32(1))))
    read = decode_entry(encode_entry(Entry(0, Decide(plan)))).body
    assert read == Decide(Plan((ResizeJob("a", 3), PlaceJob("b", Placement(1)))))


def test_another_schema_version_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "SCHEMA", 7)
    sealed = encode_entry(Entry(0, Review()))
    monkeypatch.undo()
    with pytest.raises(UnknownSchemaError, match=r"version 7.*reads 1; run the version that wrote"):
        decode_entry(sealed)


def test_an_unknown_message_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = encode_entry(Entry(0, Review()))
    monkeypatch.delitem(wire._KINDS, "Review")
    with pytest.raises(UnknownSchemaError, match="'Review', which this version does not know; run"):
        decode_entry(sealed)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"job_id": 3}, "str"),
        ({"job_id": "a", "workers": -1}, "workers"),
        ({"job_id": "a", "workers": 1.5}, "int"),
        ({"job_id": "a", "workers": 1, "more": 2}, "more"),
        ({"workers": 1}, "job_id"),
    ],
)
def test_what_is_no_message_is_refused_though_its_seal_is_whole(body: object, match: str) -> None:
    inside = wire._ENCODER.encode([0, -1, 0, "Scale", body])
    with pytest.raises(CorruptedError, match=match):
        decode_entry(seal(Content.ENTRY, inside))


@pytest.mark.parametrize(
    "entry", [None, Entry(-1, Review()), Entry(0, None), Entry(0, Configure("a", object()))]
)
def test_what_could_not_be_read_is_not_written(entry: Any) -> None:
    with pytest.raises(ValidationError):
        encode_entry(entry)


@dataclass(frozen=True)
class _Job(JobSpec):
    more: int = 1


class _Wait(Wait):
    pass


class _Submit(Submit):
    pass


@pytest.mark.parametrize(
    "body",
    [
        Submit(_Job(**vars(job("a")))),
        Decide(Plan((_Wait(),))),
        _Submit(job("a")),
        Establish(ClusterShape(1, 1), (), CLUSTER, (), 0),
    ],
)
def test_ones_own_classes_are_refused_before_they_are_logged(body: Any) -> None:
    with pytest.raises(ValidationError, match="give the classes of messages and types only"):
        encode_entry(Entry(0, body))


def test_what_was_written_before_a_field_came_in_has_its_default() -> None:
    spec = job("a", command=("x",))
    old = {name: value for name, value in vars(spec).items() if name != "environment"}
    inside = wire._ENCODER.encode([0, -1, 0, "Submit", {"spec": old}])
    assert decode_entry(seal(Content.ENTRY, inside)).body == Submit(spec)


# --- snapshots -----------------------------------------------------------------------------------


_HASHABLE = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5))
_VALUES = st.recursive(
    st.one_of(_HASHABLE, st.floats(allow_nan=False), st.binary(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(lambda items: deque(items, 7)),
        st.dictionaries(st.tuples(_HASHABLE, st.integers()), inner, max_size=3),
        st.frozensets(_HASHABLE, max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=3).map(Counter),
    ),
    max_leaves=20,
)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(_VALUES)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    read = decode_snapshot(encode_snapshot(value))
    assert (read, type(read)) == (value, type(value))
    assert encode_snapshot(read) == encode_snapshot(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2],
        np.zeros((0, 4), np.float32),
        np.ones(3, NODE_DTYPE),
        np.zeros(2, np.dtype([("a", "u1"), ("b", "f8", (2, 2))], align=True)),
    ],
)
def test_arrays_keep_type_shape_and_bytes(array: np.ndarray) -> None:
    read: Any = decode_snapshot(encode_snapshot(array))
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert np.array_equal(read, array)
    assert read.flags.writeable


def test_what_is_between_the_columns_of_records_is_not_written() -> None:
    dtype = np.dtype([("a", "u1"), ("b", "f8")], align=True)
    clean, dirty = np.zeros(2, dtype), np.frombuffer(b"\0" + b"secret!" + bytes(24), dtype)
    assert np.array_equal(clean, dirty)
    assert encode_snapshot(clean) == encode_snapshot(dirty)


@pytest.mark.parametrize("value", [object(), np.array([object()]), int, print, {1: {2: World}}])
def test_what_has_no_form_is_not_kept(value: object) -> None:
    with pytest.raises(ValidationError):
        encode_snapshot(value)


def test_a_name_that_is_not_in_the_table_is_not_looked_up() -> None:
    sealed = encode_snapshot(Placement.RANDOM)
    inside = wire.zlib.decompress(bytes(seals.open_seal(Content.SNAPSHOT, sealed)))
    classes, tree = wire.msgspec.msgpack.decode(inside)
    for name in ("os.system", "subprocess.Popen", "orchestrator.types.Anything"):
        forged = wire._ENCODER.encode([[(name, classes[0][1])], tree])
        with pytest.raises(UnknownSchemaError, match=name):
            decode_snapshot(seal(Content.SNAPSHOT, wire.zlib.compress(forged)))


def test_other_fields_are_another_schema() -> None:
    sealed = encode_snapshot(job("a"))
    inside = wire.zlib.decompress(bytes(seals.open_seal(Content.SNAPSHOT, sealed)))
    classes, tree = wire.msgspec.msgpack.decode(inside)
    forged = wire._ENCODER.encode([[(classes[0][0], classes[0][1][1:])], tree])
    with pytest.raises(UnknownSchemaError, match="JobSpec' was written with the fields name,"):
        decode_snapshot(seal(Content.SNAPSHOT, wire.zlib.compress(forged)))


async def test_a_snapshot_of_a_cluster_is_read_as_it_was_written() -> None:
    world = World(capacity=40)
    await world.live_through(draw_day(3))
    assert world.log.snapshot is not None
    sealed = encode_snapshot(world.log.snapshot[1])
    read: Any = decode_snapshot(sealed)
    assert encode_snapshot(read) == sealed
    image: Any = world.log.snapshot[1]
    assert read.kept == image.kept or len(read.kept) == len(image.kept) > 3
    assert read.engine.settings == image.engine.settings
    assert np.array_equal(read.engine.state.job, image.engine.state.job)
    flipped = bytearray(sealed)
    for at in range(0, len(sealed), 1 + len(sealed) // 50):
        flipped[at] ^= 1
        with pytest.raises(_REFUSED):
            decode_snapshot(bytes(flipped))
        flipped[at] ^= 1
