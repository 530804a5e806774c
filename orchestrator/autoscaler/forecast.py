"""Forecasters, and forecasts made at rolling origins from the past alone.

A forecaster is fitted to the past and answers with a *structure*: the expected demand at any tick,
earlier or later. What a structure misses right now is carried forward, so a structure has to
say what is regular, and need not be fitted anew at every tick.

Four steps, each over all origins at once and each blind to what comes after an origin:

1. ``structures``: what a forecaster's regular structure says (refitted every so often);
2. ``carry_forward``: what the structure misses now is expected to persist in part. The share is
   the least-squares slope of past misses on the misses ``h`` ticks before them;
3. ``choose``: the forecaster with the lowest mean absolute error on the recent past;
4. ``calibrate``: quantiles from the chosen forecasts' own recent errors, scaled by how large errors
   are just now: split conformal prediction with a local scale (Lei et al., JASA 2018), over a
   moving window. Prophet's own 80 % intervals under-cover; these do not need its noise model.

Everything works on finite windows of the past, so the live scaler, which remembers only so much,
computes the same numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError

__all__ = [
    "Forecaster",
    "Persistence",
    "Prophet",
    "RollingSettings",
    "SeasonalMean",
    "SeasonalNaive",
    "Structure",
    "calibrate",
    "carry_forward",
    "choose",
    "forecaster_named",
    "structures",
]


_log = logging.getLogger(__name__)


Ticks = NDArray[np.int64]


Values = NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """What a fitted forecaster expects.

    Parameters
    ----------
    at : callable
        Ticks (int64 [n], counted like the values that it was fitted to) to values (float64 [n]).
    sigma : float
        The forecaster's own idea of the standard deviation of a value around it; not a number if
        it has none.
    """

    at: Callable[[Ticks], Values]
    sigma: float = float("nan")


class Forecaster(Protocol):
    """Fits a structure to the past."""

    @property
    def name(self) -> str:
        """For people and tables."""

    @property
    def refit_every(self) -> int:
        """Ticks that a structure serves before the next fit."""

    def fit(self, past: Values, day: int) -> Structure:
        """Fit to everything known, float64 [T]; ``day``: ticks of a day."""


def _index(past: Values, ticks: Ticks) -> Values:
    """Values at ticks; those before the beginning take the first, later ones the last value."""
    return np.asarray(past[np.minimum(np.maximum(ticks, 0), len(past) - 1)])


@dataclass(frozen=True)
class Persistence:
    """Everything stays as it is."""

    name: str = "persistence"
    refit_every: int = 1

    def fit(self, past: Values, day: int) -> Structure:
        """Fit: remember the past."""
        return Structure(lambda ticks: _index(past, ticks))


@dataclass(frozen=True)
class SeasonalNaive:
    """As at the same time a day (or another period) ago."""

    name: str = "seasonal_naive"
    days: int = 1
    refit_every: int = 1

    def fit(self, past: Values, day: int) -> Structure:
        """Fit: remember the past."""
        period = self.days * day

        def at(ticks: Ticks) -> Values:
            cycles = np.maximum((ticks - len(past)) // period + 1, 1)
            return _index(past, ticks - cycles * period)

        return Structure(at)


@dataclass(frozen=True)
class SeasonalMean:
    """The mean at the same time of day over the last days."""

    name: str = "seasonal_mean"
    days: int = 5
    refit_every: int = 1

    def fit(self, past: Values, day: int) -> Structure:
        """Fit: remember the past."""
        naive = [SeasonalNaive(days=k) for k in range(1, self.days + 1) if k * day < len(past)]
        parts = [one.fit(past, day).at for one in naive] or [Persistence().fit(past, day).at]
        return Structure(lambda ticks: np.mean([part(ticks) for part in parts], axis=0))


@dataclass(frozen=True)
class Prophet:
    """Trend and Fourier seasonality (Taylor and Letham, The American Statistician 2018).

    Parameters
    ----------
    refit_every : int
        Ticks between fits.
    window_days : int
        Days of the past that a fit sees.
    daily_order : int
        Fourier terms of the daily season.
    weekly_from_days : int
        A weekly season is fitted once the window covers so many days.
    changepoint_scale : float
        How easily the trend bends (Prophet's default).
    """

    name: str = "prophet"
    refit_every: int = 12
    window_days: int = 28
    daily_order: int = 6
    weekly_from_days: int = 14
    changepoint_scale: float = 0.05

    def fit(self, past: Values, day: int) -> Structure:
        """Fit to the last ``window_days``; takes about 0.1 s.

        A past of fewer than two values shows no trend: it is answered by its last value, with a
        line in the log, until the next fit.
        """
        begin = max(0, len(past) - self.window_days * day)
        if len(past) - begin < _LEAST_VALUES:
            _log.info("%s: a past of %d values is too short to be fitted", self.name, len(past))
            return Persistence().fit(past, day)
        import pandas as pd

        model_type = _prophet()
        step = pd.Timedelta(seconds=86_400 // day)
        epoch = pd.Timestamp("2000-01-03")  # a Monday; the true weekday does not matter
        model = model_type(
            daily_seasonality=self.daily_order if len(past) > day else False,
            weekly_seasonality=len(past) - begin >= self.weekly_from_days * day,
            yearly_seasonality=False,
            changepoint_prior_scale=self.changepoint_scale,
            interval_width=0.8,
            uncertainty_samples=0,
        )
        ticks = np.arange(begin, len(past))
        model.fit(pd.DataFrame({"ds": epoch + step * ticks, "y": past[begin:]}))
        sigma = float(np.mean(model.params["sigma_obs"]) * model.y_scale)

        def at(ticks: Ticks) -> Values:
            frame = model.predict(pd.DataFrame({"ds": epoch + step * ticks}))
            return np.asarray(np.maximum(frame["yhat"].to_numpy(np.float64), 0.0))

        return Structure(at, sigma)


def _prophet() -> Any:
    """Prophet's class, with its chatter off: Stan's progress and a hint about plotly."""
    for name in ("prophet", "prophet.plot"):
        logging.getLogger(name).setLevel(logging.ERROR + 1)
    from prophet import Prophet as Model

    logging.getLogger("cmdstanpy").setLevel(logging.WARNING)  # its import sets another one
    return Model


_LEAST_VALUES = 2  # that Prophet can be fitted to


_KINDS: dict[str, Callable[..., Forecaster]] = {
    "persistence": Persistence,
    "seasonal_naive": SeasonalNaive,
    "seasonal_mean": SeasonalMean,
    "prophet": Prophet,
}


def forecaster_named(name: str, **options: float) -> Forecaster:
    """Make a forecaster by name.

    Raises
    ------
    ConfigurationError
        For an unknown name or option.
    """
    if name not in _KINDS:
        raise ConfigurationError(f"unknown forecaster '{name}'; choose from {', '.join(_KINDS)}")
    try:
        return _KINDS[name](**options)
    except TypeError as error:
        raise ConfigurationError(f"forecaster '{name}': {error}") from None


Array = NDArray[np.float64]


_LEAST_SCALE = 1e-9


@dataclass(frozen=True)
class RollingSettings:
    """Windows of the rolling forecast, ticks.

    Parameters
    ----------
    carry : int
        Past from which the persistence of misses is estimated.
    recent : int
        Past on which forecasters compete.
    memory : int
        Errors that quantiles are taken from.
    local : int
        Errors that say how large errors are just now.
    least : int
        Errors needed before there are quantiles.
    floor : float
        Least scale of an error, as a share of the forecast or of the mean demand of ``recent``.
    ceiling : float
        Quantiles exceed neither the forecast nor so many times the highest demand of ``memory``:
        after a burst the scale of errors is large, and what it promises would never be used.
    """

    carry: int = 432
    recent: int = 144
    memory: int = 720
    local: int = 12
    least: int = 48
    floor: float = 0.02
    ceiling: float = 1.1

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("carry", "recent", "memory", "local", "least"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"RollingSettings: '{name}' must be at least 1")
        if not self.floor > 0.0:
            raise ConfigurationError(f"RollingSettings: 'floor' is {self.floor}; greater than 0")
        if not self.ceiling >= 1.0:
            raise ConfigurationError(f"RollingSettings: 'ceiling' is {self.ceiling}; at least 1")

    @property
    def span(self) -> int:
        """Ticks of the past that a forecast depends on, refits aside."""
        return self.memory + self.local + self.carry + self.recent


def structures(
    values: Array, day: int, forecaster: Forecaster, first: int, horizon: int
) -> tuple[Array, Array]:
    """What a forecaster's structure says at each origin.

    Parameters
    ----------
    values : float64 [T]
    day : int
        Ticks of a day.
    forecaster : Forecaster
    first : int
        First origin: the tick after which the first forecast is made.
    horizon : int
        Ticks ahead, at least 1.

    Returns
    -------
    base : float64 [T - first, horizon + 1]
        ``base[i, h]``: expected at ``first + i + h``, known at ``first + i``.
    sigma : float64 [T - first]
        The forecaster's own standard deviation.
    """
    origins = len(values) - first
    base, sigma = np.empty((origins, horizon + 1)), np.empty(origins)
    for begin in range(0, origins, forecaster.refit_every):
        end = min(begin + forecaster.refit_every, origins)
        fitted = forecaster.fit(values[: first + begin + 1], day)
        path = fitted.at(np.arange(first + begin, first + end + horizon))
        one = end - begin == 1  # most are fitted anew at every tick
        base[begin:end] = path if one else sliding_window_view(path, horizon + 1)
        sigma[begin:end] = fitted.sigma
    return base, sigma


def _late(x: Array, h: int) -> Array:
    """Shift by ``h`` ticks: what was known ``h`` ticks ago, not a number before that."""
    late = np.full(len(x), np.nan)
    late[h:] = x[: len(x) - h]
    return late


def _window_sum(x: Array, window: int) -> Array:
    """Sum of the last ``window`` entries, those that are not numbers counting as 0."""
    padded = np.concatenate([np.zeros(window - 1), np.nan_to_num(x)])
    return np.asarray(sliding_window_view(padded, window).sum(axis=1))


def _window_mean(x: Array, window: int) -> Array:
    """Mean of the numbers among the last ``window`` entries; not a number if there are none."""
    count = _window_sum(np.isfinite(x).astype(np.float64), window)
    total = _window_sum(x, window)
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def carry_forward(known: Array, base: Array, window: int) -> Array:
    """Point forecasts: the structure, and the share of its present miss that persists.

    Parameters
    ----------
    known : float64 [N]
        Demand at the origins.
    base : float64 [N, H + 1]
        Structures.
    window : int
        Ticks from which the share is estimated; it is kept within 0 .. 1.

    Returns
    -------
    float64 [N, H + 1]
        At least 0; column 0 is the demand itself.
    """
    point = np.empty_like(base)
    point[:, 0] = known
    miss = known - base[:, 0]
    for h in range(1, base.shape[1]):
        before = _late(miss, h)
        after = known - _late(base[:, h], h)
        square = _window_sum(before * before, window)
        share = _window_sum(before * after, window) / np.where(square > 0.0, square, 1.0)
        point[:, h] = base[:, h] + np.clip(share, 0.0, 1.0) * miss
    return np.maximum(point, 0.0)


def errors(known: Array, point: Array) -> Array:
    """Errors that are known at each origin: ``known[i] - point[i - h, h]``, [N, H + 1]."""
    return np.stack([known - _late(point[:, h], h) for h in range(point.shape[1])], axis=1)


def choose(known: Array, points: Array, window: int) -> NDArray[np.uint8]:
    """Which forecaster did best on the recent past, for each origin and horizon.

    Parameters
    ----------
    known : float64 [N]
    points : float64 [F, N, H + 1]
        Point forecasts of the forecasters; the first one wins ties, and while nothing is known.
    window : int
        Ticks on which they compete.

    Returns
    -------
    uint8 [N, H + 1]
    """
    scores = np.empty(points.shape)
    for f, point in enumerate(points):
        error = np.abs(errors(known, point))
        for h in range(point.shape[1]):
            scores[f, :, h] = _window_mean(error[:, h], window)
    best = np.argmin(np.where(np.isfinite(scores), scores, np.inf), axis=0)
    return np.asarray(best, np.uint8)


def calibrate(
    known: Array, point: Array, levels: tuple[float, ...], settings: RollingSettings
) -> Array:
    """Quantiles of the demand to come, from the recent errors of the forecasts themselves.

    Parameters
    ----------
    known : float64 [N]
    point : float64 [N, H + 1]
        The forecasts that were followed.
    levels : tuple of float
        Probabilities, each in (0, 1).
    settings : RollingSettings

    Returns
    -------
    float64 [N, H + 1, len(levels)]
        At least 0; not a number while too few errors are known. Horizon 0 is the demand itself.
    """
    bands = np.full((*point.shape, len(levels)), np.nan)
    bands[:, 0] = known[:, None]
    error = errors(known, point)
    # Relative to the usual demand too: the first request after an idle hour is not that rare.
    usual = _window_mean(known, settings.recent)[:, None]
    floor = settings.floor * np.maximum(point, usual) + _LEAST_SCALE
    for h in range(1, point.shape[1]):
        scale = np.nan_to_num(_window_mean(np.abs(error[:, h]), settings.local)) + floor[:, h]
        score = error[:, h] / _late(scale, h)
        for i in range(len(known)):
            past = score[max(0, i + 1 - settings.memory) : i + 1]
            past = past[np.isfinite(past)]
            if len(past) >= settings.least:
                ranks = [_rank(level, len(past)) for level in levels]
                bands[i, h] = point[i, h] + scale[i] * np.partition(past, ranks)[ranks]
    highest = settings.ceiling * _window_max(known, settings.memory)
    return np.clip(bands, 0.0, np.maximum(point, highest[:, None])[:, :, None])


def _window_max(x: Array, window: int) -> Array:
    """Highest of the last ``window`` entries."""
    padded = np.concatenate([np.full(window - 1, -np.inf), x])
    return np.asarray(sliding_window_view(padded, window).max(axis=1))


def _rank(level: float, count: int) -> int:
    """Zero-based rank of a conformal quantile: ceil((n + 1) level) of n, or the nearest there is.

    Levels below one half mirror those above, so that intervals are symmetric in rank.
    """
    if level < 0.5:
        return count - 1 - _rank(1.0 - level, count)
    return min(max(math.ceil((count + 1) * level - 1e-9), 1), count) - 1
