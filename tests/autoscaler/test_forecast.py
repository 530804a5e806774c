"""Rolling forecasts: never a look ahead, calibrated, the same live and from a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.autoscaler import (
    DemandSeries,
    Forecaster,
    ForecastTable,
    Persistence,
    PredictiveScaler,
    Prophet,
    RollingSettings,
    ScalingPlan,
    SeasonalMean,
    SeasonalNaive,
    fill_gaps,
    forecaster_named,
    make_table,
)
from orchestrator.autoscaler.forecast import calibrate, carry_forward, choose
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.types import ScalingDirection
from tests.engine.builders import job, node, stage

_DAY = 48
_SETTINGS = RollingSettings(carry=40, recent=20, memory=60, local=6, least=10)
_NAIVE = (Persistence(), SeasonalNaive(), SeasonalMean(days=3))


def _series(days: int = 6, noise: float = 6.0, seed: int = 0) -> DemandSeries:
    """A daily wave with noise, half-hourly."""
    t = np.arange(days * _DAY)
    wave = 100.0 + 40.0 * np.sin(2.0 * np.pi * t / _DAY)
    values = wave + np.random.default_rng(seed).normal(0.0, noise, len(t))
    return DemandSeries("wave", np.maximum(values, 0.0), 1800, "GPUs")


# --- no look ahead -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forecasters", [_NAIVE, (Persistence(), Prophet(refit_every=7))], ids=["naive", "prophet"]
)
@pytest.mark.parametrize("poison", [1e12, 0.0])
def test_rolling_origins_never_look_ahead(
    forecasters: tuple[Forecaster, ...], poison: float
) -> None:
    series = _series(days=4)
    first, cut = 2 * _DAY, 3 * _DAY + 5
    poisoned = series.values.copy()
    poisoned[cut:] = poison
    other = DemandSeries("wave", poisoned, 1800)
    options = {"first": first, "levels": (0.1, 0.9), "settings": _SETTINGS}
    table = make_table(series, forecasters, 3, **options)
    same = make_table(other, forecasters, 3, **options)
    known = slice(0, cut - first)
    for name in ("points", "sigma"):
        np.testing.assert_array_equal(getattr(table, name)[:, known], getattr(same, name)[:, known])
    for name in ("winner", "bands"):
        np.testing.assert_array_equal(getattr(table, name)[known], getattr(same, name)[known])
    assert not np.array_equal(table.points[:, cut - first :], same.points[:, cut - first :])


class _Recorder:
    """A forecaster that notes what it was shown."""

    name, refit_every = "recorder", 5

    def __init__(self) -> None:
        self.seen: list[int] = []

    def fit(self, past, day):
        self.seen.append(len(past))
        assert np.isfinite(past).all()
        return Persistence().fit(past, day)


def test_a_fit_sees_its_origin_and_no_more() -> None:
    recorder = _Recorder()
    table = make_table(_series(days=3), (recorder,), 2, first=50, settings=_SETTINGS)
    assert recorder.seen == list(range(51, 3 * _DAY + 1, 5))
    assert table.points.shape == (1, 3 * _DAY - 50, 3)


# --- parts, against plain twins ------------------------------------------------------------------

_KNOWN = st.lists(st.floats(0.0, 100.0), min_size=8, max_size=30)


@pytest.mark.property
@settings(max_examples=20)
@given(known=_KNOWN, seed=st.integers(0, 99), window=st.integers(1, 12))
def test_carry_forward_and_choice_equal_their_twins(
    known: list[float], seed: int, window: int
) -> None:
    y = np.array(known)
    base = np.random.default_rng(seed).uniform(0.0, 100.0, (len(y), 3))
    point = carry_forward(y, base, window)
    for i in range(len(y)):
        for h in (1, 2):
            pairs = [
                (y[s] - base[s, 0], y[s + h] - base[s, h])
                for s in range(max(0, i - h - window + 1), i - h + 1)
            ]
            square = sum(a * a for a, _ in pairs)
            share = sum(a * b for a, b in pairs) / square if square > 0.0 else 0.0
            share = min(max(share, 0.0), 1.0)
            expected = max(base[i, h] + share * (y[i] - base[i, 0]), 0.0)
            assert point[i, h] == pytest.approx(expected, abs=1e-9)
    points = np.stack([point, np.maximum(base, 0.0)])
    winner = choose(y, points, window)
    for i in range(len(y)):
        for h in (1, 2):
            scores = [
                np.mean(
                    [abs(y[k] - p[k - h, h]) for k in range(max(h, i - window + 1), i + 1)] or [0]
                )
                for p in points
            ]
            assert scores[winner[i, h]] == pytest.approx(min(scores), abs=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("growing", [False, True])
def test_quantiles_cover_what_they_say(level: float, growing: bool) -> None:
    """Heavy-tailed noise, whose size also changes over time: far from a normal distribution."""
    rng = np.random.default_rng(7)
    n = 6000
    scale = np.exp(np.sin(np.arange(n) / 150.0)) if growing else np.ones(n)
    known = np.maximum(500.0 + 10.0 * scale * rng.standard_t(3, n), 0.0)
    point = np.full((n, 3), 500.0)
    options = RollingSettings(memory=400, local=24, least=40, floor=0.001)
    bands = calibrate(known, point, (level,), options)
    for h in (1, 2):
        upper = bands[500:-h, h, 0]
        covered = (known[500 + h :] <= upper).mean()
        assert covered == pytest.approx(level, abs=0.02)


def test_an_interval_is_symmetric_in_rank_and_ordered() -> None:
    table = make_table(_series(), _NAIVE, 2, first=0, settings=_SETTINGS)
    bands = table.bands[_DAY:]
    assert (np.diff(bands[:, 1:], axis=2) >= 0.0).all()
    assert (table.bands[:, 0] == _series().values[:, None]).all()


def test_prophet_finds_the_daily_wave() -> None:
    series = _series(days=5, noise=2.0)
    past, ahead = series.values[: 4 * _DAY], np.arange(4 * _DAY, 5 * _DAY)
    fitted = Prophet().fit(past, _DAY)
    error = np.abs(fitted.at(ahead) - series.values[ahead]).mean()
    assert error < 4.0
    assert 1.0 < fitted.sigma < 4.0


def test_seasonal_forecasters() -> None:
    past = np.arange(10.0)
    ticks = np.array([8, 9, 10, 12, 13, 17])
    naive = SeasonalNaive().fit(past, 4).at(ticks)
    np.testing.assert_array_equal(naive, [4, 5, 6, 8, 9, 9])
    two = SeasonalNaive(days=2).fit(past, 4).at(ticks)
    np.testing.assert_array_equal(two, [0, 1, 2, 4, 5, 9])
    mean = SeasonalMean(days=2).fit(past, 4).at(ticks[:4])
    np.testing.assert_array_equal(mean, [2, 3, 4, 6])
    short = SeasonalMean(days=2).fit(past[:3], 4).at(ticks[:2])
    np.testing.assert_array_equal(short, [2, 2])


# --- live ----------------------------------------------------------------------------------------


def test_live_equals_the_table() -> None:
    series = _series()
    table = make_table(series, _NAIVE, 2, first=0, levels=(0.9,), settings=_SETTINGS)
    plan = ScalingPlan(10.0, target_utilisation=0.9, tolerance=0.0)
    scaler = PredictiveScaler(
        plan, _NAIVE, day=_DAY, delay=2, level=0.9, settings=_SETTINGS, remember_days=3
    )
    for i, demand in enumerate(series.values):
        scaler.observe(demand)
        scaler.refit()
        ahead = scaler.forecast()
        assert ahead.point == pytest.approx(table.point[i, 2], abs=1e-9)
        assert ahead.forecaster == table.forecasters[table.winner[i, 2]]
        assert ahead.calibrated == bool(np.isfinite(table.bands[i]).all())
        if ahead.calibrated:
            assert ahead.upper == pytest.approx(table.bands[i, :, 0].max(), abs=1e-9)


def test_the_predictive_scaler_orders_before_the_demand_is_there() -> None:
    """A morning step that comes every day: from the fourth day on, nodes are there in time."""
    day = np.where((np.arange(_DAY) >= 16) & (np.arange(_DAY) < 40), 80.0, 20.0)
    plan = ScalingPlan(8.0, target_utilisation=0.95, tolerance=0.0, down_window_s=0.0)
    forecasters = (Persistence(), SeasonalNaive())
    daily = replace(_SETTINGS, recent=_DAY)
    scaler = PredictiveScaler(plan, forecasters, day=_DAY, delay=2, settings=daily)
    ordered = []
    for t, demand in enumerate(np.tile(day, 5)):
        scaler.observe(demand)
        scaler.refit()
        decision = scaler.decide(1_800_000 * t, 4)
        if t >= 4 * _DAY and decision.direction == ScalingDirection.UP:
            ordered.append(t - 4 * _DAY)
            assert decision.predicted_demand > 8.0 * 4 * 0.95
    assert min(ordered) == 14  # two ticks ahead of the step at 16


def test_fitting_is_never_part_of_a_decision() -> None:
    scaler = PredictiveScaler(ScalingPlan(1.0), (_Recorder(),), day=_DAY, delay=1)
    with pytest.raises(ValidationError, match="not fitted"):
        scaler.forecast()
    scaler.observe(1.0)
    assert scaler.refit_due() == (0,)
    scaler.refit()
    for _ in range(4):
        scaler.observe(1.0)
        scaler.decide(0, 1)
        assert scaler.refit_due() == ()
    scaler.observe(1.0)
    assert scaler.refit_due() == (0,)
    with pytest.raises(ValidationError, match="is nan at tick 6"):
        scaler.observe(float("nan"))


# --- tables and series: what is wrong, and what to do --------------------------------------------


def test_a_table_is_stored_whole_and_knows_its_series(tmp_path: Path) -> None:
    series = _series(days=3)
    table = make_table(series, _NAIVE, 2, first=10, settings=_SETTINGS)
    table.save(tmp_path / "sub" / "wave.npz")
    back = ForecastTable.load(tmp_path / "sub" / "wave.npz")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["wave.npz"]
    for name in ("points", "winner", "bands", "sigma"):
        np.testing.assert_array_equal(getattr(table, name), getattr(back, name))
    assert (back.forecasters, back.levels, back.first) == (table.forecasters, table.levels, 10)
    back.require_series(series)
    with pytest.raises(ValidationError, match="make a table of this series"):
        back.require_series(_series(days=3, seed=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.9, 20, 30, 2), "20 .. 29 is not covered: the table has ticks 24 .. 143"),
        ((0.9, 100, 145, 2), "100 .. 144 is not covered"),
        ((0.9, 100, 120, 3), "of 3 ticks is not covered: the table has 2"),
        ((0.33, 100, 120, 2), "0.33 is missing"),
        ((0.9, 25, 120, 2), "no quantiles yet at tick 25"),
    ],
)
def test_a_table_says_what_it_does_not_cover(
    arguments: tuple[float, int, int, int], message: str
) -> None:
    table = make_table(_series(days=3), _NAIVE, 2, first=24, settings=_SETTINGS)
    assert table.upper(0.9, 100, 120, 2).shape == (20, 3)
    with pytest.raises(ValidationError) as caught:
        table.upper(*arguments)
    assert message in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(ValidationError, match="is no table"):
        ForecastTable.load(tmp_path / "bad.npz")
    with pytest.raises(ValidationError, match="does not exist"):
        ForecastTable.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "have shape (0,)"),
        ([1.0, float("nan"), 2.0], "have 1 gaps, the first at tick 1"),
        ([1.0, 2.0, -0.5], "are -0.5 at tick 2"),
    ],
)
def test_series_without_gaps_only(values: list[float], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DemandSeries("broken", np.array(values), 600)
    assert message in str(caught.value)
    with pytest.raises(ValidationError, match="must divide a day"):
        DemandSeries("odd", np.ones(3), 700)


def test_gaps_are_filled_from_their_past() -> None:
    nan = float("nan")
    np.testing.assert_array_equal(fill_gaps(np.array([1, nan, nan, 4, nan]), 2), [1, 1, 1, 4, 4])
    with pytest.raises(ValidationError, match="more than 1 ticks from tick 1 on"):
        fill_gaps(np.array([1, nan, nan, 4]), 1)
    with pytest.raises(ValidationError, match="begin with a gap"):
        fill_gaps(np.array([nan, 1.0]), 5)


def test_wrong_names_and_options() -> None:
    with pytest.raises(ConfigurationError, match="choose from persistence"):
        forecaster_named("oracle")
    with pytest.raises(ConfigurationError, match="colour"):
        forecaster_named("prophet", colour=1)
    with pytest.raises(ConfigurationError, match="'memory' must be at least 1"):
        RollingSettings(memory=0)
    with pytest.raises(ConfigurationError, match="'level' in"):
        PredictiveScaler(ScalingPlan(1.0), _NAIVE, day=1, delay=1, level=1.0)
    with pytest.raises(ValidationError, match="an origin within 0"):
        make_table(_series(), _NAIVE, 1, first=10_000)


@pytest.mark.parametrize("past", [[0.0], [3.5], [1e6]])
def test_prophet_answers_a_single_value_with_it(past: list[float]) -> None:
    fitted = Prophet().fit(np.array(past), _DAY)
    assert fitted.at(np.arange(3)).tolist() == past * 3
    assert np.isnan(fitted.sigma)


@pytest.mark.parametrize("past", [[2.0, 2.0], [0.0, 0.0, 0.0]])
def test_prophet_is_fitted_to_two_values(past: list[float]) -> None:
    fitted = Prophet().fit(np.array(past), _DAY)
    assert fitted.at(np.arange(len(past), len(past) + 2)) == pytest.approx([past[0]] * 2)
    assert fitted.sigma >= 0.0


@pytest.mark.parametrize("forecasters", [(Prophet(),), (Persistence(), Prophet(refit_every=1))])
async def test_the_first_decision_of_a_cluster_is_one(forecasters: tuple[Forecaster, ...]) -> None:
    scaler = PredictiveScaler(ScalingPlan(4.0, max_size=4), forecasters, day=24, delay=1)
    s = stage(node("n0"), autoscaler=scaler)
    await s.orchestrator.submit_job(job("a", gpus_per_worker=3))
    decisions = [await s.orchestrator.auto_scale_cluster() for _ in range(3)]
    assert [decision.predicted_demand for decision in decisions] == pytest.approx([3.0] * 3)
