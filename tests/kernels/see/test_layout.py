"""Positions have one address: the columns of features, the heads of actions, and no literals."""

from __future__ import annotations

import ast
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import CLUSTER, JOB_ORDERING, PLACEMENT, Session
from envs.workloads import gpu_pods
from orchestrator.kernels.lang.jit import entry
from orchestrator.kernels.run import linear as scorer
from orchestrator.kernels.see import layout
from orchestrator.kernels.see.layout import (
    HEADS,
    SETS,
    ActionHead,
    Resizing,
    SizeChoice,
    decode,
    head_of,
    number,
)
from orchestrator.kernels.state.codes import ActionKind, Placement, Scaling
from orchestrator.scheduling.schema import ActionLayout
from tests.envs.cases import lublin_trace, pick_legal
from tests.envs.scaling_cases import busy_scenario, busy_trace

_ROOT = Path(__file__).resolve().parents[3]
_COLUMNS = [
    kind
    for kind in vars(layout).values()
    if isinstance(kind, type) and issubclass(kind, IntEnum) and kind.__module__ == layout.__name__
]


@entry
def _head_of(heads, action):
    return head_of(heads, action)


@entry
def _decode(rows, action, view, buffers):
    return decode(rows[0], 0, action, view, buffers)


@entry
def _number(rows, action, view, buffers, nodes):
    return number(rows[0], 0, action, view, buffers, nodes)


# --- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", _COLUMNS, ids=lambda kind: kind.__name__)
def test_positions_are_numbered_from_zero_without_gaps(columns: type[IntEnum]) -> None:
    assert [int(column) for column in columns] == list(range(len(columns)))


def test_a_scorer_reads_the_sets_in_their_order() -> None:
    named = SimpleNamespace(**{name: name for name in SETS})
    assert scorer.sets_of.py_func(named) == SETS


# --- actions -------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> ActionLayout:
    few = st.integers(0, 4)
    sizes = {name: draw(few) for name in ("window", "victims", "elastics", "services")}
    sizes["sizes"] = draw(st.sampled_from([0, len(SizeChoice)]))
    flags = {name: draw(st.booleans()) for name in ("migrate", "can_wait")}
    return ActionLayout(
        candidates=draw(st.integers(1, 4)), capacity_steps=draw(few), **sizes, **flags
    )


@given(layouts())
def test_every_number_is_an_action_of_one_head(actions: ActionLayout) -> None:
    offsets = layout.head_offsets(actions)
    numbered = [(int(head.kind), index) for head in actions.heads for index in range(head.size)]
    assert [_head_of(offsets, a) for a in range(actions.size)] == numbered
    for beyond in (-1, actions.size, actions.size + 7):
        assert _head_of(offsets, beyond)[0] == -1


def _cluster(draw: st.DrawFn) -> Session:
    victims, services = draw(st.integers(0, 3)), draw(st.sampled_from([0, 3]))
    steps = draw(st.integers(0, 3))
    config = replace(
        CLUSTER,
        window=draw(st.integers(1, 5)),
        episode_jobs=draw(st.integers(4, 16)),
        placements=draw(st.permutations(list(Placement)))[: draw(st.integers(1, 3))],
        victims=victims,
        migrate=victims > 0 and draw(st.booleans()),
        elastics=draw(st.integers(0, 3)),
        resizing=draw(st.sampled_from(Resizing)),
        services=services,
        capacity_steps=steps,
        autoscale=Scaling.NONE if services or steps else draw(st.sampled_from(Scaling)),
        min_run_seconds=0.0,
    )
    starts = np.arange(0, 280, 40)
    return Session(busy_trace(), config, 1, starts, scenario=busy_scenario())


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """One row of any environment, with any heads."""
    which = draw(st.sampled_from(["cluster", "cluster", "cluster", "ordering", "nodes"]))
    if which == "cluster":
        return _cluster(draw)
    base, trace = (
        (JOB_ORDERING, lublin_trace())
        if which == "ordering"
        else (PLACEMENT, gpu_pods(80, 3, nodes=6))
    )
    return Session(
        trace, replace(base, window=draw(st.integers(1, 6)), episode_jobs=30), 1, part="all"
    )


def _check_actions(session: Session) -> set[ActionHead]:
    """Every legal action is itself after there and back; heads that were met."""
    rows, buffers, view = session.state.rows, session.buffers, session.source.seen
    met = set()
    for a in np.flatnonzero(buffers.mask[0]).tolist():
        action = _decode(rows, a, view, buffers)
        assert _number(rows, action, view, buffers, session.bench.nodes) == a
        (head,) = (h for h in session.schema.actions.heads if 0 <= a - h.offset < h.size)
        assert ActionKind(action[0]) == HEADS[head.kind].kind
        met.add(head.kind)
    for beyond in (-1, buffers.mask.shape[1]):
        assert _decode(rows, beyond, view, buffers)[0] == -1
    return met


