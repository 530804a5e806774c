"""What this machine can do: the scales that measurements are read against."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.session import Session

__all__ = ["bytes_per_step", "copy_seconds", "python_event_loop"]


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
