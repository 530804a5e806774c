"""Kernels that Python calls: what becomes of their arguments, and that they stay compiled."""

from __future__ import annotations

import ast
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.kernels.lang import jit
from orchestrator.kernels.lang.jit import kernel, on_row, sources_digest
from orchestrator.kernels.state.codes import NO_JOB, EventKind
from orchestrator.kernels.state.row import ClusterShape, allocate

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[2]


@kernel
def _note(row, e, kind, share):
    row.now_ms = kind
    row.queue_rate = share
    return EventKind.NODE_FAILURE if e == 1 else EventKind.ARRIVAL


@kernel
def _is_open(row):
    return row.point_open != 0


def test_a_row_is_taken_by_its_number() -> None:
    state = allocate(ClusterShape(envs=2, jobs=1))
    note = on_row(_note)
    found = note(state.rows, 1, EventKind.SERVICE_TICK, 0.5)
    assert type(found) is int
    assert found == EventKind.NODE_FAILURE
    assert note(state.rows, 0, np.uint8(7), 2.5) == EventKind.ARRIVAL
    assert list(state.rows["now_ms"]) == [7, EventKind.SERVICE_TICK]
    assert list(state.rows["queue_rate"]) == [2.5, 0.5]
    assert list(state.rows["committed"]) == [NO_JOB, NO_JOB]
    assert len(_note.overloads) <= 1  # of one kind to it; none where the cache has the callers


def test_a_truth_stays_one() -> None:
    state = allocate(ClusterShape(envs=1, jobs=1))
    assert on_row(_is_open)(state.rows, 0) is False


def test_a_kernel_is_wrapped_once() -> None:
    assert on_row(_note) is on_row(_note)
    assert on_row(_note).__doc__ == _note.__doc__
    with pytest.raises(TypeError):
        on_row(_note)(allocate(ClusterShape(envs=1, jobs=1)).rows)


def _again(cache: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, _HERE / "again.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=jit._PATIENCE_S,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(_ROOT)},
    )
    return done.stdout.splitlines()


def test_another_process_compiles_nothing_anew(tmp_path: Path) -> None:
    """Nor does it take one kernel for another that looks the same."""
    assert _again(tmp_path) == ["0 1", "0 0", "0 1", "0 1"]
    with (tmp_path / "being-compiled").open("r+b") as locks:
        fcntl.lockf(locks, fcntl.LOCK_EX)  # as somebody who is stopped while compiling
        assert _again(tmp_path) == ["0 1", "0 0", "1 0", "1 0"]


def test_who_compiles_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    place = jit._byte_of(_note.py_func, ())
    held, hold = os.pipe()
    child = os.fork()
    if child == 0:
        fcntl.lockf(jit._locks(), fcntl.LOCK_EX, 1, place)
        os.write(hold, b"!")
        signal.pause()
    os.read(held, 1)
    try:
        monkeypatch.setattr(jit, "_PATIENCE_S", 0.1)
        looks = iter([False, False, True])
        assert jit._lock(place, lambda: next(looks)) is False  # it is in the cache by now
        assert next(looks, None) is None
        assert jit._lock(place, lambda: False) is False
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(held)
        os.close(hold)
    with jit._alone(_note, ()):
        assert jit._lock(place, lambda: True) is False


def test_nobody_else_compiles_what_is_being_compiled() -> None:
    def may_another(function: Callable[..., Any]) -> bool:
        """Whether another process would begin to compile it."""
        child = os.fork()
        if child == 0:
            try:
                fcntl.lockf(jit._locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place[function])
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    place = {f: jit._byte_of(f, ()) for f in (_note.py_func, _is_open.py_func)}
    with jit._alone(_note, ()):
        assert not may_another(_note.py_func)
        assert may_another(_is_open.py_func)
    assert may_another(_note.py_func)


def test_the_digest_knows_where_a_file_is(tmp_path: Path) -> None:
    digests = set()
    for folder, text in (("a", "1"), ("b", "1"), ("b", "2")):
        root = tmp_path / f"{folder}{text}"
        (root / folder).mkdir(parents=True)
        (root / folder / "rows.py").write_text(text)
        digests.add(sources_digest(root))
    assert len(digests) == 3


_INNER = {"kernel", "small_kernel", "part"}


def _decorators(function: ast.FunctionDef) -> set[str]:
    return {ast.unparse(decorator) for decorator in function.decorator_list}


def _inner_kernels() -> dict[str, set[str]]:
    """Functions that only kernels may call, by module."""
    found = {}
    for path in (_ROOT / "orchestrator" / "kernels").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        module = ".".join(path.relative_to(_ROOT).with_suffix("").parts)
        found[module] = {f.name for f in functions if _INNER & _decorators(f)}
    return found


def _calls(node: ast.AST) -> Iterator[str]:
    """What interpreted code calls: compiled functions are left out."""
    for child in ast.iter_child_nodes(node):
        compiled = isinstance(child, ast.FunctionDef) and {"entry", *_INNER} & _decorators(child)
        if not compiled:
            yield from _calls(child)
    if isinstance(node, ast.Call):
        yield ast.unparse(node.func)


def test_python_calls_entries_only() -> None:
    """A kernel that is not declared as one raises when it is called: nobody should find out so."""
    inner, wrong, seen = _inner_kernels(), set(), 0
    for package in ("orchestrator", "envs", "agents"):
        for path in (_ROOT / package).rglob("*.py"):
            if "kernels" in path.parts:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and str(node.module) in inner:
                    seen += 1
                    known = inner[str(node.module)]
                    names |= {a.asname or a.name for a in node.names if a.name in known}
                elif isinstance(node, ast.ImportFrom):
                    for a in node.names:
                        called = inner.get(f"{node.module}.{a.name}", set())
                        names |= {f"{a.asname or a.name}.{name}" for name in called}
            wrong |= {f"{path.name}: {call}" for call in _calls(tree) if call in names}
    assert seen > 50
    assert wrong == set()
