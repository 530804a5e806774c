"""States of clusters in snapshots: what another version only remembered is forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.engine.engine import Engine
from orchestrator.errors import UnknownSchemaError
from orchestrator.messages import Decide, Entry, Review, Submit, WorkerExited
from orchestrator.scheduling.rules import RULES, RulePolicy
from orchestrator.wire.values import Reader, Tree, Writer
from tests.engine.builders import HOUR_MS, SHAPE, job, node


def _crowded() -> Engine:
    """Many wait, and a line of them is remembered."""
    engine = Engine(SHAPE, nodes=[node("a"), node("b")])
    for k in range(14):
        engine.handle(Entry(k, Submit(job(f"job-{k}", gpus_per_worker=1 + k % 4))))
    _decide(engine, 20)
    return engine


def _decide(engine: Engine, time_ms: int) -> None:
    policy = RulePolicy(RULES["priority"])
    engine.handle(Entry(time_ms, Review()))
    while engine.decision_open:
        engine.handle(Entry(time_ms, Decide(policy.plan(engine.snapshot()))))


def _go_on(engine: Engine) -> int:
    """Everybody ends, one after the other; the hash of all that happened."""
    time_ms = HOUR_MS
    while placed := engine.placed():
        name, run = min(placed.items())
        time_ms += HOUR_MS
        engine.handle(Entry(time_ms, WorkerExited(name, run)))
        _decide(engine, time_ms)
    return engine.log_hash


def _written(engine: Engine, **others: np.dtype[Any]) -> tuple[Tree, list[Any]]:
    """A state as a tree, some of whose tables have other columns."""
    writer = Writer()
    tree = writer.tree(engine.image().state)
    names, tables = tree[-2], tree[-1]
    for name, dtype in others.items():
        shape = getattr(engine.state, name).shape
        tables[names.index(name)] = writer.tree(np.zeros(shape, dtype))
    return tree, writer.classes


def test_a_memo_in_other_columns_is_forgotten_and_changes_nothing() -> None:
    engine = _crowded()
    image = engine.image()
    narrow = np.dtype([("tier", "f8"), ("job", "i8")], align=True)
    tree, classes = _written(engine, line=narrow)
    state = Reader(classes).value(tree)
    assert not state.line["job"].any()
    assert not state.kind["jobs"].any()
    assert np.array_equal(state.request, image.state.request)
    other = Engine.of(engine.settings)
    other.load(type(image)(**{**vars(image), "state": state}))
    assert _go_on(other) == _go_on(engine)


def test_what_is_no_memo_has_the_columns_of_this_version() -> None:
    tree, classes = _written(_crowded(), queue=np.dtype([("job", "i4")], align=True))
    with pytest.raises(UnknownSchemaError, match="other columns"):
        Reader(classes).value(tree)
