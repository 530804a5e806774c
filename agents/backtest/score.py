"""Answers of the twin scored: coverage by horizon, pinball loss, and errors beside Slurm's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import NEVER
from orchestrator.twin.answers import LEVELS

__all__ = ["HORIZONS", "Score", "calibration", "score", "scores"]


_HOUR_MS = 3_600_000.0
_LOW, _MIDDLE, _HIGH = 0, LEVELS.index(0.5), len(LEVELS) - 1
_RESAMPLES = 500
_LONGEST_H = 24.0 * 365  # what never happens counts as so far away


HORIZONS: Mapping[str, tuple[float, float]] = {
    "all": (0.0, np.inf),
    "below 1 h": (0.0, 1.0),
    "1 to 6 h": (1.0, 6.0),
    "6 to 24 h": (6.0, 24.0),
    "above 24 h": (24.0, np.inf),
}
"""Hours from the question to the median of the answer."""


@dataclass(frozen=True)
class Score:
    """How good answers are.

    Parameters
    ----------
    answers, moments : int
        How many, and at how many moments.
    coverage, coverage_low, coverage_high : float
        Share of the 80 % intervals that hold the truth, and a 95 % interval of that: a bootstrap
        of the moments, whose answers go together.
    pinball_h : float
        Mean over quantiles of the pinball loss, hours (Koenker and Bassett, Econometrica, 1978).
    error_h : float
        Median of the absolute error of the answers' medians, hours.
    reserved_error_h : float
        The same of what Slurm tells; NaN: it tells nothing.
    width_h : float
        Median width of the 80 % interval, hours.
    """

    answers: int
    moments: int
    coverage: float
    coverage_low: float
    coverage_high: float
    pinball_h: float
    error_h: float
    reserved_error_h: float
    width_h: float


def _hours(answers: NDArray[np.void], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hours from the question on."""
    now = answers["now_ms"] if times.ndim == 1 else answers["now_ms"][:, None]
    found = np.where(times >= NEVER, _LONGEST_H, (times - now) / _HOUR_MS)
    return np.asarray(np.minimum(found, _LONGEST_H))


def covered(answers: NDArray[np.void]) -> NDArray[np.bool_]:
    """Whether the 80 % interval holds the truth, bool [answers]."""
    bounds, true = answers["quantiles_ms"], answers["true_ms"]
    return np.asarray((true >= bounds[:, _LOW]) & (true <= bounds[:, _HIGH]))


def score(answers: NDArray[np.void]) -> Score:
    """Score answers that there are at least one of, ANSWER_DTYPE [n]."""
    true, told = _hours(answers, answers["true_ms"]), _hours(answers, answers["quantiles_ms"])
    below = true[:, None] - told
    levels = np.array(LEVELS)
    pinball = np.maximum(levels * below, (levels - 1.0) * below).mean()
    reserved = answers["reserved_ms"]
    known = reserved < NEVER
    errors = np.abs(_hours(answers, reserved) - true)[known]
    held = covered(answers)
    low, high = _bootstrap(held, answers["moment"])
    return Score(
        answers=len(answers),
        moments=len(np.unique(answers["moment"])),
        coverage=float(held.mean()),
        coverage_low=low,
        coverage_high=high,
        pinball_h=float(pinball),
        error_h=float(np.median(np.abs(below[:, _MIDDLE]))),
        reserved_error_h=float(np.median(errors)) if known.any() else float("nan"),
        width_h=float(np.median(told[:, _HIGH] - told[:, _LOW])),
    )


def _bootstrap(held: NDArray[np.bool_], moments: NDArray[np.int64]) -> tuple[float, float]:
    """A 95 % interval of the mean, resampling whole moments."""
    _, which = np.unique(moments, return_inverse=True)
    counts = np.bincount(which).astype(float)
    hits = np.bincount(which, held.astype(float))
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(counts), size=(_RESAMPLES, len(counts)))
    means = hits[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return low, high


def scores(answers: NDArray[np.void]) -> dict[str, Score]:
    """Scores by horizon; those without an answer are left out."""
    ahead = _hours(answers, answers["quantiles_ms"][:, _MIDDLE])
    found = dict[str, Score]()
    for name, (least, below) in HORIZONS.items():
        mine = answers[(ahead >= least) & (ahead < below)]
        if len(mine):
            found[name] = score(mine)
    return found


def calibration(answers: NDArray[np.void]) -> NDArray[np.float64]:
    """Of each level, the share of the answers whose truth is not later, float64 [levels]."""
    return np.asarray((answers["true_ms"][:, None] <= answers["quantiles_ms"]).mean(axis=0))
