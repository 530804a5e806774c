"""Jobs for live runs, drawn at random: the same seed gives the same jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.errors import ConfigurationError

__all__ = ["draw_jobs"]


_MS_PER_HOUR = 3_600_000
_CLASSES = {"CRITICAL": 0.05, "PRODUCTION": 0.15, "BATCH": 0.6, "BEST_EFFORT": 0.2}
_GANGS = {1: 0.6, 2: 0.25, 3: 0.1, 4: 0.05}  # workers


def _pick(rng: np.random.Generator, shares: Mapping[Any, float]) -> Any:
    """One of some values, each with its share."""
    return list(shares)[rng.choice(len(shares), p=list(shares.values()))]


def _check(
    count: int, rate_per_s: float, programs: Mapping[str, float], seconds: Sequence[float]
) -> None:
    """Reject what cannot be drawn."""
    if count < 1 or not rate_per_s > 0 or not 0 < seconds[0] <= seconds[1]:
        problem = f"count {count}, rate_per_s {rate_per_s}, seconds {tuple(seconds)}"
        raise ConfigurationError(f"draw_jobs: {problem}; all positive, the shorter time first")
    if min(programs.values(), default=0) < 0 or not math.isclose(sum(programs.values()), 1.0):
        raise ConfigurationError(f"draw_jobs: 'programs' is {dict(programs)}; shares add up to 1")


def draw_jobs(
    *,
    seed: int,
    count: int,
    rate_per_s: float,
    programs: Mapping[str, float],
    saving: Sequence[str] = (),
    seconds: Sequence[float] = (2.0, 8.0),
    gpus: Sequence[int] = (1, 2),
) -> list[dict[str, Any]]:
    """Draw jobs as :class:`LiveRun` takes them.

    They arrive as a Poisson process does. How long one works is uniform, what its user says about
    that one and a half to three times as much.

    Parameters
    ----------
    seed, count : int
        Of the draw; how many jobs.
    rate_per_s : float
        Arrivals a second.
    programs : mapping of str to float
        Names of programs and their shares, which add up to 1.
    saving : sequence of str
        Those of them that save when they are asked to: their jobs may be preempted.
    seconds : (float, float)
        Shortest and longest work of a job.
    gpus : sequence of int
        GPUs of a worker, each as likely as the others.

    Raises
    ------
    ConfigurationError
        If a rate, a share or a bound makes no sense.
    """
    _check(count, rate_per_s, programs, seconds)
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1.0 / rate_per_s, count))
    found = []
    for number in range(count):
        program = _pick(rng, programs)
        work_s = round(float(rng.uniform(seconds[0], seconds[1])), 1)
        found.append(
            {
                "name": f"{program}-{number + 1:02d}",
                "program": program,
                "seconds": work_s,
                "duration_hours": work_s * 1000 / _MS_PER_HOUR,
                "max_duration_hours": work_s * 1000 * rng.uniform(1.5, 3.0) / _MS_PER_HOUR,
                "at_s": round(float(at_s[number]), 3),
                "priority": _pick(rng, _CLASSES),
                "num_workers": _pick(rng, _GANGS),
                "gpus_per_worker": int(rng.choice(list(gpus))),
                "preemptible": program in saving,
            }
        )
    return found