@pytest.mark.property
@settings(max_examples=max(settings().max_examples // 2, 1))
@given(session=sessions(), seed=st.integers(0, 1 << 16))
def test_what_an_action_means_has_its_number(session: Session, seed: int) -> None:
    rng = np.random.default_rng(seed)
    session.reseed(np.array([seed], np.uint64))
    session.reset()
    for _ in range(25):
        if session.buffers.terminated[0]:
            break
        _check_actions(session)
        session.step(pick_legal(session.buffers.mask, rng))


@pytest.mark.parametrize("resizing", Resizing)
def test_all_heads_are_met(resizing: Resizing) -> None:
    steps = {ActionHead.SHRINK, ActionHead.GROW}
    others = steps if resizing == Resizing.SIZES else {ActionHead.RESIZE}
    config = replace(
        CLUSTER,
        window=3,
        episode_jobs=60,
        victims=3,
        migrate=True,
        elastics=3,
        services=3,
        capacity_steps=2,
        min_run_seconds=0.0,
        resizing=resizing,
    )
    session = Session(busy_trace(), config, 1, np.array([0]), scenario=busy_scenario())
    rng = np.random.default_rng(1)
    session.reset()
    met: set[ActionHead] = set()
    for _ in range(300):
        if met == set(ActionHead) - others:
            break
        met |= _check_actions(session)
        session.step(pick_legal(session.buffers.mask, rng))
        if session.buffers.terminated[0]:
            session.reset()
    assert met == set(ActionHead) - others


# --- no literals ---------------------------------------------------------------------------------

_ALONG_FEATURES = {"fleet", "globals", "maxima", "out", "own", "w", "weights"}
"""Arrays with an axis of features only: not even their first is 0."""

_ENTITIES = {
    ("queue.py", "releases"): "columns are running jobs; the first stands for none of them",
    ("linear.py", "columns"): "columns are jobs of the window",
    ("batches.py", "nothing"): "a set of no features",
    ("policy.py", "nothing"): "a set of no features",
    ("linear.py", "mask"): "one row",
    ("linear.py", "advice"): "one row",
    ("roll.py", "weights"): "one policy",
}
"""Literals along with names: positions of entities, not of features."""


def _literal(index: ast.expr) -> int | None:
    """The number that an index is, if it is one."""
    if isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.USub):
        below = _literal(index.operand)
        return None if below is None else -below
    known = isinstance(index, ast.Constant) and type(index.value) is int
    return index.value if known else None


def _array(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


_NO_FEATURES = ("shape", "found", "orders", "beside")
"""Arrays of sizes; of actions, as (kind, job, value); of two orders of jobs; of addresses."""


def _literals(source: str, file: str) -> list[str]:
    """Literal positions in arrays of features, as source text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Subscript) or isinstance(node.value, ast.Call):
            continue
        if _array(node.value) in _NO_FEATURES:
            continue
        several = isinstance(node.slice, ast.Tuple)
        indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        numbers = {_literal(index) for index in indices} - {None}
        name = _array(node.value)
        if not numbers or (numbers == {0} and (file, name) in _ENTITIES):
            continue
        if several or name in _ALONG_FEATURES or not numbers <= {0, -1}:
            found.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
    return found


def _files() -> list[Path]:
    """Whatever knows of the layout."""
    files = [p for part in ("orchestrator", "envs", "agents") for p in (_ROOT / part).rglob("*.py")]
    return [p for p in files if "kernels.see.layout import" in p.read_text(encoding="utf-8")]


def test_positions_have_names() -> None:
    files = _files()
    names = {path.name for path in files}
    encoders = {"queue.py", "candidates.py", "running.py", "cluster.py", "encode.py"}
    assert encoders | {"linear.py", "batches.py", "policy.py", "session.py"} <= names
    found = [text for path in files for text in _literals(path.read_text("utf-8"), path.name)]
    assert found == []


@pytest.mark.parametrize(
    "line", ["out[i, 5] = x", "y = w[7]", "own[0] += 1", "z = layout[p, 0]", "b = memo[3]"]
)
def test_literal_positions_are_found(line: str) -> None:
    assert len(_literals(line, "queue.py")) == 1


@pytest.mark.parametrize(
    "line", ["n = out.shape[1]", "s = settings[0]", "last = heads[-1]", "part = out[i, 2:5]"]
)
def test_what_is_no_position_of_a_feature_passes(line: str) -> None:
    assert _literals(line, "queue.py") == []
