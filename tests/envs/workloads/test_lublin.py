"""The generator against its slow twin, its formulas, and the authors' own sample.

``lublin_256.swf`` holds 10,000 jobs that the authors drew from the same model. Its few longest gaps
happen to be short: its offered load of 1.06 lies 1.8 standard deviations above what such samples
have on average (0.95 +- 0.06). So load and mean gap are only compared within that spread, while
everything that a tail does not decide must agree closely.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.workloads import LublinParameters, Trace, lublin_feitelson, read_swf
from envs.workloads.generators.lublin import daily_weights, on_daily_clock
from orchestrator.errors import ConfigurationError


@pytest.fixture(scope="module")
def drawn() -> Trace:
    return lublin_feitelson(100_000, 7)


@pytest.fixture(scope="module")
def sample(traces_dir: Path) -> Trace:
    return read_swf(traces_dir / "swf" / "lublin_256.swf.gz")


def sizes(trace: Trace) -> np.ndarray:
    return trace.requests["cpu_milli"] // 1000


def run_s(trace: Trace) -> np.ndarray:
    return trace.requests["duration_ms"] / 1000


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    grid = np.sort(np.concatenate((a, b)))
    upper_a = np.searchsorted(np.sort(a), grid, side="right") / len(a)
    upper_b = np.searchsorted(np.sort(b), grid, side="right") / len(b)
    return float(np.abs(upper_a - upper_b).max())


def _limit(a: np.ndarray, b: np.ndarray) -> float:
    """Distance that two samples of one distribution exceed once in a thousand times."""
    return 1.95 * np.sqrt(1 / len(a) + 1 / len(b))


def _even_gaps(submit_s: np.ndarray) -> np.ndarray:
    """ln of the gaps on the even clock: undo the daily cycle."""
    paid = np.concatenate(([0.0], np.cumsum(daily_weights(LublinParameters()))))
    days, rest = np.divmod(submit_s / 1800, 48)
    points = days * 48 + np.interp(rest, np.arange(49), paid)
    return np.log(np.maximum(np.diff(points, prepend=0.0) * 1800, 1.0))


def _restored_clock(sample: Trace) -> np.ndarray:
    """Arrival times on the clock of the authors' program, which adds gaps cut to whole seconds."""
    return sample.requests["submit_ms"] / 1000 + 0.5 * np.arange(1, len(sample) + 1)


def test_same_seed_same_trace() -> None:
    assert lublin_feitelson(500, 3) == lublin_feitelson(500, 3)
    assert lublin_feitelson(500, 3) != lublin_feitelson(500, 4)


def test_jobs_fit_the_machine_and_times_are_whole_seconds(drawn: Trace) -> None:
    r = drawn.requests
    assert drawn.nodes[0].cpu_cores == 256
    assert sizes(drawn).min() == 1
    assert sizes(drawn).max() == 256
    assert (r["duration_ms"] >= 1000).all()
    assert (r["duration_ms"] <= np.exp(12) * 1000).all()
    np.testing.assert_array_equal(r["requested_ms"], r["duration_ms"])
    assert not (r["submit_ms"] % 1000).any()
    assert not (r["duration_ms"] % 1000).any()


@pytest.mark.parametrize("processors", [4, 5, 8, 16, 100, 1024, 2_000_000])
def test_other_machines(processors: int) -> None:
    drawn = sizes(lublin_feitelson(2000, 1, processors=processors))
    assert drawn.max() <= processors
    assert (drawn > processors / 4).any()
    assert 0.2 < (drawn == 1).mean() < 0.3


def test_shares_are_those_of_the_model(drawn: Trace) -> None:
    p = LublinParameters()
    size = sizes(drawn)
    assert (size == 1).mean() == pytest.approx(p.serial, abs=0.005)
    # Rounding makes some of the other sizes powers of two as well.
    assert p.serial + p.power_of_two < (size & (size - 1) == 0).mean() < 0.88
    # Long jobs' ln(run time) is gamma with mean 9.36 and deviation 0.53; short ones' mean is 3.95.
    largest = np.log(run_s(drawn)[size == 256])
    assert largest.mean() == pytest.approx(312 * 0.03, abs=0.05)
    assert largest.std() == pytest.approx(0.03 * np.sqrt(312), abs=0.05)


def test_daily_weights_have_their_peak_at_work_and_trough_before_dawn() -> None:
    weights = daily_weights(LublinParameters())
    assert weights.mean() == pytest.approx(1.0)
    assert 24 <= np.argmax(weights) <= 30
    assert 6 <= np.argmin(weights) <= 12


def test_daily_clock_agrees_with_paying_bucket_by_bucket() -> None:
    rng = np.random.default_rng(5)
    weights = rng.uniform(0.1, 2.0, 48)
    weights /= weights.mean()
    gaps = np.exp(rng.normal(6, 2, 3000))
    slow = []
    bucket, inside, days = 0, 0.0, 0  # where the clock stands: points paid inside the bucket
    for gap in gaps:
        points = inside + gap / 1800
        while points > weights[bucket]:
            points -= weights[bucket]
            bucket += 1
            if bucket == 48:
                bucket, days = 0, days + 1
        inside = points
        slow.append((days * 48 + bucket + inside / weights[bucket]) * 1800)
    np.testing.assert_allclose(on_daily_clock(gaps, weights), slow, rtol=0, atol=0.01)


