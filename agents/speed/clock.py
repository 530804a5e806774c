"""Timing: medians over repeats, and what this machine can do, the scale to read them against."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.session import Session

__all__ = [
    "CLOCKS",
    "Measure",
    "bytes_per_step",
    "copy_seconds",
    "python_event_loop",
    "rate",
    "seconds",
]


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


def bytes_per_step(session: Session) -> int:
    """Bytes that a step of all rows has to write: observation, mask, reward, flags."""
    buffers = session.buffers
    parts = [*session.observation().values()]
    parts += [buffers.reward, buffers.terminated, buffers.truncated, buffers.reason]
    return sum(part.nbytes for part in parts)


def copy_seconds(size: int, copies: int, now: Callable[[], float]) -> float:
    """Seconds that so many copies of so many bytes take, source and target staying the same."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    begun = now()
    for _ in range(copies):
        np.copyto(target, source)
    return now() - begun


def python_event_loop(jobs: NDArray[np.void], processors: int, now: Callable[[], float]) -> float:
    """Seconds that a plain Python program needs to simulate first come, first served.

    No features, no masks, no choice: one heap of completions, one pool of processors.

    Parameters
    ----------
    jobs : REQUEST_DTYPE [J]
    processors : int
        Of the machine, in milli-cores as the jobs' demands.
    now : callable
        The clock.
    """
    columns = (jobs["submit_ms"], jobs["duration_ms"], jobs["workers"] * jobs["cpu_milli"])
    table = list(zip(*(column.tolist() for column in columns), strict=True))
    begun = now()
    running: list[tuple[int, int]] = []
    free, instant, waited = processors, 0, 0
    for submit, duration, demand in table:
        instant = max(instant, submit)
        while running and (running[0][0] <= instant or free < demand):
            end, released = heapq.heappop(running)
            instant = max(instant, end)
            free += released
        heapq.heappush(running, (instant + duration, demand))
        free -= demand
        waited += instant - submit
    return now() - begun
