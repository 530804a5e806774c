"""Reactive against predictive scaling: chosen on what is past, judged on what comes.

Forecasters are fitted along series in parallel processes, and what was made is kept: one file for
each (series, forecaster), named after the content that it was made from. A run that was cut short
goes on where it stopped, and a series or an option that changes is made anew.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agents.files import replacing
from orchestrator.autoscaler import (
    DemandSeries,
    FleetAccount,
    Forecaster,
    ForecastTable,
    RollingSettings,
    ScalingPlan,
    hold_peak,
    replay,
)
from orchestrator.autoscaler.forecast import structures
from orchestrator.autoscaler.table import DEFAULT_LEVELS
from orchestrator.errors import ConfigurationError

__all__ = [
    "Bases",
    "Choice",
    "Outcome",
    "Study",
    "forecast_errors",
    "judge_series",
    "make_bases",
    "played",
    "rolling_settings",
]


Bases = tuple[NDArray[np.float64], NDArray[np.float64]]


_VERSION = 1


_NORMAL_90 = 1.2815515655446004


_FOLLOWED = "followed"


_SLACK = 0.1  # how far one stretch may leave the budget to make up for earlier ones


_TARGETS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


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
    retune_days : mapping of int to int
        By the length of a tick: days after which scalers are chosen anew.
    test_from : float
        Share of a series after which scalers are judged.
    units : int
        Nodes that the mean demand of the first part keeps busy: the size of a node.
    short_share : float
        Share of ticks at which demand may be above capacity, for the reactive scaler to count as
        well tuned.
    budget : float
        Node hours that the predictive scaler may use, relative to the reactive one.
    utilisations, holds : tuple
        Targets, and ticks that the highest demand is held on the way down, to choose from.
    levels : tuple of float
        Quantiles to choose from.
    """

    delays: dict[int, tuple[int, ...]]
    first_days: dict[int, int]
    tune_days: dict[int, int]
    retune_days: dict[int, int]
    test_from: float = 0.5
    units: int = 40
    short_share: float = 0.05
    budget: float = 1.09
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

    def retune(self, series: DemandSeries) -> int:
        """Ticks between one choice of parameters and the next."""
        return self._of(self.retune_days, series) * series.day

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

    The measures are those of :class:`FleetAccount`; ``choices`` are the parameters that it ran
    with, one after the other.
    """

    series: str
    delay_s: int
    scaler: str
    ticks: int
    reactive_events: int
    short_ticks: int
    unserved: float
    node_hours: float
    changes: int
    choices: tuple[Choice, ...]


def judge_series(
    study: Study, series: DemandSeries, table: ForecastTable, delay: int
) -> list[Outcome]:
    """Play the test part of a series with scalers that are chosen anew from time to time.

    Every choice is made on a window that ends where the stretch begins that it is used on.

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
    plain = [Choice(0.0, u, hold) for u, hold in product(study.utilisations, study.holds)]
    ahead = [Choice(*x) for x in product(study.levels, _TARGETS, study.holds)]
    reactive = _reactive_choices(bench)
    governed = {
        "reactive, same budget": (plain, study.budget),
        "predictive": (ahead, study.budget),
        "predictive, no extra hours": (ahead, 1.0),
    }
    outcomes = [bench.outcome("reactive", reactive)]
    for scaler, (choices, budget) in governed.items():
        chosen = _governed_choices(bench, choices, reactive, budget)
        outcomes.append(bench.outcome(scaler, chosen))
    return outcomes


def played(
    study: Study,
    series: DemandSeries,
    table: ForecastTable,
    delay: int,
    outcomes: Sequence[Outcome],
) -> tuple[float, dict[str, FleetAccount]]:
    """Size of a node, and the accounts behind the outcomes of one series and delay, by scaler."""
    bench = _Bench(study, series, table, delay)
    mine = (x for x in outcomes if (x.series, x.delay_s) == (series.name, delay * series.tick_s))
    return bench.unit, {x.scaler: bench.judged(x.choices) for x in mine}


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