def test_load_can_be_chosen() -> None:
    for load in (0.5, 1.1):
        assert lublin_feitelson(5000, 2, load=load).offered_load() == pytest.approx(load, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"jobs": 0, "seed": 0}, "'jobs'"),
        ({"jobs": 5, "seed": -1}, "'seed'"),
        ({"jobs": 5, "seed": 0, "processors": 3}, "'processors'"),
        ({"jobs": 5, "seed": 0, "load": 0.0}, "'load'"),
        ({"jobs": 1, "seed": 0, "load": 1.0}, "'load'"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        lublin_feitelson(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values", [{"serial": 1.5}, {"gap_scale": 0.0}, {"run_log_max": 5.0}, {"gap_log_max": 50.0}]
)
def test_bad_parameters(values: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        LublinParameters(**values)


@pytest.mark.traces
def test_sizes_and_run_times_match_the_sample(drawn: Trace, sample: Trace) -> None:
    for of in (sizes, run_s):
        a, b = of(drawn), of(sample)
        assert _distance(a, b) < _limit(a, b)
        assert a.mean() == pytest.approx(b.mean(), rel=0.05)
    levels = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
    ratio = np.quantile(run_s(drawn), levels) / np.quantile(run_s(sample), levels)
    assert np.abs(np.log(ratio)).max() < 0.1
    # How run time depends on size: the share of short jobs, size by size.
    for low, high in ((1, 1), (2, 8), (9, 32), (33, 64), (65, 256)):
        shares = [
            (run_s(t)[(sizes(t) >= low) & (sizes(t) <= high)] < 1500).mean()
            for t in (drawn, sample)
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.05)


@pytest.mark.traces
def test_gaps_match_the_sample(drawn: Trace, sample: Trace) -> None:
    a = _even_gaps(drawn.requests["submit_ms"] / 1000)
    b = _even_gaps(_restored_clock(sample))
    assert _distance(a, b) < _limit(a, b)
    assert a.mean() == pytest.approx(b.mean(), abs=0.05)
    assert a.std() == pytest.approx(b.std(), abs=0.05)
    # Gaps on the real clock, the daily cycle included.
    gaps = [np.diff(t.requests["submit_ms"]) / 1000 for t in (drawn, sample)]
    levels = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
    ratio = np.quantile(gaps[0], levels) / np.quantile(gaps[1], levels)
    assert np.abs(np.log(ratio)).max() < 0.12


@pytest.mark.traces
def test_daily_cycle_matches_the_sample(drawn: Trace, sample: Trace) -> None:
    profiles = []
    for submit_s in (drawn.requests["submit_ms"] / 1000, _restored_clock(sample)):
        hour = (submit_s // 3600).astype(int) % 24
        profiles.append(np.bincount(hour, minlength=24) / len(hour) * 24)
    # 10,000 jobs in 89 days of bursts leave each hour of the sample with an error of about 0.15.
    assert np.abs(profiles[0] - profiles[1]).max() < 0.45
    assert np.corrcoef(profiles)[0, 1] > 0.95


def _hourly(trace: Trace, weights: np.ndarray | None = None) -> np.ndarray:
    hour = (trace.requests["submit_ms"] // 3_600_000).astype(int)
    return np.bincount(hour, weights=weights).astype(float)


def _autocorrelation(series: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(series[:-lag], series[lag:])[0, 1])


@pytest.mark.traces
def test_burstiness_and_load_match_the_sample(sample: Trace) -> None:
    """The sample lies within the spread of equally long draws in every statistic."""

    def statistics(trace: Trace) -> dict[str, float]:
        jobs = _hourly(trace)
        work = _hourly(trace, sizes(trace) * run_s(trace))
        found = {
            "load": trace.offered_load(),
            "mean gap": trace.span_ms / 1000 / (len(trace) - 1),
            "CV of hourly jobs": jobs.std() / jobs.mean(),
            "Fano factor of hourly jobs": jobs.var() / jobs.mean(),
            "CV of hourly work": work.std() / work.mean(),
        }
        for lag in (1, 2, 3, 6, 12, 24):
            found[f"autocorrelation of jobs, {lag} h"] = _autocorrelation(jobs, lag)
            found[f"autocorrelation of work, {lag} h"] = _autocorrelation(work, lag)
        return found

    draws = [statistics(lublin_feitelson(10_000, seed)) for seed in range(60)]
    for name, value in statistics(sample).items():
        of_draws = np.array([draw[name] for draw in draws])
        distance = abs(value - of_draws.mean()) / of_draws.std()
        assert distance < 3.0, f"{name}: {value:.3f} is {distance:.1f} deviations off the draws"
