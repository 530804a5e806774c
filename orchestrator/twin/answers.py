"""What the twin answers: frozen records, and the same as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import NEVER
from orchestrator.twin.futures import Sources
from orchestrator.twin.play import Played

__all__ = [
    "LEVELS",
    "Band",
    "Change",
    "Course",
    "Courses",
    "Difference",
    "Holder",
    "WhatIf",
    "When",
    "Why",
    "band_of",
    "courses_of",
    "difference_of",
    "plain",
]


LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles that are told: the first and the last bound the 80 % interval."""


@dataclass(frozen=True)
class Band:
    """When something happens, ms since the epoch; None: it does not, in so many futures.

    Parameters
    ----------
    p10, p25, p50, p75, p90 : int or None
        In so many per cent of the futures it has happened by then.
    never : float
        Share of the futures in which it does not happen at all.
    """

    p10: int | None
    p25: int | None
    p50: int | None
    p75: int | None
    p90: int | None
    never: float


def band_of(times_ms: NDArray[np.int64]) -> Band | None:
    """The band of a moment in F futures, int64 [F]; None: it happens in none of them."""
    never = times_ms >= NEVER
    if never.all():
        return None
    ranked = np.sort(times_ms)
    at = [min(int(np.ceil(level * len(ranked))) - 1, len(ranked) - 1) for level in LEVELS]
    p10, p25, p50, p75, p90 = (None if ranked[k] >= NEVER else int(ranked[k]) for k in at)
    return Band(p10, p25, p50, p75, p90, float(never.mean()))


@dataclass(frozen=True)
class When:
    """When a job starts and ends.

    Parameters
    ----------
    job_id, state : str
    now_ms : int
        When it was asked.
    start, end : Band or None
        None: it runs already; or it does not happen in any future.
    by_estimates_ms : int or None
        When it would start if all worked as long as their users said, and nobody came: what Slurm
        tells. None: it does not wait, or would never.
    waits_for : mapping or None
        What binds it now (:class:`orchestrator.engine.binding.Binding`); None: it does not wait.
    rule : str
        Who was taken to be in charge.
    sources : Sources
        What futures were drawn from.
    not_modelled : tuple of str
        What the futures know nothing of.
    """

    job_id: str
    state: str
    now_ms: int
    start: Band | None
    end: Band | None
    by_estimates_ms: int | None
    waits_for: Mapping[str, Any] | None
    rule: str
    sources: Sources
    not_modelled: tuple[str, ...]


@dataclass(frozen=True)
class Holder:
    """Who holds what a job waits for.

    Parameters
    ----------
    job_id, tenant, priority : str
    units : float
        GPUs, or cores, on nodes that would suit the job.
    expected_end_ms : int
        By its estimate.
    preemptible : bool
    """

    job_id: str
    tenant: str
    priority: str
    units: float
    expected_end_ms: int
    preemptible: bool


@dataclass(frozen=True)
class Change:
    """A change that would start a job at once: it was made in a copy, and the job started.

    Parameters
    ----------
    what : str
        ``workers``, ``gpu_models``, ``topology``, ``priority``, ``moves``, ``tenant``, ``quota``
        or ``nodes``.
    to : Any
        What it has to be.
    text : str
        In words.
    by : str
        Who can do it: ``user``, by submitting the job anew, or ``operator``.
    starts_after_ms : int
        Until whom it displaces is saved; 0: nobody is displaced.
    displaces : tuple of str
        Jobs that are preempted for it.
    costs_gpu_s : float
        What moves cost: GPUs, or cores, that stand still while their jobs are saved and started
        again, times seconds.
    """

    what: str
    to: Any
    text: str
    by: str
    starts_after_ms: int = 0
    displaces: tuple[str, ...] = ()
    costs_gpu_s: float = 0.0


@dataclass(frozen=True)
class Why:
    """Why a job waits.

    Parameters
    ----------
    job_id, state : str
    now_ms : int
    waits_for : mapping
        What binds it; see :class:`orchestrator.engine.binding.Binding`.
    held_by : tuple of Holder
        Who holds what it needs, who is expected to end first before the others.
    preempted : mapping or None
        The note of its last preemption: when, why, and for whom; None: it was not preempted.
    changes : tuple of Change
        The smallest change of each kind that would start it at once.
    tried : int
        How many were tried.
    rule : str
        Who was taken to be in charge.
    """

    job_id: str
    state: str
    now_ms: int
    waits_for: Mapping[str, Any]
    held_by: tuple[Holder, ...]
    preempted: Mapping[str, Any] | None
    changes: tuple[Change, ...]
    tried: int
    rule: str


