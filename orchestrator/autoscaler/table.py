"""Demand series, and tables of their forecasts.

Nothing is fitted inside a step. A table is made beforehand, only from the past of each of its
origins, and says so when asked about a time that it does not cover.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.autoscaler.forecast import (
    Forecaster,
    RollingSettings,
    calibrate,
    carry_forward,
    choose,
    structures,
)
from orchestrator.errors import ValidationError

__all__ = [
    "DEFAULT_LEVELS",
    "DemandSeries",
    "ForecastTable",
    "fill_gaps",
    "make_table",
    "table_from_bases",
]


@dataclass(frozen=True)
class DemandSeries:
    """Demand over time.

    Parameters
    ----------
    name : str
        For people and files.
    values : float64 [T]
        Demand at each tick, in the unit of whatever serves it.
    tick_s : int
        Seconds between ticks.
    unit : str
        Of the values.

    Raises
    ------
    ValidationError
        If it is empty, has a gap (a value that is not finite) or a negative value; the message
        names the first bad tick.
    """

    name: str
    values: NDArray[np.float64]
    tick_s: int
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        me = f"demand series '{self.name}'"
        if self.values.ndim != 1 or len(self.values) == 0:
            raise ValidationError(
                me, "values", f"have shape {self.values.shape}", "give a list of numbers"
            )
        if self.tick_s < 1:
            raise ValidationError(me, "tick_s", f"is {self.tick_s}", "at least 1 second")
        if 86_400 % self.tick_s:
            raise ValidationError(me, "tick_s", f"is {self.tick_s}", "it must divide a day")
        gaps = np.flatnonzero(~np.isfinite(self.values))
        if len(gaps):
            raise ValidationError(
                me,
                "values",
                f"have {len(gaps)} gaps, the first at tick {gaps[0]}",
                "fill them from their past with fill_gaps, or choose a window without",
            )
        negative = np.flatnonzero(self.values < 0.0)
        if len(negative):
            first = negative[0]
            raise ValidationError(
                me, "values", f"are {self.values[first]} at tick {first}", "demand is at least 0"
            )

    def __len__(self) -> int:
        """Ticks."""
        return len(self.values)

    @property
    def day(self) -> int:
        """Ticks of a day."""
        return 86_400 // self.tick_s

    @property
    def digest(self) -> str:
        """Hash of the content: name and unit do not count."""
        digest = hashlib.sha256(f"{self.tick_s}:".encode())
        digest.update(np.ascontiguousarray(self.values, np.float64).tobytes())
        return digest.hexdigest()[:16]


def fill_gaps(values: NDArray[np.float64], longest: int) -> NDArray[np.float64]:
    """Carry the last value forward over gaps (values that are not finite).

    Interpolation would look ahead; this does not.

    Parameters
    ----------
    values : float64 [T]
    longest : int
        Ticks of the longest gap that may be filled.

    Returns
    -------
    float64 [T]

    Raises
    ------
    ValidationError
        If the series begins with a gap, or one is longer.
    """
    known = np.isfinite(values)
    me = "demand series"
    if len(values) == 0 or not known[0]:
        raise ValidationError(me, "values", "begin with a gap", "leave its beginning out")
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), 0))
    length = np.arange(len(values)) - last
    if length.max() > longest:
        first = int(last[np.argmax(length > longest)]) + 1
        raise ValidationError(
            me,
            "values",
            f"have a gap of more than {longest} ticks from tick {first} on",
            "allow longer gaps, or choose a window without",
        )
    return np.asarray(values[last])


DEFAULT_LEVELS = (0.1, 0.5, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995)


_REMEDY = "make a table of this series and window with scripts/forecast.py"


@dataclass(frozen=True)
class ForecastTable:
    """Forecasts of one series, by origin and horizon.

    Parameters
    ----------
    series : str
        Name of the series.
    series_digest : str
        Hash of the series that it was made from.
    tick_s : int
        Seconds between ticks.
    first : int
        Tick of the first origin.
    forecasters : tuple of str
    levels : tuple of float
        Probabilities of the quantiles, ascending.
    points : float64 [F, N, H + 1]
        Point forecasts of each forecaster: made at tick ``first + i`` for ``first + i + h``.
    winner : uint8 [N, H + 1]
        The forecaster that is followed.
    bands : float64 [N, H + 1, Q]
        Calibrated quantiles of the demand; not a number before there are errors to learn from.
    sigma : float64 [F, N]
        Each forecaster's own standard deviation, where it has one.
    """

    series: str
    series_digest: str
    tick_s: int
    first: int
    forecasters: tuple[str, ...]
    levels: tuple[float, ...]
    points: NDArray[np.float64]
    winner: NDArray[np.uint8]
    bands: NDArray[np.float64]
    sigma: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        me = f"forecast table of '{self.series}'"
        count, origins, width = self.points.shape
        expected = {
            "forecasters": (len(self.forecasters), count),
            "winner": (self.winner.shape, (origins, width)),
            "bands": (self.bands.shape, (origins, width, len(self.levels))),
            "sigma": (self.sigma.shape, (count, origins)),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise ValidationError(me, name, f"is {found}, not {wanted}", "make it anew")
        if self.winner.size and int(self.winner.max()) >= count:
            raise ValidationError(me, "winner", "names an unknown forecaster", "make it anew")
        inside = all(0.0 < level < 1.0 for level in self.levels)
        if not inside or list(self.levels) != sorted(set(self.levels)):
            raise ValidationError(me, "levels", f"are {self.levels}", "ascending, within (0, 1)")

    @property
    def horizon(self) -> int:
        """Ticks ahead."""
        return int(self.points.shape[2]) - 1

    @property
    def stop(self) -> int:
        """One past the tick of the last origin."""
        return self.first + int(self.points.shape[1])

    @property
    def point(self) -> NDArray[np.float64]:
        """Forecasts of the forecaster that is followed, [N, H + 1]."""
        winner = self.winner[None].astype(np.intp)
        return np.asarray(np.take_along_axis(self.points, winner, axis=0)[0])

    def upper(self, level: float, start: int, stop: int, horizon: int) -> NDArray[np.float64]:
        """A quantile of the demand at each horizon, for the origins ``start`` .. ``stop - 1``.

        Parameters
        ----------
        level : float
            One of ``levels``.
        start, stop : int
            Ticks.
        horizon : int
            Ticks ahead, at most the table's.

        Returns
        -------
        float64 [stop - start, horizon + 1]

        Raises
        ------
        ValidationError
            If the table does not cover the window, the horizon or the level.
        """
        me = f"forecast table of '{self.series}'"
        if not (self.first <= start <= stop <= self.stop):
            covers = f"ticks {self.first} .. {self.stop - 1}"
            problem = f"{start} .. {stop - 1} is not covered: the table has {covers}"
            raise ValidationError(me, "window", problem, _REMEDY)
        if not 0 <= horizon <= self.horizon:
            problem = f"of {horizon} ticks is not covered: the table has {self.horizon}"
            raise ValidationError(me, "horizon", problem, _REMEDY)
        if level not in self.levels:
            raise ValidationError(me, "level", f"{level} is missing", f"use one of {self.levels}")
        rows = slice(start - self.first, stop - self.first)
        quantile = self.bands[rows, : horizon + 1, self.levels.index(level)]
        blank = np.flatnonzero(~np.isfinite(quantile).all(axis=1))
        if len(blank):
            raise ValidationError(
                me,
                "window",
                f"has no quantiles yet at tick {start + blank[0]}: too few errors are known there",
                "begin later",
            )
        return np.asarray(quantile)

    def require_series(self, series: DemandSeries) -> None:
        """Raise :class:`ValidationError` unless the table was made from this very series."""
        if series.digest != self.series_digest:
            me = f"forecast table of '{self.series}'"
            problem = f"is {self.series_digest}, but '{series.name}' is {series.digest}"
            raise ValidationError(me, "series_digest", problem, _REMEDY)

    def save(self, path: Path) -> None:
        """Write it to a ``.npz`` file, whole or not at all."""
        head = {
            "series": self.series,
            "series_digest": self.series_digest,
            "tick_s": self.tick_s,
            "first": self.first,
            "forecasters": self.forecasters,
            "levels": self.levels,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                head=np.array(json.dumps(head)),
                points=self.points,
                winner=self.winner,
                bands=self.bands,
                sigma=self.sigma,
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> ForecastTable:
        """Read a table back.

        Raises
        ------
        ValidationError
            If the file is absent, or is no table.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                head = json.loads(str(stored["head"]))
                arrays = {name: stored[name] for name in ("points", "winner", "bands", "sigma")}
        except FileNotFoundError:
            raise ValidationError(str(path), "file", "does not exist", _REMEDY) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValidationError(str(path), "file", f"is no table ({error})", _REMEDY) from None
        for name in ("forecasters", "levels"):
            head[name] = tuple(head[name])
        return cls(**head, **arrays)


