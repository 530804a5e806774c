"""A detector that learns how regular heartbeats are."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import PhiAccrualFaultDetector
from orchestrator.ports import Callback, NodeHealth, Timer


class _Sleepy(VirtualClock):
    """A clock on which the process sleeps: time goes by, and nothing happens when it is due."""

    slept_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.slept_ms

    def call_at(self, time_ms: int, callback: Callback, *, order: int = 0) -> Timer:
        return super().call_at(time_ms - self.slept_ms, callback, order=order)


class _Watched:
    """A detector that watches node ``a``, and what it has told."""

    def __init__(self, **options: object) -> None:
        self.clock = _Sleepy()
        values: dict[str, Any] = {"lease_ms": 0} | options
        self.faults = PhiAccrualFaultDetector(self.clock, **values)
        self.told: list[tuple[bool, int]] = []
        self.faults.subscribe(self._hear)

    def _hear(self, health: NodeHealth) -> None:
        self.told.append((health.alive, self.clock.now_ms()))

    async def beat(self, *intervals_ms: int) -> None:
        """Beat now, and again after each interval."""
        await self.faults.heartbeat("a")
        for interval_ms in intervals_ms:
            await self.clock.advance_to(self.clock.now_ms() + interval_ms)
            await self.faults.heartbeat("a")


@pytest.mark.parametrize(
    ("every_ms", "least_ms", "threshold"), [(100, 10.0, 8.0), (1000, 50.0, 8.0), (500, 20.0, 3.0)]
)
async def test_a_regular_node_is_found_dead_after_its_rhythm_and_a_few_deviations(
    every_ms: int, least_ms: float, threshold: float
) -> None:
    w = _Watched(threshold=threshold, least_deviation_ms=least_ms)
    await w.beat(*[every_ms] * 20)
    last_ms = w.clock.now_ms()
    await w.clock.run_until_idle()
    due_ms = every_ms + norm.isf(10.0**-threshold) * least_ms
    assert w.told == [(False, last_ms + math.ceil(due_ms))]


async def test_an_irregular_node_gets_more_time() -> None:
    regular, irregular = _Watched(), _Watched()
    await regular.beat(*[200] * 20)
    await irregular.beat(*[50, 350] * 10)
    waits = []
    for w in (regular, irregular):
        last_ms = w.clock.now_ms()
        await w.clock.run_until_idle()
        waits.append(w.told[0][1] - last_ms)
    assert waits[1] > 2 * waits[0]


async def test_without_a_rhythm_and_beyond_it_the_timeout_counts() -> None:
    few = _Watched(timeout_ms=3000)
    await few.beat(100, 100)
    slow = _Watched(timeout_ms=3000)
    await slow.beat(*[2900] * 20)
    for w in (few, slow):
        last_ms = w.clock.now_ms()
        await w.clock.run_until_idle()
        assert w.told == [(False, last_ms + 3000)]


@given(
    intervals=st.lists(st.integers(1, 2000), min_size=10, max_size=40),
    silence=st.integers(0, 4000),
)
async def test_phi_is_what_the_normal_distribution_says(intervals: list[int], silence: int) -> None:
    w = _Watched(timeout_ms=1_000_000, threshold=300.0)
    await w.beat(*intervals)
    await w.clock.advance_to(w.clock.now_ms() + silence)
    deviation = max(float(np.std(intervals)), 50.0)
    wanted = -norm.logsf(silence, np.mean(intervals), deviation) / math.log(10.0)
    assert w.faults.phi("a") == pytest.approx(wanted, rel=1e-6, abs=1e-9)


async def test_suspicion_grows_and_is_infinite_of_the_dead() -> None:
    w = _Watched()
    assert w.faults.phi("a") == 0.0
    await w.beat(*[500] * 12)
    seen = []
    for _ in range(3):
        await w.clock.advance_to(w.clock.now_ms() + 250)
        seen.append(w.faults.phi("a"))
    assert 0.0 < seen[0] < seen[1] < seen[2]
    await w.clock.run_until_idle()
    assert w.faults.phi("a") == math.inf


async def test_a_suspected_node_that_answers_is_trusted() -> None:
    asked: list[int] = []

    async def probe(node_id: str) -> bool:
        asked.append(w.clock.now_ms())
        return len(asked) < 3

    w = _Watched(probe=probe)
    await w.beat(*[100] * 20)
    await w.clock.run_until_idle()
    assert len(asked) == 3
    assert w.told == [(False, asked[-1])]


async def test_a_probe_that_fails_or_hangs_is_a_no() -> None:
    async def refused(node_id: str) -> bool:
        raise ConnectionRefusedError

    async def hangs(node_id: str) -> bool:
        await asyncio.Event().wait()
        return True

    for probe in (refused, hangs):
        w = _Watched(probe=probe, probe_ms=20)
        await w.beat(*[100] * 20)
        await w.clock.run_until_idle()
        assert [alive for alive, _ in w.told] == [False]


async def test_a_heartbeat_during_the_probe_counts() -> None:
    async def probe(node_id: str) -> bool:
        await w.faults.heartbeat("a")
        return False

    w = _Watched(probe=probe)
    await w.beat(*[100] * 20)
    await w.clock.advance_to(w.clock.now_ms() + 5000)
    assert w.told == []


async def test_a_detector_that_slept_blames_nobody() -> None:
    w = _Watched()
    await w.beat(*[100] * 20)
    due_ms = w.clock.next_ms()
    assert due_ms is not None
    patience_ms = math.ceil(100 + norm.isf(1e-8) * 50)
    w.clock.slept_ms = 60_000
    await w.clock.run_until_idle()
    assert w.told == [(False, due_ms + 60_000 + patience_ms)]


@pytest.mark.parametrize("lease_ms", [500, 3000])
async def test_nobody_is_declared_dead_while_its_workers_may_go_on(lease_ms: int) -> None:
    w = _Watched(lease_ms=lease_ms)
    await w.beat(*[100] * 20)
    last_ms = w.clock.now_ms()
    await w.clock.run_until_idle()
    assert w.told == [(False, last_ms + lease_ms)]


async def test_a_report_does_not_wait_for_the_lease() -> None:
    w = _Watched(lease_ms=5000)
    await w.beat(*[100] * 20)
    await w.faults.report("a")
    assert w.told == [(False, w.clock.now_ms())]


def test_a_lease_is_no_longer_than_the_timeout() -> None:
    with pytest.raises(ConfigurationError, match="'lease_ms' is 11000"):
        _Watched(lease_ms=11_000)


@pytest.mark.parametrize("field", ["timeout_ms", "threshold", "least_deviation_ms", "probe_ms"])
def test_numbers_must_be_positive(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{field}' is 0"):
        _Watched(**{field: 0})
