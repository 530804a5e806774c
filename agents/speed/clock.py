"""Timing: medians over repeats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["CLOCKS", "Measure", "rate", "seconds"]

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""Clocks by name: the time of day, and the time that this thread was given."""


@dataclass(frozen=True)
class Measure:
    """A measured number.

    Parameters
    ----------
    value : float
        Median over the repeats.
    unit : str
    low, high : float
        Least and largest of the repeats.
    note : str, optional
        What a reader must know to judge it.
    """

    value: float
    unit: str
    low: float
    high: float
    note: str = ""


def rate(run: Callable[[], float], work: int, unit: str, repeats: int, note: str = "") -> Measure:
    """Units of work done in a second.

    Parameters
    ----------
    run : callable
        Does the work and returns the seconds that it took.
    work : int
        Units of it.
    unit, note : str
    repeats : int

    Returns
    -------
    Measure
    """
    rates = [work / run() for _ in range(repeats)]
    return Measure(statistics.median(rates), unit, min(rates), max(rates), note)


def seconds(run: Callable[[], object], repeats: int, note: str = "") -> Measure:
    """Time that a call takes, s."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return Measure(statistics.median(times), "s", min(times), max(times), note)
