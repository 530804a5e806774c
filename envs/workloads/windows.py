"""Windows of a trace for training, validation and test that never share a job between parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from orchestrator.errors import ConfigurationError

__all__ = ["Part", "WindowSplit"]

Part = Literal["train", "validation", "test"]
_PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class WindowSplit:
    """Split the jobs of a trace into three contiguous regions, and choose windows inside them.

    A window is a number of consecutive jobs. It lies wholly inside the region of its part and
    touches no excluded interval, so windows of different parts never overlap. The split depends
    on nothing but the numbers given here.

    Parameters
    ----------
    jobs : int
        Jobs of the trace.
    train, validation, test : float, optional
        Fractions of the jobs, in this order along the trace; they sum to 1.
    exclude : tuple of (int, int), optional
        Intervals [start, stop) of jobs that no window may touch, for example sequences that
        results are published for.

    Raises
    ------
    ConfigurationError
        When the numbers do not make sense.
    """

    jobs: int
    train: float = 0.6
    validation: float = 0.2
    test: float = 0.2
    exclude: tuple[tuple[int, int], ...] = field(default=())

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_whole("WindowSplit: 'jobs'", self.jobs, 1)
        for part in _PARTS:
            check_finite(f"WindowSplit: '{part}'", getattr(self, part), 0, 1)
        total = math.fsum((self.train, self.validation, self.test))
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ConfigurationError(
                f"WindowSplit: train + validation + test is {total:g}; make them sum to 1"
            )
        # Configurations hold lists; equal splits should be equal (and hashable) all the same.
        for edge in (edge for interval in self.exclude for edge in interval):
            check_whole("WindowSplit: an edge in 'exclude'", edge)
        intervals = tuple((int(start), int(stop)) for start, stop in self.exclude)
        object.__setattr__(self, "exclude", intervals)
        for start, stop in intervals:
            if not 0 <= start < stop <= self.jobs:
                raise ConfigurationError(
                    f"WindowSplit: 'exclude' holds [{start}, {stop}); "
                    f"give intervals within the {self.jobs} jobs"
                )

    def region(self, part: str) -> tuple[int, int]:
        """First job of a part's region, and the job after its last.

        Parameters
        ----------
        part : {"train", "validation", "test"}
            The part.

        Returns
        -------
        tuple of two ints
        """
        first = round(self.jobs * self.train)
        # Not the sum of rounded lengths: an empty last part must be empty whatever the rounding.
        second = max(first, round(self.jobs * (self.train + self.validation)))
        edges = (0, first, second, self.jobs)
        at = _index(part)
        return edges[at], edges[at + 1]

    def admissible(self, part: str, length: int) -> NDArray[np.int64]:
        """Every job at which a window of a part may start.

        Parameters
        ----------
        part : {"train", "validation", "test"}
            The part.
        length : int
            Jobs of a window.

        Returns
        -------
        ndarray of int64
            In ascending order.

        Raises
        ------
        ConfigurationError
            When there is none.
        """
        check_whole("windows: the length", length, 1)
        low, high = self.region(part)
        if high - low < length:
            raise ConfigurationError(
                f"windows: the {part} part has {high - low} of the trace's {self.jobs} jobs, less "
                f"than a window of {length}; shorten the windows or give the part a larger share"
            )
        free = np.ones(high - low - length + 1, np.bool_)
        for start, stop in self.exclude:
            # A window from s touches the interval when s < stop and s + length > start.
            free[max(start - length + 1 - low, 0) : max(stop - low, 0)] = False
        starts = np.flatnonzero(free) + low
        if len(starts) == 0:
            raise ConfigurationError(
                f"windows: every window of {length} jobs of the {part} part touches an excluded "
                f"interval; shorten the windows or exclude less"
            )
        return starts.astype(np.int64)

    def starts(self, part: str, count: int, length: int, seed: int) -> NDArray[np.int64]:
        """Draw windows of a part.

        Parameters
        ----------
        part : {"train", "validation", "test"}
            The part.
        count : int
            Windows wanted.
        length : int
            Jobs of a window.
        seed : int
            Not negative; the same arguments give the same windows, and a larger `count` only
            adds windows at the end.

        Returns
        -------
        ndarray of int64, shape [count]
            First job of each window. No start comes twice before every possible one has come
            once. Windows of the same part may overlap.
        """
        check_whole("windows: the count", count, 0)
        check_whole("windows: the seed", seed, 0)
        possible = self.admissible(part, length)
        entropy = np.random.SeedSequence([seed, _index(part), length])
        rng = np.random.Generator(np.random.Philox(entropy))
        rounds = [rng.permutation(possible) for _ in range(-(-count // len(possible)))]
        return np.concatenate([*rounds, possible[:0]])[:count]


def _index(part: str) -> int:
    if part not in _PARTS:
        raise ConfigurationError(f"windows: unknown part {part!r}; use one of {list(_PARTS)}")
    return _PARTS.index(part)
