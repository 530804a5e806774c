"""What every fault detector promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import HeartbeatFaultDetector, PhiAccrualFaultDetector
from orchestrator.ports import Clock, FaultDetector, NodeHealth

_LONG_MS = 1_000_000
"""A silence that no detector takes for a sign of life."""


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=[HeartbeatFaultDetector, PhiAccrualFaultDetector])
def faults(request: pytest.FixtureRequest, clock: VirtualClock) -> FaultDetector:
    make: Callable[[Clock], FaultDetector] = request.param
    return make(clock)


@pytest.fixture
def told(faults: FaultDetector) -> list[NodeHealth]:
    heard: list[NodeHealth] = []
    faults.subscribe(heard.append)
    return heard


async def _beat(clock: VirtualClock, faults: FaultDetector, node_id: str, times: int) -> None:
    for _ in range(times):
        await faults.heartbeat(node_id)
        await clock.advance_to(clock.now_ms() + 1000)


async def test_a_node_that_was_never_heard_of_is_not_suspected(
    clock: VirtualClock, faults: FaultDetector, told: list[NodeHealth]
) -> None:
    await clock.advance_to(_LONG_MS)
    assert faults.suspects() == ()
    assert told == []


async def test_a_node_that_keeps_beating_is_trusted(
    clock: VirtualClock, faults: FaultDetector, told: list[NodeHealth]
) -> None:
    await _beat(clock, faults, "a", 100)
    assert faults.suspects() == ()
    assert told == []


async def test_silence_is_told_once(
    clock: VirtualClock, faults: FaultDetector, told: list[NodeHealth]
) -> None:
    await _beat(clock, faults, "b", 3)
    await _beat(clock, faults, "a", 3)
    await clock.advance_to(clock.now_ms() + _LONG_MS)
    assert told == [NodeHealth("b", alive=False), NodeHealth("a", alive=False)]
    assert faults.suspects() == ("a", "b")


async def test_a_new_heartbeat_restores_trust(
    clock: VirtualClock, faults: FaultDetector, told: list[NodeHealth]
) -> None:
    await _beat(clock, faults, "a", 1)
    await clock.advance_to(clock.now_ms() + _LONG_MS)
    await _beat(clock, faults, "a", 3)
    assert told[1:] == [NodeHealth("a", alive=True)]
    assert faults.suspects() == ()
    await clock.advance_to(clock.now_ms() + _LONG_MS)
    assert told[2:] == [NodeHealth("a", alive=False)]


async def test_a_report_counts_at_once_and_once(
    faults: FaultDetector, told: list[NodeHealth]
) -> None:
    await faults.report("a")
    await faults.report("a")
    assert told == [NodeHealth("a", alive=False)]
    assert faults.suspects() == ("a",)


async def test_a_forgotten_node_is_not_watched(
    clock: VirtualClock, faults: FaultDetector, told: list[NodeHealth]
) -> None:
    await faults.heartbeat("a")
    faults.forget("a")
    faults.forget("never heard of")
    await clock.advance_to(_LONG_MS)
    assert told == []
    await faults.report("b")
    faults.forget("b")
    assert faults.suspects() == ()


async def test_listeners_may_be_coroutine_functions(faults: FaultDetector) -> None:
    heard: list[NodeHealth] = []

    async def listener(health: NodeHealth) -> None:
        heard.append(health)

    faults.subscribe(listener)
    await faults.report("a")
    assert heard == [NodeHealth("a", alive=False)]


# --- of timeouts ----------------------------------------------------------------------------------


async def test_the_timeout_runs_from_the_last_heartbeat(clock: VirtualClock) -> None:
    faults = HeartbeatFaultDetector(clock, timeout_ms=5000)
    await faults.heartbeat("a")
    await clock.advance_to(3000)
    await faults.heartbeat("a")
    await clock.advance_to(7999)
    assert faults.suspects() == ()
    await clock.advance_to(8000)
    assert faults.suspects() == ("a",)


async def test_suspected_nodes_cost_no_timers(clock: VirtualClock) -> None:
    faults = HeartbeatFaultDetector(clock, timeout_ms=5000)
    await faults.heartbeat("a")
    await clock.run_until_idle()
    assert clock.next_ms() is None


def test_a_timeout_must_be_positive(clock: VirtualClock) -> None:
    with pytest.raises(ConfigurationError, match="'timeout_ms' is 0"):
        HeartbeatFaultDetector(clock, timeout_ms=0)
