"""Demand of services: the series themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.workloads.services import (
    GapFill,
    ServiceSeries,
)
from envs.workloads.services.series import fill_gaps
from orchestrator.errors import ValidationError


def series(rates: object, tick_s: float = 60.0) -> ServiceSeries:
    array = np.atleast_2d(np.array(rates, np.float32))
    return ServiceSeries(tick_s, tuple("abcdef"[: len(array)]), array)


@pytest.mark.parametrize(
    ("tick_s", "names", "rates", "words"),
    [
        (0.0, ("a",), [[1.0]], "'tick_s' is 0.0"),
        (60.0, (), np.zeros((0, 3)), "'rates' has shape"),
        (60.0, ("a",), np.zeros((1, 0)), "'rates' has shape"),
        (60.0, ("a",), [1.0, 2.0], "'rates' has shape"),
        (60.0, ("a", "b"), [[1.0]], "'names' are 2 for 1 rows"),
        (60.0, ("a", "a"), [[1.0], [2.0]], "'names' are 2 for 2"),
        (60.0, ("a", "b"), [[1.0, 2.0], [1.0, -2.0]], "of service 'b' in tick 1 is negative"),
        (60.0, ("a",), [[1.0, np.nan, np.nan]], r"'a' in tick 1 is a gap \(2 in all\); choose how"),
        (60.0, ("a",), [[np.inf]], "is a gap"),
    ],
)
def test_what_a_series_refuses(tick_s, names, rates, words) -> None:
    with pytest.raises(ValidationError, match=words):
        ServiceSeries(tick_s, names, np.array(rates, np.float32))


def test_nobody_can_change_a_series() -> None:
    source = np.ones((1, 3), np.float64)
    made = ServiceSeries(60.0, ("a",), source)
    source[0, 0] = 9.0
    assert made.rates.tolist() == [[1.0, 1.0, 1.0]]
    assert made.rates.dtype == np.float32
    assert made.address == made.rates.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        made.rates[0, 0] = 2.0


def test_parts_and_choices() -> None:
    made = series([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert made.part(1, 3).rates.tolist() == [[2, 3], [6, 7]]
    assert made.part(1, 3).rates.flags.c_contiguous
    assert made.select(["b"]).rates.tolist() == [[5, 6, 7, 8]]
    assert made.scaled(2.0).rates[0].tolist() == [2, 4, 6, 8]
    with pytest.raises(ValidationError, match=r"4 ticks, and \[2, 5\)"):
        made.part(2, 5)
    with pytest.raises(ValidationError, match=r"do not include \['x'\]"):
        made.select(["x"])


def test_resampling() -> None:
    made = series([[1, 3, 5, 7, 9]], 60.0)
    assert made.resampled(120.0).rates.tolist() == [[2, 6]]  # the rest fills no tick
    assert made.resampled(30.0).rates.tolist() == [[1, 1, 3, 3, 5, 5, 7, 7, 9, 9]]
    assert made.resampled(90.0).rates[0] == pytest.approx([5 / 3, 13 / 3, 23 / 3])
    with pytest.raises(ValidationError, match="less than one tick of 400 s"):
        made.resampled(400.0)


@given(
    st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=30),
    st.sampled_from([10.0, 25.0, 60.0, 70.0, 90.0, 600.0]),
)
def test_resampling_conserves_requests(rates, tick_s) -> None:
    made = series([rates])
    if made.ticks * 60.0 < tick_s:
        return
    other = made.resampled(tick_s)
    until_s = other.ticks * tick_s
    exact = sum(r * min(max(until_s - 60.0 * k, 0.0), 60.0) for k, r in enumerate(rates))
    assert other.rates.sum(dtype=np.float64) * tick_s == pytest.approx(exact, rel=1e-4, abs=1e-3)


def test_gaps_are_filled_as_chosen() -> None:
    rates = np.array([[0.0, 2.0, 0.0, 0.0, 8.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    missing = np.array([1, 0, 1, 1, 0, 1], bool)
    assert fill_gaps(rates, missing, GapFill.ZERO).tolist() == rates.tolist()
    assert fill_gaps(rates, missing, GapFill.PREVIOUS)[0].tolist() == [2, 2, 2, 2, 8, 8]
    assert fill_gaps(rates, missing, GapFill.INTERPOLATE)[0].tolist() == [2, 2, 4, 6, 8, 8]
