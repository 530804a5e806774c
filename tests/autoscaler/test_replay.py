"""The account of a scaler along a series, against a twin in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.autoscaler import ScalingPlan, hold_peak, replay
from orchestrator.errors import ValidationError


def _twin(demand, need, unit, delay, hold):
    """Orders as a list; every tick: arrivals, events, decision."""
    here, orders, events, served, paid = math.ceil(need[0] / unit - 1e-9), [], 0, [], []
    for t in range(len(demand)):
        here += sum(count for due, count in orders if due == t)
        orders = [(due, count) for due, count in orders if due > t and count > 0]
        served.append(here)
        total = here + sum(count for _, count in orders)
        up = math.ceil(need[t] / unit - 1e-9)
        down = math.ceil(max(need[max(0, t - hold) : t + 1]) / unit - 1e-9)
        if up > total:
            events += demand[t] > here * unit
            orders.append((t + delay, up - total))
        while here + sum(count for _, count in orders) > max(up, down):
            if orders and orders[-1][1] > 0:
                due, count = orders.pop()
                if count > 1:
                    orders.append((due, count - 1))
            else:
                here -= 1
        paid.append(here + sum(count for _, count in orders))
    return events, served, paid


@pytest.mark.property
@given(
    demand=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    headroom=st.sampled_from([1.0, 1.25, 2.0]),
    delay=st.integers(1, 4),
    hold=st.integers(0, 5),
)
def test_replay_equals_its_twin(demand: list[int], headroom: float, delay: int, hold: int) -> None:
    y = np.array(demand, np.float64)
    plan = ScalingPlan(
        2.0, target_utilisation=1.0, min_size=0, tolerance=0.0, down_window_s=0.0, hold_s=60 * hold
    )
    account = replay(y, y * headroom, plan, tick_s=60, delay=delay)
    events, served, paid = _twin(y, y * headroom, 2.0, delay, hold)
    assert account.reactive_events == events
    assert account.here.tolist() == served
    assert account.paid.tolist() == paid
    assert account.node_hours == pytest.approx(sum(paid) / 60.0)
    assert account.short_ticks == sum(y > 2.0 * np.array(served))


def test_a_forecast_that_is_right_needs_no_reactive_event() -> None:
    y = np.tile([10.0, 10.0, 10.0, 50.0, 50.0], 6)
    plan = ScalingPlan(10.0, target_utilisation=1.0, tolerance=0.0, down_window_s=0.0)
    late = replay(y, y, plan, tick_s=600, delay=2)
    ahead = np.array([max(y[t : t + 3]) for t in range(len(y))])
    timely = replay(y, ahead, plan, tick_s=600, delay=2)
    assert late.reactive_events == 6  # one for each step; what was ordered comes when it is over
    assert (timely.reactive_events, timely.short_ticks, timely.unserved) == (0, 0, 0.0)


def test_wrong_input() -> None:
    plan = ScalingPlan(1.0)
    with pytest.raises(ValidationError, match="one entry for each tick"):
        replay(np.ones(3), np.ones(2), plan, tick_s=60, delay=1)
    with pytest.raises(ValidationError, match="is 0 ticks"):
        replay(np.ones(3), np.ones(3), plan, tick_s=60, delay=0)
    with pytest.raises(ValidationError, match="at least 1"):
        hold_peak(np.ones(3), 0)
