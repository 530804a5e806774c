"""Answers of the twin scored: coverage by horizon, pinball loss, errors beside Slurm's; signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.backtest.changes import Told
from orchestrator.kernels.state.codes import NEVER
from orchestrator.twin.answers import LEVELS

__all__ = [
    "HORIZONS",
    "DifferenceScore",
    "Score",
    "calibration",
    "of_horizon",
    "score",
    "score_differences",
    "scores",
]


_HOUR_MS, _MINUTE_H = 3_600_000.0, 1 / 60
_LOW, _MIDDLE, _HIGH = 0, LEVELS.index(0.5), len(LEVELS) - 1
_RESAMPLES = 500
_LONGEST_H = 24.0 * 365  # what never happens counts as so far away


HORIZONS: Mapping[str, tuple[float, float]] = {
    "all": (0.0, np.inf),
    "at once": (0.0, _MINUTE_H),
    "later": (_MINUTE_H, np.inf),
    "1 min to 1 h": (_MINUTE_H, 1.0),
    "1 to 6 h": (1.0, 6.0),
    "6 to 24 h": (6.0, 24.0),
    "above 24 h": (24.0, np.inf),
}
"""Hours from the question to the median of the answer; whoever starts at once is no riddle."""


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


def of_horizon(answers: NDArray[np.void], horizon: str) -> NDArray[np.void]:
    """Those answers that look so far ahead; see :data:`HORIZONS`."""
    ahead = _hours(answers, answers["quantiles_ms"][:, _MIDDLE])
    least, below = HORIZONS[horizon]
    return answers[(ahead >= least) & (ahead < below)]


def scores(answers: NDArray[np.void]) -> dict[str, Score]:
    """Scores by horizon; those without an answer are left out."""
    parts = {name: of_horizon(answers, name) for name in HORIZONS}
    return {name: score(mine) for name, mine in parts.items() if len(mine)}


def calibration(answers: NDArray[np.void]) -> NDArray[np.float64]:
    """Of each level, the share of the answers whose truth is not later, float64 [levels]."""
    return np.asarray((answers["true_ms"][:, None] <= answers["quantiles_ms"]).mean(axis=0))


_NOTHING_H = 1e-9  # hours: below, rounding tells differences apart


@dataclass(frozen=True)
class DifferenceScore:
    """How good stated differences are.

    Parameters
    ----------
    answers, moments : int
        How many, and at how many moments.
    changed : int
        How many there is truly a difference in.
    signs : float
        Share of these whose sign was stated right.
    clear : int
        How many of these were stated as clear: 80 % of the futures say the same sign.
    clear_signs : float
        Share of the clear ones whose sign was right.
    coverage, coverage_low, coverage_high : float
        Share of the 80 % intervals that hold the truth, and a 95 % interval of that (as of
        :class:`Score`).
    changed_coverage : float
        The same share where there is truly a difference.
    error_h, size_h : float
        Median error of the stated mean, and median size of what is true, where there is truly a
        difference, hours.
    """

    answers: int
    moments: int
    changed: int
    signs: float
    clear: int
    clear_signs: float
    coverage: float
    coverage_low: float
    coverage_high: float
    changed_coverage: float
    error_h: float
    size_h: float


def score_differences(told: Sequence[Told]) -> DifferenceScore:
    """Score differences that there is at least one of."""
    mean, low, high, true = (
        np.array(values)
        for values in zip(
            *((o.told.mean, o.told.low, o.told.high, o.true) for o in told), strict=True
        )
    )
    moments = np.array([one.moment for one in told])
    held = (true >= low - _NOTHING_H) & (true <= high + _NOTHING_H)
    changed = np.abs(true) > _NOTHING_H
    clear = changed & ((low > _NOTHING_H) | (high < -_NOTHING_H))
    right = np.sign(mean) == np.sign(true)
    below, above = _bootstrap(held, moments)
    return DifferenceScore(
        answers=len(told),
        moments=len(np.unique(moments)),
        changed=int(changed.sum()),
        signs=_share(right[changed]),
        clear=int(clear.sum()),
        clear_signs=_share(right[clear]),
        coverage=float(held.mean()),
        coverage_low=below,
        coverage_high=above,
        changed_coverage=_share(held[changed]),
        error_h=_middle(np.abs(mean - true)[changed]),
        size_h=_middle(np.abs(true)[changed]),
    )


def _share(of: NDArray[np.bool_]) -> float:
    return float(of.mean()) if len(of) else float("nan")


def _middle(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
