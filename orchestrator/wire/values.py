"""Values as plain trees of numbers, texts, bytes and lists, and back: what snapshots are made of.

Only what is named here is written and read. Reading makes values of the classes of one table and
runs none of the file's own code, because there is none: names are looked up, never called.
"""

from __future__ import annotations

import importlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.copies import restore_state
from orchestrator.errors import CorruptedError, UnknownSchemaError, ValidationError
from orchestrator.kernels.state.records import JOB_MEMO_FIELDS, MEMO_TABLES, TABLES
from orchestrator.kernels.state.row import GROUPS, MEMO_FIELDS, ROW_DTYPE, ClusterState

__all__ = ["Reader", "Tree", "Writer"]


Tree: TypeAlias = Any
"""None, booleans, numbers, text, bytes, and lists of trees whose first element is a tag."""


_MODULES = {
    "orchestrator.engine.engine": ("EngineImage", "Outcome"),
    "orchestrator.engine.history": ("History", "JobNote"),
    "orchestrator.engine.tables": ("TableImage",),
    "orchestrator.kernels.state.codes": (
        "Elasticity",
        "Information",
        "JobKind",
        "Placement",
        "Preemption",
        "QuotaMode",
        "Reason",
        "RuleKey",
        "Scaling",
        "Status",
        "Topology",
    ),
    "orchestrator.kernels.state.row": ("ClusterShape", "ClusterState"),
    "orchestrator.live.journal": ("_Image",),
    "orchestrator.mesh.replicas": ("_Image", "_Replica"),
    "orchestrator.mesh.specs": ("BreakerSpec", "LimitSpec", "RetrySpec", "ServiceSpec"),
    "orchestrator.messages": (
        "Establish",
        "FleetSeen",
        "RegroupJob",
        "ReleaseNode",
        "SaveCheckpoint",
        "ServiceSeen",
        "Sizing",
        "StartJob",
        "StopJob",
        "StopReason",
        "Tick",
        "WorkerPlacement",
    ),
    "orchestrator.metrics.views": (
        "ClusterUtilization",
        "JobCompletionRate",
        "JobEvents",
        "ScalingEfficiency",
        "SchedulingLatency",
        "Series",
    ),
    "orchestrator.scheduling.rules": ("Rule",),
    "orchestrator.semantics": ("Semantics",),
    "orchestrator.types": (
        "JobPriority",
        "JobSpec",
        "NodeSpec",
        "ScalingDecision",
        "ScalingDirection",
        "TenantSpec",
    ),
}
"""Classes that are kept, by the module where they are. Texts, since some stand on floors above."""


_NAMES = frozenset(f"{module}.{name}" for module, names in _MODULES.items() for name in names)


_PLAIN = frozenset({type(None), bool, float, str, bytes})
_NUMBERED = _PLAIN | {int}


_LEAST, _MOST = -(2**63), 2**64 - 1  # integers that stand by themselves


# Tags: the first element of every list of a tree.
_LIST, _TUPLE, _SET, _FROZENSET, _DEQUE, _DICT, _COUNTER = range(7)
_INTEGER, _ARRAY, _SCALAR, _OBJECT, _ENUM, _STATE = range(7, 13)


# A long sequence is written by columns: the values of one field of all its objects, together.
_PACKED = 13  # the only element of what stands for such a sequence; what its columns are follows
_PLAINS, _TUPLES, _OBJECTS, _ENUMS, _RAGGED, _TREES = range(6)
_LONG = 16


_SEQUENCES: tuple[type, ...] = (list, tuple, deque)  # that may be ragged, by their number


_SERIES = ("series_at", "forecast_at")  # addresses of memory that a state does not own


def _class_named(name: str) -> type:
    if name not in _NAMES:
        raise UnknownSchemaError(
            f"snapshot: holds a '{name:.80}', which this version does not know; run the version "
            "that wrote it"
        )
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, type)
    return found


def _are_fields(kind: type, names: Sequence[str]) -> bool:
    """Whether a class has these fields, in this order, and behind them only such with defaults."""
    if not is_dataclass(kind):
        return not names
    known = fields(kind)
    late = known[len(names) :]
    return [field.name for field in known[: len(names)]] == list(names) and all(
        field.default is not MISSING for field in late
    )


