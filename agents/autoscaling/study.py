"""Reactive against predictive scaling: tuned on the first part of a series, judged on the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from agents.autoscaling.store import Bases
from orchestrator.autoscaler import (
    DemandSeries,
    FleetAccount,
    Forecaster,
    ForecastTable,
    RollingSettings,
    ScalingPlan,
    replay,
)
from orchestrator.autoscaler.table import DEFAULT_LEVELS, table_from_bases
from orchestrator.errors import ConfigurationError

__all__ = ["Outcome", "Study", "judge_series", "study_series"]

_NORMAL_90 = 1.2815515655446004
_FOLLOWED = "followed"


@dataclass(frozen=True)
class Study:
    """How scalers are tuned and judged.

    Parameters
    ----------
    delays : mapping of int to tuple of int
        Provisioning delays, ticks, by the length of a tick, s.
    first_days, tune_days : mapping of int to int
        By the length of a tick: the day of the first origin, and of the first tick that scalers are
        tuned on.
    test_from : float
        Share of a series after which scalers are judged.
    units : int
        Nodes that the mean demand of the first part keeps busy: the size of a node.
    short_share : float
        Share of ticks at which demand may be above capacity, for the reactive scaler to count as
        well tuned.
    budget : float
        Node hours that the predictive scaler may use on the tuning part, relative to the reactive
        one; below what is allowed in the end, because demand drifts.
    utilisations, holds : tuple
        Targets, and ticks that the highest demand is held on the way down, to choose from.
    levels : tuple of float
        Quantiles to choose from.
    """

    delays: dict[int, tuple[int, ...]]
    first_days: dict[int, int]
    tune_days: dict[int, int]
    test_from: float = 0.5
    units: int = 40
    short_share: float = 0.05
    budget: float = 1.07
    utilisations: tuple[float, ...] = tuple(round(0.5 + 0.01 * k, 2) for k in range(51))
    holds: tuple[int, ...] = (0, 2, 5, 11)
    levels: tuple[float, ...] = DEFAULT_LEVELS[1:]

    def __post_init__(self) -> None:
        """Check that the parts are in order."""
        delays = {tick: tuple(ticks) for tick, ticks in self.delays.items()}
        object.__setattr__(self, "delays", delays)
        if not 0.0 < self.test_from < 1.0 or not 0.0 <= self.short_share < 1.0 or self.units < 1:
            raise ConfigurationError(
                "autoscaling study: 'test_from' is in (0, 1), 'short_share' in [0, 1), and "
                "'units' at least 1"
            )
        if set(self.levels) - set(DEFAULT_LEVELS):
            raise ConfigurationError(f"autoscaling study: 'levels' are some of {DEFAULT_LEVELS}")

    def first(self, series: DemandSeries) -> int:
        """Tick of the first origin of a series."""
        return self._of(self.first_days, series) * series.day

    def tune(self, series: DemandSeries) -> int:
        """First tick that scalers are tuned on."""
        return self._of(self.tune_days, series) * series.day

    def test(self, series: DemandSeries) -> int:
        """First tick that they are judged on."""
        return int(self.test_from * len(series))

    def delays_of(self, series: DemandSeries) -> tuple[int, ...]:
        """Provisioning delays to study, ticks."""
        if series.tick_s not in self.delays:
            raise ConfigurationError(f"autoscaling study: no 'delays' for {series.tick_s} s")
        return self.delays[series.tick_s]

    @staticmethod
    def _of(days: dict[int, int], series: DemandSeries) -> int:
        if series.tick_s not in days:
            raise ConfigurationError(f"autoscaling study: no days for ticks of {series.tick_s} s")
        return days[series.tick_s]


@dataclass(frozen=True)
class Choice:
    """Parameters of a scaler: a quantile (0: reactive), a target use, and ticks of holding."""

    level: float
    utilisation: float
    hold: int


@dataclass(frozen=True)
class Outcome:
    """One scaler on the test part of one series.

    ``reactive_events`` and ``node_hours`` are those of :class:`FleetAccount`; ``tuned_events`` and
    ``tuned_hours`` the same on the part that its choice was made on.
    """

    series: str
    delay_s: int
    scaler: str
    choice: Choice
    ticks: int
    reactive_events: int
    short_ticks: int
    unserved: float
    node_hours: float
    changes: int
    tuned_events: int
    tuned_hours: float


class _Bench:
    """One series with one delay: replays scalers on the tuning or the test part."""

    def __init__(self, study: Study, series: DemandSeries, table: ForecastTable, delay: int):
        self.study, self.series, self.table, self.delay = study, series, table, delay
        self.tune, self.test = study.tune(series), study.test(series)
        self.unit = float(series.values[: self.test].mean()) / study.units
        self._ahead: dict[tuple[float, bool], NDArray[np.float64]] = {}

    def part(self, testing: bool) -> tuple[int, int]:
        return (self.test, len(self.series)) if testing else (self.tune, self.test)

    def run(self, choice: Choice, *, testing: bool) -> FleetAccount:
        start, stop = self.part(testing)
        demand = self.series.values[start:stop]
        need = demand / choice.utilisation
        if choice.level > 0.0:
            need = np.maximum(need, self._upper(choice.level, testing))
        plan = ScalingPlan(
            self.unit,
            target_utilisation=1.0,
            min_size=0,
            tolerance=0.0,
            down_window_s=0.0,
            hold_s=float(choice.hold * self.series.tick_s),
        )
        return replay(demand, need, plan, tick_s=self.series.tick_s, delay=self.delay)

    def _upper(self, level: float, testing: bool) -> NDArray[np.float64]:
        key = (level, testing)
        if key not in self._ahead:
            quantiles = self.table.upper(level, *self.part(testing), self.delay)
            self._ahead[key] = quantiles.max(axis=1)
        return self._ahead[key]

    def outcome(self, scaler: str, choice: Choice) -> Outcome:
        tuned, judged = self.run(choice, testing=False), self.run(choice, testing=True)
        return Outcome(
            series=self.series.name,
            delay_s=self.delay * self.series.tick_s,
            scaler=scaler,
            choice=choice,
            ticks=len(judged.here),
            reactive_events=judged.reactive_events,
            short_ticks=judged.short_ticks,
            unserved=judged.unserved,
            node_hours=judged.node_hours,
            changes=judged.changes,
            tuned_events=tuned.reactive_events,
            tuned_hours=tuned.node_hours,
        )


def _fewest(bench: _Bench, choices: Sequence[Choice], most_hours: float) -> Choice:
    """The choice with the fewest reactive events within a budget; of equals the cheapest."""
    accounts = [(bench.run(choice, testing=False), choice) for choice in choices]
    within = [x for x in accounts if x[0].node_hours <= most_hours] or [
        min(accounts, key=lambda x: x[0].node_hours)
    ]
    return min(within, key=lambda x: (x[0].reactive_events, x[0].node_hours))[1]


def judge_series(
    study: Study, series: DemandSeries, table: ForecastTable, delay: int
) -> list[Outcome]:
    """Tune scalers on the first part of a series, and judge them on the rest.

    Parameters
    ----------
    study : Study
    series : DemandSeries
    table : ForecastTable
        Of this very series.
    delay : int
        Provisioning delay, ticks.

    Returns
    -------
    list of Outcome
        ``reactive``: the cheapest that is short at no more than ``short_share`` of the ticks.
        ``reactive, same budget``: the reactive scaler with the fewest events at the node hours
        that the predictive one may use. ``predictive``: the fewest events within the budget.
        ``predictive, no extra hours``: the same with a budget of 1.
    """
    table.require_series(series)
    bench = _Bench(study, series, table, delay)
    reactive = [Choice(0.0, u, hold) for u, hold in product(study.utilisations, study.holds)]
    accounts = [(bench.run(choice, testing=False), choice) for choice in reactive]
    most_short = study.short_share * len(accounts[0][0].here)
    good = [x for x in accounts if x[0].short_ticks <= most_short]
    if not good:
        good = [min(accounts, key=lambda x: x[0].short_ticks)]
    hours, plain = min(
        ((account.node_hours, choice) for account, choice in good), key=lambda x: x[0]
    )
    targets = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
    predictive = [Choice(*x) for x in product(study.levels, targets, study.holds)]
    return [
        bench.outcome("reactive", plain),
        bench.outcome("reactive, same budget", _fewest(bench, reactive, study.budget * hours)),
        bench.outcome("predictive", _fewest(bench, predictive, study.budget * hours)),
        bench.outcome("predictive, no extra hours", _fewest(bench, predictive, hours)),
    ]


def forecast_errors(
    study: Study, series: DemandSeries, table: ForecastTable, bases: Sequence[Bases]
) -> Iterator[dict[str, object]]:
    """Errors on the test part, by forecaster and delay: relative to persistence, and coverage.

    ``own_80`` is how often the demand was within the forecaster's own 80 % interval (normal, its
    own standard deviation, around its structure), ``calibrated_80`` within the calibrated one.
    """
    start = study.test(series) - table.first
    for delay in study.delays_of(series):
        actual = series.values[table.first + start + delay :]
        rows = slice(start, start + len(actual))
        points = {name: table.points[f, rows, delay] for f, name in enumerate(table.forecasters)}
        points[_FOLLOWED] = table.point[rows, delay]
        reference = float(np.abs(actual - points[table.forecasters[0]]).mean())
        low, high = (table.bands[rows, delay, table.levels.index(level)] for level in (0.1, 0.9))
        for name, point in points.items():
            entry: dict[str, object] = {
                "series": series.name,
                "delay_s": delay * series.tick_s,
                "forecaster": name,
                "mean_absolute_error": float(np.abs(actual - point).mean()),
                "ratio_to_persistence": float(np.abs(actual - point).mean()) / reference,
            }
            if name == _FOLLOWED:
                entry["calibrated_80"] = float(((low <= actual) & (actual <= high)).mean())
            else:
                f = table.forecasters.index(name)
                entry["followed_share"] = float((table.winner[rows, delay] == f).mean())
                base, sigma = bases[f]
                if np.isfinite(sigma).all():
                    miss = np.abs(actual - base[rows, delay])
                    entry["own_80"] = float((miss <= _NORMAL_90 * sigma[rows]).mean())
            yield entry


def study_series(
    study: Study,
    series: DemandSeries,
    forecasters: Sequence[Forecaster],
    bases: Sequence[Bases],
    *,
    judge: bool = True,
) -> tuple[list[Outcome], list[dict[str, object]], ForecastTable]:
    """Everything about one series: scalers by delay, forecast errors, and the forecast table.

    Without ``judge`` it is the table alone.
    """
    settings = rolling_settings(series)
    names = tuple(one.name for one in forecasters)
    table = table_from_bases(series, names, bases, first=study.first(series), settings=settings)
    if not judge:
        return [], [], table
    outcomes = [
        outcome
        for delay in study.delays_of(series)
        for outcome in judge_series(study, series, table, delay)
    ]
    return outcomes, list(forecast_errors(study, series, table, bases)), table


def rolling_settings(series: DemandSeries) -> RollingSettings:
    """Windows in days rather than ticks: three to carry from, one to compete on, five to learn."""
    day = series.day
    return RollingSettings(carry=max(3 * day, 72), recent=max(day, 72), memory=max(5 * day, 480))
