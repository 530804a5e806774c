"""A demand series: regular ticks, a value at each of them, nothing missing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError

__all__ = ["DemandSeries", "fill_gaps"]


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