def _late_fields(kind: type, names: Sequence[str]) -> dict[str, Any]:
    """Fields that have come into a class since its objects were written with others."""
    late = fields(kind)[len(names) :] if is_dataclass(kind) else ()
    return {field.name: field.default for field in late}


def _fields_of(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


class Writer:
    """Makes trees of values.

    Attributes
    ----------
    classes : list
        Names of the classes of all objects so far, and of their fields: goes with the trees.
    """

    def __init__(self) -> None:
        self.classes: list[tuple[str, tuple[str, ...]]] = []
        self._numbers: dict[type, int] = {}
        self._by_type: dict[type, Callable[[Any], Tree]] = {
            int: self._integer,
            list: lambda value: self._items(_LIST, value),
            tuple: lambda value: self._items(_TUPLE, value),
            # Sets have no order: equal ones are written alike.
            set: lambda value: self._items(_SET, sorted(value, key=repr)),
            frozenset: lambda value: self._items(_FROZENSET, sorted(value, key=repr)),
            deque: lambda value: [*self._items(_DEQUE, value), value.maxlen],
            dict: lambda value: self._pairs(_DICT, value),
            Counter: lambda value: self._pairs(_COUNTER, value),
            np.ndarray: self._array,
            ClusterState: self._state,
        }

    def tree(self, value: object) -> Tree:
        """A value as a tree.

        Raises
        ------
        ValidationError
            If it is, or holds, something that has no form.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        known = self._by_type.get(kind)
        if known is not None:
            return known(value)
        if isinstance(value, np.generic):
            return [_SCALAR, *self._array(np.asarray(value))[1:]]
        number = self._number(kind)
        if isinstance(value, Enum):
            return [_ENUM, number, value.value]
        if self.classes[number][1]:
            held = vars(value)
            return [_OBJECT, number, *self._each([held[name] for name in self.classes[number][1]])]
        return [_OBJECT, number, self.tree(dict(vars(value)))]

    def _number(self, kind: type) -> int:
        number = self._numbers.get(kind)
        if number is None:
            name = f"{kind.__module__}.{kind.__qualname__}"
            if name not in _NAMES:
                raise ValidationError(
                    "log",
                    "value",
                    f"is a {name}, which cannot be kept",
                    "add it to values._MODULES",
                )
            number = self._numbers[kind] = len(self.classes)
            self.classes.append((name, _fields_of(kind)))
        return number

    def _integer(self, value: int) -> Tree:
        return value if _LEAST <= value <= _MOST else [_INTEGER, f"{value:x}"]

    def _items(self, tag: int, values: Any) -> Tree:
        return [tag, self._trees(values)]

    def _each(self, values: Iterable[Any]) -> list[Tree]:
        return [x if type(x) in _PLAIN else self.tree(x) for x in values]

    def _trees(self, values: Collection[Any]) -> list[Tree]:
        """Trees of a sequence: one of each, or its columns."""
        if len(values) < _LONG:
            return self._each(values)
        return [[_PACKED, *self._column(list(values))]]

    def _column(self, values: Sequence[Any]) -> list[Tree]:
        """Values that are mostly of one kind, as few long lists."""
        kinds = set(map(type, values))
        if kinds <= _PLAIN or (kinds <= _NUMBERED and _are_small(values)):
            return [_PLAINS, values]
        kind = kinds.pop()
        if kinds or not values:
            return [_TREES, self._each(values)]
        if kind is tuple and values[0] and len(set(map(len, values))) == 1:
            return [_TUPLES, *(self._column(column) for column in zip(*values, strict=True))]
        if kind in _SEQUENCES and (kind is not deque or len({one.maxlen for one in values}) == 1):
            every = self._column(list(chain.from_iterable(values)))
            most = values[0].maxlen if kind is deque else None
            return [_RAGGED, _SEQUENCES.index(kind), most, list(map(len, values)), every]
        if kind in self._by_type or issubclass(kind, np.generic):
            return [_TREES, self._each(values)]
        number = self._number(kind)
        if issubclass(kind, Enum):
            return [_ENUMS, number, [value.value for value in values]]
        names = self.classes[number][1]
        if not names:
            return [_TREES, self._each(values)]
        held = list(map(vars, values))
        return [_OBJECTS, number, *(self._column([row[name] for row in held]) for name in names)]

    def _pairs(self, tag: int, values: dict[Any, Any]) -> Tree:
        return [tag, self._trees(values), self._trees(values.values())]

    def _array(self, array: NDArray[Any]) -> Tree:
        if array.dtype.hasobject:
            raise ValidationError("log", "value", f"is an array of {array.dtype}", "keep numbers")
        if array.dtype.names is not None:
            # Between the columns of records is whatever was in memory: that stays here.
            columns = np.zeros(array.shape, array.dtype)
            for name in array.dtype.names:
                columns[name] = array[name]
            array = columns
        return [_ARRAY, _form_of(array.dtype), list(array.shape), array.tobytes()]

    def _state(self, state: ClusterState) -> Tree:
        if any(state.rows[name].any() for name in _SERIES):
            raise ValidationError(
                "log", "state", "reads series that it does not own", "keep live clusters only"
            )
        tables = [self._array(getattr(state, name)) for name in TABLES]
        rows = state.rows.copy()
        for name in GROUPS["addresses"]:
            rows[name] = 0  # they mean nothing to whoever reads this
        return [_STATE, self.tree(state.shape), self._array(rows), list(TABLES), tables]


class Reader:
    """Makes values of trees.

    Parameters
    ----------
    classes : list
        As :class:`Writer` has them.

    Raises
    ------
    UnknownSchemaError
        If this version has other ones, or they have other fields.
    """

    def __init__(self, classes: list[Any]) -> None:
        self._classes = [_class_named(name) for name, _ in classes]
        self._fields = [tuple(names) for _, names in classes]
        for kind, (name, names) in zip(self._classes, classes, strict=True):
            if not _are_fields(kind, names):
                raise UnknownSchemaError(
                    f"snapshot: '{name}' was written with the fields {', '.join(names)}, and this "
                    "version has others; run the version that wrote it"
                )
        self._late = [
            _late_fields(kind, names)
            for kind, names in zip(self._classes, self._fields, strict=True)
        ]
        self._by_tag: dict[int, Callable[..., Any]] = {
            _LIST: self._items,
            _TUPLE: lambda items: tuple(self._items(items)),
            _SET: lambda items: set(self._items(items)),
            _FROZENSET: lambda items: frozenset(self._items(items)),
            _DEQUE: lambda items, most: deque(self._items(items), most),
            _DICT: self._dict,
            _COUNTER: lambda keys, values: Counter(self._dict(keys, values)),
            _INTEGER: lambda text: int(text, 16),
            _ARRAY: _array,
            _SCALAR: lambda form, shape, data: _array(form, shape, data)[()],
            _OBJECT: self._object,
            _ENUM: lambda number, value: self._classes[number](value),
            _STATE: self._state,
        }

    def value(self, tree: Tree) -> Any:
        """The value of a tree."""
        if type(tree) is not list:
            return tree
        return self._by_tag[tree[0]](*tree[1:])

    def _items(self, items: list[Tree]) -> list[Any]:
        if len(items) == 1 and type(items[0]) is list and items[0][0] == _PACKED:
            return self._column(*items[0][1:])
        return self._each(items)

    def _each(self, items: list[Tree]) -> list[Any]:
        return [x if type(x) is not list else self.value(x) for x in items]

    def _column(self, form: int, *parts: Any) -> list[Any]:
        """The values of a sequence that was written by columns."""
        if form == _PLAINS:
            return list(parts[0])
        if form == _TUPLES:
            return list(zip(*(self._column(*part) for part in parts), strict=True))
        if form == _OBJECTS:
            columns = [self._column(*part) for part in parts[1:]]
            names, kind = self._fields[parts[0]], self._classes[parts[0]]
            if len(columns) != len(names):
                raise CorruptedError(f"snapshot: {len(columns)} columns of a {kind.__name__}")
            late = self._late[parts[0]]
            return [_made(kind, names, row, late) for row in zip(*columns, strict=True)]
        if form == _ENUMS:
            members = {member.value: member for member in self._classes[parts[0]]}
            return [members[value] for value in parts[1]]
        if form == _RAGGED:
            number, most, lengths, every = parts
            values, kind = iter(self._column(*every)), _SEQUENCES[number]
            made = [list(islice(values, length)) for length in lengths]
            if sum(map(len, made)) != sum(lengths) or next(values, made) is not made:
                raise CorruptedError("snapshot: a sequence has another length than its parts")
            if kind is deque:
                return [deque(one, most) for one in made]
            return made if kind is list else [tuple(one) for one in made]
        return self._each(parts[0])

    def _dict(self, keys: list[Tree], values: list[Tree]) -> dict[Any, Any]:
        return dict(zip(self._items(keys), self._items(values), strict=True))

    def _object(self, number: int, *values: Tree) -> Any:
        kind, names = self._classes[number], self._fields[number]
        if names:
            return _made(kind, names, self._each(list(values)), self._late[number])
        made, known = kind(), self.value(values[0])
        if vars(made).keys() != known.keys():
            raise UnknownSchemaError(
                f"snapshot: a {kind.__name__} was written with {', '.join(known)}, and this "
                "version has others; run the version that wrote it"
            )
        vars(made).update(known)
        return made

    def _state(self, shape: Tree, rows: Tree, names: list[str], tables: list[Tree]) -> ClusterState:
        found = {name: self.value(table) for name, table in zip(names, tables, strict=True)}
        wanted = {name: dtype for name, (dtype, _) in TABLES.items()}
        row = self.value(rows)
        if any(name in found and found[name].dtype != wanted[name] for name in MEMO_TABLES):
            _forget_memo(row, found, wanted)
        if {name: table.dtype for name, table in found.items()} != wanted or row.dtype != ROW_DTYPE:
            raise UnknownSchemaError(
                "snapshot: its tables have other columns than this version's; run the version that "
                "wrote it"
            )
        for name in _SERIES:
            row[name] = 0  # addresses never come from a file
        return restore_state(self.value(shape), row, found)


def _forget_memo(
    row: NDArray[np.void], tables: dict[str, NDArray[Any]], wanted: Mapping[str, np.dtype[Any]]
) -> None:
    """Blank what only saves time: another version remembered it in columns of its own."""
    for name in MEMO_TABLES:
        if name in tables:
            tables[name] = np.zeros(tables[name].shape, wanted[name])
    for name in MEMO_FIELDS:
        row[name] = 0
    for name in JOB_MEMO_FIELDS:
        if name in (tables["job"].dtype.names or ()):
            tables["job"][name] = 0


def _made(kind: type, names: Sequence[str], values: Sequence[Any], late: dict[str, Any]) -> Any:
    """An object with these fields, and those that have come in since.

    They were checked when it was logged, and the digest says that it is still the same: checking
    10,000 specifications again takes two seconds of a restart.
    """
    kept: Any = object.__new__(kind)
    vars(kept).update(zip(names, values, strict=True), **late)
    return kept


def _are_small(values: Iterable[Any]) -> bool:
    """Whether all integers among values stand by themselves."""
    return all(_LEAST <= x <= _MOST for x in values if type(x) is int)


# --- arrays --------------------------------------------------------------------------------------


def _form_of(dtype: np.dtype[Any]) -> Tree:
    """What says how the bytes of an array are read; nothing in it names a class."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_form_of(base), list(shape)]
    if dtype.names is None:
        return dtype.str
    assert dtype.fields is not None
    columns = [dtype.fields[name] for name in dtype.names]
    forms = [_form_of(column[0]) for column in columns]
    return [list(dtype.names), forms, [int(column[1]) for column in columns], dtype.itemsize]


def _dtype_of(form: Tree) -> np.dtype[Any]:
    if isinstance(form, str):
        return np.dtype(form)
    if len(form) == 2:
        return np.dtype((_dtype_of(form[0]), tuple(form[1])))
    names, forms, offsets, size = form
    columns: Any = {  # NumPy's annotations know lists of columns only without their places
        "names": names,
        "formats": [_dtype_of(one) for one in forms],
        "offsets": offsets,
        "itemsize": size,
    }
    made: np.dtype[Any] = np.dtype(columns)
    return made


def _array(form: Tree, shape: list[int], data: bytes) -> NDArray[Any]:
    dtype = _dtype_of(form)
    if dtype.hasobject:
        raise CorruptedError("snapshot: an array of objects; restore it from a copy")
    return np.frombuffer(bytearray(data), dtype).reshape(shape)  # its own, to be written to
