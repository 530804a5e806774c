"""What is seen of services at a tick: counts of the mesh since the last one, and forecasts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.autoscaler import Persistence, RollingSettings, ScalingPlan, SeasonalNaive
from orchestrator.autoscaler.policies import PredictiveScaler
from orchestrator.autoscaler.services import RateForecasting, ServiceWatch, service_plan
from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh import ServiceSpec
from orchestrator.mesh.policies import Latencies
from orchestrator.messages import ServiceSeen
from tests.engine.builders import Stage, job, node, stage

_TICK_MS = 15_000


@pytest.mark.property
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_percentile_is_told_within_its_class(values: list[float], percentile: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.note(value)
    exact = sorted(values)[math.ceil(percentile * len(values)) - 1]
    told = latencies.take(percentile)
    assert exact * (1 - 1e-9) <= told <= max(math.ceil(exact), exact * 2**0.125 * (1 + 1e-9))
    assert latencies.take(percentile) == 0.0  # it is forgotten


async def _stage(**options: object) -> Stage:
    """A service of two replicas; one answer in three is late, and one request still waits."""
    s = stage(node("n0"), schedule_on_events=True, **options)
    s.orchestrator.mesh.add_service(
        ServiceSpec("chat", 200.0, max_replicas=6, objective_ms=250.0, percentile=0.5)
    )
    chat = job("chat", kind=JobKind.SERVICE, elastic=True, num_workers=2, max_workers=4)
    chat = replace(chat, max_duration_hours=1e4)
    await s.orchestrator.submit_job(chat)
    await s.clock.advance_to(s.clock.now_ms())
    return s


async def test_a_tick_tells_what_was_counted_since_the_last_one() -> None:
    s = await _stage()
    await s.wait(1)  # its replicas have started
    watch, asked = s.orchestrator._ticks._watch, set[asyncio.Task[object]]()
    s.orchestrator._replicas.refresh(())
    assert await watch.look() == (0, ())
    begin_ms = s.clock.now_ms()

    async def ask(took_ms: int) -> None:
        async def carry(address: str, request: object) -> str:
            await s.clock.sleep_until(s.clock.now_ms() + took_ms)
            return "done"

        await s.orchestrator.mesh.route("chat", None, carry)

    for took_ms in (200, 200, 300) * 10:
        asked.add(asyncio.ensure_future(ask(took_ms)))
        await s.clock.advance_to(s.clock.now_ms() + 400)
    await s.clock.advance_to(begin_ms + _TICK_MS)
    elapsed_ms, (seen,) = await watch.look()
    assert elapsed_ms == _TICK_MS
    assert seen.rate_rps == seen.ahead_rps == 30 / 15
    assert seen.missed_share == pytest.approx(1 / 3)
    assert seen.latency_ms == pytest.approx(200.0, rel=0.1)
    assert (seen.ready, seen.backlog, seen.breaker) == (2, 0.0, BreakerMode.CLOSED)
    assert (seen.sizing.min_size, seen.sizing.max_size) == (1, 4)  # of rules and job
    address = s.orchestrator.mesh.discover("chat")[0]
    s.orchestrator.mesh.shut_out("chat", address)
    await s.clock.advance_to(s.clock.now_ms() + _TICK_MS)
    _, (quiet,) = await watch.look()
    assert (quiet.rate_rps, quiet.missed_share, quiet.latency_ms) == (0.0, 0.0, 0.0)
    assert quiet.breaker == BreakerMode.OPEN


async def test_the_rate_to_prepare_for_is_that_of_the_predictive_scaler() -> None:
    settings = RollingSettings(carry=8, recent=8, memory=16, local=4, least=4)
    forecasters = (Persistence(), SeasonalNaive())
    forecasting = RateForecasting(3600.0, forecasters, 0.9, settings)
    s = await _stage(forecasting=forecasting)
    rates = [5.0 + 4.0 * math.sin(k * math.pi / 12) for k in range(60)]
    seen = await _looks(s, rates)
    spec = s.orchestrator.jobs["chat"]
    plan = service_plan(spec, s.orchestrator.mesh.spec("chat"))
    assert isinstance(plan, ScalingPlan)
    delay = math.ceil(spec.regroup_seconds / 3600) + 1  # until a replica has started, and a tick
    twin = PredictiveScaler(plan, forecasters, day=24, delay=delay, level=0.9, settings=settings)
    for one in seen:
        twin.observe(one.rate_rps)
        twin.refit()
        assert one.ahead_rps == max(twin.forecast().upper, 0.0)
    assert any(one.ahead_rps > 1.05 * one.rate_rps for one in seen)
    with pytest.raises(ConfigurationError, match="'tick_s' is 0"):
        RateForecasting(0.0)


async def _looks(s: Stage, rates: Sequence[float]) -> list[ServiceSeen]:
    """What is seen hour by hour."""
    watch, found = s.orchestrator._ticks._watch, list[ServiceSeen]()
    assert isinstance(watch, ServiceWatch)
    assert isinstance(s.clock, VirtualClock)
    await watch.look()
    for rate_rps in rates:
        s.orchestrator.mesh.counts("chat").offered += round(3600 * rate_rps)
        await s.clock.advance_to(s.clock.now_ms() + 3_600_000)
        found += (await watch.look())[1]
    return found