@dataclass(frozen=True)
class Difference:
    """How much later something is with a change than without: below 0 it is sooner.

    Parameters
    ----------
    before, after : float
        Means over the futures.
    mean : float
        Of the differences, future by future.
    low, high : float
        Bounds of 80 % of them.
    """

    before: float
    after: float
    mean: float
    low: float
    high: float


def difference_of(before: NDArray[np.float64], after: NDArray[np.float64]) -> Difference | None:
    """Of F pairs, float64 [F]; None: not a single pair is finite."""
    pairs = np.isfinite(before) & np.isfinite(after)
    if not pairs.any():
        return None
    apart = after[pairs] - before[pairs]
    low, high = np.quantile(apart, (LEVELS[0], LEVELS[-1])).tolist()
    means = float(before[pairs].mean()), float(after[pairs].mean()), float(apart.mean())
    return Difference(*means, low, high)


@dataclass(frozen=True)
class Course:
    """How something goes on: quantiles over the futures at each of some moments."""

    p10: tuple[float, ...]
    p50: tuple[float, ...]
    p90: tuple[float, ...]


@dataclass(frozen=True)
class Courses:
    """How the queue and the use of the cluster go on, as they are and with a change.

    Parameters
    ----------
    times_ms : tuple of int
        The moments, from now until nine of ten of the jobs that are here have ended, but not beyond
        the time for which others come.
    unit : str
        ``gpu`` or ``cpu``: what is in use.
    waiting, waiting_after : Course
        How many jobs wait, those who come included.
    in_use, in_use_after : Course
        GPUs, or cores, that are held; a job that is resized in a future holds as much as it does on
        average.
    """

    times_ms: tuple[int, ...]
    unit: str
    waiting: Course
    waiting_after: Course
    in_use: Course
    in_use_after: Course


def courses_of(before: Played, after: Played, times_ms: NDArray[np.int64], unit: str) -> Courses:
    """Of futures whose tracks are known, at some moments."""
    waiting, in_use = (
        [
            _course([_at(track, what, times_ms) / scale for track in one.tracks])
            for one in (before, after)
        ]
        for what, scale in (("waiting", 1), ("units", 1000))
    )
    return Courses(tuple(times_ms.tolist()), unit, *waiting, *in_use)


def _at(track: NDArray[np.void], what: str, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a track says of some moments."""
    known = np.concatenate([[0.0], track[what]])
    return np.asarray(known[np.searchsorted(track["time_ms"], times, side="right")])


def _course(futures: list[NDArray[np.float64]]) -> Course:
    levels = (LEVELS[0], LEVELS[2], LEVELS[-1])
    told = np.quantile(futures, levels, axis=0, method="inverted_cdf").round(3) + 0.0
    return Course(*(tuple(line) for line in told.tolist()))


@dataclass(frozen=True)
class WhatIf:
    """What a change would do: on the same futures with and without it.

    Parameters
    ----------
    now_ms : int
    change : str
        In words.
    jobs : mapping of str to Difference
        Hours until the job's end, of those who are here; the ones that change most.
    tenants : mapping of str to Difference
        Mean hours until the end of their jobs that are here.
    total : Difference or None
        The same of all that are here.
    others : Difference or None
        Mean hours that those wait who are still to come; None: nobody comes.
    new_job : When or None
        Of a job that is submitted: when it starts and ends.
    courses : Courses or None
        How the queue and the use go on; None: nobody ends in any future, or it is not known.
    rule : str
        Who is in charge with the change.
    sources : Sources
    not_modelled : tuple of str
    """

    now_ms: int
    change: str
    jobs: Mapping[str, Difference] = field(default_factory=dict)
    tenants: Mapping[str, Difference] = field(default_factory=dict)
    total: Difference | None = None
    others: Difference | None = None
    new_job: When | None = None
    courses: Courses | None = None
    rule: str = ""
    sources: Sources | None = None
    not_modelled: tuple[str, ...] = ()


def plain(answer: Any) -> Any:
    """An answer, or a part of one, as plain data: dicts, lists, numbers and texts."""
    if is_dataclass(answer) and not isinstance(answer, type):
        return {one.name: plain(getattr(answer, one.name)) for one in fields(answer)}
    if isinstance(answer, Mapping):
        return {str(name): plain(value) for name, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [plain(one) for one in answer]
    if isinstance(answer, np.integer | np.floating | np.bool_):
        return answer.item()
    return answer
