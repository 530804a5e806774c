"""Entries and snapshots of a log <-> bytes: typed messages with a schema version.

An entry is msgpack: time, term, done, the name of its message, and the fields of that by name. What
is read has the types that messages declare, and is made by their own constructors, which check the
rest. A snapshot is a tree of values, compressed.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import reduce
from operator import or_
from types import GenericAlias, UnionType
from typing import Any, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from orchestrator.engine.checks import check_entry, check_message
from orchestrator.errors import (
    CorruptedError,
    QuartermasterError,
    UnknownSchemaError,
    ValidationError,
)
from orchestrator.kernels.state.codes import Placement
from orchestrator.messages import (
    Cancel,
    CheckpointCommitted,
    Command,
    Configure,
    Decide,
    Decommission,
    Entry,
    Establish,
    Event,
    JobOverdue,
    Lead,
    MigrateJob,
    NodeFailed,
    NodeRecovered,
    PlaceJob,
    Preempt,
    PreemptJob,
    Register,
    ResizeJob,
    Review,
    Scale,
    ScaleFleet,
    ScaleService,
    Submit,
    Tick,
    Undrain,
    Wait,
    WorkerExited,
    WorkersLost,
)
from orchestrator.wire.seals import Content, open_seal, seal
from orchestrator.wire.values import Reader, Writer

__all__ = ["decode_entry", "decode_snapshot", "encode_entry", "encode_snapshot"]


_BODIES: tuple[type, ...] = (
    Submit,
    Preempt,
    Scale,
    Cancel,
    Register,
    Decommission,
    Undrain,
    NodeFailed,
    NodeRecovered,
    Review,
    Decide,
    Tick,
    Configure,
    Establish,
    Lead,
    WorkerExited,
    CheckpointCommitted,
    WorkersLost,
    JobOverdue,
)


_ACTIONS: tuple[type, ...] = (
    PlaceJob,
    PreemptJob,
    ResizeJob,
    MigrateJob,
    ScaleService,
    ScaleFleet,
    Wait,
)


_Hint: TypeAlias = Any


class _Envelope(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    time_ms: int
    term: int
    done: int
    name: str
    body: msgspec.Raw


class _Snapshot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    classes: list[tuple[str, list[str]]]
    tree: Any


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``Configure``, which may be of many classes."""

    classes: list[tuple[str, list[str]]]
    tree: Any


@dataclass(frozen=True)
class _Form:
    """How a dataclass is read: a structure of its fields, which msgspec fills, and their types."""

    kind: type
    struct: type[msgspec.Struct]
    made: Mapping[str, _Hint]  # of fields that are not what is read for them

    def make(self, read: msgspec.Struct) -> Any:
        """The dataclass; its constructor checks what types do not say."""
        got = msgspec.structs.asdict(read)
        for name, hint in self.made.items():
            got[name] = _value(hint, got[name])
        return self.kind(**got)


_FORMS: dict[type, _Form] = {}


def _form(kind: type) -> _Form:
    """The form of a dataclass, made once."""
    if kind not in _FORMS:
        hints, columns = get_type_hints(kind), list[tuple[Any, ...]]()
        for field in fields(kind):
            # What was written before a field came in has its default.
            default = () if field.default is MISSING else (field.default,)
            columns.append((field.name, _read_as(hints[field.name]), *default))
        struct = msgspec.defstruct(
            kind.__name__,
            columns,
            kw_only=True,
            frozen=True,
            forbid_unknown_fields=True,
            tag=kind.__name__ if kind in _ACTIONS else None,
        )
        made = {name: hints[name] for name, read, *_ in columns if _is_made(hints[name], read)}
        _FORMS[kind] = _Form(kind, struct, made)
    return _FORMS[kind]


def _is_made(hint: _Hint, read: _Hint) -> bool:
    """Whether a field has to be made of what is read for it: numbers need not."""
    return bool(hint != read and hint is not float and float not in get_args(hint))


def _is_action(hint: _Hint) -> bool:
    return get_args(hint) == _ACTIONS


def _read_as(hint: _Hint) -> _Hint:
    """What msgspec is told to read for a field."""
    if _is_action(hint):
        return reduce(or_, (_form(action).struct for action in _ACTIONS))
    if hint is float:
        return int | float  # whole numbers of specifications stay what they are
    if hint is Placement:
        return int  # or a node, by its number
    if hint is object:
        return _Value
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _form(hint).struct
    origin: object = get_origin(hint)
    inner = get_args(hint)
    if origin in (Union, UnionType):
        return reduce(or_, (_read_as(one) for one in inner))
    if origin is tuple:
        return GenericAlias(tuple, tuple(one if one is ... else _read_as(one) for one in inner))
    return hint


def _value(hint: _Hint, read: Any) -> Any:
    """What was read, as the message has it."""
    if isinstance(read, _Value):
        return Reader(read.classes).value(read.tree)
    if isinstance(read, msgspec.Struct):
        if _is_action(hint):
            return _form(next(a for a in _ACTIONS if a.__name__ == type(read).__name__)).make(read)
        kind: Any = next((one for one in get_args(hint) if is_dataclass(one)), hint)  # or None
        return _form(kind).make(read)
    if isinstance(read, tuple) and read and isinstance(read[0], msgspec.Struct):
        return tuple(_value(get_args(hint)[0], one) for one in read)
    if type(read) is int and Placement in (hint, *get_args(hint)) and read in _PLACEMENTS:
        return Placement(read)
    return read


