"""Only the transitions write rows. Elsewhere kernels store to what saves time, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator.kernels
from orchestrator.kernels.state.records import JOB_DTYPE, JOB_MEMO_FIELDS, MEMO_TABLES, TABLES
from orchestrator.kernels.state.row import GROUPS, MEMO_FIELDS

_KERNELS = Path(orchestrator.kernels.__path__[0])
_CHANGE = "change"
"""The folder whose kernels may write rows."""

_COMPILED = {"entry", "kernel", "part", "small_kernel"}
_WRITING = {
    "copy_record",
    "copy_scalars",
    "move_bytes",
    "move_queue",
    "zero_bytes",
    "zero_record",
    "zero_run",
}
_READING = {"_bits_of", "_from_bits", "_plain", "address_of", "at", "at_both", "float32_at"}
_READING |= {"prefetch"}
_ACCESSORS = {"log_entry" if name == "log" else name: name for name in TABLES}

_MEMO = {"row": {*MEMO_FIELDS, *GROUPS["stamp"]}, "job": set(JOB_MEMO_FIELDS)}
_MEMO |= {name: set(TABLES[name].dtype.names) for name in MEMO_TABLES}
"""What anybody may store to, scratch in these tables included: it changes no decision."""

_BESIDE = ("run/rows.py", "move_bytes(target, source, size)")
"""What a session keeps beside a row, as ``save_row`` and ``restore_row`` copy it: no state."""

_CALLERS = {"tick"}
"""Records of arrays that callers hand over to be filled in (``decide.scale.TICK_DTYPE``)."""


def _decorators(function: ast.FunctionDef) -> set[str]:
    return {ast.unparse(decorator) for decorator in function.decorator_list}


def _names(tree: ast.Module) -> dict[str, str]:
    """What accessors and writing functions are called in a file: alias -> name."""
    known = {name: name for name in (*_ACCESSORS, *_WRITING)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            known |= {a.asname or a.name: a.name for a in node.names if a.name in known}
    return known


def _called(node: ast.expr, names: dict[str, str]) -> str | None:
    """Name of the accessor or writing function that an expression calls."""
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute):
        return names.get(node.func.attr)
    return names.get(node.func.id) if isinstance(node.func, ast.Name) else None


def _targets(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Pairs of what is stored to and, where it can be told, the value."""
    if isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        yield node.target, node.value
    elif isinstance(node, ast.For):
        yield node.target, None
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if not isinstance(target, ast.Tuple):
                yield target, node.value
                continue
            values = node.value.elts if isinstance(node.value, ast.Tuple) else []
            for k, each in enumerate(target.elts):
                yield each, values[k] if k < len(values) else None


def _stores_of(function: ast.FunctionDef, names: dict[str, str]) -> Iterator[str]:
    records = {"row": "row"}  # local names of records
    for node in ast.walk(function):
        for target, value in _targets(node):
            accessor = None if value is None else _called(value, names)
            if isinstance(target, ast.Name) and accessor is not None:
                records[target.id] = accessor
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and _called(node, names) in _WRITING:
            yield ast.unparse(node)
        for target, _ in _targets(node):
            part = isinstance(target, ast.Subscript)
            field = target.value if isinstance(target, ast.Subscript) else target
            if not isinstance(field, ast.Attribute):
                continue
            owner = field.value
            known = _called(owner, names) or records.get(ast.unparse(owner))
            if known is not None or not part:  # else it is an element of an array in a tuple
                yield f"{known or ast.unparse(owner)}.{field.attr}"


def _stores(source: str) -> list[str]:
    """Stores to records by the kernels of a file, ``table.field``, and calls of what writes."""
    tree = ast.parse(source)
    names = _names(tree)
    found = []
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or function.name in _WRITING:
            continue
        if _decorators(function) & _COMPILED:
            found += _stores_of(function, names)
    return found


def _is_memo(store: str) -> bool:
    copied = re.match(r"copy_record\((\w+)\(", store)
    if copied is not None:
        return _ACCESSORS.get(copied[1], copied[1]) in MEMO_TABLES
    owner, _, field = store.partition(".")
    return field in _MEMO.get(_ACCESSORS.get(owner, owner), ())


def _is_free(store: str) -> bool:
    return _is_memo(store) or store.partition(".")[0] in _CALLERS


def test_only_transitions_write_rows() -> None:
    found = set()
    for path in sorted(_KERNELS.rglob("*.py")):
        where = path.relative_to(_KERNELS)
        if where.parts[0] != _CHANGE:
            stores = _stores(path.read_text(encoding="utf-8"))
            found |= {(where.as_posix(), store) for store in stores if not _is_free(store)}
    assert found == {_BESIDE}


def test_transitions_are_found_to_write() -> None:
    """The rule of the test above would find something if it looked."""
    found = set()
    for path in sorted((_KERNELS / _CHANGE).rglob("*.py")):
        found |= set(_stores(path.read_text(encoding="utf-8")))
    assert {"row.now_ms", "job.state", "node.state", "zero_run(row)"} <= found


@pytest.mark.parametrize(
    ("body", "store"),
    [
        ("row.now_ms += 1", "row.now_ms"),
        ("job(row, 0).state = 1", "job.state"),
        ("host, b = node(row, 0), 1; host.workers = b", "node.workers"),
        ("a, tables.job(row, 0).state = 1, 2", "job.state"),
        ("rows[0].done = 1", "rows[0].done"),
        ("curve(row, 0).model_milli[3] = 1", "curve.model_milli"),
        ("_copy(node(row, 0), host)", "_copy(node(row, 0), host)"),
        ("memo.used = 1", "memo.used"),
    ],
)
def test_a_store_is_found(body: str, store: str) -> None:
    source = f"from x import copy_record as _copy\n@kernel\ndef spoil(row, memo):\n    {body}\n"
    assert _stores(source) == [store]
    assert not _is_memo(store)


@pytest.mark.parametrize("body", ["buffers.window[e, i] = 1", "x = row.now_ms", "out[0] = 1"])
def test_an_array_is_no_row(body: str) -> None:
    assert _stores(f"@part\ndef fill(row, buffers, out):\n    {body}\n") == []


def test_every_intrinsic_is_known_to_write_or_not() -> None:
    found = set()
    for path in _KERNELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "intrinsic" in _decorators(node):
                found.add(node.name)
    assert found - _WRITING == _READING


def test_the_memo_is_named_as_it_is() -> None:
    assert _MEMO["job"] <= set(JOB_DTYPE.names or ())
    assert set(MEMO_TABLES) <= set(TABLES)