def rolling_settings(series: DemandSeries) -> RollingSettings:
    """Windows in days rather than ticks, but with enough ticks of long ones too."""
    day = series.day
    return RollingSettings(
        carry=max(3 * day, 72),
        recent=max(day, 72),
        memory=max(5 * day, 480),
        local=max(day // 2, 36),
    )


class _Bench:
    """One series with one delay: replays of scalers, and their choice from what is past."""

    def __init__(
        self, study: Study, series: DemandSeries, table: ForecastTable, delay: int
    ) -> None:
        self.study, self.series, self.table, self.delay = study, series, table, delay
        self.tune, self.test = study.tune(series), study.test(series)
        self.unit = float(series.values[: self.test].mean()) / study.units
        self.demand = series.values[self.tune :]
        self._needs: dict[tuple[float, float], NDArray[np.float64]] = {}

    def need(self, choice: Choice) -> NDArray[np.float64]:
        """What a choice plans for, from the first tick of the tuning part on."""
        key = (choice.level, choice.utilisation)
        if key not in self._needs:
            need = self.demand / choice.utilisation
            if choice.level > 0.0:
                window = (self.tune, len(self.series))
                upper = self.table.upper(choice.level, *window, self.delay)
                need = np.maximum(need, upper.max(axis=1))
            self._needs[key] = need
        return self._needs[key]

    def plan(self, hold: int = 0) -> ScalingPlan:
        """Need is met to the unit: the margin is in the need."""
        return ScalingPlan(
            self.unit,
            target_utilisation=1.0,
            min_size=0,
            tolerance=0.0,
            down_window_s=0.0,
            hold_s=float(hold * self.series.tick_s),
        )

    def account(self, choice: Choice, start: int, stop: int) -> FleetAccount:
        """One choice on a window, ticks from the first of the tuning part on."""
        window = slice(start, stop)
        return replay(
            self.demand[window],
            self.need(choice)[window],
            self.plan(choice.hold),
            tick_s=self.series.tick_s,
            delay=self.delay,
        )

    def judged(self, choices: Sequence[Choice]) -> FleetAccount:
        """The test part, as far as there are choices for its segments, played in one go."""
        need, held = [], []
        for (start, stop), choice in zip(self.segments(), choices, strict=False):
            mine = self.need(choice)
            need.append(mine[start:stop])
            held.append(hold_peak(mine[:stop], 1 + choice.hold)[start:])
        whole = np.concatenate(need)
        begin = self.test - self.tune
        return replay(
            self.demand[begin : begin + len(whole)],
            whole,
            self.plan(),
            tick_s=self.series.tick_s,
            delay=self.delay,
            held=np.concatenate(held),
        )

    def segments(self) -> list[tuple[int, int]]:
        """Stretches of the test part between one choice and the next."""
        step = self.study.retune(self.series)
        begins = range(self.test - self.tune, len(self.demand), step)
        return [(begin, min(begin + step, len(self.demand))) for begin in begins]

    def outcome(self, scaler: str, choices: Sequence[Choice]) -> Outcome:
        """The account of a scaler on the whole test part."""
        account = self.judged(choices)
        return Outcome(
            series=self.series.name,
            delay_s=self.delay * self.series.tick_s,
            scaler=scaler,
            ticks=len(account.here),
            reactive_events=account.reactive_events,
            short_ticks=account.short_ticks,
            unserved=account.unserved,
            node_hours=account.node_hours,
            changes=account.changes,
            choices=tuple(choices),
        )


def _reactive_choices(bench: _Bench) -> list[Choice]:
    """For each segment the cheapest reactive scaler that was rarely enough short until then."""
    study, length = bench.study, bench.test - bench.tune
    choices = [Choice(0.0, u, hold) for u, hold in product(study.utilisations, study.holds)]
    chosen = []
    for start, _ in bench.segments():
        accounts = [(bench.account(one, start - length, start), one) for one in choices]
        good = [x for x in accounts if x[0].short_ticks <= study.short_share * length]
        if good:
            chosen.append(min(good, key=lambda x: x[0].node_hours)[1])
        else:
            chosen.append(min(accounts, key=lambda x: x[0].short_ticks)[1])
    return chosen


def _governed_choices(
    bench: _Bench, choices: Sequence[Choice], reactive: Sequence[Choice], budget: float
) -> list[Choice]:
    """For each segment the choice with the fewest events until then, within a budget.

    The budget holds for the sum: what was spent beyond (or short of) it, relative to what the
    reactive scaler would have spent, is taken off (or added to) what the next segment may spend.
    That is known when it is needed, since a reactive scaler can be replayed beside the real one.
    """
    length = bench.test - bench.tune
    chosen: list[Choice] = []
    for k, (start, stop) in enumerate(bench.segments()):
        window = (start - length, start)
        usual = bench.account(reactive[k], *window).node_hours
        expected = usual * (stop - start) / length
        spent = bench.judged(chosen).node_hours if chosen else 0.0
        beside = bench.judged(reactive[:k]).node_hours if chosen else 0.0
        share = (budget * (beside + expected) - spent) / expected
        share = min(max(share, budget - _SLACK), budget + _SLACK)
        accounts = [(bench.account(one, *window), one) for one in choices]
        within = [x for x in accounts if x[0].node_hours <= share * usual]
        if within:
            chosen.append(min(within, key=lambda x: (x[0].reactive_events, x[0].node_hours))[1])
        else:
            chosen.append(min(accounts, key=lambda x: x[0].node_hours)[1])
    return chosen


# --- What was fitted -----------------------------------------------------------------------------


def make_bases(
    series: Sequence[DemandSeries],
    forecasters: Sequence[Forecaster],
    *,
    first: Sequence[int],
    horizon: int,
    folder: Path,
    workers: int = 0,
    console: Console | None = None,
) -> list[list[Bases]]:
    """Structures of every forecaster along every series, from the cache or made now.

    Parameters
    ----------
    series : sequence of DemandSeries
    forecasters : sequence of Forecaster
    first : sequence of int
        First origin of each series.
    horizon : int
        Ticks ahead.
    folder : Path
        The cache.
    workers : int, optional
        Processes; 0: one for each core.
    console : rich.console.Console or None, optional
        Where progress is shown.

    Returns
    -------
    list of lists of (base, sigma)
        By series, then by forecaster; see :func:`orchestrator.autoscaler.forecast.structures`.
    """
    paths = [
        [base_path(folder, one, f, start, horizon) for f in forecasters]
        for one, start in zip(series, first, strict=True)
    ]
    missing = [
        (paths[s][f], series[s], forecasters[f], first[s], horizon)
        for s in range(len(series))
        for f in range(len(forecasters))
        if not paths[s][f].exists()
    ]
    columns = (TextColumn("forecasting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=console is None) as progress:
        bar = progress.add_task("forecasting", total=len(missing))
        if missing:
            # Spawned, not forked: Stan and the thread pools of NumPy do not like to be forked.
            context = multiprocessing.get_context("spawn")
            most = workers or os.cpu_count() or 1
            with ProcessPoolExecutor(min(most, len(missing)), mp_context=context) as pool:
                for done in as_completed([pool.submit(_make, *task) for task in missing]):
                    done.result()
                    progress.advance(bar)
    return [[_load(path) for path in row] for row in paths]


def base_path(
    folder: Path, series: DemandSeries, forecaster: Forecaster, first: int, horizon: int
) -> Path:
    """Where the structures of a forecaster along a series are kept."""
    key = f"{_VERSION}:{series.digest}:{forecaster!r}:{first}:{horizon}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return folder / f"{forecaster.name}-{digest}.npz"


def _make(path: Path, series: DemandSeries, one: Forecaster, first: int, horizon: int) -> None:
    base, sigma = structures(series.values, series.day, one, first, horizon)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, base=base, sigma=sigma)


def _load(path: Path) -> Bases:
    with np.load(path, allow_pickle=False) as stored:
        return stored["base"], stored["sigma"]
