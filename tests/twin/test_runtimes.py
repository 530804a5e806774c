"""Run times that are drawn: survival against a slow twin, like jobs, bounds, common lots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.workloads.table import blank_requests
from orchestrator.errors import ConfigurationError
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import Past
from orchestrator.twin.runtimes import RunTimes, survival_of

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def past(count: int, seed: int = 0, days: float = 3.0, **columns: Any) -> Past:
    """Jobs whose estimates are four times too long, and a tenth of which still run."""
    rng = np.random.default_rng(seed)
    asks = blank_requests(count)
    now_ms = round(days * DAY_MS)
    asks["submit_ms"] = np.sort(rng.integers(0, now_ms, count))
    asks["requested_ms"] = 4 * HOUR_MS
    for name, values in columns.items():
        asks[name] = values
    work = np.rint(HOUR_MS * rng.uniform(0.8, 1.2, count)).astype(np.int64)
    ended = rng.random(count) < 0.9
    work[~ended] //= 2
    return Past(np.arange(count), asks, work, ended, 0, now_ms)


def slow_survival(ratios: NDArray[np.float64], ended: NDArray[np.bool_], ratio: float) -> float:
    """Kaplan and Meier's product, time by time."""
    left = 1.0
    for time in sorted(set(ratios[ended & (ratios <= ratio)].tolist())):
        left *= 1.0 - np.sum(ended & (ratios == time)) / np.sum(ratios >= time)
    return left


@pytest.mark.property
def test_survival_is_that_of_a_slow_twin() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        count = int(rng.integers(1, 30))
        ratios, ended = rng.integers(1, 9, count) / 8.0, rng.random(count) < 0.7
        if not ended.any():
            continue
        found = survival_of(ratios, ended)
        for ratio in (0.0, 0.3, 0.5, 0.875, 2.0):
            assert found.beyond(ratio) == pytest.approx(slow_survival(ratios, ended, ratio))
        lots = rng.uniform(1e-6, 1.0, 400)
        drawn = found.draw(0.25, lots)
        assert (drawn > 0.25).all()
        if ended[ratios == ratios.max()].all():  # no tail has to be guessed
            assert np.isin(drawn, ratios).all()
            for ratio in (0.5, 0.75):
                share = float((drawn > ratio).mean())
                expected = found.beyond(ratio) / found.beyond(0.25) if found.beyond(0.25) else 0.0
                assert share == pytest.approx(expected, abs=0.1)


def test_run_times_follow_those_of_the_like_and_what_was_done() -> None:
    """Short ones of one tenant, long ones of another; who has worked long is not about to start."""
    tenants = np.arange(400) % 2
    known = past(400, tenant=tenants)
    known.work_ms[(tenants == 1) & known.ended] *= 3
    times = RunTimes(known)
    asks = blank_requests(3)
    asks["requested_ms"], asks["tenant"] = 4 * HOUR_MS, [0, 1, 1]
    lots = np.random.default_rng(1).uniform(1e-6, 1.0, (2, 300, 3))
    drawn = times.draw(asks, np.array([0, 0, 2 * HOUR_MS]), lots) / HOUR_MS
    assert np.median(drawn[:, 0]) == pytest.approx(1.0, abs=0.1)
    assert np.median(drawn[:, 1]) == pytest.approx(3.0, abs=0.3)
    assert np.median(drawn[:, 2]) == pytest.approx(1.0, abs=0.3)  # that are left
    limited = RunTimes(known, limited=True).draw(asks, np.array([0, 0, 3 * HOUR_MS]), lots)
    assert limited[:, 2].max() <= HOUR_MS


def test_without_a_past_answers_are_wide_and_nobody_comes() -> None:
    asks = blank_requests(1)
    asks["requested_ms"] = 10 * HOUR_MS
    nobody = Past(np.zeros(1, np.int64), asks, np.zeros(1, np.int64), np.zeros(1, bool), 0, 0)
    futures = Futures(nobody, TwinConfig(futures=400))
    whole = futures.whole(np.zeros(1, np.int32))[:, 0] / HOUR_MS
    low, high = np.quantile(whole, (0.1, 0.9))
    assert low == pytest.approx(1.0, abs=0.5)
    assert high == pytest.approx(9.0, abs=0.5)
    assert len(futures.arrivals(0, DAY_MS)) == 0
    told = futures.sources(futures.config.futures, DAY_MS)
    assert (told.same_time_of, told.hours_ahead, told.ended_jobs) == ("none", 0.0, 0)


def test_arrivals_are_whole_stretches_of_the_same_hour_and_the_same_again() -> None:
    known = past(3000, days=10.0)
    futures = Futures(known, TwinConfig(futures=30))
    came = [futures.arrivals(f, 3 * DAY_MS) for f in range(30)]
    again = Futures(known, TwinConfig(futures=30)).arrivals(7, 3 * DAY_MS)
    assert np.array_equal(came[7], again)
    assert len({one["submit_ms"].tobytes() for one in came}) > 20
    for one in came:
        submits = one["submit_ms"] - known.now_ms
        assert (np.diff(submits) >= 0).all()
        assert submits[0] >= 0
        assert submits[-1] < 3 * DAY_MS
        for day in range(3):  # each day's jobs are those of one day, shifted by whole days
            mine = submits[(submits >= day * DAY_MS) & (submits < (day + 1) * DAY_MS)]
            back = {
                int(offset)
                for offset in range(1, 14)
                if np.isin(mine + known.now_ms - offset * DAY_MS, known.asks["submit_ms"]).all()
            }
            assert back, day
        assert (one["duration_ms"] >= 1).all()
    shorter = futures.arrivals(7, DAY_MS)
    assert np.array_equal(shorter, came[7][: len(shorter)])  # a longer look changes nothing before


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="'futures' is 1; give a number from 2"):
        TwinConfig(futures=1)
