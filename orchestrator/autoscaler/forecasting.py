"""Forecasters of demand behind one interface; Prophet and pandas load on first use only.

A forecaster is fitted to the past and answers with a *structure*: the expected demand at any tick,
earlier or later. What a structure misses right now is carried forward by ``rolling``, so a
structure has to say what is regular, and need not be fitted anew at every tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError

__all__ = [
    "Forecaster",
    "Persistence",
    "Prophet",
    "SeasonalMean",
    "SeasonalNaive",
    "Structure",
    "forecaster_named",
]

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
    return np.asarray(past[np.clip(ticks, 0, len(past) - 1)])


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
        """Fit to the last ``window_days``; takes about 0.1 s."""
        import pandas as pd

        model_type = _prophet()
        begin = max(0, len(past) - self.window_days * day)
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