_PLACEMENTS = frozenset(int(placement) for placement in Placement)


class _Kind(NamedTuple):
    form: _Form
    decoder: msgspec.msgpack.Decoder[Any]


_KINDS = {
    kind.__name__: _Kind(_form(kind), msgspec.msgpack.Decoder(_form(kind).struct))
    for kind in _BODIES
}


def _plain(value: object) -> object:
    """NumPy's numbers as Python's: policies compute with them."""
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no form")


_WRITTEN = frozenset(_FORMS)
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_ENVELOPES = msgspec.msgpack.Decoder(_Envelope)
_SNAPSHOTS = msgspec.msgpack.Decoder(_Snapshot)


# --- entries -------------------------------------------------------------------------------------


def encode_entry(entry: Entry) -> bytes:
    """An entry as bytes.

    Raises
    ------
    ValidationError
        If it is not well formed: it could not be read again.
    """
    check_entry(entry)
    body = entry.body
    check_message(body)
    for part in (body, *_parts(body)):
        if type(part) not in _WRITTEN:
            problem, remedy = f"holds a {type(part)}", "give the classes of messages and types only"
            raise ValidationError("Entry", "body", problem, remedy)
    try:
        inside = _ENCODER.encode(
            [entry.time_ms, entry.term, entry.done, type(body).__name__, _written(body)]
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ValidationError(
            "Entry", "body", f"cannot be written ({error})", "give plain numbers and texts"
        ) from error
    return seal(Content.ENTRY, inside)


def _parts(body: Command | Event) -> tuple[object, ...]:
    """What a message holds that is no plain value: one's own subclasses could not be read again."""
    match body:
        case Submit(spec) | Register(spec):
            return (spec,)
        case Establish(shape, nodes, semantics, tenants):
            return (shape, semantics, *nodes, *tenants)
        case Decide(plan):
            return (plan, *plan.actions)
        case Tick(_, services, fleet):
            sizings = [fleet.sizing, *(seen.sizing for seen in services)]
            return (*services, *sizings, fleet, *([] if fleet.kind is None else [fleet.kind]))
    return ()


def _written(body: Command | Event) -> object:
    """What msgspec writes for a message."""
    if isinstance(body, Configure):
        writer = Writer()
        tree = writer.tree(body.value)
        return {"subject": body.subject, "value": {"classes": writer.classes, "tree": tree}}
    if isinstance(body, Decide):
        return {"plan": {"actions": [_action(action) for action in body.plan.actions]}}
    return body


def _action(action: object) -> dict[str, object]:
    return {"type": type(action).__name__, **vars(action)}


def decode_entry(sealed: bytes) -> Entry:
    """The entry of some bytes.

    Raises
    ------
    UnknownSchemaError
        If another version wrote it.
    CorruptedError
        If it is not what was written.
    """
    inside = open_seal(Content.ENTRY, sealed)
    try:
        envelope = _ENVELOPES.decode(inside)
        if envelope.name not in _KINDS:
            raise UnknownSchemaError(
                f"entry: holds a '{envelope.name:.80}', which this version does not know; run the "
                "version that wrote it"
            )
        kind = _KINDS[envelope.name]
        body = kind.form.make(kind.decoder.decode(envelope.body))
        entry = Entry(envelope.time_ms, body, envelope.term, envelope.done)
        check_entry(entry)
        check_message(body)
    except UnknownSchemaError:
        raise
    except (QuartermasterError, msgspec.MsgspecError, *_WRONG) as error:
        raise CorruptedError(f"entry: {error}; run the version that wrote it") from error
    return entry


_WRONG = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What constructors and tables raise for what they cannot take."""


# --- snapshots -----------------------------------------------------------------------------------


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: none of so many lists is garbage, and it looks at all."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def encode_snapshot(snapshot: object) -> bytes:
    """A snapshot as bytes.

    Raises
    ------
    ValidationError
        If it is, or holds, something that has no form.
    """
    writer = Writer()
    try:
        with _uncollected():
            tree = writer.tree(snapshot)
            inside = _ENCODER.encode([writer.classes, tree])
    except ValidationError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        problem = f"cannot be written ({error})"
        raise ValidationError("log", "snapshot", problem, "keep plain values") from error
    return seal(Content.SNAPSHOT, zlib.compress(inside, 1))


def decode_snapshot(sealed: bytes) -> object:
    """The snapshot of some bytes.

    Raises
    ------
    UnknownSchemaError
        If another version wrote it.
    CorruptedError
        If it is not what was written.
    """
    packed = open_seal(Content.SNAPSHOT, sealed)
    try:
        with _uncollected():
            read = _SNAPSHOTS.decode(zlib.decompress(packed))
            return Reader(read.classes).value(read.tree)
    except UnknownSchemaError:
        raise
    except (QuartermasterError, msgspec.MsgspecError, zlib.error, *_WRONG) as error:
        raise CorruptedError(f"snapshot: {error}; run the version that wrote it") from error