def make_table(
    series: DemandSeries,
    forecasters: Sequence[Forecaster],
    horizon: int,
    *,
    first: int,
    levels: tuple[float, ...] = DEFAULT_LEVELS,
    settings: RollingSettings | None = None,
) -> ForecastTable:
    """Make the table of a series, from the past of each origin only.

    Parameters
    ----------
    series : DemandSeries
    forecasters : sequence of Forecaster
        The first one is followed while nothing is known of their errors.
    horizon : int
        Ticks ahead, at least 1.
    first : int
        First origin: forecasters see at least ``first + 1`` ticks.
    levels : tuple of float, optional
        Quantiles.
    settings : RollingSettings, optional

    Returns
    -------
    ForecastTable
    """
    if not 0 <= first < len(series) or horizon < 1:
        raise ValidationError(
            f"forecast table of '{series.name}'",
            "first",
            f"is {first}, with a horizon of {horizon}",
            f"an origin within 0 .. {len(series) - 1}, and a horizon of at least 1",
        )
    made = [structures(series.values, series.day, one, first, horizon) for one in forecasters]
    names = tuple(one.name for one in forecasters)
    return table_from_bases(series, names, made, first=first, levels=levels, settings=settings)


def table_from_bases(
    series: DemandSeries,
    names: tuple[str, ...],
    made: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    *,
    first: int,
    levels: tuple[float, ...] = DEFAULT_LEVELS,
    settings: RollingSettings | None = None,
) -> ForecastTable:
    """The same from what :func:`orchestrator.autoscaler.forecast.structures` made beforehand."""
    settings = settings or RollingSettings()
    known = series.values[first:]
    points = np.stack([carry_forward(known, base, settings.carry) for base, _ in made])
    winner = choose(known, points, settings.recent)
    followed = np.take_along_axis(points, winner[None].astype(np.intp), axis=0)[0]
    return ForecastTable(
        series=series.name,
        series_digest=series.digest,
        tick_s=series.tick_s,
        first=first,
        forecasters=names,
        levels=levels,
        points=points,
        winner=winner,
        bands=calibrate(known, followed, levels, settings),
        sigma=np.stack([sigma for _, sigma in made]),
    )
