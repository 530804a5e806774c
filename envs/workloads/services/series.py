"""Request rates of services over time, one row for each service."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError

__all__ = ["GapFill", "ServiceSeries", "fill_gaps"]


class GapFill(Enum):
    """What stands for the ticks that a series lacks."""

    ZERO = "zero"
    PREVIOUS = "previous"
    """The last known value; the first known one, before it."""
    INTERPOLATE = "interpolate"
    """A straight line between the known neighbours."""


@dataclass(frozen=True)
class ServiceSeries:
    """Demand of services, complete and ready for the simulator.

    Parameters
    ----------
    tick_s : float
        Length of a tick, seconds.
    names : tuple of str
        The services.
    rates : ndarray of float32, shape [services, ticks]
        Mean requests per second in each tick: finite and not negative. Kept as a read-only,
        contiguous array: kernels read it by its address.

    Raises
    ------
    ValidationError
        Naming the field: no services or ticks, a negative rate, a gap (a rate that is not a
        number), and where it is.
    """

    tick_s: float
    names: tuple[str, ...]
    rates: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Validate, and take a copy that nobody else can change."""
        tick = self.tick_s
        if not (math.isfinite(tick) and tick > 0.0):
            raise self._bad("tick_s", f"is {tick}", "it must be greater than 0")
        rates = np.array(self.rates, np.float32, order="C")
        if rates.ndim != 2 or rates.size == 0:
            remedy = "give at least one service and one tick, [services, ticks]"
            raise self._bad("rates", f"has shape {rates.shape}", remedy)
        names = tuple(self.names)
        if len(names) != len(rates) or len(set(names)) != len(names) or not all(names):
            problem = f"are {len(names)} for {len(rates)} rows of rates"
            raise self._bad("names", problem, "give one name for each, all different")
        self._refuse(names, ~np.isfinite(rates), "is a gap", "choose how to fill it")
        self._refuse(names, rates < 0.0, "is negative", "rates count requests: correct it")
        rates.setflags(write=False)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "rates", rates)

    @staticmethod
    def _bad(name: str, problem: str, remedy: str) -> ValidationError:
        return ValidationError("ServiceSeries", name, problem, remedy)

    def _refuse(
        self, names: tuple[str, ...], bad: NDArray[np.bool_], problem: str, remedy: str
    ) -> None:
        if bad.any():
            s, tick = np.argwhere(bad)[0]
            where = f"of service '{names[s]}' in tick {tick} {problem}"
            count = int(bad.sum())
            raise self._bad("rates", f"{where} ({count} in all)", remedy)

    @property
    def ticks(self) -> int:
        """Ticks of the series."""
        return int(self.rates.shape[1])

    @property
    def address(self) -> int:
        """Where the rates are, for a row's ``series_at``; valid as long as this object lives."""
        return int(self.rates.ctypes.data)

    def part(self, first: int, stop: int) -> ServiceSeries:
        """Ticks ``first`` to ``stop``, the latter not included."""
        if not 0 <= first < stop <= self.ticks:
            problem = f"has {self.ticks} ticks, and [{first}, {stop}) was asked for"
            raise self._bad("rates", problem, "stay inside")
        return ServiceSeries(self.tick_s, self.names, self.rates[:, first:stop])

    def select(self, names: Sequence[str]) -> ServiceSeries:
        """Some of the services, in this order."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise self._bad("names", f"do not include {missing}", f"known: {list(self.names)}")
        rows = [self.names.index(name) for name in names]
        return ServiceSeries(self.tick_s, tuple(names), self.rates[rows])

    def scaled(self, factor: float) -> ServiceSeries:
        """The same demand, times a factor."""
        return ServiceSeries(self.tick_s, self.names, self.rates * np.float32(factor))

    def resampled(self, tick_s: float) -> ServiceSeries:
        """The same demand on ticks of another length.

        Requests are conserved: a new tick gets the mean of the old ones that it overlaps,
        weighted by the overlap. What is left at the end and fills no new tick is dropped.

        Raises
        ------
        ValidationError
            When the series is shorter than one new tick.
        """
        if not (math.isfinite(tick_s) and tick_s > 0.0):
            raise self._bad("tick_s", f"is {tick_s}", "it must be greater than 0")
        count = math.floor(self.ticks * self.tick_s / tick_s + 1e-9)
        if count < 1:
            problem = f"last {self.ticks * self.tick_s:g} s, less than one tick of {tick_s:g} s"
            raise self._bad("rates", problem, "choose a shorter tick")
        sums = np.zeros((len(self.names), self.ticks + 1))
        np.cumsum(self.rates, axis=1, dtype=np.float64, out=sums[:, 1:])
        edges = np.minimum(np.arange(count + 1) * (tick_s / self.tick_s), self.ticks)
        whole = np.minimum(edges.astype(np.int64), self.ticks - 1)
        until = sums[:, whole] + (edges - whole) * self.rates[:, whole]
        rates = np.diff(until, axis=1) * (self.tick_s / tick_s)
        return ServiceSeries(tick_s, self.names, np.maximum(rates, 0.0).astype(np.float32))


def fill_gaps(
    rates: NDArray[np.float64], missing: NDArray[np.bool_], fill: GapFill
) -> NDArray[np.float64]:
    """Put something in the place of missing ticks.

    Parameters
    ----------
    rates : ndarray of float64, shape [services, ticks]
        The series.
    missing : ndarray of bool, shape [ticks]
        Ticks of which nothing is known; not all.
    fill : GapFill
        What to put there.

    Returns
    -------
    ndarray of float64, shape [services, ticks]
        A new array.
    """
    out = rates.copy()
    if fill is GapFill.ZERO:
        out[:, missing] = 0.0
        return out
    ticks = np.arange(rates.shape[1])
    known = ticks[~missing]
    if fill is GapFill.PREVIOUS:
        at = np.maximum(np.searchsorted(known, ticks, side="right") - 1, 0)
        return np.asarray(rates[:, known[at]])
    for row in out:
        row[missing] = np.interp(ticks[missing], known, row[known])
    return out
