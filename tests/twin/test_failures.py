"""Nodes fail in futures as often as they have, for as long as repairs took, or not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.engine.engine import Engine
from orchestrator.engine.history import MOST_OUTAGES, Outages
from orchestrator.kernels.state.codes import EventKind
from orchestrator.messages import (
    Command,
    Decide,
    Entry,
    Event,
    NodeFailed,
    NodeRecovered,
    PlaceJob,
    Plan,
    Register,
    Submit,
)
from orchestrator.scheduling.rules import RULES
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.scene.failures import FailurePast
from orchestrator.twin.supposed import Suppose
from tests.engine.builders import HOUR_MS, SHAPE, job, node

FEW = TwinConfig(futures=60)
_NAMES = ("a", "b", "c")


def _after(*entries: tuple[float, Command | Event]) -> Engine:
    """A cluster of three nodes to which things have happened at some hours."""
    engine = Engine(replace(SHAPE, nodes=8), nodes=[node(name) for name in _NAMES])
    for hours, body in entries:
        engine.handle(Entry(round(hours * HOUR_MS), body))
    return engine


def _failing(*, hours: float, often: str = "a") -> Engine:
    """One node fails every ten hours, for an hour; another one has failed once; now it is later."""
    happened: list[tuple[float, Command | Event]] = [(0.0, Submit(job("begins")))]
    happened += [(5.0, NodeFailed("b")), (6.0, NodeRecovered("b"))]
    for k in range(int(hours / 10)):
        at = 8.0 + 10 * k
        happened += [(at, NodeFailed(often)), (at + 1, NodeRecovered(often))]
    happened.sort(key=lambda one: one[0])
    return _after(*happened, (hours, Submit(job("now"))))


def test_outages_are_kept_until_they_are_too_many() -> None:
    outages = Outages()
    outages.begin("a", 1)
    outages.begin("a", 2)  # it had failed already
    outages.end("b", 3)  # it had not failed
    outages.begin("b", 4)
    outages.end("a", 5)
    outages.begin("c", 6)
    outages.forget("c")
    assert outages.image() == (("a", 1, 5), ("b", 4, -1))
    again = Outages(outages.image())
    again.end("b", 7)
    assert again.image() == (("a", 1, 5), ("b", 4, 7))
    for k in range(MOST_OUTAGES + 5):
        again.begin("a", k)
        again.end("a", k)
    assert len(again.image()) == MOST_OUTAGES


def test_a_cluster_remembers_its_outages_and_so_does_its_image() -> None:
    engine = _after((0.0, Submit(job("one"))), (1.0, NodeFailed("a")), (2.0, NodeFailed("b")))
    engine.handle(Entry(3 * HOUR_MS, Register(node("a"))))  # it comes back as a new one
    known = (("a", HOUR_MS, 3 * HOUR_MS), ("b", 2 * HOUR_MS, -1))
    assert engine.nodes.outages.image() == known
    other = Engine.of(engine.settings)
    other.load(engine.image([]))
    other.handle(Entry(4 * HOUR_MS, NodeRecovered("b")))
    assert other.nodes.outages.image()[-1] == ("b", 2 * HOUR_MS, 4 * HOUR_MS)
    assert engine.nodes.outages.image() == known


def test_each_node_fails_by_its_own_history_and_repairs_are_those_that_were() -> None:
    engine = _failing(hours=400.0)
    past = FailurePast(engine)
    assert past.tells
    assert (past.failures, past.repaired) == (41, 41)
    drawn = past.on(engine)
    row = {name: engine.nodes.index.find(name) for name in _NAMES}
    rates = {name: drawn.rates[n] for name, n in row.items()}
    # Forty failures in 360 hours that it was up, and the cluster's mean that counts as 2.5 more.
    mean = 41 / (360 + 399 + 400)
    assert rates["a"] == pytest.approx((40 + 2.5) / (360 + 2.5 / mean))
    assert rates["a"] > 5 * rates["b"] > 5 * rates["c"] > 0
    assert drawn.rates[[n for n in range(8) if n not in row.values()]].max() == 0
    counts, lasted = np.zeros((200, 8)), []
    for f in range(200):
        found = drawn.draw(0, f, 100 * HOUR_MS)
        assert np.array_equal(found, drawn.draw(0, f, 100 * HOUR_MS))
        assert (np.diff(found["time_ms"]) >= 0).all()
        fails = found["kind"] == EventKind.NODE_FAILURE
        counts[f] = np.bincount(found["node"][fails], minlength=8)
        for n in row.values():
            times = found["time_ms"][found["node"] == n]
            lasted += (times[1::2] - times[::2]).tolist()
    for name, n in row.items():
        cycle_h = 1 / rates[name] + 1.0
        assert counts[:, n].mean() == pytest.approx(100 / cycle_h, rel=0.1, abs=0.2), name
    assert set(lasted) == {HOUR_MS}
    assert not np.array_equal(counts[0], counts[1])


def test_a_node_that_is_down_comes_back_and_a_job_that_needs_it_starts() -> None:
    engine = _failing(hours=100.0)
    now = 100.0
    for name in _NAMES:
        wide = Submit(job(f"on-{name}", gpus_per_worker=4, max_duration_hours=500.0))
        engine.handle(Entry(round(now * HOUR_MS), wide))
    engine.handle(Entry(round(now * HOUR_MS), NodeFailed("c")))
    for name in ("a", "b"):
        engine.handle(Entry(round(now * HOUR_MS), Decide(Plan((PlaceJob(f"on-{name}"),)))))
    twin = Twin(engine.image([]), Cast(RULES["fcfs"]), engine.now_ms, replace(FEW, arrivals=False))
    told = twin.when("on-c")
    assert told.start is not None
    assert told.start.p50 is not None
    assert told.start.p50 <= engine.now_ms + 2 * HOUR_MS
    assert told.sources.failures == 11 + 1
    assert told.sources.repairs == 11
    assert "failures of nodes" not in told.not_modelled
    assert "failures of several nodes at once" in told.not_modelled


def test_nodes_do_not_fail_where_the_past_does_not_tell() -> None:
    engine = _after((0.0, Submit(job("one"))), (1.0, NodeFailed("a")), (2.0, NodeRecovered("a")))
    twin = Twin(engine.image([]), Cast(RULES["fcfs"]), engine.now_ms, FEW)
    told = twin.when("one")
    assert "failures of nodes" in told.not_modelled
    assert (told.sources.failures, told.sources.repairs) == (0, 0)


def test_all_that_is_compared_meets_the_same_failures() -> None:
    engine = _failing(hours=200.0)
    past = FailurePast(engine)
    twin = Twin(engine.image([]), Cast(RULES["fcfs"]), engine.now_ms, FEW)
    none = twin.what_if(Suppose(policy="fcfs"))
    assert none.total is not None
    assert none.total.low == none.total.high == 0.0
    assert none.total.after > 0
    other = Engine.of(engine.settings)
    other.load(engine.image([]))
    other.handle(Entry(engine.now_ms, Register(node("d"))))
    other.handle(Entry(engine.now_ms, NodeFailed("b")))
    mine, theirs = past.on(engine), past.on(other)
    b = engine.nodes.index.find("b")
    assert theirs.down_h[b] == 0.0
    assert theirs.rates[other.nodes.index.find("d")] > 0
    one, two = mine.draw(0, 3, 100 * HOUR_MS), theirs.draw(0, 3, 100 * HOUR_MS)
    a = engine.nodes.index.find("a")
    assert np.array_equal(one[one["node"] == a], two[two["node"] == a])
